"""`EXP=cost_of_depth`: its plan, all of it at its smallest, and its report on made-up rows."""

import dataclasses
import functools
import json
import math

import pytest
from absl import flags
from absl.testing import flagsaver
from matplotlib.figure import Figure

from experiments import binary, cost_of_depth, until_learned
from experiments.report import (
    claims_depth_cost,
    depth_cost,
    depth_cost_figure,
    needed,
)
from experiments.report.files import ReportError
from experiments.report.sources import load
from experiments.report.verdicts import Verdict
from sleep_jax.flops import training_flops
from sleep_jax.training.evaluation import exact_at_greatest_depth
from tests.from_outside import ends, run
from tests.test_report_claims import row, source


@pytest.mark.parametrize(
    "chosen, warmup", [("cpu", 36), ("deep", 36), ("four_blocks", 18), ("narrow_mlp", 36)]
)
def test_every_n_may_spend_the_same_and_warms_up_for_as_long(chosen, warmup):
    preset = cost_of_depth.EXPERIMENT.presets[chosen]()
    planned = binary.plan(cost_of_depth.EXPERIMENT, preset)
    assert len(planned) == sum(map(len, preset.depths.values())) * len(preset.passes)
    assert len({cell.name for cell in planned}) == len(planned)
    most = training_flops(planned[0].config)
    for cell in planned:
        steps, rate = cell.config.steps, cell.config.optimizer
        assert training_flops(cell.config) == pytest.approx(most, rel=0.001)
        assert round(rate.warmup_fraction * steps) == warmup and rate.decay_fraction == 0


@pytest.mark.parametrize("planned", [until_learned.planned, None])
def test_one_pass_with_more_tokens_has_its_own_rate_unless_one_is_given(planned):
    experiment = dataclasses.replace(cost_of_depth.EXPERIMENT, planned=planned)
    preset = cost_of_depth.cpu()
    usual = preset.config.optimizer.muon_learning_rate

    def rates():
        return {
            (cell.config.sleep.passes, cell.match, cell.config.optimizer.muon_learning_rate)
            for cell in binary.plan(experiment, binary.select(experiment, preset))
        }

    flags.FLAGS.mark_as_parsed()
    with flagsaver.flagsaver(seeds=["0"], match=["tokens", "blocks"]):
        assert preset.matched_rates == {1: 5e-3}
        own = {(1, "flops", 5e-3)}
        assert own == {one for one in rates() if one[2] != usual}
        with flagsaver.flagsaver(set=[f"optimizer.muon_learning_rate={usual}"]):
            assert {rate for _, _, rate in rates()} == {usual}


def test_one_pass_alone_has_the_rate_that_it_has_beside_others():
    preset = cost_of_depth.narrow_mlp()
    for passes in ((1, 2), (1,)):
        planned = binary.plan(cost_of_depth.EXPERIMENT, dataclasses.replace(preset, passes=passes))
        ones = [cell.config for cell in planned if cell.config.sleep.passes == 1]
        assert {config.optimizer.muon_learning_rate for config in ones} == {5e-3}


def test_the_smoke_preset_and_what_it_refuses(tmp_path):
    arguments = ("experiments", "cost_of_depth", "--preset=smoke", f"--workdir={tmp_path}")
    flags = ("--jobs=1", "--seeds=0", "--match=tokens,blocks", "--set=train.target_accuracy=0.3")
    result = run(*arguments, *flags)
    assert result.returncode == 0, result.stderr
    directory = tmp_path / "cost_of_depth" / "smoke"
    results = json.loads((directory / "results.json").read_text())
    assert results["missing"] == [] and len(results["rows"]) == 3
    for one in results["rows"]:
        early = [point["exact_accuracy"] >= 0.3 for point in one["curve"]]
        assert one["reached"] == early[-1] and not any(early[:-1])
        assert one["reached"] or one["train_flops"] == one["budget_flops"]
    assert (directory / "needs_by_depth.png").read_bytes().startswith(b"\x89PNG")
    assert (directory / "table.md").read_text() in result.stdout
    assert "| 1, more blocks |" in (directory / "table.md").read_text()
    assert (
        "Muon's rate is 0.005 for N = 1, more tokens, and 0.01 for N = 1, more blocks; N = 2."
        in (result.stdout)
    )
    refused = ends(*arguments, "--set=train.target_accuracy=0", "--dry_run")
    assert (
        refused.returncode == 2 and "is not possible here; allowed: more than 0" in refused.stderr
    )
    plan = ends(*arguments, "--dry_run")
    assert plan.returncode == 0 and "FLOPs, at most " in plan.stdout
    assert "Muon's own products: +" in plan.stdout and "% at N = 2" in plan.stdout
    other = ("experiments", "depo", "--dry_run", "--set=train.target_accuracy=0.9")
    refused = ends(*other)
    assert (
        refused.returncode == 2
        and "allowed: 0, or EXP=rollout_ladder, cost_of_depth, cost_of_depth_depo, ttt_e2e, lclm"
        in refused.stderr
    )


