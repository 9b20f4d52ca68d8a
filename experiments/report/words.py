"""How settings and scores are called in tables and figures."""

import re
from collections.abc import Mapping
from typing import Any

from experiments.report.groups import SPENT_ON, Interval

TRAINED_ON = {"tokens": "equal tokens"} | {
    match: f"equal compute, {spent}" for match, spent in SPENT_ON.items()
}
AS_TRAINED = "as trained"  # of a reading: nothing changed
PLAIN = "plain"  # the regime of one depth and one N throughout
_MODELS = {
    "hybrid": "hybrid",
    "transformer_evicted": "transformer, evicted cache",
    "transformer_full_cache": "transformer, full cache",
    "lclm": "LCLM",
}
_WRITERS = {"prime_mlp": "gradient steps"}


def model_name(group: Mapping[str, Any]) -> str:
    """The model and its update rule."""
    name = _MODELS.get(group["model"]) or str(group["model"])
    if group["update_rule"] == "none":
        return name
    return f"{name}, {rule_name(group['update_rule'])}"


def rule_name(update_rule: str) -> str:
    """What writes the fast weights."""
    return _WRITERS.get(update_rule) or update_rule.replace("_", " ")


def trained_on(group: Mapping[str, Any]) -> str:
    """What was matched, and what was not done as usual."""
    matched = TRAINED_ON[group["match"]]
    return matched if group["regime"] == PLAIN else f"{matched}; {group['regime']}"


def series_name(group: Mapping[str, Any]) -> str:
    """A hybrid among hybrids, e.g. `N = 4` or `N = 1, more blocks`."""
    spent = SPENT_ON.get(group["match"])
    return f"N = {group['passes']}" + (f", {spent}" if spent else "")


def in_order(text: str) -> list[Any]:
    """Sorts by the numbers in a text as by numbers: "4 tokens" before "12 tokens"."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", text)]


def quote(score: Interval) -> str:
    """A mean with its interval."""
    low, high = score["ci95"]
    return f"{score['mean']:.3f} [{low:.3f}, {high:.3f}]"


def signed(mean: float, low: float, high: float) -> str:
    """A difference with its interval."""
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"


def scientific(count: float) -> str:
    """`1.60e12`."""
    return f"{count:.2e}".replace("e+", "e")
