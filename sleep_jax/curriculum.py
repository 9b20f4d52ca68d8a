"""What a run trains on at each step: the depth of its examples, N, the cache, which parameters.

Touches no device.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sleep_jax.config import RunConfig
from sleep_jax.tasks.task import TRAIN, Batch, Task

_DRAW_OF_PASSES = 1  # keeps these draws apart from all others made from the run's seed


class Stage(NamedTuple):
    """What an update's program depends on beside what is the same throughout the run."""

    passes: int  # N
    cache: str  # as in SleepConfig
    trained: str  # as in OptimizerConfig


def stages_by_step(config: RunConfig) -> tuple[list[Stage], NDArray[np.int64]]:
    """The stages of a run, and for each optimizer update which of them it is in, `[steps]`.

    A pure function of the configuration.
    """
    change = config.curriculum
    kinds = (
        ("evict", change.hard_eviction_trained),
        (config.sleep.cache, config.optimizer.trained),
    )
    late = np.arange(config.steps) >= round(config.steps * change.hard_eviction)
    # One number a stage: runs have millions of steps, and few stages.
    codes, which = np.unique(2 * passes_by_step(config) + late, return_inverse=True)
    return [Stage(int(code) // 2, *kinds[int(code) % 2]) for code in codes], which


def passes_by_step(config: RunConfig) -> NDArray[np.int64]:
    """N of each optimizer update, `[steps]`: a pure function of the configuration.

    N that are drawn occur equally often, so that seeds differ in their order alone, not in FLOPs.
    """
    drawn, steps = config.curriculum.drawn_passes, config.steps
    if drawn:
        rng = np.random.default_rng((config.train.seed, _DRAW_OF_PASSES))
        return rng.permutation(np.resize(np.asarray(drawn, np.int64), steps))
    return np.asarray(_by_step(config, config.curriculum.passes, config.sleep.passes), np.int64)


def sampler(config: RunConfig) -> Callable[[int, int], Batch]:
    """`(start, count) -> batch` of training examples, each as deep as its step asks for.

    All examples start .. start+count-1 must be of one step.
    """
    easier = config.curriculum.rollout_steps
    if not easier:
        return lambda start, count: config.task.sample(config.train.seed, TRAIN, start, count)
    depths = _by_step(config, easier, config.task.rollout_steps)  # type: ignore[attr-defined]

    def sample(start: int, count: int) -> Batch:
        task: Task = dataclasses.replace(
            config.task, rollout_steps=depths[start // config.train.batch_size]
        )
        return task.sample(config.train.seed, TRAIN, start, count)

    return sample


def _by_step(config: RunConfig, stages: Sequence[int], last: int) -> list[int]:
    """Each stage for equally long, in the first `share` of the steps, then `last`."""
    if not stages:
        return [last] * config.steps
    until = round(config.steps * config.curriculum.share)
    early = [stages[step * len(stages) // until] for step in range(until)]
    return early + [last] * (config.steps - until)
