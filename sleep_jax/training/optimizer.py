"""Muon for hidden matrices, AdamW for the rest, each with its own rate under one schedule shape.

`OptimizerConfig.trained` may leave all but the fast-weight blocks as they are. Log alpha, where a
model has it, is learned in a way of its own (consa.py), or is not learned.

Built from optax's parts rather than with `optax.contrib.muon`, whose defaults pick the wrong
parameters for Muon, reuse Muon's rate for Adam, and turn Adam into NAdam.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from sleep_jax import consa
from sleep_jax.config import OptimizerConfig
from sleep_jax.stage_config import ConsaConfig
from sleep_jax.training.muon import scale_by_muon

_ITERATIONS = 5  # of Newton and Schulz, optax's default
MUON, ADAMW, FROZEN, GATES = "muon", "adamw", "frozen", "gates"
# Kernels between the residual stream and a block's inside, by the module that holds them. The
# gates of the delta rule (alpha, beta) are a column a head: scalars of the SSM rather than a
# matrix, so they go with the rest. A decay a channel (KDA) and the generator of the dynamic
# convolution (Jet) are matrices, both halves of each.
_HIDDEN = {
    "in": ("query", "key", "value", "gate", "up", "decay", "generator"),
    "out": ("down", "output"),
    "mixer": ("gate", "up", "down"),  # of a prime MLP: its W0
    "decay": ("up",),
    "value_convolution": ("kernels",),
}


def path_name(path: tuple[Any, ...]) -> str:
    """`block_00_attention/mixer/in/query` for a key path of the parameter tree."""
    return "/".join(str(entry.key) for entry in path)


def label(path: str, trained: str = "all") -> str:
    """The optimizer of one parameter, by its path; `trained` as in `OptimizerConfig`."""
    *parents, name = path.split("/")
    if name == consa.LEAF:
        return GATES
    if trained == "fast_weights" and not (parents and parents[0].endswith("gated_delta_net")):
        return FROZEN
    return MUON if parents and name in _HIDDEN.get(parents[-1], ()) else ADAMW


def labels(params: Any, trained: str = "all") -> Any:
    """Tree of `MUON`, `ADAMW`, `FROZEN` or `GATES`, one a parameter."""
    return jax.tree_util.tree_map_with_path(lambda path, _: label(path_name(path), trained), params)


def table(params: Any, trained: str = "all") -> list[dict[str, Any]]:
    """What parameters.json says of each: path, shape, sharding and optimizer."""
    return [
        {
            "path": path_name(path),
            "shape": list(leaf.shape),
            "sharding": str(leaf.sharding.spec),
            "optimizer": label(path_name(path), trained),
        }
        for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]
    ]


def without_frozen_gradients(params: Any, trained: str) -> Any:
    """The same parameters, of which the frozen ones have no gradient: none is computed for them."""
    return _where_frozen(lax.stop_gradient, params, trained)


def without_frozen_updates(updates: Any, trained: str) -> Any:
    """The same updates, zero for what is frozen: weight decay and momentum would move it too."""
    return _where_frozen(jnp.zeros_like, updates, trained)


def _where_frozen(change: Callable[[jax.Array], jax.Array], tree: Any, trained: str) -> Any:
    return jax.tree.map(
        lambda name, x: change(x) if name == FROZEN else x, labels(tree, trained), tree
    )


def orthogonalisation_flops(params: Any, trained: str = "all") -> int:
    """Operations of Muon's Newton-Schulz products in one update, which run FLOPs leave out.

    Five iterations of X X^T, its square, and their product with X, for every `[m, n]`, m <= n, that
    Muon has: 4 m^2 n + 2 m^3 each (two operations a multiply-add).
    """
    names = labels(params, trained)
    pairs = zip(jax.tree.leaves(names), jax.tree.leaves(params), strict=True)
    sides = [sorted(leaf.shape) for name, leaf in pairs if name == MUON]
    return sum(_ITERATIONS * (4 * m * m * n + 2 * m**3) for m, n in sides)


def schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Share of the full rate at a step (0-based): linear warm-up, constant, linear decay to 0."""
    warmup = round(config.warmup_fraction * steps)
    decay = round(config.decay_fraction * steps)
    return optax.join_schedules(
        [
            # A first step at rate 0 would be a batch thrown away.
            lambda step: (step + 1) / (warmup + 1),
            optax.constant_schedule(1.0),
            optax.linear_schedule(1.0, 0.0, max(decay, 1)),
        ],
        [warmup, steps - decay],
    )


def optimizer(
    config: OptimizerConfig, shardings: Any = None, learns: ConsaConfig | None = None
) -> optax.GradientTransformationExtraArgs:
    """The transformation at full rates; the step multiplies its updates by the schedule.

    Keeping the schedule outside lets runs of every length share one compiled step.

    Args:
      shardings: of the parameters, a `NamedSharding` each; None on one device.
      learns: how log alpha is learned, of which `update` is then told the `share` of the moment;
        None: never.
    """
    muon = optax.chain(
        scale_by_muon(config.muon_momentum, shardings),
        _scale_by_aspect(),
        optax.add_decayed_weights(config.weight_decay),
        optax.scale(-config.muon_learning_rate),
    )
    adamw = optax.adamw(
        config.adamw_learning_rate,
        b1=config.adamw_b1,
        b2=config.adamw_b2,
        eps=config.adamw_eps,
        weight_decay=config.weight_decay,
        nesterov=False,
    )
    parts: dict[Any, Any] = {MUON: muon, ADAMW: adamw, FROZEN: optax.set_to_zero()}
    if learns is not None:  # else the state has no such part, as in checkpoints from before it
        parts[GATES] = consa.constrained(learns)

    def part_of(params: Any) -> Any:
        names = labels(params, config.trained)
        return jax.tree.map(lambda name: name if name in parts else FROZEN, names)

    return optax.chain(optax.clip_by_global_norm(config.clip_norm), optax.partition(parts, part_of))


def _scale_by_aspect() -> optax.GradientTransformation:
    """Times `sqrt(max(1, out / in))` for a kernel `[in, out]`, Muon's usual width rule."""

    def scale(update: jax.Array) -> jax.Array:
        rows, columns = update.shape
        return update * jnp.sqrt(max(1.0, columns / rows))

    return optax.stateless(lambda updates, _: jax.tree.map(scale, updates))
