"""Runs the cells of a sweep, here or in worker processes, and writes the report.

A sweep directory holds `plan.json`, one run directory a cell under `cells/`, and the report. A cell
that has its row.json is finished and is not run again; one that was interrupted goes on from its
last checkpoint. Several launchers may work on one sweep, on as many hosts as share its directory: a
cell that another one has is left to it (sleep_jax/claims.py). On a CPU, cells are independent work
for independent cores: small products gain nothing from a second thread, so one process a core is
twice as fast as two threads a product.
"""

import contextlib
import dataclasses
import json
import logging
import multiprocessing as mp
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import jax

from experiments.cells import Cell, without_seed
from experiments.cli import STOP_SIGNALS, STOPPED, StopSignal, set_up_logging
from sleep_jax import claims, distributed, processes, records
from sleep_jax.config import SleepConfig, to_dict
from sleep_jax.distributed import MeshConfig
from sleep_jax.errors import UserError
from sleep_jax.model.config import ModelConfig
from sleep_jax.pretrained import llama
from sleep_jax.training import loop, warm_start
from sleep_jax.training.evaluation import evaluation_sequences

log = logging.getLogger("sleep_jax")
FAILED = 1


def check(cells: Sequence[Cell], directory: Path, mesh: MeshConfig) -> None:
    """Everything that can be refused before anything is compiled, for every cell.

    Raises:
      UserError: an impossible configuration, damaged frozen data, a mesh that does not fit, a
        directory that cannot be written or that holds another configuration, be it of another seed.
    """
    devices = distributed.make_mesh(mesh)
    for cell in cells:
        cell.config.validate()
        llama.check(cell.config)
        warm_start.check(cell.config, directory / "cells" / cell.name)
        train = cell.config.train
        distributed.require_batch_divides(devices, train.batch_size, train.accumulate)
        if cell.config.train.evaluation_data:
            evaluation_sequences(cell.config, cell.config.train.evaluation_sequences)
    records.check_writable(directory)
    records.check_shared(directory)
    check_directories(cells, directory)


def check_directories(cells: Iterable[Cell], directory: Path) -> None:
    """Raises UserError if a cell's directory holds another run, or one of another seed does."""
    for cell in cells:
        records.check_config(directory / "cells" / cell.name, to_dict(cell.config))
    _check_other_seeds(cells, directory)


def _check_other_seeds(cells: Iterable[Cell], directory: Path) -> None:
    """The report makes one mean of all seeds of a cell, so they must be of one configuration."""
    there: dict[str, Path] = {}
    for path in sorted(directory.glob("cells/*/config.json")):
        there.setdefault(_setting_of(path.parent.name), path.parent)
    for cell in cells:
        if path := there.get(_setting_of(cell.name)):
            records.check_config(path, to_dict(cell.config), but=("train.seed",))


def _setting_of(name: str) -> str:
    """The name less its seed, and less the depth of runs that climb, whose rungs are one run's."""
    name = without_seed(name)
    return re.sub(r"-t\d+(?=-)", "", name) if "-climbs" in name else name


@dataclasses.dataclass(frozen=True)
class Options:
    """How cells are run; nothing of it decides their results.

    Attributes:
      flags: all that were used, for environment.json.
      compilation_cache: directory; empty is JAX_COMPILATION_CACHE_DIR, or one in the sweep's.
      profile_steps: first and last step that are traced for XProf, or None.
    """

    flags: dict[str, Any]
    mesh: MeshConfig
    compilation_cache: str
    profile_steps: tuple[int, int] | None


def run(cells: Sequence[Cell], directory: Path, jobs: int, options: Options) -> int:
    """Runs what is not finished and nobody else is at; returns 0, `FAILED`, `STOPPED` or 2.

    A cell that fails leaves the others their turn, unless several processes share them: then only
    one of these may know of it.
    """
    _use_compilation_cache(directory, options)
    # Of several processes JAX's distributed service hears the signal, and tells the others.
    stop = StopSignal() if jax.process_count() == 1 else lambda: False
    todo = unfinished(cells, directory)
    log.info("%d of %d runs are finished already", len(cells) - len(todo), len(cells))
    while todo:
        in_order, at_a_time = _in_order(todo), min(jobs, len(todo))
        if at_a_time == 1:
            code = _one_by_one(in_order, lambda cell: _run_cell(cell, directory, options, stop))
        else:
            code = _run_in_workers(in_order, directory, at_a_time, options, stop)
        if code:
            return code
        left = unfinished(todo, directory)
        if len(left) == len(todo):  # others were at all of them; what they gave up is run above
            names = ", ".join(cell.name for cell in left)
            log.info("left to other launchers, which are at work on them: %s", names)
            break
        todo = left
    return 0


def _one_by_one(cells: Iterable[Cell], run_cell: Callable[[Cell], int]) -> int:
    """Runs the cells until asked to stop; the first code that is not 0, or `STOPPED`."""
    code = 0
    for cell in cells:
        found = run_cell(cell)
        code = code or found
        if found == STOPPED or (found and jax.process_count() > 1):
            return found
    return code


def unfinished(cells: Sequence[Cell], directory: Path) -> list[Cell]:
    """Cells without row.json; agreed, because another launcher may write one at any moment."""
    there = [(directory / "cells" / cell.name / "row.json").exists() for cell in cells]
    done = int(processes.agree(f"{sum(bit << i for i, bit in enumerate(there)):x}"), 16)
    return [cell for i, cell in enumerate(cells) if not done >> i & 1]