summarise = functools.partial(depth_cost.summarise, depth_cost.RULE_110)


def test_what_is_to_be_learned_is_the_greatest_depth():
    by_depth = {"2": {"exact_accuracy": 0.9}, "16": {"exact_accuracy": 0.3}}
    assert exact_at_greatest_depth({"exact_accuracy": 0.6, "by_depth": by_depth}) == 0.3
    assert exact_at_greatest_depth({"exact_accuracy": 0.6}) == 0.6


def test_the_smoke_preset_of_hops(tmp_path):
    arguments = ("experiments", "cost_of_depth_depo", "--preset=smoke", f"--workdir={tmp_path}")
    length = ("--passes=2", "--match=", "--set=train.tokens=8000", "--set=train.evaluations=8")
    result = run(*arguments, "--jobs=1", *length, "--set=train.target_accuracy=0.1")
    assert result.returncode == 0, result.stderr
    directory = tmp_path / "cost_of_depth_depo" / "smoke"
    rows = json.loads((directory / "results.json").read_text())["rows"]
    (one,) = rows
    early = [point["by_depth"]["2"]["exact_accuracy"] >= 0.1 for point in one["curve"]]
    assert one["reached"] == early[-1] and not any(early[:-1])
    assert "| k = 2, 4 nodes | 2 |" in (directory / "table.md").read_text()
    assert (directory / "needs_by_depth.png").read_bytes().startswith(b"\x89PNG")


def took(flops, passes=1, depth=2, reached=True, **changes):
    """Rows of one N, a seed for each of `flops`, in units of 1e9; N = 4 is what others match.

    None of them was seen before the end.
    """
    return [
        row(
            0.9,
            passes,
            seed,
            rollout_steps=depth,
            match="tokens" if passes == 4 else "flops",
            train_flops=round(taken * 1e9),
            train_tokens=round(taken * 1000 / passes),
            target_accuracy=0.9,
            reached=reached or seed > 0,
            budget_flops=10**11,
            blocks=2,
            **changes,
        )
        for seed, taken in enumerate(flops)
    ]


def point(flops, **changes):
    """Of a curve, after as many FLOPs, in units of 1e9."""
    return {
        "step": flops,
        "train_flops": flops * 10**9,
        "train_tokens": flops * 1000,
        "exact_accuracy": 0.9,
        "label_accuracy": 0.9,
        **changes,
    }


def test_what_is_needed_is_a_geometric_mean_with_its_interval():
    (group,) = summarise(took([1, 10, 100]))
    assert group["needed_flops"]["mean"] == pytest.approx(1e10)
    limits = group["needed_flops"]["ci95"]
    assert limits is not None
    half = 4.302652729911275 * math.log(10) / math.sqrt(3)  # Student t at .975, two degrees
    assert limits == pytest.approx((1e10 * math.exp(-half), 1e10 * math.exp(half)))
    assert needed.need([5], [5], [True])["ci95"] is None


