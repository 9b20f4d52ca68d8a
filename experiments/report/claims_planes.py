"""Recoverable but Not Stationary (arXiv 2606.10929) at our scale: what planes are worth."""

from collections.abc import Callable, Sequence

from experiments.report.groups import Interval
from experiments.report.planes import (
    AFTER,
    ALL,
    FEW,
    LOCAL,
    PREFIX,
    RANDOM,
    STATIC,
    Plane,
    Recovered,
    is_main,
    plane,
    quote_mean,
    quote_share,
)
from experiments.report.sources import Source
from experiments.report.summary import Mean
from experiments.report.verdicts import Claim, Finding, Verdict, not_run
from experiments.report.words import quote, signed

_EXPERIMENTS = ("recovery",)
_PAPER = "Recoverable but Not Stationary, arXiv 2606.10929"
_MISSING = "recovery from fine-tuning, three seeds"
Judged = tuple[bool, str]  # whether it holds of a model, and its numbers


def few_directions(source: Source) -> Finding:
    """First updates capture most of the displacement, and more than gradients' plane."""

    def judge(group: Recovered) -> Judged:
        first, local = _planes(group, PREFIX, LOCAL)
        holds = first["captured"]["mean"] > 0.5 and _above(first["captured"], local["captured"])
        return holds, _beside(first["captured"], local["captured"])

    return _of_every_model(source, judge)


def beyond_the_prefix(source: Source) -> Finding:
    """The same of the displacement behind the first updates, without a lower limit."""

    def judge(group: Recovered) -> Judged:
        first, local = _planes(group, PREFIX, LOCAL)
        holds = _above(first["held_out"], local["held_out"])
        return holds, _beside(first["held_out"], local["held_out"])

    return _of_every_model(source, judge)


def static_misses(source: Source) -> Finding:
    """Recall in the plane from before the damage is below that in the plane of first updates."""
    return _recall(source, PREFIX, STATIC)


def static_above_lots(source: Source) -> Finding:
    """Recall in the plane from before the damage is above that in random planes."""
    return _recall(source, STATIC, RANDOM)


def drifts(source: Source) -> Finding:
    """Planes AFTER updates apart overlap less than planes at the same place."""

    def judge(group: Recovered) -> Judged:
        part = next(part for part in group["parts"] if part["name"] == ALL)
        drift = part["drift"]
        if drift is None or drift["half"] is None:
            return False, "not measured"
        centre, half = drift["mean"], drift["half"]
        return centre + half < 0, signed(centre, centre - half, centre + half)

    return _of_every_model(source, judge)


def more_than_a_cache(source: Source) -> Finding:
    """First updates capture less with one pass than with a cache that is kept."""
    groups = _groups(source)
    one = next((g for g in groups if not g["keeps_cache"] and g["passes"] == 1), None)
    cache = next((g for g in groups if g["keeps_cache"]), None)
    if one is None or cache is None:
        return not_run(f"{_MISSING}, of one pass and of the transformer that keeps its cache")
    fast, kept = (_planes(group, PREFIX)[0]["captured"] for group in (one, cache))
    numbers = f"one pass {quote_share(fast)}, cache kept {quote_share(kept)}"
    return _finding(_above(kept, fast), numbers, [one, cache])


def worth_more(source: Source) -> Finding:
    """Of lost recall gradients' plane brings back more than twice the share that it captures."""

    def judge(group: Recovered) -> Judged:
        (local,) = _planes(group, LOCAL)
        share, captured = local["share"], local["captured"]
        if share is None:
            return False, "recall was not found again"
        told = f"{quote_mean(share)} and {quote_share(captured)}"
        return share["mean"] > 2 * captured["mean"], told

    return _of_every_model(source, judge)


def _recall(source: Source, upper: str, lower: str) -> Finding:
    def judge(group: Recovered) -> Judged:
        scores: list[Interval] = []
        for at in _planes(group, upper, lower):
            assert at["recall"]
            scores.append(at["recall"])
        holds = scores[0]["ci95"][0] > scores[1]["ci95"][1]
        return holds, f"{quote(scores[0])} and {quote(scores[1])}"

    return _of_every_model(source, judge)


