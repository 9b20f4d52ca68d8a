"""Attention of which some heads read the whole cache and others a sliding window.

ConSA (arXiv 2606.18056). What a unit, a KV head or a whole layer, does is decided by one number,
log alpha. While it is learned a unit's output is a mixture of both kinds, `z full + (1 - z) local`,
with z between 0 and 1 by the hard concrete distribution (Louizos et al., arXiv 1712.01312). Once it
is decided there is one attention, masked by head: it says what is read, and saves nothing.

Which side of z is which, and what is mixed, the sources of the paper that we have do not say.

Dimension letters: B batch, T tokens, H query heads, R key-value heads, Dh features of a head.
"""

import math

import jax
import jax.numpy as jnp

from sleep_jax.model.config import LocalConfig

# Of the hard concrete distribution: its temperature, and the interval that is clipped to [0, 1].
BETA, LOW, HIGH = 2 / 3, -0.1, 1.1
LIMIT = math.log(100)  # of log alpha; a unit begins there, reading all


def hard_concrete(log_alpha: jax.Array) -> jax.Array:
    """z in [0, 1]: of log alpha with logistic noise a sample, of log alpha itself the middle."""
    return jnp.clip(jax.nn.sigmoid(log_alpha / BETA) * (HIGH - LOW) + LOW, 0, 1)


def attend(
    q: jax.Array, k: jax.Array, v: jax.Array, log_alpha: jax.Array, config: LocalConfig
) -> jax.Array:
    """Causal attention, by each unit to everything or to the newest `config.window` tokens.

    Args:
      q: `[B, T, H, Dh]`; k, v: `[B, T, R, Dh]`.
      log_alpha: `[R]`, or `[1]` for all of them; with `relaxed` noise may have been added.

    Returns:
      `[B, T, H, Dh]`.
    """
    length, heads = q.shape[1:3]
    by_head = jnp.repeat(log_alpha, heads // log_alpha.shape[0])
    key, query = jnp.arange(length), jnp.arange(length)[:, None]
    near = (key <= query) & (key > query - config.window)
    if config.relaxed:
        z = hard_concrete(by_head).astype(q.dtype)[:, None]
        full = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        return z * full + (1 - z) * jax.nn.dot_product_attention(q, k, v, mask=near)
    visible = (key <= query) & (near | (by_head > 0)[:, None, None])
    return jax.nn.dot_product_attention(q, k, v, mask=visible[None])
