"""A stream of days: on each a model sleeps over a window of pairs, and is asked for all so far.

What becomes of a day when the next one begins is what an `Arm` says: its fast weights go on, or are
emptied and the slow weights have learned what they held (sleep_jax/knowledge_seeding.py). Letters:
R streams, each with slow weights of its own; D days; P pairs of a day; K = D P keys, each of one
day; M dreams; V vocabulary.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from sleep_jax import flops, knowledge_seeding
from sleep_jax.config import RunConfig, SleepConfig
from sleep_jax.knowledge_seeding import Dreams, Seeding
from sleep_jax.model.config import ModelConfig
from sleep_jax.model.decoder import Parameters
from sleep_jax.tasks.recall import RecallConfig
from sleep_jax.tasks.task import SPLITS
from sleep_jax.trained import Trained
from sleep_jax.training.evaluation import EVALUATION_SEED

STREAMS = 4
_REHEARSED = 256  # windows that are dreamt on a day
_NEW = 32  # windows on which reading is tested
_NEW_FROM = 100_000  # their index, far from the random words of the streams

# What a student is taught, and by whom.
TEXT = "text"  # the pairs of today
STORED = "all text so far"  # and of the days before, as if they had been kept
TODAY = "today"  # what the teacher, its fast weights full, says of today's keys
ONE_TEACHER = "one teacher"  # what it says of any key
DREAMS = "dreams"  # the same of today's keys; of others what it says with its fast weights empty


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way to consolidate.

    Attributes:
      name: in tables.
      taught: one of the five above.
      method: how.
      rehearsed: whether the student is also to say what the teacher says after windows of pairs
        that are drawn at random, so that it goes on reading.
    """

    name: str
    taught: str
    method: Seeding
    rehearsed: bool


class Stream(NamedTuple):
    """R streams: `windows [R, D, L]` int32, and `answers` and `day`, `[R, K]`, by key."""

    windows: NDArray[np.int32]
    answers: NDArray[np.int64]
    day: NDArray[np.int64]


def whole(task: RecallConfig) -> RecallConfig:
    """The task of a stream: all pairs of all days, a window a day."""
    return dataclasses.replace(task, pairs=task.keys)


def streams(task: RecallConfig, split: str) -> Stream:
    """The same streams for every run; each key is of one day, and its value drawn at random."""
    sampled = whole(task).sample(EVALUATION_SEED, SPLITS[split], 0, STREAMS)["context"]
    days = task.keys * 2 // task.window
    pairs = sampled.reshape(STREAMS, days, -1, 2).astype(np.int64)
    at = (np.arange(STREAMS)[:, None, None], pairs[..., 0] - task.values)
    answers, day = np.zeros((2, STREAMS, task.keys), np.int64)
    answers[at] = pairs[..., 1]
    day[at] = np.arange(days)[None, :, None]
    return Stream(sampled, answers, day)


def kept_in_fast_weights(run: Trained) -> list[dict[str, Any]]:
    """Of a model whose fast weights go on from day to day: a reading after each of them."""
    stream, prompts = _asked(run)
    model, loop = run.program.model, run.program.sleep
    params = _copies(run.params)
    found = []
    for today in range(stream.windows.shape[1]):
        so_far = np.repeat(stream.windows[:, None, : today + 1], prompts.shape[1], axis=1)
        said = _say(model, loop, params, prompts, so_far)
        found.append({"day": today + 1, "recall": _recall(said, stream, today)})
    return found


def consolidated(run: Trained, arm: Arm) -> list[dict[str, Any]]:
    """Of a model that consolidates each day and then empties its fast weights.

    Returns:
      A reading a day: its number, `recall` by day so far, of all streams; `asleep`, recall of today
      from the fast weights, before; `reading`, recall of new windows from the fast weights, after;
      `tokens` and `flops` of one stream's consolidations so far.
    """
    stream, prompts = _asked(run)
    loop, method = run.program.sleep, arm.method
    days = stream.windows.shape[1]
    model, params = knowledge_seeding.with_room(run.program.model, run.params, days * method.units)
    params = _copies(params)
    first = run.program.model.mlp_hidden  # behind the MLPs' own hidden units
    tokens, operations = _cost(run.config, model, arm)
    task = run.config.task
    assert isinstance(task, RecallConfig)
    split = SPLITS[run.config.train.evaluation_split]
    new = task.sample(EVALUATION_SEED, split, _NEW_FROM, _NEW)
    known = _say(model, loop, params, prompts)  # by the slow weights alone
    found = []
    for today in range(days):
        key = jax.random.fold_in(jax.random.key(run.config.train.seed), today)
        for_seeding, for_windows = jax.random.split(key)
        read = np.repeat(stream.windows[:, None, None, today], prompts.shape[1], axis=1)
        awake = _say(model, loop, params, prompts, read)
        dreams = [_taught(arm, stream, today, prompts, awake, known)]
        if arm.rehearsed:
            windows, asked = _random_windows(task, _REHEARSED, for_windows)
            windows, asked = _copies(windows), _copies(asked)
            said = _say(model, loop, params, asked, windows)
            dreams.append(Dreams(asked, said, windows))
        keys = jax.random.split(for_seeding, STREAMS)
        params = _seed(model, loop, method, params, dreams, first + today * method.units, keys)
        known = _say(model, loop, params, prompts)
        found.append(
            {
                "day": today + 1,
                "recall": _recall(known, stream, today),
                "asleep": _recall(awake, stream, today)[-1],
                "reading": _reading(model, loop, params, task, new),
                "tokens": (today + 1) * tokens,
                "flops": (today + 1) * operations,
            }
        )
    return found


