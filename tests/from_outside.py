"""Binaries run from outside, for what they say and their exit code."""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
ENVIRONMENT = {**os.environ, "JAX_COMPILATION_CACHE_DIR": os.environ["SWEEP_CACHE"]}
# Importing is most of what a refusal takes, three seconds; forks of one process that has done it
# start at once. It has imported no module that defines flags: those differ by binary.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["experiments.sweep", "experiments.report.build"])


def run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m module arguments...`, as a user starts it."""
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=900
    )


def ends(module: str, *arguments: str, seconds: float = 60) -> subprocess.CompletedProcess[str]:
    """The same for what ends before anything compiles.

    Not for a sweep that is to run: it sets flags of XLA, which must come before JAX is imported,
    and starts processes.
    """
    with tempfile.TemporaryDirectory() as directory:
        paths = [Path(directory, name) for name in ("stdout", "stderr")]
        process = _FORKS.Process(target=_run, args=(module, arguments, paths))
        process.start()
        process.join(seconds)
        if process.exitcode is None:
            process.kill()
            process.join()
        written = [path.read_text() for path in paths]
        return subprocess.CompletedProcess([module, *arguments], process.exitcode or 0, *written)


def _run(module: str, arguments: tuple[str, ...], paths: list[Path]) -> None:
    for stream, path in zip((sys.stdout, sys.stderr), paths, strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream.fileno())
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__")
