"""What each N needs, side by side: lines by hand."""

from pathlib import Path

import pytest

from experiments.report import needs, style
from tests.test_cost_of_depth import took
from tests.test_report_claims import source

ROOT = Path(__file__).parent.parent
COMMITTED = ROOT / "experiments" / "results"


def of(rows, experiment="cost_of_depth", preset="made-up"):
    return source(rows, experiment, preset=preset)


def hops(rows):
    """The same rows, of Depo."""
    return [{**one, "max_hops": one["rollout_steps"], "nodes": 6} for one in rows]


FEW = [*took([8, 8.1, 8.2]), *took([4, 4.1, 4.2], 2)]
BOTH = [*FEW, *took([9, 9.1, 9.2], 4)]


def test_a_line_has_every_n_of_a_depth_and_says_what_is_apart():
    (line,) = found = needs.lines([of(BOTH)])
    assert needs.header(found)[3:6] == ["N = 1", "N = 2", "N = 4"]
    ((task, blocks, depth, one, two, four, rates, seeds, name),) = needs.cells(found)
    assert rates == "not recorded"
    assert (task, blocks, depth, seeds) == ("Rule 110, W = 12", "2", "t = 2", "3")
    assert one.startswith("0.01 [") and one.endswith("]") and name == "run: cost_of_depth/made-up"
    assert two.endswith("] less") and four.endswith("] more")
    assert line.as_is and not needs.lines([of(BOTH, preset="cpu")])[0].as_is


def test_lines_go_by_task_blocks_and_depth_and_presets_come_first():
    deep = [{**one, "blocks": 4} for one in BOTH]
    shallow = [{**one, "rollout_steps": 1} for one in FEW]
    given = [of(hops(FEW), "cost_of_depth_depo"), of(deep), of(BOTH, preset="cpu"), of(FEW)]
    found = needs.lines([*given, of(shallow)])
    assert [(line.task, line.blocks, line.at) for line in found] == [
        ("Rule 110, W = 12", 2, "t = 1"),
        ("Rule 110, W = 12", 2, "t = 2"),
        ("Rule 110, W = 12", 2, "t = 2"),
        ("Rule 110, W = 12", 4, "t = 2"),
        ("Depo, 6 nodes", 2, "k = 2"),
    ]
    assert [sorted(line.groups) for line in found[1:3]] == [[1, 2], [1, 2, 4]]
    panels = needs.firsts(found)
    assert [line.depth for line in panels["Rule 110, W = 12", 2]] == [1, 2] and len(panels) == 3
    assert [cells[5] for cells in needs.cells(found)][0] == "not run"
    first, others = needs.parted(found)
    assert len(first) == 4 and others == [found[2]] and not others[0].as_is
    tables = needs.markdown(found).split(needs.OTHERS)
    assert [text.count("\n| ") for text in tables] == [5, 3]  # the first table begins the text
    assert needs.OTHERS not in needs.markdown(first)


def test_a_narrower_model_is_a_line_of_its_own():
    narrow, usual = (
        source(BOTH, "cost_of_depth", preset="made-up", config={"model.mlp_hidden": hidden})
        for hidden in (2, 128)
    )
    found = needs.lines([narrow, usual, of(FEW)])
    names = [line.task for line in found]
    assert names == ["Rule 110, W = 12"] * 2 + ["Rule 110, W = 12, MLPs of 2"]
    assert len(needs.firsts(found)) == 2


def test_other_blocks_with_fast_weights_are_a_line_of_their_own():
    delta = "gated_delta_net"
    patterns = (["attention", delta] * 2, ["attention"] * 3 + [delta], ["attention", delta, delta])
    given = [
        source(BOTH, "cost_of_depth", preset="made-up", config={"model.pattern": pattern})
        for pattern in patterns
    ]
    assert sorted(line.task.partition("W = 12")[2] for line in needs.lines(given)) == [
        "",
        ", fast weights in block 4 of 4",
        ", fast weights in blocks 2, 3 of 3",
    ]


@pytest.mark.parametrize(
    "rows",
    [
        took([8, 8.1, 8.2]),  # nothing beside N = 1
        [*took([4, 4.1, 4.2], 2), *took([8, 8.1, 8.2], 4)],  # N = 1 is not there
        [*took([8, 8.1]), *took([4, 4.1], 2)],  # too few seeds
        [{**one, "evaluation_split": "validation"} for one in BOTH],
        [{**one, "target_accuracy": 0.5} for one in BOTH],
    ],
)
def test_what_cannot_be_compared_has_no_line(rows, tmp_path):
    assert needs.lines([of(rows)]) == []
    needs.draw([], tmp_path / "needs.png")
    assert (tmp_path / "needs.png").read_bytes().startswith(b"\x89PNG")


def test_a_limit_is_marked_and_neither_less_nor_more():
    rows = [*took([90, 91, 92], reached=False), *took([94, 95, 96], 2, reached=False)]
    ((*_, one, two, _, _, _),) = needs.cells(needs.lines([of(rows)]))
    assert (one, two) == ("> 0.09", "> 0.09")


def test_rates_that_differ_stand_by_n():
    key = "optimizer.muon_learning_rate"
    rows = [{**one, "config": {key: 0.005 if one["passes"] == 1 else 0.01}} for one in BOTH]
    assert needs.cells(needs.lines([of(rows)]))[0][6] == "0.005, 0.01, 0.01"
    alike = source(BOTH, "cost_of_depth", config={key: 0.005})
    assert needs.cells(needs.lines([alike]))[0][6] == "0.005"


def test_panels_go_on_in_a_row_of_their_own_where_one_is_full():
    places = needs._places([*(("Rule 110", n) for n in (6, 5, 2, 3)), ("Depo", 10), ("Depo", 1)])
    assert [place.row for place in places] == [0, 0, 0, 1, 2, 2]
    assert [place.columns.start for place in places] == [0, 6, 11, 0, 0, 10]
    assert places[-1].columns.stop == 11 and places[2].columns.stop == needs._SHARES


def test_titles_are_no_wider_than_a_narrow_panel():
    parts = ("W = 12", "fast weights turned at windows' ends")
    assert style.title(*parts) == "W = 12\nfast weights turned at\nwindows' ends"
