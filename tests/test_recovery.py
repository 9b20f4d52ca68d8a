"""Planes of recovery: held against SVD, powers of a matrix, least squares, and jax.grad."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import planes
from sleep_jax import distributed, recovery
from sleep_jax.config import RunConfig, SleepConfig, TrainConfig
from sleep_jax.model import decoder
from sleep_jax.tasks.recall import RecallConfig
from sleep_jax.trained import Trained
from sleep_jax.training.evaluation import evaluation_sequences
from sleep_jax.training.step import Program, predict, score
from tests import tiny

D, K = 40, 5
MATRIX = np.random.default_rng(0).standard_normal((D, D))
HESSIAN = MATRIX @ MATRIX.T / D + 0.1 * np.eye(D)
START = np.random.default_rng(1).standard_normal(D)


def by(*factors):
    """Batches that multiply the loss."""
    return [{"factor": jnp.float32(factor)} for factor in factors]


def quadratic(theta, batch):
    """Of 1/2 theta^T H theta, the batch a factor."""
    return batch["factor"] * (jnp.asarray(HESSIAN, jnp.float32) @ theta)


def quartic(theta, batch):
    """The same and 1/2 sum theta^4, whose Hessian at START is known too."""
    return quadratic(theta, batch) + batch["factor"] * 2 * theta**3


def powers(k, hessian=HESSIAN, gradient=None):
    found = [HESSIAN @ START if gradient is None else gradient]
    while len(found) < k:
        found.append(hessian @ found[-1])
    return np.linalg.qr(np.stack(found, 1))[0]


def test_top_directions_are_those_of_the_svd():
    samples = np.random.default_rng(2).standard_normal((12, D)) * np.geomspace(3, 0.1, 12)[:, None]
    right = np.linalg.svd(samples, full_matrices=False)[2]
    found = recovery.top(samples, K)
    np.testing.assert_allclose(found.T @ found, np.eye(K), atol=1e-12)
    for k in range(1, K + 1):  # the first j span those of the j largest
        assert recovery.overlap(found[:, :k], right[:k].T) == pytest.approx(1, abs=1e-9)


def test_a_krylov_basis_spans_powers_of_the_hessian_and_a_path_of_descent():
    theta = jnp.asarray(START, jnp.float32)
    found = recovery.krylov(quadratic, theta, by(1.0, 1.0), K)
    np.testing.assert_allclose(found.T @ found, np.eye(K), atol=1e-9)
    assert recovery.overlap(found, powers(K)) == pytest.approx(1, abs=1e-4)
    assert recovery.overlap(found, powers(K + 4)[:, 4:]) < 0.9  # not any powers
    hessian = HESSIAN + 6 * np.diag(START**2)
    curved = recovery.krylov(quartic, theta, by(1.0), K)
    expected = powers(K, hessian, HESSIAN @ START + 2 * START**3)
    assert recovery.overlap(curved, expected) == pytest.approx(1, abs=1e-4)
    path = recovery.train(quadratic, optax.sgd(0.2), theta, by(*[1.0] * K)).astype(np.float64)
    prefix = recovery.orthonormal(np.diff(path, axis=0).T)
    assert recovery.overlap(prefix, powers(K)) == pytest.approx(1, abs=1e-4)


def test_what_a_plane_captures_is_what_least_squares_fits():
    random = np.random.default_rng(3)
    directions, delta = random.standard_normal((D, K)), random.standard_normal(D)
    left = delta - directions @ np.linalg.lstsq(directions, delta, rcond=None)[0]
    expected = 1 - (left @ left) / (delta @ delta)
    plane = recovery.orthonormal(directions)
    assert recovery.captured(plane, delta) == pytest.approx(expected, abs=1e-12)
    assert recovery.captured(plane, plane[:, 2] * 7) == pytest.approx(1)
    other = np.eye(D)[:, :K]
    mixed = np.stack([other[:, 0], other[:, 1], *np.eye(D)[:, 20:23].T], 1)
    assert recovery.overlap(other, mixed) == pytest.approx(2 / K)


def test_the_spectrum_of_gradients():
    gradients = np.zeros((3, D))
    gradients[0, :2], gradients[1, :2], gradients[2, 2] = (3, 0), (3, 0), 1  # s^2: 18, 1, 0
    found = recovery.spectrum(gradients, 1)
    assert found.energy == pytest.approx(18 / 19) and found.of_any == pytest.approx(9 / 19)
    assert found.stable_rank == pytest.approx(19 / 18)
    assert found.participation == pytest.approx(19**2 / (18**2 + 1))


@pytest.mark.parametrize("k", [3, D])
def test_training_in_a_plane_is_descent_on_the_projected_gradient(k):
    random = np.random.default_rng(4)
    plane = recovery.orthonormal(random.standard_normal((D, k)))
    theta, factors = START.copy(), (1.0, 0.5, 2.0)
    for factor in factors:
        theta -= 0.1 * plane @ (plane.T @ (factor * HESSIAN @ theta))
    given = (quadratic, optax.sgd(0.1), jnp.asarray(START, jnp.float32), by(*factors))
    path = recovery.train(*given, plane)
    assert path.shape == (4, D)
    np.testing.assert_allclose(path[-1], theta, atol=1e-5)
    if k == D:  # all directions
        np.testing.assert_allclose(path, recovery.train(*given), atol=1e-5)


TASK = RecallConfig(("recall", "chain"), pairs=4, keys=6, values=4, questions=4, window=4)
CONFIG = RunConfig(
    model=dataclasses.replace(tiny.MODEL, vocab_size=TASK.vocab_size),
    sleep=SleepConfig(passes=2),
    task=TASK,
    train=TrainConfig(batch_size=4, accumulate=2, tokens=10_000, evaluation_sequences=20),
)


def trained(seed, **task):
    config = dataclasses.replace(CONFIG, task=dataclasses.replace(TASK, **task))
    program = Program.of(config, "cpu")
    params = decoder.init(config.model, jax.random.key(seed))
    return Trained(config, program, 0, params, distributed.make_mesh(devices=jax.devices()[:1]))


BEFORE, AFTER = trained(0), trained(1, skills=("chain",), factor=3)
MEASURING = planes.Measuring(steps=32, gradients=30)


@pytest.fixture(scope="module")
def model():
    return planes._Model(BEFORE, AFTER, MEASURING)


def test_gradients_and_scores_are_those_of_the_model(model):
    flat = recovery.flat(AFTER.params)
    batch = model.batches(1, 1)[0]

    def loss(params):
        sums = score(predict(AFTER.program.model, AFTER.program.sleep, params, batch), batch)
        return sums["loss"].sum() / sums["labels"].sum()

    expected = recovery.flat(jax.jit(jax.grad(loss))(AFTER.params)).theta
    np.testing.assert_allclose(model.gradient(flat.theta, batch), expected, atol=2e-6)
    at_unembedding = recovery.flat(
        jax.tree.map(jnp.zeros_like, AFTER.params)
        | {"unembedding": jnp.ones_like(AFTER.params["unembedding"])}
    ).theta
    np.testing.assert_array_equal(at_unembedding == 1, flat.paths == "unembedding")
    recall = dataclasses.replace(CONFIG, task=dataclasses.replace(TASK, skills=("recall",)))
    scores = AFTER.evaluate(evaluation_sequences(recall, 20))
    for name, value in model.scores(model.theta).items():
        assert value == pytest.approx(scores[name], abs=1e-5), name


def test_sets_of_sequences_are_apart_from_each_other_and_of_recall(model):
    one, same, other = (model.batches(number, 2) for number in (1, 1, 2))
    markers = {int(marker) for batch in one for marker in np.asarray(batch["tokens"])[:, 0, 0]}
    assert markers == {TASK.values + TASK.keys}  # recall
    chains = model.batches(1, 1, AFTER.config)[0]["tokens"]
    assert int(chains[0, 0, 0]) == TASK.values + TASK.keys + 1
    for a, b, c in zip(one, same, other, strict=True):
        np.testing.assert_array_equal(a["context"], b["context"])
        assert not np.array_equal(a["context"], c["context"])
    assert not np.array_equal(one[0]["context"], one[1]["context"])


def test_a_recovery_is_what_its_path_says(model):
    found = planes._recovery(
        model,
        planes._start(model, planes.FINE_TUNING, model.theta),
        planes.ADAM,
        {10: (planes.PREFIX,)},
    )
    path = model.recover(model.theta, planes.ADAM)
    delta = path[-1] - path[0]
    assert found["displacement"] == pytest.approx(np.linalg.norm(delta))
    assert found["of_first"][10] == pytest.approx(np.linalg.norm(path[10] - path[0]))
    star = np.asarray(model.star, np.float64) - path[0]
    cosine = star @ delta / np.linalg.norm(star) / np.linalg.norm(delta)
    assert found["back"] == pytest.approx(cosine)
    updates = np.diff(path, axis=0)[:10].T
    for name, moved in (("captured", delta), ("held_out", path[-1] - path[10])):
        left = moved - updates @ np.linalg.lstsq(updates, moved, rcond=None)[0]
        expected = 1 - (left @ left) / (moved @ moved)
        assert found[name][planes.PREFIX][10] == pytest.approx(expected, abs=1e-6)
    here = model.gradients(model.theta, 1)
    right = np.linalg.svd(here, full_matrices=False)[2]
    before = np.linalg.svd(model.gradients(model.star, 3), full_matrices=False)[2]
    other = np.linalg.svd(model.gradients(path[0], 3, AFTER.config), full_matrices=False)[2]
    for name, vectors in ((planes.LOCAL, right), (planes.STATIC, before), (planes.OTHER, other)):
        expected = np.sum((vectors[:3] @ delta) ** 2) / np.sum(delta**2)
        assert found["captured"][name][3] == pytest.approx(expected, abs=1e-9), name
    assert set(found["captured"][planes.BACK]) == {1}
    assert set(found["captured"][planes.KRYLOV]) == {1, 3, 10}
    assert found["captured"][planes.BACK][1] == pytest.approx(cosine**2)
    assert found["captured"][planes.RANDOM][30] < 0.1  # 30 of 2 thousand
    assert found["lost"] == model.scores(model.theta)
    assert found["before"] == model.scores(model.star)
    ended = found["within"][planes.PREFIX][10]
    in_plane = model.recover(model.theta, planes.ADAM, recovery.orthonormal(updates))
    first = np.linalg.norm(in_plane[1] - in_plane[0])  # Adam's first: the rate, in every coordinate
    assert first == pytest.approx(found["of_first"][1], rel=0.1)
    again = in_plane[-1]
    assert ended == model.scores(jnp.asarray(again, jnp.float32)) != found["lost"]
    span = np.linalg.lstsq(updates, again - path[0], rcond=None)[0]
    np.testing.assert_allclose(updates @ span, again - path[0], atol=1e-4)
    assert found["tokens"] == 32 * 4 * (8 + 8)


def test_overlaps_of_parts(model):
    found = planes._recovery(model, planes._start(model, planes.NOISE, model.theta), planes.SGD)
    assert found["within"] == {} and found["marks"] == [0, 10, 30, 32]
    whole = found["parts"][planes.ALL]
    assert whole["share"] == 1 and whole["dimensions"] == model.theta.size
    shares = [found["parts"][name]["share"] for name in ("attention", "fast weights", "MLPs")]
    assert 0.5 < sum(shares) + found["parts"]["embeddings"]["share"] < 1  # norms are left
    path = model.recover(model.theta, planes.SGD)
    mask = np.char.find(model.paths, "attention/mixer/") > 0
    sets = [
        np.linalg.svd(model.gradients(path[t], number)[:, mask], full_matrices=False)[2]
        for t, number in ((0, 1), (10, 2))
    ]
    expected = np.sum((sets[0][:10] @ sets[1][:10].T) ** 2) / 10
    part = found["parts"]["attention"]
    assert part["dimensions"] == mask.sum()
    assert part["overlap"][10][0][1] == pytest.approx(expected, abs=1e-6)
    assert whole["overlap"][10][0][0] > whole["overlap"][10][0][3]


def test_noise_is_as_long_as_what_fine_tuning_moved(monkeypatch):
    seen = []
    monkeypatch.setattr(planes, "_start", lambda model, *where: where)
    monkeypatch.setattr(
        planes,
        "_recovery",
        lambda model, start, *how: seen.append((model, (*start, *how))),
    )
    planes.measured(BEFORE, AFTER, MEASURING)
    (model, adam), (_, sgd), (_, noise) = seen
    assert adam[:1] + adam[2:] == (planes.FINE_TUNING, planes.ADAM, planes.TRAINED_IN)
    assert sgd[2:] == (planes.SGD,) and noise[0] == planes.NOISE and noise[2:] == (planes.ADAM,)
    np.testing.assert_array_equal(adam[1], model.theta)
    moved = [np.linalg.norm(theta - model.star) for theta in (model.theta, noise[1])]
    assert moved[1] == pytest.approx(moved[0], rel=1e-5)
    assert abs(np.dot(noise[1] - model.star, model.theta - model.star)) < 0.1 * moved[0] ** 2


def test_updates_in_a_plane_are_as_long():
    plane = recovery.orthonormal(np.random.default_rng(5).standard_normal((D, 4)))
    longer = float(np.sqrt(D / 4))
    rules = MEASURING.optimizer(planes.ADAM), MEASURING.optimizer(planes.ADAM, longer)
    theta = jnp.asarray(START, jnp.float32)
    free, within = (
        recovery.train(quadratic, rule, theta, by(1.0), among)
        for rule, among in ((rules[0], None), (rules[1], plane))
    )
    lengths = [np.linalg.norm(path[1] - path[0]) for path in (free, within)]
    assert lengths[1] == pytest.approx(lengths[0], rel=1e-3)
