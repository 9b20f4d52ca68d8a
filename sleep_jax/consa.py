"""Which heads or layers need the whole cache, learned under a constraint (ConSA, arXiv 2606.18056).

    min over theta, log alpha; max over lambda, phi:
        loss(theta, z) + lambda (r - rho) + phi (r - rho)^2,    z ~ HardConcrete(log alpha)

r is the expected share of units that are local, 1 - mean P(z > 0), and rho the share that is asked
for, which rises linearly in the first fifth of the steps. Multipliers begin at 0. They, and Adam's
moments of log alpha, are the state of an optax transformation, so all that is learned is in the
training state. When learning ends as many units as rho leaves, those of the largest log alpha, are
set to read all, and the others to read their window, for good (`decided`). To take log alpha > 0
instead, as the paper does, would not keep to rho: at log alpha = 0, P(z > 0) is .83.

Not said in the sources that we have: the constants of the distribution (here those of arXiv
1712.01312), the rates, how rho rises, where the multipliers begin, and a bound on them (phi is
bounded here; by ascent on a square it only grows).
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sleep_jax.config import RunConfig
from sleep_jax.model.local import BETA, HIGH, LIMIT, LOW
from sleep_jax.stage_config import ConsaConfig

LEAF = "log_alpha"
_RISING = 0.2  # share of the steps of learning in which rho rises
_MOST_QUADRATIC = 10.0
_NOISE = 1  # keeps these draws apart from all others made from the run's seed


class Choice(NamedTuple):
    """What a step of learning is given: the noise of its z, and rho of the moment."""

    key: jax.Array
    share: jax.Array


class ConstrainedState(NamedTuple):
    """Multipliers, `[S]` for S constraints, and Adam's moments of log alpha."""

    linear: jax.Array
    quadratic: jax.Array
    adam: optax.OptState


def choice(config: RunConfig, step: int) -> Choice:
    """Of the update that `step` others have gone before."""
    first, last = config.consa.steps(config.steps)
    risen = min(1.0, (step + 1 - first) / max(1.0, _RISING * (last - first)))
    key = jax.random.fold_in(jax.random.key(config.train.seed), _NOISE)
    share = jnp.asarray(config.consa.share * risen, jnp.float32)
    return Choice(jax.random.fold_in(key, step), share)


def gates(params: Any) -> dict[str, Any]:
    """Log alpha, `[units]`, by block name."""
    return {name: block["mixer"][LEAF] for name, block in params.items() if _has_gate(block)}


def with_gates(params: Any, values: dict[str, Any]) -> Any:
    """The parameters with another log alpha in these blocks."""
    return params | {
        name: params[name] | {"mixer": params[name]["mixer"] | {LEAF: value}}
        for name, value in values.items()
    }


def _has_gate(block: Any) -> bool:
    return isinstance(block, dict) and LEAF in block.get("mixer", {})


def noisy(params: Any, key: jax.Array) -> Any:
    """The parameters with logistic noise on log alpha: what one sample of z is made of."""
    found = gates(params)
    keys = jax.random.split(key, len(found))
    drawn = {
        name: value + jax.random.logistic(one, value.shape, value.dtype)
        for one, (name, value) in zip(keys, sorted(found.items()), strict=True)
    }
    return with_gates(params, drawn)


def expected_local(log_alpha: jax.Array) -> jax.Array:
    """r, the expected share of local units: 1 - mean P(z > 0), a scalar."""
    return 1 - jnp.mean(jax.nn.sigmoid(log_alpha - BETA * math.log(-LOW / HIGH)))


def constrained(config: ConsaConfig) -> optax.GradientTransformationExtraArgs:
    """Adam on log alpha with the gradient of the constraint, and ascent of its multipliers.

    `update(..., share=rho)`; without a share nothing is learned: updates are 0, and the state stays
    as it is. Updates never lead beyond `LIMIT`.
    """
    adam = optax.adam(config.learning_rate)

    def shares(params: Any) -> jax.Array:
        """r by constraint, `[S]`."""
        blocks = jax.tree.leaves(params)
        parts = blocks if config.budget == "each" else [jnp.concatenate(blocks)]
        return jnp.stack([expected_local(part) for part in parts])

    def init(params: Any) -> ConstrainedState:
        constraints = len(jax.tree.leaves(params)) if config.budget == "each" else 1
        zeros = jnp.zeros(constraints, jnp.float32)
        return ConstrainedState(zeros, zeros, adam.init(params))

    def update(
        updates: Any,
        state: Any,
        params: Any = None,
        *,
        share: jax.Array | None = None,
        **extra: Any,
    ) -> tuple[Any, ConstrainedState]:
        del extra  # of other transformations
        if share is None:
            return jax.tree.map(jnp.zeros_like, updates), state

        def penalty(params: Any) -> tuple[jax.Array, jax.Array]:
            excess = shares(params) - share
            return jnp.mean(state.linear * excess + state.quadratic * jnp.square(excess)), excess

        gradient, excess = jax.grad(penalty, has_aux=True)(params)
        total = jax.tree.map(jnp.add, updates, gradient)
        moves, moments = adam.update(total, state.adam, params)
        moves = jax.tree.map(lambda p, u: jnp.clip(p + u, -LIMIT, LIMIT) - p, params, moves)
        rate = config.multiplier_rate
        linear = state.linear + rate * excess
        quadratic = jnp.minimum(state.quadratic + rate * jnp.square(excess), _MOST_QUADRATIC)
        return moves, ConstrainedState(linear, quadratic, moments)

    return optax.GradientTransformationExtraArgs(init, update)


def decided(scores: dict[str, np.ndarray], config: ConsaConfig) -> dict[str, np.ndarray]:
    """Log alpha of units that are decided: as many as rho leaves, of the largest scores, read all.

    Args:
      scores: by block of attention, `[units]`; of equal ones the first wins.

    Returns:
      `LIMIT` or `-LIMIT` by block, float32.
    """
    blocks = sorted(scores)
    found = np.stack([scores[name] for name in blocks])
    parts = found if config.budget == "each" else found.reshape(1, -1)
    kept = parts.shape[1] - round(config.share * parts.shape[1])
    rank = np.argsort(np.argsort(-parts, axis=1, kind="stable"), axis=1)
    values = np.where(rank < kept, LIMIT, -LIMIT).reshape(found.shape).astype(np.float32)
    return dict(zip(blocks, values, strict=True))
