"""Labels right by position in the prediction window: which window's content was kept.

Of Rule 110 position k asks for string k, so the first column is the oldest memory.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from experiments.report.groups import Group, Interval
from experiments.report.summary import interval
from experiments.report.words import model_name, quote, trained_on

_FIELD = "label_accuracy_by_position"


class Table(NamedTuple):
    """A table that stands under the main one."""

    title: str
    header: Sequence[str]
    lines: list[list[str]]


def of_rows(rows: Sequence[Mapping[str, Any]]) -> list[Interval]:
    """The rows' mean at each position; nothing where a row does not know."""
    if not all(_FIELD in row for row in rows):
        return []
    sequences = rows[0]["evaluation_sequences"]
    return [
        interval([row[_FIELD][position] for row in rows], sequences) for position in rows[0][_FIELD]
    ]


def by_string(summary: Sequence[Group], order: Callable[[Group], Any]) -> Table | None:
    """A line for each group that has it, a column a string; None where no group has it."""
    found = sorted((group for group in summary if "by_position" in group), key=order)
    if not found:
        return None
    count = max(len(group["by_position"]) for group in found)
    return Table(
        "Labels right by string, the first one read to the last",
        ("model", "N", "t", "trained on", *(f"string {k + 1}" for k in range(count))),
        [
            [
                model_name(group),
                str(group["passes"]),
                str(group["rollout_steps"]),
                trained_on(group),
                *map(quote, group["by_position"]),
            ]
            for group in found
        ],
    )
