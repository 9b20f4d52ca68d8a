"""FLOPs until something was learned, over seeds: their mean, its interval, and what is apart.

FLOPs are compared as logarithms, so means are geometric. A run is only seen at its evaluations, so
an interval begins where it would if every seed had got there right after the evaluation before. A
run that spent its budget in vain took more than that: the budget stands in for it, the mean is then
a lower limit, and there is no interval. One that had learned when it was first looked at took at
most so much: the mean is an upper limit, and there is no interval either.
"""

import math
from collections.abc import Callable, Sequence
from typing import TypedDict

from experiments.report.summary import mean, student_t_half
from experiments.report.words import scientific

INTERVALS = (
    "Student t over the logarithms of seeds, so means are geometric, and longer below by the way "
    "back to the evaluation before, at which the target was not reached; where a seed did not "
    "reach it at all, what it was allowed stands in for it, marked >, and there is no interval, "
    "nor is there one of one seed, nor where a seed was there when first looked at, marked < (~ if "
    "both). Apart are two whose intervals do not overlap or, without them, all of whose seeds lie "
    "apart (exact rank test, .05)"
)
# Budgets end at whole steps, so those of two N differ by less than this: what took all of the one
# did not take less than what the other was not enough for.
_ONE_LIMIT = 0.99


class Need(TypedDict):
    """A geometric mean over seeds with its 95% interval; None where there is none."""

    mean: float
    ci95: list[float] | None


class Taken(TypedDict):
    """What the seeds of one kind of run took: `flops` until it was `reached`, or spent in vain.

    `flops_before` are those of the last evaluation before that, 0 where there was none.
    """

    reached: list[bool]
    flops: list[int]
    flops_before: list[int]
    needed_flops: Need


def need(counts: Sequence[int], before: Sequence[int], reached: Sequence[bool]) -> Need:
    """Of what each seed took, and had taken at the evaluation before."""
    logs = [math.log(count) for count in counts]
    ci95 = None
    if len(logs) > 1 and all(reached) and all(before):
        least = [math.log(count) for count in before]
        low, high = mean(least) - student_t_half(least), mean(logs) + student_t_half(logs)
        ci95 = [math.exp(low), math.exp(high)]
    return {"mean": math.exp(mean(logs)), "ci95": ci95}


def taken(reached: Sequence[bool], flops: Sequence[int], flops_before: Sequence[int]) -> Taken:
    """The mean beside what it is of."""
    return {
        "reached": list(reached),
        "flops": list(flops),
        "flops_before": list(flops_before),
        "needed_flops": need(flops, flops_before, reached),
    }


def less(first: Taken, second: Taken) -> bool:
    """Whether the first takes fewer FLOPs, the two apart.

    Their intervals do not overlap; or where one has none, because not every seed got there, every
    seed of the first took less than any of the second, which of so many seeds is not chance (the
    exact rank test, two-sided; a budget not enough is more than what was enough for another, unless
    that was all of it; what was there when first looked at may have taken nothing).
    """
    one, two = first["needed_flops"], second["needed_flops"]
    if one["ci95"] and two["ci95"]:
        return below(one, two)
    orders = math.comb(len(first["flops"]) + len(second["flops"]), len(first["flops"]))
    least = (
        flops if before else 0
        for flops, before in zip(second["flops"], second["flops_before"], strict=True)
    )
    parted = all(first["reached"]) and max(first["flops"]) < min(least) * _ONE_LIMIT
    return parted and 2 / orders < 0.05


def below(first: Need, second: Need) -> bool:
    """Whether both have intervals, and the first's lies below the second's."""
    if first["ci95"] is None or second["ci95"] is None:
        return False
    return first["ci95"][1] < second["ci95"][0]


def ratio(first: Taken, second: Taken) -> Need:
    """FLOPs of the first over those of the second, the interval made of both (MOVER, of logs)."""
    one, two = first["needed_flops"], second["needed_flops"]
    centre, ci95 = one["mean"] / two["mean"], None
    if one["ci95"] and two["ci95"]:
        (down, up), (other_down, other_up) = (
            [abs(math.log(limit / need["mean"])) for limit in need["ci95"] or ()]
            for need in (one, two)
        )
        low, high = math.hypot(down, other_up), math.hypot(up, other_down)
        ci95 = [centre * math.exp(-low), centre * math.exp(high)]
    return {"mean": centre, "ci95": ci95}


def limit_sign(one: Taken) -> str:
    """`> ` where a seed did not get there, `< ` where one was there when first looked at."""
    return {(False, False): "", (True, False): "> ", (False, True): "< ", (True, True): "~ "}[
        not all(one["reached"]), not all(one["flops_before"])
    ]


def quote(one: Taken, text: Callable[[float], str] = scientific) -> str:
    """Its FLOPs: `1.20e12 [8.00e11, 1.80e12]`, or as `text` has a number."""
    return limit_sign(one) + bracketed(one["needed_flops"], text)


def trillions(flops: float) -> str:
    """In 1e12, as tables that say so have them."""
    return f"{flops / 1e12:.2f}"


def bracketed(needed: Need, text: Callable[[float], str]) -> str:
    """The mean with its interval, where there is one, as `text` has a number."""
    if needed["ci95"] is None:
        return text(needed["mean"])
    return f"{text(needed['mean'])} [{', '.join(map(text, needed['ci95']))}]"
