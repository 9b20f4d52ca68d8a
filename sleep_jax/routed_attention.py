"""Routed attention of a trained model (model/routing.py): another routing, and what it reads."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sleep_jax.model import decoder
from sleep_jax.model.block import Block, block_name
from sleep_jax.model.config import ModelConfig, RoutingConfig
from sleep_jax.model.decoder import Parameters


def with_routing(
    config: ModelConfig, params: Parameters, routing: RoutingConfig
) -> tuple[ModelConfig, Parameters]:
    """The model with that routing; where it had none, a chunk's key is the mean of its keys."""
    attention = dataclasses.replace(config.attention, routing=routing)
    if routing.chunk and not config.is_routed:
        mean = {"chunk_query": jnp.zeros(attention.kv_heads * attention.head_dim)}
        routed = [block_name(i, m) for i, m in enumerate(config.pattern) if m == "attention"]
        added = {name: {**params[name], "mixer": params[name]["mixer"] | mean} for name in routed}
        params = {**params, **added}
    return dataclasses.replace(config, attention=attention), params


@functools.partial(jax.jit, static_argnums=0)
def chunks_read(config: ModelConfig, params: Parameters, tokens: jax.Array) -> dict[str, jax.Array]:
    """Which whole chunks before its own every query reads, by block of attention.

    Args:
      tokens: `[B, T]` int32, the whole sequence, read in one window.

    Returns:
      bool `[B, Hkv, T, C]` by block name.
    """
    h = decoder.embed(config, params, tokens)
    state: dict[str, Any] = decoder.initial_fast_weights(config, tokens.shape[0])
    found = {}
    for i, mixer in enumerate(config.pattern):
        name = block_name(i, mixer)
        block, variables = Block(config, mixer), {"params": params[name]}
        (h, _), sown = block.apply(variables, h, state.get(name), mutable="routing")
        if mixer == "attention":
            (found[name],) = sown["routing"]["mixer"]["chunks"]
    return found


def share_read(chunks: np.ndarray, chunk: int, queries: np.ndarray) -> np.ndarray:
    """Of the tokens up to a query, itself included, the share that it reads.

    Args:
      chunks: `[B, Hkv, T, C]` bool.
      chunk: b, tokens of a chunk.
      queries: positions, `[Q]`.

    Returns:
      `[B, Hkv, Q]`; a query's own chunk is read up to it.
    """
    read = chunks[:, :, queries].sum(-1) * chunk + queries % chunk + 1
    return read / (queries + 1)


def found(chunks: np.ndarray, chunk: int, queries: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Whether any head reads the token at a place.

    Args:
      chunks: `[B, Hkv, T, C]` bool.
      queries: positions, `[Q]`.
      places: what each asks for, at or before it, `[B, Q]`.

    Returns:
      bool `[B, Q]`.
    """
    of = places // chunk
    whole = np.minimum(of, chunks.shape[-1] - 1)[:, None, :, None]
    reads = np.take_along_axis(chunks[:, :, queries], whole, axis=-1)[..., 0].any(1)
    return reads | (of == queries // chunk)
