"""Muon's update on one device and on a mesh.

Matrices of one shape go through the Newton-Schulz iteration as one stack: a model has few shapes
and many matrices, and fifteen products for each would be most of what there is to compile.

The products mix all rows and columns of a matrix, so a matrix that is split over devices would be
sent around in each of them. Here every device instead gets whole matrices, its share of the stack:
one all-to-all brings them together, one takes the updates apart. No device ever holds more than its
share, and the work is divided too (over `fsdp` and `tensor`; the replicas along `data` repeat it,
which costs no communication).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec
from optax import contrib

STACK = (
    2**24
)  # elements at most on one device: a stack takes memory, and few large products suffice


def scale_by_muon(momentum: float, shardings: Any = None) -> optax.GradientTransformation:
    """`optax.contrib.scale_by_muon` with Nesterov momentum, for kernels `[in, out]`.

    Args:
      shardings: tree with a `NamedSharding` for each parameter; None on one device. The state is
        the same with and without.
    """
    muon = _muon(beta=momentum, nesterov=True)
    split = {
        path: sharding
        for path, sharding in jax.tree_util.tree_flatten_with_path(shardings)[0]
        if not sharding.is_fully_replicated
    }

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        # Nesterov momentum as optax has it, which does not give it out without the iteration.
        count = optax.safe_increment(state.count)
        average = optax.tree.update_moment(updates, state.mu, momentum, 1)
        ahead = optax.tree.bias_correction(average, momentum, optax.safe_increment(count))
        now = optax.tree.bias_correction(updates, momentum, count)
        updates = jax.tree.map(lambda a, g: momentum * a + (1 - momentum) * g, ahead, now)
        paths, tree = jax.tree_util.tree_flatten_with_path(updates)
        groups: dict[tuple[Any, ...], list[int]] = {}
        for index, (path, matrix) in enumerate(paths):
            groups.setdefault((split.get(path), matrix.shape), []).append(index)
        done: dict[int, jax.Array] = {}
        for (sharding, _), members in groups.items():
            matrices = [paths[index][1] for index in members]
            done.update(zip(members, _orthogonalise(matrices, sharding), strict=True))
        updates = jax.tree.unflatten(tree, [done[index] for index in range(len(paths))])
        return updates, contrib.MuonState(count, average, state.ns_coeffs)

    return optax.GradientTransformation(muon.init, update)


def _orthogonalise(matrices: list[jax.Array], sharding: NamedSharding | None) -> list[jax.Array]:
    """Of matrices of one shape and sharding."""
    if sharding is None:
        some = max(1, STACK // matrices[0].size)
        stacks = [matrices[i : i + some] for i in range(0, len(matrices), some)]
        return [matrix for stack in stacks for matrix in _newton_schulz(jnp.stack(stack))]
    stack = jnp.stack(matrices)
    spec = PartitionSpec(None, *sharding.spec)
    shares = sharding.mesh.size // sharding.mesh.shape["data"]
    padding = -len(matrices) % shares
    stack = jnp.pad(stack, ((0, padding), (0, 0), (0, 0)))
    share = functools.partial(_share, spec)
    mapped = jax.shard_map(
        share, mesh=sharding.mesh, in_specs=spec, out_specs=spec, check_vma=False
    )
    return list(mapped(stack)[: len(matrices)])


def _share(spec: PartitionSpec, shards: jax.Array) -> jax.Array:
    split = [(axis, dimension) for dimension, axis in enumerate(spec) if axis is not None]
    for axis, dimension in split:
        shards = lax.all_to_all(shards, axis, split_axis=0, concat_axis=dimension, tiled=True)
    whole = _newton_schulz(shards)
    for axis, dimension in reversed(split):
        whole = lax.all_to_all(whole, axis, split_axis=dimension, concat_axis=0, tiled=True)
    return whole


def _newton_schulz(stack: jax.Array) -> jax.Array:
    iteration = _muon(beta=0.0, nesterov=False)  # without momentum it is the iteration alone
    return jnp.asarray(iteration.update(stack, iteration.init(stack))[0])


def _muon(**options: Any) -> optax.GradientTransformation:
    def last_two(params: Any) -> Any:
        return jax.tree.map(lambda _: contrib.MuonDimensionNumbers(-2, -1), params)

    return contrib.scale_by_muon(weight_dimension_numbers=last_two, **options)
