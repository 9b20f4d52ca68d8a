"""Runs that climb from t to t + 1: when they do, what is saved of it, and their report."""

import dataclasses
import json

import pytest
from chex import assert_trees_all_equal

from experiments.report import claims_stop, ladder
from experiments.report.files import ReportError
from experiments.report.needed import less
from experiments.report.sources import load
from experiments.report.verdicts import Verdict
from sleep_jax.config import CurriculumConfig
from sleep_jax.curriculum import Ladder
from sleep_jax.errors import UserError
from sleep_jax.tasks.depo import DepoConfig
from sleep_jax.tasks.task import TRAIN
from sleep_jax.training import loop
from sleep_jax.training.evaluation import evaluation_sequences
from tests import tiny
from tests.from_outside import ends, run
from tests.test_report_claims import row, source
from tests.test_training import state_at, stop_before, train


def climbing(steps=24, top=3, at=0.02, every=8, **train_fields):
    """A run whose rungs ask for little, as it learns little."""
    config = tiny.run_config(2, steps, target_accuracy=1.0, **train_fields)
    return dataclasses.replace(
        config,
        task=dataclasses.replace(config.task, rollout_steps=top),
        curriculum=CurriculumConfig(climb_at=at, climb_every=every),
    )


def test_a_rung_is_left_when_enough_of_its_batches_was_right():
    rungs = Ladder(climbing(top=2, at=0.5, every=2))
    assert rungs.task.label == "t1-W7" and not rungs.is_top(1) and rungs.is_top(2)
    rungs.saw(0.9)
    assert not rungs.is_learned(1)  # only every second step asks
    rungs.saw(0.0)
    assert not rungs.is_learned(2)
    for share in (0.4, 0.6):  # the batches before are forgotten
        rungs.saw(share)
    again = Ladder(climbing(top=2, at=0.5, every=2))
    again.restore(json.loads(json.dumps(rungs.state())))
    assert rungs.is_learned(4) and again.is_learned(4)
    rungs.climb()
    assert rungs.task.label == "t2-W7"
    again.restore(json.loads(json.dumps(rungs.state())))
    assert again.task == rungs.task and again.state() == {"rung": 2, "right": []}


def test_without_a_ladder_there_is_the_depth_of_the_task():
    config = tiny.run_config()
    plain = Ladder(config)
    plain.saw(1.0)
    assert plain.task == config.task and plain.is_top(0) and not plain.is_learned(50)


def seen_batches(monkeypatch):
    """All batches that are trained on, in order, filled while a run goes."""
    batches = []
    to_mesh = loop.distributed.to_mesh

    def spy(batch, mesh):
        batches.append(batch)
        return to_mesh(batch, mesh)

    monkeypatch.setattr(loop.distributed, "to_mesh", spy)
    return batches


def are_of(batches, config, first, depths):
    """Whether they are the run's batches from `first` on, each as deep as said."""
    size = config.train.batch_size
    assert len(batches) == len(depths)
    for step, (batch, depth) in enumerate(zip(batches, depths, strict=True), start=first):
        task = dataclasses.replace(config.task, rollout_steps=depth)
        assert_trees_all_equal(batch, task.sample(config.train.seed, TRAIN, step * size, size))


def test_a_run_climbs_and_after_a_stop_and_a_kill_to_the_same_bits(tmp_path, monkeypatch):
    config = climbing()
    config.validate()
    batches = seen_batches(monkeypatch)
    whole = train(config, tmp_path / "whole")
    are_of(batches, config, 0, [1] * 8 + [2] * 8 + [3] * 8)
    left = [(p["rung"], p["step"]) for p in whole["curve"] if p["learned"]]
    assert left == [(1, 8), (2, 16), (3, 24)] and not whole["reached"]
    for rung in (1, 2, 3):  # each is scored on sequences of its own depth
        (scored,) = (p for p in whole["curve"] if p["learned"] and p["rung"] == rung)
        task = dataclasses.replace(config.task, rollout_steps=rung)
        sequences = evaluation_sequences(dataclasses.replace(config, task=task), 20)
        assert scored["floor"] == task.floor(sequences)["exact"]

    calls = iter(range(14))

    def killed():
        if next(calls) == 13:
            raise KeyboardInterrupt  # as sudden as a kill, three steps after the save at step 10
        return False

    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "cut", should_stop=killed)
    with pytest.raises(loop.Interrupted):
        train(config, tmp_path / "cut", should_stop=stop_before(2))
    batches.clear()
    resumed = train(config, tmp_path / "cut")
    are_of(batches, config, 12, [2] * 4 + [3] * 8)
    assert resumed["curve"] == whole["curve"]
    assert_trees_all_equal(state_at(tmp_path / "cut", 24), state_at(tmp_path / "whole", 24))


