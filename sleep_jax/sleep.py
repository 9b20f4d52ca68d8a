"""Algorithm 1 of *Do Language Models Need Sleep?* (arXiv 2605.26099).

Two scans and nothing else: over the passes of one window (carry: features and fast weights) and
over windows (carry: fast weights alone). What a window computed and did not write into the fast
weights is gone, which is what hard eviction means; the gradient reaches a context window only
through them. Prediction (`wake`) is one pass, in which N does not occur.

The loop sees the model as three functions, bound in `Model`.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
from jax import lax

from sleep_jax.config import ModelConfig, SleepConfig
from sleep_jax.model import decoder
from sleep_jax.model.decoder import FastWeights, Parameters


class Model(NamedTuple):
    """A model with its slow weights bound: `embed(tokens)`, `blocks(h, fast)`, `unembed(h)`."""

    embed: Callable[[jax.Array], jax.Array]
    blocks: Callable[[jax.Array, FastWeights], tuple[jax.Array, FastWeights]]
    unembed: Callable[[jax.Array], jax.Array]


def bind(config: ModelConfig, params: Parameters) -> Model:
    """The decoder with these parameters as a `Model`."""
    return Model(
        embed=functools.partial(decoder.embed, config, params),
        blocks=functools.partial(decoder.blocks, config, params),
        unembed=functools.partial(decoder.unembed, config, params),
    )


def sleep(
    model: Model, h: jax.Array, fast: FastWeights, passes: int, remat: str = "none"
) -> FastWeights:
    """Runs N passes over one window and returns the fast weights; the features are discarded.

    Args:
      h: `[B, L, D]`, the embedded window.
      fast: fast weights on entry, float32; never reset between passes.
      passes: N >= 1, static.
      remat: "pass" keeps only the carry between passes for the backward.
    """
    blocks = jax.checkpoint(model.blocks) if remat == "pass" else model.blocks

    def one_pass(carry, _):
        return blocks(*carry), None

    if passes == 1:
        return blocks(h, fast)[1]
    (_, fast), _ = lax.scan(one_pass, (h, fast), length=passes)
    return fast


def read(model: Model, windows: jax.Array, fast: FastWeights, config: SleepConfig) -> FastWeights:
    """Reads context windows one after the other, sleeping on each before its cache is evicted.

    Args:
      windows: `[B, C, L]` int32 tokens, C context windows.
      fast: fast weights on entry.

    Returns:
      The fast weights after the last window, the only thing that crosses a boundary.
    """

    def one_window(fast: FastWeights, tokens: jax.Array):
        return sleep(model, model.embed(tokens), fast, config.passes, config.remat), None

    if config.remat == "window":
        one_window = jax.checkpoint(one_window)
    fast, _ = lax.scan(one_window, fast, windows.swapaxes(0, 1))
    return fast


def wake(model: Model, windows: jax.Array, fast: FastWeights) -> tuple[jax.Array, FastWeights]:
    """Predicts in one pass a window, whatever N was.

    Args:
      windows: `[B, P, L]` int32 tokens, P prediction windows.

    Returns:
      logits `[B, P, L, V]` float32, and the fast weights after the last window.
    """

    def one_window(fast: FastWeights, tokens: jax.Array):
        h, fast = model.blocks(model.embed(tokens), fast)
        return fast, model.unembed(h)

    fast, logits = lax.scan(one_window, fast, windows.swapaxes(0, 1))
    return logits.swapaxes(0, 1), fast
