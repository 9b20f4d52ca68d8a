"""The report of runs that climb from t to t + 1: every rung is a depth, with what it took.

What a rung took counts from the first step of the run on, lower rungs included, to the first
evaluation on it at which unseen sequences had the target accuracy. The run goes on to the next one
when its training batches say so, which is later. Rungs of one run are not independent.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from experiments.report import depth_cost
from experiments.report.depth_cost import ON_TOKENS, DepthCost, name, setting
from experiments.report.style import MARKERS, STYLE, colours, save, scale_axis
from experiments.report.summary import Row, mean
from experiments.report.words import scientific

_WIDTH = 7.0  # inches, both columns
_COUNTS = {"train_flops": "training FLOPs", "train_tokens": "training tokens"}


def summarise(rows: Iterable[Row]) -> list[DepthCost]:
    """One group an N and rung, over its seeds, of all rungs that any run has left or learned."""
    rows = list(rows)
    floors = {(row["width"], p["rung"]): p["floor"] for row in rows for p in row["curve"]}
    highest = max((p["rung"] for row in rows for p in _left(row) + learned(row)), default=1)
    return depth_cost.summarise(
        depth_cost.RULE_110,
        [
            {**_at(row, rung), "floor": floors.get((row["width"], rung), row["floor"])}
            for row in rows
            for rung in range(1, highest + 1)
        ],
    )


def _left(row: Row) -> list[Row]:
    """The evaluations of a run at the moments in which it left a rung."""
    return [point for point in row["curve"] if point["learned"]]


def learned(row: Row) -> list[Row]:
    """Of each rung the first evaluation with the target accuracy, if there is one."""
    first: dict[int, Row] = {}
    for point in row["curve"]:
        if point["exact_accuracy"] >= row["target_accuracy"]:
            first.setdefault(point["rung"], point)
    return list(first.values())


def _at(row: Row, rung: int) -> Row:
    """The row as if the run had been of this depth alone, and ended when it was learned."""
    curve = row["curve"]
    found = next((point for point in learned(row) if point["rung"] == rung), None)
    left = next((point for point in _left(row) if point["rung"] == rung), None)
    # Where it left without having learned, no more is known than that it took longer than that.
    end = found or left or row
    if found:
        seen = curve[: curve.index(found) + 1][-2:]
    else:  # what it had to show for all of the budget, if that is where it stood at the end
        seen = [point for point in curve[-1:] if point["rung"] == rung]
    return {
        **row,
        **{count: end[count] for count in _COUNTS},
        "rollout_steps": rung,
        "reached": found is not None,
        "curve": seen,
    }


def conclude(summary: Sequence[DepthCost]) -> str:
    """How high each N got, and what each rung took."""
    return depth_cost.conclude(summary, list(filter(None, [_heights(summary)])), growth=_rises)


def _rises(series: Sequence[DepthCost]) -> str:
    """`N = 1 by 1.9e12, 2.5e12`, the means of what each rung took more than the one before."""
    pairs = zip(series, series[1:], strict=False)
    more = [
        mean([after - before for before, after in zip(one["flops"], two["flops"], strict=True)])
        for one, two in pairs
    ]
    return f"{name(series[0])} by {', '.join(map(scientific, more))}" if more else ""


def _heights(summary: Sequence[DepthCost]) -> str:
    """`By seed N = 1 learned t = 4 3 5.`"""
    runs: dict[tuple[Any, ...], list[DepthCost]] = {}
    for group in summary:
        runs.setdefault((setting(group), group["match"], group["passes"]), []).append(group)
    several = len({setting(group) for group in summary}) > 1
    said = []
    for groups in runs.values():
        seeds = range(len(groups[0]["seeds"]))
        tops = [max((g["depth"] for g in groups if g["reached"][i]), default=0) for i in seeds]
        where = f", {groups[0]['size']}," * several
        said.append(f"{name(groups[0])}{where} learned t = {' '.join(map(str, tops))}")
    return f"By seed {'; '.join(said)}." if said else ""


def draw(results: dict[str, Any], path: Path) -> None:
    """The rungs left over training FLOPs and tokens, a line a seed, a colour an N."""
    rows = _shown(results["rows"])
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


def _shown(rows: Sequence[Row]) -> list[Row]:
    """By N, what spent its FLOPs on tokens, of the setting with most runs."""
    settings: dict[tuple[Any, ...], list[Row]] = {}
    for row in sorted(rows, key=lambda row: row["passes"]):
        if row["match"] in ON_TOKENS:
            key = row["update_rule"], row["regime"], row["width"]
            settings.setdefault(key, []).append(row)
    return max(settings.values(), key=len, default=[])


def _panel(
    axis: Axes, rows: Sequence[Row], count: str, looks: Mapping[int, Mapping[str, Any]]
) -> None:
    for row in rows:
        look, rungs = looks[row["passes"]], learned(row)
        x, y = [0, *(p[count] for p in rungs)], [0, *(p["rung"] for p in rungs)]
        axis.plot(x, y, linewidth=0.9, markersize=3, markevery=range(1, len(x)), **look)
        axis.plot([x[-1], row[count]], [y[-1]] * 2, ":", color=look["color"], linewidth=0.7)


def _caption(rows: Sequence[Row]) -> str:
    if not rows:
        return "no finished cell"
    row = rows[0]
    return (
        f"W = {row['width']}; a line a seed, which goes on to t + 1 when it has learned t; marks: "
        f"{row['target_accuracy']:g} of unseen sequences right; dotted: the rest of its budget"
    )
