"""The report of Rule 110: one depth a run, so one line a depth in the table."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from experiments.report.groups import SPENT_ON, Group, Interval, by_budget, short
from experiments.report.summary import Row, check_scores, group_rows, interval, mean
from experiments.report.words import TRAINED_ON, model_name, quote, scientific, trained_on

KEY = (
    "model",
    "update_rule",
    "passes",
    "rollout_steps",
    "width",
    "match",
    "regime",
    "train_tokens",
)
HEADER = (
    "model",
    "N",
    "t",
    "W",
    "trained on",
    "parameters",
    "training tokens",
    "training FLOPs",
    "seeds n",
    "exact accuracy [95%]",
    "label accuracy",
    "floor, exact / label",
    "seconds per run",
)


def summarise(rows: Iterable[Row]) -> list[Group]:
    """One group a setting, over its seeds; a failed score is an error that names the cell."""
    rows = list(rows)
    for row in rows:
        check_scores(row)
    return [_group(found) for found in group_rows(rows, KEY)]


def _group(rows: list[Row]) -> Group:
    first = rows[0]
    values = [float(row["exact_accuracy"]) for row in rows]
    group: Group = {
        "model": first["model"],
        "update_rule": first["update_rule"],
        "passes": first["passes"],
        "rollout_steps": first["rollout_steps"],
        "width": first["width"],
        "match": first["match"],
        "regime": first["regime"],
        "train_tokens": first["train_tokens"],
        "train_flops": first["train_flops"],
        "parameters": first["parameters"],
        "exact_accuracy": interval(values, first["evaluation_sequences"]),
        "label_accuracy": mean([row["label_accuracy"] for row in rows]),
        "floor": mean([row["floor"] for row in rows]),
        "label_floor": mean([row["label_floor"] for row in rows]),
        "wall_seconds": mean([row["wall_seconds"] for row in rows]),
        "seeds": [row["seed"] for row in rows],
        "values": values,
    }
    if by_position := _by_position(rows):
        group["by_position"] = by_position
    return group


def _by_position(rows: Sequence[Row]) -> list[Interval]:
    """Labels right at each position of the prediction window; none where a row has none."""
    name, sequences = "label_accuracy_by_position", rows[0]["evaluation_sequences"]
    if not all(name in row for row in rows):
        return []
    return [
        interval([row[name][position] for row in rows], sequences) for position in rows[0][name]
    ]


def _order(group: Group) -> tuple[Any, ...]:
    """By depth; inside it hybrids on equal tokens, hybrids on equal compute, baselines."""
    block = 2 if group["model"] != "hybrid" else int(group["match"] in SPENT_ON)
    return (
        group["rollout_steps"],
        group["width"],
        block,
        group["model"],
        group["update_rule"],
        list(TRAINED_ON).index(group["match"]),
        group["regime"],
        *by_budget(group),
    )


def lines(
    summary: Iterable[Group], order: Callable[[Group], tuple[Any, ...]] = _order
) -> list[list[str]]:
    """The lines of the table under `HEADER`."""
    return [_line(group) for group in sorted(summary, key=order)]


def by_string(
    summary: Iterable[Group], order: Callable[[Group], tuple[Any, ...]] = _order
) -> list[tuple[str, Sequence[str], list[list[str]]]]:
    """Title, header and lines of a table of the labels right by string, if any group has them.

    Position k asks for string k, so the first column is the oldest memory.
    """
    found = sorted((group for group in summary if "by_position" in group), key=order)
    if not found:
        return []
    strings = range(1, 1 + max(len(group["by_position"]) for group in found))
    header = ("model", "N", "t", "trained on", *(f"string {k}" for k in strings))
    lines = [
        [
            model_name(group),
            str(group["passes"]),
            str(group["rollout_steps"]),
            trained_on(group),
            *map(quote, group["by_position"]),
        ]
        for group in found
    ]
    return [("Labels right by string, the first one read to the last", header, lines)]


def _line(group: Group) -> list[str]:
    score = group["exact_accuracy"]
    return [
        model_name(group),
        str(group["passes"]),
        str(group["rollout_steps"]),
        str(group["width"]),
        trained_on(group),
        short(group["parameters"]),
        short(group["train_tokens"]),
        scientific(group["train_flops"]),
        str(score["n"]),
        quote(score),
        f"{group['label_accuracy']:.3f}",
        f"{group['floor']:.3f} / {group['label_floor']:.3f}",
        f"{group['wall_seconds']:.0f}",
    ]
