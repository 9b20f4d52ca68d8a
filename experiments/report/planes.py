"""The report of `EXP=recovery`: how lost recall comes back, and what planes of it are worth.

A row is a fine-tuned run with its `recoveries` (experiments/planes.py says what each holds); the
runs that these began with have none.
"""

import math
from collections.abc import Iterable, Sequence
from typing import TypedDict

from experiments.report.groups import Interval, short
from experiments.report.summary import Mean, Row, group_rows, interval, mean, mean_of
from experiments.report.words import quote, scientific

# Names of what experiments/planes.py measures: planes, ways to lose and to learn again, parts.
STATIC, LOCAL, FINAL, OTHER = "static", "local", "final", "other skill"
PREFIX, KRYLOV, BACK, RANDOM = "prefix", "krylov", "back", "random"
FINE_TUNING, NOISE = "fine-tuning", "noise"
ADAM, SGD = "adam", "sgd"
ALL = "all"
FEW = 10  # k of most that is told
AFTER = 100  # updates behind which gradients' planes are looked at again
LEARNED = 0.9  # recall before; a model that never had it has nothing to lose
FULL = "transformer, full cache"
HEADER = (
    "model", "directions", "k", "seeds n", "captured [95%]", "captured behind the first k updates",
    "recall in the plane [95%]", "share of lost recall [95%]", "tokens", "FLOPs",
)  # fmt: skip
RECOVERIES = (
    "model", "lost by", "learned again by", "seeds n", "recall before", "lost [95%]",
    "found [95%]", "length of displacement", "of it first 10 updates", "cosine with way back",
    "gradients' top 10", "less their mean", "of any",
)  # fmt: skip
CAPTURED = (
    "model", "lost by", "learned again by", "seeds n", "first updates", "behind them",
    "gradients here", "behind", "gradients before", "behind", "Krylov", "random",
)  # fmt: skip
IN_TIME = (
    "model", "part", "weights", "share of displacement", "first updates", "gradients here",
    "gradients before", "same place, t = 0", f"t = {AFTER}", "0 and 10", "0 and 30",
    f"0 and {AFTER}", "at random",
)  # fmt: skip
NAMES = {
    STATIC: "gradients before",
    LOCAL: "gradients here",
    FINAL: "gradients at the end",
    OTHER: "gradients of the other skill",
    PREFIX: "first updates",
    KRYLOV: "Krylov",
    BACK: "the way back",
    RANDOM: "random",
}


class Plane(TypedDict):
    """k directions: what they capture, and what training in them alone brings back."""

    name: str
    k: int
    captured: Mean
    held_out: Mean
    recall: Interval | None
    share: Mean | None  # of the recall that was lost and found


class Part(TypedDict):
    """Some of the parameters: planes of their own, k = FEW; overlaps by mark."""

    name: str
    dimensions: int
    share: Mean
    captured: dict[str, Mean]
    same: list[Mean]  # of planes at the same place, from other batches
    since: list[Mean]  # of planes at the first mark and at each
    drift: Mean | None  # the latter at AFTER less the mean of the former there and at the first


class Recovered(TypedDict):
    """All seeds of one model and one way to lose and to learn again."""

    model: str
    passes: int
    keeps_cache: bool
    pairs: int
    lost_by: str
    optimizer: str
    seeds: list[int]
    left_out: list[int]  # seeds that never LEARNED, where others did
    before: Interval
    lost: Interval
    found: Interval
    displacement: Mean
    of_first: Mean  # length of the first FEW updates, in that of all
    back: Mean
    energy: list[float]  # top FEW of gradients here; less their mean; of any of these lengths
    left: list[float]  # by seed, recall that was left
    first_captured: list[float]  # by seed, by FEW first updates
    planes: list[Plane]
    parts: list[Part]
    marks: list[int]
    parameters: int
    floor: float
    tokens: int
    flops: int


def summarise(rows: Iterable[Row]) -> list[Recovered]:
    """Models by N, the one that keeps its cache last; of each its recoveries, as measured."""
    key = ("pairs", "model", "passes", "skills", "regime")
    found = [
        _group(group, number)
        for group in group_rows(rows, key)
        for number in range(len(group[0]["recoveries"]))
    ]
    return sorted(found, key=lambda g: (g["pairs"], g["keeps_cache"], g["passes"]))


