"""Every implementation on the accelerator at hand, against the float64 oracle on its host's CPU.

    make test-device [PYTHON=python3] [ARGS="-k mosaic"]

`make test` skips all of it: there the kernels are interpreted. On a machine without an accelerator
`make test-device` runs the XLA path alone.
"""

import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.bench.rules import OURS
from pallas_kernels import gated_delta_rule
from pallas_kernels.shapes import SHAPES
from tests.rule import KEYS, Case, check, check_chained

if "TEST_DEVICE" not in os.environ:
    pytest.skip("for an accelerator: make test-device", allow_module_level=True)

LENGTHS = (1, 7, 24, 63, 64, 65, 75, 130)
NAMES = [name for name in OURS[jax.default_backend()] if name != "oracle"]
IN_FLOAT32 = [name for name in NAMES if name != "mosaic"]


@functools.cache
def rule(name):
    return functools.partial(gated_delta_rule, implementation=name)


def small(*args, **kwargs):
    """Sizes that every kernel takes; two value heads of one key head."""
    return Case(*args, **{"H": 1, "Dk": 64, "Dv": 64, **kwargs})


@pytest.mark.parametrize("name", IN_FLOAT32)
@pytest.mark.parametrize("keys", KEYS)
@pytest.mark.parametrize("length", LENGTHS)
def test_float32(name, keys, length):
    check(rule(name), small(length, keys), "float32", 2e-6, 1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("keys", KEYS)
@pytest.mark.parametrize("length", LENGTHS)
def test_bfloat16(name, keys, length):
    case = small(length, keys, dtype="bfloat16")
    check(rule(name), case, "bfloat16", 4e-3, 4e-3, gates=8e-3)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("beta", [0.0, 1.0, 1.99])
@pytest.mark.parametrize("log_decay", [0.0, -50.0])
def test_extreme_gates(name, beta, log_decay):
    case = small(65, "random", beta, log_decay, dtype="bfloat16")
    check(rule(name), case, "bfloat16", 4e-3, 4e-3, gates=8e-3)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dims", [(64, 128), (128, 64), (128, 128)])
def test_head_dimensions(name, dims):
    case = small(75, "correlated", Dk=dims[0], Dv=dims[1], dtype="bfloat16")
    check(rule(name), case, "bfloat16", 4e-3, 4e-3, gates=8e-3)


@pytest.mark.parametrize("name", [n for n in IN_FLOAT32 if n != "gpu"])  # the case has Dv = 16
def test_eight_passes_with_the_state_handed_on(name):
    check_chained(rule(name), "float32", 3e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", ["S2", "S4"])
def test_a_hundred_runs_give_the_same_bits(name, shape):
    """A race between copies and products shows as a bit, now and then."""
    sizes = SHAPES[shape]._replace(B=64)
    case = Case(sizes.T, "random", H=sizes.H, Hv=sizes.Hv, Dk=sizes.Dk, Dv=sizes.Dv, B=sizes.B)
    arrays, cotangents = case.draw()
    tokens = [jnp.asarray(x, "bfloat16") for x in arrays[:3]]
    rest = [jnp.asarray(x, "float32") for x in arrays[3:]]
    down = (jnp.asarray(cotangents[0], "bfloat16"), jnp.asarray(cotangents[1], "float32"))

    @jax.jit
    def run(inputs, down):
        outputs, pullback = jax.vjp(rule(name), *inputs)
        return outputs, pullback(down)

    first = jax.tree.map(np.asarray, run([*tokens, *rest], down))
    for _ in range(100):
        again = jax.tree.map(np.asarray, run([*tokens, *rest], down))
        jax.tree.map(np.testing.assert_array_equal, first, again)
