"""What experiments/results says of ConSA."""

import re

import pytest

from experiments.report import claims_choices
from experiments.report.verdicts import Verdict
from experiments.report.words import quote
from tests.test_readme import COMMITTED, README, committed, flat

PAGE = (COMMITTED / "consa.md").read_text()
TEXT = flat(PAGE)
OVERVIEW = flat((COMMITTED / "README.md").read_text())
SOURCE, DEEP = committed("consa/cpu"), committed("consa/deep")
FOUND = {group["name"]: group for group in SOURCE.summary}
FOUR = {group["name"]: group for group in DEEP.summary}
ONE, TWO = "1 of 4 heads whole, ", "2 of 4 heads whole, "
LATE, EARLY, LONG = (f"learned at {x}" for x in ("0.6 to 0.75", "0 to 0.15", "0 to 0.75"))


def points(group):
    return re.sub(r"\b0\.", ".", quote(group["recall"]))


def whole(group, block):
    """In how many seeds a block has a head that reads all."""
    return sum(by[block] > 0 for by in group["by_block"])


def test_the_tables_are_those_of_the_results():
    for preset, source in (("cpu", SOURCE), ("deep", DEEP)):
        table = (COMMITTED / "consa" / preset / "table.md").read_text().split("\n\n")[1]
        assert table in PAGE
        assert f"commit {source.results['commit']}" in TEXT


def test_sentences():
    full, late = FOUND["all of the cache"], FOUND[ONE + LATE]
    assert (
        f"{quote(late['recall'])} of the pairs, where the whole cache has {quote(full['recall'])}"
        in TEXT
    )
    top, bottom = FOUND[ONE + "top"], FOUND[ONE + "bottom"]
    for said in (
        f"one whole head in the second block {quote(top['recall'])} is recalled",
        f"in the first {points(bottom)}, as little",
        f"({points(FOUND[TWO + 'bottom'])}); with none {points(FOUND['0 of 4 heads whole'])}",
        "at 0 to .15 it has it in two of five (.531), where lots have it in four (.843)",
        "fast weights, which recall " + points(FOUND["fast weights, N = 1"]),
        "5,248 of 16,384 here, less than the 8,192",
    ):
        assert said.lower() in TEXT.lower(), said
    assert (late["state_bytes"], full["state_bytes"]) == (5248, 16384)
    assert FOUND["fast weights, N = 1"]["state_bytes"] == 8192
    assert [whole(FOUND[ONE + kind], 1) for kind in (LATE, LONG, "ranked at 0.75")] == [5, 5, 5]
    assert whole(FOUND[ONE + EARLY], 1) == 2 and whole(FOUND[ONE + "random"], 1) == 4
    means = [FOUND[ONE + kind]["recall"]["mean"] for kind in (EARLY, "random", "ranked at 0.75")]
    assert [f"{mean:.3f}" for mean in means] == ["0.531", "0.843", "1.000"]
    shares = [FOUND[ONE + kind]["decided"]["expected_local"] for kind in (LATE, LONG)]
    assert [f"{share:.3f}" for share in shares] == ["0.495", "0.715"]
    minutes = SOURCE.results["wall_seconds"] / 60
    assert f"{minutes:.0f} minutes of run time" in TEXT


def test_fewer_whole_heads_are_learned_sooner():
    tokens = [
        FOUND[name]["tokens_to_learn"] for name in (TWO + "top", ONE + "top", "all of the cache")
    ]
    ends = [f"{min(x) / 1e6:.2f} to {max(x) / 1e6:.2f}".replace("0.", ".") for x in tokens]
    assert f"after {ends[0]} million tokens by two heads" in TEXT
    assert f"{ends[1]} by one; with the whole cache after {ends[2]}." in TEXT
    assert max(*tokens[0], *tokens[1]) < min(tokens[2])


@pytest.mark.parametrize(
    "judge, verdict",
    [
        (claims_choices.half_is_enough, Verdict.SHOWN),
        (claims_choices.above_rule, Verdict.NOT_SHOWN),
        (claims_choices.above_lots, Verdict.NOT_SHOWN),
        (claims_choices.early_is_above_lots, Verdict.NOT_SHOWN),
    ],
)
def test_what_is_shown(judge, verdict):
    assert judge(SOURCE).verdict is verdict


def test_the_front_page_and_the_overview_say_the_same():
    (row,) = re.findall(r"^\| `consa` .*$", README, flags=re.MULTILINE)
    first = f"{FOUND[ONE + 'bottom']['recall']['mean']:.3f}".removeprefix("0")
    assert f"in the second block (1.000; in the first {first})" in row
    assert f"recalled with {quote(FOUND[ONE + 'top']['recall'])}, with one in the first" in OVERVIEW
    assert f"in the first {points(FOUND[ONE + 'bottom'])}. Learned" in OVERVIEW


def test_four_blocks():
    late = {name: FOUR[f"{name} heads whole, {LATE}"] for name in ("4 of 8", "2 of 8")}
    full, long = FOUR["all of the cache"], FOUR["2 of 8 heads whole, " + LONG]
    seeds = (0, 2)  # in which the whole cache fails or is late
    values = [f"{group['values'][i]:.3f}"[1:] for group in late.values() for i in seeds]
    assert (
        "ends with {} and {} in these seeds (half of the heads whole), {} and {}".format(*values)
        in TEXT
    )
    assert f"does not get there ({full['values'][0]:.3f})".replace("0.", ".") in TEXT
    assert (
        full["tokens_to_learn"][0] is None and f"{full['tokens_to_learn'][2] / 1e6:.2f}" == "2.67"
    )
    others = [group["values"][i] for group in late.values() for i in (1, 3, 4)]
    assert min(others + long["values"]) > 0.9985
    rules = [
        FOUR[f"2 of 8 heads whole, {kind}"]["tokens_to_learn"]
        for kind in ("middle", "top", "random")
    ]
    rules.append(FOUR["4 of 8 heads whole, the same number of each block"]["tokens_to_learn"])
    tokens = sorted(x for rule in rules for x in rule)
    learned = [x for x in full["tokens_to_learn"] if x is not None]
    assert (
        f"after {tokens[0] / 1e6:.2f} to {tokens[-1] / 1e6:.2f} million".replace("0.", ".") in TEXT
    )
    assert f"the whole cache takes {min(learned) / 1e6:.2f} at least" in TEXT
    assert tokens[-1] < min(learned)
    bottom = FOUR["2 of 8 heads whole, bottom"]["recall"]["mean"]
    assert f"in the first block recall {bottom:.3f}".replace("0.", ".") in TEXT
    assert all(sum(by[1:]) for group in (*late.values(), long) for by in group["by_block"])
    finding = claims_choices.in_the_middle(DEEP)
    assert finding.verdict is Verdict.NOT_SHOWN
    assert "first -0.30 [-1.13, +0.53], less the last +0.70 [-0.13, +1.53]" in finding.numbers
    assert f"{DEEP.results['wall_seconds'] / 60:.0f} minutes of run time" in TEXT