def _group(rows: Sequence[Row], number: int) -> Recovered:
    learned = [row for row in rows if _before(row) >= LEARNED]
    left_out = [row["seed"] for row in rows if learned and row not in learned]
    rows = learned or rows
    first = rows[0]
    all_of = [row["recoveries"][number] for row in rows]
    one = all_of[0]
    answers = first["evaluation_sequences"] * first["pairs"]
    keeps = first["cache"] == "keep"

    def recall(name: str) -> Interval:
        return interval([found[name]["exact_accuracy"] for found in all_of], answers)

    spectra = [found["spectrum"] for found in all_of]
    return {
        "model": FULL if keeps else f"N = {first['passes']}",
        "passes": first["passes"],
        "keeps_cache": keeps,
        "pairs": first["pairs"],
        "lost_by": one["lost_by"],
        "optimizer": one["optimizer"],
        "seeds": [row["seed"] for row in rows],
        "left_out": left_out,
        "before": recall("before"),
        "lost": recall("lost"),
        "found": recall("found"),
        "displacement": mean_of([found["displacement"] for found in all_of]),
        "of_first": mean_of([f["of_first"][str(FEW)] / f["displacement"] for f in all_of]),
        "back": mean_of([found["back"] for found in all_of]),
        "energy": [
            mean([spectrum[kind][field] for spectrum in spectra])
            for kind, field in (
                ("as they are", "energy"),
                ("less their mean", "energy"),
                ("less their mean", "of_any"),
            )
        ],
        "left": [found["lost"]["exact_accuracy"] for found in all_of],
        "first_captured": [found["captured"][PREFIX][str(FEW)] for found in all_of],
        "planes": [
            _plane(all_of, name, k, answers)
            for name in one["captured"]
            for k in one["captured"][name]
        ],
        "parts": [_part(all_of, name) for name in one["parts"]],
        "marks": one["marks"],
        "parameters": first["parameters"],
        "floor": first["floor"],
        "tokens": one["tokens"],
        "flops": one["flops"],
    }


def _before(row: Row) -> float:
    return row["recoveries"][0]["before"]["exact_accuracy"]


def _plane(all_of: Sequence[Row], name: str, k: str, answers: int) -> Plane:
    trained = k in all_of[0]["within"].get(name, {})
    scores = [found["within"][name][k]["exact_accuracy"] for found in all_of] if trained else []
    shares = [
        (score - found["lost"]["exact_accuracy"])
        / (found["found"]["exact_accuracy"] - found["lost"]["exact_accuracy"])
        for score, found in zip(scores, all_of, strict=False)
        if found["found"]["exact_accuracy"] > found["lost"]["exact_accuracy"]
    ]
    return {
        "name": name,
        "k": int(k),
        "captured": mean_of([found["captured"][name][k] for found in all_of]),
        "held_out": mean_of([found["held_out"][name][k] for found in all_of]),
        "recall": interval(scores, answers) if trained else None,
        "share": mean_of(shares) if trained and len(shares) == len(all_of) else None,
    }


def _part(all_of: Sequence[Row], name: str) -> Part:
    parts, marks = [found["parts"][name] for found in all_of], all_of[0]["marks"]
    overlaps = [part["overlap"][str(FEW)] for part in parts]
    drift = None
    if AFTER in marks:
        at = marks.index(AFTER)
        drift = mean_of([o[0][at] - (o[0][0] + o[at][at]) / 2 for o in overlaps])
    return {
        "name": name,
        "dimensions": parts[0]["dimensions"],
        "share": mean_of([part["share"] for part in parts]),
        "captured": {
            plane: mean_of([part["captured"][plane] for part in parts])
            for plane in parts[0]["captured"]
        },
        "same": [mean_of([o[i][i] for o in overlaps]) for i in range(len(marks))],
        "since": [mean_of([o[0][i] for o in overlaps]) for i in range(len(marks))],
        "drift": drift,
    }


def plane(group: Recovered, name: str, k: int = FEW) -> Plane | None:
    """Of a recovery, or None if it is not there."""
    return next((p for p in group["planes"] if (p["name"], p["k"]) == (name, k)), None)


def is_main(group: Recovered) -> bool:
    """Whether it is the recovery in which planes were trained in."""
    return (group["lost_by"], group["optimizer"]) == (FINE_TUNING, ADAM)


def quote_mean(value: Mean | None) -> str:
    """`0.843 [0.801, 0.885]`, of one seed the mean alone."""
    return "-" if value is None else _quote(value, -math.inf, math.inf)


def quote_share(value: Mean) -> str:
    """The same of what lies in [0, 1], and its interval as well."""
    return _quote(value, 0.0, 1.0)


def _quote(value: Mean, least: float, most: float) -> str:
    centre, half = value["mean"], value["half"]
    if half is None:
        return f"{centre:.3f}"
    return f"{centre:.3f} [{max(least, centre - half):.3f}, {min(most, centre + half):.3f}]"