def test_a_run_ends_when_its_top_is_learned(tmp_path):
    config = climbing(steps=40, top=2, evaluations=30)
    easy = dataclasses.replace(config.train, target_accuracy=0.001)
    result = train(dataclasses.replace(config, train=easy), tmp_path / "run")
    *earlier, last = result["curve"]
    # Seen there before, and well enough, but not yet by what it was trained on.
    assert any(p["rung"] == 2 and p["exact_accuracy"] > 0.001 for p in earlier)
    assert result["reached"] and last["rung"] == 2 and last["learned"]
    assert result["steps"] == last["step"] < 40


@pytest.mark.parametrize(
    "change, field",
    [
        ({"climb_at": 1.5}, "curriculum.climb_at=1.5"),
        ({"climb_every": 0}, "curriculum.climb_every=0"),
        ({"climb_every": 25}, "curriculum.climb_every=25"),
        ({"rollout_steps": (1,)}, "curriculum.rollout_steps=(1,)"),
    ],
)
def test_an_impossible_ladder_is_refused(change, field):
    config = climbing()
    curriculum = dataclasses.replace(config.curriculum, **change)
    with pytest.raises(UserError) as refused:
        dataclasses.replace(config, curriculum=curriculum).validate()
    assert field in str(refused.value) and "allowed: " in str(refused.value)


def test_a_task_without_rungs_and_a_frozen_split_are_refused():
    depo = dataclasses.replace(climbing(), task=DepoConfig())
    flat = climbing(top=0)
    frozen = climbing(evaluation_data="somewhere")
    for config, field in (
        (depo, "curriculum.climb_at=0.02"),
        (flat, "curriculum.climb_at=0.02"),
        (frozen, "train.evaluation_data='somewhere'"),
    ):
        with pytest.raises(UserError) as refused:
            config.validate()
        assert field in str(refused.value) and "allowed: " in str(refused.value)


def test_the_smoke_preset(tmp_path):
    arguments = ("experiments", "rollout_ladder", "--preset=smoke", f"--workdir={tmp_path}")
    result = run(*arguments, "--jobs=1", "--seeds=0")
    assert result.returncode == 0, result.stderr
    directory = tmp_path / "rollout_ladder" / "smoke"
    results = json.loads((directory / "results.json").read_text())
    assert results["missing"] == [] and len(results["rows"]) == 2
    assert all(any(p["learned"] for p in one["curve"]) for one in results["rows"])
    assert (directory / "ladder.png").read_bytes().startswith(b"\x89PNG")
    assert "| t = 2, W = 7 | 2, t climbs |" in (directory / "table.md").read_text()
    for other, named in (
        (["--rollout_steps=0"], "--rollout_steps=0"),
        (["--rollout_steps=2,3"], "--rollout_steps=2,3 is not possible; allowed: one number"),
        (["--set=curriculum.climb_at=0"], "curriculum.climb_at=0 is not possible here; allowed: m"),
        # The rungs of both would be reported as one run's.
        (["--rollout_steps=2", "--seeds=5"], "task.rollout_steps=3, asked was 2"),
    ):
        refused = ends(*arguments, *other)
        assert refused.returncode == 2 and named in refused.stderr
        assert len(refused.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "preset, ladder_of", [("deep", "t12-W24-{}-climbs"), ("narrow", "t6-W16-marked-{}-climbs")]
)
def test_presets_of_five_seeds_give_both_n_the_same_flops(tmp_path, preset, ladder_of):
    arguments = (f"--preset={preset}", f"--workdir={tmp_path}", "--dry_run")
    plan = ends("experiments", "rollout_ladder", *arguments).stdout
    seeds = [ladder_of.format(f"s{seed}") for seed in range(10, 15)]
    runs = [line.split() for line in plan.splitlines() if line.startswith("hybrid-")]
    names = [f"hybrid-N2-{seed}" for seed in seeds] + [f"hybrid-N1-{seed}-flops" for seed in seeds]
    assert [name for name, *_ in runs] == names
    assert len({flops for *_, flops in runs}) == 1 and len({steps for _, steps, *_ in runs}) == 2


def test_other_experiments_refuse_to_climb(tmp_path):
    for name in ("cellular_automata", "rollout_curriculum", "cost_of_depth"):
        climb = ("--set=curriculum.climb_at=0.9", f"--workdir={tmp_path}", "--dry_run")
        refused = ends("experiments", name, *climb)
        assert refused.returncode == 2 and "allowed: 0, or EXP=rollout_ladder" in refused.stderr


