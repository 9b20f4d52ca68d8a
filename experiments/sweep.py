"""Runs the cells of a sweep, here or in worker processes, and writes the report.

A sweep directory holds `plan.json`, one run directory a cell under `cells/`, and the report. A cell
that has its row.json is finished and is not run again; one that was interrupted goes on from its
last checkpoint. On a CPU, cells are independent work for independent cores: small products gain
nothing from a second thread, so one process a core is twice as fast as two threads a product.
"""

import contextlib
import json
import logging
import multiprocessing as mp
import os
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import jax

from experiments.cells import Cell
from experiments.cli import STOPPED, StopSignal, set_up_logging
from sleep_jax import distributed, processes, records
from sleep_jax.config import to_dict
from sleep_jax.distributed import MeshConfig
from sleep_jax.errors import UserError
from sleep_jax.training import loop
from sleep_jax.training.evaluation import evaluation_sequences

log = logging.getLogger("sleep_jax")
FAILED = 1


def check(cells: Sequence[Cell], directory: Path) -> None:
    """Everything that can be refused before anything is compiled, for every cell.

    Raises:
      UserError: an impossible configuration, damaged frozen data, a directory that cannot be
        written or that holds another configuration.
    """
    for cell in cells:
        cell.config.validate()
        if cell.config.train.evaluation_data:
            evaluation_sequences(cell.config, cell.config.train.evaluation_sequences)
    records.check_writable(directory)
    records.check_shared(directory)
    for cell in cells:
        records.check_config(directory / "cells" / cell.name, to_dict(cell.config))


def run(
    cells: Sequence[Cell],
    directory: Path,
    jobs: int,
    flags: dict[str, Any],
    mesh: MeshConfig,
) -> int:
    """Runs what is not finished; returns 0, `FAILED`, `STOPPED` or 2."""
    todo = [c for c in cells if not (directory / "cells" / c.name / "row.json").exists()]
    done = len(cells) - len(todo)
    log.info("%d of %d runs are finished already", done, len(cells))
    todo = _in_order(todo)
    jobs = min(jobs, len(todo))
    if jobs <= 1:
        _use_compilation_cache(directory)
        # Of several processes JAX's distributed service hears the signal, and tells the others.
        stop = StopSignal() if jax.process_count() == 1 else lambda: False
        for cell in todo:
            code = _run_cell(cell, directory, flags, mesh, stop)
            if code:
                return code
        return 0
    return _run_in_workers(todo, directory, jobs, flags, mesh)


def _in_order(todo: Sequence[Cell]) -> list[Cell]:
    """Longest first, so that no core waits for a long run at the end.

    Except that the second one differs from the first in more than seed and depth: two workers that
    start together would compile the same program twice.
    """
    ordered = sorted(todo, key=lambda cell: cell.flops, reverse=True)
    for index, cell in enumerate(ordered[1:], start=1):
        if cell.config.sleep != ordered[0].config.sleep:
            ordered.insert(1, ordered.pop(index))
            break
    return ordered


def _use_compilation_cache(directory: Path) -> None:
    """Lets workers and later restarts of the sweep share what has been compiled.

    JAX_COMPILATION_CACHE_DIR, where it is set, is a wider cache, and kept.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(directory / "compilation_cache"))


def _run_cell(
    cell: Cell,
    directory: Path,
    flags: dict[str, Any],
    mesh_config: MeshConfig,
    stop: Callable[[], bool],
) -> int:
    """Runs one cell in this process, or this process's part of it, and writes its row."""
    path = directory / "cells" / cell.name
    path.mkdir(parents=True, exist_ok=True)
    set_up_logging(f"[{cell.name}] ")
    writes = processes.is_first()
    try:
        with records.claimed(path) if writes else contextlib.nullcontext():
            config = to_dict(cell.config)
            records.check_config(path, config)
            mesh = distributed.make_mesh(mesh_config)
            environment = records.environment(mesh, flags)
            if writes:
                records.write_json(path / "config.json", config)
                records.write_json(path / "environment.json", environment)
            measured = loop.train(cell.config, path, mesh, stop)
            row = {
                **cell.identity(),
                **measured,
                **{key: environment[key] for key in ("commit", "device", "versions")},
            }
            if writes:
                records.write_json(path / "row.json", row)
            log.info("finished: exact %.3f, floor %.3f", row["exact_accuracy"], row["floor"])
            return 0
    except loop.Interrupted as error:
        log.info("%s", error)
        return STOPPED
    except loop.NonFiniteLoss as error:
        print(f"error: {cell.name}: {error}", file=sys.stderr)
        return FAILED
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _run_in_workers(
    todo: Sequence[Cell], directory: Path, jobs: int, flags: dict[str, Any], mesh: MeshConfig
) -> int:
    context = mp.get_context("spawn")  # forking a process that has threads would be unsafe
    queue = context.SimpleQueue()
    for cell in todo:
        queue.put(cell)
    for _ in range(jobs):
        queue.put(None)
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    workers = []
    for index in range(jobs):
        core = cores[index % len(cores)] if cores else None
        arguments = (queue, directory, flags, mesh, os.getpid(), core)
        workers.append(context.Process(target=_worker, args=arguments, daemon=False))
    stop = StopSignal()
    for worker in workers:
        worker.start()
    return _wait_for(workers, stop)


def _wait_for(workers: Sequence[BaseProcess], stop: StopSignal) -> int:
    """Waits for all workers; when one fails or this process is asked to stop, stops the others."""
    code, running, told = 0, list(workers), False
    while running:
        wait([worker.sentinel for worker in running], timeout=0.5)
        for worker in running:
            if worker.exitcode:
                code = code or (worker.exitcode if worker.exitcode > 0 else FAILED)
        running = [worker for worker in running if worker.exitcode is None]
        if (stop() or code) and not told:
            told = True
            for worker in running:
                os.kill(worker.pid or 0, signal.SIGTERM)
    return code or (STOPPED if stop() else 0)


def _worker(
    queue: Any,
    directory: Path,
    flags: dict[str, Any],
    mesh: MeshConfig,
    parent: int,
    core: int | None,
):
    if core is not None:
        os.sched_setaffinity(0, {core})
    _use_compilation_cache(directory)
    stop = StopSignal(parent)
    while (cell := queue.get()) is not None:
        code = STOPPED if stop() else _run_cell(cell, directory, flags, mesh, stop)
        if code:
            sys.exit(code)


def write_plan(cells: Sequence[Cell], directory: Path, plan: dict[str, Any]) -> list[str]:
    """Writes plan.json, with what earlier commands planned here kept; returns all cell names."""
    path = directory / "plan.json"
    names = [cell.name for cell in cells]
    if path.exists():
        try:
            names += [n for n in json.loads(path.read_text())["cells"] if n not in names]
        except (json.JSONDecodeError, KeyError) as error:
            raise UserError(f"--workdir: {path} is not readable ({error})") from error
    if processes.is_first():
        records.write_json(path, {**plan, "cells": names})
    return names
