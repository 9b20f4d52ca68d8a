"""What one call of a compiled module costs one device: operations, traffic, collectives.

XLA's own cost analysis counts the body of a loop once and does not see into Pallas kernels. Here
the compiled text is counted instead, each computation as often as it runs:

- operations: of the matrix products (`convolution` on a TPU, `dot`), two a multiply-add;
- kernels of the gated delta rule: its recurrence, as in `sleep_jax.flops`, the backward twice the
  forward; the products within a chunk, which the chunkwise form adds, are not counted;
- traffic: what operations read from and write to main memory, padding of tiles included; of an
  array that is sliced or updated inside a fusion, the slice; what stays in on-chip memory is none.

With loops counted once, operations come to XLA's own count less its elementwise work: the report
gives both, tests/test_aot.py holds one against the other.
"""

import dataclasses
import math
import re
from collections import Counter

import numpy as np

from experiments.aot import hlo
from experiments.aot.hlo import Array, Computation, Instruction, Module

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
_KERNEL = 'custom_call_target="tpu_custom_call"'
# Change names or layout, or are counted where they start or inside.
_FREE = {
    "parameter",
    "constant",
    "get-tuple-element",
    "tuple",
    "bitcast",
    "after-all",
    "partition-id",
    "replica-id",
    "while",
    "call",
    "conditional",
    "async-start",
    "iota",
    "opt-barrier",
}
_SLICES = {"dynamic-slice", "slice", "gather"}


