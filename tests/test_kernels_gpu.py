"""The Triton kernel without a GPU: interpreted, and lowered for CUDA.

What Triton makes of the lowered program, and whether a GPU then computes the same, is not shown.
"""

import functools

import jax
import jax.numpy as jnp
import pytest

from pallas_kernels import gpu
from pallas_kernels.gpu import gated_delta_rule_gpu
from tests.rule import Case, check

interpreted = functools.partial(gated_delta_rule_gpu, interpret=True)
in_chunks_of_16 = functools.partial(interpreted, chunk_size=16)
in_chunks_of_64 = functools.partial(interpreted, chunk_size=64)


def small(length, keys="correlated", *args, **kwargs):
    """Two value heads of one key head, so that their gradients are summed."""
    return Case(length, keys, *args, **{"H": 1, "Dv": 32, **kwargs})


@pytest.mark.parametrize(
    "rule, case",
    [
        (interpreted, small(1)),
        (interpreted, small(7, "random", H=2)),  # a key head to each value head: nothing to sum
        (interpreted, small(24)),
        (interpreted, small(75)),  # chunks of 32
        (in_chunks_of_64, small(130)),  # two tokens in the last
        (in_chunks_of_16, small(32, "vocabulary", Dv=128)),  # no mask; two slices of the state
    ],
)
def test_float32(rule, case):
    check(rule, case, "float32", 2e-6, 1e-5)


@pytest.mark.parametrize("beta, log_decay", [(1.99, 0.0), (1.0, -50.0)])
def test_extreme_gates(beta, log_decay):
    check(interpreted, small(24, "random", beta, log_decay), "float32", 2e-6, 1e-5)


@pytest.mark.parametrize("length", [24, 75])
def test_bfloat16(length):
    check(interpreted, small(length, dtype="bfloat16"), "bfloat16", 4e-3, 4e-3, gates=8e-3)


def vjp(inputs, cotangents):
    outputs, pullback = jax.vjp(gated_delta_rule_gpu, *inputs)
    return outputs, pullback(cotangents)


@pytest.mark.skipif(
    jax.__version_info__ >= (0, 11),
    reason="from JAX 0.11 on, lowering runs Triton too: it needs the CUDA plugin, and minutes",
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("dim", [64, 128])
@pytest.mark.parametrize("length", [24, 130])
def test_lowers_for_cuda(dtype, dim, length):
    keys = jax.ShapeDtypeStruct((2, length, 2, dim), dtype)
    values = jax.ShapeDtypeStruct((2, length, 4, dim), dtype)
    gates = jax.ShapeDtypeStruct((2, length, 4), "float32")
    state = jax.ShapeDtypeStruct((2, 4, dim, dim), "float32")
    traced = jax.jit(vjp).trace((keys, keys, values, gates, gates, state), (values, state))
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    calls = [line for line in text.splitlines() if "custom_call" in line and "triton" in line]
    assert len(calls) == 2
    for line, name in zip(calls, ("forward", "backward"), strict=True):
        assert f"gated_delta_rule_{name}" in line


@pytest.mark.parametrize(
    "shape, dtype, chunk_size, message",
    [
        ((1, 8, 1, 48), "float32", None, "Dk = 48, Dv = 48, only 32, 64 or 128"),
        ((1, 8, 1, 32), "float16", None, "does not take q, k, v of float16"),
        ((1, 80, 1, 32), "float32", 24, "does not take chunk_size = 24, only 16, 32, 64"),
        ((1, 80, 1, 32), "float32", 80, "does not take chunk_size = 80, only 16, 32, 64"),
    ],
)
def test_what_it_does_not_take(shape, dtype, chunk_size, message):
    x = jnp.zeros(shape, dtype)
    assert message in gpu.refuses(x, x, x, chunk_size)


def test_what_it_takes():
    x = jnp.zeros((1, 24, 1, 64), jnp.bfloat16)
    assert [gpu.refuses(x, x, x, size) for size in (None, 16, 24, 32, 64, 500)] == [""] * 6
