"""Every task at a glance: what N passes gained over one, at equal tokens and at equal FLOPs.

A line is one setting of one source, where the largest N stands beside N = 1. The difference of two
means has an interval made of both (Zou and Donner, Statistics in Medicine 27, 2008): each limit
lies as far out as the two limits on its side, added as squares. "Apart" are means whose own
intervals do not overlap, the stricter rule that all verdicts go by. Settings in which no mean is
above the floor say nothing about passes, and are named below the tables instead.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from experiments.report import depths
from experiments.report.conclusion import order
from experiments.report.departures import D_MODEL, departures
from experiments.report.groups import Interval, equal_compute, equal_tokens, settings, short
from experiments.report.kinds import kind_of
from experiments.report.sources import Source
from experiments.report.style import COLOURS, GREY, STYLE, save
from experiments.report.tables import markdown_table
from experiments.report.words import PLAIN, rule_name, signed

_TASKS = {  # in the order of the lines
    "cellular_automata": "Rule 110",
    "rollout_curriculum": "Rule 110",
    "depo": "Depo",
    "gsm_infinite": "GSM-Infinite",
    "smollm2_gsm": "GSM-Infinite, SmolLM2",
}
_DEPTHS = {"depo": "hop", "gsm_infinite": "operation", "smollm2_gsm": "operation"}
HEADER = (
    "task",
    "floor",
    "on the same tokens",
    "with the FLOPs of the largest N",
    "gain of the largest N at equal tokens",
    "at equal FLOPs",
    "seeds",
    "source",
)
_NOT_RUN = "not run"
_BLOCKS, _BITS, _RULE = 2, 12, "gated_delta"  # of the cpu presets; others are said
_USUAL = f"{_BLOCKS} blocks, d = {D_MODEL} and W = {_BITS} unless another is named"
_SEEDS = 3  # the fewest of a result in the first table and the figure
_SETTLED = 0.99  # where all N are above it there is nothing to gain
_GAIN_COLOURS = (COLOURS[0], COLOURS[3], COLOURS[2])
_WIDTH, _ROW, _MARGIN = 8.5, 0.24, 0.9  # inches


class Difference(NamedTuple):
    """A mean less another, with its 95 % interval; `apart` if their own do not overlap."""

    mean: float
    low: float
    high: float
    apart: bool


class Line(NamedTuple):
    """One setting; `matched` has every smaller N that was given the FLOPs of the largest.

    `depth` counts rollout steps, hops or operations. `scouted` is what was scored on the
    validation split.
    """

    task: str
    depth: int
    source: str
    passes: int
    floor: float
    one: Interval
    most: Interval
    matched: Mapping[int, Interval]
    scouted: bool

    @property
    def cheap(self) -> Interval | None:
        """N = 1 with the FLOPs of `most`."""
        return self.matched.get(1)

    @property
    def few_passes(self) -> int | None:
        """The smallest N > 1 with the FLOPs of `most`."""
        return min((n for n in self.matched if n > 1), default=None)

    @property
    def at_equal_tokens(self) -> Difference:
        return difference(self.most, self.one)

    @property
    def at_equal_flops(self) -> Difference | None:
        return None if self.cheap is None else difference(self.most, self.cheap)

    @property
    def few_at_equal_flops(self) -> Difference | None:
        if self.few_passes is None or self.cheap is None:
            return None
        return difference(self.matched[self.few_passes], self.cheap)

    @property
    def seeds(self) -> int:
        return min(score["n"] for score in self._shown)

    @property
    def is_main(self) -> bool:
        """Whether it is more than a scout: on the test split, with seeds enough for an interval."""
        return not self.scouted and self.seeds >= _SEEDS

    @property
    def is_learned(self) -> bool:
        """Whether anything of it is above the floor."""
        return any(score["mean"] > self.floor for score in self._shown)

    @property
    def is_settled(self) -> bool:
        """Whether every N answers everything."""
        return all(score["mean"] > _SETTLED for score in self._shown)

    @property
    def _shown(self) -> list[Interval]:
        return [self.one, self.most, *self.matched.values()]

    @property
    def name(self) -> str:
        """The task, and the source where it is not the cpu preset as it comes."""
        kind = self.source.rpartition("/")[2]
        return self.task if kind == "cpu" else f"{self.task} ({kind})"


def difference(first: Interval, second: Interval) -> Difference:
    """`first - second`."""
    (low, high), (other_low, other_high) = first["ci95"], second["ci95"]
    mean = first["mean"] - second["mean"]
    below = math.hypot(first["mean"] - low, other_high - second["mean"])
    above = math.hypot(high - first["mean"], second["mean"] - other_low)
    apart = order({"exact_accuracy": first}, {"exact_accuracy": second}) != 0
    return Difference(mean, mean - below, mean + above, apart)


def lines(sources: Iterable[Source]) -> list[Line]:
    """All settings of the sources that compare N alone, by task and depth, else as given."""
    shown = [s for s in sources if s.experiment in _TASKS and not s.is_smoke]
    found: list[Line] = []
    for source in sorted(shown, key=lambda s: list(_TASKS).index(s.experiment)):
        by_depth = kind_of(source.experiment).summarise is depths.summarise
        found += (_by_depth if by_depth else _by_setting)(source)
    kept: list[Line] = []
    for line in found:
        # A sweep that repeats another to the bit has nothing of its own to say, or only more N.
        twin = next((i for i, other in enumerate(kept) if _said(other) == _said(line)), None)
        if twin is None:
            kept.append(line)
        elif len(line.matched) > len(kept[twin].matched):
            kept[twin] = line
    tasks = list(dict.fromkeys(_TASKS.values()))
    return sorted(kept, key=lambda line: (tasks.index(_task(line)), line.depth))


def _task(line: Line) -> str:
    return line.task.partition(":")[0]


def _said(line: Line) -> Line:
    """What a line says that any sweep of its setting has: of the matched, N = 1."""
    return line._replace(source="", matched={n: line.matched[n] for n in line.matched if n == 1})


def _by_setting(source: Source) -> list[Line]:
    """Of Rule 110: a line a depth and budget, of the plain regime where there is one."""
    found = []
    here = sorted(settings(source.summary), key=lambda at: (at.rollout_steps, at.train_tokens))
    plain = [at for at in here if at.regime == PLAIN]
    for at in plain or here:
        matched = [g for g in equal_compute(source.summary, at) if g["match"] == "flops"]
        bits = f", W = {at.width}" if at.width != _BITS else ""
        name = f"t = {at.rollout_steps}{bits}, {short(at.train_tokens)} tokens"
        if not plain:
            name += f", {at.regime}"
        equal = equal_tokens(source.summary, at)
        found += _line(source, at.rollout_steps, name, equal, matched)
    return found


def _by_depth(source: Source) -> list[Line]:
    """Of one model that answers at several depths: a line a depth."""
    shown = depths.headline(source.summary)
    found = []
    for depth in shown[0]["by_depth"] if shown else ():
        asked = [{**group, **group["by_depth"][depth]} for group in shown]
        equal = [group for group in asked if group["match"] == "tokens"]
        matched = [group for group in asked if group["match"] == "flops"]
        word = _DEPTHS[source.experiment] + ("" if depth == "1" else "s")
        nodes = source.row_of(equal[0]).get("nodes")  # of Depo
        of = f" of {nodes} nodes" if nodes else ""
        setting = f"{depth} {word}{of}, {short(equal[0]['train_tokens'])} tokens"
        found += _line(source, int(depth), setting, equal, matched)
    return found


def _line(
    source: Source, depth: int, setting: str, equal: Sequence[Any], matched: Sequence[Any]
) -> list[Line]:
    """The one line, or none where there is no larger N beside N = 1."""
    one, most = equal[0], equal[-1]
    if one["passes"] != 1 or most["passes"] == 1:
        return []
    row = source.row_of(one)
    if row.get("blocks", _BLOCKS) != _BLOCKS:
        setting += f", {row['blocks']} blocks"
    if one["update_rule"] != _RULE:
        setting += f", {rule_name(one['update_rule'])}"
    setting += "".join(f", {words}" for words in departures(source, row))
    if row.get("cache") == "slide":
        setting += ", cache slides"
    scouted = row.get("evaluation_split") == "validation"
    if scouted:
        setting += ", validation split"
    return [
        Line(
            task=f"{_TASKS[source.experiment]}: {setting}",
            depth=depth,
            source=source.shown,
            passes=most["passes"],
            floor=one["floor"],
            one=one["exact_accuracy"],
            most=most["exact_accuracy"],
            matched={group["passes"]: group["exact_accuracy"] for group in matched},
            scouted=scouted,
        )
    ]


def cells(found: Iterable[Line]) -> list[list[str]]:
    """The table under `HEADER`, of what was learned."""
    return [
        [
            line.task,
            f"{line.floor:.3f}",
            _scores({1: line.one, line.passes: line.most}),
            _scores(line.matched),
            _quote(line.at_equal_tokens),
            _gains_at_equal_flops(line),
            str(line.seeds),
            line.source,
        ]
        for line in found
        if line.is_learned
    ]


def _scores(by_passes: Mapping[int, Interval]) -> str:
    """`0.187 (N = 1), 0.854 (N = 4)`, of what was run."""
    said = (f"{score['mean']:.3f} (N = {n})" for n, score in sorted(by_passes.items()))
    return ", ".join(said) or _NOT_RUN


def _gains_at_equal_flops(line: Line) -> str:
    """Of the largest N, then of the few passes."""
    if line.at_equal_flops is None:
        return _NOT_RUN
    few = line.few_at_equal_flops
    also = f", N = {line.few_passes} {_quote(few)}" if few else ""
    return _quote(line.at_equal_flops) + also


def _quote(gain: Difference) -> str:
    text = signed(gain.mean, gain.low, gain.high)
    return f"{text} apart" if gain.apart else text


def parts(found: Sequence[Line]) -> dict[str, list[Line]]:
    """Results, then what is less than that, each under its title."""
    return {
        f"Test split, {_SEEDS} seeds or more ({_USUAL})": [line for line in found if line.is_main],
        f"Fewer seeds, or the validation split ({_USUAL})": [
            line for line in found if not line.is_main
        ],
    }


def markdown(found: Sequence[Line]) -> str:
    """The tables and what they leave out."""
    tables = [f"{title}:\n\n{table(part)}\n" for title, part in parts(found).items()]
    return "".join(tables) + f"{left_out(found)}\n"


def table(found: Iterable[Line]) -> str:
    """`cells` in Markdown."""
    return markdown_table(HEADER, cells(found)) + "\n"


def left_out(found: Sequence[Line]) -> str:
    """A sentence."""
    names = [line.name for line in found if not line.is_learned]
    return f"No mean is above the floor, so in no table: {'; '.join(names) or 'none'}."


def draw(found: Sequence[Line], path: Path) -> None:
    """The differences as a forest: a row a line, filled where the intervals are apart.

    The rest is left to the table: the interval of one seed would look surer than that of eight, and
    where every N answers everything there is nothing to see.
    """
    found = [line for line in found if line.is_learned and line.is_main and not line.is_settled]
    with plt.rc_context(STYLE):
        rows = max(len(found), 1)
        figure, axis = plt.subplots(figsize=(_WIDTH, _MARGIN + _ROW * rows))
        for i, line in enumerate(found):
            if i % 2:
                axis.axhspan(i - 0.5, i + 0.5, color="0.95", linewidth=0, zorder=0)
            gains = (line.at_equal_tokens, line.at_equal_flops, line.few_at_equal_flops)
            step, middle = (0.3, 0.5) if line.few_passes is None else (0.26, 1)
            for place, (gain, colour) in enumerate(zip(gains, _GAIN_COLOURS, strict=True)):
                _mark(axis, i + step * (place - middle), gain, colour)
        axis.axvline(0, color=GREY, linewidth=0.8)
        axis.set_yticks(range(len(found)), [f"{line.name}, n = {line.seeds}" for line in found])
        axis.set_ylim(rows - 0.5, -0.5)
        axis.set_xlim(-1.05, 1.05)
        axis.tick_params(axis="y", length=0)
        axis.set_xlabel("exact accuracy: more passes less N = 1")
        note = (
            f"n seeds, {_SEEDS} or more; test split; {_USUAL}; 95 % intervals; "
            "filled: the two means' own intervals do not overlap; "
            f"without what every N answers (over {_SETTLED:g})"
        )
        figure.supxlabel(note, fontsize=6)
        names = (
            "the largest N, equal training tokens",
            "the largest N, equal training FLOPs",
            "the smallest N > 1, equal training FLOPs",
        )
        handles = [
            Line2D([], [], color=colour, marker="o", markersize=3.5, linewidth=1)
            for colour in _GAIN_COLOURS
        ]
        figure.legend(handles, names, loc="outside upper center", ncols=3)
        save(figure, path)


def _mark(axis: Axes, at: float, gain: Difference | None, colour: str) -> None:
    if gain is None:
        return
    axis.plot([gain.low, gain.high], [at, at], color=colour, linewidth=1)
    face = colour if gain.apart else "white"
    axis.plot(gain.mean, at, "o", color=colour, markerfacecolor=face, markersize=3.5)
