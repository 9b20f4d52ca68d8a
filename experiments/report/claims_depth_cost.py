"""Claims about what each N takes to learn a depth, which the paper never asked."""

from collections.abc import Sequence

from experiments.report.depth_cost import DepthCost, by_depth, less, name, quote, ratio
from experiments.report.groups import short
from experiments.report.sources import Source
from experiments.report.verdicts import Claim, Finding, Verdict, not_run
from experiments.report.words import scientific

_EXPERIMENTS = ("cost_of_depth",)
_APART = "intervals apart"


def _pairs(source: Source) -> list[tuple[DepthCost, DepthCost]]:
    """N = 1 and the smallest larger N, where both have seeds enough for an interval."""
    found = []
    for groups in by_depth(source.summary).values():
        one, others = groups[0], groups[1:]
        if one["passes"] == 1 and others and min(len(g["seeds"]) for g in (one, others[0])) > 1:
            found.append((one, others[0]))
    return found


def _scale(source: Source, pairs: Sequence[tuple[DepthCost, DepthCost]]) -> str:
    depths = ", ".join(str(one["rollout_steps"]) for one, _ in pairs)
    one = pairs[0][0]
    seeds = min(len(group["seeds"]) for pair in pairs for group in pair)
    return (
        f"t = {depths}, W = {one['width']}, {source.row_of(one)['blocks']} blocks, "
        f"{short(one['parameters'])} parameters, at most {scientific(one['budget_flops'])} FLOPs a "
        f"run, {seeds} seeds or more"
    )


def few_passes(source: Source) -> Finding:
    """At some depth the smallest N > 1 takes less, and at none more."""
    pairs = _pairs(source)
    if not pairs:
        return not_run("N = 1 and a larger N at one depth, two seeds each")
    cheaper = [less(few["needed_flops"], one["needed_flops"]) for one, few in pairs]
    dearer = [less(one["needed_flops"], few["needed_flops"]) for one, few in pairs]
    said = "; ".join(
        f"t = {one['rollout_steps']}: {_need(one)}, {_need(few)}{_words(low, high)}"
        for (one, few), low, high in zip(pairs, cheaper, dearer, strict=True)
    )
    verdict = Verdict.SHOWN if any(cheaper) and not any(dearer) else Verdict.NOT_SHOWN
    return Finding(verdict, said, _scale(source, pairs))


def _need(group: DepthCost) -> str:
    return f"{name(group)} {quote(group)}"


def _words(cheaper: bool, dearer: bool) -> str:
    return f", {_APART}" + ", the other way round" * dearer if cheaper or dearer else ""


def falls_behind(source: Source) -> Finding:
    """The FLOPs of N = 1 over those of the smallest N > 1, at the least depth and the greatest."""
    pairs = _pairs(source)
    if len(pairs) < 2:
        return not_run("N = 1 and a larger N at two depths, two seeds each")
    first, last = (ratio(one, few) for one, few in (pairs[0], pairs[-1]))
    said = "; ".join(
        f"t = {one['rollout_steps']}: {ratio(one, few)['mean']:.2f} times" for one, few in pairs
    )
    verdict = Verdict.SHOWN if less(first, last) else Verdict.NOT_SHOWN
    return Finding(verdict, said, _scale(source, pairs))


CLAIMS = ()
OUR_CLAIMS = (
    Claim(
        "depth-few-passes",
        "ours; the paper trains to a fixed number of tokens",
        "A few passes learn a depth of Rule 110 with fewer training FLOPs than one pass.",
        f"The smallest N > 1 takes less than N = 1 to the target accuracy at some depth, {_APART}, "
        "and at none more.",
        _EXPERIMENTS,
        few_passes,
        "EXP=cost_of_depth",
    ),
    Claim(
        "depth-falls-behind",
        "ours; the paper trains to a fixed number of tokens",
        "The deeper, the further one pass falls behind: its FLOPs grow faster with depth.",
        "The FLOPs of N = 1 over those of the smallest N > 1 are more at the greatest depth than "
        f"at the least, {_APART}.",
        _EXPERIMENTS,
        falls_behind,
        "EXP=cost_of_depth at several t",
    ),
)
