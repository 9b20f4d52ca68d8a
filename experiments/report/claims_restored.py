"""QK-Restore (arXiv 2606.11052) at our scale: what fine-tuning costs recall, and where it sits."""

from experiments.report.restored import BEFORE, NOTHING, PAPER, Restored, is_more, quote_change
from experiments.report.sources import Source
from experiments.report.verdicts import Claim, Finding, Scored, Verdict, not_run

_EXPERIMENTS = ("qk_restore",)
_PAPER = "QK-Restore, arXiv 2606.11052"
_MISSING = "recall before and after fine-tuning on chains, three seeds"


def queries_and_keys_recover(source: Source) -> Finding:
    """At least half of the recall that chains cost comes back with the old queries and keys."""
    before, plain, paper = (
        _group(source, *which) for which in (("", BEFORE), ("chain", NOTHING), ("chain", PAPER))
    )
    if before is None or plain is None or paper is None:
        return not_run(_MISSING)
    was, now = _scored("before", before), _scored("fine-tuned", plain)
    lost = before["recall"]["mean"] - plain["recall"]["mean"]
    gained = paper["regained"]
    assert gained
    good = was.order(now) > 0 and is_more(gained) and gained["mean"] >= lost / 2
    numbers = f"recall {was}; {now}; queries and keys put back: {quote_change(gained)}"
    if was.order(now) <= 0:
        numbers += "; fine-tuning is not shown to cost any"
    return Finding(Verdict.SHOWN if good else Verdict.NOT_SHOWN, numbers, _scale(source, plain))


def chains_cost_more(source: Source) -> Finding:
    """Recall is less after fine-tuning on local chains than on chains that look far, apart."""
    local, far = (_group(source, skill, NOTHING) for skill in ("chain", "far_chain"))
    if local is None or far is None:
        return not_run(f"{_MISSING}, local ones and ones that look far")
    scores = _scored("after local chains", local), _scored("after far chains", far)
    holds = scores[1].order(scores[0]) > 0
    numbers = f"recall {scores[0]}; {scores[1]}"
    return Finding(Verdict.SHOWN if holds else Verdict.NOT_SHOWN, numbers, _scale(source, local))


def _group(source: Source, skill: str, put_back: str) -> Restored | None:
    """Of the smallest N and the fewest pairs, with three seeds or more; before: of any skill."""
    return next(
        (
            group
            for group in source.summary
            if group["put_back"] == put_back
            and (put_back == BEFORE or group["skill"] == skill)
            and len(group["seeds"]) >= 3
        ),
        None,
    )


def _scored(name: str, group: Restored) -> Scored:
    return Scored(name, group["recall"], group["floor"])


def _scale(source: Source, group: Restored) -> str:
    row = source.results["rows"][0]
    return f"{group['pairs']} pairs, {row['parameters']} parameters, {len(group['seeds'])} seeds"


CLAIMS = ()
OUR_CLAIMS = (
    Claim(
        "qk-restore-recovers",
        _PAPER,
        "Recall that fine-tuning on chains costs comes back with the old queries and keys of "
        "attention.",
        "Recall after is below recall before, apart; put back they raise it, seed by seed apart "
        "from nothing, and in the mean by at least half of what was lost.",
        _EXPERIMENTS,
        queries_and_keys_recover,
        "EXP=qk_restore",
    ),
    Claim(
        "local-chains-cost-recall",
        f"after {_PAPER}; the control is ours",
        "Fine-tuning on chains of short range costs recall more than on chains that look far.",
        "Recall after local chains is below that after far chains, apart.",
        _EXPERIMENTS,
        chains_cost_more,
        "EXP=qk_restore",
    ),
)
