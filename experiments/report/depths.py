"""Reports of tasks whose answers differ in depth within one run: hops k, operations.

The same parts as for Rule 110 (summary, conclusion, table), with one column a depth.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypedDict

from experiments.report.conclusion import is_learned, order
from experiments.report.groups import SPENT_ON, Interval, by_budget, short
from experiments.report.summary import Row, check_scores, group_rows, interval, mean
from experiments.report.words import TRAINED_ON, model_name, quote, scientific, trained_on

_KEY = ("label", "model", "update_rule", "passes", "match", "regime", "train_tokens")


class AtDepth(TypedDict):
    """What the seeds of a setting score at one depth; `loss` in nats a scored token."""

    exact_accuracy: Interval
    loss: float
    floor: float


class DepthGroup(TypedDict):
    """All seeds of one setting; `label` names the task's setting."""

    label: str
    model: str
    update_rule: str
    passes: int
    match: str
    regime: str
    train_tokens: int
    train_flops: int
    parameters: int
    wall_seconds: float
    seeds: list[int]
    by_depth: dict[str, AtDepth]


def summarise(rows: Iterable[Row]) -> list[DepthGroup]:
    """One group a setting, over its seeds; a failed score is an error that names the cell."""
    rows = list(rows)
    for row in rows:
        check_scores(row)
    return [_group(found) for found in group_rows(rows, _KEY)]


def _group(rows: list[Row]) -> DepthGroup:
    first = rows[0]
    by_depth: dict[str, AtDepth] = {}
    for depth in sorted(first["by_depth"], key=int):
        at = [row["by_depth"][depth] for row in rows]
        by_depth[depth] = {
            "exact_accuracy": interval([one["exact_accuracy"] for one in at], at[0]["answers"]),
            "loss": mean([one["loss"] for one in at]),
            "floor": mean([one["floor"] for one in at]),
        }
    return {
        "label": first["label"],
        "model": first["model"],
        "update_rule": first["update_rule"],
        "passes": first["passes"],
        "match": first["match"],
        "regime": first["regime"],
        "train_tokens": first["train_tokens"],
        "train_flops": first["train_flops"],
        "parameters": first["parameters"],
        "wall_seconds": mean([row["wall_seconds"] for row in rows]),
        "seeds": [row["seed"] for row in rows],
        "by_depth": by_depth,
    }


def headline(summary: Sequence[DepthGroup]) -> list[DepthGroup]:
    """The hybrids of the setting with most seeds: equal tokens by N, then equal compute."""
    found: dict[tuple[tuple[str, ...], int], list[DepthGroup]] = {}
    for group in summary:
        if group["model"] == "hybrid" and group["match"] == "tokens":
            found.setdefault((_setting(group), group["train_tokens"]), []).append(group)
    if not found:
        return []

    def rank(at: tuple[tuple[str, ...], int]) -> tuple[int, int, int]:
        seeds = {seed for group in found[at] for seed in group["seeds"]}
        return len(seeds), len(found[at]), at[1]

    best = max(found, key=rank)
    chosen = found[best]
    matched = [g for g in summary if g["match"] in SPENT_ON and _setting(g) == best[0]]
    by_way = list(SPENT_ON)
    return sorted(chosen, key=lambda g: g["passes"]) + sorted(
        matched, key=lambda g: (g["passes"], by_way.index(g["match"]))
    )


def _setting(group: DepthGroup) -> tuple[str, ...]:
    """What stays as it is where only N and how it was trained are compared."""
    return group["label"], group["update_rule"], group["regime"]


