"""The report of runs that climb from t to t + 1: every rung is a depth, with what it took.

What a rung took counts from the first step of the run on, lower rungs included. It is reached if
the run left it and unseen sequences had then the target accuracy.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from experiments.report import depth_cost
from experiments.report.depth_cost import DepthCost, name
from experiments.report.style import MARKERS, STYLE, colours, save, scale_axis
from experiments.report.summary import Row
from experiments.report.words import scientific

_WIDTH = 7.0  # inches, both columns
_COUNTS = {"train_flops": "training FLOPs", "train_tokens": "training tokens"}


def summarise(rows: Iterable[Row]) -> list[DepthCost]:
    """One group an N and rung, over its seeds, of all rungs that any run has left."""
    rows = list(rows)
    highest = max((point["rung"] for row in rows for point in _left(row)), default=1)
    return depth_cost.summarise(
        depth_cost.RULE_110, [_at(row, rung) for row in rows for rung in range(1, highest + 1)]
    )


def _left(row: Row) -> list[Row]:
    """The evaluations of a run at the moments in which it left a rung."""
    return [point for point in row["curve"] if point["learned"]]


def _at(row: Row, rung: int) -> Row:
    """The row as if the run had been of this depth alone, and ended when it was learned."""
    here = [point for point in row["curve"] if point["rung"] == rung]
    floor = here[0]["floor"] if here else row["floor"]
    usual = {**row, "rollout_steps": rung, "floor": floor, "curve": here, "reached": False}
    enough = (p for p in _left(row) if p["exact_accuracy"] >= row["target_accuracy"])
    learned = next((point for point in enough if point["rung"] == rung), None)
    if learned is None:
        return usual
    # Whether to climb was asked so many steps before, and was answered with no.
    share = 1 - row["climb_every"] / learned["step"]
    before = {**learned, **{count: round(learned[count] * share) for count in _COUNTS}}
    counts = {count: learned[count] for count in _COUNTS}
    return {**usual, **counts, "reached": True, "curve": [before, learned]}


def conclude(summary: Sequence[DepthCost]) -> str:
    """How high each N got, and what each rung took."""
    return depth_cost.conclude(summary, list(filter(None, [_heights(summary)])))


def _heights(summary: Sequence[DepthCost]) -> str:
    said = []
    for label in dict.fromkeys(name(group) for group in summary):
        groups = [group for group in summary if name(group) == label]
        seeds = range(len(groups[0]["seeds"]))
        tops = [max((g["depth"] for g in groups if g["reached"][i]), default=0) for i in seeds]
        budget = scientific(groups[0]["budget_flops"])
        said.append(f"{label} left t = {' '.join(map(str, tops))} behind with at most {budget}")
    return f"By seed {'; '.join(said)}." if said else ""


def draw(results: dict[str, Any], path: Path) -> None:
    """The rungs left over training FLOPs and tokens, a line a seed, a colour an N."""
    rows = sorted(results["rows"], key=lambda row: row["passes"])
    looks: dict[int, dict[str, Any]] = {
        passes: {"color": colour, "marker": MARKERS[i % len(MARKERS)]}
        for i, (passes, colour) in enumerate(colours(row["passes"] for row in rows).items())
    }
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(_WIDTH, 2.7), sharey=True)
        for axis, (count, label) in zip(axes, _COUNTS.items(), strict=True):
            _panel(axis, rows, count, looks)
            scale_axis(axis, label, max((row[count] for row in rows), default=1))
        axes[0].set(ylabel="rollout steps t learned")
        axes[0].yaxis.get_major_locator().set_params(integer=True)
        handles = [Line2D([], [], label=f"N = {n}", markersize=3, **looks[n]) for n in looks]
        figure.legend(handles=handles, loc="outside upper center", ncols=max(len(handles), 1))
        figure.supxlabel(_caption(rows), fontsize=6)
        save(figure, path)


def _panel(
    axis: Axes, rows: Sequence[Row], count: str, looks: Mapping[int, Mapping[str, Any]]
) -> None:
    for row in rows:
        look, left = looks[row["passes"]], _left(row)
        x, y = [0, *(p[count] for p in left)], [0, *(p["rung"] for p in left)]
        axis.plot(x, y, linewidth=0.9, markersize=3, markevery=range(1, len(x)), **look)
        axis.plot([x[-1], row[count]], [y[-1]] * 2, ":", color=look["color"], linewidth=0.7)
        unseen = [p for p in left if p["exact_accuracy"] < row["target_accuracy"]]
        ends = [p[count] for p in unseen], [p["rung"] for p in unseen]
        axis.plot(*ends, "x", color="black", markersize=4)


def _caption(rows: Sequence[Row]) -> str:
    if not rows:
        return "no finished cell"
    row = rows[0]
    return (
        f"W = {row['width']}; each line a seed, which goes on to t + 1 when it has learned t; "
        f"dotted: the rest of its budget; crosses: then fewer than {row['target_accuracy']:g} of "
        "unseen sequences were right"
    )
