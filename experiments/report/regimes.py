"""The report of curricula: the same runs with and without, at equal tokens and equal compute."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt

from experiments.report import rule110
from experiments.report.conclusion import is_learned, order
from experiments.report.groups import Group, short
from experiments.report.style import COLOURS, FLOOR, STYLE, legend, mark, save, scale_axis
from experiments.report.words import PLAIN, quote, series_name

_TEXT_WIDTH = 7.0  # inches, both columns


def headline(summary: Sequence[Group]) -> list[Group]:
    """The hybrids at the depth with most seeds, then most runs; without a curriculum first."""
    hybrids = [group for group in summary if group["model"] == "hybrid"]
    depths = {group["rollout_steps"] for group in hybrids}

    def rank(depth: int) -> tuple[int, int]:
        at = [group for group in hybrids if group["rollout_steps"] == depth]
        return max(len(group["seeds"]) for group in at), len(at)

    if not depths:
        return []
    best = max(depths, key=rank)
    chosen = [group for group in hybrids if group["rollout_steps"] == best]
    return sorted(
        chosen, key=lambda g: (g["regime"] != PLAIN, g["regime"], g["match"], -g["passes"])
    )


def conclude(summary: Sequence[Group]) -> str:
    """What each curriculum adds to the same run without it, and what N adds under it."""
    shown = headline(summary)
    regimes = sorted({group["regime"] for group in shown if group["regime"] != PLAIN})
    pairs = [
        (f"{series_name(plain)} with {regime}", _find(shown, plain, regime), "without", plain)
        for regime in regimes
        for plain in shown
        if plain["regime"] == PLAIN
    ]
    for regime in regimes:
        here = [group for group in shown if group["regime"] == regime]
        most = max(here, key=lambda group: group["passes"])
        pairs += [
            (f"with {regime}, N = {most['passes']}", most, series_name(other), other)
            for other in here
            if other["passes"] < most["passes"]
        ]
    said = [
        f"{name} {quote(one['exact_accuracy'])}, {against} {quote(other['exact_accuracy'])}: "
        f"{_verdict(one, other)}"
        for name, one, against, other in pairs
        if one is not None
    ]
    if not said:
        return "Nothing can be compared yet: a run with a curriculum, or one beside it, is missing."
    seeds = min(group["exact_accuracy"]["n"] for group in shown)
    return (
        f"At t = {shown[0]['rollout_steps']}, W = {shown[0]['width']}: {'; '.join(said)}. It may "
        f"not be concluded that differences inside the intervals (n = {seeds}) are absent, nor "
        "that a run which has not left the floor would not with more tokens."
    )


def _find(shown: Sequence[Group], like: Group, regime: str) -> Group | None:
    """The group with that curriculum, otherwise like another; N = 1 has none over N."""
    same = ("passes", "match", "update_rule", "width")
    found = [g for g in shown if g["regime"] == regime and all(g[k] == like[k] for k in same)]
    return found[0] if found else None


def _verdict(one: Group, other: Group) -> str:
    if not (is_learned(one) or is_learned(other)):
        return "neither is clear of the floor"
    return {1: "better", 0: "not shown to differ", -1: "worse"}[order(one, other)]


def curves(results: dict[str, Any], path: Path) -> None:
    """Exact accuracy over training FLOPs at the headline depth, one panel a regime."""
    shown = headline(results["summary"])
    regimes = list(dict.fromkeys(group["regime"] for group in shown)) or [PLAIN]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            1, len(regimes), figsize=(_TEXT_WIDTH, 2.4), sharey=True, squeeze=False
        )
        names = list(dict.fromkeys(series_name(group) for group in shown))
        for axis, regime in zip(axes[0], regimes, strict=True):
            axis.set_title("no curriculum" if regime == PLAIN else regime)
            for group in shown:
                if group["regime"] == regime:
                    colour = COLOURS[names.index(series_name(group)) % len(COLOURS)]
                    _draw(axis, results["rows"], group, colour)
            if shown:
                axis.axhline(shown[0]["floor"], **FLOOR)
                scale_axis(axis, "training FLOPs", max(g["train_flops"] for g in shown))
        axes[0, 0].set(ylabel="exact accuracy", ylim=(0, 1.02))
        if shown:
            legend(figure, axes[0, 0], columns=len(names) + 1, floor="best constant answer")
        figure.supxlabel(_caption(shown), fontsize=6)
        save(figure, path)


def _draw(axis: Any, rows: list[dict[str, Any]], group: Group, colour: str) -> None:
    """Every seed, thin, and their mean."""
    found = [row for row in rows if all(row[name] == group[name] for name in rule110.KEY)]
    x = [point["train_flops"] for point in found[0]["curve"]]
    y = np.array([[point["exact_accuracy"] for point in row["curve"]] for row in found])
    axis.plot(x, y.T, color=colour, linewidth=0.5, alpha=0.5)
    axis.plot(x, y.mean(axis=0), color=colour, label=series_name(group), **mark(x))


def _caption(shown: Sequence[Group]) -> str:
    if not shown:
        return "no finished cell"
    at = f"t = {shown[0]['rollout_steps']}, W = {shown[0]['width']}"
    tokens = short(min(group["train_tokens"] for group in shown))
    return (
        f"{at}, {tokens} tokens (N = 1 at equal compute: more); evaluated at the full depth; "
        "thick: mean over seeds, thin: each of them"
    )