def test_what_was_learned_when_first_looked_at_is_an_upper_limit():
    early, late = took([7] * 4), took([10] * 4, 2)
    for one in early:
        one["curve"] = [point(7)]
    first, second = summarise([*early, *late])
    assert first["flops_before"] == first["tokens_before"] == [0] * 4
    assert first["needed_flops"]["ci95"] is None and needed.quote(first) == "< 7.00e09"
    # At most 7 is less than 10, but need not be more than 6.
    assert needed.less(first, second)
    assert depth_cost.lines([first, second])[1][7] == "< 0.70"
    sooner = summarise(took([6] * 4, 2))[0]
    assert not needed.less(sooner, first) and not needed.less(first, sooner)
    both = [{**one, "reached": i > 0} for i, one in enumerate(early)]
    both[0]["curve"] = [point(7, exact_accuracy=0.5)]
    (group,) = summarise(both)
    assert needed.limit_sign(group) == "~ "
    assert depth_cost.lines([group, second])[1][7] == "not known"


def test_an_interval_reaches_back_to_the_evaluation_before():
    rows = took([7, 7, 7])
    for one, before in zip(rows, (6, 6, 5), strict=True):
        seen = [before - 4, before, 7]
        one["curve"] = [point(flops) for flops in seen]
    (group,) = summarise(rows)
    assert group["flops_before"] == [6 * 10**9, 6 * 10**9, 5 * 10**9]
    assert group["tokens_before"] == [6000, 6000, 5000]
    limits = group["needed_flops"]["ci95"]
    assert limits is not None
    assert group["needed_flops"]["mean"] == pytest.approx(7e9) == pytest.approx(limits[1])
    logs = [math.log(one) for one in (6e9, 6e9, 5e9)]
    half = 4.302652729911275 * (logs[0] - logs[2]) / 3  # the deviation of two equal and a third
    assert limits[0] == pytest.approx(math.exp(sum(logs) / 3 - half))


def test_easier_depths_are_read_from_the_curve():
    """k = 1 at the first evaluation that has it, whatever comes later; k = 4 is the target."""
    scores = {"1": (0.2, 0.91, 0.95, 0.8), "2": (0.1, 0.2, 0.3, 0.89), "4": (0.0, 0.1, 0.2, 0.9)}
    (one,) = took([8], max_hops=4, nodes=8)
    one["by_depth"] = scores
    one["curve"] = [
        point(flops, by_depth={k: {"exact_accuracy": score[i]} for k, score in scores.items()})
        for i, flops in enumerate((2, 4, 6, 8))
    ]
    (group,) = depth_cost.summarise(depth_cost.DEPO, [one])
    easy, middle = group["easier"]
    assert (easy["at"], middle["at"]) == ("k = 1", "k = 2")
    assert (easy["reached"], easy["flops"], easy["flops_before"]) == ([True], [4e9], [2e9])
    assert (middle["reached"], middle["flops"]) == ([False], [8e9])
    said = depth_cost.conclude([group])
    assert " On the way, at k = 1 N = 1 4.00e09; at k = 2 N = 1 > 8.00e09. " in said
    assert "On the way" not in depth_cost.conclude(summarise(took([8])))


def test_a_mean_that_not_all_seeds_reached_is_drawn_as_a_triangle():
    summary = summarise([*took([40, 90], reached=False), *took([20, 21], 2)])
    axis = Figure().add_subplot()
    depth_cost_figure._panel(axis, summary, "flops")
    means = [line for line in axis.lines if line.get_markersize() == 4]
    drawn = {
        line.get_label(): line.get_markevery() for line in means if line.get_markevery() is not None
    }
    assert drawn == {"N = 1": [], "N = 2": [0]}
    (interval,) = (line for line in axis.lines if line.get_linewidth() == 1)
    assert interval.get_ydata() == pytest.approx(summary[1]["needed_flops"]["ci95"])
    (limit,) = (line for line in means if line.get_markevery() is None)
    assert limit.get_marker() == "^"
    assert limit.get_ydata() == pytest.approx([summary[0]["needed_flops"]["mean"]])


