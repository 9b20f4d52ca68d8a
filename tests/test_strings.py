"""What each N needs to answer each string: lines by hand."""

from pathlib import Path

import pytest

from experiments.report import claims_strings, sources, strings
from experiments.report.verdicts import Verdict
from tests.test_cost_of_depth import point, took
from tests.test_report_claims import source

ROOT = Path(__file__).parent.parent
COMMITTED = ROOT / "experiments" / "results"
SCORES = {1: ["0.60 0.95", "0.60 0.95", "0.92 0.96"], 2: ["0.60 0.55", "0.93 0.89", "0.95 0.93"]}


def asked(passes, at, **changes):
    """Four seeds that were looked at three times, `at` in units of 1e9 FLOPs; two strings."""
    curve = [
        point(
            flops,
            exact_accuracy=0.5 if flops < at[-1] else 0.9,
            label_accuracy_by_position=dict(zip("12", map(float, scores.split()), strict=True)),
        )
        for flops, scores in zip(at, SCORES[passes], strict=True)
    ]
    return took([at[-1]] * 4, passes, curve=curve, **changes)


def of(rows, **changes):
    return source(rows, "cost_of_depth", preset="made-up", **changes)


BOTH = [*asked(1, (2, 4, 8)), *asked(2, (3, 5, 6))]


def test_each_string_counts_from_the_first_evaluation_at_which_it_was_right():
    one, two = strings.lines([of(BOTH)])
    assert (one.task, one.blocks, one.at) == ("Rule 110, W = 12", 2, "t = 2")
    assert [line.passes for line in (one, two)] == [1, 2] and one.as_is
    assert [group["flops"] for group in (*one.strings, one.whole)] == [
        [8 * 10**9] * 4,
        [2 * 10**9] * 4,
        [8 * 10**9] * 4,
    ]
    assert [group["flops"][0] // 10**9 for group in (*two.strings, two.whole)] == [5, 6, 6]
    assert one.strings[0]["flops_before"] == [4 * 10**9] * 4
    assert one.strings[1]["flops_before"] == [0] * 4  # there when it was first looked at


def test_the_table_says_what_is_apart_of_the_same_string():
    found = strings.lines([of(BOTH)])
    assert strings.header(found) == [
        *["task", "blocks", "depth", "N", "string 1", "string 2", "all", "seeds", "source"]
    ]
    one, two = strings.cells(found)
    assert not any("less" in cell or "more" in cell for cell in one)
    # The interval begins at the evaluation before: [4, 8] and [3, 5] overlap.
    assert [cell.rpartition("]")[2] for cell in two[4:7]] == ["", " more", ""]
    assert one[5] == "< 0.00"


def test_what_was_never_right_is_a_limit():
    rows = [*BOTH[4:], *asked(1, (2, 4, 8), reached=False)]
    never = [
        {**row, "curve": row["curve"][:1], "reached": False} if row["passes"] == 1 else row
        for row in rows
    ]
    one, _ = strings.cells(strings.lines([of(never)]))
    assert one[4] == "> 0.01" and not one[5].startswith(">")


@pytest.mark.parametrize(
    "rows, experiment",
    [
        (took([8, 8.1, 8.2]), "cost_of_depth"),  # positions were not recorded
        (BOTH[:2] + BOTH[4:6], "cost_of_depth"),  # too few seeds
        ([{**row, "evaluation_split": "validation"} for row in BOTH], "cost_of_depth"),
        (BOTH, "ttt_e2e"),
        (
            [
                {
                    **row,
                    "curve": [
                        {**p, "label_accuracy_by_position": {"1": 1.0}} for p in row["curve"]
                    ],
                }
                for row in BOTH
            ],
            "cost_of_depth",
        ),  # one string
    ],
)
def test_what_cannot_be_told_apart_has_no_line(rows, experiment, tmp_path):
    given = source(rows, experiment, preset="made-up") if experiment == "cost_of_depth" else None
    assert strings.lines([given] if given else []) == []
    strings.draw([], tmp_path / "strings.png")
    assert (tmp_path / "strings.png").read_bytes().startswith(b"\x89PNG")


def test_on_a_ladder_a_string_counts_on_its_rung():
    """As the depth itself does: what a run had not learned when it left is a limit."""
    found = {
        (line.depth, line.passes): line
        for line in strings.lines(sources.committed(COMMITTED))
        if line.source == "rollout_ladder/deep"
    }
    for line in found.values():
        for group in line.strings:
            pairs = zip(group["flops"], line.whole["flops"], strict=True)
            whole = zip(group["reached"], line.whole["reached"], strict=True)
            # All four right means each of them right.
            assert all(string <= every for string, every in pairs)
            assert all(string >= every for string, every in whole)
    assert found[1, 1].strings[-1]["flops"] != found[1, 1].whole["flops"]


def test_one_pass_forgets_where_its_last_string_comes_before_its_first():
    judge = claims_strings.one_pass_forgets
    found = judge(of(BOTH))
    assert found.verdict == Verdict.SHOWN
    assert (
        "t = 2: N = 1 8.00e09" in found.numbers
        and "< 2.00e09, apart, N = 2 5.00e09" in found.numbers
    )
    assert found.scale == "t = 2, Rule 110, W = 12, 2 blocks, 4 seeds or more"
    # Two passes do so as well; then it says nothing of the second.
    alike = [{**row, "passes": 2, "match": "flops"} for row in BOTH[:4]]
    assert judge(of([*BOTH[:4], *alike])).verdict == Verdict.NOT_SHOWN
    never = [{**row, "passes": 3 - row["passes"]} for row in BOTH]
    assert judge(of(never)).verdict == Verdict.NOT_SHOWN
    assert judge(of(BOTH[:4])).verdict == judge(of(took([1, 2, 3]))).verdict == Verdict.NOT_RUN


def test_where_one_pass_forgets_among_the_committed_results():
    named = {s.name: s for s in sources.committed(COMMITTED)}
    said = {
        name: claims_strings.one_pass_forgets(named[name]).verdict
        for name in ("cost_of_depth/w24_t4", "rollout_ladder/deep", "rollout_ladder/four_blocks")
    }
    assert list(said.values()) == [Verdict.SHOWN, Verdict.SHOWN, Verdict.NOT_SHOWN]


def test_a_panel_has_one_line_a_depth_and_n_and_presets_come_first():
    other = of([*asked(1, (3, 6, 9)), *asked(2, (3, 5, 6))])
    later = strings.lines([of(BOTH), other])
    assert len(later) == 4
    ((setting, panel),) = strings.panels(later).items()
    assert setting == ("Rule 110, W = 12", 2) and len(panel) == 2
