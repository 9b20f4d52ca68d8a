"""Compiles the training step of a run for a slice of TPUs that is not there.

libtpu holds the whole compiler, so a CPU will do; nothing is allocated but one example of the task.
The environment must say so before JAX is imported: `python -m experiments.aot` sees to it.
"""

import dataclasses
import re
import time
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh

from experiments.aot import jobs
from sleep_jax import distributed
from sleep_jax.chips import CHIPS, Chip
from sleep_jax.config import RunConfig
from sleep_jax.distributed import MeshConfig
from sleep_jax.errors import UserError
from sleep_jax.tasks.task import TRAIN
from sleep_jax.training.step import Program, abstract_state, make_train_step, state_shardings

EXAMPLES = "v5e:16x16, v5p:8x8x8, v6e:16x16, tpu7x:4x4x4"


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one device. `needed` is the compiler's plan: arguments, temporaries, results that
    reuse no argument, and code."""

    argument: int
    temporary: int
    output: int
    aliased: int
    code: int

    @property
    def needed(self) -> int:
        return self.argument + self.temporary + self.output - self.aliased + self.code


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What the compiler made of a step."""

    text: str
    memory: Memory
    xla_flops: float  # XLA's cost analysis: loops counted once, kernels not at all
    seconds: float


@dataclasses.dataclass(frozen=True)
class OutOfMemory:
    """What the compiler said of a step that does not fit; sizes are its own words, e.g. `25.3G`."""

    needed: str
    available: str
    seconds: float


def topology_devices(name: str) -> tuple[list[Any], Chip]:
    """Devices of a topology such as `v5e:16x16`, and the chip they are.

    Raises:
      UserError: libtpu is missing, does not know the topology, or we have no figures of the chip.
    """
    try:
        devices = topologies.get_topology_desc(name, platform="tpu").devices
    except (RuntimeError, ValueError, NotImplementedError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"--topology={name} is not possible ({reason}); e.g. {EXAMPLES}") from None
    kind = devices[0].device_kind
    if kind not in CHIPS:
        known = ", ".join(chip.name for name, chip in CHIPS.items() if name.startswith("TPU"))
        raise UserError(f"--topology={name} is of {kind}; allowed: {known}")
    return list(devices), CHIPS[kind]


def topology_mesh(devices: list[Any], config: MeshConfig) -> Mesh:
    """The mesh of a run, over devices that are only described.

    Raises:
      UserError: sizes that do not fit the number of devices or the shape of the slice.
    """
    sizes = config.sizes(len(devices))
    types = (AxisType.Auto,) * len(sizes)
    try:
        return jax.make_mesh(sizes, distributed.AXES, axis_types=types, devices=devices)
    except NotImplementedError:  # JAX lays an axis along whole axes of the slice
        named = " ".join(f"--{n}={size}" for n, size in zip(distributed.AXES, sizes, strict=True))
        raise UserError(
            f"{named} does not fit this slice; allowed: sizes that are products of its sides"
        ) from None


def state_bytes(config: RunConfig, mesh: Mesh) -> int:
    """Bytes of the training state on one device, without padding."""
    program = Program.of(config, "tpu")
    state = abstract_state(program)
    shards = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(s.shard_shape(x.shape), x.dtype),
        state,
        state_shardings(program, mesh),
    )
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shards))


def compile_step(config: RunConfig, mesh: Mesh) -> Compiled | OutOfMemory:
    """Compiles `make_train_step` as a run of this configuration would.

    As far as `jax_optimization_level` lets it: at O0 XLA leaves out, among others, the placement of
    arrays in on-chip memory.
    """
    program = Program.of(config, "tpu")
    state = abstract_state(program)
    example = config.task.sample(config.train.seed, TRAIN, 0, 1)
    batch = {
        name: jax.ShapeDtypeStruct((config.train.batch_size, *array.shape[1:]), array.dtype)
        for name, array in example.items()
    }
    rate = jax.ShapeDtypeStruct((), "float32")
    lowered = make_train_step(program, mesh).lower(state, batch, rate)  # type: ignore[attr-defined]
    start = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        return _out_of_memory(error, time.perf_counter() - start)
    seconds = time.perf_counter() - start
    stats = compiled.memory_analysis()
    memory = Memory(
        argument=stats.argument_size_in_bytes,
        temporary=stats.temp_size_in_bytes,
        output=stats.output_size_in_bytes,
        aliased=stats.alias_size_in_bytes,
        code=stats.generated_code_size_in_bytes,
    )
    return Compiled(compiled.as_text(), memory, compiled.cost_analysis()["flops"], seconds)


def largest_batch(config: RunConfig, mesh: Mesh) -> tuple[int, Compiled | None]:
    """The largest global batch below the run's that fits, by bisection, and what it compiles to.

    Supposes that a smaller batch needs no more memory. 0 and None if not even the smallest fits.
    """
    step = mesh.shape["data"] * mesh.shape["fsdp"] * config.train.accumulate
    fits, fails = 0, config.train.batch_size // step
    best = None
    while fails - fits > 1:
        middle = (fits + fails) // 2
        result = compile_step(jobs.with_batch(config, middle * step), mesh)
        if isinstance(result, Compiled):
            fits, best = middle, result
        else:
            fails = middle
    return fits * step, best


def _out_of_memory(error: RuntimeError, seconds: float) -> OutOfMemory:
    text = str(error)
    used = re.search(r"Used ([\d.]+[KMGT]?) of ([\d.]+[KMGT]?) hbm", text) or re.search(
        r"\(([\d.]+[KMGT]?)\) exceeds available HBM \(([\d.]+[KMGT]?)\)", text
    )
    if used is None:
        raise error
    return OutOfMemory(used.group(1), used.group(2), seconds)
