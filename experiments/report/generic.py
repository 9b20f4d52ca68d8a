"""The report of an experiment that this package does not know: rows grouped, nothing concluded.

All that is a word or a whole number in a row and not a result counts as its setting, so whatever an
experiment varies ends up in a column of its own.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from experiments.report.groups import short
from experiments.report.summary import ReportError, Row, group_rows, interval, mean
from experiments.report.words import quote

# Of a row, but no setting of it.
_NOT_SETTINGS = {
    *("cell", "seed", "train_flops", "parameters", "steps", "commit"),
    *("evaluation_sequences", "evaluation_split"),
}
# Shown in the words of a reader where an experiment has them.
_NAMES = {"passes": "N", "rollout_steps": "t", "width": "W", "match": "matched"}
_COUNTS = {"train_tokens": "tokens", "train_flops": "FLOPs", "parameters": "parameters"}
_ACCURACY = "exact_accuracy"


def summarise(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """A group a setting: its `setting`, its counts, and the mean over seeds of each score."""
    rows = list(rows)
    names = sorted(
        {name for row in rows for name, value in row.items() if _is_setting(name, value)}
    )
    # Text sorts with numbers only as text, in which 4 is to come before 16.
    keyed = [
        row | {f"by {name}": str(row.get(name, "-")).rjust(24) for name in names} for row in rows
    ]
    for row in keyed:
        for name in _COUNTS:
            row.setdefault(name, None)
    return [_group(found, names) for found in group_rows(keyed, [f"by {name}" for name in names])]


def _is_setting(name: str, value: object) -> bool:
    return isinstance(value, str | int) and name not in _NOT_SETTINGS


def _group(rows: list[Row], names: Sequence[str]) -> dict[str, Any]:
    scores = {}
    for name in sorted({key for row in rows for key in row}):
        values = [row.get(name) for row in rows]
        if name == _ACCURACY and "evaluation_sequences" in rows[0]:
            continue
        if all(isinstance(value, float) for value in values):
            scores[name] = mean([value for value in values if isinstance(value, float)])
    group = {
        "setting": {name: rows[0].get(name, "-") for name in names},
        "seeds": [row["seed"] for row in rows],
        "scores": scores,
        **{name: rows[0][name] for name in _COUNTS},
    }
    if all(isinstance(row.get(_ACCURACY), int | float) for row in rows):
        answers = rows[0].get("evaluation_sequences")
        if not isinstance(answers, int):
            raise ReportError(f"cell {rows[0]['cell']}: evaluation_sequences is {answers!r}")
        group[_ACCURACY] = interval([row[_ACCURACY] for row in rows], answers)
    return group


def conclude(summary: Sequence[dict[str, Any]]) -> str:
    """No claim is drawn from what is not understood."""
    return (
        "This report does not know the experiment: its rows are grouped by their settings, with "
        "the mean of each score over seeds, and nothing is concluded."
    )


def header(summary: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """Column names: settings, counts, seeds, the accuracy with its interval, other scores."""
    settings = [_NAMES.get(name, name.replace("_", " ")) for name in _settings(summary)]
    counts = [_COUNTS[name] for name in _counted(summary)]
    scores = [name.replace("_", " ") for name in _scores(summary)]
    accuracy = ["exact accuracy [95%]"] * any(_ACCURACY in group for group in summary)
    return (*settings, *counts, "seeds n", *accuracy, *scores)


def lines(summary: Sequence[dict[str, Any]]) -> list[list[str]]:
    """One line a group."""
    with_accuracy = any(_ACCURACY in group for group in summary)
    table = []
    for group in summary:
        counts = [_count(group[name]) for name in _counted(summary)]
        accuracy = [quote(group[_ACCURACY]) if _ACCURACY in group else "not recorded"]
        scores = [
            f"{group['scores'][name]:.3g}" if name in group["scores"] else "not recorded"
            for name in _scores(summary)
        ]
        settings = [str(group["setting"][name]) for name in _settings(summary)]
        seeds = str(len(group["seeds"]))
        table.append([*settings, *counts, seeds, *accuracy * with_accuracy, *scores])
    return table


def _settings(summary: Sequence[dict[str, Any]]) -> list[str]:
    return [] if not summary else [name for name in summary[0]["setting"] if name not in _COUNTS]


def _counted(summary: Sequence[dict[str, Any]]) -> list[str]:
    return [name for name in _COUNTS if any(group[name] is not None for group in summary)]


def _scores(summary: Sequence[dict[str, Any]]) -> list[str]:
    return sorted({name for group in summary for name in group["scores"]})


def _count(value: int | None) -> str:
    return "not recorded" if value is None else short(value)