def lines(summary: Sequence[Recovered]) -> list[list[str]]:
    """One line for each plane that was trained in."""
    return [
        [
            group["model"],
            NAMES[at["name"]],
            str(at["k"]),
            _seeds(group),
            quote_share(at["captured"]),
            quote_share(at["held_out"]),
            quote(at["recall"]),
            quote_mean(at["share"]),
            short(group["tokens"]),
            scientific(group["flops"]),
        ]
        for group in filter(is_main, summary)
        for at in group["planes"]
        if at["recall"]
    ]


def also(summary: Sequence[Recovered]) -> list[tuple[str, Sequence[str], list[list[str]]]]:
    """All recoveries; what planes capture of each; gradients' planes in time, by part."""
    return [
        ("What was lost and found", RECOVERIES, [_of_recovery(group) for group in summary]),
        (f"What {FEW} directions capture", CAPTURED, [_of_captured(group) for group in summary]),
        (
            f"By part, planes of {FEW} directions of its own: what they capture, and how much "
            "gradients' overlap (means)",
            IN_TIME,
            [
                _in_time(group, part)
                for group in filter(is_main, summary)
                for part in group["parts"]
            ],
        ),
    ]


def _seeds(group: Recovered) -> str:
    count, left_out = len(group["seeds"]), len(group["left_out"])
    return f"{count} of {count + left_out}" if left_out else str(count)


def _of_recovery(group: Recovered) -> list[str]:
    return [
        group["model"],
        group["lost_by"],
        group["optimizer"],
        _seeds(group),
        *(quote(group[name]) for name in ("before", "lost", "found")),
        *(f"{group[name]['mean']:.2f}" for name in ("displacement", "of_first", "back")),
        *(f"{energy:.2f}" for energy in group["energy"]),
    ]


def _of_captured(group: Recovered) -> list[str]:
    found = {name: plane(group, name) for name in NAMES}
    return [
        group["model"],
        group["lost_by"],
        group["optimizer"],
        _seeds(group),
        *(
            quote_share(at[field]) if (at := found[name]) else "-"
            for name in (PREFIX, LOCAL, STATIC)
            for field in ("captured", "held_out")
        ),
        *(quote_share(at["captured"]) if (at := found[name]) else "-" for name in (KRYLOV, RANDOM)),
    ]


def _in_time(group: Recovered, part: Part) -> list[str]:
    at = dict(zip(group["marks"], zip(part["same"], part["since"], strict=True), strict=True))

    def overlap(mark: int, which: int) -> str:
        return f"{at[mark][which]['mean']:.2f}" if mark in at else "-"

    return [
        group["model"],
        part["name"],
        f"{part['dimensions']:,}",
        f"{part['share']['mean']:.2f}",
        *(f"{part['captured'][name]['mean']:.2f}" for name in (PREFIX, LOCAL, STATIC)),
        overlap(0, 0),
        overlap(AFTER, 0),
        *(overlap(mark, 1) for mark in (10, 30, AFTER)),
        f"{min(1.0, FEW / part['dimensions']):.3f}",
    ]


def conclude(summary: Sequence[Recovered]) -> str:
    """What came back, what planes capture of it, and what they bring back alone."""
    said = [_sentence(group) for group in filter(is_main, summary)]
    for group in filter(is_main, summary):
        if group["before"]["mean"] < LEARNED:
            said.append(
                f"{group['model']} never recalled {LEARNED:g}, so it had little to lose, and its "
                "lines say little."
            )
        elif group["left_out"]:
            seeds = ", ".join(map(str, group["left_out"]))
            said.append(
                f"{group['model']}: seed {seeds} is left out, which never recalled {LEARNED:g} and "
                "so had nothing to lose."
            )
    said.append(
        "It may not be concluded that what is inside the intervals is the same, nor anything about "
        "low-rank adapters or pretrained models."
    )
    return " ".join(said)


def _sentence(group: Recovered) -> str:
    told = []
    for name in (PREFIX, LOCAL, STATIC, RANDOM):
        at = plane(group, name)
        if at and at["recall"]:
            told.append(
                f"{NAMES[name]} capture {quote_mean(at['captured'])} and bring recall alone to "
                f"{quote(at['recall'])}"
            )
    return (
        f"{group['model']}, {group['pairs']} pairs: fine-tuning brings recall from "
        f"{quote(group['before'])} to {quote(group['lost'])}, learning it again to "
        f"{quote(group['found'])}. Of {FEW} directions {'; '.join(told)}."
    )