def _asked(run: Trained) -> tuple[Stream, jax.Array]:
    """The streams, and a question for each key, `[R, K, 2]`."""
    task = run.config.task
    assert isinstance(task, RecallConfig)
    stream = streams(task, run.config.train.evaluation_split)
    return stream, _copies(jnp.asarray(task.question(task.values + np.arange(task.keys))))


def _copies(tree: Any) -> Any:
    """One of everything a stream."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (STREAMS, *x.shape)), tree)


def _recall(said: jax.Array, stream: Stream, today: int) -> list[float]:
    """Share of right answers by day, up to today."""
    right = np.argmax(np.asarray(said), axis=-1) == stream.answers
    return [float(right[stream.day == day].mean()) for day in range(today + 1)]


def _taught(
    arm: Arm, stream: Stream, today: int, prompts: jax.Array, awake: jax.Array, empty: jax.Array
) -> Dreams:
    """What is said of each key, or of some of them again and again: as many dreams in every arm.

    Args:
      awake: what the teacher says when its fast weights hold today, `[R, K, V]`.
      empty: the same when they hold nothing.
    """
    is_today = stream.day == today
    if arm.taught in (TEXT, STORED):
        said = knowledge_seeding.for_sure(jnp.asarray(stream.answers), awake.shape[-1])
    elif arm.taught == DREAMS:
        said = jnp.where(is_today[..., None], awake, empty)
    else:
        said = awake
    possible = {TEXT: is_today, TODAY: is_today, STORED: stream.day <= today}
    chosen = np.stack(
        [
            np.resize(np.flatnonzero(one), len(one))
            for one in possible.get(arm.taught, np.ones_like(is_today))
        ]
    )
    return Dreams(
        *(jnp.take_along_axis(x, jnp.asarray(chosen)[..., None], axis=1) for x in (prompts, said))
    )


def _random_windows(task: RecallConfig, count: int, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Windows `[M, 1, L]` of pairs drawn from all keys and values, and a question about each."""
    for_keys, for_values, for_question = jax.random.split(key, 3)
    pairs = task.window // 2
    order = jnp.argsort(jax.random.uniform(for_keys, (count, task.keys)), axis=1)
    keys = task.values + order[:, :pairs]
    values = jax.random.randint(for_values, (count, pairs), 0, task.values)
    asked = jax.random.randint(for_question, (count, 1), 0, pairs)
    windows = jnp.stack([keys, values], axis=-1).reshape(count, 1, -1)
    prompts = task.question(np.asarray(jnp.take_along_axis(keys, asked, axis=1)[:, 0]))
    return windows.astype(jnp.int32), jnp.asarray(prompts)


def _reading(
    model: ModelConfig, loop: SleepConfig, params: Parameters, task: RecallConfig, new: Any
) -> float:
    """Share of right answers about every pair of new windows."""
    pairs = new["context"].reshape(_NEW, -1, 2)
    prompts = task.question(pairs[..., 0]).reshape(-1, 2)
    windows = np.repeat(new["context"], pairs.shape[1], axis=0)
    said = _say(model, loop, params, _copies(prompts), _copies(windows))
    return float((np.argmax(np.asarray(said), axis=-1) == pairs[..., 1].reshape(-1)).mean())


def _cost(config: RunConfig, model: ModelConfig, arm: Arm) -> tuple[int, int]:
    """Tokens and operations of one consolidation, teacher and student.

    The backward is counted as if all weights had a gradient.
    """
    task = config.task
    assert isinstance(task, RecallConfig)
    one = dataclasses.replace(config, model=model, task=dataclasses.replace(task, questions=1))
    length = one.task.answer_length
    asleep = flops.forward_flops(one, config.sleep.passes)
    awake = flops.wake_flops(model, length)
    whole = one.task.window + length
    updates = arm.method.steps * arm.method.batch
    tokens, operations = updates * length, 3 * updates * awake
    if arm.taught in (TODAY, ONE_TEACHER, DREAMS):
        tokens += task.keys * whole
        operations += task.keys * asleep
    if arm.taught == DREAMS:
        tokens += task.keys * length
        operations += task.keys * awake
    if arm.rehearsed:
        tokens += (updates + _REHEARSED) * whole
        operations += (3 * updates + _REHEARSED) * asleep
    return tokens, operations


@functools.partial(jax.jit, static_argnames=("model", "loop"))
def _say(
    model: ModelConfig,
    loop: SleepConfig,
    params: Parameters,
    prompts: jax.Array,
    windows: Any = None,
) -> jax.Array:
    """`[R, M, V]`, each stream by its own parameters."""
    return jax.vmap(functools.partial(knowledge_seeding.say, model, loop))(params, prompts, windows)


@functools.partial(jax.jit, static_argnames=("model", "loop", "method"))
def _seed(
    model: ModelConfig,
    loop: SleepConfig,
    method: Seeding,
    params: Parameters,
    dreams: list[Dreams],
    at: int,
    keys: jax.Array,
) -> Parameters:
    seed = functools.partial(knowledge_seeding.seed, model, loop, method)
    learned, _ = jax.vmap(seed, in_axes=(0, 0, None, 0))(params, dreams, at, keys)
    return learned
