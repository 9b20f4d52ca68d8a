"""A streaming session: feed tokens, sleep when the window is full, answer; in constant memory.

Two jitted programs do all of it, one for a token and one for a full window. Awake, a token is one
pass from the fast weights that the last sleep left, attending to the tokens of the window so far
(under "slide" to those kept from earlier windows as well). When the window is full, N passes over
its tokens (or N gradient steps on them) start again from the state in which the window began, as in
`sleep.read`: what the tokens wrote while awake is forgotten.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from sleep_jax import sleep
from sleep_jax.config import SleepConfig
from sleep_jax.model import decoder
from sleep_jax.model.attention import KeyValues
from sleep_jax.model.config import ModelConfig, require


class SessionState(NamedTuple):
    """Everything that a session remembers; its size never changes.

    `awake` is the state after the last token; `asleep` what a sleep at the end of this window
    starts from, but for keys and values, which `awake` still holds. `tokens` `[B, L]` int32 are the
    window so far, `count` of them, an int32 scalar. `logits` `[B, V]` float32 predict the next one.
    """

    asleep: decoder.State
    awake: decoder.State
    tokens: jax.Array
    count: jax.Array
    logits: jax.Array


class Programs(NamedTuple):
    """The functions of a session; both that run donate the state.

    `token(params, state, token [B] int32) -> state` is one pass over one token, `window(params,
    state, tokens [B, L]) -> state` a sleep on a full window. `start(batch) -> state`.
    """

    start: Callable[[int], SessionState]
    token: Callable[[decoder.Parameters, SessionState, ArrayLike], SessionState]
    window: Callable[[decoder.Parameters, SessionState, ArrayLike], SessionState]


@functools.cache
def programs(model: ModelConfig, loop: SleepConfig, window: int) -> Programs:
    """The programs of sessions of a model with windows of L tokens.

    Raises:
      UserError: the cache is neither evicted nor slid, or slid where gradient steps write, or the
        window is empty, or windows become latents, of which a stream has ever more.
    """
    loop.validate()
    require(loop.cache != "keep", "sleep.cache", loop.cache, "evict, slide")
    fits = loop.cache == "evict" or not model.written_by_gradient
    require(fits, "sleep.cache", loop.cache, "'evict' with prime_mlp in model.pattern")
    allowed = "0 in a session, whose memory is constant"
    require(not model.has_latents, "model.latents.blocks", model.latents.blocks, allowed)
    require(window >= 1, "window", window, ">= 1")
    slide = loop.cache == "slide"

    def opened(fast: decoder.FastWeights, batch: int) -> decoder.State:
        """The state in which a window begins when nothing but fast weights is left."""
        kept = window - 1 if slide else 0
        return decoder.with_cache(model, fast, batch, span=window, kept=kept, room=window)

    def without_cache(state: decoder.State) -> decoder.State:
        return {k: x for k, x in state.items() if not isinstance(x, KeyValues)}

    def start(batch: int) -> SessionState:
        fast = decoder.initial_fast_weights(model, batch)
        awake = opened(fast, batch)
        return SessionState(
            asleep=without_cache(awake) if slide else fast,
            awake=awake,
            tokens=jnp.zeros((batch, window), jnp.int32),
            count=jnp.zeros((), jnp.int32),
            logits=jnp.zeros((batch, model.vocab_size), jnp.float32),
        )

    def token_step(params: decoder.Parameters, state: SessionState, token: jax.Array):
        bound = sleep.bind(model, params)
        h, awake = bound.blocks(bound.embed(token[:, None]), state.awake)
        at = (0, state.count)
        return state._replace(
            awake=awake,
            tokens=jax.lax.dynamic_update_slice(state.tokens, token[:, None], at),
            count=state.count + 1,
            logits=bound.unembed(h)[:, 0],
        )

    def window_step(params: decoder.Parameters, state: SessionState, tokens: jax.Array):
        bound = sleep.bind(model, params)
        before = state.asleep
        if slide:
            rewound = {
                name: block.replace(end=jnp.full((), window - 1, jnp.int32))
                for name, block in state.awake.items()
                if isinstance(block, KeyValues)
            }
            before = {**before, **rewound}
        after = sleep.end_window(bound, tokens, before, loop)
        return state._replace(
            asleep=without_cache(after),
            awake=after if slide else opened(after, tokens.shape[0]),
            count=jnp.zeros((), jnp.int32),
        )

    return Programs(
        jax.jit(start, static_argnums=0),
        jax.jit(token_step, donate_argnums=1),
        jax.jit(window_step, donate_argnums=1),
    )


class Session:
    """The host's side of B sessions in step.

    `feed` and `answer` are exact in this sense: after any tokens, `state.logits` are those that
    `sleep.wake` gives for the tokens of the unfinished window, after `sleep.read` of all full ones.
    The model's `activation_dtype` must be resolved. The programs donate the state, so what is
    handed out of it is a copy.
    """

    def __init__(
        self,
        model: ModelConfig,
        params: decoder.Parameters,
        loop: SleepConfig,
        window: int,
        batch: int = 1,
    ):
        self.window, self.params = window, params
        self.programs = programs(model, loop, window)
        self.state = self.programs.start(batch)
        self._count = 0  # state.count, which would have to be fetched

    def feed(self, tokens: np.ndarray) -> np.ndarray:
        """Reads `[B, n]` int32 tokens, n of any size; returns logits `[B, V]` of the next one.

        Windows that these tokens fill and go beyond are slept on without being awake in them first:
        nobody asks what their tokens predict.
        """
        tokens = np.asarray(tokens, np.int32)
        while self._count + tokens.shape[1] > self.window:
            free = self.window - self._count
            seen = np.array(self.state.tokens)[:, : self._count]
            self._sleep(np.concatenate([seen, tokens[:, :free]], axis=1))
            tokens = tokens[:, free:]
        for token in tokens.T:
            self._wake(token)
        return np.array(self.state.logits)

    def answer(self, count: int) -> np.ndarray:
        """`[B, count]` int32 tokens, each the likeliest one after all before it (greedy)."""
        answer = []
        for _ in range(count):
            answer.append(np.argmax(np.array(self.state.logits), axis=-1).astype(np.int32))
            self._wake(answer[-1])
        return np.stack(answer, axis=1)

    def _wake(self, token: np.ndarray) -> None:
        self.state = self.programs.token(self.params, self.state, token)
        self._count += 1
        if self._count == self.window:
            self._sleep(np.array(self.state.tokens))

    def _sleep(self, tokens: np.ndarray) -> None:
        self.state = self.programs.window(self.params, self.state, tokens)
        self._count = 0
