"""Whether one pass stops somewhere for good: the question of what training FLOPs cannot buy it."""

from collections.abc import Sequence

from experiments.report.claims_depth_cost import EXPERIMENTS, HOW, against_one_pass, scale
from experiments.report.depth_cost import DepthCost, name
from experiments.report.needed import less
from experiments.report.sources import Source
from experiments.report.summary import Row, mean
from experiments.report.verdicts import Claim, Finding, Verdict, not_run

_STANDS = 0.02  # a rise that is not called one


def one_pass_stops(source: Source) -> Finding:
    """At some depth a few passes learn, all seeds, what no seed of one pass does or gets nearer."""
    found = against_one_pass(source)
    if not found:
        return not_run("N = 1 and a larger N at one depth, two seeds each")
    beyond = [(one, few) for one, few in found if less(few, one) and not any(one["reached"])]
    if not beyond:
        said = "; ".join(f"{one['at']}: {_learned(one)}, {_learned(few)}" for one, few in found)
        return Finding(Verdict.NOT_SHOWN, said, scale(source, found))
    rises = [_rises(source, one) for one, _ in beyond]
    stands = any(all(rise is not None and rise <= _STANDS for rise in at) for at in rises)
    said = "; ".join(
        f"{one['at']}: {_learned(one)}, {_learned(few)}; in its last quarter N = 1 rose by "
        + " ".join("a depth (or unseen)" if rise is None else f"{rise:.3f}" for rise in at)
        for (one, few), at in zip(beyond, rises, strict=True)
    )
    verdict = Verdict.SHOWN if stands else Verdict.NOT_SHOWN
    return Finding(verdict, said, scale(source, beyond))


def _learned(group: DepthCost) -> str:
    return f"{name(group)} {sum(group['reached'])} of {len(group['reached'])}"


def _rises(source: Source, group: DepthCost) -> list[float | None]:
    """Of every seed of the group, how much nearer it still got."""
    keys = ("update_rule", "match", "regime", "passes", "parameters", "budget_flops")
    rows = [row for row in source.rows if all(row[key] == group[key] for key in keys)]
    if source.experiment != "rollout_ladder":  # whose runs are of all depths
        depths = ("rollout_steps", "max_hops")
        rows = [row for row in rows if group["depth"] in map(row.get, depths)]
    return [rise(row["curve"], row["budget_flops"]) for row in rows]


def rise(curve: Sequence[Row], budget: float) -> float | None:
    """Exact accuracy in the last quarter of the FLOPs less that in the quarter before.

    Means over evaluations of unseen sequences. None if the run went on to another depth in the
    meantime, or was not evaluated in both.
    """
    before, last = (
        [point for point in curve if low < point["train_flops"] / budget <= low + 0.25]
        for low in (0.5, 0.75)
    )
    if not before or not last or len({point.get("rung") for point in before + last}) > 1:
        return None
    first, second = (mean([_exact(point) for point in some]) for some in (before, last))
    return second - first


def _exact(point: Row) -> float:
    """At the greatest depth, where an evaluation has several."""
    depths = point.get("by_depth")
    return (depths[max(depths, key=int)] if depths else point)["exact_accuracy"]


CLAIMS = ()
OUR_CLAIMS = (
    Claim(
        "one-pass-stops",
        "ours; the paper shows one pass at the floor after a fixed number of tokens",
        "There is a depth that a few passes learn and one pass does not, whatever its tokens.",
        "At some depth every seed of the smallest N > 1 learns and none of N = 1 with the same "
        "FLOPs, apart, and in no seed of N = 1 is the mean accuracy of the last quarter of its "
        f"FLOPs more than {_STANDS} above that of the quarter before, nor did it go on to a depth.",
        EXPERIMENTS,
        one_pass_stops,
        HOW,
    ),
)
