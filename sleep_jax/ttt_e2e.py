"""TTT-E2E: fast weights written by gradient steps on a window (Tandon et al., arXiv 2512.23675).

The other way to fill fixed-size fast weights before a cache is dropped. Where sleep runs the blocks
over a window N times more and lets them write, here each sequence takes N steps of gradient descent
on what it has just read: the loss is its own next token, the weights are its prime MLPs. Training
differentiates through the steps, so that everything, W0 included, learns to be changed to some use.

As the paper has it: SGD without momentum at rate 1, the gradient of each sequence shortened to norm
1 over all its prime MLPs, float32 fast weights that start from W0 in every sequence. Ours: the
chunk is the window, whose last token has no target in it; only answers are trained on, as in the
rest of this suite, not the tokens on the way; N > 1 steps on one window; no warm-up of the inner
rate.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from sleep_jax.model.config import PrimeMLPConfig

_TINY = 1e-12  # under the root, where the norm of a gradient of zeros would have no derivative


def descend(
    predict: Callable[[Any], jax.Array],
    tokens: jax.Array,
    fast: Any,
    steps: int,
    config: PrimeMLPConfig,
    remat: bool = False,
) -> Any:
    """N gradient steps on the next-token loss of one window; returns the fast weights.

    Args:
      predict: `fast -> logits [B, L, V]` of the window, float32.
      tokens: `[B, L]` int32, L >= 2; position i is scored on token i + 1.
      fast: tree of arrays `[B, ...]` float32, a part of its own for each sequence.
      steps: N >= 1, static.
      remat: keep only the fast weights between steps for the outer backward.
    """

    def loss(fast: Any) -> jax.Array:
        logits = predict(fast)[:, :-1]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
        return jnp.sum(jnp.mean(losses, axis=1))  # sequences share no weights: a gradient for each

    def step(fast: Any, _: None) -> tuple[Any, None]:
        gradient = jax.grad(loss)(fast)
        gradient = gradient if config.second_order else lax.stop_gradient(gradient)
        update = jax.vmap(lambda one: _shortened(one, config.clip_norm))(gradient)
        return jax.tree.map(lambda w, g: w - config.learning_rate * g, fast, update), None

    fast, _ = lax.scan(jax.checkpoint(step) if remat else step, fast, length=steps)
    return fast


def _shortened(gradient: Any, norm: float) -> Any:
    """The gradient of one sequence, at most this long."""
    length = jnp.sqrt(optax.tree.norm(gradient, squared=True) + _TINY)
    return jax.tree.map(lambda g: g * jnp.minimum(1.0, norm / length), gradient)
