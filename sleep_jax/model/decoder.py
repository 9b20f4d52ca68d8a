"""The decoder as four pure functions: parameters in, arrays out.

`blocks(params, h, state) -> (h, state)` is the one door between the sleep loop and the model: the
loop knows nothing of layers, the model nothing of windows, passes or eviction. The state is a dict
by block name of what the blocks remember, and it alone decides what they can see of earlier tokens:

- fast weights, one float32 array `[B, Hv, Dk, Dv]` per Gated DeltaNet, or the `Displacement` of a
  prime MLP: nothing else from before this window is there, which is hard eviction;
- after `with_cache`, keys and values per attention block and the convolutions' last inputs per
  Gated DeltaNet as well: blocks go on where the last call stopped, by one token or many.
"""

import dataclasses
import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sleep_jax.errors import UserError
from sleep_jax.model.attention import KeyValues
from sleep_jax.model.block import Block, BlockState, activation_dtype, block_name
from sleep_jax.model.config import ModelConfig
from sleep_jax.model.gated_delta_net import GatedDeltaNetState, convolved, turned
from sleep_jax.model.latents import Encoder
from sleep_jax.model.layers import RMSNorm, parameter
from sleep_jax.model.prime_mlp import initial_displacement

Parameters = Any  # nested dict of float32 arrays
FastWeights = dict[str, Any]  # an array, or a Displacement, by block name
State = dict[str, Any]  # a BlockState by block name


class Decoder(nn.Module):
    """Pre-norm residual blocks between an embedding and an unembedding; no biases.

    Where windows become latents the encoder that makes them is a part of it. As a whole it is only
    initialised; a pass goes through it block by block, in `blocks` below.
    """

    config: ModelConfig

    def setup(self) -> None:
        c = self.config
        self.embedding = parameter(
            self,
            "embedding",
            nn.initializers.normal(c.d_model**-0.5 if c.tied_embeddings else 1.0),
            ("vocab", "embed"),
            (c.vocab_size, c.d_model),
        )
        self.layers = [
            Block(c, mixer, name=block_name(i, mixer)) for i, mixer in enumerate(c.pattern)
        ]
        self.encoder = Encoder(c) if c.has_latents else None
        self.final_norm = RMSNorm(c.norm_eps)
        if not c.tied_embeddings:
            self.unembedding = parameter(
                self,
                "unembedding",
                nn.initializers.lecun_normal(),
                ("embed", "vocab"),
                (c.d_model, c.vocab_size),
            )

    def embed(self, tokens: jax.Array) -> jax.Array:
        return self.embedding[tokens].astype(activation_dtype(self.config))

    def compress(self, tokens: jax.Array) -> jax.Array:
        assert self.encoder is not None, "the model has no latents"
        return self.encoder(tokens)

    def unembed(self, h: jax.Array) -> jax.Array:
        h = self.final_norm(h)
        dtype = jnp.promote_types(h.dtype, jnp.float32)
        matrix = self.embedding.T if self.config.tied_embeddings else self.unembedding
        return jnp.matmul(h, matrix.astype(h.dtype), preferred_element_type=dtype)

    def __call__(self, tokens: jax.Array, state: State) -> jax.Array:
        h = self.compress(tokens) if self.encoder else self.embed(tokens)
        for i, mixer in enumerate(self.config.pattern):
            h, _ = self.layers[i](h, state.get(block_name(i, mixer)))
        return self.unembed(h)


def initial_fast_weights(config: ModelConfig, batch: int) -> FastWeights:
    """S = 0 for every fast-weight block (Algorithm 1); zeros, not learned."""
    c = config.gated_delta_net
    shape = (batch, c.value_heads, c.key_dim, c.value_dim)
    empty = {
        "gated_delta_net": lambda: jnp.zeros(shape, jnp.float32),
        "prime_mlp": lambda: initial_displacement(config.prime_mlp, config.d_model, batch),
    }
    return {
        block_name(i, mixer): empty[mixer]()
        for i, mixer in enumerate(config.pattern)
        if mixer in empty
    }


def with_cache(
    config: ModelConfig, fast: FastWeights, batch: int, *, span: int, kept: int, room: int
) -> State:
    """These fast weights and an empty cache: the state of blocks that will go on within a text.

    Args:
      fast: fast weights by block name, of `batch` sequences.
      span: L; a token attends to the newest L tokens, itself included.
      kept: slots for tokens of earlier windows: L - 1, or 0 where `evict` is not called.
      room: slots for tokens of this window.
    """
    a, g = config.attention, config.gated_delta_net
    dtype = activation_dtype(config)
    cache = jnp.zeros((batch, kept + room, a.kv_heads, a.head_dim), dtype)
    at = jnp.full((), kept, jnp.int32)
    state: State = {}
    for i, mixer in enumerate(config.pattern):
        name = block_name(i, mixer)
        if mixer == "attention":
            state[name] = KeyValues(cache, cache, start=at, end=at, span=span)
        elif mixer == "prime_mlp":
            state[name] = fast[name]
        else:
            tails = (
                jnp.zeros((batch, g.conv_width - 1, size), dtype) for size in convolved(g).values()
            )
            state[name] = GatedDeltaNetState(fast[name], tuple(tails))
    return state


