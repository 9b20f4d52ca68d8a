"""Claims about tasks whose answers differ in depth: Depo (Fig. 3) and GSM-Infinite (its table)."""

from collections.abc import Callable, Sequence

from experiments.report import published
from experiments.report.depths import AtDepth, DepthGroup, headline
from experiments.report.groups import SPENT_ON, is_equal_compute
from experiments.report.sources import Source
from experiments.report.verdicts import (
    Claim,
    Finding,
    Scored,
    Verdict,
    direction,
    few_and_one,
    not_run,
    size_of,
)

_DEPO, _GSM = ("depo",), ("gsm_infinite",)
_NO_HYBRID = "a hybrid trained on equal tokens"


def _scale(source: Source, group: DepthGroup, *others: DepthGroup) -> str:
    return f"{group['label']}, {size_of(source, group, *others)}"


def _by_passes(source: Source) -> dict[int, DepthGroup]:
    found = [group for group in headline(source.summary) if group["match"] == "tokens"]
    return {group["passes"]: group for group in found}


def _is_paper_scale(source: Source, group: DepthGroup) -> bool:
    row = source.row_of(group)
    if source.experiment == "gsm_infinite":  # the paper's models are pretrained
        return group["parameters"] >= published.GSM_PARAMETERS
    return (
        row.get("nodes", 0) >= published.DEPO_NODES
        and row.get("max_hops", 0) >= published.DEPO_HOPS[-1]
        and group["train_tokens"] >= published.DEPO_TOKENS
    )


def _compare(
    first: DepthGroup,
    second: DepthGroup,
    names: Sequence[str],
    depths: Sequence[str],
    holds: Verdict,
    fails: Verdict,
    scale: str,
) -> Finding:
    """`holds` if the first is better at some depth, intervals apart, and worse at none."""
    better, worse, said = [], [], []
    for depth in depths:
        one, other = (
            Scored.of(name, group["by_depth"][depth])
            for name, group in zip(names, (first, second), strict=True)
        )
        said.append(f"depth {depth}: {one}; {other}; floor {one.floor:.3f}")
        if one.order(other) > 0 and one.learned:
            better.append(depth)
        elif one.order(other) < 0 and other.learned:
            worse.append(depth)
    ends = [
        f"{names[0]} is {word} at depth {', '.join(at)}"
        for word, at in (("better", better), ("worse", worse))
        if at
    ]
    nowhere = "at no depth are the intervals apart and the higher one clear of the floor"
    why = " and ".join(ends) or nowhere
    good = bool(better) and not worse
    return Finding(holds if good else fails, f"{'. '.join(said)}: {why}", scale)


def more_passes(depths: Sequence[int] | None, cache: str | None) -> Callable[[Source], Finding]:
    """The largest N against N = 1 at `depths`, all if None, for runs with `cache` if not None."""

    def judge(source: Source) -> Finding:
        groups = _by_passes(source)
        if 1 not in groups or max(groups) == 1:
            return not_run(f"{_NO_HYBRID}, N = 1 and N > 1")
        most = groups[max(groups)]
        found = source.row_of(most).get("cache", "not recorded")
        if cache is not None and found != cache:
            return not_run(f"sleep.cache={cache} (this sweep: {found})")
        asked = _depths(most, depths)
        if not asked:
            return not_run(_unasked(depths or (), most))
        return _compare(
            most,
            groups[1],
            (f"N = {most['passes']}", "N = 1"),
            asked,
            direction(_is_paper_scale(source, most)),
            Verdict.NOT_REPRODUCED,
            _scale(source, most, groups[1]),
        )

    return judge


def _depths(group: DepthGroup, wanted: Sequence[int] | None) -> list[str]:
    return [d for d in group["by_depth"] if wanted is None or int(d) in wanted]


def _unasked(wanted: Sequence[int], group: DepthGroup) -> str:
    deepest = max(map(int, group["by_depth"]))
    return f"depth {' or '.join(map(str, wanted))} (the deepest asked is {deepest})"


