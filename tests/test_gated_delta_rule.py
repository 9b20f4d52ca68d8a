"""Every implementation against the float64 token-by-token oracle."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import gated_delta_rule

B, H, DK, DV = 2, 2, 8, 5
LENGTHS = (1, 7, 24, 63, 64, 65, 75)
NAMES = ("q", "k", "v", "log_decay", "beta", "initial_state")


def _unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def make_inputs(length, keys="random", beta=None, log_decay=None, seed=0, key_heads=H):
    """float64 inputs; random initial state and random cotangents on output and final state."""
    rng = np.random.default_rng([seed, length])
    shape = (B, length, key_heads)
    k = {
        "random": lambda: rng.normal(size=(*shape, DK)),
        "correlated": lambda: rng.normal(size=DK) + 0.1 * rng.normal(size=(*shape, DK)),
        "identical": lambda: np.broadcast_to(rng.normal(size=DK), (*shape, DK)),
        "vocabulary": lambda: rng.normal(size=(3, DK))[rng.integers(3, size=shape)],
    }[keys]()
    gate_shape = (B, length, H)
    inputs = (
        _unit(rng.normal(size=(*shape, DK))) * DK**-0.5,
        _unit(k),
        rng.normal(size=(B, length, H, DV)),
        -rng.exponential(0.2, size=gate_shape)
        if log_decay is None
        else np.full(gate_shape, log_decay),
        rng.uniform(size=gate_shape) if beta is None else np.full(gate_shape, beta),
        rng.normal(size=(B, H, DK, DV)),
    )
    cotangents = (rng.normal(size=(B, length, H, DV)), rng.normal(size=(B, H, DK, DV)))
    return inputs, cotangents


@functools.cache
def _compiled(**options):
    """One function per set of options, so that cases of the same shape share a program."""

    def run(inputs, cotangents):
        outputs, pullback = jax.vjp(lambda *a: gated_delta_rule(*a, **options), *inputs)
        return outputs, pullback(cotangents)

    return jax.jit(run)


def values_and_gradients(inputs, cotangents, dtype, **options):
    arrays = jax.tree.map(lambda x: jnp.asarray(x, dtype), (inputs, cotangents))
    return jax.tree.map(np.asarray, _compiled(**options)(*arrays))


def relative(actual, expected):
    scale = np.linalg.norm(expected)
    return np.linalg.norm(actual - expected) / (scale if scale > 0 else 1.0)


def compare(inputs, cotangents, dtype, value_tolerance, gradient_tolerance, **options):
    with jax.enable_x64(True):
        expected = values_and_gradients(inputs, cotangents, jnp.float64, implementation="oracle")
        actual = values_and_gradients(inputs, cotangents, dtype, **options)
    assert actual[0][1].dtype == dtype
    for name, a, b in zip(("output", "final_state"), actual[0], expected[0], strict=True):
        assert relative(a, b) <= value_tolerance, name
    for name, a, b in zip(NAMES, actual[1], expected[1], strict=True):
        # Nothing passes a decay of -50: there only noise is left to compare.
        if np.linalg.norm(b) < 1e-12:
            assert np.linalg.norm(a) < 1e-6, name
        else:
            assert relative(a, b) <= gradient_tolerance, name


@pytest.mark.parametrize(
    "length, chunk_size", [(n, None) for n in LENGTHS] + [(n, 16) for n in (7, 24, 65, 75)]
)
def test_xla_equals_oracle_in_float64(length, chunk_size):
    compare(*make_inputs(length), jnp.float64, 1e-13, 1e-12, chunk_size=chunk_size)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("keys", ["random", "correlated", "identical", "vocabulary"])
def test_xla_float32(length, keys):
    compare(*make_inputs(length, keys), jnp.float32, 2e-6, 1e-5)


@pytest.mark.parametrize("beta", [0.0, 1.0, 1.99])
@pytest.mark.parametrize("log_decay", [0.0, -50.0])
@pytest.mark.parametrize("keys", ["random", "identical"])
def test_extreme_gates(beta, log_decay, keys):
    inputs = make_inputs(65, keys, beta, log_decay)
    compare(*inputs, jnp.float64, 1e-11, 1e-10)


def test_float32_keeps_the_small_inverse():
    """Where Neumann squaring loses every digit: correlated keys, beta near one, long chunk."""
    compare(*make_inputs(64, "correlated", 0.95, -0.01), jnp.float32, 1e-5, 1e-4)


def test_value_heads_share_key_heads():
    inputs = [x.astype(np.float32) for x in make_inputs(24, key_heads=1)[0]]
    repeated = (*(np.repeat(x, H, axis=2) for x in inputs[:2]), *inputs[2:])
    for a, b in zip(gated_delta_rule(*inputs), gated_delta_rule(*repeated), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("cut", [1, 10, 24, 74])
@pytest.mark.parametrize("implementation", ["oracle", "xla"])
def test_a_window_cut_anywhere_with_the_state_handed_over_is_the_whole(cut, implementation):
    inputs, _ = make_inputs(75)
    with jax.enable_x64(True):
        tokens, state = [jnp.asarray(x) for x in inputs[:5]], jnp.asarray(inputs[5])
        options = dict(implementation=implementation)
        whole, final = gated_delta_rule(*tokens, state, **options)
        head, state = gated_delta_rule(*(x[:, :cut] for x in tokens), state, **options)
        tail, state = gated_delta_rule(*(x[:, cut:] for x in tokens), state, **options)
    np.testing.assert_allclose(jnp.concatenate([head, tail], 1), whole, rtol=0, atol=1e-13)
    np.testing.assert_allclose(state, final, rtol=0, atol=1e-13)


def test_bfloat16_inputs_keep_a_float32_state():
    inputs, _ = make_inputs(24)
    low = [jnp.asarray(x, jnp.bfloat16) for x in inputs[:5]]
    output, state = gated_delta_rule(*low, jnp.asarray(inputs[5], jnp.float32))
    assert output.dtype == jnp.bfloat16 and state.dtype == jnp.float32
    expected, _ = gated_delta_rule(
        *(x.astype(jnp.float32) for x in low),
        jnp.asarray(inputs[5], jnp.float32),
        implementation="oracle",
    )
    assert relative(np.asarray(output, np.float32), np.asarray(expected)) < 4e-3


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(implementation="cuda"), "implementation='cuda' is unknown; allowed: oracle, xla"),
        (dict(chunk_size=0), "chunk_size=0"),
    ],
)
def test_bad_options_are_named(change, message):
    inputs, _ = make_inputs(7)
    with pytest.raises(ValueError, match=message):
        gated_delta_rule(*inputs, **change)


def test_bad_shapes_are_named():
    q, k, v, log_decay, beta, state = make_inputs(7)[0]
    with pytest.raises(ValueError, match="initial_state has shape"):
        gated_delta_rule(q, k, v, log_decay, beta, state[:, :1])