def evict(config: ModelConfig, state: State) -> State:
    """Ends a window: of a cache, only what the next token can attend to is left.

    Fast weights stay as they are, or are turned on by one window (`window_theta`); of a cache of
    latents nothing goes.
    """
    if config.has_latents:
        return state
    theta, turn = config.attention.rope_theta, config.gated_delta_net.window_theta

    def ended(block: BlockState) -> BlockState:
        if isinstance(block, KeyValues):
            return block.newest(block.span - 1, theta)
        if not turn:
            return block
        if isinstance(block, GatedDeltaNetState):
            return block.replace(fast=turned(block.fast, turn))
        return turned(block, turn) if isinstance(block, jax.Array) else block

    return {name: ended(block) for name, block in state.items()}


def next_pass(before: State, after: State) -> State:
    """The state in which a window is read once more.

    Fast weights are those that the last pass left; what is remembered of earlier tokens otherwise
    is as it was before the window.
    """

    def block(old: BlockState, new: BlockState) -> BlockState:
        if isinstance(old, GatedDeltaNetState) and isinstance(new, GatedDeltaNetState):
            return old.replace(fast=new.fast)
        return old if isinstance(old, KeyValues) else new

    return {name: block(before[name], after[name]) for name in before}


def shard(config: ModelConfig, shards: int) -> ModelConfig:
    """The model that one of `shards` shards along `tensor` computes: its heads and columns.

    Raises:
      UserError: the heads or the width of the MLP cannot be split evenly.
    """
    attention, delta = config.attention, config.gated_delta_net
    if shards > 1 and config.written_by_gradient:
        raise UserError(
            f"--tensor={shards} is not possible with prime_mlp in model.pattern, whose gradient "
            "steps want all of a sequence's fast weights on one device; allowed: --tensor=1"
        )
    if shards > 1 and config.has_latents:
        raise UserError(
            f"--tensor={shards} is not possible with latents (model.latents.blocks="
            f"{config.latents.blocks}), whose adapter is on one device; allowed: --tensor=1"
        )
    split = {"model.mlp_hidden": config.mlp_hidden}
    if "attention" in config.pattern:
        split["model.attention.kv_heads"] = attention.kv_heads
    if "gated_delta_net" in config.pattern:
        split["model.gated_delta_net.key_heads"] = delta.key_heads
    for field, value in split.items():
        if value % shards:
            raise UserError(
                f"--tensor={shards} does not divide {field}={value}; allowed: a divisor of it"
            )
    return dataclasses.replace(
        config,
        mlp_hidden=config.mlp_hidden // shards,
        attention=dataclasses.replace(
            attention, heads=attention.heads // shards, kv_heads=attention.kv_heads // shards
        ),
        gated_delta_net=dataclasses.replace(
            delta,
            key_heads=delta.key_heads // shards,
            value_heads=delta.value_heads // shards,
        ),
    )


def init(config: ModelConfig, key: jax.Array) -> Parameters:
    """Parameters as a nested dict of float32 arrays, without metadata."""
    return nn.unbox(_init_boxed(config, key))["params"]


def logical_axes(config: ModelConfig) -> Parameters:
    """Tree of the parameters' logical axis names, a `PartitionSpec` each; touches no device."""
    return nn.get_partition_spec(_abstract(config))["params"]


def count_parameters(config: ModelConfig) -> int:
    """Number of parameters; touches no device."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(_abstract(config)["params"]))


@functools.cache
def _abstract(config: ModelConfig) -> Any:
    # A run asks several times, and each time Linen would trace every block.
    return jax.eval_shape(lambda: _init_boxed(config, jax.random.key(0)))


def _init_boxed(config: ModelConfig, key: jax.Array) -> Any:
    # Parameters do not depend on the activations' dtype, which "auto" leaves open until a run.
    config = dataclasses.replace(config, activation_dtype="float32")
    tokens = jnp.zeros((1, config.latents.ratio if config.has_latents else 1), jnp.int32)
    return Decoder(config).init(key, tokens, initial_fast_weights(config, 1))


def embed(config: ModelConfig, params: Parameters, tokens: jax.Array) -> jax.Array:
    """`tokens [B, L] int32 -> h [B, L, D]`."""
    return _apply(config, params, "embed", tokens)


def compress(config: ModelConfig, params: Parameters, tokens: jax.Array) -> jax.Array:
    """`tokens [B, L] int32 -> latents [B, L / n, D]`, in the place of embedded tokens."""
    return _apply(config, params, "compress", tokens)


def blocks(
    config: ModelConfig,
    params: Parameters,
    h: jax.Array,
    state: State,
    start: int = 0,
    stop: int | None = None,
) -> tuple[jax.Array, State]:
    """One pass over one window: `h [B, L, D]` and the state, both renewed.

    Of all blocks, or of those from `start` up to `stop`, which leave the state of others alone.
    """
    new = dict(state)
    for index in range(len(config.pattern))[start:stop]:
        name = block_name(index, config.pattern[index])
        with jax.named_scope(name):
            h, renewed = _block(config, config.pattern[index], params[name], h, state.get(name))
        if renewed is not None:
            new[name] = renewed
    return h, new


@functools.partial(jax.jit, static_argnums=(0, 1))
def _block(config: ModelConfig, mixer: str, params: Parameters, h: jax.Array, state: Any) -> Any:
    # Its own function, so that blocks of one kind are traced and lowered once, not once a block,
    # pass and window; XLA inlines it.
    return Block(config, mixer).apply({"params": params}, h, state)


def unembed(config: ModelConfig, params: Parameters, h: jax.Array) -> jax.Array:
    """`h [B, L, D] -> logits [B, L, V]`, float32."""
    return _apply(config, params, "unembed", h)


def _apply(config: ModelConfig, params: Parameters, method: str, *args: Any) -> Any:
    return Decoder(config).apply({"params": params}, *args, method=method)