def point(rung, step, accuracy, left=False):
    """An evaluation after as many steps, of 1e9 FLOPs each."""
    return {
        "rung": rung,
        "step": step,
        "learned": left,
        "floor": 0.1 * rung,
        "train_flops": step * 10**9,
        "train_tokens": step * 1000,
        "exact_accuracy": accuracy,
        "label_accuracy": accuracy,
        "trained_exact_accuracy": accuracy + 0.02,
    }


def climbed(passes, seed, *curve, budget=100, **changes):
    """A row of a run to t = 8 at most."""
    return row(
        0.5,
        passes,
        seed,
        rollout_steps=8,
        match="tokens" if passes == 2 else "flops",
        regime="t climbs",
        train_flops=budget * 10**9,
        train_tokens=budget * 1000,
        target_accuracy=0.9,
        reached=False,
        budget_flops=budget * 10**9,
        blocks=2,
        curve=[point(*of) for of in curve],
        **changes,
    )


LEFT = True
ROWS = [
    climbed(1, 0, (1, 10, 0.5), (1, 20, 0.91), (1, 22, 0.97, LEFT), (2, 60, 0.95, LEFT)),
    # Leaves t = 2 knowing only what it has seen, and is on its way at t = 3.
    climbed(1, 1, (1, 25, 0.95, LEFT), (2, 70, 0.8, LEFT), (3, 100, 0.3)),
    climbed(2, 0, (1, 9, 0.2), (1, 10, 0.95, LEFT), (2, 20, 0.95, LEFT), (3, 40, 0.9)),
    climbed(2, 1, (1, 10, 0.95, LEFT), (2, 25, 0.95, LEFT), (3, 49, 0.4), (3, 50, 0.95, LEFT)),
]


def test_a_rung_is_a_depth_with_what_it_took_from_the_start_on():
    groups = {(g["depth"], g["passes"]): g for g in ladder.summarise(ROWS)}
    assert sorted(groups) == [(t, n) for t in (1, 2, 3) for n in (1, 2)]
    first = groups[1, 1]
    assert first["flops"] == [20e9, 25e9] and first["reached"] == [True, True]
    # The second was there when it was first looked at.
    assert first["flops_before"] == [10e9, 0] and first["tokens"] == [20_000, 25_000]
    # On the rung below it was not learned; not left yet, it was.
    assert groups[3, 2]["flops"] == [40e9, 50e9] and groups[3, 2]["reached"] == [True, True]
    assert groups[3, 2]["flops_before"] == [20e9, 49e9]
    assert [groups[t, 1]["floor"] for t in (1, 2, 3)] == pytest.approx([0.1, 0.2, 0.3])


def test_what_was_left_without_being_learned_is_a_limit_at_that_moment():
    groups = {(g["depth"], g["passes"]): g for g in ladder.summarise(ROWS)}
    assert groups[2, 1]["reached"] == [True, False] and groups[2, 1]["flops"] == [60e9, 70e9]
    assert groups[3, 1]["reached"] == [False, False] and groups[3, 1]["flops"] == [100e9] * 2
    many = [climbed(1, seed, (1, 20, 0.95, LEFT), (2, 25, 0.89, LEFT)) for seed in range(5)]
    slower = [climbed(2, seed, (1, 30, 0.95, LEFT), (2, 50, 0.95, LEFT)) for seed in range(5)]
    one, two = ladder.summarise([*many, *slower])[2:]
    assert not less(two, one) and not less(one, two)


def test_what_spent_its_budget_in_vain_is_told_where_all_of_it_stood_there():
    assert all("fit" not in group for group in ladder.summarise(ROWS))
    there = [climbed(1, seed, (1, 25, 0.95, LEFT), (2, 100, 0.3 + seed / 5)) for seed in (0, 1)]
    _, second, _ = ladder.summarise([*there, climbed(2, 0, (2, 20, 0.95, LEFT))])[1:]
    assert second.get("fit") == pytest.approx({"trained": 0.42, "unseen": 0.4})


def test_a_curve_that_does_not_say_its_rungs_is_refused(tmp_path):
    path = tmp_path / "results.json"
    words = {"experiment": "rollout_ladder", "preset": "cpu", "commit": "abc"}
    path.write_text(json.dumps({**words, "rows": ROWS}))
    assert len(load(path, "run", "made up").summary) == 6
    for change, message in (
        ({"rung": None}, "rung is None"),
        ({"learned": 1}, "learned is 1"),
        ({"exact_accuracy": None}, "exact_accuracy is None"),
    ):
        point = {**ROWS[0]["curve"][0], **change}
        path.write_text(json.dumps({**words, "rows": [{**ROWS[0], "curve": [point]}]}))
        with pytest.raises(ReportError, match=message):
            load(path, "run", "made up")


