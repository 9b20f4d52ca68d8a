"""What each N needs to answer each of the K strings of Rule 110, the last one alone among them.

A run learns a depth when all K answers are right. Which of them it lacks until then tells a depth
that it cannot compute yet, the same for all K, from strings that it cannot keep: the last string
has only just been read, the first has K - 1 windows behind it.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from experiments.report import depth_cost, ladder
from experiments.report.departures import setting_in_words
from experiments.report.depth_cost import DepthCost, compared
from experiments.report.needed import less, quote, trillions
from experiments.report.sources import Source
from experiments.report.style import MARKERS, STYLE, colours, save, title
from experiments.report.summary import Row
from experiments.report.tables import markdown_table

NOTE = (
    "Training FLOPs, in 1e12, from the first step on until nine of ten answers about one of the "
    "strings were right, whatever the others; string 1 is read first, the last one just before the "
    "answers. “All” is the depth as it counts elsewhere: nine of ten sequences with every answer "
    "right. Geometric means over seeds, 95 % intervals; > is a lower limit, where a run ended or "
    "went on to the next depth without it, < an upper one, where it was there when first looked at "
    "(~ if both). “Less” and “more” than N = 1 takes of the same string: "
    "apart, as there. A constant answer has .5 to .65 of them right."
)
_EXPERIMENTS = ("cost_of_depth", "rollout_ladder")
_POSITIONS = "label_accuracy_by_position"
_SEEDS = 3  # the fewest of a line
_WIDTH, _HEIGHT, _COLUMNS = 7.0, 2.2, 4  # of the figure in inches, of a row, panels side by side
_WHOLE = "-"
_STYLES: dict[Any, str] = {_WHOLE: "all strings right", ":": "the last string alone"}


class Line(NamedTuple):
    """One N at one depth of one source; `strings` in the order read."""

    task: str
    blocks: int
    depth: int
    at: str
    passes: int
    source: str
    as_is: bool  # a preset as it comes
    strings: tuple[DepthCost, ...]
    whole: DepthCost

    @property
    def beside(self) -> tuple[str, int, str, int]:
        """What N = 1 and larger N have in common."""
        return self.task, self.blocks, self.source, self.depth


def lines(sources: Iterable[Source]) -> list[Line]:
    """By task, blocks, source, depth and N, where several strings were told apart."""
    found = [
        line
        for source in sources
        if source.experiment in _EXPERIMENTS and not source.is_smoke
        for line in _of(source)
    ]
    return sorted(
        found,
        key=lambda line: (
            line.task,
            line.blocks,
            not line.as_is,
            line.source,
            line.depth,
            line.passes,
        ),
    )


def _of(source: Source) -> list[Line]:
    rows = [row for row in source.rows if row["match"] in depth_cost.ON_TOKENS]
    points = [point for row in rows for point in row["curve"]]
    positions = sorted({k for point in points for k in point.get(_POSITIONS, ())}, key=int)
    recorded = all(set(point.get(_POSITIONS, ())) == set(positions) for point in points)
    if len(positions) < 2 or not recorded or any(r["evaluation_split"] != "test" for r in rows):
        return []
    summarise = ladder.summarise if source.experiment == "rollout_ladder" else _depths
    whole = {_key(group): group for groups in compared(source.summary) for group in groups}
    by_string = [
        {_key(group): group for group in summarise([_asked(row, k) for row in rows])}
        for k in positions
    ]
    found = []
    for key, group in whole.items():
        strings = tuple(groups[key] for groups in by_string if key in groups)
        if len(strings) < len(positions) or len(group["seeds"]) < _SEEDS:
            continue
        found.append(
            Line(
                task=setting_in_words("Rule 110", source, group),
                blocks=group["blocks"],
                depth=group["depth"],
                at=group["at"],
                passes=group["passes"],
                source=source.shown,
                as_is=source.as_is,
                strings=strings,
                whole=group,
            )
        )
    return found


def _key(group: DepthCost) -> tuple[Any, ...]:
    return (
        group["passes"],
        group["depth"],
        group["match"],
        *depth_cost.setting(group),
        group["blocks"],
        group["parameters"],
    )


def _asked(row: Row, position: str) -> Row:
    """The row as if nothing had been asked but the string at `position`."""
    curve = [{**point, "exact_accuracy": point[_POSITIONS][position]} for point in row["curve"]]
    return {**row, "curve": curve}


def _depths(rows: Sequence[Row]) -> list[DepthCost]:
    return depth_cost.summarise(depth_cost.RULE_110, map(_until_learned, rows))


def _until_learned(row: Row) -> Row:
    """The row as if it had ended at the first evaluation with its target."""
    scores = [point["exact_accuracy"] for point in row["curve"]]
    solved = (i for i, score in enumerate(scores) if score >= row["target_accuracy"])
    at = next(solved, None)
    if at is None:
        return row  # nor was all of it ever right
    end = row["curve"][at]
    counts = {count: end[count] for count in ("train_flops", "train_tokens")}
    return {**row, **counts, "reached": True, "curve": row["curve"][: at + 1]}


def header(found: Sequence[Line]) -> list[str]:
    """A column a string."""
    strings = (f"string {k}" for k in range(1, 1 + _most(found)))
    return ["task", "blocks", "depth", "N", *strings, "all", "seeds", "source"]


def _most(found: Sequence[Line]) -> int:
    return max((len(line.strings) for line in found), default=0)


def cells(found: Sequence[Line]) -> list[list[str]]:
    """The table under `header`."""
    ones = {line.beside: line for line in found if line.passes == 1}
    return [
        [
            line.task,
            str(line.blocks),
            line.at,
            str(line.passes),
            *_needs(line, ones.get(line.beside), _most(found)),
            str(len(line.whole["seeds"])),
            line.source,
        ]
        for line in found
    ]


def _needs(line: Line, one: Line | None, strings: int) -> list[str]:
    taken = [*line.strings, line.whole]
    beside = [*one.strings, one.whole] if one else taken
    said = [
        quote(group, trillions) + " less" * less(group, other) + " more" * less(other, group)
        for group, other in zip(taken, beside, strict=True)
    ]
    return [*said[:-1], *["not there"] * (strings - len(line.strings)), said[-1]]


def markdown(found: Sequence[Line]) -> str:
    """The table, and what it says."""
    return f"{markdown_table(header(found), cells(found))}\n\n{NOTE}\n"


def panels(found: Iterable[Line]) -> dict[tuple[str, int], list[Line]]:
    """For each task and number of blocks a line a depth and N, the first that there is."""
    chosen: dict[tuple[str, int], dict[tuple[int, int], Line]] = {}
    for line in found:
        of_panel = chosen.setdefault((line.task, line.blocks), {})
        of_panel.setdefault((line.depth, line.passes), line)
    return {setting: list(of_panel.values()) for setting, of_panel in chosen.items()}


def draw(found: Sequence[Line], path: Path) -> None:
    """FLOPs over depth, a panel a task and model, a colour an N: the last string alone, and all."""
    shown = panels(found)
    looks = {
        n: {"color": colour, "marker": MARKERS[i % len(MARKERS)], "markersize": 3.5}
        for i, (n, colour) in enumerate(colours(line.passes for line in found).items())
    }
    rows = max(1, -(-len(shown) // _COLUMNS))
    with plt.rc_context(STYLE):
        size = (_WIDTH, _HEIGHT * rows)
        figure, axes = plt.subplots(rows, _COLUMNS, figsize=size, sharey=True, squeeze=False)
        for axis in axes.flat[len(shown) :]:
            axis.set_axis_off()
        for axis, ((task, blocks), panel) in zip(axes.flat, shown.items(), strict=False):
            _, width, *departs = task.replace("; ", ", ").split(", ")
            axis.set_title(title(width, *departs, f"{blocks} blocks"))
            _panel(axis, panel, looks)
        figure.supylabel("training FLOPs", fontsize=7)
        handles = [Line2D([], [], label=f"N = {n}", **looks[n]) for n in looks]
        handles += [
            Line2D([], [], color="k", linestyle=style, label=label)
            for style, label in _STYLES.items()
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
        note = "geometric means over seeds, 95 % intervals; triangles: at least so much"
        figure.supxlabel(note, fontsize=6)
        save(figure, path)


def _panel(axis: Axes, panel: Sequence[Line], looks: Mapping[int, Mapping[str, Any]]) -> None:
    depths = sorted({line.depth for line in panel})
    axis.set(yscale="log", xlabel=panel[0].at.partition(" ")[0])
    axis.set_xticks(depths)
    axis.set_xlim(depths[0] - 0.5, depths[-1] + 0.5)
    for place, (n, look) in enumerate(looks.items()):
        of_n = [line for line in panel if line.passes == n]
        x = [line.depth + 0.12 * (place - (len(looks) - 1) / 2) for line in of_n]
        for style in _STYLES:
            whole = style == _WHOLE
            groups = [line.whole if whole else line.strings[-1] for line in of_n]
            means = [group["needed_flops"]["mean"] for group in groups]
            axis.plot(x, means, style, color=look["color"], linewidth=0.9, zorder=0)
            for at, mean, group in zip(x, means, groups, strict=True):
                ends = group["needed_flops"]["ci95"] or [mean, mean]
                axis.plot([at, at], ends, color=look["color"], linewidth=0.8)
                marked = look if all(group["reached"]) else {**look, "marker": "^"}
                axis.plot(at, mean, **marked, markerfacecolor=look["color"] if whole else "white")
