"""What sleep costs: a token awake, a sleep, the bytes of a session, a training step, by N."""

import functools
import logging
import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench import measure, timing
from sleep_jax import distributed
from sleep_jax.config import RunConfig, SleepConfig
from sleep_jax.model import decoder
from sleep_jax.model.config import ModelConfig
from sleep_jax.session import Session

log = logging.getLogger("sleep_jax")

CACHES = ("evict", "slide")
TRANSFORMER = "transformer"
Row = dict[str, Any]


def spread(seconds: list[float]) -> dict[str, float]:
    """Median and quartiles of one call's turns."""
    low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return {"seconds": median, "lower_quartile": low, "upper_quartile": high}


def size(tree: Any) -> int:
    """Bytes of all arrays."""
    return sum(x.nbytes for x in jax.tree.leaves(tree))


class Awake:
    """A call of it feeds one token to a copy of a session, to its end."""

    def __init__(self, session: Session):
        self.run, self.params = session.programs.token, session.params
        self.state = jax.tree.map(jnp.copy, session.state)
        self.token = np.zeros(1, np.int32)

    def __call__(self) -> None:
        self.state = jax.block_until_ready(self.run(self.params, self.state, self.token))


class Asleep(Awake):
    """A call of it is one sleep of a copy of a session over a full window."""

    def __init__(self, session: Session):
        super().__init__(session)
        self.run, self.token = session.programs.window, np.zeros((1, session.window), np.int32)


class Transformer:
    """Attention in every block and a cache of all tokens; a call of it feeds one token.

    The cache is allocated for `length` tokens at once, written in place, and filled with random
    numbers but for the tokens that will be fed.
    """

    def __init__(self, model: ModelConfig, params: decoder.Parameters, length: int, calls: int):
        state = decoder.with_cache(model, {}, 1, span=length, kept=0, room=length)
        shape = state[decoder.block_name(0, "attention")].keys.shape
        fill = jax.jit(lambda key: jax.random.normal(key, shape, decoder.activation_dtype(model)))
        keys = iter(jax.random.split(jax.random.key(0), 2 * len(state)))
        self.state = {
            name: cache.replace(
                keys=fill(next(keys)),
                values=fill(next(keys)),
                start=jnp.zeros((), jnp.int32),
                end=jnp.full((), length - calls, jnp.int32),
            )
            for name, cache in state.items()
        }
        self.params, self.token = params, np.zeros((1, 1), np.int32)

        def step(params: decoder.Parameters, state: decoder.State, token: jax.Array):
            h, state = decoder.blocks(model, params, decoder.embed(model, params, token), state)
            return decoder.unembed(model, params, h), state

        self.step = jax.jit(step, donate_argnums=1)

    def __call__(self) -> None:
        logits, self.state = self.step(self.params, self.state, self.token)
        jax.block_until_ready((logits, self.state))


def by_context(
    hybrid: ModelConfig,
    transformer: ModelConfig,
    window: int,
    lengths: tuple[int, ...],
    rounds: int,
) -> list[Row]:
    """Seconds a token and bytes, with `lengths` tokens read.

    The sessions (N = 1) have read that many random tokens, window by window. Every length is gone
    to several times, so that a slow spell of the machine does not hit one alone. The transformer
    comes after all of them: a step of it goes through all of its cache and would leave nothing of
    theirs in the processor's.
    """
    rng = np.random.default_rng(0)
    sessions = {name: _session(hybrid, SleepConfig(cache=name), window) for name in CACHES}
    awake: dict[int, dict[str, Awake]] = {}
    fed = 0
    for length in lengths:
        log.info("reading to %d tokens", length)
        tokens = rng.integers(0, hybrid.vocab_size, (1, length - fed), np.int32)
        for session in sessions.values():
            session.feed(tokens)
        awake[length] = {name: Awake(session) for name, session in sessions.items()}
        fed = length
    seconds: dict[tuple[str, int], list[float]] = {}
    for visit in np.array_split(np.arange(rounds), min(timing.VISITS, rounds)):
        for length, calls in awake.items():
            for name, times in timing.turns(calls, len(visit)).items():
                seconds.setdefault((name, length), []).extend(times)
    bytes_of = {(n, length): size(c.state) for length in lengths for n, c in awake[length].items()}
    for length in lengths:
        log.info("the transformer's cache of %d tokens", length)
        growing = Transformer(transformer, _params(transformer), length, timing.WARM_UP + rounds)
        seconds[TRANSFORMER, length] = timing.turns({0: growing}, rounds)[0]
        bytes_of[TRANSFORMER, length] = size(growing.state)
    return [
        {
            "model": name,
            "context": length,
            "state_bytes": bytes_of[name, length],
            **spread(seconds[name, length]),
        }
        for length in lengths
        for name in (*CACHES, TRANSFORMER)
    ]


def by_passes(
    hybrid: ModelConfig, window: int, passes: tuple[int, ...], rounds: int
) -> tuple[list[Row], list[Row]]:
    """Seconds a token awake, and seconds a sleep, at each N; all N take turns."""
    tokens = np.random.default_rng(0).integers(0, hybrid.vocab_size, (1, 2 * window + 1), np.int32)
    sessions = {
        (cache, n): _session(hybrid, SleepConfig(passes=n, cache=cache), window)
        for cache in CACHES
        for n in passes
    }
    for session in sessions.values():
        session.feed(tokens)

    def rows(kind: Callable[[Session], Callable[[], None]], rounds: int) -> list[Row]:
        seconds = timing.turns({key: kind(s) for key, s in sessions.items()}, rounds)
        return [{"model": c, "passes": n, **spread(t)} for (c, n), t in seconds.items()]

    return rows(Awake, rounds), rows(Asleep, timing.ROUNDS)


def training(config: RunConfig, passes: tuple[int, ...], rounds: int) -> list[Row]:
    """Seconds, tokens a second and planned temporary bytes of a training step at each N."""
    mesh = distributed.make_mesh()
    steppers = {n: measure.Stepper(measure.at(config, n), mesh) for n in passes}
    rows = []
    for n, times in timing.turns(steppers, rounds).items():
        row = {"passes": n, **spread(times), "temporary_bytes": steppers[n].temporary_bytes}
        rows.append({**row, "tokens_per_second": config.tokens_per_step / row["seconds"]})
    return rows


def _session(model: ModelConfig, loop: SleepConfig, window: int) -> Session:
    return Session(model, _params(model), loop, window)


@functools.cache
def _params(model: ModelConfig) -> decoder.Parameters:
    """Random ones, and the same for all sessions of a model: compiling this takes seconds."""
    return jax.jit(functools.partial(decoder.init, model))(jax.random.key(0))