def test_the_conclusion_says_how_high_each_seed_got_and_what_a_rung_took():
    said = ladder.conclude(ladder.summarise(ROWS))
    assert "By seed N = 1, t climbs learned t = 2 1; N = 2, t climbs learned t = 3 3." in said
    assert "at t = 1 N = 1, t climbs < 2.24e10" in said
    assert "From one depth to the next they grow, N = 2, t climbs by 1.25e10, 2.25e10." in said
    wider = [climbed(1, seed, (1, 30, 0.95, LEFT), width=24) for seed in range(3)]
    both = ladder.conclude(ladder.summarise([*ROWS, *wider]))
    assert "W = 12, learned t = 2 1; " in both and "W = 24, learned t = 1 1 1." in both


def test_a_ladder_that_nobody_climbed_is_reported():
    nobody = [climbed(1, 0), climbed(2, 0)]
    (one, two) = ladder.summarise(nobody)
    assert one["depth"] == two["depth"] == 1 and not any(one["reached"] + two["reached"])
    assert "learned t = 0" in ladder.conclude([one, two])


def test_every_seed_is_a_line_of_what_it_learned(tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(ladder, "save", lambda figure, path: kept.append(figure))
    others = [climbed(1, 7, (1, 5, 0.95, LEFT), width=24), {**ROWS[0], "match": "flops_blocks"}]
    ladder.draw({"rows": [*others, *ROWS]}, tmp_path / "ladder.png")
    drawn = kept[0].axes[0].lines
    seeds = [line for line in drawn if line.get_marker() in "os"]
    assert [list(line.get_ydata()) for line in seeds] == [[0, 1, 2], [0, 1], *[[0, 1, 2, 3]] * 2]
    assert list(seeds[0].get_xdata()) == [0, 20e9, 60e9]
    rest = [line for line in drawn if line.get_linestyle() == ":"]
    assert [line.get_xdata()[0] for line in rest] == [60e9, 25e9, 40e9, 50e9]
    assert all(line.get_xdata()[1] == 100e9 for line in rest)


def standing(seed, *last, rung=2):
    """Of one pass, with accuracies at 60, 70, 80 .. of 100e9 FLOPs; below that on its way."""
    later = [(rung, 60 + 10 * i, accuracy) for i, accuracy in enumerate(last)]
    return climbed(1, seed, (1, 20, 0.95, LEFT), (rung, 50, 0.1), *later)


LEARNED = [climbed(2, seed, (1, 10, 0.95, LEFT), (2, 30, 0.95, LEFT)) for seed in range(5)]


@pytest.mark.parametrize(
    "odd, verdict, says",
    [
        (standing(0, 0.3, 0.31, 0.3, 0.34), Verdict.SHOWN, "rose by 0.015 0.010"),
        (standing(0, 0.3, 0.3, 0.32, 0.33), Verdict.NOT_SHOWN, "rose by 0.025 0.010"),
        (
            standing(0, 0.3, 0.91, 0.92, 0.92),
            Verdict.NOT_SHOWN,
            "t = 2: N = 1, t climbs 1 of 5",
        ),
        (
            climbed(1, 0, (1, 20, 0.5), (1, 70, 0.96, LEFT), (2, 90, 0.3)),
            Verdict.NOT_SHOWN,
            "rose by a depth (or unseen) 0.010",
        ),
        (
            standing(0, 0.3, 0.3),
            Verdict.NOT_SHOWN,
            "rose by a depth (or unseen) 0.010",
        ),  # or nobody looked
    ],
)
def test_one_pass_has_stopped_where_no_seed_of_it_gets_nearer(odd, verdict, says):
    others = [standing(seed, 0.4, 0.4, 0.41, 0.41) for seed in range(1, 5)]
    found = claims_stop.one_pass_stops(source([odd, *others, *LEARNED], "rollout_ladder"))
    assert found.verdict == verdict and says in found.numbers
    assert "t = 2, W = " in found.scale


def test_where_two_passes_do_not_all_learn_nothing_is_said_to_stop():
    stuck = [standing(seed, 0.4, 0.4, 0.41, 0.41) for seed in range(5)]
    rows = [*stuck, *LEARNED[:4], climbed(2, 4, (1, 10, 0.95, LEFT), (2, 100, 0.8))]
    found = claims_stop.one_pass_stops(source(rows, "rollout_ladder"))
    assert found.verdict == Verdict.NOT_SHOWN
    assert "t = 2: N = 1, t climbs 0 of 5, N = 2, t climbs 4 of 5" in found.numbers
    alone = claims_stop.one_pass_stops(source(stuck, "rollout_ladder"))
    assert alone.verdict == Verdict.NOT_RUN
