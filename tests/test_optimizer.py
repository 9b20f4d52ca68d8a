"""Which parameter is trained by what, and that both optimizers are what they are called."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chex import assert_trees_all_close
from optax import contrib

from sleep_jax.config import OptimizerConfig
from sleep_jax.model import decoder
from sleep_jax.training import muon
from sleep_jax.training.optimizer import (
    labels,
    optimizer,
    orthogonalisation_flops,
    path_name,
    schedule,
)
from tests import tiny

EXPECTED = {
    "embedding": "adamw",
    "unembedding": "adamw",
    "final_norm/scale": "adamw",
    "block_00_attention/mixer_norm/scale": "adamw",
    "block_00_attention/mlp_norm/scale": "adamw",
    "block_00_attention/mixer/in/query": "muon",
    "block_00_attention/mixer/in/key": "muon",
    "block_00_attention/mixer/in/value": "muon",
    "block_00_attention/mixer/out/output": "muon",
    "block_00_attention/mlp/in/gate": "muon",
    "block_00_attention/mlp/in/up": "muon",
    "block_00_attention/mlp/out/down": "muon",
    "block_01_gated_delta_net/mixer_norm/scale": "adamw",
    "block_01_gated_delta_net/mlp_norm/scale": "adamw",
    "block_01_gated_delta_net/mixer/in/query": "muon",
    "block_01_gated_delta_net/mixer/in/key": "muon",
    "block_01_gated_delta_net/mixer/in/value": "muon",
    "block_01_gated_delta_net/mixer/in/gate": "muon",
    "block_01_gated_delta_net/mixer/in/alpha": "adamw",
    "block_01_gated_delta_net/mixer/in/beta": "adamw",
    "block_01_gated_delta_net/mixer/query_convolution/kernel": "adamw",
    "block_01_gated_delta_net/mixer/key_convolution/kernel": "adamw",
    "block_01_gated_delta_net/mixer/value_convolution/kernel": "adamw",
    "block_01_gated_delta_net/mixer/decay/A_log": "adamw",
    "block_01_gated_delta_net/mixer/decay/dt_bias": "adamw",
    "block_01_gated_delta_net/mixer/norm_scale": "adamw",
    "block_01_gated_delta_net/mixer/out/output": "muon",
    "block_01_gated_delta_net/mlp/in/gate": "muon",
    "block_01_gated_delta_net/mlp/in/up": "muon",
    "block_01_gated_delta_net/mlp/out/down": "muon",
}
RATES = OptimizerConfig(muon_learning_rate=0.5, adamw_learning_rate=0.25, clip_norm=1e9)


@pytest.fixture(scope="module")
def params():
    return jax.jit(functools.partial(decoder.init, tiny.MODEL))(jax.random.key(0))


def by_path(tree):
    return {path_name(path): x for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]}


def test_the_label_of_every_parameter(params):
    assert by_path(labels(params)) == EXPECTED


KDA = {"in/decay": "muon", "decay/up": "muon"}  # matrices, where alpha is a column a head
JET = {
    "in/generator": "muon",
    "value_convolution/kernels": "muon",
    "value_convolution/bias": "adamw",
}
CONVOLUTIONS = tuple(f"{name}_convolution/kernel" for name in ("query", "key", "value"))


@pytest.mark.parametrize(
    "rule, without, added",
    [
        ("hebbian", (), {}),
        ("gated_delta_negative", (), {}),
        ("delta", ("in/alpha", "decay/A_log", "decay/dt_bias"), {}),
        ("kda", ("in/alpha",), KDA),
        ("jet", CONVOLUTIONS, JET),
    ],
)
def test_the_labels_of_other_rules(rule, without, added):
    mixer = "block_01_gated_delta_net/mixer/"
    expected = {k: x for k, x in EXPECTED.items() if k.removeprefix(mixer) not in without}
    expected |= {mixer + name: label for name, label in added.items()}
    model = tiny.with_rule(tiny.MODEL, rule)
    shapes = jax.eval_shape(functools.partial(decoder.init, model), jax.random.key(0))
    assert by_path(labels(shapes)) == expected


def test_first_updates(params):
    """Muon's update is near-orthogonal times its rate; AdamW's first one is its rate, no NAdam."""
    keys = iter(jax.random.split(jax.random.key(1), 100))
    gradient = jax.tree.map(lambda p: jax.random.normal(next(keys), p.shape), params)
    transformation = optimizer(RATES)
    updates, _ = transformation.update(gradient, transformation.init(params), params)
    for path, update in by_path(updates).items():
        if EXPECTED[path] == "adamw":
            sign = jnp.sign(by_path(gradient)[path])
            np.testing.assert_allclose(update, -0.25 * sign, rtol=1e-3, err_msg=path)
        else:
            rows, columns = update.shape
            scale = 0.5 * max(1.0, columns / rows) ** 0.5
            singular = np.linalg.svd(np.asarray(update), compute_uv=False) / scale
            assert 0.6 < singular.min() and singular.max() < 1.2, (path, singular)
            assert float(jnp.vdot(update, by_path(gradient)[path])) < 0, path


@pytest.mark.parametrize("at_once", [1, 50, 2**24])
def test_matrices_in_stacks_move_as_optax_moves_them_one_by_one(monkeypatch, at_once):
    monkeypatch.setattr(muon, "STACK", at_once)
    shapes = {"a": (6, 4), "b": (4, 6), "c": (6, 4), "d": (6, 4)}
    ours = muon.scale_by_muon(0.9)
    theirs = contrib.scale_by_muon(
        beta=0.9,
        nesterov=True,
        weight_dimension_numbers=dict.fromkeys(shapes, contrib.MuonDimensionNumbers()),
    )
    params = {name: jnp.zeros(shape) for name, shape in shapes.items()}
    states = [rule.init(params) for rule in (ours, theirs)]
    for key in jax.random.split(jax.random.key(2), 2):
        gradient = {
            name: jax.random.normal(jax.random.fold_in(key, i), shape)
            for i, (name, shape) in enumerate(shapes.items())
        }
        (got, states[0]), (expected, states[1]) = (
            rule.update(gradient, state, params)
            for rule, state in zip((ours, theirs), states, strict=True)
        )
        assert_trees_all_close(got, expected, atol=1e-6)


def test_gradients_are_clipped_before_the_moments():
    config = OptimizerConfig(clip_norm=1.0)
    transformation = optimizer(config)
    params = {"embedding": jnp.zeros((3, 4))}
    gradient = {"embedding": jnp.full((3, 4), 100.0)}
    _, state = transformation.update(gradient, transformation.init(params), params)
    first_moments = [x for x in jax.tree.leaves(state) if x.shape == (3, 4)]
    np.testing.assert_allclose(max(float(jnp.max(x)) for x in first_moments), 0.1 / 12**0.5, 1e-5)


def test_schedule_warms_up_holds_and_decays_to_zero():
    rate = schedule(OptimizerConfig(warmup_fraction=0.1, decay_fraction=0.3), 100)
    values = [float(np.asarray(rate(step))) for step in range(101)]
    np.testing.assert_allclose(values[:11], [(i + 1) / 11 for i in range(11)], rtol=1e-6)
    assert values[10:70] == [1.0] * 60
    np.testing.assert_allclose(values[70:], np.linspace(1, 0, 31), atol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_schedule_of_the_shortest_runs_is_positive(steps):
    rate = schedule(OptimizerConfig(), steps)
    assert all(0 < float(np.asarray(rate(step))) <= 1 for step in range(steps))


def test_the_operations_of_muon_are_those_that_the_compiler_counts(params):
    shapes = [(256, 320), (320, 192)]  # large enough that products are nearly all
    kernels = {f"block_{i:02}": {"in": {"query": jnp.ones(s)}} for i, s in enumerate(shapes)}
    transformation = optimizer(RATES)
    state = transformation.init(kernels)
    update = jax.jit(transformation.update).lower(kernels, state, kernels)
    flops = (update.compile().cost_analysis() or {})["flops"]
    assert orthogonalisation_flops(kernels) == pytest.approx(flops, rel=0.03)
    assert 0 < orthogonalisation_flops(params, "fast_weights") < orthogonalisation_flops(params)
