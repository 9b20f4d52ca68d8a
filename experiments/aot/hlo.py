"""Reads the text of a compiled XLA module: computations, instructions, and how often each runs.

Only what `cost.py` needs: shapes with their tiles and memory, operands, attributes, and the trip
counts of loops, which the compiler's own cost analysis does not multiply by. Format: the text that
`jax.stages.Compiled.as_text` returns, of XLA's CPU and TPU compilers.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

_BITS = {"pred": 8, "bf16": 16, "token": 0, "opaque": 0}  # of the rest, the digits in the name
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^}]*)\})?")
_COMMENT = re.compile(r"/\*.*?\*/")
_NAME = re.compile(r"%([\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Array:
    """An array as the program lays it out; `on_chip` is any memory but the device's main one."""

    dtype: str
    shape: tuple[int, ...]
    padded_shape: tuple[int, ...]
    on_chip: bool

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Of the values alone."""
        return math.ceil(self.elements * _bits(self.dtype) / 8)

    @property
    def padded_bytes(self) -> int:
        """With the padding of its tiles."""
        return math.ceil(math.prod(self.padded_shape) * _bits(self.dtype) / 8)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """`name = outputs opcode(operands), attributes`; `literal` is what is between the brackets."""

    name: str
    opcode: str
    outputs: tuple[Array, ...]
    literal: str
    attributes: str

    @property
    def operands(self) -> list[str]:
        return _NAME.findall(self.literal)

    def attribute(self, name: str) -> str:
        """Value of `name=value` up to a comma or space, without %; empty if there is none."""
        found = re.search(rf"\b{name}=%?([^\s,]+)", self.attributes)
        return found.group(1) if found else ""


@dataclasses.dataclass(frozen=True)
class Computation:
    """Instructions by name, in the order of the text."""

    name: str
    instructions: dict[str, Instruction]
    root: Instruction

    def operand(self, instruction: Instruction, index: int) -> Instruction:
        return self.instructions[instruction.operands[index]]


@dataclasses.dataclass(frozen=True)
class Module:
    computations: dict[str, Computation]
    entry: Computation


@dataclasses.dataclass(frozen=True)
class Run:
    """A computation and how often a call of the module runs it; `fused`: inside one operation."""

    computation: Computation
    times: int
    fused: bool


def parse(text: str) -> Module:
    """The module of a text.

    Raises:
      ValueError: the text holds no entry computation.
    """
    computations: dict[str, Computation] = {}
    entry = None
    # A computation starts at the beginning of a line and ends with a bracket there.
    for block in re.finditer(r"^(ENTRY )?%?([\w.\-]+) \([^\n]*\{\n(.*?)^\}", text, re.M | re.S):
        instructions: dict[str, Instruction] = {}
        root = None
        for line in block.group(3).splitlines():
            instruction = _instruction(line)
            if instruction is None:
                continue
            instructions[instruction.name] = instruction
            if line.lstrip().startswith("ROOT ") or root is None:
                root = instruction
        assert root is not None, block.group(2)
        computation = Computation(block.group(2), instructions, root)
        computations[computation.name] = computation
        entry = computation if block.group(1) else entry
    if entry is None:
        raise ValueError("no ENTRY computation in the text of the compiled module")
    return Module(computations, entry)


def runs(module: Module) -> tuple[list[Run], list[str]]:
    """All computations with how often they run, and the loops of unknown length (counted once)."""
    unknown: list[str] = []

    def visit(computation: Computation, times: int, fused: bool) -> Iterator[Run]:
        yield Run(computation, times, fused)
        for instruction in computation.instructions.values():
            if instruction.opcode == "while":
                trips = _trip_count(module, computation, instruction)
                if trips is None:
                    unknown.append(instruction.name)
                inner = times * (1 if trips is None else trips)
                yield from visit(_called(module, instruction, "body"), inner, fused)
            elif instruction.opcode == "conditional":  # either branch may run: all are counted
                branches = re.search(r"branch_computations=\{([^}]*)\}", instruction.attributes)
                names = _NAME.findall(branches.group(1)) if branches else []
                names += _NAME.findall(instruction.attribute("true_computation"))
                for name in names:
                    yield from visit(module.computations[name], times, fused)
            elif instruction.opcode in ("fusion", "call", "async-start"):
                attribute = "to_apply" if instruction.opcode == "call" else "calls"
                inside = fused or instruction.opcode == "fusion"
                yield from visit(_called(module, instruction, attribute), times, inside)

    return list(visit(module.entry, 1, False)), unknown


def group_size(instruction: Instruction) -> int:
    """Devices that take part in one group of a collective, from any of XLA's three notations."""
    attributes = instruction.attributes
    if explicit := re.search(r"replica_groups=\{\{([\d,]*)\}", attributes):
        return len(explicit.group(1).split(","))
    if iota := re.search(r"replica_groups=\[\d+,(\d+)\]<=", attributes):
        return int(iota.group(1))
    if named := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", attributes):
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", named.group(1)))
        axes = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", named.group(2))  # whole or a part of one
        return math.prod(int(part or sizes[axis]) for axis, part in axes)
    raise ValueError(f"no replica_groups in {instruction.name}: {attributes[:200]}")