def test_what_was_not_reached_is_a_lower_limit():
    given = [*took([90, 100], reached=False), *took([20, 21], 2), *took([95, 96], 4, reached=False)]
    one, two, four = summarise(given)
    assert one["needed_flops"]["ci95"] is None and one["reached"] == [False, True]
    assert not needed.less(one, two) and not needed.less(two, one)  # two seeds each
    assert needed.ratio(two, one)["ci95"] is None is needed.ratio(one, two)["ci95"]
    header, lines = depth_cost.HEADER, depth_cost.lines([two, one, four])
    first, second, third = (dict(zip(header, line, strict=True)) for line in lines)
    assert first["N"] == "1" and first["reached"] == "1 of 2"
    assert first["FLOPs to the target [95%]"] == "> 9.49e10"
    assert first["by seed, 1e12"] == ">0.09 0.1" and first["N = 1 takes, times"] == "1"
    assert second["N = 1 takes, times"] == "> 4.63" and third["N = 1 takes, times"] == "not known"


def test_what_was_seen_is_told_beside_what_was_not_where_the_budget_was_too_small():
    rows = [*took([90, 100, 100], depth=5, reached=False), *took([20, 21], 2, depth=5)]
    rows[1]["reached"] = False
    for one, trained, unseen in zip(rows, (0.9, 0.98, 0.1, 0.2, 0.3), (0.6, 0.8) * 3, strict=False):
        one["curve"] = [
            point(1, trained_exact_accuracy=0.5),
            point(2, trained_exact_accuracy=trained, exact_accuracy=unseen),
        ]
    summary = summarise(rows)
    assert [group.get("fit") for group in summary] == [{"trained": 0.94, "unseen": 0.7}, None]
    assert (
        " What spent its budget in vain ended with an exact accuracy, at t = 5 N = 1, of 0.94 on "
        "what it trained on and 0.70 on what it did not. " in depth_cost.conclude(summary)
    )
    del rows[0]["curve"][-1]["trained_exact_accuracy"]  # of an older commit
    assert "in vain" not in depth_cost.conclude(summarise(rows))


@pytest.mark.parametrize(
    "one, two, apart",
    [
        ([90, 91, 92, 93], [20, 21, 22, 23], True),
        ([90, 91, 92], [20, 21, 22], False),  # one order of twenty is too easily chance
        ([90, 91, 92, 93], [20, 21, 22, 92.5], False),
        ([90, 90, 90, 90], [20, 21, 22, 89.9], False),  # all of its own budget, a step shorter
    ],
)
def test_without_intervals_all_seeds_must_lie_apart(one, two, apart):
    unsolved, solved = summarise([*took(one, reached=False), *took(two, 2)])
    assert needed.less(solved, unsolved) == apart
    assert not needed.less(unsolved, solved)
    both = summarise([*took(one, reached=False), *took(two, 2, reached=False)])
    assert not needed.less(*both[::-1])


def test_the_ratio_of_two_has_the_limits_of_both():
    one, two = summarise([*took([40, 50]), *took([10, 20], 2)])
    found = needed.ratio(one, two)
    assert found["mean"] == pytest.approx(math.sqrt(2000 / 200))
    halves = [
        [abs(math.log(limit / group["needed_flops"]["mean"])) for limit in limits if limit]
        for group in (one, two)
        for limits in [group["needed_flops"]["ci95"] or ()]
    ]
    away = [math.hypot(halves[0][i], halves[1][1 - i]) for i in (0, 1)]
    wanted = (found["mean"] * math.exp(-away[0]), found["mean"] * math.exp(away[1]))
    assert found["ci95"] == pytest.approx(wanted)


ROWS = [
    *took([2, 2.1], depth=1),
    *took([2, 2.1], 2, depth=1),
    *took([9, 9.1]),
    *took([4, 4.1], 2),
    *took([9, 9.1], 4),
]


def test_the_conclusion_says_what_is_apart_and_how_the_need_grows():
    text = depth_cost.conclude(summarise(ROWS))
    shallow, deep = text.partition("at t = 2")[::2]
    assert "(nothing apart)" in shallow and "(N = 2 less than N = 1, apart)" in deep
    assert "N = 1 4.4 times; N = 2 2.0 times." in text
    assert depth_cost.conclude([]).startswith("Nothing can be compared yet")


