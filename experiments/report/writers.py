"""What the report of `EXP=ttt_e2e` adds to `depth_cost`: one way to write beside the other."""

from collections.abc import Sequence

from experiments.report import depth_cost
from experiments.report.depth_cost import DepthCost, compared, name
from experiments.report.needed import Taken, bracketed, less, ratio


def conclude(summary: Sequence[DepthCost]) -> str:
    """The conclusion of `depth_cost`, and before its caution the writers compared."""
    return depth_cost.conclude(summary, _beside(summary))


def _beside(summary: Sequence[DepthCost]) -> list[str]:
    """Of each two groups of one N, depth and budget that are written differently, by depth."""
    groups = [group for groups in compared(summary) for group in groups]
    return [
        sentence
        for i, one in enumerate(groups)
        for other in groups[i + 1 :]
        if one["update_rule"] != other["update_rule"] and depth_cost.same_but_for_rule(one, other)
        for sentence in sentences(one, other)
    ]


def sentences(one: DepthCost, other: DepthCost) -> list[str]:
    """What the one takes beside the other, at their depth and at the easier ones on the way."""
    names = name(one), name(other)
    return [_sentence(one, other, f"At {one['at']} {names[0]}", names[1])] + [
        _sentence(easy, its, f"At {easy['at']}, on the way, {names[0]}", names[1])
        for easy, its in zip(one["easier"], other["easier"], strict=True)
    ]


def _sentence(one: Taken, other: Taken, first: str, second: str) -> str:
    apart = "less" * less(one, other) + "more" * less(other, one)
    if all(one["reached"]) and all(other["reached"]):
        times = bracketed(ratio(one, other), lambda value: f"{value:.2f}")
        words = "apart" if apart else "not apart"
        return f"{first} takes {times} times what {second} takes, {words}."
    if apart:
        return f"{first} takes {apart} than {second}, apart."
    return f"{first} and {second} are not apart."
