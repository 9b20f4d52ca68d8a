"""Claims about what each N takes to learn a depth, which the paper never asked."""

from collections.abc import Sequence

from experiments.report.depth_cost import DepthCost, compared, name, setting
from experiments.report.groups import short
from experiments.report.needed import below, less, quote, ratio
from experiments.report.sources import Source
from experiments.report.verdicts import Claim, Finding, Verdict, not_run
from experiments.report.words import scientific

EXPERIMENTS = ("cost_of_depth", "cost_of_depth_depo", "rollout_ladder")
HOW = "EXP=cost_of_depth, cost_of_depth_depo or rollout_ladder"
_APART = "apart"


def against_one_pass(source: Source, largest: bool = False) -> list[tuple[DepthCost, DepthCost]]:
    """N = 1 and one larger N, the same at every depth, where both have seeds for an interval.

    Of the setting with most depths. The larger N is the smallest there is, or the largest if there
    are several.
    """
    settings: dict[object, list[list[DepthCost]]] = {}
    for groups in compared(source.summary):
        tested = [group for group in groups if len(group["seeds"]) > 1]
        if len(tested) > 1 and tested[0]["passes"] == 1:
            settings.setdefault(setting(groups[0]), []).append(tested)
    chosen = max(settings.values(), key=len, default=[])
    larger = sorted({group["passes"] for groups in chosen for group in groups[1:]})
    if not larger or (largest and len(larger) < 2):
        return []
    n = larger[-1] if largest else larger[0]
    return [(groups[0], group) for groups in chosen for group in groups if group["passes"] == n]


def scale(source: Source, pairs: Sequence[tuple[DepthCost, DepthCost]]) -> str:
    """At which depths, of what model, with how many seeds a verdict falls."""
    depths = ", ".join(one["at"] for one, _ in pairs)
    one = pairs[0][0]
    seeds = min(len(group["seeds"]) for pair in pairs for group in pair)
    splits = " and ".join(sorted({row["evaluation_split"] for row in source.rows}))
    return (
        f"{depths}, {one['size']}, {one['blocks']} blocks, {short(one['parameters'])} parameters, "
        f"to {one['target_accuracy']:g} with at most {scientific(one['budget_flops'])} FLOPs a "
        f"run, {splits} split, {seeds} seeds or more"
    )


def few_passes(source: Source) -> Finding:
    """At some depth the smallest N > 1 takes less, and at none more."""
    return _compared(source, against_one_pass(source), cheaper=1)


def many_passes(source: Source) -> Finding:
    """At some depth the largest N takes more than N = 1, and at none less."""
    return _compared(source, against_one_pass(source, largest=True), cheaper=0)


def _compared(
    source: Source, pairs: Sequence[tuple[DepthCost, DepthCost]], cheaper: int
) -> Finding:
    """Whether of each pair the one at `cheaper` takes less, as is claimed."""
    if not pairs:
        return not_run("N = 1 and a larger N at one depth, two seeds each")
    true = [less(pair[cheaper], pair[1 - cheaper]) for pair in pairs]
    wrong = [less(pair[1 - cheaper], pair[cheaper]) for pair in pairs]
    said = "; ".join(
        f"{one['at']}: {_need(one)}, {_need(more)}{_words(*apart)}"
        for (one, more), *apart in zip(pairs, true, wrong, strict=True)
    )
    verdict = Verdict.SHOWN if any(true) and not any(wrong) else Verdict.NOT_SHOWN
    return Finding(verdict, said, scale(source, pairs))


def _need(group: DepthCost) -> str:
    return f"{name(group)} {quote(group)}"


def _words(true: bool, wrong: bool) -> str:
    return f", {_APART}" + ", the other way round" * wrong if true or wrong else ""


def falls_behind(source: Source) -> Finding:
    """The FLOPs of N = 1 over those of the smallest N > 1, at the least depth and the greatest."""
    pairs = [
        pair for pair in against_one_pass(source) if all(all(group["reached"]) for group in pair)
    ]
    if len(pairs) < 2:
        return not_run("N = 1 and a larger N, two seeds each, that all learned two depths")
    first, last = (ratio(one, few) for one, few in (pairs[0], pairs[-1]))
    said = "; ".join(
        f"{one['at']}: {ratio(one, few)['mean']:.2f} times {name(few)}" for one, few in pairs
    )
    verdict = Verdict.SHOWN if below(first, last) else Verdict.NOT_SHOWN
    return Finding(verdict, said, scale(source, pairs))


CLAIMS = ()
OUR_CLAIMS = (
    Claim(
        "depth-few-passes",
        "ours; the paper trains to a fixed number of tokens",
        "A few passes learn a depth with fewer training FLOPs than one pass.",
        f"The smallest N > 1 takes less than N = 1 to the target accuracy at some depth, {_APART}, "
        "and at none more.",
        EXPERIMENTS,
        few_passes,
        HOW,
    ),
    Claim(
        "depth-many-passes",
        "ours; the paper trains to a fixed number of tokens",
        "Many passes take more training FLOPs than one pass to learn a depth.",
        f"The largest N takes more than N = 1 to the target accuracy at some depth, {_APART}, and "
        "at none less.",
        EXPERIMENTS,
        many_passes,
        HOW,
    ),
    Claim(
        "depth-falls-behind",
        "ours; the paper trains to a fixed number of tokens",
        "The deeper, the further one pass falls behind: its FLOPs grow faster with depth.",
        "The FLOPs of N = 1 over those of the smallest N > 1 are more at the greatest depth than "
        f"at the least, {_APART}.",
        EXPERIMENTS,
        falls_behind,
        f"{HOW} at several depths",
    ),
)
