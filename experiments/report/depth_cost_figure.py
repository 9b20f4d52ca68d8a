"""The figure of what each N takes to learn a depth: FLOPs and tokens, every seed and the mean."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from experiments.report.depth_cost import LATENTS, NOTHING, ON_TOKENS, DepthCost, Task, name
from experiments.report.style import MARKERS, STYLE, colours, save
from experiments.report.words import in_order

_WIDTH = 7.0  # inches, both columns

_BEYOND = 4.0  # times the points, that an axis goes on for the ends of intervals


def draw(task: Task, results: dict[str, Any], path: Path) -> None:
    """FLOPs and tokens to the target over depth, a colour a `_kind`, every seed and the mean."""
    summary: list[DepthCost] = results["summary"]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(_WIDTH, 2.7))
        columns = (("flops", "training FLOPs"), ("tokens", "training tokens"))
        for axis, (key, label) in zip(axes, columns, strict=True):
            axis.set(xlabel=task.axis, ylabel=f"{label} to the target", yscale="log")
            _panel(axis, summary, key)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=max(len(labels), 1))
        figure.supxlabel(_caption(summary), fontsize=6)
        save(figure, path)


def _panel(axis: Axes, summary: Sequence[DepthCost], key: str) -> None:
    if summary:
        depths = sorted({group["depth"] for group in summary})
        axis.set_xticks(depths, [str(depth) for depth in depths])
        counts = [count for group in summary for count in group[key]]
        axis.set_xlim(depths[0] - 0.5, depths[-1] + 0.5)
        ends = [x for group in summary for x in group[f"needed_{key}"]["ci95"] or ()]
        # Whole intervals, unless those of two seeds would leave no room for the points.
        low = max(min(counts + ends), min(counts) / _BEYOND)
        high = min(max(counts + ends), max(counts) * _BEYOND)
        axis.set_ylim(low / 1.3, high * 1.3)
    colour = colours(map(_kind, summary))
    series = sorted({(g["match"] not in ON_TOKENS, _kind(g), name(g)) for g in summary})
    for place, (deeper, kind, label) in enumerate(series):
        here = [group for group in summary if name(group) == label]
        shift = 0.08 * (place - (len(series) - 1) / 2)
        x = [group["depth"] + shift for group in here]
        means = [group[f"needed_{key}"]["mean"] for group in here]
        marker = MARKERS[place % len(MARKERS)]
        style = f"{marker}{':' if deeper else '-'}"
        solved = [i for i, group in enumerate(here) if all(group["reached"])]
        looks: Any = {"color": colour[kind], "markersize": 4}
        axis.plot(x, means, style, label=label, markevery=solved, **looks)
        for at, mean, group in zip(x, means, here, strict=True):
            ends = group[f"needed_{key}"]["ci95"]
            if ends:
                axis.plot([at, at], ends, color=colour[kind], linewidth=1)
            if not all(group["reached"]):
                axis.plot(at, mean, "^", **looks)
            for count, reached in zip(group[key], group["reached"], strict=True):
                mark: Any = {"marker": "o" if reached else "^", "markersize": 2.5, "alpha": 0.5}
                axis.plot(at, count, color=colour[kind], **mark)


def _kind(group: DepthCost) -> tuple[Any, ...]:
    """What has a colour of its own: an N, how many tokens a latent stands for, a kept cache."""
    rule, regime = group["update_rule"], group["regime"]
    if rule == NOTHING:
        return (2,)
    return (1, *in_order(regime)) if rule == LATENTS else (0, group["passes"])


def _caption(summary: Sequence[DepthCost]) -> str:
    if not summary:
        return "no finished cell"
    counts = sorted({len(group["seeds"]) for group in summary})
    seeds = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
    mean = "joined" if len({group["depth"] for group in summary}) > 1 else "large"
    words = [
        f"{summary[0]['size']}, target {summary[0]['target_accuracy']:g}",
        f"small: each of {seeds} seed{'' if counts == [1] else 's'}, {mean}: their geometric mean",
    ]
    if any(group["needed_flops"]["ci95"] for group in summary):
        words[1] += " with its 95% interval"
    if not all(all(group["reached"]) for group in summary):
        words.append("triangles: not reached for that much")
    return "; ".join(words)