@pytest.mark.parametrize(
    "rows, words",
    [
        (took([1, 2]), "of 2 seeds, large: their geometric mean with its 95% interval"),
        ([*took([1]), *took([2, 3], depth=3)], "of 1 to 2 seeds, joined: their geometric mean"),
        (took([1], reached=False), "large: their geometric mean; triangles: not reached for that"),
    ],
)
def test_the_caption_explains_what_is_drawn(rows, words):
    caption = depth_cost_figure._caption(summarise(rows))
    assert words in caption and ("triangles" in caption) == ("triangles" in words)


@pytest.mark.parametrize(
    "rows", [took([1, 2], 2), [{**one, "match": "flops_blocks"} for one in took([1])]]
)
def test_a_sweep_that_has_hardly_begun_has_its_table_and_figure(rows, tmp_path):
    summary = summarise(rows)
    (line,) = depth_cost.lines(summary)
    assert dict(zip(depth_cost.HEADER, line, strict=True))["N = 1 takes, times"] == "not run"
    assert depth_cost.conclude(summary)
    for found in (summary, []):
        depth_cost_figure.draw(depth_cost.RULE_110, {"summary": found}, tmp_path / "figure.png")
        assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_intervals_are_drawn_whole(monkeypatch, tmp_path):
    kept: list[Figure] = []
    monkeypatch.setattr(depth_cost_figure, "save", lambda figure, path: kept.append(figure))
    summary = summarise(took([20, 50, 90]))
    depth_cost_figure.draw(depth_cost.RULE_110, {"summary": summary}, tmp_path / "figure.png")
    ends = summary[0]["needed_flops"]["ci95"]
    low, high = kept[0].axes[0].get_ylim()
    assert ends and low < ends[0] < 20e9 and 90e9 < ends[1] < high


def test_a_seed_that_is_there_twice_or_has_another_budget_is_an_error():
    first, second = took([1, 2])
    with pytest.raises(ReportError, match="one setting and seed"):
        summarise([first, {**second, "seed": 0}])
    with pytest.raises(ReportError, match="differ in budget_flops"):
        summarise([first, {**second, "budget_flops": 7}])


def test_a_run_without_a_target_is_refused(tmp_path):
    path = tmp_path / "results.json"
    words = {"experiment": "cost_of_depth", "preset": "cpu", "commit": "abc"}
    for change, message in (({"reached": 1}, "reached is 1"), ({"seed": True}, "seed is True")):
        path.write_text(json.dumps({**words, "rows": [{**ROWS[0], **change}]}))
        with pytest.raises(ReportError, match=message):
            load(path, "run", "made up")


@pytest.mark.parametrize(
    "change, place",
    [
        ({"update_rule": "delta"}, "N = 1, delta"),
        ({"width": 16}, "t = 2, W = 16"),
        ({"budget_flops": 10**12}, "at most 1.00e12"),
    ],
)
def test_only_runs_of_one_setting_and_budget_are_compared(change, place):
    others = [{**one, **change} for one in took([70, 71, 72])]
    usual = [*took([8, 8.1, 8.2]), *took([4, 4.1, 4.2], 2)]
    if "budget_flops" in change:  # as of --passes=1 alone, which matches nobody
        others = [{**one, "match": "tokens"} for one in others]
    summary = summarise([*others, *usual])
    assert sorted(map(len, depth_cost.compared(summary))) == [1, 2]
    column = depth_cost.HEADER.index("N = 1 takes, times")
    ratios = [line[column].partition(" ")[0] for line in depth_cost.lines(summary)]
    assert sorted(ratios) == ["1", "1", "1.98"]
    text = depth_cost.conclude(summary)
    assert place in text and "N = 2 less than N = 1" in text and "N = 1 and" not in text
    found = claims_depth_cost.few_passes(source([*others, *usual], "cost_of_depth"))
    assert found.verdict == Verdict.SHOWN and found.numbers.count("N = 1") == 1


def test_an_n_that_is_there_twice_is_an_error():
    twice = [*took([1, 2]), *({**one, "match": "tokens"} for one in took([1, 2]))]
    with pytest.raises(ReportError, match="N = 1 is there twice at t = 2, W = 12"):
        depth_cost.lines(summarise(twice))
