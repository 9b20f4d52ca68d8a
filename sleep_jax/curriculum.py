"""What a run trains on at each step: the depth of its examples, N, the cache, which parameters.

And whether it is being learned which of them read all of the cache.

Touches no device.
"""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sleep_jax.config import RunConfig
from sleep_jax.tasks.task import TRAIN, Batch, Task

log = logging.getLogger("sleep_jax")
_DRAW_OF_PASSES = 1  # keeps these draws apart from all others made from the run's seed


class Stage(NamedTuple):
    """What an update's program depends on beside what is the same throughout the run."""

    passes: int  # N
    cache: str  # as in SleepConfig
    trained: str  # as in OptimizerConfig
    choosing: bool = False  # whether which heads read all of the cache is being learned (consa.py)


def stages_by_step(config: RunConfig) -> tuple[list[Stage], NDArray[np.int64]]:
    """The stages of a run, and for each optimizer update which of them it is in, `[steps]`.

    A pure function of the configuration.
    """
    change = config.curriculum
    kinds = (
        ("evict", change.hard_eviction_trained),
        (config.sleep.cache, config.optimizer.trained),
    )
    step = np.arange(config.steps)
    late = step >= round(config.steps * change.hard_eviction)
    first, last = config.consa.steps(config.steps)
    learns = config.model.is_local and config.consa.by == "learned"
    choosing = learns & (first <= step) & (step < last)
    # One number a stage: runs have millions of steps, and few stages.
    codes, which = np.unique(4 * passes_by_step(config) + 2 * choosing + late, return_inverse=True)
    stages = [
        Stage(code // 4, *kinds[code % 2], choosing=code // 2 % 2 == 1) for code in codes.tolist()
    ]
    return stages, which


def passes_by_step(config: RunConfig) -> NDArray[np.int64]:
    """N of each optimizer update, `[steps]`: a pure function of the configuration.

    N that are drawn occur equally often, so that seeds differ in their order alone, not in FLOPs.
    """
    drawn, steps = config.curriculum.drawn_passes, config.steps
    if drawn:
        rng = np.random.default_rng((config.train.seed, _DRAW_OF_PASSES))
        return rng.permutation(np.resize(np.asarray(drawn, np.int64), steps))
    return np.asarray(_by_step(config, config.curriculum.passes, config.sleep.passes), np.int64)


class Ladder:
    """The depth t of a run that climbs (`climb_at`), or of one that has its own throughout.

    Which rung a run is on follows from what it got right, so it is part of what is saved. The
    batches of `climb_every` steps in a row, all of one rung, decide; test and validation sequences
    have no part in it.
    """

    def __init__(self, config: RunConfig):
        self._config = config
        self.rung = 1 if config.curriculum.climb_at else 0  # 0: there is no ladder
        self._right: list[Any] = []

    @property
    def task(self) -> Task:
        """What is trained on now, and with a ladder evaluated."""
        task = self._config.task
        return dataclasses.replace(task, rollout_steps=self.rung) if self.rung else task

    def is_top(self, rung: int) -> bool:
        """Whether there is no deeper one; so it is without a ladder."""
        return not self.rung or rung == self._config.task.rollout_steps  # type: ignore[attr-defined]

    def saw(self, right: Any) -> None:
        """Takes the exact accuracy of a step's batch, a scalar that may still be on a device."""
        if self.rung:
            self._right.append(right)

    def is_learned(self, step: int) -> bool:
        """Whether `step`, from 1, ends the batches of a decision, and they say so."""
        change = self._config.curriculum
        if not self.rung or step % change.climb_every:
            return False
        right, self._right = [float(share) for share in self._right], []
        return float(np.mean(right)) >= change.climb_at

    def climb(self) -> None:
        """One rung up."""
        self.rung += 1
        log.info("on to %s", self.task.label)

    def state(self) -> dict[str, Any]:
        """For a checkpoint, as JSON."""
        return {"rung": self.rung, "right": [float(share) for share in self._right]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """What `state` returned."""
        self.rung, self._right = state["rung"], list(state["right"])


def sampler(config: RunConfig, task: Task) -> Callable[[int, int], Batch]:
    """`(start, count) -> batch` of training examples, each as deep as its step asks for.

    All examples start .. start+count-1 must be of one step.

    Args:
      task: what is trained on where `curriculum.rollout_steps` does not say it by step.
    """
    easier = config.curriculum.rollout_steps
    if not easier:
        return lambda start, count: task.sample(config.train.seed, TRAIN, start, count)
    depths = _by_step(config, easier, config.task.rollout_steps)  # type: ignore[attr-defined]

    def sample(start: int, count: int) -> Batch:
        at: Task = dataclasses.replace(
            config.task, rollout_steps=depths[start // config.train.batch_size]
        )
        return at.sample(config.train.seed, TRAIN, start, count)

    return sample


def _by_step(config: RunConfig, stages: Sequence[int], last: int) -> list[int]:
    """Each stage for equally long, in the first `share` of the steps, then `last`."""
    if not stages:
        return [last] * config.steps
    until = round(config.steps * config.curriculum.share)
    early = [stages[step * len(stages) // until] for step in range(until)]
    return early + [last] * (config.steps - until)
