"""What a results file must hold before anything is computed from it.

A file that was cut, edited or made by other code must end in one line that names it, not in a
traceback or, worse, in a page.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from experiments.report.files import ReportError
from experiments.report.words import TRAINED_ON

_NUMBER = (int, float)
_ROW: dict[str, Any] = {"cell": str, "seed": int}
_TRAINED: dict[str, Any] = _ROW | {
    "model": str,
    "update_rule": str,
    "passes": int,
    "match": str,
    "regime": str,
    "train_tokens": int,
    "train_flops": int,
    "parameters": int,
    "wall_seconds": _NUMBER,
    "evaluation_sequences": int,
    "evaluation_split": str,
    "curve": list,
    # None where a run diverged: summarising then names the score.
    **dict.fromkeys(
        ("exact_accuracy", "label_accuracy", "floor", "label_floor", "loss"), (*_NUMBER, type(None))
    ),
}
_AT_DEPTH: dict[str, Any] = {"exact_accuracy": _NUMBER, "loss": _NUMBER, "floor": _NUMBER} | {
    "answers": int
}
_TIMES: dict[str, Any] = dict.fromkeys(("seconds", "lower_quartile", "upper_quartile"), _NUMBER)
_COST: dict[str, dict[str, Any]] = {
    "awake_by_context": _TIMES | {"model": str, "context": int, "state_bytes": int},
    "awake_by_passes": _TIMES | {"model": str, "passes": int},
    "sleep": _TIMES | {"model": str, "passes": int},
    "training": _TIMES | {"passes": int, "tokens_per_second": _NUMBER, "temporary_bytes": int},
}
# What the notes under the tables of measured times name, and under which key it stands.
_COST_SETTING: dict[str, dict[str, Any]] = {
    "": {"config": dict, "device": dict, "versions": dict, "load_average_before": _NUMBER},
    "device": dict.fromkeys(("platform", "kind", "host"), str),
    "config": {"run": dict, "window": int, "rounds": int},
    "config.run": dict.fromkeys(("model", "task", "train", "sleep"), dict),
    "config.run.model": {"pattern": list, "d_model": int},
    "config.run.task": {"strings": int, "window": int},
    "config.run.train": {"batch_size": int},
    "config.run.sleep": {"remat": str},
}

ANY_FIELDS = _ROW
RULE_110_FIELDS = _TRAINED | {"rollout_steps": int, "width": int}
ELASTIC_FIELDS = RULE_110_FIELDS | {"accuracy_by_passes": dict, "halting": list}
DEPTH_COST_FIELDS = _TRAINED | {
    "target_accuracy": _NUMBER,
    "reached": bool,
    "budget_flops": int,
    "blocks": int,
}
# The curve of a run that climbs says on which rung it was.
ON_LADDER: dict[str, Any] = {"rung": int, "learned": bool, "floor": _NUMBER, "step": int} | {
    "train_tokens": int,
    "train_flops": int,
    "exact_accuracy": _NUMBER,
    "label_accuracy": _NUMBER,
}
DEPTH_FIELDS = _TRAINED | {"label": str, "by_depth": dict}
RESULT_FIELDS: dict[str, Any] = {"experiment": str, "preset": str, "commit": str}


def fields(value: Mapping[str, Any], wanted: Mapping[str, Any], place: str) -> None:
    """Raises ReportError if `value` lacks one of `wanted` or holds another type there."""
    absent = [name for name in wanted if name not in value]
    if absent:
        raise ReportError(f"{place} lacks {', '.join(absent)}")
    for name, types in wanted.items():
        is_flag = isinstance(value[name], bool)  # which Python counts as a whole number
        if not isinstance(value[name], types) or is_flag != (types is bool):
            raise ReportError(f"{place}: {name} is {value[name]!r}")


def rows(
    found: Iterable[Any],
    wanted: Mapping[str, Any],
    place: str,
    in_curve: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """The same for all rows of a results file or a sweep, which `place` names.

    Args:
      in_curve: what every point of a row's curve must hold.
    """
    for number, row in enumerate(found):
        if not isinstance(row, dict):
            raise ReportError(f"{place}: row {number} is {row!r}")
        at = f"{place}: row {row.get('cell', number)}"
        fields(row, wanted, at)
        if "match" in wanted and row["match"] not in TRAINED_ON:
            allowed = ", ".join(TRAINED_ON)
            raise ReportError(f"{at}: match is {row['match']!r}; known: {allowed}")
        if (by_position := row.get("label_accuracy_by_position")) is not None:
            if not isinstance(by_position, dict) or not by_position:
                raise ReportError(f"{at}: label_accuracy_by_position is {by_position!r}")
            wanted_there = dict.fromkeys(by_position, _NUMBER)
            fields(by_position, wanted_there, f"{at}: label_accuracy_by_position")
        for point in row["curve"] if in_curve else ():
            if not isinstance(point, dict):
                raise ReportError(f"{at}: curve holds {point!r}")
            fields(point, in_curve, f"{at}: curve")
        for depth, scores in row["by_depth"].items() if "by_depth" in wanted else ():
            if not depth.isdigit() or not isinstance(scores, dict):
                raise ReportError(f"{at}: by_depth holds {depth!r}: {scores!r}")
            fields(scores, _AT_DEPTH, f"{at}, depth {depth}")


def cost(results: Mapping[str, Any], place: str) -> None:
    """The four tables of measured times, and the setting that they were measured at."""
    for key, wanted in _COST_SETTING.items():
        value: Any = results
        for name in filter(None, key.split(".")):
            value = value[name]
        fields(value, wanted, f"{place}: {key}" if key else place)
    for name, wanted in _COST.items():
        table = results.get(name)
        if not isinstance(table, list) or not table:
            raise ReportError(f"{place}: {name} is not a list of measurements")
        for number, row in enumerate(table):
            if not isinstance(row, dict):
                raise ReportError(f"{place}: {name} {number} is {row!r}")
            fields(row, wanted, f"{place}: {name} {number}")