def _of_every_model(source: Source, judge: Callable[[Recovered], Judged]) -> Finding:
    groups = _groups(source)
    if not groups:
        return not_run(_MISSING)
    judged = [(group["model"], *judge(group)) for group in groups]
    numbers = "; ".join(f"{name}: {told}" for name, _, told in judged)
    return _finding(all(holds for _, holds, _ in judged), numbers, groups)


def _groups(source: Source) -> list[Recovered]:
    """The main recovery of each model, of the fewest pairs, with three seeds or more."""
    found = [group for group in source.summary if is_main(group) and len(group["seeds"]) >= 3]
    return [group for group in found if group["pairs"] == found[0]["pairs"]]


def _planes(group: Recovered, *names: str) -> list[Plane]:
    found = [plane(group, name) for name in names]
    return [at for at in found if at is not None]


def _above(one: Mean, other: Mean) -> bool:
    """Apart."""
    return one["mean"] - (one["half"] or 0.0) > other["mean"] + (other["half"] or 0.0)


def _beside(one: Mean, other: Mean) -> str:
    return f"{quote_share(one)} and {quote_share(other)}"


def _finding(holds: bool, numbers: str, groups: Sequence[Recovered]) -> Finding:
    sizes = sorted(group["parameters"] for group in groups)
    scale = (
        f"{groups[0]['pairs']} pairs, {sizes[0]} to {sizes[-1]} parameters, "
        f"{min(len(group['seeds']) for group in groups)} seeds"
    )
    return Finding(Verdict.SHOWN if holds else Verdict.NOT_SHOWN, numbers, scale)


def _claim(key: str, where: str, sentence: str, rule: str, judge: Callable[[Source], Finding]):
    return Claim(key, where, sentence, rule, _EXPERIMENTS, judge, "EXP=recovery")


_OURS = f"after {_PAPER}; the comparison is ours"
_EACH = ", of every model"
CLAIMS = ()
OUR_CLAIMS = (
    _claim(
        "recovery-in-few-directions",
        _PAPER,
        "A lost skill comes back within few directions, those of the first updates.",
        f"{FEW} first updates capture more than half of the displacement in the mean, and more "
        f"than {FEW} top gradients at the damaged model, apart{_EACH}.",
        few_directions,
    ),
    _claim(
        "first-updates-beyond-themselves",
        f"after {_PAPER}; the control is ours",
        "Directions of first updates are those of later ones too.",
        f"Of the displacement behind the first {FEW} updates they capture more than top gradients "
        f"at the damaged model, apart{_EACH}.",
        beyond_the_prefix,
    ),
    _claim(
        "static-planes-miss-recovery",
        _PAPER,
        "Directions from before the damage miss where recovery goes.",
        f"Recall trained in {FEW} top gradients from before is below recall trained in {FEW} first "
        f"updates, apart{_EACH}.",
        static_misses,
    ),
    _claim(
        "static-planes-above-lots",
        _OURS,
        "Directions from before the damage are better than random ones.",
        f"Recall trained in {FEW} top gradients from before is above recall trained in {FEW} "
        f"random directions, apart{_EACH}.",
        static_above_lots,
    ),
    _claim(
        "gradients-drift",
        _PAPER,
        "Directions of gradients move within a hundred updates.",
        f"Planes of {FEW} top gradients, at the damaged model and {AFTER} updates later, overlap "
        "less than planes at the same place from other batches: seed by seed, the interval of the "
        f"difference below 0{_EACH}.",
        drifts,
    ),
    _claim(
        "fast-weights-take-more-directions",
        _OURS,
        "What fast weights are used for comes back in more directions than what a cache is used "
        "for.",
        f"{FEW} first updates capture less of the displacement with one pass than with a "
        "transformer that keeps its cache, apart.",
        more_than_a_cache,
    ),
    _claim(
        "planes-are-worth-more-than-they-capture",
        _OURS,
        "A plane brings back more of a skill than it captures of the displacement.",
        f"In {FEW} top gradients at the damaged model recall comes back by more than twice the "
        f"share that they capture, in the mean{_EACH}.",
        worth_more,
    ),
)
