"""What experiments/results says of Knowledge Seeding."""

import re

from experiments.report.seeded import DREAMS, FAST_WEIGHTS, NO_EXPERT, STORED, TEXT
from experiments.report.verdicts import Scored
from tests.test_readme import COMMITTED, README, committed, flat

TABLE = (COMMITTED / "knowledge_seeding/cpu/table.md").read_text().splitlines()
PAGE = (COMMITTED / "knowledge_seeding.md").read_text()
TEXT_OF_PAGE = flat(PAGE)
SUMMARY = committed("knowledge_seeding/cpu").summary
ROWS = committed("knowledge_seeding/cpu").results["rows"]
FOUND = {g["arm"]: g for g in SUMMARY if g["pairs"] == 8}
STREAM = next(g for g in SUMMARY if g["pairs"] == 48)


def short(value):
    return f"{value:.3f}".removeprefix("0")


def score(at):
    return f"{short(at['mean'])} [{', '.join(map(short, at['ci95']))}]"


def recall(arm):
    return score(FOUND[arm]["recall"])


def order(one, other):
    return Scored("", one["recall"], 0).order(Scored("", other["recall"], 0))


def read_order(one, other):
    scores = (Scored("", FOUND[arm]["reading"], 0) for arm in (one, other))
    return next(scores).order(next(scores))


def test_lines_are_those_of_the_table():
    lines = [line for line in PAGE.splitlines() if line.startswith(("| 8 ", "| 48 "))]
    assert len(lines) == 12 and set(lines) <= set(TABLE)
    assert {tuple(group["seeds"]) for group in SUMMARY} == {(20, 21, 22, 23, 24)}


def test_what_training_brought():
    learned = {row["seed"]: row["exact_accuracy"] for row in ROWS if row["pairs"] == 8}
    assert f"to {short(min(learned.values()))} and more" in TEXT_OF_PAGE
    streams = [row["exact_accuracy"] for row in ROWS if row["pairs"] == 48]
    ends = [f"{end:.2f}".removeprefix("0") for end in (min(streams), max(streams))]
    assert "({} to {} by seed)".format(*ends) in TEXT_OF_PAGE
    assert f"Floor: {short(STREAM['floor'])}" in TEXT_OF_PAGE


def test_what_is_taught_stays():
    dreams, fast = FOUND[DREAMS], FOUND[FAST_WEIGHTS]
    first, last = dreams["by_day"][0], dreams["by_day"][-1]
    assert f"known to {score(first)} after six, the last to {last['mean']:.3f}" in TEXT_OF_PAGE
    said = f"have {score(fast['by_day'][0])} of the first day and {score(fast['recall'])} of all"
    assert said in TEXT_OF_PAGE
    more = STREAM["train_flops"] / (dreams["train_flops"] + dreams["flops"])
    said = f"have {score(STREAM['recall'])}, with {more:.1f} times the FLOPs, not apart"
    assert said in TEXT_OF_PAGE
    assert order(FOUND[DREAMS], STREAM) == order(FOUND[NO_EXPERT], STREAM) == 0
    said = f"{recall(DREAMS)} after six, taught to an expert a day, and to {recall(NO_EXPERT)}"
    assert said in TEXT_OF_PAGE


def test_an_expert_is_not_needed():
    assert order(FOUND[NO_EXPERT], FOUND[DREAMS]) == 0
    reading = [score(FOUND[arm]["reading"]) for arm in (NO_EXPERT, DREAMS)]
    assert "new windows {}, with experts {}, not apart".format(*reading) in TEXT_OF_PAGE
    assert read_order(NO_EXPERT, DREAMS) == 0


def test_text_is_not_kept():
    arms = (TEXT, "text, no expert", "text, rehearsed")
    said = "{} with an expert, {} without, {} with an expert and rehearsal"
    assert said.format(*map(recall, arms)) in TEXT_OF_PAGE
    assert all(order(FOUND[DREAMS], FOUND[arm]) > 0 for arm in arms)
    assert f"is known to {short(FOUND[STORED]['recall']['mean'])}" in TEXT_OF_PAGE


def test_what_dreams_need():
    today, one, alone = (
        FOUND[f"dreams{words}"] for words in (" of today", " of one teacher", ", nothing rehearsed")
    )
    assert f"Of today alone, {score(today['recall'])} is left" in TEXT_OF_PAGE
    assert f"fast weights hold today, {score(one['recall'])}: " in TEXT_OF_PAGE
    assert order(FOUND[DREAMS], today) == order(FOUND[DREAMS], one) == 1
    said = f"recall is {score(alone['recall'])} and new windows are read to"
    assert f"{said} {score(alone['reading'])}" in TEXT_OF_PAGE
    assert order(alone, FOUND[DREAMS]) == read_order("dreams, nothing rehearsed", DREAMS) == 0
    text = [score(FOUND[arm]["reading"]) for arm in (TEXT, "text, rehearsed")]
    said = "reading falls to {} with an expert, and is {} with rehearsal"
    assert said.format(*text) in TEXT_OF_PAGE and read_order("text, rehearsed", TEXT) > 0
    rewarded = FOUND["dreams, half for the reward"]
    assert f"The reward changes nothing**: {score(rewarded['recall'])}" in TEXT_OF_PAGE
    assert order(rewarded, FOUND[DREAMS]) == 0


def test_the_front_page_and_the_overview_of_findings_say_the_same():
    (row,) = re.findall(r"^\| `knowledge_seeding` .*$", README, flags=re.MULTILINE)
    overview = flat((COMMITTED / "README.md").read_text())
    for arm in (NO_EXPERT, FAST_WEIGHTS, TEXT):
        assert short(FOUND[arm]["recall"]["mean"]) in row
        assert recall(arm) in overview
    assert f"if trained for it {short(STREAM['recall']['mean'])}, not apart" in row
    assert recall(DREAMS) in overview and score(STREAM["recall"]) in overview
