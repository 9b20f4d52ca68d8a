"""The report of elastic sleep: each model read at many N, and with sleep that halts by itself."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypedDict

from matplotlib import pyplot as plt

from experiments.report.conclusion import is_learned, order
from experiments.report.groups import Interval, short
from experiments.report.style import (
    COLOURS,
    COLUMN,
    FLOOR,
    MARKERS,
    STYLE,
    draw_intervals,
    legend,
    save,
)
from experiments.report.summary import ReportError, Row, check_scores, group_rows, interval, mean
from experiments.report.words import PLAIN, quote, scientific

_KEY = ("rollout_steps", "width", "model", "update_rule", "passes", "regime", "train_tokens")


class Halted(TypedDict):
    """What is left of accuracy, and how many passes a window took, at one threshold."""

    threshold: float
    most_passes: int
    exact_accuracy: Interval
    mean_passes: float


class ElasticGroup(TypedDict):
    """All seeds of one way of training; `exact_accuracy` is at the N that was trained last."""

    rollout_steps: int
    width: int
    model: str
    update_rule: str
    passes: int
    regime: str
    train_tokens: int
    train_flops: int
    parameters: int
    temporary_bytes: int | None
    wall_seconds: float
    seeds: list[int]
    floor: float
    exact_accuracy: Interval
    by_passes: dict[str, Interval]
    halting: list[Halted]


def summarise(rows: Iterable[Row]) -> list[ElasticGroup]:
    """One group a way of training, over its seeds."""
    rows = list(rows)
    for row in rows:
        check_scores(row)
        for n, accuracy in row["accuracy_by_passes"].items():
            if not 0 <= accuracy <= 1:
                raise ReportError(f"cell {row['cell']}: accuracy at N = {n} is {accuracy!r}")
    return [_group(found) for found in group_rows(rows, _KEY)]


def _group(rows: list[Row]) -> ElasticGroup:
    first, answers = rows[0], rows[0]["evaluation_sequences"]
    memory = [row["temporary_bytes"] for row in rows if row["temporary_bytes"] is not None]
    halting: list[Halted] = [
        {
            "threshold": at[0]["threshold"],
            "most_passes": at[0]["most_passes"],
            "exact_accuracy": interval([one["exact_accuracy"] for one in at], answers),
            "mean_passes": mean([one["mean_passes"] for one in at]),
        }
        for at in zip(*(row["halting"] for row in rows), strict=True)
    ]
    return {
        "rollout_steps": first["rollout_steps"],
        "width": first["width"],
        "model": first["model"],
        "update_rule": first["update_rule"],
        "passes": first["passes"],
        "regime": first["regime"],
        "train_tokens": first["train_tokens"],
        "train_flops": first["train_flops"],
        "parameters": first["parameters"],
        "temporary_bytes": max(memory, default=None),
        "wall_seconds": mean([row["wall_seconds"] for row in rows]),
        "seeds": [row["seed"] for row in rows],
        "floor": mean([row["floor"] for row in rows]),
        "exact_accuracy": interval([row["exact_accuracy"] for row in rows], answers),
        "by_passes": {
            n: interval([row["accuracy_by_passes"][n] for row in rows], answers)
            for n in sorted(first["accuracy_by_passes"], key=int)
        },
        "halting": halting,
    }


def _in_order(summary: Sequence[ElasticGroup]) -> list[ElasticGroup]:
    return sorted(
        summary,
        key=lambda g: (
            (g["rollout_steps"], g["train_tokens"], g["regime"] != PLAIN, g["regime"])
            + (g["passes"],)
        ),
    )


def name(group: ElasticGroup) -> str:
    """How it was trained."""
    return f"N = {group['passes']}" if group["regime"] == PLAIN else group["regime"]


def conclude(summary: Sequence[ElasticGroup]) -> str:
    """What the drawn N, the halting rule and the shorter gradient kept, and what they saved."""
    plain = [g for g in _in_order(summary) if g["regime"] == PLAIN]
    others = [g for g in _in_order(summary) if g["regime"] != PLAIN]
    most = max(plain, key=lambda g: g["passes"], default=None)
    if most is None or not others:
        return "Nothing can be compared yet: a run at one N, or one that is not, is missing."
    reference = f"N = {most['passes']} throughout ({quote(most['exact_accuracy'])})"
    verdicts = "; ".join(_against(group, most) for group in others)
    outside = "; ".join(_outside(group) for group in [most, *others])
    seeds = min(len(group["seeds"]) for group in [most, *others])
    return (
        f"At t = {most['rollout_steps']}, W = {most['width']} and "
        f"{short(most['train_tokens'])} training tokens, against {reference}: {verdicts}. "
        f"Read with other N than trained: {outside}. It may not be concluded that differences "
        f"inside the intervals (n = {seeds}) are absent, nor that the same holds elsewhere."
    )


def _against(group: ElasticGroup, most: ElasticGroup) -> str:
    if not (is_learned(group) or is_learned(most)):
        verdict = "neither is clear of the floor"
    else:
        verdict = {1: "better", 0: "not shown to differ", -1: "worse"}[order(group, most)]
    share = group["train_flops"] / most["train_flops"]
    text = (
        f"{name(group)}: {quote(group['exact_accuracy'])}, {verdict}, at {share:.2f} of its FLOPs"
    )
    if group["temporary_bytes"] and most["temporary_bytes"]:
        text += f" and {group['temporary_bytes'] / most['temporary_bytes']:.2f} of its memory"
    return text


def _outside(group: ElasticGroup) -> str:
    best = max(group["by_passes"], key=lambda n: group["by_passes"][n]["mean"])
    last = max(group["by_passes"], key=int)
    means = {n: f"{at['mean']:.3f}" for n, at in group["by_passes"].items()}
    return (
        f"{name(group)} is best at N = {best} ({means[best]}) and has {means[last]} at N = {last}"
    )


def header(summary: Sequence[ElasticGroup]) -> tuple[str, ...]:
    """Column names of the table: every N it was read at, then every threshold."""
    passes, thresholds = _columns(summary)
    start = ("trained with", "t", "W", "tokens", "FLOPs", "step's memory MiB", "seeds n", "floor")
    read = tuple(f"read at N = {n}" for n in passes)
    return (*start, *read, *(f"halt below {x}" for x in thresholds), "seconds per run")


def lines(summary: Sequence[ElasticGroup]) -> list[list[str]]:
    """The lines of the table; where sleep halts, the passes that a window took on average."""
    return [_line(group, *_columns(summary)) for group in _in_order(summary)]


def _columns(summary: Sequence[ElasticGroup]) -> tuple[list[str], list[float]]:
    passes = sorted({n for group in summary for n in group["by_passes"]}, key=int)
    thresholds = {at["threshold"] for group in summary for at in group["halting"]}
    return passes, sorted(thresholds, reverse=True)


def _line(group: ElasticGroup, passes: list[str], thresholds: list[float]) -> list[str]:
    halted = {at["threshold"]: at for at in group["halting"]}
    memory = group["temporary_bytes"]
    return [
        name(group),
        str(group["rollout_steps"]),
        str(group["width"]),
        short(group["train_tokens"]),
        scientific(group["train_flops"]),
        "not recorded" if memory is None else f"{memory / 2**20:.0f}",
        str(len(group["seeds"])),
        f"{group['floor']:.3f}",
        *(quote(group["by_passes"][n]) if n in group["by_passes"] else "not read" for n in passes),
        *(_halted(halted[x]) if x in halted else "not read" for x in thresholds),
        f"{group['wall_seconds']:.0f}",
    ]


def _halted(at: Halted) -> str:
    return f"{at['exact_accuracy']['mean']:.3f} in {at['mean_passes']:.1f} passes"


def by_passes(results: dict[str, Any], path: Path) -> None:
    """Accuracy against the N at which a model is read; crosses: where sleep halts by itself."""
    summary: list[ElasticGroup] = _in_order(results["summary"])
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(COLUMN, 2.9))
        for place, group in enumerate(summary):
            colour = COLOURS[place % len(COLOURS)]
            look = {"color": colour, "marker": MARKERS[place % len(MARKERS)], "markersize": 3}
            shift = 2 ** (0.04 * (place - len(summary) / 2))
            x = [int(n) * shift for n in group["by_passes"]]
            look |= {"label": name(group), "elinewidth": 0.7, "capsize": 1.2}
            draw_intervals(axis, x, list(group["by_passes"].values()), **look)
            axis.plot(
                [at["mean_passes"] for at in group["halting"]],
                [at["exact_accuracy"]["mean"] for at in group["halting"]],
                "x",
                color=colour,
                markersize=5,
            )
        if summary:
            axis.axhline(summary[0]["floor"], **FLOOR)
            passes, _ = _columns(summary)
            axis.set_xscale("log", base=2)
            axis.set_xticks([int(n) for n in passes], passes)
            axis.minorticks_off()
            legend(figure, axis, columns=2, floor="best constant answer")
            count = min(len(group["seeds"]) for group in summary)
            figure.supxlabel(
                f"t = {summary[0]['rollout_steps']}, W = {summary[0]['width']}; bars: 95% "
                f"intervals (n = {count})\ncrosses: sleep that halts by itself, at its mean passes",
                fontsize=6,
            )
        else:
            figure.supxlabel("no finished cell", fontsize=6)
        axis.set(xlabel="N at which the model is read", ylabel="exact accuracy", ylim=(0, 1.02))
        save(figure, path)
