"""The report of `EXP=consa`: recall where few heads read all of the cache, and which those are."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from experiments.report.groups import Interval, short
from experiments.report.routed import (
    FULL,
    LEARNED,
    NOT_CONCLUDED,
    name_of,
    tokens_text,
    tokens_to_learn,
)
from experiments.report.style import COLOURS, COLUMN, FLOOR, STYLE, save
from experiments.report.summary import Row, group_rows, interval, mean
from experiments.report.words import quote, scientific

HEADER = (
    "what reads all of the cache", "pairs", "blocks", "seeds n", "recall [95%]",
    "whole units by block", f"tokens to {LEARNED:g}, by seed", "bytes kept", "tokens", "FLOPs",
)  # fmt: skip
DECIDED = (
    "learned", "pairs", "blocks", "seeds n", "expected share local", "log alpha <= 0",
    "beyond 2 in size", "recall before", "recall at the end",
)  # fmt: skip


class Chosen(TypedDict):
    """All seeds of one kind of model."""

    name: str
    keeps_cache: bool
    learned: bool  # which units read all
    pairs: int
    blocks: int
    seeds: list[int]
    recall: Interval
    values: list[float]  # by seed
    by_block: list[list[int]]  # by seed, of every block of attention the units that read all
    units: int  # of a block; 0 where there is no choice
    decided: dict[str, float] | None  # what learning had come to, means over seeds
    tokens_to_learn: list[int | None]
    state_bytes: int
    parameters: int
    floor: float
    train_tokens: int
    train_flops: int


def summarise(rows: Iterable[Row]) -> list[Chosen]:
    """By pairs and blocks; all of the cache first, then the fewer whole units the later."""
    key = ("pairs", "blocks", "model", "passes", "match", "regime")
    return sorted(map(_group, group_rows(rows, key)), key=_order)


def _order(group: Chosen) -> tuple[Any, ...]:
    whole = mean([float(sum(blocks)) for blocks in group["by_block"]]) if group["units"] else 0.0
    kept = group["keeps_cache"]
    return (
        group["pairs"],
        group["blocks"],
        not kept,
        group["name"] != FULL,
        -whole,
        not group["learned"],
        group["name"],
    )


def _group(rows: Sequence[Row]) -> Chosen:
    first = rows[0]
    values = [row["exact_accuracy"] for row in rows]
    found = [row["decision"] for row in rows if "decision" in row]
    full = [[decision["full"][name] for name in sorted(decision["full"])] for decision in found]
    learned = ", learned" in first["regime"]
    return {
        "name": name_of(first),
        "keeps_cache": first["cache"] == "keep",
        "learned": learned,
        "pairs": first["pairs"],
        "blocks": first["blocks"],
        "seeds": [row["seed"] for row in rows],
        "recall": interval(values, first["evaluation_sequences"] * first["pairs"]),
        "values": values,
        "by_block": [[sum(units) for units in blocks] for blocks in full],
        "units": len(full[0][0]) if full else 0,
        "decided": _decided(rows) if learned else None,
        "tokens_to_learn": [tokens_to_learn(row) for row in rows],
        "state_bytes": first["state_bytes"],
        "parameters": first["parameters"],
        "floor": first["floor"],
        "train_tokens": first["train_tokens"],
        "train_flops": first["train_flops"],
    }


def _decided(rows: Sequence[Row]) -> dict[str, float]:
    fields = ("expected_local", "local_at_zero", "polarised")
    found = {field: mean([row["decision"][field] for row in rows]) for field in fields}
    return {**found, "recall_before": mean([_before(row) for row in rows])}


def _before(row: Row) -> float:
    """Recall at the last evaluation before it was decided; 0 if there was none."""
    curve = [point for point in row["curve"] if point["step"] <= row["decision"]["step"]]
    return curve[-1]["exact_accuracy"] if curve else 0.0


def lines(summary: Sequence[Chosen]) -> list[list[str]]:
    """One line a kind of model."""
    return [
        [
            group["name"],
            str(group["pairs"]),
            str(group["blocks"]),
            str(len(group["seeds"])),
            quote(group["recall"]),
            _by_block(group),
            " ".join(tokens_text(n, group["train_tokens"]) for n in group["tokens_to_learn"]),
            f"{group['state_bytes']:,}",
            short(group["train_tokens"]),
            scientific(group["train_flops"]),
        ]
        for group in summary
    ]


def _by_block(group: Chosen) -> str:
    """The mean over seeds for every block, the first block first."""
    if not group["units"]:
        return "all" if group["keeps_cache"] else "none"
    return " ".join(f"{count:.1f}" for count in np.mean(group["by_block"], axis=0))


def decided(summary: Sequence[Chosen]) -> list[tuple[str, Sequence[str], list[list[str]]]]:
    """What learning had come to when it ended; no table where nothing was learned."""
    found = [
        [
            group["name"],
            str(group["pairs"]),
            str(group["blocks"]),
            str(len(group["seeds"])),
            f"{at['expected_local']:.3f}",
            f"{at['local_at_zero']:.2f}",
            f"{at['polarised']:.2f}",
            f"{at['recall_before']:.3f}",
            f"{group['recall']['mean']:.3f}",
        ]
        for group in summary
        if (at := group["decided"])
    ]
    return [("When it was decided, means over seeds", DECIDED, found)] if found else []


def conclude(summary: Sequence[Chosen]) -> str:
    """Recall, and where the heads are that read all."""
    said = []
    for pairs, blocks in sorted({(group["pairs"], group["blocks"]) for group in summary}):
        of = [group for group in summary if (group["pairs"], group["blocks"]) == (pairs, blocks)]
        told = [f"{group['name']} {quote(group['recall'])}{_where(group)}" for group in of]
        said.append(f"Recall of {pairs} pairs in {blocks} blocks: {'; '.join(told)}.")
    return " ".join([*said, NOT_CONCLUDED])


def _where(group: Chosen) -> str:
    return f" (whole by block: {_by_block(group)})" if group["units"] else ""


def draw(results: dict[str, Any], path: Path) -> None:
    """A line a kind of model: recall by seed, and which blocks have the units that read all."""
    summary: list[Chosen] = results["summary"]
    most = max(((group["pairs"], group["blocks"]) for group in summary), default=(0, 0))
    shown = [group for group in summary if (group["pairs"], group["blocks"]) == most]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            1, 2, figsize=(2 * COLUMN, 0.7 + 0.2 * len(shown)), sharey=True, width_ratios=(3, 1)
        )
        _draw_recall(axes[0], shown)
        _draw_blocks(axes[1], shown)
        save(figure, path)


def _draw_recall(axis: Axes, shown: Sequence[Chosen]) -> None:
    for line, group in enumerate(shown):
        colour = COLOURS[0] if group["learned"] else COLOURS[1]
        colour = colour if group["units"] else "black"
        axis.plot(
            group["values"], [line] * len(group["values"]), "o", ms=3.5, mfc="none", mec=colour
        )
        axis.plot([group["recall"]["mean"]], [line], "|", ms=9, color=colour)
    if shown:
        axis.axvline(shown[0]["floor"], **FLOOR)
        axis.text(shown[0]["floor"], -0.9, "floor", ha="center", va="bottom")
    axis.set_yticks(range(len(shown)), [group["name"] for group in shown])
    axis.set(
        xlim=(0, 1.03), ylim=(len(shown) - 0.4, -1), xlabel="recall, a ring a seed; blue: learned"
    )


def _draw_blocks(axis: Axes, shown: Sequence[Chosen]) -> None:
    """Of every block the share of units that read all, the mean over seeds."""
    for line, group in enumerate(shown):
        if not group["units"]:
            axis.text(0, line, _by_block(group), ha="left", va="center")
            continue
        for block, count in enumerate(np.mean(group["by_block"], axis=0)):
            share = count / group["units"]
            box = Rectangle((block - 0.5, line - 0.4), 1, 0.8, fc=COLOURS[0], alpha=share * 0.8)
            axis.add_patch(box)
            axis.text(block, line, f"{count:.1f}", ha="center", va="center")
    last = max((len(group["by_block"][0]) for group in shown if group["units"]), default=1)
    axis.set_xticks(range(last), [str(block + 1) for block in range(last)])
    axis.set(xlim=(-0.6, last - 0.4), xlabel="whole units, by block")
    axis.tick_params(axis="y", length=0)
