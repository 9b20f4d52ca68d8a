"""What the report of `EXP=ttt_e2e` adds to `depth_cost`: one way to write beside the other."""

from collections.abc import Sequence

from experiments.report import depth_cost
from experiments.report.depth_cost import DepthCost, bracketed, compared, less, name, ratio


def conclude(summary: Sequence[DepthCost]) -> str:
    """The conclusion of `depth_cost`, and before its caution the writers compared."""
    return depth_cost.conclude(summary, _beside(summary))


def _beside(summary: Sequence[DepthCost]) -> list[str]:
    """A sentence for each two groups of one N, depth and budget that are written differently."""
    groups = [group for groups in compared(summary) for group in groups]
    return [
        _sentence(one, other)
        for i, one in enumerate(groups)
        for other in groups[i + 1 :]
        if one["update_rule"] != other["update_rule"] and depth_cost.same_but_for_rule(one, other)
    ]


def _sentence(one: DepthCost, other: DepthCost) -> str:
    first, at, second = name(one), one["at"], name(other)
    apart = "less" * less(one, other) + "more" * less(other, one)
    if all(one["reached"]) and all(other["reached"]):
        times = bracketed(ratio(one, other), lambda value: f"{value:.2f}")
        words = "apart" if apart else "not apart"
        return f"At {at} {first} takes {times} times what {second} takes, {words}."
    if apart:
        return f"At {at} {first} takes {apart} than {second}, apart."
    return f"At {at} {first} and {second} are not apart."
