"""Build the report of a sweep from its directory alone.

    python -m experiments.report.build runs/cellular_automata/smoke [MORE_SWEEPS ...]

The sweep directory holds `plan.json` (experiment, preset, cells, and for Rule 110 a space-time
diagram) and one `cells/<cell>/row.json` for each finished cell.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import app

from experiments.report import checking, cost, files, tables
from experiments.report.files import ReportError
from experiments.report.kinds import kind_of
from experiments.report.summary import load_rows
from sleep_jax.config import flatten

_RUN_FIELDS = {
    "commit": str,
    "device": dict,
    "versions": dict,
    "wall_seconds": (int, float),
    "evaluation_sequences": int,
    "evaluation_split": str,
}


def build_results(sweep_dir: Path, plan: dict[str, Any]) -> dict[str, Any]:
    """Everything that results.json holds: what `plan` says, the rows and their summary.

    `config` has what all runs share, by the names that --set takes, and that of a row the rest.
    """
    kind = kind_of(plan["experiment"])
    rows = [row for row in load_rows(sweep_dir) if not kind.reads or kind.reads in row]
    finished = {row["cell"] for row in rows}
    checking.rows(rows, {**kind.fields, **_RUN_FIELDS}, str(sweep_dir), kind.in_curve)
    summary = kind.summarise(rows)
    configs = _configs(sweep_dir, rows)
    shared = {
        name: value
        for name, value in next(iter(configs.values()), {}).items()
        if all(name in other and other[name] == value for other in configs.values())
    }
    for row in rows:
        row["config"] = {k: v for k, v in configs[row["cell"]].items() if k not in shared}
    return {
        **{name: plan[name] for name in plan if name != "cells"},
        "config": shared,
        "commit": _all_of(row["commit"] for row in rows),
        "device": _all_of((_device_text(row["device"]) for row in rows), separator="; "),
        "versions": {
            name: _all_of(row["versions"].get(name, "not recorded") for row in rows)
            for name in sorted({name for row in rows for name in row["versions"]})
        },
        "wall_seconds": sum(row["wall_seconds"] for row in rows),
        **_goodput(rows),
        "rows": rows,
        "summary": summary,
        "published": kind.published,
        "missing": [cell for cell in plan["cells"] if cell not in finished],
        "conclusion": kind.conclude(summary),
    }


def write_report(sweep_dir: Path, plan: dict[str, Any]) -> list[Path]:
    """Writes results.json, the tables and the figures into `sweep_dir`, and returns their paths."""
    results = build_results(sweep_dir, plan)
    texts = {
        "results.json": json.dumps(results, indent=1, allow_nan=False) + "\n",
        "table.md": tables.markdown(results),
        "table.tex": tables.latex(results),
    }
    written = [files.write_text(sweep_dir / name, text) for name, text in texts.items()]
    return written + [
        files.replace(sweep_dir / name, lambda path, draw=draw: draw(results, path))
        for name, draw in kind_of(plan["experiment"]).drawings.items()
    ]


def rebuild(sweep_dir: Path) -> list[Path]:
    """`write_report` with what `plan.json` says; a measurement's report from its results.json."""
    if not sweep_dir.is_dir():
        raise ReportError(f"{sweep_dir} is not a directory")
    plan_path, results_path = sweep_dir / "plan.json", sweep_dir / "results.json"
    if results_path.is_file() and not plan_path.is_file():
        results = files.read_object(results_path)
        if results.get("experiment") == "cost_of_sleep":
            checking.cost(results, str(results_path))
            return cost.write(results, sweep_dir)
    if not plan_path.is_file():
        raise ReportError(f"{sweep_dir} has no plan.json")
    plan = files.read_object(plan_path)
    absent = {"experiment", "preset", "cells"} - set(plan)
    if absent:
        raise ReportError(f"{plan_path} lacks {', '.join(sorted(absent))}")
    return write_report(sweep_dir, plan)


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


def _goodput(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Share of training in the wall time, and seconds by cause, of the rows that have them."""
    seconds = Counter[str]()
    for row in rows:
        seconds.update(row["goodput"]["seconds"] if "goodput" in row else {})
    if not seconds:  # runs of before this was measured
        return {}
    return {"goodput": {"share": seconds["training"] / seconds.total(), "seconds": dict(seconds)}}


def _configs(sweep_dir: Path, rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Every run's configuration by cell, as `{"model.d_model": 64, ...}`; empty if not there."""
    paths = {row["cell"]: sweep_dir / "cells" / row["cell"] / "config.json" for row in rows}
    return {
        cell: flatten(files.read_object(path)) if path.is_file() else {}
        for cell, path in paths.items()
    }


def _all_of(values: Iterable[str], separator: str = ", ") -> str:
    """All distinct values: rows of one sweep may come from several commits or machines."""
    return separator.join(sorted(set(values))) or "none"


def _device_text(device: Mapping[str, Any]) -> str:
    return f"{device['count']} x {device['platform']} ({device['kind']}) on {device['host']}"


if __name__ == "__main__":
    app.run(main)
