"""The TPU kernel without a TPU: interpreted, and compiled by the compiler of the TPU."""

import functools
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels import tpu
from pallas_kernels.tpu import gated_delta_rule_tpu
from tests.rule import Case, check, check_chained, evaluate

ROOT = Path(__file__).parent.parent
LENGTHS = (1, 7, 24, 63, 64, 65, 75, 130)
interpreted = functools.partial(gated_delta_rule_tpu, interpret=True)


def small(length, *args, **kwargs):
    return Case(length, *args, **{"B": 2, "H": 1, "Hv": 1, "Dv": 32, **kwargs})


@pytest.mark.parametrize("length", LENGTHS)
def test_float32(length):
    check(interpreted, small(length), "float32", 2e-6, 1e-5)


@pytest.mark.parametrize("keys", ["correlated", "identical", "vocabulary"])
@pytest.mark.parametrize("length", [24, 65])
def test_other_keys(length, keys):
    check(interpreted, small(length, keys), "float32", 2e-6, 1e-5)


@pytest.mark.parametrize("beta", [0.0, 1.0, 1.99])
@pytest.mark.parametrize("log_decay", [0.0, -50.0])
def test_extreme_gates(beta, log_decay):
    check(interpreted, small(65, "random", beta, log_decay), "float32", 2e-6, 1e-5)


@pytest.mark.parametrize("length", [24, 130])
def test_bfloat16(length):
    case = small(length, "correlated", dtype="bfloat16", B=4)
    check(interpreted, case, "bfloat16", 4e-3, 4e-3, gates=8e-3)


def test_value_heads_share_key_heads_in_one_block():
    check(interpreted, small(24, H=2, Hv=4, B=1), "float32", 2e-6, 1e-5)


def test_blocks_of_heads_and_rows():
    """More heads than a block holds: 16 pairs, so the grid has all three axes."""
    case = Case(20, B=2, H=16, Hv=32, Dk=32, Dv=32)
    q, _, v = (jnp.zeros((2, 20, h, 32)) for h in (16, 16, 32))
    rule = functools.partial(interpreted, chunk_size=16)
    assert tpu._plan(q, v, 16, None).grid == (2, 2, 2)
    check(rule, case, "float32", 2e-6, 1e-5)


def test_chained_passes_equal_one_scan():
    check_chained(interpreted, "float32", 3e-6)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two imitated cores want two")
@pytest.mark.parametrize("length, chunk_size", [(24, None), (40, 16)])
def test_no_races_and_nothing_uninitialised(length, chunk_size):
    """The TPU's memories imitated: scratch and what lies beyond an array are NaN.

    Two cores, and rows for a grid of two cells, so that they race if both write one block.
    """
    from jax._src.pallas.mosaic.interpret import interpret_pallas_call

    params = pltpu.InterpretParams(
        detect_races=True, uninitialized_memory="nan", num_cores_or_threads=2
    )
    case = small(length, B=18)
    imitated = functools.partial(gated_delta_rule_tpu, interpret=params, chunk_size=chunk_size)
    plain = functools.partial(interpreted, chunk_size=chunk_size)
    inputs, _ = case.draw()
    inputs = [jnp.asarray(x, jnp.float32) for x in inputs]
    assert tpu._plan(inputs[0], inputs[2], chunk_size, None).grid[0] == 2
    jax.block_until_ready(imitated(*inputs))  # races are those of the last call
    assert not interpret_pallas_call.races.races_found  # type: ignore[union-attr]
    for a, b in zip(
        jax.tree.leaves(evaluate(imitated, case, "float32", "float32")),
        jax.tree.leaves(evaluate(plain, case, "float32", "float32")),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert not interpret_pallas_call.races.races_found  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "shape, dtype, chunk_size, message",
    [
        ((1, 8, 1, 48), "float32", None, "Dk = 48, Dv = 48, only multiples of 32 up to 256"),
        ((1, 8, 1, 32), "float16", None, "does not take q, k, v of float16"),
        ((1, 80, 1, 32), "float32", 24, "does not take chunk_size = 24, only a multiple of 16"),
        ((1, 512, 1, 32), "float32", 512, "does not take chunk_size = 512, only 128 at most"),
        ((1, 128, 12, 256), "float32", None, "12 heads of 256 x 256 that go together"),
    ],
)
def test_what_it_does_not_take(shape, dtype, chunk_size, message):
    x = jnp.zeros(shape, dtype)
    assert message in tpu.refuses(x, x, x, chunk_size)


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu, the TPU's compiler, not installed"
)
@pytest.mark.parametrize(
    "chip, shapes", [("v5e:2x2", ("S1", "S2")), ("v5p:2x2x1", ("S2",)), ("v6e:2x2", ("S2",))]
)
def test_compiles_for_the_chip_within_the_roofline(chip, shapes):
    """S1 has 64 chunks, S2 is one short window. In its own process: libtpu keeps a machine lock."""
    command = [sys.executable, "-m", "tests.compile_for_tpu", chip, *shapes]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    rows = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    assert [(row["shape"], row["direction"]) for row in rows] == [
        (shape, direction) for shape in shapes for direction in ("forward", "backward")
    ]
    for row in rows:
        assert row["kernels"] >= 1 and row["large_copies"] == [], row
        assert row["bytes"] <= 1.3 * row["roofline_bytes"], row
        needed = row["saved_states_bytes"] + row["unread_output_bytes"]
        assert row["temporary_bytes"] <= needed + 0.05 * row["roofline_bytes"], row
