"""The report of `EXP=knowledge_seeding`: what is known of days that are over, by what kept them.

A row is a run with its `readings`, one a day and arm: `recall` by day so far, and of consolidating
arms what the fast weights knew of the day (`asleep`) and how well new windows are read (`reading`).
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from experiments.report.groups import Interval, short
from experiments.report.style import COLOURS, COLUMN, FLOOR, MARKERS, STYLE, legend, save
from experiments.report.summary import Row, group_rows, interval
from experiments.report.words import quote, scientific

FAST_WEIGHTS = "fast weights go on"
DREAMS, NO_EXPERT = "dreams", "dreams, no expert"
TEXT, TEXT_NO_EXPERT = "text", "text, no expert"
STORED, TODAY = "all text kept, rehearsed", "dreams of today"
HEADER = (
    "pairs trained on", "what keeps a day", "N", "days", "seeds n", "recall of all days [95%]",
    "first day [95%]", "last day [95%]", "the day, before [95%]", "new windows [95%]", "tokens",
    "FLOPs",
)  # fmt: skip


class Seeded(TypedDict):
    """All seeds of one arm, after the last day; intervals are over seeds."""

    arm: str
    pairs: int  # of a sequence of training
    passes: int
    days: int
    seeds: list[int]
    recall: Interval  # of all days
    by_day: list[Interval]
    so_far: list[float]  # mean recall of the days so far, after each
    asleep: Interval | None  # recall of a day from the fast weights, before it is taught
    reading: Interval | None  # recall of new windows from the fast weights
    floor: float
    tokens: int  # of a stream's consolidations; 0 where there are none
    flops: int
    train_tokens: int
    train_flops: int


def summarise(rows: Iterable[Row]) -> list[Seeded]:
    """By what was trained on and N, the arms in the order of the readings."""
    found = []
    for group in group_rows(rows, ("pairs", "passes")):
        at = [_by_arm(row) for row in group]
        found += [_group(group, arm, [by_arm[arm] for by_arm in at]) for arm in at[0]]
    return found


def _by_arm(row: Row) -> dict[str, list[Mapping[str, Any]]]:
    """Its readings in the order of days."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for reading in row["readings"]:
        found.setdefault(reading["arm"], []).append(reading)
    return found


