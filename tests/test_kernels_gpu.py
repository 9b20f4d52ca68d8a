"""The Pallas-Triton kernel: in interpret mode against the float64 oracle, and lowered for CUDA.

No GPU runs here, ever: that Triton compiles what is lowered, and what comes of it, is not shown.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import gated_delta_rule, gpu
from pallas_kernels.gpu import gated_delta_rule_gpu

NAMES = "output final_state dq dk dv dlog_decay dbeta dinitial_state".split()
GATES = ("dlog_decay", "dbeta")


def _unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def make_inputs(length, dtype, key_heads=1, heads=2, key_dim=32, value_dim=32, spread=0.1):
    """Keys `spread` about a common mean; random initial state, random cotangents on both outputs.

    Gates, states and the cotangent of the final state are float32, all else of `dtype`.
    """
    rng = np.random.default_rng([length, key_dim, value_dim])
    tokens, gates, state = (2, length), (2, length, heads), (2, heads, key_dim, value_dim)
    keys = (*tokens, key_heads, key_dim)
    inputs = (
        _unit(rng.normal(size=keys)) * key_dim**-0.5,
        _unit(rng.normal(size=key_dim) + spread * rng.normal(size=keys)),
        rng.normal(size=(*gates, value_dim)),
        -rng.exponential(0.2, size=gates),
        rng.uniform(size=gates),
        rng.normal(size=state),
    )
    cotangents = (rng.normal(size=(*gates, value_dim)), rng.normal(size=state))
    cast = lambda x, rounded: jnp.asarray(x, dtype if rounded else jnp.float32)  # noqa: E731
    return (
        tuple(cast(x, i < 3) for i, x in enumerate(inputs)),
        tuple(cast(x, i < 1) for i, x in enumerate(cotangents)),
    )


def both_ways(function):
    def run(inputs, cotangents):
        outputs, pullback = jax.vjp(function, *inputs)
        return *outputs, *pullback(cotangents)

    return jax.jit(run)


@functools.cache
def _kernel(**options):
    """One function per set of options, so that cases of the same shape share a program."""
    return both_ways(functools.partial(gated_delta_rule_gpu, interpret=True, **options))


_oracle = both_ways(functools.partial(gated_delta_rule, implementation="oracle"))


def errors(inputs, cotangents, **options):
    """Relative norms against the oracle in float64 on the very same, already rounded inputs."""
    actual = _kernel(**options)(inputs, cotangents)
    assert [x.dtype for x in actual] == [inputs[2].dtype, jnp.float32, *(x.dtype for x in inputs)]
    with jax.enable_x64(True):
        exact = jax.tree.map(lambda x: x.astype(jnp.float64), (inputs, cotangents))
        expected = _oracle(*exact)
    relative = {}
    for name, a, b in zip(NAMES, actual, expected, strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b)
        relative[name] = np.linalg.norm(a - b) / np.linalg.norm(b)
    return relative


def check_float32(relative):
    for name, error in relative.items():
        assert error <= (1e-5 if name.startswith("d") else 2e-6), (name, relative)


def check_bfloat16(relative):
    for name, error in relative.items():
        assert error <= (8e-3 if name in GATES else 4e-3), (name, relative)


@pytest.mark.parametrize(
    "length, options, shape",
    [
        (1, {}, {}),  # one chunk of 16
        (7, {}, dict(key_heads=2, spread=1.0)),  # a key head to each value head: nothing to sum
        (24, {}, dict(heads=4, key_heads=2)),
        (75, {}, dict(key_dim=64)),  # 3 of 32, ragged
        (130, dict(chunk_size=64), {}),  # the last of 3 holds two tokens
        (32, dict(chunk_size=16), dict(value_dim=128)),  # no mask; two slices of the state
    ],
)
def test_float32(length, options, shape):
    check_float32(errors(*make_inputs(length, jnp.float32, **shape), **options))


@pytest.mark.parametrize("length, shape", [(24, {}), (75, {})])
def test_bfloat16(length, shape):
    # Keys apart: among nearly equal ones, a state rounded to bfloat16 is all that can be seen.
    check_bfloat16(errors(*make_inputs(length, jnp.bfloat16, spread=0.5, **shape)))


def test_bfloat16_three_passes_everywhere():
    """What `precision` buys: float32 results hold to float32's noise, nearly, on equal keys too."""
    relative = errors(*make_inputs(24, jnp.bfloat16), precision=jax.lax.Precision.HIGH)
    for name in ("final_state", "dlog_decay", "dbeta", "dinitial_state"):
        assert relative[name] <= 1e-4, (name, relative)


def test_extreme_gates():
    (q, k, v, log_decay, beta, state), cotangents = make_inputs(24, jnp.float32, 2, 4)
    log_decay = jnp.full_like(log_decay, -50.0).at[:, ::3].set(0.0)
    beta = jnp.full_like(beta, 1.99)
    check_float32(errors((q, k, v, log_decay, beta, state), cotangents))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("dim", [64, 128])
@pytest.mark.parametrize("length", [24, 130])
def test_lowers_for_cuda(dtype, dim, length):
    array = jax.ShapeDtypeStruct
    keys, values = array((2, length, 2, dim), dtype), array((2, length, 4, dim), dtype)
    gates, state = array((2, length, 4), jnp.float32), array((2, 4, dim, dim), jnp.float32)
    traced = both_ways(gated_delta_rule_gpu).trace(
        (keys, keys, values, gates, gates, state), (values, state)
    )
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    for kernel in ("gated_delta_rule_forward", "gated_delta_rule_backward"):
        assert kernel in text
    assert text.count("triton") >= 2  # the custom call's name, which differs between JAX versions


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(dtype=jnp.float16), "float16"),
        (dict(key_dim=48), "Dk = 48"),
        (dict(value_dim=256), "Dv = 256"),
        (dict(chunk_size=24), "chunk_size = 24"),
    ],
)
def test_refusals_are_named(change, message):
    shape = dict(dtype=jnp.float32, key_dim=32, value_dim=32, chunk_size=None) | change
    k = jax.ShapeDtypeStruct((1, 75, 1, shape["key_dim"]), shape["dtype"])
    v = jax.ShapeDtypeStruct((1, 75, 1, shape["value_dim"]), shape["dtype"])
    assert message in gpu.refuses(k, k, v, shape["chunk_size"])


def test_takes_what_it_does_not_refuse():
    x = jax.ShapeDtypeStruct((1, 24, 1, 64), jnp.bfloat16)
    assert [gpu.refuses(x, x, x, size) for size in (None, 16, 24, 32, 64, 500)] == [""] * 6
