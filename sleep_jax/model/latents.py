"""Latents: a window of L tokens as L / n vectors that a decoder reads in the place of embeddings.

The third way to end a window beside passes of sleep and gradient steps (ttt_e2e.py): Latent Context
Language Models (arXiv 2606.09659). An encoder of its own reads the window alone, causally and with
positions from 0; n of its outputs at a time are pooled into one latent; an adapter, W2 GELU(W1
RMSNorm(z) + b1) + b2, takes it into the decoder's residual stream. Nothing is fixed in size: what
crosses a window's end are the decoder's keys and values of the latents, L / n of them a window.

As there: mean or concatenation of a group, no mixing between latents, raw tokens alone are
predicted. Ours: encoder and decoder are drawn at random, of one width, and learn together from the
first step on (as in the paper's search over architectures, not as in its staged training); no tags
stand around the latents; the windows' ends are the groups' ends, so no group is short.
"""

import flax.linen as nn
import jax

from sleep_jax.model.block import Block, activation_dtype, block_name
from sleep_jax.model.config import ModelConfig
from sleep_jax.model.layers import Linear, RMSNorm, parameter


class Encoder(nn.Module):
    """`tokens [B, L] int32 -> latents [B, L / n, D]`; n divides L."""

    config: ModelConfig

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        c = self.config
        shape, axes = (c.vocab_size, c.d_model), ("vocab", "embed")
        embedding = parameter(self, "embedding", nn.initializers.normal(1.0), axes, shape)
        h = embedding[tokens].astype(activation_dtype(c))
        for index in range(c.latents.blocks):
            h, _ = Block(c, "attention", name=block_name(index, "attention"))(h, None)
        return Adapter(c, name="adapter")(pooled(h, c.latents.ratio, c.latents.pooling))


def pooled(h: jax.Array, ratio: int, pooling: str) -> jax.Array:
    """`[B, L, D]` in groups of n tokens: their mean `[B, L / n, D]`, or all, `[B, L / n, n D]`."""
    rows, length, features = h.shape
    groups = h.reshape(rows, length // ratio, ratio, features)
    if pooling == "mean":
        return groups.mean(axis=2)
    return groups.reshape(rows, length // ratio, ratio * features)


class Adapter(nn.Module):
    """`W2 GELU(W1 RMSNorm(z) + b1) + b2`, `[B, M, pooled features] -> [B, M, D]`; no residual."""

    config: ModelConfig

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        width = self.config.d_model
        into, out = ("embed", "norm"), ("norm", "embed")

        def bias(name: str) -> jax.Array:
            shape = (width,)
            return parameter(self, name, nn.initializers.zeros, ("norm",), shape).astype(z.dtype)

        z = RMSNorm(self.config.norm_eps, name="norm")(z)
        (z,) = Linear((("up", width, into),), name="in")(z)
        z = nn.gelu(z + bias("in_bias"), approximate=False)
        (z,) = Linear((("down", width, out),), name="out")(z)
        return z + bias("out_bias")