def _group(rows: Sequence[Row], arm: str, found: Sequence[Sequence[Mapping[str, Any]]]) -> Seeded:
    first, last = rows[0], [days[-1] for days in found]
    # Where one seed ran, over streams: four of them, as many answers of each day.
    answers = rows[0]["streams"] * rows[0]["keys"]
    days = len(found[0])

    def of(values: Sequence[float], count: int = answers) -> Interval:
        return interval(values, count)

    teaches = "asleep" in last[0]
    asleep = [float(np.mean([day["asleep"] for day in each])) for each in found] if teaches else []
    return {
        "arm": arm,
        "pairs": first["pairs"],
        "passes": first["passes"],
        "days": days,
        "seeds": [row["seed"] for row in rows],
        "recall": of([float(np.mean(day["recall"])) for day in last]),
        "by_day": [of([day["recall"][i] for day in last], answers // days) for i in range(days)],
        "so_far": [float(np.mean([each[i]["recall"] for each in found])) for i in range(days)],
        "asleep": of(asleep) if teaches else None,
        "reading": of([day["reading"] for day in last]) if teaches else None,
        "floor": first["floor"],
        "tokens": last[0].get("tokens", 0),
        "flops": last[0].get("flops", 0),
        "train_tokens": first["train_tokens"],
        "train_flops": first["train_flops"],
    }


def lines(summary: Sequence[Seeded]) -> list[list[str]]:
    """One line an arm; tokens and FLOPs are of training, and of consolidation where there is."""
    return [
        [
            str(group["pairs"]),
            group["arm"],
            str(group["passes"]),
            str(group["days"]),
            str(len(group["seeds"])),
            quote(group["recall"]),
            quote(group["by_day"][0]),
            quote(group["by_day"][-1]),
            quote(group["asleep"]) if group["asleep"] else "-",
            quote(group["reading"]) if group["reading"] else "-",
            _and(short(group["train_tokens"]), group["tokens"] and short(group["tokens"])),
            _and(scientific(group["train_flops"]), group["flops"] and scientific(group["flops"])),
        ]
        for group in summary
    ]


def _and(training: str, more: str | int) -> str:
    return f"{training} + {more}" if more else training


def conclude(summary: Sequence[Seeded]) -> str:
    """What is known of all days at the end, by the arms that the question is about."""
    said = []
    for (days, passes), arms in _by_model(summary).items():
        fast = [
            group
            for group in summary
            if group["arm"] == FAST_WEIGHTS and (group["days"], group["passes"]) == (days, passes)
        ]
        kept = [arms[arm] for arm in (DREAMS, NO_EXPERT, TEXT) if arm in arms]
        told = [
            *(f"in fast weights, of {g['pairs']} pairs, {quote(g['recall'])}" for g in fast),
            *(f"in MLPs by {group['arm']}, {quote(group['recall'])}" for group in kept),
        ]
        said.append(f"After {days} days, N = {passes}, recall of all of them: {'; '.join(told)}.")
    said.append(
        "It may not be concluded that what is inside the intervals is the same, nor anything about "
        "language, where what a dream asks is not given."
    )
    return " ".join(said)


def _by_model(summary: Sequence[Seeded]) -> dict[tuple[int, int], dict[str, Seeded]]:
    """The arms that consolidate, by days and N."""
    found: dict[tuple[int, int], dict[str, Seeded]] = {}
    for group in summary:
        if group["asleep"]:
            found.setdefault((group["days"], group["passes"]), {})[group["arm"]] = group
    return found


def draw(results: dict[str, Any], path: Path) -> None:
    """Recall by day after the last one, of some arms; recall and reading of all arms."""
    summary: list[Seeded] = results["summary"]
    smallest = min((group["passes"] for group in summary), default=1)
    shown = [group for group in summary if group["passes"] == smallest]
    with plt.rc_context(STYLE):
        height = 0.17 * max(len(shown), 8) + 0.9
        figure, axes = plt.subplots(1, 2, figsize=(2 * COLUMN, height))
        if shown:
            _draw_days(axes[0], shown)
            _draw_arms(axes[1], shown)
            legend(figure, axes[0], columns=3, floor="floor")
        save(figure, path)


def _named(group: Seeded) -> str:
    trained = f", trained on {group['pairs']} pairs" * (group["arm"] == FAST_WEIGHTS)
    return f"{group['arm']}{trained}"


def _draw_days(axis: Axes, summary: Sequence[Seeded]) -> None:
    wanted = (FAST_WEIGHTS, DREAMS, NO_EXPERT, TEXT, STORED)
    chosen = [group for group in summary if group["arm"] in wanted]
    for i, group in enumerate(chosen):
        scores = group["by_day"]
        means, ends = (np.array([score[part] for score in scores]) for part in ("mean", "ci95"))
        days = np.arange(1, group["days"] + 1) + 0.08 * (i - len(chosen) / 2)
        look: dict[str, Any] = {"elinewidth": 0.7, "markersize": 3, "label": _named(group)}
        look |= {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
        axis.errorbar(days, means, yerr=np.abs(ends.T - means), **look)
    axis.axhline(chosen[0]["floor"], **FLOOR)
    axis.set(xlabel="day that is asked about", ylabel="recall after the last day", ylim=(0, 1.02))
    axis.set_xticks(range(1, chosen[0]["days"] + 1))


def _draw_arms(axis: Axes, groups: Sequence[Seeded]) -> None:
    places = np.arange(len(groups))
    scores = (
        ("recall", "all days", COLOURS[0], "o", -0.15),
        ("reading", "new windows", COLOURS[3], "s", 0.15),
    )
    for name, label, colour, marker, shift in scores:
        at = [(place, group[name]) for place, group in zip(places, groups, strict=True)]
        at = [(place, score) for place, score in at if score]
        if not at:
            continue
        means, ends = (np.array([score[part] for _, score in at]) for part in ("mean", "ci95"))
        where = np.array([place for place, _ in at]) + shift
        look = {"color": colour, "marker": marker, "markersize": 3, "linestyle": "none"}
        axis.errorbar(
            means, where, xerr=np.abs(ends.T - means), elinewidth=0.8, label=label, **look
        )
    axis.axvline(groups[0]["floor"], **FLOOR)
    axis.set_yticks(places, [_named(group) for group in groups])
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    axis.set(xlim=(0, 1.02), xlabel="recall after the last day", ylim=(len(groups) - 0.5, -0.5))