def _called(module: Module, instruction: Instruction, attribute: str) -> Computation:
    return module.computations[instruction.attribute(attribute)]


def _trip_count(module: Module, where: Computation, loop: Instruction) -> int | None:
    """From the compiler's own note, else from a condition `counter < constant` and the counter."""
    if known := re.search(r'known_trip_count"?[:=]\{"n":"(\d+)"', loop.attributes):
        return int(known.group(1))
    condition = _called(module, loop, "condition")
    compare = condition.root
    if compare.opcode != "compare" or compare.attribute("direction") != "LT":
        return None
    counter, limit = (condition.operand(compare, i) for i in (0, 1))
    if counter.opcode != "get-tuple-element" or limit.opcode != "constant":
        return None
    initial = where.operand(loop, 0)
    if initial.opcode != "tuple":
        return None
    start = where.operand(initial, int(counter.attribute("index")))
    while start.opcode in ("copy", "bitcast"):
        start = where.operand(start, 0)
    return int(limit.literal) - int(start.literal) if start.opcode == "constant" else None


def _instruction(line: str) -> Instruction | None:
    name, equals, rest = _COMMENT.sub("", line).strip().removeprefix("ROOT ").partition(" = ")
    if not equals or not re.fullmatch(r"%?[\w.\-]+", name):
        return None
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    opened = rest.index("(", end)
    closed = _closing(rest, opened)
    return Instruction(
        name=name.lstrip("%"),
        opcode=rest[end:opened].strip(),
        outputs=tuple(_array(*found) for found in _SHAPE.findall(rest[:end])),
        literal=rest[opened + 1 : closed],
        attributes=rest[closed + 1 :],
    )


def _closing(text: str, opened: int) -> int:
    depth = 0
    for index in range(opened, len(text)):
        depth += {"(": 1, ")": -1}.get(text[index], 0)
        if depth == 0:
            return index
    raise ValueError(f"bracket never closed: {text[:200]}")


def _array(dtype: str, dimensions: str, layout: str) -> Array:
    shape = tuple(int(d) for d in dimensions.split(",") if d)
    memory = re.search(r"S\((\d+)\)", layout)
    padded = list(shape)
    order, _, tiles = layout.partition(":")
    tile = re.match(r"T\(([\d,]+)\)", tiles)
    if tile and shape:
        minor_first = [int(d) for d in order.split(",")]
        sizes = [int(size) for size in tile.group(1).split(",")[::-1]]
        for size, dimension in zip(sizes, minor_first, strict=False):
            padded[dimension] = math.ceil(shape[dimension] / size) * size
    return Array(dtype, shape, tuple(padded), bool(memory) and memory.group(1) != "0")


def _bits(dtype: str) -> int:
    return _BITS[dtype] if dtype in _BITS else int(re.sub(r"\D.*", "", dtype.lstrip("abcdefsu")))
