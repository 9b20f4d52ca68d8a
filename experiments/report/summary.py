"""From the rows of a sweep to groups over seeds with 95% intervals.

A row is the `row.json` of one finished cell; a group is all seeds of one setting. Everything that
a table or a figure shows is computed here or read from the rows, so a report can be rebuilt from
the run directories alone.
"""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypedDict

from scipy import special

from experiments.report.files import READINGS, ReportError, read_object
from experiments.report.groups import Interval

Row = dict[str, Any]


class Mean(TypedDict):
    """A mean over seeds with half its 95% interval; none of one seed."""

    mean: float
    half: float | None


_SCORES = ("exact_accuracy", "label_accuracy", "floor", "label_floor")


def load_rows(sweep_dir: Path) -> list[Row]:
    """Rows of all finished cells, ordered by cell name, with the `readings` of those that have."""
    rows = []
    for path in sorted(sweep_dir.glob("cells/*/row.json")):
        row = read_object(path)
        if row.get("cell") != path.parent.name:
            raise ReportError(f"{path} belongs to another cell, {row.get('cell')!r}")
        readings = path.with_name(READINGS)
        rows.append({**row, **(read_object(readings) if readings.is_file() else {})})
    return rows


def student_t_interval(values: Sequence[float]) -> list[float]:
    """95% interval of the mean of two or more accuracies, clipped to [0, 1]."""
    centre, half = mean(values), student_t_half(values)
    return [max(0.0, centre - half), min(1.0, centre + half)]


def student_t_half(values: Sequence[float]) -> float:
    """Half the length of the 95% interval of the mean of two or more values."""
    n, centre = len(values), mean(values)
    variance = math.fsum((value - centre) ** 2 for value in values) / (n - 1)
    return float(special.stdtrit(n - 1, 0.975)) * math.sqrt(variance / n)


def wilson_interval(share: float, trials: int) -> list[float]:
    """95% Wilson score interval of a share of `trials`, clipped to [0, 1]."""
    z = float(special.ndtri(0.975))
    centre = share + z * z / (2 * trials)
    half = z * math.sqrt(share * (1 - share) / trials + (z / (2 * trials)) ** 2)
    scale = 1 + z * z / trials
    return [max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)]


def interval(values: Sequence[float], answers: int) -> Interval:
    """Mean and 95% interval: over seeds, or over the `answers` that were scored if one seed ran."""
    mean_value = mean(values)
    if len(values) >= 2:
        ci95, over = student_t_interval(values), "seeds"
    else:
        ci95, over = wilson_interval(values[0], answers), "evaluation sequences"
    return {"mean": mean_value, "ci95": ci95, "n": len(values), "ci95_over": over}


def group_rows(
    rows: Iterable[Row], key: Sequence[str], same: Sequence[str] = ("train_flops", "parameters")
) -> list[list[Row]]:
    """Rows that agree in all of `key`, ordered by it and inside by seed.

    Raises:
      ReportError: two rows of a group have one seed, or differ in one of `same`.
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in key), []).append(row)
    found = []
    for name in sorted(groups):
        group = sorted(groups[name], key=lambda row: row["seed"])
        for one, other in zip(group, group[1:], strict=False):
            _check_same(one, other, same)
        found.append(group)
    return found


def _check_same(one: Row, other: Row, same: Sequence[str]) -> None:
    if one["seed"] == other["seed"]:
        raise ReportError(f"cells {one['cell']} and {other['cell']} are one setting and seed")
    for name in same:
        if one[name] != other[name]:
            raise ReportError(f"cells {one['cell']} and {other['cell']} differ in {name}")


def check_scores(row: Row) -> None:
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


def mean_of(values: Sequence[float]) -> Mean:
    """Over seeds, of what need not lie in [0, 1]."""
    return {"mean": mean(values), "half": student_t_half(values) if len(values) > 1 else None}


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean, summed exactly."""
    return math.fsum(values) / len(values)
