"""DashAttention (arXiv 2605.18753) at our scale: what reading a part of the cache costs."""

from collections.abc import Callable

from experiments.report.routed import FULL, Routed
from experiments.report.sources import Source
from experiments.report.verdicts import Claim, Finding, Scored, Verdict, not_run
from experiments.report.words import AS_TRAINED

_EXPERIMENTS = ("dash_attention",)
_PAPER = "DashAttention, arXiv 2605.18753"
_QUARTER, _CLOSE = 0.25, 0.02  # "75 % sparsity"; 85.3 and 83.6 are close in the paper


def close_to_full(source: Source) -> Finding:
    """A quarter of the cache, chosen by entmax as the paper teaches it, recalls nearly as much."""
    full = _one(source, lambda group: group["name"] == FULL and group["read"] == AS_TRAINED)
    dash = [group for group in _groups(source, _is_paper) if _share(group) <= _QUARTER]
    if full is None or not _groups(source, _is_paper):
        return not_run("the whole cache read, and chunks by entmax, three seeds")
    if not dash:
        numbers = f"no reading of at most {_QUARTER:.0%} of the cache"
        return Finding(Verdict.NOT_SHOWN, numbers, _scale(full))
    best = max(dash, key=_share)
    holds = full["recall"]["mean"] - best["recall"]["ci95"][0] <= _CLOSE
    numbers = f"recall {_scored(full)}; {_scored(best)}, reading {_share(best):.0%}"
    return Finding(Verdict.SHOWN if holds else Verdict.NOT_SHOWN, numbers, _scale(full))


def above_top_k(source: Source) -> Finding:
    """As many chunks as a query needs, rather than the same number for all, recalls more."""
    return _above(source, lambda group: ", best " in group["name"], "the best chunks, a number")


def taught_is_above_untaught(source: Source) -> Finding:
    """Routing that the loss teaches recalls more than routing that nothing teaches."""
    return _above(source, lambda group: "untaught" in group["name"], "untaught chunks")


def _above(source: Source, is_other: Callable[[Routed], bool], missing: str) -> Finding:
    """The paper's, at the most that is read within what the other reads as it was trained."""
    other = _one(source, lambda group: is_other(group) and group["read"] == AS_TRAINED)
    dash = _groups(source, _is_paper)
    if other is None or not dash:
        return not_run(f"chunks by entmax, and {missing}, three seeds")
    within = [group for group in dash if _share(group) <= _share(other)]
    scale = _scale(other)
    theirs = f"{_scored(other)}, reading {_share(other):.0%}"
    if not within:
        numbers = f"recall {theirs}; no reading of the paper's kind reads as little"
        return Finding(Verdict.NOT_SHOWN, numbers, scale)
    best = max(within, key=_share)
    holds = _scored(best).order(_scored(other)) > 0
    numbers = f"recall {_scored(best)}, reading {_share(best):.0%}; {theirs}"
    return Finding(Verdict.SHOWN if holds else Verdict.NOT_SHOWN, numbers, scale)


def _is_paper(group: Routed) -> bool:
    return "entmax, sigma 1e+06" in group["name"]


def _groups(source: Source, wanted: Callable[[Routed], bool]) -> list[Routed]:
    """With three seeds or more, of the most pairs of which there are such."""
    found = [group for group in source.summary if len(group["seeds"]) >= 3 and wanted(group)]
    most = max((group["pairs"] for group in found), default=0)
    return [group for group in found if group["pairs"] == most]


def _one(source: Source, wanted: Callable[[Routed], bool]) -> Routed | None:
    return next(iter(_groups(source, wanted)), None)


def _share(group: Routed) -> float:
    assert group["share"], "of what is routed alone"
    return group["share"]["mean"]


def _scored(group: Routed) -> Scored:
    name = group["name"] if group["read"] == AS_TRAINED else f"{group['name']}, {group['read']}"
    return Scored(name, group["recall"], group["floor"])


def _scale(group: Routed) -> str:
    return f"{group['pairs']} pairs, {group['parameters']} parameters, {len(group['seeds'])} seeds"


CLAIMS = ()
OUR_CLAIMS = (
    Claim(
        "routed-close-to-full",
        _PAPER,
        "Attention to a quarter of the cache, chosen by entmax, is close to attention to all.",
        f"Of its readings of at most {_QUARTER:.0%} of the cache, that of most has an interval of "
        f"recall that does not reach further than {_CLOSE:g} below the mean of the whole cache's.",
        _EXPERIMENTS,
        close_to_full,
        "EXP=dash_attention",
    ),
    Claim(
        "routed-above-top-k",
        _PAPER,
        "As many chunks as entmax gives weight recall more than a fixed number of the best.",
        "Of its readings that read no more than that fixed number, recall by that of most is above "
        "it, apart; both trained from scratch.",
        _EXPERIMENTS,
        above_top_k,
        "EXP=dash_attention",
    ),
    Claim(
        "routing-is-taught",
        f"after {_PAPER}; the control is ours",
        "It takes a gradient to the routing to choose chunks well.",
        "Of the readings with a prior at sigma = 1e6 that read no more than routing without any "
        "gradient, recall by that of most is above it, apart; both trained from scratch.",
        _EXPERIMENTS,
        taught_is_above_untaught,
        "EXP=dash_attention",
    ),
)
