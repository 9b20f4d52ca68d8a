"""The Mosaic GPU kernel without a GPU: interpreted, and lowered for CUDA.

What the compiler makes of the lowered program, and whether a GPU then computes the same, is not
shown. Interpret mode of jax 0.10 gets copies of transposed operands and no layouts; lowering, and
interpret mode from 0.11 on, take the real ones.
"""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jaxlib.mlir import ir

from pallas_kernels import mosaic
from pallas_kernels.mosaic import gated_delta_rule_mosaic
from pallas_kernels.shapes import SHAPES, Shape
from tests.rule import Case, check, evaluate, expected, relative

try:
    from jax.experimental.pallas.mosaic_gpu import InterpretGPUParams  # pyright: ignore
except ImportError:  # jax 0.10 has it, but does not show it
    from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams

# Memory that nobody has written is NaN there: a row too many shows.
interpreted = functools.partial(gated_delta_rule_mosaic, interpret=InterpretGPUParams())
in_chunks_of_32 = functools.partial(interpreted, chunk_size=32)
SHARED_MEMORY = 227 * 1024  # of a Hopper block


def small(length, keys="correlated", *args, **kwargs):
    """Two value heads of one key head, so that their gradients are summed."""
    sizes = {"B": 1, "H": 1, "Dk": 64, "Dv": 64, "dtype": "bfloat16"}
    return Case(length, keys, *args, **{**sizes, **kwargs})


@pytest.mark.parametrize(
    "rule, case",
    [
        (interpreted, small(1, H=2)),  # a key head to each value head: nothing to sum
        (interpreted, small(7, "random", Dv=128, Hv=1)),  # two slices of the state
        (interpreted, small(24)),
        (interpreted, small(24, "identical")),
        (interpreted, small(24, "vocabulary", 1.99, 0.0)),
        (interpreted, small(24, "random", 1.0, -50.0)),
        (interpreted, small(64, Dk=128)),
        (interpreted, small(64, "identical", 1.99, Dk=128)),
        (interpreted, small(75, "vocabulary")),  # two chunks of 40
        (in_chunks_of_32, small(130, Hv=1)),  # five
    ],
)
def test_bfloat16(rule, case):
    check(rule, case, "bfloat16", 4e-3, 4e-3, gates=8e-3)


@pytest.mark.skipif(
    jax.__version_info__ < (0, 11), reason="jax 0.10 looks for races of copies in, nothing else"
)
@pytest.mark.parametrize("length", [24, 75])
def test_copies_and_products_wait_for_each_other(length, capsys):
    rule = functools.partial(interpreted, interpret=InterpretGPUParams(detect_races=True))
    check(rule, small(length), "bfloat16", 4e-3, 4e-3, gates=8e-3)
    assert "RACE" not in capsys.readouterr().out


def test_one_pass_is_less_exact():
    """What `precision` is for; at T = 24 with correlated keys one pass leaves about 4e-3."""
    rule = functools.partial(interpreted, precision="default")
    case = small(24, Hv=1)
    check(rule, case, "bfloat16", 1e-2, 1e-2, gates=2e-2)
    state = evaluate(rule, case, "bfloat16", "float32")[0][1]
    assert 1e-3 < relative(state.astype("float64"), expected(case)[0][1])


def _lowered(shape: Shape):
    keys = jax.ShapeDtypeStruct((shape.B, shape.T, shape.H, shape.Dk), "bfloat16")
    values = jax.ShapeDtypeStruct((shape.B, shape.T, shape.Hv, shape.Dv), "bfloat16")
    gates = jax.ShapeDtypeStruct((shape.B, shape.T, shape.Hv), "float32")
    state = jax.ShapeDtypeStruct((shape.B, shape.Hv, shape.Dk, shape.Dv), "float32")

    def vjp(inputs, cotangents):
        outputs, pullback = jax.vjp(gated_delta_rule_mosaic, *inputs)
        return outputs, pullback(cotangents)

    traced = jax.jit(vjp).trace((keys, keys, values, gates, gates, state), (values, state))
    return traced.lower(lowering_platforms=("cuda",))


def _operations(operation: Any, name: str) -> Iterator[Any]:
    """Of that name, without those inside of them."""
    for region in operation.regions:
        for block in region.blocks:
            for inner in block.operations:
                if inner.operation.name.endswith(name):
                    yield inner.operation
                    continue
                yield from _operations(inner.operation, name)


def _shared_memory(kernel: bytes, context: Any) -> tuple[str, int]:
    """Name of a Mosaic module, and the bytes of shared memory that it launches with."""
    context.allow_unregistered_dialects = True
    module: Any = ir.Module.parse(kernel, context).operation
    (launch,) = _operations(module, "gpu.launch")
    size = launch.operands[len(launch.operands) - 1].owner.attributes["value"]
    return module.attributes["sym_name"].value, ir.IntegerAttr(size).value


@pytest.mark.parametrize("name", ["S1", "S2", "S3", "S4"])
def test_lowers_for_hopper(name):
    module: Any = _lowered(SHAPES[name]).compiler_ir()
    sizes = {}
    for call in _operations(module.operation, "custom_call"):
        assert call.attributes["call_target_name"].value == "mosaic_gpu_v2"
        kernel = call.attributes["mhlo.backend_config"]["module"].value_bytes
        kernel_name, size = _shared_memory(kernel, module.context)
        sizes[kernel_name] = size
    assert list(sizes) == ["gated_delta_rule_forward", "gated_delta_rule_backward"]
    assert max(sizes.values()) <= SHARED_MEMORY
    # Two programs a multiprocessor, with the KiB that the system takes of each: forward.
    assert 2 * (sizes["gated_delta_rule_forward"] + 1024) <= 228 * 1024


@pytest.mark.parametrize(
    "shape, dtype, options, message",
    [
        ((1, 8, 1, 32), "bfloat16", {}, "Dk = 32, Dv = 32, only 64 or 128"),
        ((1, 8, 1, 64), "float32", {}, "does not take q, k, v of float32, only bfloat16"),
        ((1, 80, 1, 64), "bfloat16", dict(chunk_size=24), "chunk_size = 24, only 32, 64, or T"),
        ((1, 80, 1, 64), "bfloat16", dict(chunk_size=80), "chunk_size = 80, only 32, 64, or T"),
        ((1, 8, 1, 64), "bfloat16", dict(precision="highest"), "precision HIGHEST"),
    ],
)
def test_what_it_does_not_take(shape, dtype, options, message):
    x = jnp.zeros(shape, dtype)
    assert message in mosaic.refuses(x, x, x, **{"chunk_size": None, **options})


def test_what_it_takes():
    x = jnp.zeros((1, 24, 1, 64), jnp.bfloat16)
    assert [mosaic.refuses(x, x, x, size) for size in (None, 24, 32, 64, 500)] == [""] * 5
    assert mosaic.refuses(x, x, x, None, "default") == ""
