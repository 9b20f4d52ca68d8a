"""What a group over seeds is, and which groups the conclusion and the figures are about."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NotRequired, TypedDict

# What a smaller N spent the FLOPs of the largest on, by the `match` of its rows.
SPENT_ON = {"flops": "more tokens", "flops_blocks": "more blocks", "flops_width": "more width"}
# A matched run stops at a whole step, so its FLOPs cannot be exactly those of the largest N.
_FLOPS_TOLERANCE = 0.05


class Interval(TypedDict):
    """A mean with its 95% interval and what that interval is taken over."""

    mean: float
    ci95: list[float]
    n: int
    ci95_over: str


class Group(TypedDict):
    """All seeds of one setting. `values` are the exact accuracies in the order of `seeds`."""

    model: str
    update_rule: str
    passes: int
    rollout_steps: int
    width: int
    match: str
    regime: str
    train_tokens: int
    train_flops: int
    parameters: int
    exact_accuracy: Interval
    label_accuracy: float
    floor: float
    label_floor: float
    wall_seconds: float
    seeds: list[int]
    values: list[float]
    by_position: NotRequired[list[Interval]]  # labels right; absent in results of older commits


class Headline(NamedTuple):
    """The setting that the conclusion and the training curves are about."""

    update_rule: str
    rollout_steps: int
    width: int
    regime: str
    train_tokens: int


def settings(summary: Sequence[Group]) -> dict[Headline, list[Group]]:
    """The hybrids trained on equal tokens, by what they share."""
    found: dict[Headline, list[Group]] = {}
    for group in summary:
        if group["model"] == "hybrid" and group["match"] == "tokens":
            found.setdefault(_setting(group), []).append(group)
    return found


def headline(summary: Sequence[Group]) -> Headline | None:
    """The setting with most seeds; ties go to most finished N, then to the deepest t."""
    found = settings(summary)
    if not found:
        return None

    def rank(setting: Headline) -> tuple[int, int, int, int, int]:
        groups = found[setting]
        seeds = len({seed for group in groups for seed in group["seeds"]})
        return (seeds, len(groups), setting.rollout_steps, setting.width, setting.train_tokens)

    return max(found, key=rank)


def equal_tokens(summary: Sequence[Group], at: Headline) -> list[Group]:
    """The hybrids trained on the headline's tokens, by ascending N."""
    return sorted(settings(summary).get(at, []), key=lambda group: group["passes"])


def all_depths(summary: Sequence[Group], at: Headline) -> list[Group]:
    """The hybrids trained on equal tokens that share all but the depth with the headline."""
    return [
        group
        for setting, groups in settings(summary).items()
        if setting._replace(rollout_steps=at.rollout_steps) == at
        for group in groups
    ]


def equal_compute(summary: Sequence[Group], at: Headline) -> list[Group]:
    """Smaller N with the FLOPs of the headline's largest, one a way to spend, by ascending N."""
    target = max((group["train_flops"] for group in equal_tokens(summary, at)), default=0)
    found: dict[tuple[int, str], list[Group]] = {}
    for group in summary:
        # Its tokens differ: that is what was matched away.
        if group["match"] in SPENT_ON and _setting(group)[:4] == at[:4]:
            found.setdefault((group["passes"], group["match"]), []).append(group)
    ways = list(SPENT_ON)
    return [
        min(found[key], key=lambda group: abs(group["train_flops"] - target))
        for key in sorted(found, key=lambda key: (key[0], ways.index(key[1])))
    ]


def by_budget(group: Mapping[str, Any]) -> tuple[int, int]:
    """Sorts by tokens, then N; with equal FLOPs by N, of which fewer buy more tokens."""
    tokens, passes = group["train_tokens"], group["passes"]
    return (passes, tokens) if group["match"] in SPENT_ON else (tokens, passes)


def is_equal_compute(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two groups took the same training FLOPs."""
    return abs(first["train_flops"] / second["train_flops"] - 1) <= _FLOPS_TOLERANCE


def short(count: int) -> str:
    """A count as text: 614400 is 0.61M."""
    for size, suffix in ((10**9, "B"), (10**6, "M")):
        if count >= size / 10:
            return f"{count / size:.2f}{suffix}"
    return f"{count / 1000:.1f}k"


def _setting(group: Group) -> Headline:
    return Headline(
        group["update_rule"],
        group["rollout_steps"],
        group["width"],
        group["regime"],
        group["train_tokens"],
    )
