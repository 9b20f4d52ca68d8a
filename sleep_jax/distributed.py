"""Mesh and shardings: the one table from logical axis names to mesh axes."""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

# Today the batch is split and the parameters are replicated; a new mesh axis is a change here only.
MESH_AXIS = {
    "batch": "data",
    "vocab": None,
    "embed": None,
    "heads": None,
    "mlp": None,
    "gates": None,
    "conv": None,
    "norm": None,
}


def make_mesh() -> Mesh:
    """All devices of all processes on one axis, `data`; one device is a mesh of one."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def sharding(mesh: Mesh, logical: PartitionSpec) -> NamedSharding:
    """Sharding of an array whose axes have these logical names (None: not named, replicated)."""
    axes = (None if name is None else MESH_AXIS[name] for name in logical)
    return NamedSharding(mesh, PartitionSpec(*axes))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Sharding of arrays `[batch, ...]`."""
    return sharding(mesh, PartitionSpec("batch"))


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding of arrays that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def to_mesh(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, Any]:
    """This process's rows `[B / processes, ...]` as global arrays `[B, ...]` over the mesh."""
    spec = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(spec, rows) for name, rows in batch.items()
    }
