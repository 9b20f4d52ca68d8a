"""Where the wall time of a run goes, by cause, summed over the processes that resumed it."""

import functools
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax

TRAINING = "training"
CAUSES: tuple[str, ...] = (
    "start",  # data, parameters or the checkpoint; not Python's imports, not the queue
    "compile",  # JAX tracing, lowering, compiling or reading its cache, whatever asked for it
    "data",  # waiting for a batch, and handing it to the devices
    TRAINING,
    "evaluation",
    "checkpoints",  # what of saving the steps have to wait for
    "lost",  # steps after the last checkpoint of a process that was killed
    "other",
)


class Goodput:
    """A clock that is always charged to one cause, so that the causes add up to the wall time."""

    def __init__(self) -> None:
        """Starts, charged to "start"."""
        _listen()
        _COMPILING.take()
        self.seconds = dict.fromkeys(CAUSES, 0.0)
        self._cause = "start"
        self._since = time.perf_counter()

    def resume(self, seconds: Mapping[str, float]) -> None:
        """Adds what earlier processes of the run have spent."""
        for cause, spent in seconds.items():
            self.seconds[cause] += spent

    @contextmanager
    def spent(self, cause: str) -> Iterator[None]:
        """Charges what is inside to one of `CAUSES`, less what JAX compiles meanwhile."""
        previous = self.charge(cause)
        try:
            yield
        finally:
            self.charge(previous)

    def charge(self, cause: str) -> str:
        """Charges what follows to a cause; returns the one before."""
        now = time.perf_counter()
        span = now - self._since
        compiling = min(_COMPILING.take(), span)
        self.seconds["compile"] += compiling
        self.seconds[self._cause] += span - compiling
        previous, self._cause, self._since = self._cause, cause, now
        return previous

    def now(self) -> dict[str, float]:
        """Seconds by cause, this moment's included."""
        self.charge(self._cause)
        return dict(self.seconds)


def summary(seconds: Mapping[str, float]) -> dict[str, Any]:
    """`{"share": training / wall, "seconds": by cause}`."""
    wall = sum(seconds.values())
    return {"share": seconds[TRAINING] / wall, "seconds": dict(seconds)}


class _Compiling:
    """Adds up JAX's own events of tracing (the outermost function only), lowering and compiling."""

    def __init__(self) -> None:
        self._seconds = 0.0

    def __call__(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event.startswith("/jax/core/compile/"):
            self._seconds += duration_secs

    def take(self) -> float:
        """Seconds since the last call."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds


_COMPILING = _Compiling()


@functools.cache
def _listen() -> None:
    jax.monitoring.register_event_duration_secs_listener(_COMPILING)