def stalls(passes: int, first: int) -> Callable[[Source], Finding]:
    """N = `passes` solves some of the depths before `first`, none from there on."""

    def judge(source: Source) -> Finding:
        group = _by_passes(source).get(passes)
        if group is None:
            return not_run(f"{_NO_HYBRID}, N = {passes}")
        deep = {d: at for d, at in group["by_depth"].items() if int(d) >= first}
        shallow = {d: at for d, at in group["by_depth"].items() if int(d) < first}
        if not deep or not shallow:
            return not_run(_unasked((first,), group))
        learned = [d for d, at in group["by_depth"].items() if _scored(d, at).learned]
        holds = any(d in learned for d in shallow) and not any(d in learned for d in deep)
        return _finding(source, group, holds)

    return judge


def moves(passes: int, depth: int) -> Callable[[Source], Finding]:
    """N = `passes` is clear of the floor at `depth`."""

    def judge(source: Source) -> Finding:
        group = _by_passes(source).get(passes)
        if group is None:
            return not_run(f"{_NO_HYBRID}, N = {passes}")
        at = group["by_depth"].get(str(depth))
        if at is None:
            return not_run(_unasked((depth,), group))
        return _finding(source, group, _scored(str(depth), at).learned)

    return judge


def _scored(depth: str, at: AtDepth) -> Scored:
    return Scored.of(f"depth {depth}", at)


def _finding(source: Source, group: DepthGroup, holds: bool) -> Finding:
    said = [
        f"{(score := _scored(depth, at))}, floor {score.floor:.3f}, "
        f"{'clear of it' if score.learned else 'not clear of it'}"
        for depth, at in group["by_depth"].items()
    ]
    verdict = direction(_is_paper_scale(source, group)) if holds else Verdict.NOT_REPRODUCED
    return Finding(verdict, f"N = {group['passes']}: {'; '.join(said)}", _scale(source, group))


def saturates(source: Source) -> Finding:
    """At two and four operations the largest N is no better than N = 1, and both are learned."""
    groups = _by_passes(source)
    if 1 not in groups or max(groups) == 1:
        return not_run(f"{_NO_HYBRID}, N = 1 and N > 1")
    one, most = groups[1], groups[max(groups)]
    asked = _depths(most, (2, 4))
    if not asked:
        return not_run(_unasked((2, 4), most))
    pairs = [
        (
            Scored.of(f"depth {d}, N = {most['passes']}", most["by_depth"][d]),
            Scored.of("N = 1", one["by_depth"][d]),
        )
        for d in asked
    ]
    holds = all(a.order(b) == 0 and a.learned and b.learned for a, b in pairs)
    said = "; ".join(f"{a}; {b}; floor {a.floor:.3f}" for a, b in pairs)
    verdict = direction(_is_paper_scale(source, most)) if holds else Verdict.NOT_REPRODUCED
    return Finding(verdict, said, _scale(source, most, one))


def same_flops(match: str) -> Callable[[Source], Finding]:
    """The largest N against N = 1 that spent the same training FLOPs as `match` says."""

    def judge(source: Source) -> Finding:
        groups = _by_passes(source)
        if not groups or max(groups) == 1:
            return not_run(f"{_NO_HYBRID}, N > 1")
        most = groups[max(groups)]
        what = f"N = 1 with the FLOPs of N = {most['passes']} on {SPENT_ON[match]}"
        key = (1, match)
        matched = [g for g in headline(source.summary) if (g["passes"], g["match"]) == key]
        other = next((g for g in matched if is_equal_compute(g, most)), None)
        if other is None:
            return not_run(what + (" (what has run took other FLOPs)" if matched else ""))
        scale = f"{_scale(source, most, other)}, {most['train_flops']:.2g} FLOPs"
        names = (f"N = {most['passes']}", f"N = 1, {SPENT_ON[match]}")
        depths = _depths(most, None)
        return _compare(most, other, names, depths, Verdict.SHOWN, Verdict.NOT_SHOWN, scale)

    return judge


