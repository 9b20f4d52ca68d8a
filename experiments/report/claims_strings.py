"""Whether one pass lacks a depth, or a place for several strings: what the paper never asked."""

from experiments.report import strings
from experiments.report.needed import less, quote
from experiments.report.sources import Source
from experiments.report.verdicts import Claim, Finding, Verdict, not_run

_EXPERIMENTS = ("cost_of_depth", "rollout_ladder")


def one_pass_forgets(source: Source) -> Finding:
    """One pass takes less for the last string than for the first, at some depth; a second not."""
    pairs = _pairs(source)
    if not pairs:
        return not_run("N = 1 and a larger N at one depth, three seeds each, told apart by string")
    said = "; ".join(
        f"{one.at}: {_first_and_last(one)}, {_first_and_last(few)}" for one, few in pairs
    )
    one_does = [_sooner(one) for one, _ in pairs]
    few_do = [_sooner(few) for _, few in pairs]
    verdict = Verdict.SHOWN if any(one_does) and not any(few_do) else Verdict.NOT_SHOWN
    first, groups = pairs[0][0], [group for pair in pairs for group in pair]
    depths = ", ".join(one.at for one, _ in pairs)
    seeds = min(len(line.whole["seeds"]) for line in groups)
    return Finding(
        verdict, said, f"{depths}, {first.task}, {first.blocks} blocks, {seeds} seeds or more"
    )


def _pairs(source: Source) -> list[tuple[strings.Line, strings.Line]]:
    """N = 1 and the smallest larger N of the first setting, at every depth that has both."""
    found = strings.lines([source])
    settings = [(line.task, line.blocks) for line in found]
    chosen = [line for line, of in zip(found, settings, strict=True) if of == settings[0]]
    ones = {line.depth: line for line in chosen if line.passes == 1}
    few = min((line.passes for line in chosen if line.passes > 1), default=0)
    return [
        (ones[line.depth], line) for line in chosen if line.passes == few and line.depth in ones
    ]


def _sooner(line: strings.Line) -> bool:
    return less(line.strings[-1], line.strings[0])


def _first_and_last(line: strings.Line) -> str:
    words = ", apart" * _sooner(line)
    return f"N = {line.passes} {quote(line.strings[0])} and {quote(line.strings[-1])}{words}"


CLAIMS = ()
OUR_CLAIMS = (
    Claim(
        "one-pass-forgets",
        "ours; the paper has accuracies of all strings together",
        "What one pass lacks is a place for several strings, not the depth of one.",
        "At some depth N = 1 takes fewer FLOPs until it answers the last string than the first, "
        "whatever the others, apart, and the smallest N > 1 at none.",
        _EXPERIMENTS,
        one_pass_forgets,
        "EXP=cost_of_depth or rollout_ladder",
    ),
)
