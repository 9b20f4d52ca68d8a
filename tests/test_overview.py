"""All tasks at a glance: differences by hand."""

import math
from pathlib import Path
from typing import Any

import pytest

from experiments import presets
from experiments.report import overview
from experiments.report.groups import Interval
from sleep_jax.tasks.rule110 import Rule110Config
from tests.test_report_claims import row, seeds, source
from tests.test_report_depths import ROWS
from tests.test_report_depths import row as depth_row

ROOT = Path(__file__).parent.parent
COMMITTED = ROOT / "experiments" / "results"


def score(mean: float, low: float, high: float) -> Interval:
    return {"mean": mean, "ci95": [low, high], "n": 3, "ci95_over": "seeds"}


def test_a_difference_has_the_limits_of_both_means():
    gain = overview.difference(score(0.8, 0.5, 0.9), score(0.3, 0.2, 0.7))
    assert gain.mean == pytest.approx(0.5)
    assert gain.low == pytest.approx(0.5 - math.hypot(0.3, 0.4))
    assert gain.high == pytest.approx(0.5 + math.hypot(0.1, 0.1))
    assert not gain.apart
    back = overview.difference(score(0.3, 0.2, 0.7), score(0.8, 0.5, 0.9))
    assert (back.low, back.high) == pytest.approx((-gain.high, -gain.low))
    assert overview.difference(score(0.1, 0.0, 0.2), score(0.8, 0.5, 0.9)).apart


def test_rule110_has_a_line_a_depth_and_the_one_pass_that_spends_on_tokens():
    one, most = seeds(0.3), seeds(0.9, 4)
    spent = {
        match: row(right, match=match, train_tokens=4000, train_flops=4 * 10**9)
        for match, right in (("flops", 0.5), ("flops_width", 0.7))
    }
    deeper = seeds(0.1, rollout_steps=3)  # without a larger N there is nothing to compare
    (line,) = overview.lines([source([*one, *most, *spent.values(), *deeper])])
    assert (line.passes, line.seeds, line.is_learned) == (4, 1, True)
    assert line.cheap is not None
    means = line.one["mean"], line.most["mean"], line.cheap["mean"]
    assert means == pytest.approx((0.3, 0.9, 0.5))
    assert line.name == "Rule 110: t = 2, 1.0k tokens (made-up)"
    (cells,) = overview.cells([line])
    assert cells[2:4] == ["0.300 (N = 1), 0.900 (N = 4)", "0.500 (N = 1)"]
    assert cells[4].startswith("+0.600 [") and cells[4].endswith(" apart")
    assert cells[5].startswith("+0.400 [") and "N = " not in cells[5]


def test_few_passes_with_the_flops_of_the_largest_stand_beside_one_pass():
    spent: dict[str, Any] = dict(match="flops", train_tokens=4000, train_flops=4 * 10**9)
    matched = [row(0.5, **spent), row(0.8, 2, **spent), row(0.9, 3, **spent)]
    (line,) = overview.lines([source([*seeds(0.3), *seeds(0.9, 4), *matched[::-1]])])
    means = {n: score["mean"] for n, score in line.matched.items()}
    assert means == {1: 0.5, 2: 0.8, 3: 0.9} and line.few_passes == 2
    assert line.few_at_equal_flops is not None
    assert line.few_at_equal_flops.mean == pytest.approx(0.3)
    (cells,) = overview.cells([line])
    assert cells[3] == "0.500 (N = 1), 0.800 (N = 2), 0.900 (N = 3)"
    four, two = cells[5].split(", N = 2 ")
    assert four.startswith("+0.400 [") and two.startswith("+0.300 [")


def test_lines_go_by_task_and_then_by_depth():
    deep = [*seeds(0.3, rollout_steps=3), *seeds(0.9, 4, rollout_steps=3)]
    shallow = [*seeds(0.3), *seeds(0.9, 4)]
    found = overview.lines([source(ROWS, "depo"), source(deep), source(shallow)])
    assert [(line.task[:4], line.depth) for line in found] == [
        ("Rule", 2),
        ("Rule", 3),
        ("Depo", 1),
        ("Depo", 10),
    ]


