"""Build the report of a sweep from its directory alone.

    python -m experiments.report.build runs/cellular_automata/smoke [MORE_SWEEPS ...]

The sweep directory holds `plan.json` (experiment, preset, cells, and optionally a Rule 110
space-time diagram) and one `cells/<cell>/row.json` for each finished cell.
"""

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import app

from experiments.report import figures, tables
from experiments.report.summary import ReportError, build_results


def write_report(
    sweep_dir: Path,
    experiment: str,
    preset: str,
    planned_cells: Sequence[str],
    diagram: np.ndarray | None = None,
) -> list[Path]:
    """Writes results.json, the tables and the figures into `sweep_dir`, and returns their paths."""
    results = build_results(sweep_dir, experiment, preset, planned_cells)
    texts = {
        "results.json": json.dumps(results, indent=1, allow_nan=False) + "\n",
        "table.md": tables.markdown(results),
        "table.tex": tables.latex(results),
    }
    drawings: dict[str, Callable[[Path], None]] = {
        "accuracy_against_tokens.png": lambda path: figures.accuracy_against_tokens(results, path),
        "accuracy_against_depth.png": lambda path: figures.accuracy_against_depth(results, path),
    }
    if diagram is not None:
        drawings["rule110.png"] = lambda path: figures.space_time_diagram(diagram, path)
    written = [
        _replace(sweep_dir / name, lambda path, text=text: path.write_text(text))
        for name, text in texts.items()
    ]
    return written + [_replace(sweep_dir / name, draw) for name, draw in drawings.items()]


def rebuild(sweep_dir: Path) -> list[Path]:
    """`write_report` with what `plan.json` in the sweep directory says."""
    if not sweep_dir.is_dir():
        raise ReportError(f"{sweep_dir} is not a directory")
    plan_path = sweep_dir / "plan.json"
    if not plan_path.is_file():
        raise ReportError(f"{sweep_dir} has no plan.json")
    try:
        plan: dict[str, Any] = json.loads(plan_path.read_text())
    except json.JSONDecodeError as error:
        raise ReportError(f"{plan_path} is not JSON: {error}") from error
    absent = {"experiment", "preset", "cells"} - set(plan)
    if absent:
        raise ReportError(f"{plan_path} lacks {', '.join(sorted(absent))}")
    diagram = np.array(plan["diagram"], np.uint8) if "diagram" in plan else None
    return write_report(sweep_dir, plan["experiment"], plan["preset"], plan["cells"], diagram)


def main(argv: Sequence[str]) -> int:
    """Rebuilds the report of every sweep directory named on the command line."""
    if len(argv) < 2:
        raise app.UsageError("name one or more sweep directories")
    for name in argv[1:]:
        try:
            written = rebuild(Path(name))
        except ReportError as error:
            print(f"report: {error}", file=sys.stderr)
            return 2
        print("\n".join(map(str, written)))
    return 0


def _replace(path: Path, write: Callable[[Path], object]) -> Path:
    """Writes beside `path` and renames, so that a reader never meets half a file."""
    temporary = path.with_name(f".{path.name}.tmp")
    write(temporary)
    os.replace(temporary, path)
    return path


if __name__ == "__main__":
    app.run(main)
