"""Softmax attention that sees one window only."""

import flax.linen as nn
import jax

from sleep_jax.config import AttentionConfig
from sleep_jax.model.layers import Linear, RMSNorm, rotate


class Attention(nn.Module):
    """Causal grouped-query attention with RoPE, `[B, L, D] -> [B, L, D]`.

    Positions start at 0 in every window and nothing is kept after it: eviction is the absence of an
    argument, not a mask. Softmax and its logits are float32.
    """

    config: AttentionConfig
    norm_eps: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = self.config

        axes = ("embed", "heads")
        q, k, v = Linear(
            (
                ("query", c.heads * c.head_dim, axes),
                ("key", c.kv_heads * c.head_dim, axes),
                ("value", c.kv_heads * c.head_dim, axes),
            ),
            name="in",
        )(x)
        q, k, v = (y.reshape(*x.shape[:-1], -1, c.head_dim) for y in (q, k, v))
        if c.qk_norm:
            q = RMSNorm(self.norm_eps, name="query_norm")(q)
            k = RMSNorm(self.norm_eps, name="key_norm")(k)
        q, k = rotate(q, c.rope_theta), rotate(k, c.rope_theta)
        y = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        y = y.reshape(*x.shape[:-1], c.heads * c.head_dim)
        (y,) = Linear((("output", x.shape[-1], ("heads", "embed")),), name="out")(y)
        return y
