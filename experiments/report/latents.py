"""What the report of `EXP=lclm` adds to `depth_cost`: latents beside what else keeps a window."""

from collections.abc import Sequence

from experiments.report import depth_cost, writers
from experiments.report.depth_cost import LATENTS, DepthCost


def conclude(summary: Sequence[DepthCost]) -> str:
    """The conclusion of `depth_cost`, and before its caution latents beside all else."""
    return depth_cost.conclude(summary, _beside(summary))


def _beside(summary: Sequence[DepthCost]) -> list[str]:
    return [
        sentence
        for latents, other in beside_others(summary)
        for sentence in writers.sentences(latents, other)
    ]


def beside_others(summary: Sequence[DepthCost]) -> list[tuple[DepthCost, DepthCost]]:
    """All pairs of latents and what has none, of one depth, size, target and budget."""
    keys = ("depth", "size", "target_accuracy")
    return [
        (latents, other)
        for latents in summary
        for other in summary
        if latents["update_rule"] == LATENTS != other["update_rule"]
        and all(latents[key] == other[key] for key in keys)
        and depth_cost.same_budget(latents, other)
    ]