def test_what_is_usual_is_the_cpu_preset():
    config = presets.cpu().config
    assert isinstance(config.task, Rule110Config)
    model, width = config.model, config.task.width
    said = f"{len(model.pattern)} blocks, d = {model.d_model} and W = {width} "
    assert all(said in title for title in overview.parts([]))


def test_a_line_says_what_was_not_done_as_usual():
    unusual: dict[str, Any] = dict(
        d_model=8, cache="slide", evaluation_split="validation", blocks=4, width=16
    )
    regime = "hard eviction for 33%"
    plain = [*seeds(0.3, **unusual), *seeds(0.9, 4, **unusual)]
    staged = [*seeds(0.2, regime=regime, **unusual), *seeds(0.8, 4, regime=regime, **unusual)]
    said = "4 blocks, d = 8, cache slides, validation split"
    (line,) = overview.lines([source([*plain, *staged])])
    assert line.task == f"Rule 110: t = 2, W = 16, 1.0k tokens, {said}"
    assert line.most["mean"] == pytest.approx(0.9) and line.scouted
    (line,) = overview.lines([source(staged)])
    assert line.task == f"Rule 110: t = 2, W = 16, 1.0k tokens, {regime}, {said}"


def test_other_tasks_have_a_line_a_depth_and_what_nobody_learned_is_named():
    first, second = overview.lines([source(ROWS, "depo")])
    assert first.name == "Depo: 1 hop, 1.0k tokens (made-up)" and first.seeds == 2
    assert second.task == "Depo: 10 hops, 1.0k tokens"
    assert second.at_equal_tokens.mean == pytest.approx(0.6)
    assert second.at_equal_flops is not None and not second.at_equal_flops.apart
    rows = [depth_row(passes=n, right=(0.9, 0.2)) for n in (1, 2)]
    found = overview.lines([source(rows, "gsm_infinite")])
    assert [line.is_learned for line in found] == [True, False]  # the floor is .2
    table = overview.table(found)
    assert len(table.splitlines()) == 3 and "not run" in table
    named = overview.markdown(found).rpartition("\n\n")[2]
    assert named == f"No mean is above the floor, so in no table: {found[1].name}.\n"


def test_results_come_before_what_has_few_seeds_or_was_tuned_on():
    three = [row(right, n, seed=seed) for n, right in ((1, 0.3), (4, 0.9)) for seed in range(3)]
    two = [one for one in three if one["seed"] < 2]
    scouts = [{**one, "evaluation_split": "validation"} for one in three]
    found = overview.lines([source(rows) for rows in (two, three, scouts)])
    assert [line.is_main for line in found] == [False, True, False]
    main, rest = overview.parts(found).values()
    assert main == [found[1]] and rest == [found[0], found[2]]
    _, first, _, second, _ = overview.markdown(found).split("\n\n")
    assert first + "\n" == overview.table(main) and second + "\n" == overview.table(rest)


def test_a_sweep_that_repeats_another_is_shown_once():
    rows = [*seeds(0.3), *seeds(0.9, 4)]
    again, other = source(rows), source([*rows, row(0.5, match="flops", train_tokens=4000)])
    assert overview.lines([again, again]) == overview.lines([again])
    spent: dict[str, Any] = dict(match="flops", train_tokens=4000, train_flops=4 * 10**9)
    more = source([*rows, row(0.8, 2, **spent)])
    for both in ([again, more], [more, again]):  # the one that says more
        assert overview.lines(both) == overview.lines([more]) != overview.lines([again])
    assert len(overview.lines([again, other])) == 2


def test_the_figure_has_the_first_table_alone(tmp_path):
    rows = [row(right, n, seed=seed) for n, right in ((1, 0.3), (4, 0.9)) for seed in range(3)]
    tested = overview.lines([source(rows)])
    scouts = [source([{**one, "evaluation_split": "validation"} for one in rows])]
    few = [source([one for one in rows if one["seed"] < 2])]
    settled = [source([{**one, "exact_accuracy": 0.995} for one in rows])]
    others = {"tested": [], "both": scouts, "all": few, "settled": settled}
    for name, found in others.items():
        overview.draw([*tested, *overview.lines(found)], tmp_path / f"{name}.png")
    assert len({path.read_bytes() for path in tmp_path.glob("*.png")}) == 1
