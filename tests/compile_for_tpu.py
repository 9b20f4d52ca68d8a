"""Compiles the TPU kernel on a machine without one: `python -m tests.compile_for_tpu v5e:2x2 S2`.

Prints one JSON line for each shape and direction: Mosaic calls, traffic against the roofline,
temporary memory, and copies of anything larger than the gates.
"""

import json
import math
import os
import re
import sys

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["TPU_SKIP_MDS_QUERY"] = "1"

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from jax.experimental import topologies  # noqa: E402
from jax.sharding import SingleDeviceSharding  # noqa: E402

from pallas_kernels import gated_delta_rule  # noqa: E402
from pallas_kernels.shapes import SHAPES, Shape  # noqa: E402
from pallas_kernels.tpu import CHUNK, LONGEST_SINGLE_CHUNK  # noqa: E402

DTYPE = jnp.bfloat16
_CALL = 'custom_call_target="tpu_custom_call"'


def _functions(s: Shape):
    """Forward and its pullback, tokens as a projection makes them: `[B, T, heads * dim]`."""

    def forward(q, k, v, log_decay, beta, state):
        q, k = (x.reshape(s.B, s.T, s.H, s.Dk) for x in (q, k))
        output, final = gated_delta_rule(
            q, k, v.reshape(s.B, s.T, s.Hv, s.Dv), log_decay, beta, state
        )
        return output.reshape(s.B, s.T, -1), final

    def backward(inputs, cotangents):
        return jax.vjp(forward, *inputs)[1](cotangents)

    return {"forward": forward, "backward": backward}


def _arguments(s: Shape, sharding: SingleDeviceSharding):
    def array(*shape: int, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    key, value = (array(s.B, s.T, n, dtype=DTYPE) for n in (s.H * s.Dk, s.Hv * s.Dv))
    gate, state = array(s.B, s.T, s.Hv), array(s.B, s.Hv, s.Dk, s.Dv)
    inputs = (key, key, value, gate, gate, state)
    return {"forward": inputs, "backward": (inputs, (value, state))}


def _large_copies(text: str, gate_elements: int) -> list[str]:
    found = re.findall(r"= (\w+\[([\d,]+)\])\S* (?:copy|transpose)\(", text)
    return [name for name, dims in found if math.prod(map(int, dims.split(","))) > gate_elements]


def main(chip: str, names: list[str]) -> None:
    """Compiles the named shapes, forward and backward."""
    device = topologies.get_topology_desc(chip, platform="tpu").devices[0]
    for name in names:
        shape = SHAPES[name]
        arguments = _arguments(shape, SingleDeviceSharding(device))
        for direction, function in _functions(shape).items():
            compiled = jax.jit(function).lower(*arguments[direction]).compile()
            text, memory, cost = (
                compiled.as_text(),
                compiled.memory_analysis(),
                compiled.cost_analysis(),
            )
            assert text and memory and cost
            backward = direction == "backward"
            chunks = 1 if shape.T <= LONGEST_SINGLE_CHUNK else math.ceil(shape.T / CHUNK)
            states = shape.B * shape.Hv * shape.Dk * shape.Dv * chunks
            spill = backward and chunks > 1
            # Of S1 the backward is charged with its forward, which makes the chunk-start states,
            # in bfloat16 as in specs/kernels.md, section 8.
            saved = 2 * states if spill else 0
            roofline = shape.bytes_moved(2, backward) + 2 * saved
            roofline += shape.bytes_moved(2, False) if spill else 0
            traffic = memory.argument_size_in_bytes + memory.output_size_in_bytes
            reread = shape.bytes_moved(2, False) if spill else 0
            around = cost["bytes accessed"]  # does not see into the kernels
            # That forward's output has no reader here. libtpu up to 0.0.42 lets it lie where a
            # gradient is written later, newer ones count it as temporary.
            unread = 2 * shape.B * shape.T * shape.Hv * shape.Dv
            row = {
                "shape": name,
                "direction": direction,
                "kernels": text.count(_CALL),
                "large_copies": _large_copies(text, shape.B * shape.T * shape.Hv),
                "bytes": traffic + reread + 2 * saved + around,
                "roofline_bytes": roofline,
                "temporary_bytes": memory.temp_size_in_bytes,
                "saved_states_bytes": saved,
                "unread_output_bytes": unread if spill and jax.__version_info__ >= (0, 11) else 0,
            }
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
