"""A claim, and what decides whether it holds: intervals, never a word written by hand.

To add a claim, write a `Claim` whose `judge` looks at one source, and put it into the list of its
module (claims_rule110.py, claims_depth.py, claims_cost.py) or of a new one named in claims.py.
"""

import dataclasses
import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from experiments.report.conclusion import is_learned, order
from experiments.report.groups import Interval, is_equal_compute, short
from experiments.report.sources import Source

_Group = TypeVar("_Group", bound=Mapping[str, Any])


class Verdict(enum.Enum):
    """What a source says of a claim. SHOWN and NOT_SHOWN are for claims that the paper never made.

    REPRODUCED needs the paper's own scale, unless the claim does not depend on any.
    """

    REPRODUCED = "reproduced"
    SAME_DIRECTION = "same direction"
    NOT_REPRODUCED = "not reproduced"
    SHOWN = "shown"
    NOT_SHOWN = "not shown"
    NOT_RUN = "not run"


@dataclasses.dataclass(frozen=True)
class Finding:
    """What one source says of a claim: the verdict, the numbers that decide it, at which scale."""

    verdict: Verdict
    numbers: str
    scale: str = ""
    source: Source | None = None

    @property
    def at(self) -> str:
        """The scale with the device."""
        return self.scale if self.source is None else f"{self.scale}, {self.source.device}"


@dataclasses.dataclass(frozen=True)
class Claim:
    """A sentence that numbers can decide.

    Attributes:
      key: names it in links.
      where: section and figure of the paper, or that it is ours.
      sentence: in our words.
      rule: how the verdict falls, for the reader.
      experiments: whose results are asked.
      judge: a source to a finding; NOT_RUN, with the missing cell named, if it has no such cells.
      missing: what has to be run if no source is there to be asked.
    """

    key: str
    where: str
    sentence: str
    rule: str
    experiments: tuple[str, ...]
    judge: Callable[[Source], Finding]
    missing: str

    def findings(self, sources: Sequence[Source]) -> list[Finding]:
        """One for each source of its experiments; if there is none, one saying what is missing."""
        found = [
            dataclasses.replace(self.judge(source), source=source)
            for source in sources
            if source.experiment in self.experiments
        ]
        return found or [Finding(Verdict.NOT_RUN, self.missing)]


@dataclasses.dataclass(frozen=True)
class Scored:
    """A score with what a table calls it."""

    name: str
    exact_accuracy: Interval
    floor: float

    @staticmethod
    def of(name: str, at: Mapping[str, Any]) -> "Scored":
        return Scored(name, at["exact_accuracy"], at["floor"])

    def order(self, other: "Scored") -> int:
        """1 above, -1 below, 0 if the intervals overlap."""
        return order(dataclasses.asdict(self), dataclasses.asdict(other))

    @property
    def learned(self) -> bool:
        """Whether the whole interval lies above the floor."""
        return is_learned(dataclasses.asdict(self))

    def __str__(self) -> str:
        return f"{self.name}: {quote(self.exact_accuracy)}"


def quote(score: Interval) -> str:
    """A mean with its interval and what that is over."""
    low, high = score["ci95"]
    over = f"n = {score['n']}" if score["n"] > 1 else "one seed, interval over answers"
    return f"{score['mean']:.3f} [{low:.3f}, {high:.3f}] ({over})"


def above(first: Scored, second: Scored, holds: Verdict, fails: Verdict, scale: str) -> Finding:
    """`holds` if the first is above the second with intervals apart, and clear of its floor."""
    floors = " and ".join(dict.fromkeys(f"{one.floor:.3f}" for one in (first, second)))
    numbers = f"{first}; {second}; floor {floors}: {_why(first, second)}"
    good = first.order(second) > 0 and first.learned
    return Finding(holds if good else fails, numbers, scale)


def _why(first: Scored, second: Scored) -> str:
    if not (first.learned or second.learned):
        return "neither is clear of the floor"
    return {
        1: "the intervals are apart",
        0: "the intervals overlap, no difference is established",
        -1: "the intervals are apart, the other way round",
    }[first.order(second)]


def not_run(what: str) -> Finding:
    """A source without the cells that a claim is about."""
    return Finding(Verdict.NOT_RUN, what)


def direction(at_paper_scale: bool) -> Verdict:
    """What a claim of the paper is called that holds."""
    return Verdict.REPRODUCED if at_paper_scale else Verdict.SAME_DIRECTION


def size_of(source: Source, group: Mapping[str, Any], *others: Mapping[str, Any]) -> str:
    """Blocks, parameters and tokens of a group, and the seeds of all, for naming a scale."""
    row = source.row_of(group)
    blocks = f"{row['blocks']} blocks" if "blocks" in row else "blocks not recorded"
    return (
        f"{blocks}, {short(group['parameters'])} parameters, "
        f"{short(group['train_tokens'])} tokens, {_seeds((group, *others))}"
    )


def _seeds(groups: Sequence[Mapping[str, Any]]) -> str:
    counts = sorted({len(group["seeds"]) for group in groups})
    few = "1 seed" if counts[-1] == 1 else f"{counts[-1]} seeds"
    return few if len(counts) == 1 else f"{counts[0]} to {few}"


def few_and_one(groups: Sequence[_Group]) -> tuple[_Group, _Group] | str:
    """The smallest N > 1 and N = 1, both with the FLOPs of the largest N spent on tokens.

    Args:
      groups: of one setting, by ascending N.

    Returns:
      The two, or what is missing.
    """
    spent = [group for group in groups if group["match"] == "flops"]
    one = next((group for group in spent if group["passes"] == 1), None)
    few = next((group for group in spent if group["passes"] > 1), None)
    if one is None or few is None:
        return "N = 1 and an N between it and the largest, with the FLOPs of the largest"
    if not is_equal_compute(one, few):
        return "two N with the same FLOPs (what has run took others)"
    return few, one
