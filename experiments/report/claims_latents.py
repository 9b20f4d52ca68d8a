"""Latents of windows (LCLM, arXiv 2606.09659) beside fast weights, at our scale."""

from collections.abc import Sequence

from experiments.report.depth_cost import LATENTS, NOTHING, DepthCost, name
from experiments.report.groups import short
from experiments.report.latents import beside_others
from experiments.report.needed import less, quote
from experiments.report.sources import Source
from experiments.report.verdicts import Claim, Finding, Verdict, not_run

_EXPERIMENTS = ("lclm", "lclm_depo")
_HOW = "EXP=lclm or lclm_depo"
_FEWEST = 3  # seeds


def less_than_fast_weights(source: Source) -> Finding:
    """Some latents take less than every N at every depth, apart."""
    found: dict[str, list[tuple[DepthCost, DepthCost]]] = {}
    for latents, fast in beside_others(_tested(source)):
        if fast["update_rule"] != NOTHING:
            found.setdefault(name(latents), []).append((latents, fast))
    if not found:
        return not_run("latents and fast weights at one depth, three seeds each")
    holds = any(all(less(*pair) for pair in pairs) for pairs in found.values())
    groups = [group for pairs in found.values() for pair in pairs for group in pair]
    return _finding(source, holds, groups)


def coarser_take_more(source: Source) -> Finding:
    """At every depth those of most tokens a latent take more than those of fewest, apart."""
    by_depth: dict[int, list[DepthCost]] = {}
    for group in _tested(source):
        if group["update_rule"] == LATENTS:
            by_depth.setdefault(group["depth"], []).append(group)
    # A summary has the fewest tokens first.
    ends = [(groups[0], groups[-1]) for groups in by_depth.values() if len(groups) > 1]
    if not ends:
        return not_run("latents of few and of many tokens at one depth, three seeds each")
    holds = all(less(*pair) for pair in ends)
    return _finding(source, holds, [group for pair in ends for group in pair])


def _tested(source: Source) -> list[DepthCost]:
    return [group for group in source.summary if len(group["seeds"]) >= _FEWEST]


def _finding(source: Source, holds: bool, groups: Sequence[DepthCost]) -> Finding:
    """With every group once, and what it took."""
    each = {(group["depth"], name(group)): group for group in groups}
    said = "; ".join(f"{at['at']}, {key[1]}: {quote(at)}" for key, at in sorted(each.items()))
    first = groups[0]
    scale = (
        f"{first['size']}, {short(first['parameters'])} parameters, to "
        f"{first['target_accuracy']:g}, {min(len(group['seeds']) for group in groups)} seeds or "
        "more"
    )
    return Finding(Verdict.SHOWN if holds else Verdict.NOT_SHOWN, said, scale)


CLAIMS = ()
OUR_CLAIMS = (
    Claim(
        "latents-take-less",
        "ours; LCLM, arXiv 2606.09659, has no fast weights beside it",
        "To learn what will be asked of windows that are gone, latents of them take fewer FLOPs "
        "than passes that write them into fast weights.",
        "Some number of tokens a latent takes fewer FLOPs to the target than N = 1 and than any "
        "other N, at every depth; apart.",
        _EXPERIMENTS,
        less_than_fast_weights,
        _HOW,
    ),
    Claim(
        "coarser-latents-take-more",
        "LCLM, arXiv 2606.09659: scores fall from 4 to 16 tokens a latent",
        "The more tokens a latent stands for, the more it takes to learn to use them.",
        "At every depth the most tokens a latent take more FLOPs to the target than the fewest; "
        "apart.",
        _EXPERIMENTS,
        coarser_take_more,
        _HOW,
    ),
)
