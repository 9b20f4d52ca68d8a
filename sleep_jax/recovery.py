"""In how few directions a lost skill comes back, and whether these stand still.

*Recoverable but Not Stationary* (arXiv 2606.10929): a model that has lost a task learns it again,
and where it goes lies in few directions; not in those of gradients before the loss, and what
directions gradients have moves within a hundred updates. The paper's own definitions are not known
to us in all details; those here are in NOTES.md, "Recovery".

A model is one vector theta in R^D, float32. Its displacement is Delta = theta_T - theta_0, from
where training begins to where it ends. A basis is U in R^(D x k), float64, orthonormal; what it
captures of Delta is |U^T Delta|^2 / |Delta|^2, of the squared length.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh
from numpy.typing import NDArray

from sleep_jax.model.decoder import Parameters
from sleep_jax.training.optimizer import path_name
from sleep_jax.training.step import Batch, Program, gradient_sum

Vector = jax.Array  # [D], float32
Doubles = NDArray[np.float64]
Gradient = Callable[[Vector, Batch], Vector]
_APART = 1e-2  # of two thetas whose gradients are subtracted


class Flat(NamedTuple):
    """Parameters as a vector: `theta`, how they come `back` from one, and the `paths [D]`."""

    theta: Vector
    back: Callable[[Vector], Parameters]
    paths: NDArray[np.str_]


def flat(params: Parameters) -> Flat:
    """All of a model's parameters one after the other."""
    theta, back = ravel_pytree(params)
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    names = [path_name(path) for path, _ in leaves]
    return Flat(theta, back, np.repeat(names, [leaf.size for _, leaf in leaves]))


def gradient_of(program: Program, mesh: Mesh, back: Callable[[Vector], Parameters]) -> Gradient:
    """Jitted `(theta, batch) -> gradient` of nats a label, as the program's steps make it."""
    total = gradient_sum(program, mesh)

    def gradient(theta: Vector, batch: Batch) -> Vector:
        found, sums = total(back(theta), batch)
        return ravel_pytree(found)[0] / sums["labels"].sum()

    return jax.jit(gradient)


def samples(gradient: Gradient, theta: Vector, batches: Iterable[Batch]) -> Doubles:
    """`[n, D]`, a gradient of each of n batches."""
    return np.stack([np.asarray(gradient(theta, batch), np.float64) for batch in batches])


def top(gradients: Doubles, k: int) -> Doubles:
    """The k right singular vectors of gradients `[n, D]` with the largest singular values.

    Through the n x n Gram matrix; the largest first.
    """
    squares, left = np.linalg.eigh(gradients @ gradients.T)
    return orthonormal(gradients.T @ left[:, np.argsort(squares)[::-1][:k]])


def orthonormal(directions: Doubles) -> Doubles:
    """A basis, by QR, whose first j columns span those of the directions `[D, k]`, for every j."""
    return np.linalg.qr(directions)[0]


def krylov(gradient: Gradient, theta: Vector, batches: Sequence[Batch], k: int) -> Doubles:
    """A basis of g, Hg, ..., H^(k-1) g, gradient and Hessian at theta, of the mean of batches.

    Each is made orthogonal to those before it, which spans the same (Arnoldi); powers themselves
    would all point along the largest eigenvalue in float32. Products with H are central
    differences of gradients, as no kernel of the recurrence is differentiable twice.
    """

    def mean(theta: Vector) -> Doubles:
        return samples(gradient, theta, batches).mean(axis=0)

    found = [_unit(mean(theta))]
    while len(found) < k:
        step = jnp.asarray(_APART / 2 * found[-1], jnp.float32)
        new = mean(theta + step) - mean(theta - step)
        for _ in range(2):  # once leaves what rounding left
            new -= np.stack(found, 1) @ (np.stack(found) @ new)
        found.append(_unit(new))
    return np.stack(found, 1)


def _unit(vector: Doubles) -> Doubles:
    return vector / np.linalg.norm(vector)


def captured(basis: Doubles, displacement: Doubles) -> float:
    """Of the displacement's squared length, in the span of the basis."""
    return float(np.sum((basis.T @ displacement) ** 2) / np.sum(displacement**2))


def overlap(one: Doubles, other: Doubles) -> float:
    """|U^T V|_F^2 / k of two bases, in [0, 1]: k / D at random, 1 where they span the same."""
    return float(np.sum((one.T @ other) ** 2) / one.shape[1])


class Spectrum(NamedTuple):
    """How few directions gradients `[n, D]` have, s their singular values.

    Attributes:
      energy: share of sum s^2 in the k largest.
      of_any: the same of orthogonal directions of these lengths, so what no structure would have.
      stable_rank: sum s^2 / max s^2.
      participation: (sum s^2)^2 / sum s^4.
    """

    energy: float
    of_any: float
    stable_rank: float
    participation: float


def spectrum(gradients: Doubles, k: int) -> Spectrum:
    """Of gradients as they are; subtract their mean before to leave it out."""
    gram = gradients @ gradients.T
    squares = np.sort(np.linalg.eigvalsh(gram))[::-1]
    lengths = np.sort(gram.diagonal())[::-1]
    total = lengths.sum()
    return Spectrum(
        float(squares[:k].sum() / total),
        float(lengths[:k].sum() / total),
        float(total / squares[0]),
        float(total**2 / np.sum(squares**2)),
    )


def train(
    gradient: Gradient,
    optimizer: optax.GradientTransformation,
    theta: Vector,
    batches: Iterable[Batch],
    plane: Doubles | None = None,
) -> NDArray[np.float32]:
    """One update a batch; where it went, `[T + 1, D]`, from theta on.

    Args:
      plane: a basis U: theta + U c is moved by c alone, from c = 0. None: all of theta.
    """
    within = None if plane is None else jnp.asarray(plane, jnp.float32)
    moved = theta if within is None else jnp.zeros(within.shape[1])
    moments = optimizer.init(moved)
    update = jax.jit(optimizer.update)
    path = [theta]
    for batch in batches:
        steepest = gradient(path[-1], batch)
        if within is not None:
            steepest = steepest @ within
        step, moments = update(steepest, moments, moved)
        moved = moved + step
        path.append(moved if within is None else theta + within @ moved)
    return np.stack([np.asarray(point) for point in path])
