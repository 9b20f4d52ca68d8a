"""The report of trained runs that were read again: accuracy by the N they were read at."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypedDict

from matplotlib import pyplot as plt

from experiments.report import files
from experiments.report.groups import Interval
from experiments.report.style import (
    COLOURS,
    COLUMN,
    FLOOR,
    MARKERS,
    STYLE,
    draw_intervals,
    legend,
    save,
)
from experiments.report.summary import Row, interval, mean
from experiments.report.tables import latex_table, markdown_table
from experiments.report.words import quote

ALL = "all"  # depths of a task whose answers differ in depth
_FIGURE = "accuracy_against_passes.png"
_LEGEND_LINE = 0.14  # inches
_LINES = ("-", "--", ":")  # when the colours begin again
_NOTE = (
    "Exact accuracy by the N at which a run was read, whatever N it was trained with. Brackets are "
    "95% intervals: Student t over seeds, or Wilson over the answers of one seed. The floor is "
    "what is right on the same sequences without reading them."
)


class Reread(TypedDict):
    """All seeds of one setting at one depth; `by_passes` from N, in ascending order."""

    setting: str
    depth: str
    seeds: list[int]
    steps: list[int]
    answers: int
    floor: float
    by_passes: dict[int, Interval]


def summarise(rows: Iterable[Row]) -> list[Reread]:
    """One group a setting and depth, in the order of the rows."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["setting"], row["depth"]), []).append(row)
    return [_group(found) for found in groups.values()]


def _group(rows: Sequence[Row]) -> Reread:
    at = {row["seed"]: row for row in rows}
    read = sorted({row["passes"] for row in rows})
    accuracies = {n: [row["exact_accuracy"] for row in rows if row["passes"] == n] for n in read}
    answers = min(row["answers"] for row in rows)
    return {
        "setting": rows[0]["setting"],
        "depth": rows[0]["depth"],
        "seeds": list(at),
        "steps": [row["step"] for row in at.values()],
        "answers": answers,
        "floor": mean([row["floor"] for row in at.values()]),
        "by_passes": {n: interval(values, answers) for n, values in accuracies.items()},
    }


def table(summary: Sequence[Reread]) -> tuple[tuple[str, ...], list[list[str]]]:
    """Header and lines: a column an N."""
    read = _passes(summary)
    header = ("run", "depth", "seeds n", "answers", "floor", *(f"read at N = {n}" for n in read))
    lines = [
        [
            group["setting"],
            group["depth"],
            str(len(group["seeds"])),
            str(group["answers"]),
            f"{group['floor']:.3f}",
            *(quote(group["by_passes"][n]) if n in group["by_passes"] else "-" for n in read),
        ]
        for group in summary
    ]
    return header, lines


def _passes(summary: Iterable[Reread]) -> list[int]:
    return sorted({n for group in summary for n in group["by_passes"]})


def write(results: dict[str, Any], directory: Path) -> list[Path]:
    """Writes evaluation.json, the tables and, where there are several N, the figure."""
    summary = summarise(results["rows"])
    texts = {
        "evaluation.json": json.dumps({**results, "summary": summary}, indent=1) + "\n",
        "table.md": f"{markdown_table(*table(summary))}\n\n{_NOTE}\n",
        "table.tex": latex_table(*table(summary)) + "\n",
    }
    written = [files.write_text(directory / name, text) for name, text in texts.items()]
    (directory / _FIGURE).unlink(missing_ok=True)  # of another reading
    if len(_passes(summary)) > 1:
        written.append(files.replace(directory / _FIGURE, lambda path: draw(summary, path)))
    return written


def draw(summary: Sequence[Reread], path: Path) -> None:
    """Exact accuracy over all depths against the N of the reading, a line a setting."""
    shown = [group for group in summary if len(group["by_passes"]) > 1]
    whole = [group for group in shown if group["depth"] == ALL] or shown
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(COLUMN, 2.3 + _LEGEND_LINE * len(whole)))
        for place, group in enumerate(whole):
            look = {
                "color": COLOURS[place % len(COLOURS)],
                "marker": MARKERS[place % len(MARKERS)],
                "markersize": 3,
                "linestyle": _LINES[place // len(COLOURS) % len(_LINES)],
            }
            x, scores = zip(*group["by_passes"].items(), strict=True)
            look |= {"label": group["setting"], "elinewidth": 0.7, "capsize": 1.2}
            draw_intervals(axis, x, scores, **look)
        for floor in {group["floor"] for group in whole}:
            axis.axhline(floor, **FLOOR)
        axis.set_xscale("log", base=2)
        axis.set_xticks(_passes(whole), map(str, _passes(whole)))
        axis.minorticks_off()
        legend(figure, axis, columns=1, floor="floor: unread")
        axis.set(xlabel="N at which a run is read", ylabel="exact accuracy", ylim=(0, 1.02))
        save(figure, path)
