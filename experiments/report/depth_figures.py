"""Loss and accuracy by depth during training: the paper's Fig. 3."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from experiments.report.depths import DepthGroup, headline
from experiments.report.groups import short
from experiments.report.style import (
    FLOOR,
    MATCHED_STYLES,
    STYLE,
    colours,
    draw_seeds,
    legend,
    save,
    scale_axis,
)
from experiments.report.words import series_name

_TEXT_WIDTH = 7.0  # inches, both columns


def by_depth(results: dict[str, Any], path: Path) -> None:
    """One column a depth: loss above, whole answers right below, over training FLOPs."""
    shown = headline(results["summary"])
    depths = list(shown[0]["by_depth"]) if shown else ["none"]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            2, len(depths), figsize=(_TEXT_WIDTH, 3.2), sharex=True, sharey="row", squeeze=False
        )
        if shown:
            for axis, depth in zip(axes.T, depths, strict=True):
                _draw_depth(axis, results["rows"], shown, depth)
            legend(figure, axes[1, 0], columns=len(shown) + 1, floor="floor")
            figure.supxlabel(_caption(shown), fontsize=6)
        else:
            figure.supxlabel("no finished cell", fontsize=6)
        axes[0, 0].set_ylabel("loss, nats a token")
        axes[1, 0].set_ylabel("answers right")
        axes[1, 0].set_ylim(0, 1.02)
        save(figure, path)


def _draw_depth(axes: np.ndarray, rows: list[dict], shown: list[DepthGroup], depth: str) -> None:
    loss, right = axes
    loss.set_title(f"depth {depth}")
    colour_of = colours(group["passes"] for group in shown)
    for group in shown:
        colour = colour_of[group["passes"]]
        for axis, name in ((loss, "loss"), (right, "exact_accuracy")):
            _draw_curve(axis, rows, group, depth, name, colour)
    right.axhline(shown[0]["by_depth"][depth]["floor"], **FLOOR)
    scale_axis(right, "FLOPs", max(group["train_flops"] for group in shown))


def _draw_curve(
    axis: Axes, rows: list[dict], group: DepthGroup, depth: str, name: str, colour: str
) -> None:
    """The mean over seeds, and a band from the lowest to the highest seed."""
    same = ("label", "model", "update_rule", "passes", "match", "regime", "train_tokens")
    curves = [row["curve"] for row in rows if all(row[key] == group[key] for key in same)]
    x = [point["train_flops"] for point in curves[0]]
    y = np.array([[point["by_depth"][depth][name] for point in curve] for curve in curves])
    style = MATCHED_STYLES.get(group["match"], "-")
    draw_seeds(axis, x, y, colour, style, series_name(group))


def _caption(shown: list[DepthGroup]) -> str:
    count = " or ".join(map(str, sorted({len(group["seeds"]) for group in shown})))
    tokens = short(shown[0]["train_tokens"])
    return (
        f"{shown[0]['label']}, {tokens} tokens (at equal compute: see the table); line: mean "
        f"over seeds (n = {count}), band: lowest to highest"
    )
