"""ConSA (arXiv 2606.18056) at our scale: which heads need the whole cache, and who can say so."""

from collections.abc import Callable, Sequence

import numpy as np

from experiments.report.choices import Chosen
from experiments.report.routed import FULL
from experiments.report.sources import Source
from experiments.report.summary import mean, student_t_half
from experiments.report.verdicts import Claim, Finding, Scored, Verdict, not_run

_EXPERIMENTS = ("consa",)
_PAPER = "ConSA, arXiv 2606.18056"
_CLOSE = 0.02
_LATE, _EARLY = ", learned at 0.6 to 0.75", ", learned at 0 to 0.15"


def half_is_enough(source: Source) -> Finding:
    """Half of all heads local, learned late, recall as much as all of the cache."""
    pair = _pair(source, lambda g: g["name"] == FULL, lambda g: _is(g, _LATE) and _whole(g) == 0.5)
    if pair is None:
        return not_run("all of the cache, and half of the heads whole, learned late, three seeds")
    full, half = pair
    holds = full["recall"]["mean"] - half["recall"]["ci95"][0] <= _CLOSE
    return _finding(holds, full, half)


def above_rule(source: Source) -> Finding:
    """Of each block half of the heads: learned late above the rule."""
    return _above(
        source,
        lambda g: ", learned of each block at 0.6 to 0.75" in g["name"] and _whole(g) == 0.5,
        lambda g: g["name"].endswith(", the same number of each block") and _whole(g) == 0.5,
        "half of each block's heads whole, learned late and by a rule",
    )


def above_lots(source: Source) -> Finding:
    """A quarter of the heads whole: learned late above lots."""
    return _beside_lots(source, _LATE, "late")


def early_is_above_lots(source: Source) -> Finding:
    """A quarter of the heads whole: learned from the start above lots."""
    return _beside_lots(source, _EARLY, "early")


def in_the_middle(source: Source) -> Finding:
    """More whole heads in an inner block than in the first, and than in the last."""
    found = _groups(source, lambda g: _is(g, _LATE) and _whole(g) == 0.5 and g["blocks"] > 2)
    if not found:
        return not_run(
            "half of the heads whole, learned late, in more than two blocks, three seeds"
        )
    group = max(found, key=lambda g: (g["pairs"], g["blocks"]))
    whole = np.array(group["by_block"], float)
    inner = whole[:, 1:-1].mean(axis=1)
    ends = [_difference(inner - whole[:, end]) for end in (0, -1)]
    words = [f"{d:+.2f} [{low:+.2f}, {high:+.2f}]" for d, low, high in ends]
    numbers = f"whole heads, inner blocks less the first {words[0]}, less the last {words[1]}"
    holds = all(low > 0 for _, low, _ in ends)
    return Finding(Verdict.SHOWN if holds else Verdict.NOT_SHOWN, numbers, _scale(group))


def _difference(values: np.ndarray) -> tuple[float, float, float]:
    """Mean and 95% interval over seeds."""
    centre, half = mean(values.tolist()), student_t_half(values.tolist())
    return centre, centre - half, centre + half


def _beside_lots(source: Source, kind: str, when: str) -> Finding:
    return _above(
        source,
        lambda g: _is(g, kind) and _whole(g) == 0.25,
        lambda g: _is(g, ", random") and _whole(g) == 0.25,
        f"a quarter of the heads whole, learned {when} and by lot",
    )


def _above(
    source: Source,
    is_first: Callable[[Chosen], bool],
    is_other: Callable[[Chosen], bool],
    missing: str,
) -> Finding:
    pair = _pair(source, is_first, is_other)
    if pair is None:
        return not_run(f"{missing}, three seeds")
    first, other = pair
    return _finding(_scored(first).order(_scored(other)) > 0, first, other)


def _finding(holds: bool, first: Chosen, other: Chosen) -> Finding:
    numbers = f"recall {_scored(first)}; {_scored(other)}"
    return Finding(Verdict.SHOWN if holds else Verdict.NOT_SHOWN, numbers, _scale(other))


def _is(group: Chosen, kind: str) -> bool:
    return group["name"].endswith(f"heads whole{kind}")


def _whole(group: Chosen) -> float:
    """Of all units the share that reads all of the cache, which is the same for every seed."""
    whole = sum(group["by_block"][0]) if group["units"] else 0
    return whole / (group["units"] * group["blocks"]) if group["units"] else 1.0


def _groups(source: Source, wanted: Callable[[Chosen], bool]) -> list[Chosen]:
    return [group for group in source.summary if len(group["seeds"]) >= 3 and wanted(group)]


def _pair(
    source: Source, is_first: Callable[[Chosen], bool], is_other: Callable[[Chosen], bool]
) -> tuple[Chosen, Chosen] | None:
    """Two groups of one size, the largest of which there are both."""

    def by_size(groups: Sequence[Chosen]) -> dict[tuple[int, int], Chosen]:
        return {(group["pairs"], group["blocks"]): group for group in groups}

    first, other = by_size(_groups(source, is_first)), by_size(_groups(source, is_other))
    both = max(first.keys() & other.keys(), default=None)
    return None if both is None else (first[both], other[both])


def _scored(group: Chosen) -> Scored:
    return Scored(group["name"], group["recall"], group["floor"])


def _scale(group: Chosen) -> str:
    return (
        f"{group['pairs']} pairs, {group['blocks']} blocks, {group['parameters']} parameters, "
        f"{len(group['seeds'])} seeds"
    )


CLAIMS = ()
OUR_CLAIMS = (
    Claim(
        "half-local-is-enough",
        _PAPER,
        "With half of the heads local, chosen by learning, a transformer does as well as with all "
        "of its cache.",
        f"Its interval of recall does not reach further than {_CLOSE:g} below the mean of all of "
        "the cache; learned at .6 to .75 of the run.",
        _EXPERIMENTS,
        half_is_enough,
        "EXP=consa",
    ),
    Claim(
        "learned-choice-above-rule",
        _PAPER,
        "Learning which half of each block's heads read all does better than a rule.",
        "Recall is above the rule's, apart; learned at .6 to .75 of the run, the rule from its "
        "start.",
        _EXPERIMENTS,
        above_rule,
        "EXP=consa",
    ),
    Claim(
        "learned-choice-above-lots",
        f"after {_PAPER}; the control is ours",
        "Learning which quarter of the heads read all does better than lots.",
        "Recall is above that of heads drawn by lot, apart; learned at .6 to .75 of the run, lots "
        "drawn at its start.",
        _EXPERIMENTS,
        above_lots,
        "EXP=consa",
    ),
    Claim(
        "choice-learned-from-the-start",
        f"after {_PAPER}; the control is ours",
        "Which heads read all can be learned at the start of training.",
        "With a quarter of the heads whole, learned in the first .15 of the run, recall is above "
        "that of heads drawn by lot, apart.",
        _EXPERIMENTS,
        early_is_above_lots,
        "EXP=consa",
    ),
    Claim(
        "whole-heads-in-the-middle",
        _PAPER,
        "Heads that read all are in the middle, local ones at the bottom and at the top.",
        "With half of all heads whole, learned at .6 to .75 of the run, in more than two blocks: "
        "over seeds more of them in the mean of the inner blocks than in the first, and than in "
        "the last, both differences with intervals above 0.",
        _EXPERIMENTS,
        in_the_middle,
        "EXP=consa PRESET=deep",
    ),
)
