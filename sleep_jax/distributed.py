"""Mesh and shardings: the one table from logical axis names to mesh axes, and what follows from it.

The batch is split over `data` and `fsdp`, the parameters and moments over `fsdp` and `tensor`. The
forward and backward of a step run inside one `jax.shard_map` over all three axes, so every
collective is written here, and none can appear where nobody wrote it:

- `gather` fetches the parameters over `fsdp`, once a step, before the loops over windows and
  passes;
- `sum_gradients` adds and scatters their gradients, once a step, after the loops;
- `enter` and `leave` are what tensor parallelism owes: one sum a mixer and one an MLP, forward and
  backward (Shoeybi et al., arXiv 1909.08053, Section 3). Each shard has whole heads, and with them
  its own fast weights, which therefore never move.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding

from sleep_jax.errors import UserError

DATA, FSDP, TENSOR = AXES = ("data", "fsdp", "tensor")
# What a device holds of an axis with this logical name. `head` is what all heads share: whole on
# every device, but each shard of `tensor` sees a part of its gradient. `rank` is whole as well, on
# the way from such features to those of the heads.
MESH_AXIS = {
    "batch": (DATA, FSDP),
    "vocab": (),
    "embed": (FSDP,),
    "heads": (TENSOR,),
    "mlp": (TENSOR,),
    "gates": (TENSOR,),
    "conv": (),
    "rank": (),
    "norm": (),
    "head": (),
}


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh's axes; -1, at most once, is what the other two leave of the devices."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1

    def sizes(self, devices: int) -> tuple[int, int, int]:
        """Sizes without -1.

        Raises:
          UserError: a size that cannot be, or sizes whose product is not the number of devices.
        """
        sizes = dict(zip(AXES, (self.data, self.fsdp, self.tensor), strict=True))
        for name, size in sizes.items():
            if size < 1 and size != -1:
                raise UserError(f"--{name}={size} is not possible; allowed: >= 1, or -1 (the rest)")
        open_axes = [name for name, size in sizes.items() if size == -1]
        if len(open_axes) > 1:
            flags = " ".join(f"--{name}=-1" for name in open_axes)
            raise UserError(f"{flags} is not possible; allowed: -1 for one axis")
        fixed = math.prod(size for size in sizes.values() if size != -1)
        if devices % fixed or (not open_axes and fixed != devices):
            flags = " ".join(f"--{name}={size}" for name, size in sizes.items())
            raise UserError(
                f"{flags} does not fit {devices} devices; allowed: sizes whose product is {devices}"
            )
        data, fsdp, tensor = (devices // fixed if n == -1 else n for n in sizes.values())
        return data, fsdp, tensor


def make_mesh(
    config: MeshConfig = MeshConfig(),
    axis_type: AxisType = AxisType.Auto,
    devices: Sequence[Any] | None = None,
) -> Mesh:
    """A mesh `(data, fsdp, tensor)`; one device is a mesh of one.

    Args:
      axis_type: of all three axes.
      devices: None is all devices of all processes.

    Raises:
      UserError: the sizes do not fit the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes, types = config.sizes(len(devices)), (axis_type,) * len(AXES)
    return jax.make_mesh(sizes, AXES, axis_types=types, devices=devices)


def spec(mesh: Mesh, logical: PartitionSpec) -> PartitionSpec:
    """Mesh axes, those of size 1 left out, of an array whose axes have these logical names."""

    def split(name: str | None) -> Any:
        axes = MESH_AXIS[name] if name is not None else ()
        axes = tuple(axis for axis in axes if mesh.shape[axis] > 1)
        return axes if len(axes) > 1 else axes[0] if axes else None

    return PartitionSpec(*(split(name) for name in logical))


