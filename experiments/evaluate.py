"""Reads trained runs again: at other N, on other depths, on more sequences.

    python -m experiments.evaluate --run=runs/cellular_automata/cpu [--passes=1,2,4,8]
        [--set=task.rollout_steps=3] [--set=train.evaluation_sequences=4096] [--output=DIR]

--run is one run directory, or a sweep with all of its finished runs. Nothing is trained, and
nothing of a run changes. Writes evaluation.json, table.md, table.tex and a figure into --output, by
default `evaluation/` inside --run, where it takes the place of the one before.
"""

import dataclasses
import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from experiments import cli, presets
from experiments.cells import without_seed
from sleep_jax.config import CurriculumConfig, RunConfig, flatten, to_dict
from sleep_jax.errors import UserError
from sleep_jax.overrides import override
from sleep_jax.saved_config import read_config

if TYPE_CHECKING:
    from sleep_jax.trained import Trained

log = logging.getLogger("sleep_jax")

# Experiments have flags of the same names.
FLAGS = flags.FlagValues()
_RUN = flags.DEFINE_string("run", None, "A run directory, or that of a sweep.", flag_values=FLAGS)
_PASSES = flags.DEFINE_list(
    "passes", None, "N to read it at, comma-separated; default: the trained N.", flag_values=FLAGS
)
_SET = flags.DEFINE_multi_string(
    "set", [], "path=value for fields of the task and of its evaluation.", flag_values=FLAGS
)
_OUTPUT = flags.DEFINE_string("output", None, "Default: evaluation/ in --run.", flag_values=FLAGS)


def main() -> int:
    """Finds the runs, reads them, writes the results."""
    if not _RUN.value:
        raise UserError("--run is missing; allowed: a run directory, or that of a sweep")
    root, passes = Path(_RUN.value), None
    if _PASSES.value is not None:
        passes = cli.parse_numbers("passes", _PASSES.value, 1, "whole numbers N")
    for assignment in _SET.value:
        if not _may_change(assignment.partition("=")[0]):
            raise UserError(
                f"--set={assignment} is not possible: what was trained stays as it is; allowed: "
                "task.*, train.evaluation_*, train.batch_size"
            )
    runs = _runs(root)
    asked = [_asked(run, _SET.value, passes, alone=run == root) for run in runs]
    _set_environment(runs[0])

    # Imports JAX, so only once the environment says how it is to run.
    from experiments.report import reread
    from sleep_jax import records, trained

    output = Path(_OUTPUT.value or root / "evaluation")
    records.check_writable(output, "output")
    rows = []
    for run, (config, at) in zip(runs, asked, strict=True):
        one = trained.load(run)
        rows += _rows(run, one, config, at)
    results = {
        "run": str(root),
        "flags": {flag.name: flag.value for flag in cli.own_flags(FLAGS)},
        "commit": records.commit(),
        "device": records.device(one.mesh),
        "versions": records.versions(),
        "rows": rows,
    }
    written = reread.write(results, output)
    print((output / "table.md").read_text())
    for path in written:
        log.info("wrote %s", path)
    return 0


def _may_change(field: str) -> bool:
    """Whether it is of the task or its evaluation, and nothing that was trained."""
    return field.startswith(("task.", "train.evaluation_")) or field == "train.batch_size"


def _runs(directory: Path) -> list[Path]:
    """The directory if it is a run's, else the finished runs of the sweep that it holds."""
    if (directory / "config.json").exists():
        return [directory]
    found = sorted(path.parent for path in directory.glob("cells/*/row.json"))
    if not found:
        raise UserError(
            f"--run={directory} is neither a run nor a sweep with finished runs; allowed: "
            "RUNS/EXPERIMENT/PRESET, or cells/NAME in there"
        )
    return found


def _set_environment(run: Path) -> None:
    """What was trained on a CPU is read on a CPU, compiled as it was; else JAX decides."""
    platform = _environment(run).get("device", {}).get("platform")
    if platform == "cpu" and "JAX_PLATFORMS" not in os.environ:
        presets.cpu().set_environment()


def _environment(run: Path) -> dict[str, Any]:
    """Of the training; empty where it was not recorded."""
    path = run / "environment.json"
    try:
        return json.loads(path.read_text()) if path.exists() else {}
    except ValueError as error:
        raise UserError(
            f"--run: {path} is not JSON ({error}); allowed: what the run wrote"
        ) from error


def _asked(
    run: Path, changes: Sequence[str], passes: Sequence[int] | None, alone: bool
) -> tuple[RunConfig, Sequence[int]]:
    """The run's configuration as it is to be evaluated, and the N at which it is read.

    Raises:
      UserError: no such configuration, or one that cannot be; N > 1 for what never sleeps, unless
        it is one run of many, which is then read as it was trained.
    """
    config = override(read_config(run), changes)
    # A budget that pays for a step, however long the sequences are now: nothing is trained.
    tokens = max(config.train.tokens, config.tokens_per_step)
    train = dataclasses.replace(config.train, tokens=tokens)
    config = dataclasses.replace(config, train=train, curriculum=CurriculumConfig())
    own = config.sleep.passes
    sleeps = config.sleep.cache != "keep" and config.model.has_fast_weights
    if passes is None or not (sleeps or alone):
        passes = [own]
    if not sleeps and set(passes) != {own}:
        raise UserError(
            f"--passes={','.join(map(str, passes))} is not possible for {run.name}, which never "
            f"sleeps; allowed: {own}"
        )
    for n in passes:
        dataclasses.replace(config, sleep=dataclasses.replace(config.sleep, passes=n)).validate()
    return config, passes


def _rows(
    run: Path, trained: "Trained", config: RunConfig, passes: Sequence[int]
) -> list[dict[str, Any]]:
    """A row an N, and of a task whose answers differ in depth one more for each depth."""
    from experiments.report.reread import ALL
    from sleep_jax.training.evaluation import evaluation_sequences

    task, count = config.task, config.train.evaluation_sequences
    sequences = evaluation_sequences(config, count)
    floor, floors = task.floor(sequences)["exact"], task.floor_by_depth(sequences)
    about = {
        "run": run.name,
        "setting": without_seed(run.name),
        "seed": config.train.seed,
        "trained_passes": config.sleep.passes,
        "trained_commit": _environment(run).get("commit", "not recorded"),
        "step": trained.step,
        "config": {k: v for k, v in flatten(to_dict(config)).items() if _may_change(k)},
    }
    rows = []
    for n in passes:
        start = time.monotonic()
        values = trained.evaluate(sequences, n, config.train.batch_size)
        read = {**about, "passes": n, "seconds": time.monotonic() - start}
        by_depth = values.pop("by_depth", {})
        answers = sum(at["answers"] for at in by_depth.values()) or count
        depth = ALL if by_depth else ", ".join(map(str, floors))
        rows.append({**read, "depth": depth, "answers": answers, "floor": floor, **values})
        rows += [
            {**read, "depth": depth, "floor": floors[int(depth)], **at}
            for depth, at in by_depth.items()
        ]
        accuracy = values["exact_accuracy"]
        log.info("%s read at N = %d: exact %.3f (floor %.3f)", run.name, n, accuracy, floor)
    return rows


if __name__ == "__main__":
    sys.exit(cli.run(main, sys.argv, FLAGS))
