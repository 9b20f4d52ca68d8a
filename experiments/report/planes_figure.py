"""The figure of `EXP=recovery`: what planes capture and bring back, and how they move."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from experiments.report.planes import (
    ADAM,
    ALL,
    FEW,
    FINE_TUNING,
    NAMES,
    Plane,
    Recovered,
    is_main,
)
from experiments.report.style import COLOURS, COLUMN, FLOOR, GREY, MARKERS, STYLE, legend, save
from experiments.report.summary import Mean

_SHOWN = dict(zip((ALL, "attention", "fast weights", "MLPs"), ("black", *COLOURS), strict=False))


def draw(results: dict[str, Any], path: Path) -> None:
    """A column a model. Above, planes: captured, and recall; below, overlaps in time."""
    summary: list[Recovered] = results["summary"]
    groups = [group for group in summary if is_main(group)]
    columns = max(len(groups), 1)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            2, columns, figsize=(2 * COLUMN, 3.6), squeeze=False, sharey="row", height_ratios=(5, 4)
        )
        for (above, below), group in zip(axes.T, groups, strict=False):
            several = len({(g["model"]) for g in groups}) < len(groups)
            above.set_title(group["model"] + f", {group['pairs']} pairs" * several)
            _draw_planes(above, group)
            _draw_overlaps(below, group)
        if groups:
            axes[1][0].set_ylabel(f"overlap of planes, k = {FEW}\n(dotted: same place)")
            legend(figure, axes[0][0], columns=6, floor="floor")
            handles = [Line2D([], [], color=_SHOWN[name], label=name) for name in _SHOWN]
            figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
        save(figure, path)


def draw_by_loss(results: dict[str, Any], path: Path) -> None:
    """What first updates capture, by how much recall was left: a mark a seed, of Adam."""
    summary: list[Recovered] = results["summary"]
    groups = [group for group in summary if group["optimizer"] == ADAM]
    names = list(dict.fromkeys(group["model"] for group in groups))
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(COLUMN, 2.6))
        for group in groups:
            kind = names.index(group["model"])
            own = group["lost_by"] == FINE_TUNING
            look: dict[str, Any] = {
                "marker": MARKERS[kind],
                "markersize": 4,
                "linestyle": "none",
                "color": COLOURS[kind],
                "mfc": COLOURS[kind] if own else "none",
                "label": f"{group['model']}, {group['lost_by']}",
            }
            axis.plot(group["left"], group["first_captured"], **look)
        if groups:
            axis.axvline(groups[0]["floor"], **FLOOR)
            legend(figure, axis, columns=2, floor="floor")
        axis.set(
            xlim=(0, 1.02), ylim=(0, 1.02), xlabel="recall that was left",
            ylabel=f"captured by {FEW} first updates",
        )  # fmt: skip
        save(figure, path)


def _draw_planes(axis: Axes, group: Recovered) -> None:
    planes = [at for at in group["planes"] if at["recall"]]
    places = np.arange(len(planes))
    shown: dict[str, tuple[str, dict[str, Any]]] = {
        "captured": ("captured", {"marker": "o", "color": COLOURS[0]}),
        "held_out": ("behind first k updates", {"marker": "o", "mfc": "w", "color": COLOURS[0]}),
        "recall": ("recall in the plane", {"marker": "s", "color": COLOURS[3]}),
    }
    for field, (label, look) in shown.items():
        means, low, high = np.transpose([_ends(at, field) for at in planes])
        look |= {"markersize": 3, "linestyle": "none", "elinewidth": 0.8, "label": label}
        axis.errorbar(means, places, xerr=(means - low, high - means), **look)
    for name, colour in (("lost", GREY), ("found", COLOURS[3])):
        look = {"color": colour, "linewidth": 0.7, "linestyle": ":"}
        axis.axvline(group[name]["mean"], label=f"recall {name}", **look)
    axis.axvline(group["floor"], **FLOOR)
    axis.set_yticks(places, [f"{NAMES[at['name']]}, {at['k']}" for at in planes])
    axis.set(xlim=(-0.02, 1.02), ylim=(len(planes) - 0.5, -0.5), xlabel="share, or recall")


def _ends(at: Plane, field: str) -> tuple[float, float, float]:
    """Mean and interval within [0, 1], of what may be an `Interval` or a `Mean`."""
    value: Any = at[field]  # type: ignore[literal-required]
    centre = value["mean"]
    low, high = value.get("ci95") or (centre - (value["half"] or 0), centre + (value["half"] or 0))
    return centre, max(0.0, low), min(1.0, high)


def _draw_overlaps(axis: Axes, group: Recovered) -> None:
    parts = {part["name"]: part for part in group["parts"]}
    places = np.arange(len(group["marks"]))
    for name, colour in _SHOWN.items():
        if name in parts:
            _line(axis, places, parts[name]["since"], color=colour, marker="o")
            _line(axis, places, parts[name]["same"], color=colour, linestyle=":", marker=".")
    axis.set_xticks(places, [str(mark) for mark in group["marks"]])
    axis.set(ylim=(0, 1.02), xlabel="updates")


def _line(axis: Axes, places: np.ndarray, values: Sequence[Mean], **look: Any) -> None:
    axis.plot(places, [value["mean"] for value in values], ms=3, **look)
