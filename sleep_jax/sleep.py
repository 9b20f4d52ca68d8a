"""Algorithm 1 of *Do Language Models Need Sleep?* (arXiv 2605.26099).

Two scans and nothing else: over the passes of one window (carry: features and state) and over
windows (carry: state). The state is all that crosses a window's end. Under hard eviction it is the
fast weights: what a window computed and did not write into them is gone, and the gradient reaches
a context window only through them. Under sliding-window eviction the newest L - 1 keys and values
cross as well, and the last inputs of the short convolutions, so that one pass a window is an
ordinary hybrid of sliding-window attention and SSM. They are those of the last pass; every pass
over a window sees what was kept before it. Prediction (`wake`) is one pass, in which N does not
occur.

The loop sees the model as a few functions, bound in `Model`.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from sleep_jax import distributed, ttt_e2e
from sleep_jax.config import SleepConfig
from sleep_jax.model import decoder
from sleep_jax.model.config import ModelConfig, PrimeMLPConfig
from sleep_jax.model.decoder import Parameters, State

Blocks = Callable[[jax.Array, State], tuple[jax.Array, State]]


class Model(NamedTuple):
    """A model with its slow weights bound: `embed(tokens)`, `blocks(h, state)`, `unembed(h)`.

    `blocks` are `prelude`, `core` and `coda` one after the other; the passes of sleep repeat the
    core, and mostly it is all there is. `evict(state)` is what is left of the state when a window
    is over. `prime_mlp`: gradient steps write the fast weights, not passes; None where passes do.
    `compress(tokens)` are the latents of a window, which the blocks read in its place (LCLM,
    model/latents.py); None where the window itself is read.
    """

    embed: Callable[[jax.Array], jax.Array]
    blocks: Blocks
    prelude: Blocks
    core: Blocks
    coda: Blocks
    unembed: Callable[[jax.Array], jax.Array]
    evict: Callable[[State], State]
    prime_mlp: PrimeMLPConfig | None = None
    compress: Callable[[jax.Array], jax.Array] | None = None


def bind(config: ModelConfig, params: Parameters) -> Model:
    """The decoder with these parameters as a `Model`."""
    first, end = config.loop
    blocks = functools.partial(decoder.blocks, config, params)
    return Model(
        embed=functools.partial(decoder.embed, config, params),
        blocks=blocks,
        prelude=functools.partial(blocks, stop=first),
        core=functools.partial(blocks, start=first, stop=end),
        coda=functools.partial(blocks, start=end),
        unembed=functools.partial(decoder.unembed, config, params),
        evict=functools.partial(decoder.evict, config),
        prime_mlp=config.prime_mlp if config.written_by_gradient else None,
        compress=functools.partial(decoder.compress, config, params)
        if config.has_latents
        else None,
    )


def initial_state(
    model: ModelConfig,
    loop: SleepConfig,
    batch: int,
    windows: tuple[int, int],
    counts: tuple[int, int] | None = None,
) -> State:
    """The state before the first token: fast weights of zeros; an empty cache where one is kept.

    Args:
      windows: tokens of a context window, L, and of a prediction window.
      counts: how many there will be of each, for latents, of which nothing is evicted.

    Raises:
      ValueError: there will be latents, and it is not said of how many windows.
    """
    fast = decoder.initial_fast_weights(model, batch)
    if model.has_latents:
        if counts is None:
            raise ValueError("latents want room for all windows; allowed: counts of them")
        (length, answer), (contexts, predictions) = windows, counts
        room = contexts * (length // model.latents.ratio) + predictions * answer
        return decoder.with_cache(model, fast, batch, span=room, kept=0, room=room)
    if loop.cache != "slide":
        return fast
    span = windows[0]
    return decoder.with_cache(model, fast, batch, span=span, kept=span - 1, room=max(windows))


def end_window(model: Model, tokens: jax.Array, state: State, config: SleepConfig) -> State:
    """What happens when a context window is full: its content is written, and its cache dropped.

    By N passes over it, or, in a model with prime MLPs, by N gradient steps on it; or nothing is
    written, and its latents take its place in the cache.

    Args:
      tokens: `[B, L]` int32, the window.
      state: in which the window began.
    """
    if model.compress is not None:
        parts = (model.compress, model.blocks)
        compress, blocks = map(jax.checkpoint, parts) if config.remat == "pass" else parts
        return blocks(compress(tokens), state)[1]
    h = model.embed(tokens)
    if model.prime_mlp is None:
        return sleep(model, h, state, config)
    h, state = model.prelude(h, state)  # none of it depends on the fast weights

    def predict(fast: State) -> jax.Array:
        return model.unembed(model.core(h, fast)[0])

    remat = config.remat == "pass"
    return ttt_e2e.descend(predict, tokens, state, config.passes, model.prime_mlp, remat)


def sleep(model: Model, h: jax.Array, state: State, config: SleepConfig) -> State:
    """Runs N passes over one window and returns the state; the features are discarded.

    What a pass repeats is the model's core; its prelude runs once before, its coda once behind.

    Args:
      h: `[B, L, D]`, the embedded window.
      state: on entry; its fast weights, float32.
      config: of which count:
        passes, N, static;
        carry: what a pass hands to the next, features and fast weights in Algorithm 1. What it does
          not hand on is once more as it was before the first pass;
        remat: "pass" keeps only the carry between passes for the backward;
        backward_passes, k: the gradient goes through the last k passes and past the N - k before
          them as if they had changed nothing, so that it still reaches earlier windows. 0: through
          all.
    """
    passes, backward = config.passes, config.backward_passes
    parts = (model.prelude, model.core, model.coda)
    prelude, core, coda = map(jax.checkpoint, parts) if config.remat == "pass" else parts
    h, before = prelude(h, state)

    def one_pass(carry, _):
        features, after = core(*carry)
        return (
            h if config.carry == "fast_weights" else features,
            before if config.carry == "features" else decoder.next_pass(before, after),
        ), None

    carry: tuple[jax.Array, State] = (h, before)
    if 0 < backward < passes:
        moved, _ = lax.scan(one_pass, lax.stop_gradient(carry), length=passes - backward)
        carry = jax.tree.map(_pass_gradient, carry, moved)
        passes = backward
    # The last pass stands apart, so that the compiler can drop what only its features need.
    if passes > 1:
        carry, _ = lax.scan(one_pass, carry, length=passes - 1)
    features, state = core(*carry)
    _, state = coda(features, state)
    return model.evict(state)


def _pass_gradient(before: jax.Array, after: jax.Array) -> jax.Array:
    """The value of `after`, with the gradient of `before`."""
    if not jnp.issubdtype(after.dtype, jnp.floating):
        return after
    return lax.stop_gradient(after) + (before - lax.stop_gradient(before))


def sleep_until(
    model: Model, h: jax.Array, state: State, passes: int, threshold: float
) -> tuple[State, jax.Array]:
    """Sleeps over one window until a pass changes the fast weights little; at most N passes.

    A sequence stops after the first pass whose change of its fast weights, the Euclidean norm over
    all blocks and heads, is below `threshold` times their norm after it. For evaluation: sequences
    that have stopped are still computed, and left as they were.

    Args:
      h: `[B, L, D]`, the embedded window.
      state: fast weights by block name ("evict"), each `[B, ...]` float32.

    Returns:
      The state, and the passes that each sequence took, `[B]` int32.
    """

    def one_pass(carry, _):
        h, fast, used, awake = carry
        h_next, fast_next = model.core(h, fast)
        change = jax.tree.map(jnp.subtract, fast_next, fast)
        small = _norms(change) < threshold * _norms(fast_next)
        h, fast = jax.tree.map(
            lambda old, new: jnp.where(awake.reshape(-1, *(1,) * (new.ndim - 1)), new, old),
            (h, fast),
            (h_next, fast_next),
        )
        return (h, fast, used + awake, awake & ~small), None

    rows = h.shape[0]
    start = (*model.prelude(h, state), jnp.zeros(rows, jnp.int32), jnp.ones(rows, bool))
    (h, state, used, _), _ = lax.scan(one_pass, start, length=passes)
    _, state = model.coda(h, state)
    return model.evict(state), used


def _norms(fast: State) -> jax.Array:
    """Euclidean norm over everything but the batch, `[B]`, of the heads of all shards."""
    squares = (jnp.sum(jnp.square(x), range(1, x.ndim)) for x in jax.tree.leaves(fast))
    return jnp.sqrt(distributed.leave(functools.reduce(jnp.add, squares)))


def read(model: Model, windows: jax.Array, state: State, config: SleepConfig) -> State:
    """Reads context windows one after the other, sleeping on each before its cache is evicted.

    Args:
      windows: `[B, C, L]` int32 tokens, C context windows.
      state: on entry.

    Returns:
      The state after the last window, the only thing that crosses a boundary.
    """

    def one_window(state: State, tokens: jax.Array):
        return end_window(model, tokens, state, config), None

    if config.remat == "window":
        one_window = jax.checkpoint(one_window)
    state, _ = lax.scan(one_window, state, windows.swapaxes(0, 1))
    return state


def read_until(
    model: Model, windows: jax.Array, state: State, passes: int, threshold: float
) -> tuple[State, jax.Array]:
    """`read` with `sleep_until`: the state, and passes by window, `[B, C]` int32."""

    def one_window(state: State, tokens: jax.Array):
        return sleep_until(model, model.embed(tokens), state, passes, threshold)

    state, used = lax.scan(one_window, state, windows.swapaxes(0, 1))
    return state, used.swapaxes(0, 1)


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
