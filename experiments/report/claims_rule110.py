"""Claims about Rule 110: the paper's Fig. 2, and what the same training FLOPs buy instead."""

from collections.abc import Callable

from experiments.report import published
from experiments.report.groups import (
    SPENT_ON,
    Group,
    all_depths,
    equal_compute,
    equal_tokens,
    headline,
    is_equal_compute,
)
from experiments.report.sources import Source
from experiments.report.verdicts import (
    Claim,
    Finding,
    Scored,
    Verdict,
    above,
    direction,
    few_and_one,
    not_run,
    size_of,
)

_EXPERIMENTS = ("cellular_automata",)
_NO_HYBRID = "a hybrid trained on equal tokens"
# An interval this far above the floor may still hide what a reader would call learning.
_CHANCE_MARGIN = 0.05


def _scored(group: Group, name: str | None = None) -> Scored:
    return Scored.of(name or f"N = {group['passes']}", group)


def _scale(source: Source, group: Group, *others: Group) -> str:
    depths = sorted({one["rollout_steps"] for one in (group, *others)})
    where = f"W = {group['width']}, t = {' to '.join(map(str, depths))}"
    return f"{where}, {size_of(source, group, *others)}"


def _is_paper_scale(group: Group, steps: int) -> bool:
    return (
        group["width"] >= published.RULE_110_WIDTH
        and group["rollout_steps"] >= steps
        and group["train_tokens"] >= published.RULE_110_TOKENS
        and group["parameters"] >= published.RULE_110_PARAMETERS
    )


def _by_passes(source: Source) -> dict[int, Group]:
    """The headline's hybrids on equal tokens, by N."""
    at = headline(source.summary)
    return {} if at is None else {g["passes"]: g for g in equal_tokens(source.summary, at)}


def _ends(source: Source) -> tuple[Group, Group] | str:
    """N = 1 and the largest N of the headline's setting, or what of them is missing."""
    groups = _by_passes(source)
    if 1 not in groups:
        return f"{_NO_HYBRID}, N = 1" if groups else _NO_HYBRID
    most = groups[max(groups)]
    return (groups[1], most) if most["passes"] > 1 else f"{_NO_HYBRID}, N > 1"


def more_passes(source: Source) -> Finding:
    """The largest N above N = 1."""
    ends = _ends(source)
    if isinstance(ends, str):
        return not_run(ends)
    one, most = ends
    holds = direction(_is_paper_scale(most, 32))
    return above(
        _scored(most), _scored(one), holds, Verdict.NOT_REPRODUCED, _scale(source, most, one)
    )


def each_pass(source: Source) -> Finding:
    """N = 2 above N = 1, and the largest N above N = 2."""
    groups = _by_passes(source)
    absent = [n for n in (1, 2) if n not in groups]
    if absent or max(groups) == 2:
        return not_run(f"{_NO_HYBRID}, N = {absent[0] if absent else 'more than 2'}")
    most = groups[max(groups)]
    scale = _scale(source, most, groups[1], groups[2])
    holds = direction(_is_paper_scale(most, 32))
    steps = [
        above(_scored(high), _scored(low), holds, Verdict.NOT_REPRODUCED, scale)
        for high, low in ((groups[2], groups[1]), (most, groups[2]))
    ]
    verdict = holds if all(step.verdict is holds for step in steps) else Verdict.NOT_REPRODUCED
    return Finding(verdict, ". ".join(step.numbers for step in steps), scale)


def collapse_with_depth(source: Source) -> Finding:
    """N = 1 at the shallowest t above N = 1 at the deepest, at one width and budget."""
    at = headline(source.summary)
    if at is None:
        return not_run(_NO_HYBRID)
    ones = [group for group in all_depths(source.summary, at) if group["passes"] == 1]
    ones.sort(key=lambda group: group["rollout_steps"])
    if len(ones) < 2:
        have = ", ".join(f"t = {group['rollout_steps']}" for group in ones) or "no t"
        return not_run(f"N = 1 at a second t ({have} has finished)")
    shallow, deep = ones[0], ones[-1]
    holds = direction(_is_paper_scale(deep, 16) and shallow["rollout_steps"] <= 4)
    first, second = (
        _scored(group, f"N = 1 at t = {group['rollout_steps']}") for group in (shallow, deep)
    )
    scale = _scale(source, deep, shallow)
    return above(first, second, holds, Verdict.NOT_REPRODUCED, scale)


def evicted_at_chance(source: Source) -> Finding:
    """The transformer without its cache: no more than chance, by an interval that says so."""
    found = [group for group in source.summary if group["model"] == "transformer_evicted"]
    if not found:
        return not_run("the transformer with evicted cache")
    group = max(found, key=lambda group: len(group["seeds"]))
    score = _scored(group, "transformer, evicted cache")
    high, floor = group["exact_accuracy"]["ci95"][1], group["floor"]
    if score.learned:
        verdict, why = Verdict.NOT_REPRODUCED, "the interval lies above the floor"
    elif high <= floor + _CHANCE_MARGIN:
        verdict = Verdict.REPRODUCED
        why = f"the interval ends within {_CHANCE_MARGIN} of the floor"
    else:
        verdict, why = Verdict.SAME_DIRECTION, "not clear of the floor, but the interval is wide"
    return Finding(verdict, f"{score}; floor {floor:.3f}: {why}", _scale(source, group))


