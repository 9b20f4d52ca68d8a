"""The report of `EXP=dash_attention`: recall, and how much of the cache a question reads for it.

A row is a run with its `readings`: as it was trained, and with other settings of what is read.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from experiments.report.groups import Interval, short
from experiments.report.style import (
    COLOURS,
    COLUMN,
    FLOOR,
    MARKERS,
    MATCHED_STYLES,
    STYLE,
    legend,
    save,
    scale_axis,
)
from experiments.report.summary import Row, group_rows, interval, mean
from experiments.report.words import AS_TRAINED, PLAIN, quote, scientific, series_name

FULL = "all of the cache"
LEARNED = 0.9
HEADER = (
    "what is read", "pairs", "seeds n", "recall [95%]", "cache read [95%]", "pair found",
    f"tokens to {LEARNED:g}, by seed", "bytes kept", "tokens", "FLOPs",
)  # fmt: skip
READ_OTHERWISE = ("trained", "read", "pairs", "seeds n", "recall [95%]", "cache read", "pair found")
NOT_CONCLUDED = (
    "It may not be concluded that what is inside the intervals is the same, nor that anything is "
    "saved: all logits are computed here, and then masked."
)


class Routed(TypedDict):
    """All seeds of one kind of model at one reading."""

    name: str  # of what is read in training
    keeps_cache: bool
    passes: int
    match: str
    read: str  # AS_TRAINED, or what is read now
    pairs: int
    seeds: list[int]
    recall: Interval
    share: Interval | None  # of earlier tokens, what a question reads; of routed attention
    found: float | None
    learned: list[int | None]  # tokens at the first evaluation with LEARNED, by seed
    state_bytes: int
    parameters: int
    floor: float
    train_tokens: int
    train_flops: int


def summarise(rows: Iterable[Row]) -> list[Routed]:
    """By pairs; what keeps its cache first, everything read first of it, then by N."""
    found = []
    for group in group_rows(rows, ("pairs", "model", "passes", "match", "regime")):
        at = [{reading["read"]: reading for reading in row["readings"]} for row in group]
        found += [_group(group, read, [by_read[read] for by_read in at]) for read in at[0]]
    return sorted(found, key=_order)


def _order(group: Routed) -> tuple[Any, ...]:
    kept = group["keeps_cache"]
    return (
        group["pairs"],
        not kept,
        group["name"] != FULL,
        group["passes"],
        group["match"] != "tokens",
    )


def _group(rows: Sequence[Row], read: str, found: Sequence[Mapping[str, Any]]) -> Routed:
    first = rows[0]
    answers = first["evaluation_sequences"] * first["pairs"]  # a question about every pair
    shares = [reading["share"] for reading in found if "share" in reading]
    keeps = first["cache"] == "keep"
    return {
        "name": name_of(first),
        "keeps_cache": keeps,
        "passes": first["passes"],
        "match": first["match"],
        "read": read,
        "pairs": first["pairs"],
        "seeds": [row["seed"] for row in rows],
        "recall": interval([reading["exact_accuracy"] for reading in found], answers),
        "share": interval(shares, answers) if shares else None,
        "found": mean([reading["found"] for reading in found]) if shares else None,
        "learned": [tokens_to_learn(row) for row in rows],
        "state_bytes": first["state_bytes"],
        "parameters": first["parameters"],
        "floor": first["floor"],
        "train_tokens": first["train_tokens"],
        "train_flops": first["train_flops"],
    }


def name_of(row: Row) -> str:
    """What is read: all of a cache, or of it what the regime says; or fast weights."""
    if row["cache"] == "keep":
        return FULL if row["regime"] == PLAIN else row["regime"]
    rest = "" if row["regime"] == PLAIN else f"; {row['regime']}"
    return f"fast weights, {series_name(row)}{rest}"


def tokens_to_learn(row: Row) -> int | None:
    """At the first evaluation with that recall; None: at none."""
    reached = (p["train_tokens"] for p in row["curve"] if p["exact_accuracy"] >= LEARNED)
    return next(reached, None)


def trained(summary: Sequence[Routed]) -> list[Routed]:
    """The groups as they were trained."""
    return [group for group in summary if group["read"] == AS_TRAINED]


def lines(summary: Sequence[Routed]) -> list[list[str]]:
    """One line a kind of model, as it was trained."""
    return [
        [
            group["name"],
            str(group["pairs"]),
            str(len(group["seeds"])),
            quote(group["recall"]),
            _share(group),
            _found(group),
            " ".join(tokens_text(count, group["train_tokens"]) for count in group["learned"]),
            f"{group['state_bytes']:,}",
            short(group["train_tokens"]),
            scientific(group["train_flops"]),
        ]
        for group in trained(summary)
    ]


def tokens_text(count: int | None, most: int) -> str:
    """Of a run of `most` tokens."""
    return f">{short(most)}" if count is None else short(count)


def _share(group: Routed) -> str:
    if group["share"]:
        return quote(group["share"])
    return "all" if group["keeps_cache"] else "none"


def _found(group: Routed) -> str:
    return "-" if group["found"] is None else f"{group['found']:.3f}"


def read_otherwise(
    summary: Sequence[Routed],
) -> list[tuple[str, Sequence[str], list[list[str]]]]:
    """The transformers at other settings of what is read, without training; none if there are."""
    found = [
        [
            group["name"],
            group["read"],
            str(group["pairs"]),
            str(len(group["seeds"])),
            quote(group["recall"]),
            f"{group['share']['mean']:.3f}",
            _found(group),
        ]
        for group in summary
        if group["read"] != AS_TRAINED and group["share"]
    ]
    return [("Read otherwise, without training", READ_OTHERWISE, found)] if found else []


def conclude(summary: Sequence[Routed]) -> str:
    """What is read of the cache, and recall, as trained."""
    said = []
    for pairs in sorted({group["pairs"] for group in summary}):
        of = [group for group in trained(summary) if group["pairs"] == pairs]
        told = [f"{group['name']} {quote(group['recall'])}{_reading(group)}" for group in of]
        said.append(f"Recall of {pairs} pairs: {'; '.join(told)}.")
    return " ".join([*said, NOT_CONCLUDED])


def _reading(group: Routed) -> str:
    return f", reading {group['share']['mean']:.0%} of the cache" if group["share"] else ""


def draw(results: dict[str, Any], path: Path) -> None:
    """Recall against the share of the cache that is read, and against tokens of training."""
    summary: list[Routed] = results["summary"]
    most = max((group["pairs"] for group in summary), default=0)
    shown = [group for group in trained(summary) if group["pairs"] == most]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(2 * COLUMN, 2.9), sharey=True)
        for i, group in enumerate(shown):
            look = {"color": COLOURS[i % len(COLOURS)], "linestyle": _style(group)}
            _draw_readings(axes[0], group, summary, MARKERS[i % len(MARKERS)], look)
            _draw_curve(axes[1], group, results["rows"], look)
        if shown:
            axes[0].set(xlabel="share of the cache that a question reads", ylabel="recall")
            axes[0].set(xlim=(0, 1.02), ylim=(0, 1.03))
            scale_axis(axes[1], "training tokens", max(group["train_tokens"] for group in shown))
            for axis in axes:
                axis.axhline(shown[0]["floor"], **FLOOR)
            legend(figure, axes[1], columns=3, floor="floor")
        save(figure, path)


def _style(group: Routed) -> Any:
    if group["keeps_cache"]:
        return "-"
    return MATCHED_STYLES.get(group["match"], (0, (4, 1)))


def _draw_readings(
    axis: Axes, group: Routed, summary: Sequence[Routed], marker: str, look: Mapping[str, Any]
) -> None:
    """As trained a marker with its interval; a line through the readings at other gammas."""
    here = [g for g in summary if (g["name"], g["pairs"]) == (group["name"], group["pairs"])]
    if not group["keeps_cache"]:
        axis.axhline(group["recall"]["mean"], **look)
        return
    for way in ("gamma", "best"):
        at = [g for g in here if g["share"] and (g is group or g["read"].startswith(way))]
        points = sorted((g["share"]["mean"], g["recall"]["mean"]) for g in at if g["share"])
        if len(points) > 1:
            dotted = {**look, "linestyle": ":"} if group["name"] == FULL and way == "best" else look
            axis.plot(*zip(*points, strict=True), linewidth=0.8, **dotted)
    x = group["share"]["mean"] if group["share"] else 1.0
    reach = np.abs(np.array(group["recall"]["ci95"])[:, None] - group["recall"]["mean"])
    axis.errorbar([x], [group["recall"]["mean"]], reach, marker=marker, color=look["color"])


def _draw_curve(axis: Axes, group: Routed, rows: Sequence[Row], look: Mapping[str, Any]) -> None:
    """The mean over seeds of recall in training."""
    curves = [
        [(point["train_tokens"], point["exact_accuracy"]) for point in row["curve"]]
        for row in rows
        if row["pairs"] == group["pairs"] and name_of(row) == group["name"]
    ]
    tokens, recall = np.mean(curves, axis=0).T
    axis.plot(tokens, recall, label=group["name"], **look)
