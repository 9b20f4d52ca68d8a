"""Fast weights that gradient steps write (TTT-E2E): prime MLPs and the steps."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sleep_jax import flops, sleep
from sleep_jax.config import SleepConfig
from sleep_jax.errors import UserError
from sleep_jax.model import decoder
from sleep_jax.model.config import PrimeMLPConfig
from sleep_jax.session import Session
from sleep_jax.tasks.rule110 import Rule110Config
from sleep_jax.training.optimizer import labels
from sleep_jax.training.step import Program, make_wake_step
from sleep_jax.ttt_e2e import descend
from tests import tiny
from tests.test_flops import compiled_flops, compiled_update_flops

MODEL = dataclasses.replace(
    tiny.MODEL,
    pattern=("attention", "prime_mlp", "attention", "prime_mlp"),
    prime_mlp=PrimeMLPConfig(hidden=8),
)
BATCH, L = 3, 6
NAMES = ("block_01_prime_mlp", "block_03_prime_mlp")


def run_config(passes=2):
    return dataclasses.replace(tiny.run_config(passes=passes), model=MODEL)


@pytest.fixture(scope="module")
def params():
    return jax.jit(functools.partial(decoder.init, MODEL))(jax.random.key(0))


@pytest.fixture(scope="module")
def windows():
    return jax.random.randint(jax.random.key(1), (BATCH, 2, L), 0, 3)


def read(params, windows, model=MODEL):
    loop = SleepConfig(passes=2, remat="none")
    fast = decoder.initial_fast_weights(model, len(windows))
    return sleep.read(sleep.bind(model, params), windows, fast, loop)


def moved(params, fast, row):
    """The parameters with what one sequence has changed added to W0."""
    params = jax.tree.map(lambda x: x, params)
    for name in NAMES:
        for matrix in ("gate", "up", "down"):
            params[name]["mixer"][matrix] = params[name]["mixer"][matrix] + fast[name][matrix][row]
    return params


def test_steps_against_plain_descent_on_a_copy_of_the_weights(params, windows):
    """One sequence at a time: parameters themselves move, nothing is a displacement or a batch."""
    zeros = decoder.initial_fast_weights(MODEL, 1)

    def loss(mine, params, tokens):
        for name in NAMES:
            params = {**params, name: {**params[name], "mixer": mine[name]}}
        h, _ = decoder.blocks(MODEL, params, decoder.embed(MODEL, params, tokens), zeros)
        log_p = jax.nn.log_softmax(decoder.unembed(MODEL, params, h))[0, :-1]
        return -jnp.mean(log_p[jnp.arange(L - 1), tokens[0, 1:]])

    got = jax.jit(read)(params, windows)
    gradient_of = jax.jit(jax.grad(loss))
    for row in range(BATCH):
        mine = {name: params[name]["mixer"] for name in NAMES}
        for tokens in windows[row]:
            for _ in range(2):
                gradient = gradient_of(mine, params, tokens[None])
                length = np.sqrt(sum(float(jnp.sum(g**2)) for g in jax.tree.leaves(gradient)))
                shrink = min(1.0, 1.0 / length)
                mine = jax.tree.map(lambda w, g, s=shrink: w - s * g, mine, gradient)
        for name in NAMES:
            for matrix, start in params[name]["mixer"].items():
                np.testing.assert_allclose(
                    got[name][matrix][row], mine[name][matrix] - start, rtol=1e-4, atol=1e-6
                )


def test_waking_is_the_model_with_the_moved_weights(params, windows):
    bound, fast = sleep.bind(MODEL, params), read(params, windows)
    logits, after = sleep.wake(bound, windows, fast)
    jax.tree.map(np.testing.assert_array_equal, after, fast)
    for row in range(BATCH):
        zeros = decoder.initial_fast_weights(MODEL, 1)
        alone = sleep.bind(MODEL, moved(params, fast, row))
        want, _ = sleep.wake(alone, windows[row : row + 1], zeros)
        np.testing.assert_allclose(logits[row : row + 1], want, rtol=1e-4, atol=1e-5)


def test_a_long_gradient_is_shortened_and_a_short_one_is_not():
    tokens = jnp.zeros((2, 3), jnp.int32)
    scale = jnp.array([1e-3, 1e3])

    def predict(fast):
        logits = jnp.stack([jnp.zeros(2), fast["w"] * scale], -1)  # its sign is wrong for token 0
        return jnp.broadcast_to(logits[:, None], (2, 3, 2))

    fast = {"w": jnp.zeros(2)}
    after = descend(predict, tokens, fast, 1, PrimeMLPConfig(learning_rate=0.5, clip_norm=0.1))
    np.testing.assert_allclose(after["w"], [-0.5 * 0.5e-3, -0.5 * 0.1], rtol=1e-5)


def test_a_gradient_of_zeros_moves_nothing_and_has_a_derivative():
    def moved_by(weight):
        after = descend(
            lambda fast: jnp.zeros((1, 3, 2)) * fast["w"],
            jnp.zeros((1, 3), jnp.int32),
            {"w": weight},
            1,
            PrimeMLPConfig(),
        )
        return after["w"][0]

    value, derivative = jax.value_and_grad(moved_by)(jnp.ones(1))
    np.testing.assert_array_equal([value, derivative[0]], [1.0, 1.0])


def test_the_gradient_through_the_steps_against_finite_differences(monkeypatch):
    """Float64: two windows, two steps each, and what is predicted then; along random directions."""
    monkeypatch.setattr(jax.nn, "dot_product_attention", tiny.float64_attention)
    with jax.enable_x64(True):
        double = functools.partial(jax.tree.map, lambda x: x.astype(jnp.float64))
        model = dataclasses.replace(MODEL, activation_dtype="float64")
        params = double(decoder.init(model, jax.random.key(3)))
        tokens = jax.random.randint(jax.random.key(4), (2, 3, 5), 0, 3)

        @jax.jit
        def loss(params):
            bound = sleep.bind(model, params)
            fast = double(decoder.initial_fast_weights(model, 2))
            fast = sleep.read(bound, tokens[:, :2], fast, SleepConfig(passes=2))
            return jnp.mean(jnp.sin(sleep.wake(bound, tokens[:, 2:], fast)[0]))

        gradient = jax.jit(jax.grad(loss))(params)
        for seed in range(3):
            keys = jax.random.split(jax.random.key(seed), len(jax.tree.leaves(params)))
            keys = jax.tree.unflatten(jax.tree.structure(params), list(keys))
            way = jax.tree.map(lambda k, x: jax.random.normal(k, x.shape, x.dtype), keys, params)
            ahead, behind = (
                loss(jax.tree.map(lambda x, d, s=s: x + s * d, params, way)) for s in (1e-7, -1e-7)
            )
            exact = sum(jax.tree.leaves(jax.tree.map(lambda g, d: jnp.sum(g * d), gradient, way)))
            np.testing.assert_allclose((ahead - behind) / 2e-7, exact, rtol=1e-6)


def test_first_order_steps_write_the_same_and_teach_no_writing(params, windows):
    first = dataclasses.replace(
        MODEL, prime_mlp=dataclasses.replace(MODEL.prime_mlp, second_order=False)
    )

    def written(params, model):
        return jnp.sum(read(params, windows, model=model)[NAMES[0]]["up"])

    both = jax.jit(jax.value_and_grad(written), static_argnums=1)
    (value, gradient), (same, nothing) = both(params, MODEL), both(params, first)
    np.testing.assert_allclose(value, same, rtol=1e-5)
    assert any(jnp.any(g != 0) for g in jax.tree.leaves(gradient))
    assert all(jnp.all(g == 0) for g in jax.tree.leaves(nothing))


def test_only_fast_weights_cross_a_window(params, windows):
    """A window decides the next only by what it wrote; sequences share nothing."""
    bound = sleep.bind(MODEL, params)
    other = windows.at[0, 0].set((windows[0, 0] + 1) % 3)
    fast, changed = read(params, windows[:, :1]), read(params, other[:, :1])
    assert jnp.any(fast[NAMES[0]]["up"][0] != changed[NAMES[0]]["up"][0])
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[1:], y[1:]), fast, changed)
    for tokens, left in ((windows, fast), (other, changed)):
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7),
            read(params, tokens),
            sleep.read(bound, windows[:, 1:], left, SleepConfig(passes=2, remat="none")),
        )


def test_rematerialisation_changes_nothing(params, windows):
    def loss(params, remat):
        loop = SleepConfig(passes=2, remat=remat)
        fast = decoder.initial_fast_weights(MODEL, BATCH)
        fast = sleep.read(sleep.bind(MODEL, params), windows, fast, loop)
        return sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(fast))

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    want = gradient(params, "none")
    for remat in ("pass", "window"):
        got = gradient(params, remat)
        for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            assert jnp.linalg.norm(x - y) <= 1e-5 * jnp.linalg.norm(y)


def test_waking_does_not_know_the_number_of_steps():
    """The lowered wake step is the same text for N = 1 and N = 6."""
    texts = []
    for passes in (1, 6):
        config = run_config(passes)
        program = Program.of(config, "cpu")
        params = jax.eval_shape(lambda: decoder.init(MODEL, jax.random.key(0)))
        fast = jax.eval_shape(lambda: decoder.initial_fast_weights(MODEL, BATCH))
        tokens = jax.ShapeDtypeStruct((BATCH, 1, 4), "int32")
        texts.append(make_wake_step(program).lower(params, tokens, fast).as_text())
    assert texts[0] == texts[1]


def test_a_session_steps_when_its_window_is_full(params, windows):
    """Token by token: the logits are those of `read` and `wake`."""
    model, loop = MODEL, SleepConfig(passes=2)
    session = Session(model, params, loop, L, batch=BATCH)
    tokens = np.asarray(windows).reshape(BATCH, -1)
    got = session.feed(np.concatenate([tokens, tokens[:, :2]], axis=1))
    want, _ = sleep.wake(sleep.bind(model, params), windows[:, :1, :2], read(params, windows))
    np.testing.assert_allclose(got, want[:, 0, -1], rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="sleep.cache='slide' is not possible; allowed: 'evict' wi"):
        Session(model, params, SleepConfig(cache="slide"), L)


def test_muon_has_the_matrices_of_the_prime_mlp(params):
    assert labels(params)["block_01_prime_mlp"]["mixer"] == dict.fromkeys(
        ("gate", "up", "down"), "muon"
    )


def test_the_cost_of_steps_against_the_compiler(monkeypatch):
    """Of reading and answering, and of a whole update; XLA counts the body of a loop once."""
    monkeypatch.setattr("sleep_jax.sleep.lax.scan", functools.partial(jax.lax.scan, unroll=True))
    wide = dataclasses.replace(
        MODEL,
        d_model=128,
        mlp_hidden=256,
        vocab_size=32,
        prime_mlp=PrimeMLPConfig(hidden=96),
    )
    task = Rule110Config(width=7, window=7, strings=2, rollout_steps=1)

    def counts(passes, second_order):
        prime = dataclasses.replace(wide.prime_mlp, second_order=second_order)
        config = dataclasses.replace(
            tiny.run_config(passes=passes, batch_size=1),
            task=task,
            model=dataclasses.replace(wide, prime_mlp=prime),
            sleep=SleepConfig(passes=passes, remat="none"),
        )
        ours = flops.forward_flops(config, passes), flops.training_flops_per_step(config)
        return *ours, compiled_flops(config), compiled_update_flops(config)

    one, two = counts(1, True), counts(2, True)
    assert 0.95 < one[0] / one[2] < 1.05
    assert 0.95 < (two[0] - one[0]) / (two[2] - one[2]) < 1.05
    assert 0.9 < one[1] / one[3] < 1.05
    assert 0.9 < (two[1] - one[1]) / (two[3] - one[3]) < 1.05
    first_order = counts(1, False)
    assert 0.9 < first_order[1] / first_order[3] < 1.05


@pytest.mark.parametrize(
    "change, words",
    [
        ({"sleep": SleepConfig(cache="slide")}, "sleep.cache='slide' is not possible"),
        ({"sleep": SleepConfig(passes=2, backward_passes=1)}, "sleep.backward_passes=1"),
        ({"sleep": SleepConfig(passes=2, carry="features")}, "sleep.carry='features'"),
        ({"model": dataclasses.replace(MODEL, looped=(1, 2))}, "model.looped=(1, 2)"),
        (
            {"model": dataclasses.replace(MODEL, pattern=("gated_delta_net", "prime_mlp"))},
            "model.pattern='gated_delta_net,prime_mlp'",
        ),
        (
            {"model": dataclasses.replace(MODEL, prime_mlp=PrimeMLPConfig(learning_rate=0.0))},
            "model.prime_mlp.learning_rate=0.0",
        ),
    ],
)
def test_what_gradient_steps_cannot_do_is_refused(change, words):
    with pytest.raises(UserError, match=words.replace("(", r"\(").replace(")", r"\)")):
        dataclasses.replace(run_config(), **change).validate()


def test_a_sequence_cannot_be_split_over_devices():
    with pytest.raises(UserError, match="--tensor=2 is not possible with prime_mlp"):
        decoder.shard(MODEL, 2)
