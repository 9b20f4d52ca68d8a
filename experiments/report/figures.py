"""The figures of Rule 110."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from experiments.report import rule110
from experiments.report.groups import (
    Group,
    Headline,
    equal_compute,
    equal_tokens,
    headline,
    short,
)
from experiments.report.style import (
    COLUMN,
    DPI,
    FLOOR,
    GREY,
    MARKERS,
    MATCHED_STYLES,
    STYLE,
    colours,
    draw_intervals,
    draw_seeds,
    legend,
    save,
    scale_axis,
)
from experiments.report.words import PLAIN, series_name

_OUTLINE = "#D55E00"
_FLOOR_NAME = "best constant answer"
_BASELINES = {
    "transformer_full_cache": ("transformer, full cache", "^", GREY),
    "transformer_evicted": ("transformer, evicted cache", "v", "white"),
}
# A bit within reach of the label is saturated, one out of reach is pale: index bit + 2 * reach.
_TONES = ("#F1F1F1", "#C4C4C4", "#B9DDF2", "#00466E")


def accuracy_against_tokens(results: dict[str, Any], path: Path) -> None:
    """Exact accuracy during training at the headline depth: over tokens and over training FLOPs."""
    summary: list[Group] = results["summary"]
    at = headline(summary)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(COLUMN, 2.5), sharey=True)
        if at is None:
            figure.supxlabel("no finished cell", fontsize=6)
        else:
            _draw_curves(axes, results["rows"], summary, at)
            legend(figure, axes[1], columns=3, floor=_FLOOR_NAME)
            figure.supxlabel(_curve_caption(results["rows"], summary, at), fontsize=6)
        axes[0].set(title="equal tokens", ylabel="exact accuracy")
        axes[1].set_title("by compute")
        axes[0].set_ylim(bottom=0)
        save(figure, path)


def accuracy_against_depth(results: dict[str, Any], path: Path) -> None:
    """Exact accuracy after training against the rollout steps t, one line for each N."""
    summary: list[Group] = results["summary"]
    at = headline(summary)
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(COLUMN, 2.7))
        if at is None:
            figure.supxlabel("no finished cell", fontsize=6)
        else:
            _draw_depths(axis, summary, at)
            legend(figure, axis, columns=2, floor=_FLOOR_NAME)
            figure.supxlabel(
                f"W = {at.width}, {short(at.train_tokens)} training tokens (equal compute: more); "
                "bars: 95% intervals",
                fontsize=6,
            )
        axis.set_xlabel("rollout steps t")
        axis.set_ylabel("exact accuracy")
        axis.set_ylim(bottom=0)
        save(figure, path)


def space_time_diagram(diagram: np.ndarray, path: Path) -> None:
    """Rule 110 from the input (first row) to the label (cell 0 of the last row) of `[t+1, W]`."""
    rows, width = diagram.shape
    cell = min(0.17, 1.95 / width)  # inches; what is left of the column holds the notes
    height = cell * rows + max(0.5, 1.05 - cell * rows)
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(COLUMN, height))
        axis = figure.add_axes(
            (0.35 / COLUMN, 1 - (cell * rows + 0.1) / height)
            + (cell * width / COLUMN, cell * rows / height)
        )
        axis.pcolormesh(
            diagram + 2 * _reach(rows - 1, width),
            cmap=ListedColormap(_TONES),
            vmin=0,
            vmax=3,
            edgecolors="white",
            linewidth=0.4,
        )
        axis.set(xlim=(0, width), ylim=(rows, 0))
        _annotate(axis, rows - 1, width, cell)
        _tone_legend(figure, ((0.35 + cell * width + 0.05) / COLUMN, 1 - 0.3 / height))
        figure.savefig(path, dpi=DPI, format="png")
        plt.close(figure)


def _reach(steps: int, width: int) -> np.ndarray:
    """Cells that can influence cell 0 of the last row: one neighbour further a step, periodic."""
    reach = np.zeros((steps + 1, width), np.uint8)
    reach[steps, 0] = 1
    for row in range(steps - 1, -1, -1):
        below = reach[row + 1]
        reach[row] = below | np.roll(below, 1) | np.roll(below, -1)
    return reach


def _annotate(axis: Axes, steps: int, width: int, cell: float) -> None:
    box = Rectangle((0, steps), 1, 1, fill=False, edgecolor=_OUTLINE, linewidth=1.8, clip_on=False)
    axis.add_patch(box)
    axis.annotate(
        f"label = first bit\nafter t = {steps} steps",
        xy=(0.5, steps + 1),
        xytext=(14, -7),
        textcoords="offset points",
        color=_OUTLINE,
        va="top",
        annotation_clip=False,
        arrowprops={"arrowstyle": "-|>", "color": _OUTLINE, "relpos": (0, 0.7)},
    )
    axis.annotate(
        f"input: {width} random bits",
        xy=(width, 0.5),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        annotation_clip=False,
    )
    shown = range(0, steps + 1, max(steps // 8, math.ceil(0.14 / cell)))
    axis.set_yticks([row + 0.5 for row in shown], [str(row) for row in shown])
    axis.set_ylabel("step")
    axis.set_xticks([])
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)


def _tone_legend(figure: Figure, corner: tuple[float, float]) -> None:
    names = ("0, out of reach", "1, out of reach", "0, in reach of label", "1, in reach of label")
    patches = [Patch(color=tone, label=name) for tone, name in zip(_TONES, names, strict=True)]
    figure.legend(handles=patches[::-1], loc="upper left", bbox_to_anchor=corner, handlelength=1)


def _draw_curves(axes: np.ndarray, rows: list[dict], summary: list[Group], at: Headline) -> None:
    """Left: equal tokens. Right: the same runs over FLOPs, and smaller N with the largest N's."""
    groups, matched = equal_tokens(summary, at), equal_compute(summary, at)
    colour_of = colours(group["passes"] for group in [*groups, *matched])
    for group in groups:
        for axis, unit in zip(axes, ("train_tokens", "train_flops"), strict=True):
            _draw_curve(axis, rows, group, unit, colour_of[group["passes"]])
    for group in matched:
        _draw_curve(axes[1], rows, group, "train_flops", colour_of[group["passes"]])
    most_flops = max(group["train_flops"] for group in [*groups, *matched])
    for axis, name, end in (
        (axes[0], "training tokens", at.train_tokens),
        (axes[1], "training FLOPs", most_flops),
    ):
        axis.axhline(groups[0]["floor"], **FLOOR)
        scale_axis(axis, name, end)


