"""From the rows of a sweep to groups over seeds with 95% intervals.

A row is the `row.json` of one finished cell; a group is all seeds of one setting. Everything that
a table or a figure shows is computed here or read from the rows, so a report can be rebuilt from
the run directories alone.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scipy import special

from experiments.report import published
from experiments.report.conclusion import conclude
from experiments.report.groups import Group

Row = dict[str, Any]

_GROUP_KEY = (
    "model",
    "update_rule",
    "passes",
    "rollout_steps",
    "width",
    "match",
    "train_tokens",
)
_SCORES = ("exact_accuracy", "label_accuracy", "floor", "label_floor")


class ReportError(ValueError):
    """The run directories cannot be turned into an honest report; the message says why."""


def load_rows(sweep_dir: Path) -> list[Row]:
    """Rows of all finished cells, ordered by cell name."""
    rows = []
    for path in sorted(sweep_dir.glob("cells/*/row.json")):
        try:
            row = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise ReportError(f"{path} is not JSON: {error}") from error
        if row["cell"] != path.parent.name:
            raise ReportError(f"{path} belongs to another cell, {row['cell']!r}")
        rows.append(row)
    return rows


def student_t_interval(values: Sequence[float]) -> list[float]:
    """95% interval of the mean of two or more accuracies, clipped to [0, 1]."""
    n = len(values)
    mean = sum(values) / n
    variance = sum((value - mean) ** 2 for value in values) / (n - 1)
    half = float(special.stdtrit(n - 1, 0.975)) * math.sqrt(variance / n)
    return [max(0.0, mean - half), min(1.0, mean + half)]


def wilson_interval(share: float, trials: int) -> list[float]:
    """95% Wilson score interval of a share of `trials`, clipped to [0, 1]."""
    z = float(special.ndtri(0.975))
    centre = share + z * z / (2 * trials)
    half = z * math.sqrt(share * (1 - share) / trials + (z / (2 * trials)) ** 2)
    scale = 1 + z * z / trials
    return [max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)]


def summarise(rows: Iterable[Row]) -> list[Group]:
    """One group a setting, over its seeds; a failed score is an error that names the cell."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        _check_scores(row)
        groups.setdefault(tuple(row[name] for name in _GROUP_KEY), []).append(row)
    return [_group(groups[key]) for key in sorted(groups)]


def build_results(
    sweep_dir: Path, experiment: str, preset: str, planned_cells: Sequence[str]
) -> dict[str, Any]:
    """Everything that results.json holds."""
    rows = load_rows(sweep_dir)
    finished = {row["cell"] for row in rows}
    summary = summarise(rows)
    return {
        "experiment": experiment,
        "preset": preset,
        "commit": _all_of(row["commit"] for row in rows),
        "device": _all_of((_device_text(row["device"]) for row in rows), separator="; "),
        "versions": {
            name: _all_of(row["versions"].get(name, "not recorded") for row in rows)
            for name in sorted({name for row in rows for name in row["versions"]})
        },
        "wall_seconds": sum(row["wall_seconds"] for row in rows),
        "rows": rows,
        "summary": summary,
        "published": published.RULE_110,
        "missing": [cell for cell in planned_cells if cell not in finished],
        "conclusion": conclude(summary),
    }


def _check_scores(row: Row) -> None:
    """A diverged or broken run must stop the report, not sink into a mean."""
    scores = [(name, row[name]) for name in _SCORES]
    scores += [
        (f"{name} in the curve at step {point['step']}", point[name])
        for point in row["curve"]
        for name in ("exact_accuracy", "label_accuracy")
    ]
    for name, value in scores:
        if not isinstance(value, int | float) or not 0.0 <= value <= 1.0:
            raise ReportError(f"cell {row['cell']}: {name} is {value!r}, not a share")
    if not isinstance(row["loss"], int | float) or not math.isfinite(row["loss"]):
        raise ReportError(f"cell {row['cell']}: loss is {row['loss']!r}")


def _group(rows: list[Row]) -> Group:
    rows = sorted(rows, key=lambda row: row["seed"])
    first = rows[0]
    for one, other in zip(rows, rows[1:], strict=False):
        if one["seed"] == other["seed"]:
            raise ReportError(f"cells {one['cell']} and {other['cell']} are one setting and seed")
        for name in ("train_flops", "parameters"):
            if one[name] != other[name]:
                raise ReportError(f"cells {one['cell']} and {other['cell']} differ in {name}")
    values = [float(row["exact_accuracy"]) for row in rows]
    if len(rows) >= 2:
        ci95, over = student_t_interval(values), "seeds"
    else:
        ci95 = wilson_interval(values[0], first["evaluation_sequences"])
        over = "evaluation sequences"
    return {
        "model": first["model"],
        "update_rule": first["update_rule"],
        "passes": first["passes"],
        "rollout_steps": first["rollout_steps"],
        "width": first["width"],
        "match": first["match"],
        "train_tokens": first["train_tokens"],
        "train_flops": first["train_flops"],
        "parameters": first["parameters"],
        "exact_accuracy": {"mean": _mean(values), "ci95": ci95, "n": len(rows), "ci95_over": over},
        "label_accuracy": _mean([row["label_accuracy"] for row in rows]),
        "floor": _mean([row["floor"] for row in rows]),
        "label_floor": _mean([row["label_floor"] for row in rows]),
        "wall_seconds": _mean([row["wall_seconds"] for row in rows]),
        "seeds": [row["seed"] for row in rows],
        "values": values,
    }


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _all_of(values: Iterable[str], separator: str = ", ") -> str:
    """All distinct values: rows of one sweep may come from several commits or machines."""
    return separator.join(sorted(set(values))) or "none"


def _device_text(device: Mapping[str, Any]) -> str:
    return f"{device['count']} x {device['platform']} ({device['kind']}) on {device['host']}"
