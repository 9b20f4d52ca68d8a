"""Algorithm 1 of *Do Language Models Need Sleep?* (arXiv 2605.26099).

Two scans and nothing else: over the passes of one window (carry: features and state) and over
windows (carry: state). The state is all that crosses a window's end. Under hard eviction it is the
fast weights: what a window computed and did not write into them is gone, and the gradient reaches
a context window only through them. Under sliding-window eviction the newest L - 1 keys and values
cross as well, and the last inputs of the short convolutions, so that one pass a window is an
ordinary hybrid of sliding-window attention and SSM. They are those of the last pass; every pass
over a window sees what was kept before it. Prediction (`wake`) is one pass, in which N does not
occur.

The loop sees the model as four functions, bound in `Model`.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
from jax import lax

from sleep_jax.config import ModelConfig, SleepConfig
from sleep_jax.model import decoder
from sleep_jax.model.decoder import Parameters, State


class Model(NamedTuple):
    """A model with its slow weights bound: `embed(tokens)`, `blocks(h, state)`, `unembed(h)`.

    `evict(state)` is what is left of the state when a window is over.
    """

    embed: Callable[[jax.Array], jax.Array]
    blocks: Callable[[jax.Array, State], tuple[jax.Array, State]]
    unembed: Callable[[jax.Array], jax.Array]
    evict: Callable[[State], State]


def bind(config: ModelConfig, params: Parameters) -> Model:
    """The decoder with these parameters as a `Model`."""
    return Model(
        embed=functools.partial(decoder.embed, config, params),
        blocks=functools.partial(decoder.blocks, config, params),
        unembed=functools.partial(decoder.unembed, config, params),
        evict=functools.partial(decoder.evict, config),
    )


def initial_state(
    model: ModelConfig, loop: SleepConfig, batch: int, windows: tuple[int, int]
) -> State:
    """The state before the first token: fast weights of zeros, and under "slide" an empty cache.

    Args:
      windows: tokens of a context window, L, and of a prediction window.
    """
    fast = decoder.initial_fast_weights(model, batch)
    if loop.cache != "slide":
        return fast
    span = windows[0]
    return decoder.with_cache(model, fast, batch, span=span, kept=span - 1, room=max(windows))


def sleep(model: Model, h: jax.Array, state: State, passes: int, remat: str = "none") -> State:
    """Runs N passes over one window and returns the state; the features are discarded.

    Args:
      h: `[B, L, D]`, the embedded window.
      state: on entry; its fast weights, float32, are never reset between passes.
      passes: N >= 1, static.
      remat: "pass" keeps only the carry between passes for the backward.
    """
    blocks = jax.checkpoint(model.blocks) if remat == "pass" else model.blocks

    def one_pass(carry, _):
        h, after = carry
        return blocks(h, decoder.next_pass(state, after)), None

    if passes == 1:
        return model.evict(blocks(h, state)[1])
    (_, after), _ = lax.scan(one_pass, (h, state), length=passes)
    return model.evict(after)


def read(model: Model, windows: jax.Array, state: State, config: SleepConfig) -> State:
    """Reads context windows one after the other, sleeping on each before its cache is evicted.

    Args:
      windows: `[B, C, L]` int32 tokens, C context windows.
      state: on entry.

    Returns:
      The state after the last window, the only thing that crosses a boundary.
    """

    def one_window(state: State, tokens: jax.Array):
        return sleep(model, model.embed(tokens), state, config.passes, config.remat), None

    if config.remat == "window":
        one_window = jax.checkpoint(one_window)
    state, _ = lax.scan(one_window, state, windows.swapaxes(0, 1))
    return state


def wake(model: Model, windows: jax.Array, state: State) -> tuple[jax.Array, State]:
    """Predicts in one pass a window, whatever N was.

    Args:
      windows: `[B, P, L]` int32 tokens, P prediction windows.

    Returns:
      logits `[B, P, L, V]` float32, and the state after the last window.
    """

    def one_window(state: State, tokens: jax.Array):
        h, state = model.blocks(model.embed(tokens), state)
        return model.evict(state), model.unembed(h)

    state, logits = lax.scan(one_window, state, windows.swapaxes(0, 1))
    return logits.swapaxes(0, 1), state
