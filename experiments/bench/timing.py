"""Calls that are timed by turns. Needs nothing but Python."""

import importlib.util
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

ROUNDS = 9
WARM_UP = 2  # turns of a call that are not counted
VISITS = 4  # to each thing that is timed several times, each with a warm-up of its own


def turns(
    calls: Mapping[Any, Callable[[], object]], rounds: int = ROUNDS
) -> dict[Any, list[float]]:
    """Seconds of each call; all take turns (A B A B ...), so that a slow spell hits all.

    A call must return only when its work is done. The first turns are not counted.
    """
    seconds: dict[Any, list[float]] = {name: [] for name in calls}
    for turn in range(WARM_UP + rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if turn >= WARM_UP:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def interleaved(
    calls: Mapping[Any, Callable[[], object]], rounds: int = ROUNDS
) -> dict[Any, float]:
    """Median of each call's `turns`."""
    return {name: statistics.median(times) for name, times in turns(calls, rounds).items()}


def not_installed(*names: str) -> list[str]:
    """Which of these packages cannot be imported."""
    return [name for name in names if importlib.util.find_spec(name) is None]