def few_passes_same_flops(source: Source) -> Finding:
    """The smallest N > 1 against N = 1, both with the FLOPs of the largest N spent on tokens."""
    found = few_and_one(headline(source.summary))
    if isinstance(found, str):
        return not_run(found)
    few, one = found
    scale = f"{_scale(source, few, one)}, {few['train_flops']:.2g} FLOPs"
    names = (f"N = {few['passes']}", "N = 1")
    return _compare(few, one, names, _depths(few, None), Verdict.SHOWN, Verdict.NOT_SHOWN, scale)


_RULE = (
    "The largest N above N = 1 at one of these depths at least, 95 % intervals over seeds apart "
    "and the larger clear of the floor, and below it at none."
)
_FROM_SCRATCH = " Models from scratch can show the direction at most."
CLAIMS = (
    Claim(
        "depo-passes",
        "Depo experiment, Fig. 3",
        "On Depo, more passes answer more hops on equal training tokens.",
        _RULE,
        _DEPO,
        more_passes(None, None),
        "EXP=depo",
    ),
    *(
        Claim(
            f"depo-stall-{passes}",
            "Depo experiment, Fig. 3",
            f"On Depo, N = {passes} stalls at {first} hops and beyond.",
            f"Answers clear of the floor at some k below {first}, and at no k from {first} on.",
            _DEPO,
            stalls(passes, first),
            f"EXP=depo with k = {first}",
        )
        for passes, first in ((1, 4), (2, 8))
    ),
    Claim(
        "depo-move-4",
        "Depo experiment, Fig. 3",
        "On Depo, N = 4 starts to move at 16 hops.",
        "N = 4 is clear of the floor at k = 16.",
        _DEPO,
        moves(4, 16),
        "EXP=depo with k = 16",
    ),
    Claim(
        "gsm-hard",
        "GSM-Infinite experiment, results table",
        "With hard eviction, more passes raise the accuracy at 6 and 8 operations.",
        _RULE + _FROM_SCRATCH,
        _GSM,
        more_passes((6, 8), "evict"),
        "EXP=gsm_infinite",
    ),
    Claim(
        "gsm-saturates",
        "GSM-Infinite experiment, results table",
        "Two and four operations saturate whatever N.",
        "At 2 and 4 operations all intervals are clear of the floor and those of N = 1 and the "
        "largest N overlap." + _FROM_SCRATCH,
        _GSM,
        saturates,
        "EXP=gsm_infinite",
    ),
    Claim(
        "gsm-sliding",
        "GSM-Infinite experiment, results table",
        "With sliding-window eviction, more passes raise the accuracy at every number of "
        "operations.",
        _RULE + _FROM_SCRATCH,
        _GSM,
        more_passes((2, 4, 6, 8), "slide"),
        'EXP=gsm_infinite ARGS="--set=sleep.cache=slide"',
    ),
)
_TITLES = {"depo": "Depo", "gsm_infinite": "GSM-Infinite"}
_NO_SUCH_BASELINE = "ours; the paper has no compute-matched baseline"
_EQUAL = (
    "with the same training FLOPs within 5 %, at one depth at least with intervals apart, and "
    "below it at none."
)
OUR_CLAIMS = (
    *(
        Claim(
            f"{name.partition('_')[0]}-against-{spent.split()[1]}",
            _NO_SUCH_BASELINE,
            f"On {title}, passes are a better use of training FLOPs than {spent} for one pass.",
            f"The largest N above N = 1 {_EQUAL}",
            (name,),
            same_flops(match),
            f'EXP={name} ARGS="--match=flops"',
        )
        for name, title in _TITLES.items()
        for match, spent in SPENT_ON.items()
    ),
    *(
        Claim(
            f"{name.partition('_')[0]}-few-passes",
            _NO_SUCH_BASELINE,
            f"On {title}, a few passes are a better use of training FLOPs than one, each trained "
            "on as many tokens as the FLOPs of the largest N buy it.",
            f"The smallest N > 1 that was so trained above N = 1 {_EQUAL}",
            (name,),
            few_passes_same_flops,
            f"EXP={name}",
        )
        for name, title in _TITLES.items()
    ),
)
