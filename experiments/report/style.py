"""The look of all figures: sizes of a paper, colour-blind safe, the floor always drawn."""

import math
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import matplotlib
import numpy as np

matplotlib.use("Agg")  # before pyplot: a report is built where there is no display

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.report.groups import Interval

Kind = TypeVar("Kind", int, tuple[Any, ...])

# Okabe and Ito's palette, in the order in which N takes it.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7")
MARKERS = "osDPhp"
GREY = "#555555"
FLOOR = {"color": GREY, "linestyle": (0, (4, 2)), "linewidth": 0.9}
# A smaller N with the largest N's FLOPs, by what they were spent on.
MATCHED_STYLES = {"flops": (0, (2.5, 1.2)), "flops_blocks": (0, (1, 1)), "flops_width": "-."}
COLUMN = 3.5  # inches
DPI = 200
_TITLE = 22  # letters
STYLE: dict[Any, Any] = {
    "font.size": 7,
    "axes.labelsize": 7,
    "axes.titlesize": 7,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.2,
    "legend.frameon": False,
    "legend.handlelength": 1.7,
    "legend.columnspacing": 1.0,
}


def colours(kinds: Iterable[Kind]) -> dict[Kind, str]:
    """A colour for each N, or whatever else has one, in ascending order."""
    return {kind: COLOURS[i % len(COLOURS)] for i, kind in enumerate(sorted(set(kinds)))}


def title(*parts: str) -> str:
    """A part a line, and those that are wider than a narrow panel on several."""
    return "\n".join(line for part in parts for line in textwrap.wrap(part, _TITLE))


def mark(x: Sequence[float]) -> dict[str, Any]:
    """A marker where a curve has one point, through which no line would be seen."""
    return {"marker": "o", "markersize": 3} if len(x) == 1 else {}


def draw_seeds(
    axis: Axes, x: Sequence[float], y: np.ndarray, colour: str, style: str, label: str
) -> None:
    """The mean over seeds of `y [seeds, points]`, and a band from the lowest to the highest."""
    axis.plot(x, y.mean(axis=0), color=colour, linestyle=style, label=label, **mark(x))
    axis.fill_between(x, y.min(axis=0), y.max(axis=0), color=colour, alpha=0.18, linewidth=0)


def legend(figure: Figure, axis: Axes, columns: int, floor: str) -> None:
    """What was drawn on `axis`, in the order drawn, then the floor, by its name."""
    handles, labels = axis.get_legend_handles_labels()
    handles.append(Line2D([], [], **FLOOR))
    figure.legend(handles, [*labels, floor], loc="outside upper center", ncols=columns)


def draw_intervals(axis: Axes, x: Sequence[float], scores: Sequence[Interval], **look: Any) -> None:
    """Means with their 95% intervals as error bars."""
    y, ends = (np.array([score[name] for score in scores]) for name in ("mean", "ci95"))
    axis.errorbar(x, y, np.abs(ends.T - y), **look)


def scale_axis(axis: Axes, name: str, end: float) -> None:
    """Ticks as small numbers, with their power of ten in the label."""
    power = 3 * math.floor(math.log10(end) / 3)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value / 10**power:g}")
    axis.set_xlim(0, end * 1.02)
    axis.set_xlabel(f"{name} (10$^{{{power}}}$)")


def save(figure: Figure, path: Path) -> None:
    """Writes the figure as PNG and closes it."""
    figure.set_layout_engine("constrained")
    figure.savefig(path, dpi=DPI, format="png")
    plt.close(figure)
