"""What each N needs to learn a depth: all tasks and sizes of model side by side.

A line is one depth of one source of `EXP=cost_of_depth`, `rollout_ladder`, `cost_of_depth_depo` or
`ttt_e2e`, on the test split, where N = 1 stands beside a larger N with seeds enough for an
interval. Every N of it had the same FLOPs at most.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from experiments.report.departures import setting_in_words
from experiments.report.depth_cost import DepthCost, compared
from experiments.report.needed import less, quote, trillions
from experiments.report.sources import Source
from experiments.report.style import MARKERS, STYLE, colours, save, title
from experiments.report.tables import markdown_table

# In the order of the lines.
TASKS = {
    "cost_of_depth": "Rule 110",
    "rollout_ladder": "Rule 110",
    "cost_of_depth_depo": "Depo",
    "ttt_e2e": "Depo",
}
_SEEDS = 3  # the fewest of a line
_TARGET = 0.9  # of the presets; another one is not comparable, and left out
NOTE = (
    f"Training FLOPs, in 1e12, until the exact accuracy is {_TARGET:g} (Rule 110: all answers of a "
    "sequence right; Depo: answers at that depth): geometric means over seeds, 95 % intervals. "
    "“Less” and “more” than N = 1 takes: the two intervals do not overlap. > is a lower limit, "
    "without interval: not every seed got there with the FLOPs that each was allowed; then it is "
    "“less” or “more” if all seeds of the two lie apart (exact rank test, .05). Where t climbs, "
    "all depths are of the same runs, easier ones first, and count from their first step on. Rates "
    "that differ stand by N."
)
OTHERS = "The same depths once more, with other seeds, rates or limits"
_WIDTH, _HEIGHT = 8.5, 2.2  # inches, the figure's and a row's
_SHARES = 13  # depths side by side
_NARROWEST = 2  # depths, that a title fits above one


class _Place(NamedTuple):
    """Of a panel in the grid of the figure."""

    row: int
    columns: slice


class Line(NamedTuple):
    """One depth of one source, its groups by N ascending; `as_is`: a preset as it comes.

    `rates` are Muon's.
    """

    task: str
    blocks: int
    depth: int
    source: str
    as_is: bool
    groups: Mapping[int, DepthCost]
    rates: Mapping[int, str]

    @property
    def at(self) -> str:
        return next(iter(self.groups.values()))["at"]

    @property
    def seeds(self) -> int:
        return min(len(group["seeds"]) for group in self.groups.values())


def lines(sources: Iterable[Source]) -> list[Line]:
    """By task, blocks and depth; of one setting the presets as they come first."""
    found = [
        line
        for source in sources
        if source.experiment in TASKS and not source.is_smoke
        for line in _of(source)
    ]
    names = list(dict.fromkeys(TASKS.values()))
    return sorted(
        found,
        key=lambda line: (
            names.index(line.task.partition(",")[0]),
            line.task,
            line.blocks,
            line.depth,
            not line.as_is,
            -line.seeds,
        ),
    )


def _of(source: Source) -> list[Line]:
    if any(row["evaluation_split"] != "test" for row in source.rows):
        return []
    found = []
    for groups in compared(source.summary):
        line = Line(
            task=setting_in_words(TASKS[source.experiment], source, groups[0]),
            blocks=groups[0]["blocks"],
            depth=groups[0]["depth"],
            source=source.shown,
            as_is=source.as_is,
            groups={group["passes"]: group for group in groups},
            rates={group["passes"]: _rate(source, group) for group in groups},
        )
        usual = groups[0]["target_accuracy"] == _TARGET
        if usual and min(line.groups) == 1 < max(line.groups) and line.seeds >= _SEEDS:
            found.append(line)
    return found


def _rate(source: Source, group: DepthCost) -> str:
    """Of its first seed."""
    row = source.row_of(group)
    name = "optimizer.muon_learning_rate"
    rate = {**source.results.get("config", {}), **row.get("config", {})}.get(name)
    return "not recorded" if rate is None else f"{rate:g}"


def passes(found: Iterable[Line]) -> list[int]:
    """All N of the lines."""
    return sorted({n for line in found for n in line.groups})


def header(found: Sequence[Line]) -> list[str]:
    """A column an N."""
    columns = (f"N = {n}" for n in passes(found))
    return ["task", "blocks", "depth", *columns, "Muon's rate", "seeds", "source"]


def cells(found: Sequence[Line]) -> list[list[str]]:
    """The table under `header`."""
    every = passes(found)
    return [
        [
            line.task,
            str(line.blocks),
            line.at,
            *(_need(line, n) for n in every),
            _rates(line),
            str(line.seeds),
            line.source,
        ]
        for line in found
    ]


def _rates(line: Line) -> str:
    """`0.005`, or `0.005, 0.01` by N."""
    same = len(set(line.rates.values())) == 1
    return ", ".join(list(line.rates.values())[: 1 if same else None])


def _need(line: Line, n: int) -> str:
    if n not in line.groups:
        return "not run"
    one, group = line.groups[1], line.groups[n]
    word = " less" * less(group, one) + " more" * less(one, group)
    return quote(group, trillions) + word


def markdown(found: Sequence[Line]) -> str:
    """A table of the first lines, what it says, and one of the others, if there are any."""
    first, others = parted(found)
    return f"{_table(first)}\n{NOTE}\n" + f"\n{OTHERS}:\n\n{_table(others)}" * bool(others)


def _table(found: Sequence[Line]) -> str:
    return markdown_table(header(found), cells(found)) + "\n"


def parted(found: Sequence[Line]) -> tuple[list[Line], list[Line]]:
    """The first line of each depth of each task and model, which are drawn, and all others."""
    drawn = [line for panel in firsts(found).values() for line in panel]
    return drawn, [line for line in found if line not in drawn]


def firsts(found: Iterable[Line]) -> dict[tuple[str, int], list[Line]]:
    """For each task and number of blocks a line a depth, the first of those that there are."""
    panels: dict[tuple[str, int], dict[int, Line]] = {}
    for line in found:
        panels.setdefault((line.task, line.blocks), {}).setdefault(line.depth, line)
    return {setting: list(by_depth.values()) for setting, by_depth in panels.items()}


def draw(found: Sequence[Line], path: Path) -> None:
    """FLOPs to the target over depth, a panel a task and model, a line an N, on one scale."""
    panels = firsts(found)
    looks = {
        n: {"color": colour, "marker": MARKERS[i % len(MARKERS)], "markersize": 3.5}
        for i, (n, colour) in enumerate(colours(passes(found)).items())
    }
    places = _places(
        (task.partition(",")[0], max(len(panel), _NARROWEST)) for (task, _), panel in panels.items()
    )
    rows = max((place.row for place in places), default=0) + 1
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(_WIDTH, _HEIGHT * rows))
        grid = figure.add_gridspec(rows, _SHARES)
        first: Axes | None = None
        for place, ((task, blocks), panel) in zip(places, panels.items(), strict=True):
            axis = figure.add_subplot(grid[place.row, place.columns], sharey=first)
            first = first or axis
            axis.tick_params(labelleft=place.columns.start == 0)
            name, size, *departs = task.split(", ")
            axis.set_title(title(f"{name}, {size}", *departs, f"{blocks} blocks"))
            _panel(axis, panel, looks)
        figure.supylabel("training FLOPs to the target", fontsize=7)
        handles = [Line2D([], [], linewidth=0.8, label=f"N = {n}", **looks[n]) for n in looks]
        figure.legend(handles=handles, loc="outside upper center", ncols=max(len(handles), 1))
        note = "geometric means, 95 % intervals over seeds; triangles: at least so much"
        figure.supxlabel(note, fontsize=6)
        save(figure, path)


def _places(panels: Iterable[tuple[str, int]]) -> list[_Place]:
    """Side by side, as many columns as each has shares; a new task or no room begins a row."""
    found: list[_Place] = []
    row, start, last = 0, 0, ""
    for task, share in panels:
        if start and (task != last or start + share > _SHARES):
            row, start = row + 1, 0
        found.append(_Place(row, slice(start, start + share)))
        start, last = start + share, task
    return found


def _panel(axis: Axes, panel: Sequence[Line], looks: Mapping[int, Mapping[str, Any]]) -> None:
    axis.set(yscale="log", xlabel=panel[0].at.partition(" ")[0])
    axis.set_xticks([line.depth for line in panel])
    axis.set_xlim(panel[0].depth - 0.5, panel[-1].depth + 0.5)
    for place, (n, look) in enumerate(looks.items()):
        groups = [(line.depth, line.groups[n]) for line in panel if n in line.groups]
        x = [depth + 0.1 * (place - (len(looks) - 1) / 2) for depth, _ in groups]
        means = [group["needed_flops"]["mean"] for _, group in groups]
        axis.plot(x, means, color=look["color"], linewidth=0.8)
        for at, mean, (_, group) in zip(x, means, groups, strict=True):
            ends = group["needed_flops"]["ci95"] or [mean, mean]
            axis.plot([at, at], ends, color=look["color"], linewidth=1)
            axis.plot(at, mean, **(look if all(group["reached"]) else {**look, "marker": "^"}))