def _draw_curve(axis: Axes, rows: list[dict], group: Group, unit: str, colour: str) -> None:
    """The mean over seeds, and a band from the lowest to the highest seed."""
    curves = [
        {point["step"]: point for point in row["curve"]}
        for row in rows
        if all(row[name] == group[name] for name in rule110.KEY)
    ]
    steps = sorted(set.intersection(*(set(curve) for curve in curves)))
    x = [curves[0][step][unit] for step in steps]
    y = np.array([[curve[step]["exact_accuracy"] for step in steps] for curve in curves])
    style = MATCHED_STYLES.get(group["match"], "-")
    draw_seeds(axis, x, y, colour, style, series_name(group))


def _curve_caption(rows: Sequence[dict], summary: Sequence[Group], at: Headline) -> str:
    groups = [*equal_tokens(summary, at), *equal_compute(summary, at)]
    count = " or ".join(map(str, sorted({len(group["seeds"]) for group in groups})))
    setting = [f"t = {at.rollout_steps}, W = {at.width}"]
    setting += [at.regime] if at.regime != PLAIN else []
    setting += ["cache slides"] if any(row.get("cache") == "slide" for row in rows) else []
    between = ";\n" if setting[1:] else "; "  # a column holds no longer line
    drawn = f"line: mean over seeds (n = {count}), band: lowest to highest"
    return f"{', '.join(setting)}{between}{drawn}"


def _draw_depths(axis: Axes, summary: list[Group], at: Headline) -> None:
    """Points are moved sideways a little, so that error bars at one t can be told apart."""
    here = [
        group
        for group in summary
        if group["width"] == at.width and group["update_rule"] in (at.update_rule, "none")
    ]
    series: list[tuple[str, list[Group], dict[str, Any]]] = []
    hybrids = [g for g in here if g["model"] == "hybrid" and g["regime"] == at.regime]
    equal = [
        group
        for group in hybrids
        if group["match"] == "tokens" and group["train_tokens"] == at.train_tokens
    ]
    colour_of = colours(group["passes"] for group in hybrids)
    markers = dict(zip(colour_of, MARKERS * len(colour_of), strict=False))
    for match, style in {"tokens": "-", **MATCHED_STYLES}.items():
        for passes, colour in colour_of.items():
            among = equal if match == "tokens" else hybrids
            found = [g for g in among if (g["match"], g["passes"]) == (match, passes)]
            look = {"color": colour, "marker": markers[passes], "linestyle": style}
            look |= {} if match == "tokens" else {"mfc": "white"}
            series += [(series_name(found[0]), found, look)] if found else []
    for model, (name, marker, fill) in _BASELINES.items():
        found = [group for group in here if group["model"] == model]
        look = {"color": GREY, "marker": marker, "linestyle": "none", "mfc": fill}
        series.append((name, found, look))
    series = [entry for entry in series if entry[1]]
    for place, (name, groups, look) in enumerate(series):
        _draw_series(axis, name, groups, look, shift=0.05 * (place - (len(series) - 1) / 2))
    _draw_depth_floors(axis, here)
    depths = sorted({group["rollout_steps"] for group in here})
    axis.set_xscale("log", base=2)
    axis.set_xticks(depths, [str(depth) for depth in depths])
    axis.minorticks_off()
    axis.set_xlim(depths[0] * 2**-0.45, depths[-1] * 2**0.45)


def _draw_series(
    axis: Axes, name: str, groups: list[Group], look: dict[str, Any], shift: float
) -> None:
    groups = sorted(groups, key=lambda group: group["rollout_steps"])
    x = [group["rollout_steps"] * 2**shift for group in groups]
    look = {"label": name, "markersize": 4, "elinewidth": 0.8, "capsize": 1.5, **look}
    draw_intervals(axis, x, [group["exact_accuracy"] for group in groups], **look)


def _draw_depth_floors(axis: Axes, groups: list[Group]) -> None:
    """A floor belongs to its t: it is not a line between depths."""
    floors = {group["rollout_steps"]: group["floor"] for group in groups}
    depths = np.array(sorted(floors))
    axis.hlines(
        [floors[depth] for depth in depths],
        depths * 2**-0.4,
        depths * 2**0.4,
        **FLOOR,
    )
