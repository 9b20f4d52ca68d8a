"""Binaries run from outside, for what they say, what they write and their exit code.

Importing is three to five seconds of each; forks of one process that has done it start at once. It
has imported no module that defines flags, as those differ by binary, and has no devices yet, so
that a fork's XLA_FLAGS count.
"""

import atexit
import fcntl
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import jax

ROOT = Path(__file__).parent.parent
CACHE = {"JAX_COMPILATION_CACHE_DIR": os.environ["SWEEP_CACHE"]}
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["experiments.sweep", "experiments.report.build"])


class Started:
    """`python -m module arguments...` in a fork. A sweep wants --jobs=1 there."""

    def __init__(self, module: str, *arguments: str, environment: Mapping[str, str] = CACHE):
        self._command = [module, *arguments]
        self._directory = tempfile.TemporaryDirectory()
        self._paths = [Path(self._directory.name, name) for name in ("stdout", "stderr")]
        self._process = _FORKS.Process(target=_run, args=(self._command, environment, self._paths))
        self._process.start()

    def poll(self) -> int | None:
        """The exit code, of one that a signal ended its negative; None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """As `subprocess.Popen.send_signal`."""
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def finish(self, seconds: float) -> subprocess.CompletedProcess[str]:
        """Waits for it; raises `subprocess.TimeoutExpired`, and kills it, after so many seconds."""
        self._process.join(seconds)
        code = self.poll()
        if code is None:
            self._process.kill()
            raise subprocess.TimeoutExpired(self._command, seconds)
        written = [_read(path) for path in self._paths]
        self._directory.cleanup()
        return subprocess.CompletedProcess(self._command, code, *written)


def _read(path: Path, seconds: float = 30) -> str:
    """A file when nobody writes to it any more: a child may outlive its parent for a moment."""
    deadline = time.monotonic() + seconds
    with path.open() as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return file.read()
            except BlockingIOError:
                assert time.monotonic() < deadline, f"something still writes to {path.name}"
            time.sleep(0.01)


def run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs it to its end."""
    return Started(module, *arguments).finish(900)


def ends(module: str, *arguments: str, seconds: float = 60) -> subprocess.CompletedProcess[str]:
    """The same for what ends before anything compiles."""
    return Started(module, *arguments, environment={}).finish(seconds)


def _run(command: list[str], environment: Mapping[str, str], paths: list[Path]) -> None:
    for stream, path in zip((sys.stdout, sys.stderr), paths, strict=True):
        file = os.open(path, os.O_WRONLY | os.O_CREAT)
        fcntl.flock(file, fcntl.LOCK_EX)  # until its children have closed it as well
        os.dup2(file, stream.fileno())
    os.environ.update(environment)
    for name, value in environment.items():
        if name.startswith("JAX_"):  # those JAX has read when it was imported
            jax.config.update(name.lower(), value)
    sys.argv = command
    try:
        runpy.run_module(command[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # a fork ends without: of two processes one would not wait