def conclude(summary: Sequence[DepthGroup]) -> str:
    """Two sentences: what a reader may conclude at which depth, and what not."""
    shown = headline(summary)
    most = max(
        (g for g in shown if g["match"] == "tokens"), key=lambda g: g["passes"], default=None
    )
    others = [g for g in shown if g["passes"] == 1]
    if most is None or most["passes"] == 1 or not others:
        return (
            "No N > 1 has finished beside N = 1, so nothing can be concluded about sleep. No "
            "number above should be read as evidence for or against it."
        )
    name = f"N = {most['passes']}"
    verdicts = "; ".join(f"{_other(g)}, {name} is {_verdicts(most, g)}" for g in others)
    verdicts += "".join(
        f"; N = {g['passes']} with equal training FLOPs spent on {SPENT_ON[g['match']]} is, "
        f"against N = 1 that spent them so, {_verdicts(g, other)}"
        for g in shown
        for other in others
        if g["match"] == other["match"] != "tokens" and g["passes"] > 1
    )
    missing = "" if len(others) > 1 else f"; N = 1 with the training FLOPs of {name} is missing"
    seeds = min(len(group["seeds"]) for group in [most, *others])
    return (
        f"At {most['label']} and {short(most['train_tokens'])} training tokens: {verdicts}"
        f"{missing}. It may not be concluded that differences inside the intervals "
        f"(n = {seeds}{', answers of one seed' if seeds == 1 else ' seeds'}) are absent, nor that "
        "the same holds at other sizes or budgets."
    )


def _other(group: DepthGroup) -> str:
    spent = SPENT_ON.get(group["match"])
    if spent is None:
        return "against N = 1 on equal tokens"
    return f"against N = 1 with equal training FLOPs spent on {spent}"


def _verdicts(most: DepthGroup, other: DepthGroup) -> str:
    """`better at depth 1, 2 and not shown to differ at depth 4`, by non-overlap of intervals."""
    said: dict[str, list[str]] = {}
    for depth, ours in most["by_depth"].items():
        theirs = other["by_depth"][depth]
        if not (is_learned(ours) or is_learned(theirs)):
            verdict = "like it not clear of the floor"
        else:
            verdict = {1: "better", 0: "not shown to differ", -1: "worse"}[order(ours, theirs)]
        said.setdefault(verdict, []).append(depth)
    return ", ".join(f"{verdict} at depth {', '.join(at)}" for verdict, at in said.items())


def header(summary: Sequence[DepthGroup]) -> tuple[str, ...]:
    """Column names of the table."""
    depths = tuple(f"depth {depth}" for depth in _depths(summary))
    start = ("setting", "model", "N", "trained on", "parameters", "tokens", "FLOPs", "seeds n")
    return (*start, *depths, "seconds per run")


def _order(group: DepthGroup) -> tuple[Any, ...]:
    return (
        group["model"] != "hybrid",
        group["model"],
        group["update_rule"],
        list(TRAINED_ON).index(group["match"]),
        group["regime"],
        *by_budget(group),
    )


def lines(
    summary: Sequence[DepthGroup], order: Callable[[DepthGroup], tuple[Any, ...]] = _order
) -> list[list[str]]:
    """The table: a line of floors for each setting, then its groups."""
    table = []
    by_label: dict[str, list[DepthGroup]] = {}
    for group in summary:
        by_label.setdefault(group["label"], []).append(group)
    for label, groups in sorted(by_label.items()):
        table += [_line(group, summary) for group in sorted(groups, key=order)]
        floors = [f"{at['floor']:.3f}" for at in groups[0]["by_depth"].values()]
        table.append([label, "floor", *["-"] * 6, *floors, "-"])
    return table


def _depths(summary: Sequence[DepthGroup]) -> list[str]:
    return sorted({depth for group in summary for depth in group["by_depth"]}, key=int)


def _line(group: DepthGroup, summary: Sequence[DepthGroup]) -> list[str]:
    at = group["by_depth"]
    scores = [quote(at[d]["exact_accuracy"]) if d in at else "not asked" for d in _depths(summary)]
    return [
        group["label"],
        model_name(group),
        str(group["passes"]),
        trained_on(group),
        short(group["parameters"]),
        short(group["train_tokens"]),
        scientific(group["train_flops"]),
        str(len(group["seeds"])),
        *scores,
        f"{group['wall_seconds']:.0f}",
    ]