def _in_order(todo: Sequence[Cell]) -> list[Cell]:
    """Longest first, so that no core waits for a long run at the end.

    Except that the second one differs from the first in more than seed and depth: two workers that
    start together would compile the same program twice.
    """
    ordered = sorted(todo, key=lambda cell: cell.flops, reverse=True)
    for index, cell in enumerate(ordered[1:], start=1):
        if _program(cell) != _program(ordered[0]):
            ordered.insert(1, ordered.pop(index))
            break
    return ordered


def _program(cell: Cell) -> tuple[ModelConfig, SleepConfig]:
    return cell.config.model, cell.config.sleep


def _use_compilation_cache(directory: Path, options: Options) -> None:
    """Lets workers and later restarts of the sweep share what has been compiled."""
    if options.compilation_cache:
        jax.config.update("jax_compilation_cache_dir", options.compilation_cache)
    elif "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(directory / "compilation_cache"))


def _run_cell(cell: Cell, directory: Path, options: Options, stop: Callable[[], bool]) -> int:
    """Runs one cell in this process, or this process's part of it, and writes its row."""
    path = directory / "cells" / cell.name
    path.mkdir(parents=True, exist_ok=True)
    set_up_logging(f"[{cell.name}] ")
    try:
        with contextlib.ExitStack() as held:
            claim, refusal = _claim(path, held) if processes.is_first() else (None, "")
            if refusal := processes.agree(refusal):
                log.info("%s", refusal)
                return 0
            records.check_config(path, to_dict(cell.config))  # before environment.json is replaced
            mesh = distributed.make_mesh(options.mesh)
            environment = records.environment(mesh, options.flags)
            if claim:
                records.write_json(path / "environment.json", environment)

            def should_stop() -> bool:
                if claim:
                    claim.check()
                return stop()

            measured = loop.train(cell.config, path, mesh, should_stop, options.profile_steps)
            row = {
                **cell.identity(),
                **measured,
                **{key: environment[key] for key in ("commit", "device", "versions")},
            }
            if claim:
                claim.check()
                records.write_json(path / "row.json", row)
            log.info("finished: exact %.3f, floor %.3f", row["exact_accuracy"], row["floor"])
            return 0
    except loop.Interrupted as error:
        log.info("%s", error)
        return STOPPED
    except (loop.NonFiniteLoss, claims.Overtaken) as error:
        print(f"error: {cell.name}: {error}", file=sys.stderr)
        return FAILED
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _claim(path: Path, held: contextlib.ExitStack) -> tuple[claims.Claim | None, str]:
    """The claim of a run directory, which `held` gives up; or why it is not this process's turn."""
    try:
        claim = held.enter_context(claims.claimed(path))
    except claims.Held as error:
        return None, f"left to another launcher, {error}"
    if (path / "row.json").exists():
        return None, "finished by another launcher"
    return claim, ""


def _run_in_workers(
    todo: Sequence[Cell], directory: Path, jobs: int, options: Options, stop: Callable[[], bool]
) -> int:
    context = mp.get_context("spawn")  # forking a process that has threads would be unsafe
    taken = context.Value("i", 0)  # cells that a worker has begun; a pipe would hold some 40
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    workers = []
    for index in range(jobs):
        core = cores[index % len(cores)] if cores else None
        arguments = (todo, taken, directory, options, os.getpid(), core)
        workers.append(context.Process(target=_worker, args=arguments, daemon=False))
    _start(workers)
    return _wait_for(workers, stop)


def _start(workers: Iterable[BaseProcess]) -> None:
    """A signal to one that is still importing waits for its StopSignal, which lets it through."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        for worker in workers:
            worker.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def _wait_for(workers: Sequence[BaseProcess], stop: Callable[[], bool]) -> int:
    """Waits for all workers; when one or this process is asked to stop, stops the others."""
    running, told, stopped = list(workers), set(), False
    while running:
        wait([worker.sentinel for worker in running], timeout=0.5)
        running = [worker for worker in running if worker.exitcode is None]
        stopped = stop() or any(worker.exitcode == STOPPED for worker in workers)
        for worker in running:
            if stopped and worker not in told:
                # It has just ended; or gVisor says so of one in the midst of exec, and the next
                # round tells it.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker.pid or 0, signal.SIGTERM)
                    told.add(worker)
    if stopped:
        return STOPPED
    codes = (worker.exitcode or 0 for worker in workers)
    return next((code if code > 0 else FAILED for code in codes if code), 0)


def _worker(
    todo: Sequence[Cell],
    taken: Any,  # multiprocessing.Value, shared by all workers
    directory: Path,
    options: Options,
    parent: int,
    core: int | None,
):
    if core is not None:
        os.sched_setaffinity(0, {core})
    _use_compilation_cache(directory, options)
    stop = StopSignal(parent)
    cells = iter(lambda: _next(todo, taken), None)
    sys.exit(
        _one_by_one(
            cells, lambda cell: STOPPED if stop() else _run_cell(cell, directory, options, stop)
        )
    )


def _next(todo: Sequence[Cell], taken: Any) -> Cell | None:
    with taken.get_lock():
        index = taken.value
        taken.value += 1
    return todo[index] if index < len(todo) else None


def write_plan(cells: Sequence[Cell], directory: Path, plan: dict[str, Any]) -> list[str]:
    """Writes plan.json, with what earlier commands planned here kept; returns all cell names."""
    path = directory / "plan.json"
    names = [cell.name for cell in cells]
    if path.exists():
        try:
            names += [n for n in json.loads(path.read_text())["cells"] if n not in names]
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise UserError(f"--workdir: {path} is not readable ({error})") from error
    if processes.is_first():
        records.write_json(path, {**plan, "cells": names})
    return names
