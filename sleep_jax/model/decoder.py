"""The decoder as four pure functions: parameters in, arrays out.

`blocks(params, h, fast) -> (h, fast)` is the one door between the sleep loop and the model: the
loop knows nothing of layers, the model nothing of windows, passes or eviction. `fast` is a dict
with one float32 state `[B, Hv, Dk, Dv]` per fast-weight block, keyed by the block's name.
"""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sleep_jax.config import ModelConfig
from sleep_jax.model.attention import Attention
from sleep_jax.model.gated_delta_net import GatedDeltaNet
from sleep_jax.model.layers import RMSNorm, SwiGLU, parameter

Parameters = Any  # nested dict of float32 arrays
FastWeights = dict[str, jax.Array]


class Decoder(nn.Module):
    """Pre-norm residual blocks between an embedding and an untied unembedding; no biases."""

    config: ModelConfig

    def setup(self) -> None:
        c = self.config
        self.embedding = parameter(
            self,
            "embedding",
            nn.initializers.normal(1.0),
            ("vocab", "embed"),
            (c.vocab_size, c.d_model),
        )
        self.names = [block_name(i, mixer) for i, mixer in enumerate(c.pattern)]
        self.layers = [
            Block(c, mixer, name=name) for name, mixer in zip(self.names, c.pattern, strict=True)
        ]
        self.final_norm = RMSNorm(c.norm_eps)
        self.unembedding = parameter(
            self,
            "unembedding",
            nn.initializers.lecun_normal(),
            ("embed", "vocab"),
            (c.d_model, c.vocab_size),
        )

    def embed(self, tokens: jax.Array) -> jax.Array:
        return self.embedding[tokens].astype(activation_dtype(self.config))

    def blocks(self, h: jax.Array, fast: FastWeights) -> tuple[jax.Array, FastWeights]:
        new = dict(fast)
        for name, layer in zip(self.names, self.layers, strict=True):
            h, state = layer(h, fast.get(name))
            if state is not None:
                new[name] = state
        return h, new

    def unembed(self, h: jax.Array) -> jax.Array:
        h = self.final_norm(h)
        dtype = jnp.promote_types(h.dtype, jnp.float32)
        return jnp.matmul(h, self.unembedding.astype(h.dtype), preferred_element_type=dtype)

    def __call__(self, tokens: jax.Array, fast: FastWeights) -> tuple[jax.Array, FastWeights]:
        h, fast = self.blocks(self.embed(tokens), fast)
        return self.unembed(h), fast


class Block(nn.Module):
    """Mixer and SwiGLU, each behind an RMSNorm and added to the stream."""

    config: ModelConfig
    mixer: str

    @nn.compact
    def __call__(self, h: jax.Array, state: jax.Array | None) -> tuple[jax.Array, jax.Array | None]:
        c = self.config
        x = RMSNorm(c.norm_eps, name="mixer_norm")(h)
        if self.mixer == "attention":
            y = Attention(c.attention, c.norm_eps, name="mixer")(x)
        else:
            assert state is not None, f"{self.name} needs fast weights"
            y, state = GatedDeltaNet(c.gated_delta_net, c.norm_eps, name="mixer")(x, state)
        h = h + y
        x = RMSNorm(c.norm_eps, name="mlp_norm")(h)
        return h + SwiGLU(c.mlp_hidden, name="mlp")(x), state


def block_name(index: int, mixer: str) -> str:
    """Name of a block in the parameter tree, e.g. `block_01_gated_delta_net`."""
    return f"block_{index:02d}_{mixer}"


def activation_dtype(config: ModelConfig) -> jnp.dtype:
    """Dtype of the residual stream. "auto" must have been resolved for a device before."""
    return jnp.dtype(config.activation_dtype)


def initial_fast_weights(config: ModelConfig, batch: int) -> FastWeights:
    """S = 0 for every fast-weight block (Algorithm 1); zeros, not learned."""
    c = config.gated_delta_net
    shape = (batch, c.value_heads, c.key_dim, c.value_dim)
    return {
        block_name(i, mixer): jnp.zeros(shape, jnp.float32)
        for i, mixer in enumerate(config.pattern)
        if mixer == "gated_delta_net"
    }


def init(config: ModelConfig, key: jax.Array) -> Parameters:
    """Parameters as a nested dict of float32 arrays, without metadata."""
    return nn.unbox(_init_boxed(config, key))["params"]


def logical_axes(config: ModelConfig) -> Parameters:
    """Tree of the parameters' logical axis names, a `PartitionSpec` each; touches no device."""
    shapes = jax.eval_shape(lambda: _init_boxed(config, jax.random.key(0)))
    return nn.get_partition_spec(shapes)["params"]


def count_parameters(config: ModelConfig) -> int:
    """Number of parameters; touches no device."""
    shapes = jax.eval_shape(lambda: init(config, jax.random.key(0)))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


def _init_boxed(config: ModelConfig, key: jax.Array) -> Any:
    # Parameters do not depend on the activations' dtype, which "auto" leaves open until a run.
    config = dataclasses.replace(config, activation_dtype="float32")
    tokens = jnp.zeros((1, 1), jnp.int32)
    return Decoder(config).init(key, tokens, initial_fast_weights(config, 1))


def embed(config: ModelConfig, params: Parameters, tokens: jax.Array) -> jax.Array:
    """`tokens [B, L] int32 -> h [B, L, D]`."""
    return _apply(config, params, "embed", tokens)


def blocks(
    config: ModelConfig, params: Parameters, h: jax.Array, fast: FastWeights
) -> tuple[jax.Array, FastWeights]:
    """One pass of all blocks over one window: `h [B, L, D]` and the fast weights, both renewed."""
    return _apply(config, params, "blocks", h, fast)


def unembed(config: ModelConfig, params: Parameters, h: jax.Array) -> jax.Array:
    """`h [B, L, D] -> logits [B, L, V]`, float32."""
    return _apply(config, params, "unembed", h)


def _apply(config: ModelConfig, params: Parameters, method: str, *args: Any) -> Any:
    return Decoder(config).apply({"params": params}, *args, method=method)