def sharding(mesh: Mesh, logical: PartitionSpec) -> NamedSharding:
    """Sharding of an array whose axes have these logical names (None: not named, replicated)."""
    return NamedSharding(mesh, spec(mesh, logical))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Sharding of arrays `[batch, ...]`."""
    return sharding(mesh, PartitionSpec("batch"))


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding of arrays that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def require_batch_divides(mesh: Mesh, batch_size: int, accumulate: int) -> None:
    """Raises UserError unless every shard of every micro-batch has the same number of rows."""
    shards = mesh.shape[DATA] * mesh.shape[FSDP]
    if batch_size % (shards * accumulate):
        raise UserError(
            f"train.batch_size={batch_size} is not possible; allowed: a multiple of "
            f"--data={mesh.shape[DATA]} * --fsdp={mesh.shape[FSDP]} * "
            f"train.accumulate={accumulate}"
        )


def batch_part(mesh: Mesh) -> tuple[int, int]:
    """(index, count): this process holds the index-th of `count` equal parts of a batch's rows.

    Processes that differ only along `tensor` hold the same part.

    Raises:
      UserError: the rows cannot be dealt out so.
    """
    rows = mesh.devices.reshape(-1, mesh.shape[TENSOR])
    held: dict[int, set[int]] = {}
    for index, devices in enumerate(rows):
        for device in devices:
            held.setdefault(device.process_index, set()).add(index)
    parts = sorted({tuple(sorted(part)) for part in held.values()})
    if sum(map(len, parts)) != len(rows) or len({len(part) for part in parts}) > 1:
        raise UserError(
            f"--tensor={mesh.shape[TENSOR]} is not possible; allowed: whole shards in a process, "
            "or whole processes in a shard"
        )
    return parts.index(tuple(sorted(held[jax.process_index()]))), len(parts)


def require_divides(sharding: NamedSharding, name: str, shape: tuple[int, ...]) -> None:
    """Raises UserError unless an array of this shape can be split so, naming flag and parameter."""
    for axis, size in zip(sharding.spec, shape, strict=False):
        if axis is not None and size % sharding.mesh.shape[axis]:
            raise UserError(
                f"--{axis}={sharding.mesh.shape[axis]} does not divide {size} of {name} "
                f"{list(shape)}; allowed: a divisor of it"
            )


def to_mesh(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, Any]:
    """This process's `batch_part` `[B / parts, ...]` as global arrays `[B, ...]` over the mesh."""
    rows = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(rows, array) for name, array in batch.items()
    }


def whole_to_mesh(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, Any]:
    """The same for a batch `[B, ...]` that every process has whole; keeps the order of rows."""
    rows = batch_sharding(mesh)
    return {name: whole_array(array, rows) for name, array in batch.items()}


def whole_array(array: np.ndarray, sharding: Sharding) -> jax.Array:
    """An array that every process has whole as a global one, of which devices hold their shards."""
    return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)


# What follows runs inside the shard_map of a step: arrays are one device's shards.


def gather(params: Any, specs: Any) -> Any:
    """Parameters whole over `fsdp`, from shards; still split over `tensor`.

    Args:
      specs: tree of `spec`s, one a parameter.
    """

    def whole(shard: jax.Array, spec: PartitionSpec) -> jax.Array:
        if FSDP not in spec:
            return shard
        return lax.all_gather(shard, FSDP, axis=spec.index(FSDP), tiled=True)

    return jax.tree.map(whole, params, specs)


def sum_gradients(gradients: Any, specs: Any, axes: Any) -> Any:
    """Sum of all devices' gradients, of which each keeps its shard: the way back from `gather`.

    Args:
      specs: tree of `spec`s, one a parameter.
      axes: tree of logical axis names, a `PartitionSpec` a parameter.
    """

    def total(gradient: jax.Array, spec: PartitionSpec, logical: PartitionSpec) -> jax.Array:
        over = [DATA, TENSOR] if "head" in logical else [DATA]
        if FSDP in spec:
            gradient = lax.psum_scatter(
                gradient, FSDP, scatter_dimension=spec.index(FSDP), tiled=True
            )
        else:
            over.append(FSDP)
        over = [axis for axis in over if _over(axis) > 1]
        return lax.psum(gradient, tuple(over)) if over else gradient

    return jax.tree.map(total, gradients, specs, axes)


def enter(x: jax.Array) -> jax.Array:
    """Where an activation that all shards of `tensor` hold goes into products that they share."""
    return _enter(x) if _over(TENSOR) > 1 else x


def leave(x: jax.Array) -> jax.Array:
    """Sum over the shards of `tensor` of what each has computed from its heads or columns."""
    return _leave(x) if _over(TENSOR) > 1 else x


def _over(axis: str) -> int:
    """Shards of a mesh axis inside a shard_map; outside, 1."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.shape[axis] if axis in mesh.manual_axes else 1


# The shard_map does not track which values are replicated (the Pallas kernels could not say), so
# the two say themselves what they do to a gradient.


@jax.custom_vjp
def _enter(x: jax.Array) -> jax.Array:
    return x


_enter.defvjp(lambda x: (x, None), lambda _, gradient: (lax.psum(gradient, TENSOR),))


@jax.custom_vjp
def _leave(x: jax.Array) -> jax.Array:
    return lax.psum(x, TENSOR)


_leave.defvjp(lambda x: (lax.psum(x, TENSOR), None), lambda _, gradient: (gradient,))
