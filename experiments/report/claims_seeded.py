"""Knowledge Seeding (arXiv 2606.03979) at our scale: what is known of days that are over."""

from experiments.report.seeded import DREAMS, FAST_WEIGHTS, NO_EXPERT, TEXT, Seeded
from experiments.report.sources import Source
from experiments.report.verdicts import Claim, Finding, Scored, Verdict, not_run

_EXPERIMENTS = ("knowledge_seeding",)
_PAPER = "Knowledge Seeding, arXiv 2606.03979"


def keeps_what_fast_weights_lose(source: Source) -> Finding:
    """Dreams taught to an expert keep more than any fast weights that go on, apart."""
    fast = _arms(source, FAST_WEIGHTS)
    dreams = _arms(source, DREAMS)
    if not fast or not dreams:
        return not_run("dreams and fast weights that go on, three seeds")
    best = max(fast, key=lambda group: group["recall"]["mean"])
    return _compared(source, dreams[0], best, f"fast weights of {best['pairs']} pairs")


def needs_an_expert(source: Source) -> Finding:
    """They keep more than the same dreams taught to the MLPs themselves, apart."""
    return _against(source, NO_EXPERT)


def keeps_more_than_text(source: Source) -> Finding:
    """They keep more than the text of each day taught to an expert, apart."""
    return _against(source, TEXT)


def _against(source: Source, arm: str) -> Finding:
    found = [_arms(source, name) for name in (DREAMS, arm)]
    if not all(found):
        return not_run(f"{DREAMS} and {arm}, three seeds")
    return _compared(source, found[0][0], found[1][0], arm)


def _compared(source: Source, dreams: Seeded, other: Seeded, name: str) -> Finding:
    ours = Scored(DREAMS, dreams["recall"], dreams["floor"])
    theirs = Scored(name, other["recall"], other["floor"])
    holds = ours.order(theirs) > 0
    parameters = source.results["rows"][0]["parameters"]
    scale = f"{dreams['days']} days, {parameters} parameters, {len(dreams['seeds'])} seeds"
    verdict = Verdict.SHOWN if holds else Verdict.NOT_SHOWN
    return Finding(verdict, f"recall of all days, {ours}; {theirs}", scale)


def _arms(source: Source, arm: str) -> list[Seeded]:
    """Of the smallest N, with three seeds or more; fast weights by what they were trained on."""
    found = [group for group in source.summary if group["arm"] == arm and len(group["seeds"]) >= 3]
    smallest = min((group["passes"] for group in found), default=1)
    return [group for group in found if group["passes"] == smallest]


CLAIMS = ()
OUR_CLAIMS = (
    Claim(
        "seeding-keeps",
        _PAPER,
        "What fast weights are about to lose is kept if it is distilled into slow weights first.",
        "Recall of all days, after the last, by dreams taught to an expert a day is above that of "
        "fast weights that go on, trained on a day or on all, whichever is better; apart.",
        _EXPERIMENTS,
        keeps_what_fast_weights_lose,
        "EXP=knowledge_seeding",
    ),
    Claim(
        "seeding-needs-an-expert",
        _PAPER,
        "New capacity for every consolidation keeps more than the same weights, trained on.",
        "The same recall by dreams taught to an expert a day is above that by dreams taught to the "
        "MLPs themselves, apart.",
        _EXPERIMENTS,
        needs_an_expert,
        "EXP=knowledge_seeding",
    ),
    Claim(
        "seeding-above-text",
        _PAPER,
        "Distilling what a model says keeps more than fine-tuning on the text.",
        "The same recall by dreams is above that by each day's text, both taught to an expert a "
        "day; apart.",
        _EXPERIMENTS,
        keeps_more_than_text,
        "EXP=knowledge_seeding",
    ),
)
