"""An XProf trace of a window of training steps, into `profile/` of the run directory.

To look at with `xprof --logdir RUN_DIRECTORY/profile`. Of several processes the first one traces.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

from sleep_jax import processes

log = logging.getLogger("sleep_jax")


class Tracer:
    """Traces steps `window[0] .. window[1]`, 1-based; those of them that this process runs."""

    def __init__(self, window: tuple[int, int] | None, directory: Path):
        first, last = window or (0, 0)
        self._steps = range(first, last + 1) if window and processes.is_first() else range(0)
        self._directory = directory / "profile"
        self._running = False

    @contextmanager
    def step(self, number: int, state: Any) -> Iterator[None]:
        """Around the step that makes the `number`-th update of `state`, a pytree of arrays."""
        if number not in self._steps:
            yield
            return
        if not self._running:
            jax.block_until_ready(state)  # the trace is not to hold the steps before
            jax.profiler.start_trace(self._directory)
            self._running = True
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            yield

    def after(self, number: int, state: Any) -> None:
        """Ends the trace if the window ends with this step."""
        if self._running and number == self._steps[-1]:
            jax.block_until_ready(state)
            self.close()

    def close(self) -> None:
        """Writes what there is of a trace."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
            log.info("wrote the trace %s", self._directory)