@dataclasses.dataclass(frozen=True)
class Collective:
    """All collectives of one kind over groups of one size, in one call of the module.

    Attributes:
      kind: XLA's name.
      devices: of a group.
      times: how often one runs, loops multiplied out.
      in_loops: how many of those run in a loop.
      payload_bytes: operands of one device, summed over `times`.
      sent_bytes: bytes that a device sends, by the formula of a ring (see `_sent`).
    """

    kind: str
    devices: int
    times: int
    in_loops: int
    payload_bytes: int
    sent_bytes: float


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one device and one call of the module."""

    flops: float
    kernel_flops: float  # part of flops
    product_flops_once: float  # without kernels and with loops counted once, as XLA does
    hbm_bytes: float
    kernels: dict[str, int]  # name of a Mosaic kernel to how often it runs
    collectives: tuple[Collective, ...]
    unknown_loops: tuple[str, ...]  # counted once

    @property
    def sent_bytes(self) -> float:
        return sum(c.sent_bytes for c in self.collectives)


def count(module: Module) -> Cost:
    """Counts a module that `hlo.parse` has read."""
    runs, unknown = hlo.runs(module)
    flops = once = kernel_flops = hbm_bytes = 0.0
    kernels: Counter[str] = Counter()
    collectives: dict[tuple[str, int], list[float]] = {}
    for run in runs:
        for instruction in run.computation.instructions.values():
            kind = instruction.opcode.removesuffix("-start")
            product = _product_flops(run.computation, instruction)
            once += product
            flops += run.times * product
            if _KERNEL in instruction.attributes:
                name = re.sub(r"[.\d]+$", "", instruction.name)
                kernels[name] += run.times
                kernel_flops += run.times * _kernel_flops(run.computation, instruction, name)
            if kind in COLLECTIVES:
                devices = hlo.group_size(instruction) if kind != "collective-permute" else 2
                payload = sum(array.bytes for array in _inputs(run.computation, instruction))
                row = collectives.setdefault((kind, devices), [0, 0, 0, 0.0])
                row[0] += run.times
                row[1] += run.times if run.times > 1 else 0
                row[2] += run.times * payload
                row[3] += run.times * _sent(kind, devices, payload)
            if not run.fused:
                hbm_bytes += run.times * _traffic(module, run.computation, instruction)
    return Cost(
        flops=flops + kernel_flops,
        kernel_flops=kernel_flops,
        product_flops_once=once,
        hbm_bytes=hbm_bytes,
        kernels=dict(sorted(kernels.items())),
        collectives=tuple(
            Collective(kind, devices, int(row[0]), int(row[1]), int(row[2]), row[3])
            for (kind, devices), row in sorted(collectives.items())
        ),
        unknown_loops=tuple(unknown),
    )


def _sent(kind: str, devices: int, payload: int) -> float:
    """Bytes that one device sends in a ring of them, from the operands it holds."""
    others = devices - 1
    match kind:
        case "all-reduce":  # a reduce-scatter and an all-gather of its result
            return 2 * others / devices * payload
        case "all-gather":
            return others * payload
        case "reduce-scatter" | "all-to-all" | "ragged-all-to-all":
            return others / devices * payload
        case _:
            return payload


def _product_flops(computation: Computation, instruction: Instruction) -> float:
    if instruction.opcode == "dot":
        left = computation.operand(instruction, 0).outputs[0].shape
        found = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.attributes)
        summed = [int(d) for d in found.group(1).split(",") if d] if found else []
        return 2 * instruction.outputs[0].elements * math.prod(left[d] for d in summed)
    if instruction.opcode != "convolution":
        return 0
    left, right = (computation.operand(instruction, i).outputs[0].shape for i in (0, 1))
    left_axes, right_axes, out_axes = re.split("_|->", instruction.attribute("dim_labels"))
    output = instruction.outputs[0].shape
    total = 2 * output[out_axes.index("b")] * output[out_axes.index("f")]
    total *= right[right_axes.index("i")]
    window = _window(instruction, len(output) - 2)
    for axis in map(str, range(len(output) - 2)):
        size = left[left_axes.index(axis)]
        kernel, out = right[right_axes.index(axis)], output[out_axes.index(axis)]
        total *= _valid(size, kernel, out, window[int(axis)])
    return total


def _window(instruction: Instruction, axes: int) -> list[dict[str, int]]:
    """Stride, dilations and low padding of each spatial axis of a convolution."""
    found = re.search(r"window=\{([^}]*)\}", instruction.attributes)
    text = dict(part.split("=") for part in found.group(1).split()) if found else {}
    names = {"stride": "1", "lhs_dilate": "1", "rhs_dilate": "1", "pad": "0_0"}
    rows = {
        name: [int(v.split("_")[0]) for v in text.get(name, "x".join([default] * axes)).split("x")]
        for name, default in names.items()
        if axes
    }
    return [{name: rows[name][axis] for name in names} for axis in range(axes)]


def _valid(size: int, kernel: int, output: int, window: dict[str, int]) -> int:
    """Pairs of output position and kernel position that meet an input, not padding or a hole."""
    at = np.arange(output)[:, None] * window["stride"] - window["pad"]
    at = at + np.arange(kernel)[None, :] * window["rhs_dilate"]
    inside = (at >= 0) & (at % window["lhs_dilate"] == 0) & (at // window["lhs_dilate"] < size)
    return int(inside.sum())


def _kernel_flops(computation: Computation, instruction: Instruction, name: str) -> float:
    """Of `pallas_kernels.tpu`: q, k, v `[B, T, H * D]`, two gates, state `[B, ..., Hv, Dk, Dv]`."""
    if not name.startswith("gated_delta_rule"):
        return 0
    arrays = _inputs(computation, instruction)
    length, state = arrays[2].shape[1], arrays[5].shape
    forward = 2 * 3 * length * state[0] * math.prod(state[-3:])
    return forward if name.endswith("forward") else 2 * forward


def _inputs(computation: Computation, instruction: Instruction) -> list[Array]:
    names = instruction.operands
    return [array for name in names for array in computation.instructions[name].outputs]


def _traffic(module: Module, computation: Computation, instruction: Instruction) -> float:
    opcode = instruction.opcode
    if opcode in _FREE or opcode.endswith("-done"):
        return 0
    if opcode == "custom-call" and _KERNEL not in instruction.attributes:
        return 0  # allocations and hints to the compiler
    if opcode == "fusion":
        return _fusion_traffic(module, computation, instruction)
    read = _hbm(tuple(_inputs(computation, instruction)))
    written = _hbm(instruction.outputs)
    if opcode == "copy-start":  # outputs: destination, source, semaphore
        return read + _hbm(instruction.outputs[:1])
    if opcode in _SLICES or opcode == "slice-start":  # the latter's: source, destination, semaphore
        result = instruction.outputs[opcode == "slice-start"]
        return (result.padded_bytes if read else 0) + _hbm((result,))
    if opcode == "dynamic-update-slice":
        return 2 * _hbm(computation.operand(instruction, 1).outputs)
    if opcode.endswith("-start"):  # outputs: operand, result
        written = _hbm(instruction.outputs[1:2])
    return read + written


def _fusion_traffic(module: Module, outer: Computation, fusion: Instruction) -> float:
    inner = module.computations[fusion.attribute("calls")]
    total = 0.0
    for instruction in inner.instructions.values():
        if instruction.opcode == "parameter":
            operand = outer.operand(fusion, int(instruction.literal))
            total += _read(inner, instruction, _hbm(operand.outputs))
    roots = [inner.root]
    if inner.root.opcode == "tuple":
        roots = [inner.instructions[name] for name in inner.root.operands]
    for root, output in zip(roots, fusion.outputs, strict=False):
        root = _behind_bitcasts(inner, root)
        if root.opcode == "dynamic-update-slice" and not output.on_chip:
            update = inner.operand(root, 1).outputs
            total += sum(array.padded_bytes for array in update)
        else:
            total += _hbm((output,))
    return total


def _read(inner: Computation, parameter: Instruction, whole: float) -> float:
    """What a fusion reads of one operand of `whole` bytes in main memory."""
    if not whole:
        return 0
    total = 0.0
    for user in inner.instructions.values():
        if parameter.name not in user.operands:
            continue
        first = user.operands[0] == parameter.name
        if user.opcode == "bitcast":
            total += _read(inner, user, whole)
        elif first and user.opcode in _SLICES:
            total += sum(array.padded_bytes for array in user.outputs)
        elif first and user.opcode == "dynamic-update-slice":
            pass  # renewed in place
        else:
            return whole
    return min(total, whole)


def _behind_bitcasts(inner: Computation, instruction: Instruction) -> Instruction:
    while instruction.opcode == "bitcast":
        instruction = inner.operand(instruction, 0)
    return instruction


def _hbm(arrays: tuple[Array, ...]) -> float:
    return sum(array.padded_bytes for array in arrays if not array.on_chip)
