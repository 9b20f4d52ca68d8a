"""The report of `EXP=qk_restore`: what fine-tuning cost recall, and what old weights bring back.

A row is a run with its `readings`, the accuracy on recall and on what it was trained on; of a
fine-tuned one with each choice of weights put back.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from experiments.report.groups import Interval, short
from experiments.report.style import COLOURS, COLUMN, FLOOR, STYLE, legend, save
from experiments.report.summary import Mean, Row, group_rows, interval, mean_of
from experiments.report.words import quote, scientific, signed

RECALL = "recall"
BEFORE, NOTHING, PAPER = "", "nothing", "query, key"  # of what was put back
HEADER = (
    "fine-tuned on", "put back", "N", "pairs", "seeds n", "recall [95%]", "nearest quarter",
    "farthest quarter", "recall put back [95%]", "fine-tuned skill [95%]", "tokens", "FLOPs",
)  # fmt: skip


class Restored(TypedDict):
    """All seeds of one choice of what is put back; BEFORE fine-tuning `own` is none."""

    skill: str  # what was trained on last
    put_back: str
    passes: int
    pairs: int
    seeds: list[int]
    recall: Interval
    nearest: Interval
    farthest: Interval
    regained: Mean | None  # recall against that with nothing put back
    own: Interval | None  # accuracy on the fine-tuned skill
    floor: float
    train_tokens: int
    train_flops: int


def summarise(rows: Iterable[Row]) -> list[Restored]:
    """Before fine-tuning, then for each skill what is put back, in the order of the readings."""
    found = []
    for group in group_rows(rows, ("pairs", "passes", "skills", "regime")):
        at = [_readings(row) for row in group]
        for put_back in at[0][RECALL]:
            recall = [by_skill[RECALL][put_back] for by_skill in at]
            own = plain = None
            if put_back != BEFORE:
                skill = group[0]["skills"]
                own = [by_skill[skill][put_back]["exact_accuracy"] for by_skill in at]
                plain = [by_skill[RECALL][NOTHING]["exact_accuracy"] for by_skill in at]
            found.append(_group(group, put_back, recall, own, plain))
    return sorted(found, key=lambda g: (g["pairs"], g["passes"], g["put_back"] != BEFORE))


def _readings(row: Row) -> dict[str, dict[str, Mapping[str, Any]]]:
    """By skill and by what was put back."""
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for reading in row["readings"]:
        found.setdefault(reading["skill"], {})[reading["put_back"]] = reading
    return found


def _group(
    rows: Sequence[Row],
    put_back: str,
    recall: Sequence[Mapping[str, Any]],
    own: Sequence[float] | None,
    plain: Sequence[float] | None,
) -> Restored:
    first = rows[0]
    answers = sum(at["answers"] for at in recall[0]["by_depth"].values())
    whole = [reading["exact_accuracy"] for reading in recall]
    distances = sorted(recall[0]["by_depth"], key=int)

    def at(distance: str) -> Interval:
        there = [reading["by_depth"][distance] for reading in recall]
        return interval([part["exact_accuracy"] for part in there], there[0]["answers"])

    return {
        "skill": first["skills"],
        "put_back": put_back,
        "passes": first["passes"],
        "pairs": first["pairs"],
        "seeds": [row["seed"] for row in rows],
        "recall": interval(whole, answers),
        "nearest": at(distances[0]),
        "farthest": at(distances[-1]),
        "regained": None if plain is None or put_back == NOTHING else _change(whole, plain),
        "own": None if own is None else interval(own, answers),
        "floor": first["floor"],
        "train_tokens": first["train_tokens"],
        "train_flops": first["train_flops"],
    }


def _change(values: Sequence[float], plain: Sequence[float]) -> Mean:
    """Of the differences, seed by seed."""
    return mean_of([value - other for value, other in zip(values, plain, strict=True)])


def lines(summary: Sequence[Restored]) -> list[list[str]]:
    """One line a choice."""
    return [
        [
            _words(group["skill"]) if group["put_back"] != BEFORE else "not yet",
            group["put_back"] or "-",
            str(group["passes"]),
            str(group["pairs"]),
            str(len(group["seeds"])),
            quote(group["recall"]),
            f"{group['nearest']['mean']:.3f}",
            f"{group['farthest']['mean']:.3f}",
            quote_change(group["regained"]),
            quote(group["own"]) if group["own"] else "-",
            short(group["train_tokens"]),
            scientific(group["train_flops"]),
        ]
        for group in summary
    ]


def _words(skill: str) -> str:
    return skill.replace("_", " ")


def quote_change(change: Mean | None) -> str:
    """`+0.400 [+0.350, +0.450]`, or "-" where there is nothing to compare with."""
    if change is None:
        return "-"
    if change["half"] is None:
        return f"{change['mean']:+.3f}"
    mean, half = change["mean"], change["half"]
    return signed(mean, mean - half, mean + half)


def conclude(summary: Sequence[Restored]) -> str:
    """What fine-tuning on each skill cost, and what the choice of the paper put back."""
    before = {_model(group): group for group in summary if group["put_back"] == BEFORE}
    said = []
    for arms in _by_panel(summary).values():
        plain, paper = (arms[put_back] for put_back in (NOTHING, PAPER))
        said.append(_sentence(before.get(_model(plain)), plain, paper))
    said.append(
        "It may not be concluded that what is inside the intervals is the same, nor anything about "
        "pretrained models, about text, or about contexts longer than those trained on."
    )
    return " ".join(said)


def _model(group: Restored) -> tuple[int, int]:
    return group["pairs"], group["passes"]


def _by_panel(
    summary: Sequence[Restored],
) -> dict[tuple[str, tuple[int, int]], dict[str, Restored]]:
    """What was fine-tuned, by skill and model, and for each by what was put back."""
    found: dict[tuple[str, tuple[int, int]], dict[str, Restored]] = {}
    for group in summary:
        if group["put_back"] != BEFORE:
            panel = found.setdefault((group["skill"], _model(group)), {})
            panel[group["put_back"]] = group
    return found


def _sentence(before: Restored | None, plain: Restored, paper: Restored) -> str:
    was = f" from {quote(before['recall'])}" if before else ""
    assert plain["own"] and paper["own"]
    return (
        f"After fine-tuning on {_words(plain['skill'])} recall is "
        f"{quote(plain['recall'])}{was}; with queries and keys of attention put back it is "
        f"{quote(paper['recall'])}, {_shown(paper['regained'])} "
        f"({quote_change(paper['regained'])}), and the fine-tuned skill {quote(paper['own'])} "
        f"where it was {quote(plain['own'])}."
    )


def is_more(change: Mean) -> bool:
    """Whether its interval is above nothing."""
    return change["half"] is not None and change["mean"] > change["half"]


def _shown(change: Mean | None) -> str:
    assert change
    if change["half"] is None:
        return "of one seed"
    if is_more(change):
        return "more, apart from nothing"
    if change["mean"] < -change["half"]:
        return "less, apart from nothing"
    return "no change that is shown"


def draw(results: dict[str, Any], path: Path) -> None:
    """Recall and the fine-tuned skill by what is put back, a panel a skill; before in grey."""
    summary: list[Restored] = results["summary"]
    panels = _by_panel(summary)
    before = {_model(group): group for group in summary if group["put_back"] == BEFORE}
    several = len({model for _, model in panels}) > 1
    columns, lines_of_one = max(len(panels), 1), max(map(len, panels.values()), default=4)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            1, columns, figsize=(2 * COLUMN, 0.14 * lines_of_one + 0.9), sharey=True, squeeze=False
        )
        for axis, ((skill, model), arms) in zip(axes[0], panels.items(), strict=False):
            _draw_panel(axis, list(arms.values()))
            which = f", {model[0]} pairs, N = {model[1]}" * several
            axis.set_title(f"fine-tuned on {_words(skill)}{which}")
            if model in before:
                was = before[model]["recall"]["mean"]
                axis.axvline(was, color="#999999", linewidth=0.8, label="recall before")
        if panels:
            legend(figure, axes[0][0], columns=4, floor="floor")
        save(figure, path)


def _draw_panel(axis: Axes, groups: Sequence[Restored]) -> None:
    places = np.arange(len(groups))
    recall = [group["recall"] for group in groups]
    own = [group["own"] for group in groups if group["own"]]
    for scores, label, colour, marker, shift in (
        (recall, "recall", COLOURS[0], "o", -0.15),
        (own, "what it was fine-tuned on", COLOURS[3], "s", 0.15),
    ):
        means, ends = (np.array([score[name] for score in scores]) for name in ("mean", "ci95"))
        look = {"color": colour, "marker": marker, "markersize": 3, "linestyle": "none"}
        reach = np.abs(ends.T - means)
        axis.errorbar(means, places + shift, xerr=reach, elinewidth=0.8, label=label, **look)
    axis.axvline(groups[0]["floor"], **FLOOR)
    axis.set_yticks(places, [group["put_back"] for group in groups])
    axis.set(xlim=(0, 1.02), xlabel="exact accuracy", ylim=(len(groups) - 0.5, -0.5))