def beats_full_cache(source: Source) -> Finding:
    """The largest N above a transformer that keeps its cache, on equal tokens."""
    ends = _ends(source)
    if isinstance(ends, str):
        return not_run(ends)
    most = ends[1]
    setting = ("rollout_steps", "width", "train_tokens")
    found = [
        group
        for group in source.summary
        if group["model"] == "transformer_full_cache"
        and all(group[key] == most[key] for key in setting)
    ]
    if not found:
        return not_run("the transformer with full cache")
    other = _scored(found[0], "transformer, full cache")
    scale = _scale(source, most, found[0])
    return above(_scored(most), other, Verdict.SHOWN, Verdict.NOT_SHOWN, scale)


def same_flops(match: str) -> Callable[[Source], Finding]:
    """The largest N above N = 1 that spent the same training FLOPs as `match` says."""

    def judge(source: Source) -> Finding:
        at = headline(source.summary)
        groups = _by_passes(source)
        if at is None or not groups or max(groups) == 1:
            return not_run(f"{_NO_HYBRID}, N > 1")
        most = groups[max(groups)]
        key = (1, match)
        matched = [g for g in equal_compute(source.summary, at) if (g["passes"], g["match"]) == key]
        what = f"N = 1 with the FLOPs of N = {most['passes']} on {SPENT_ON[match]}"
        if not matched:
            return not_run(what)
        if not is_equal_compute(matched[0], most):
            return not_run(f"{what} (what has run took other FLOPs)")
        other = _scored(matched[0], f"N = 1, {SPENT_ON[match]}")
        scale = f"{_scale(source, most, matched[0])}, {most['train_flops']:.2g} FLOPs"
        return above(_scored(most), other, Verdict.SHOWN, Verdict.NOT_SHOWN, scale)

    return judge


def few_passes_same_flops(source: Source) -> Finding:
    """The smallest N > 1 above N = 1, both with the FLOPs of the largest N spent on tokens."""
    at = headline(source.summary)
    found = few_and_one([] if at is None else equal_compute(source.summary, at))
    if isinstance(found, str):
        return not_run(found)
    few, one = found
    scale = f"{_scale(source, few, one)}, {few['train_flops']:.2g} FLOPs"
    first, second = _scored(few), _scored(one)
    return above(first, second, Verdict.SHOWN, Verdict.NOT_SHOWN, scale)


_APART = "95 % intervals over seeds apart"
CLAIMS = (
    Claim(
        "rule110-passes",
        "Rule 110 experiment, Fig. 2a",
        "On equal training tokens, more passes raise the exact accuracy.",
        f"The largest N above N = 1, {_APART} and the larger clear of the floor.",
        _EXPERIMENTS,
        more_passes,
        "EXP=cellular_automata",
    ),
    Claim(
        "rule110-each-pass",
        "Rule 110 experiment, Fig. 2a",
        "Each of the first passes adds: N = 2 is above N = 1, and larger N above N = 2.",
        f"Both steps with {_APART}.",
        _EXPERIMENTS,
        each_pass,
        "EXP=cellular_automata",
    ),
    Claim(
        "rule110-depth",
        "Rule 110 experiment, Fig. 2b",
        "At a fixed width, so with the same amount to remember, one pass collapses as the rollout "
        "steps t grow.",
        f"N = 1 at the smallest t above N = 1 at the largest t of the same sweep, {_APART}.",
        _EXPERIMENTS,
        collapse_with_depth,
        "EXP=cellular_automata at several t",
    ),
    Claim(
        "rule110-evicted",
        "Rule 110 experiment, Fig. 2",
        "A transformer whose cache is evicted cannot beat chance.",
        "Its interval is not above the best constant answer and ends within "
        f"{_CHANCE_MARGIN} of it; not reproduced if it lies above. The claim depends on no scale.",
        _EXPERIMENTS,
        evicted_at_chance,
        "EXP=cellular_automata",
    ),
)
OUR_CLAIMS = (
    *(
        Claim(
            f"rule110-against-{spent.split()[1]}",
            "ours; the paper has no compute-matched baseline",
            f"On Rule 110, passes are a better use of training FLOPs than {spent} for one pass.",
            "The largest N above N = 1 whose training FLOPs are the same within 5 %, "
            f"{_APART} and the larger clear of the floor.",
            _EXPERIMENTS,
            same_flops(match),
            'EXP=cellular_automata ARGS="--match=flops"',
        )
        for match, spent in SPENT_ON.items()
    ),
    Claim(
        "rule110-few-passes",
        "ours; the paper has no compute-matched baseline",
        "On Rule 110, a few passes are a better use of training FLOPs than one, each trained on as "
        "many tokens as the FLOPs of the largest N buy it.",
        f"The smallest N > 1 that was so trained above N = 1, {_APART} and the larger clear of the "
        "floor.",
        _EXPERIMENTS,
        few_passes_same_flops,
        "EXP=cellular_automata",
    ),
    Claim(
        "rule110-full-cache",
        "ours; the paper has no transformer that keeps its cache",
        "On Rule 110 and equal tokens, a hybrid that sleeps is above a transformer that keeps its "
        "whole cache.",
        f"The largest N above the transformer, {_APART} and the larger clear of the floor.",
        _EXPERIMENTS,
        beats_full_cache,
        "EXP=cellular_automata",
    ),
)
