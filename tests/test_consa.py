"""Runs that decide which heads read all of the cache, `EXP=consa`, and its report."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import flagsaver
from chex import assert_trees_all_equal

from experiments import binary, consa, readings
from experiments.report import choices, claims_choices
from experiments.report.sources import Source
from experiments.report.verdicts import Verdict
from sleep_jax import claims, distributed, trained
from sleep_jax import consa as chosen_by
from sleep_jax.curriculum import Stage
from sleep_jax.model.config import LocalConfig
from sleep_jax.model.local import LIMIT
from sleep_jax.training import loop, step
from sleep_jax.training.step import Program
from tests import tiny
from tests.from_outside import ends, run
from tests.test_local import with_local
from tests.test_training import state_at, stop_before, train

BLOCKS = ("block_00_attention", "block_01_attention")


def gates(directory, step):
    params = state_at(directory, step)["params"]
    return {name: params[name]["mixer"]["log_alpha"] for name in BLOCKS}


def decisions(directory):
    records = map(json.loads, (directory / "metrics.jsonl").read_text().splitlines())
    return [record for record in records if record["kind"] == "decision"]


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """Steps 1 to 3 as usual, 4 to 6 learn, then it is decided; checkpoints at 2, 4, .., 12."""
    directory = tmp_path_factory.mktemp("runs") / "learned"
    config = with_local(
        tiny.run_config(passes=1, checkpoint_every=2, keep_checkpoints=9), begin=0.25, end=0.5
    )
    return config, directory, train(config, directory)


def test_it_is_learned_then_decided_then_left_alone(learned):
    config, directory, result = learned
    limit = np.full(2, LIMIT, np.float32)
    for name, value in gates(directory, 2).items():
        np.testing.assert_array_equal(value, limit, name)
    moved = np.concatenate(list(gates(directory, 6).values()))
    assert (moved < LIMIT).any() and (np.abs(moved) <= LIMIT).all()
    (record,) = decisions(directory)
    assert record["step"] == 6 and result["decision"] == record
    np.testing.assert_allclose(np.concatenate(list(record["log_alpha"].values())), moved)
    after = gates(directory, 12)
    for name in BLOCKS:
        np.testing.assert_array_equal(np.abs(after[name]), limit)
        assert (after[name] > 0).astype(int).tolist() == record["full"][name]
    assert sum(map(sum, record["full"].values())) == 2
    best = sorted(moved)[2:]
    chosen = [
        x
        for name in BLOCKS
        for x, full in zip(record["log_alpha"][name], record["full"][name], strict=True)
        if full
    ]
    np.testing.assert_allclose(sorted(chosen), best)
    assert 0 <= record["local_at_zero"] <= 1 and 0 < record["expected_local"] < 1
    table = json.loads((directory / "parameters.json").read_text())
    assert {r["path"] for r in table if r["optimizer"] == "gates"} == {
        f"{name}/mixer/log_alpha" for name in BLOCKS
    }
    # What was decided is what the trained model reads.
    run = trained.load(directory)
    flipped = {name: -gate for name, gate in chosen_by.gates(run.params).items()}
    other = dataclasses.replace(run, params=chosen_by.with_gates(run.params, flipped))
    sequences = config.task.sample(0, 0, 0, 8)
    assert run.evaluate(sequences)["loss"] != other.evaluate(sequences)["loss"]


@pytest.mark.parametrize("stop", [5, 6, 7])
def test_a_stopped_run_ends_with_the_same_bits(learned, tmp_path, stop):
    """In learning, when it is about to be decided, and after that."""
    config, directory, result = learned
    with pytest.raises(loop.Interrupted):
        train(config, tmp_path, should_stop=stop_before(stop))
    again = train(config, tmp_path)
    assert_trees_all_equal(state_at(tmp_path, 12), state_at(directory, 12))
    assert again["decision"] == result["decision"]
    assert len(decisions(tmp_path)) == 1


@pytest.mark.parametrize("by", ["ranked", "bottom", "middle", "top", "random"])
def test_other_ways_to_choose(tmp_path, by):
    end = 0.25 if by == "ranked" else 0.0
    config = with_local(tiny.run_config(passes=1, steps=4), by=by, end=end)
    config = dataclasses.replace(
        config, model=dataclasses.replace(config.model, pattern=("attention",) * 3)
    )
    config = dataclasses.replace(config, consa=dataclasses.replace(config.consa, share=2 / 3))
    config.validate()
    (record,) = [train(config, tmp_path)["decision"]]
    full = list(record["full"].values())
    assert record["step"] == (1 if by == "ranked" else 0) and sum(map(sum, full)) == 2
    wanted = {"bottom": [2, 0, 0], "middle": [0, 2, 0], "top": [0, 0, 2]}
    if by in wanted:
        assert [sum(units) for units in full] == wanted[by]
        return
    scores = np.array(list(record["scores"].values()))
    assert ((scores >= np.sort(scores.ravel())[-2]) == np.array(full, bool)).all()
    if by == "ranked":  # by what each alone costs, on data that no step has seen
        state = state_at_start_of(config, tmp_path / "again", 1)
        assert scores[1, 0] == pytest.approx(
            cost_of(config, state, "block_01_attention", 0), abs=1e-6
        )
    else:
        other = dataclasses.replace(config, train=dataclasses.replace(config.train, seed=5))
        assert train(other, tmp_path / "other")["decision"]["full"] != record["full"]


def state_at_start_of(config, directory, step):
    with pytest.raises(loop.Interrupted):
        train(config, directory, should_stop=stop_before(step))
    return state_at(directory, step)["params"]


def cost_of(config, params, block, unit):
    from sleep_jax import distributed
    from sleep_jax.tasks.task import TRAIN
    from sleep_jax.training.evaluation import evaluate
    from sleep_jax.training.step import Program

    size = config.train.batch_size
    unseen = config.task.sample(config.train.seed, TRAIN, config.steps * size, 4 * size)
    program, mesh = Program.of(config, "cpu"), distributed.make_mesh()
    usual = evaluate(program, mesh, params, unseen, size)["loss"]
    gate = params[block]["mixer"]["log_alpha"].at[unit].set(-LIMIT)
    mixer = {**params[block]["mixer"], "log_alpha": gate}
    return (
        evaluate(program, mesh, {**params, block: {**params[block], "mixer": mixer}}, unseen, size)[
            "loss"
        ]
        - usual
    )


def test_a_step_of_learning_draws_z():
    config = with_local(tiny.run_config(passes=1), end=0.5)
    program = Program.of(config, "cpu").in_stage(Stage(1, "keep", "all", choosing=True))
    mesh = distributed.make_mesh()
    update, losses = step.make_train_step(program, mesh), set()
    batch = distributed.to_mesh(config.task.sample(0, 0, 0, 8), mesh)
    for seed in (0, 0, 1):
        state = step.make_init(program, mesh)(0)
        middle = {name: jnp.zeros_like(x) for name, x in chosen_by.gates(state.params).items()}
        state = state.replace(params=chosen_by.with_gates(state.params, middle))
        choice = chosen_by.Choice(jax.random.key(seed), jnp.float32(0.5))
        losses.add(float(update(state, batch, jnp.float32(1.0), choice)[1]["loss"]))
    assert len(losses) == 2


def test_lots_are_drawn_between_equals():
    from sleep_jax.training.deciding import _scores

    config = with_local(tiny.run_config(), begin=0.25, end=0.5)
    same = {name: np.full(2, LIMIT, np.float32) for name in BLOCKS}

    def first(seed):
        at = dataclasses.replace(config, train=dataclasses.replace(config.train, seed=seed))
        scores = _scores(at, same)
        return int(np.argmax(np.stack([scores[name] for name in BLOCKS])))

    assert {first(seed) for seed in range(20)} == {0, 1, 2, 3}
    nearly = {**same, BLOCKS[0]: np.array([LIMIT, LIMIT - 1e-3], np.float32)}
    scores = _scores(config, nearly)
    assert scores[BLOCKS[0]][1] < min(scores[BLOCKS[0]][0], *scores[BLOCKS[1]])


@pytest.fixture(autouse=True)
def flags_are_parsed():
    with flagsaver.flagsaver():
        consa.flags.FLAGS.mark_as_parsed()
        yield


def test_arms_differ_in_what_is_read_and_in_nothing_else():
    cells = binary.plan(consa.EXPERIMENT, consa.cpu())
    assert len({cell.name for cell in cells}) == len(cells) == len(consa.ARMS) + 4
    kept = [cell for cell in cells if cell.config.sleep.cache == "keep"]
    full, *others = (cell.config for cell in kept)
    assert not full.model.is_local
    for config in others:
        attention = dataclasses.replace(config.model.attention, local=LocalConfig())
        assert dataclasses.replace(config.model, attention=attention) == full.model
        assert dataclasses.replace(config, model=full.model, consa=full.consa) == full
        assert config.model.attention.local.window == 4
        config.validate()
    assert all(cell.name.endswith("-w4") for cell in kept[1:])
    words = {cell.identity()["regime"] for cell in kept}
    assert words >= {
        "plain", "0 of 4 heads whole", "1 of 4 heads whole, learned at 0.6 to 0.75",
        "1 of 4 heads whole, ranked at 0.75", "1 of 4 heads whole, top",
        "2 of 4 heads whole, learned of each block at 0.6 to 0.75",
        "1 of 2 layers whole, learned at 0.6 to 0.75",
        "2 of 4 heads whole, the same number of each block",
    }  # fmt: skip
    sizes = {cell.identity()["regime"]: readings.state_bytes(cell.config) for cell in kept}
    assert sizes["plain"] == 2 * 2 * 32 * 32 * 4  # k and v, blocks, tokens, features, bytes
    head = sizes["plain"] // 4
    assert sizes["1 of 4 heads whole, top"] == head + 3 * head * 3 // 32
    assert sizes["0 of 4 heads whole"] == 4 * head * 3 // 32
    deep = [cell.config for cell in binary.plan(consa.EXPERIMENT, consa.deep())]
    assert {len(config.model.pattern) for config in deep} == {4}


def test_the_smoke_preset_and_what_it_refuses(tmp_path):
    arguments = ("experiments", "consa", "--preset=smoke", f"--workdir={tmp_path}")
    for flag, said in (
        ("--arms=best", "--arms=best is unknown; allowed: full, local, late"),
        ("--window=0", "--window=0: 0 is not a positive integer"),
        ("--window=99", "model.attention.local.window=99 is not possible; allowed: 1 to"),
        ("--set=model.attention.local.window=2", "is set by the sweep; allowed: --window=..."),
        ("--set=consa.share=0.5", "is set by the sweep; allowed: --arms=..."),
        ("--set=consa.learning_rate=0", "consa.learning_rate=0.0 is not possible"),
    ):
        refused = ends(*arguments, flag)
        assert refused.returncode == 2 and said in refused.stderr, refused.stderr
        assert refused.stderr.count("\n") == 1 and not list(tmp_path.iterdir())
    result = run(*arguments, "--jobs=1", "--passes=1", "--match=", "--arms=full,early,ranked")
    assert result.returncode == 0, result.stderr
    directory = tmp_path / "consa" / "smoke"
    results = json.loads((directory / "results.json").read_text())
    assert results["missing"] == [] and len(results["rows"]) == 4
    groups = {group["name"]: group for group in results["summary"]}
    early = groups["1 of 4 heads whole, learned at 0 to 0.15"]
    assert sum(early["by_block"][0]) == 1 and early["decided"]["recall_before"] == 0
    assert groups["all of the cache"]["state_bytes"] > early["state_bytes"]
    assert (directory / "choices.png").read_bytes().startswith(b"\x89PNG")
    assert "When it was decided" in (directory / "table.md").read_text()


def test_a_run_that_another_launcher_reads_is_left_to_it(tmp_path):
    cells = binary.plan(consa.EXPERIMENT, consa.cpu())[:3]
    runs = [tmp_path / "cells" / cell.name for cell in cells]
    for directory in runs:
        directory.mkdir(parents=True)
    (runs[0] / "readings.json").write_text('{"mine": false}')

    def write(**options):
        readings.write_missing(cells, tmp_path, lambda cell, run: {"mine": True}, **options)
        paths = [directory / "readings.json" for directory in runs]
        return [json.loads(path.read_text())["mine"] if path.exists() else None for path in paths]

    with claims.claimed(runs[1]):
        assert write() == [False, None, True]
    assert write() == [False, True, True]
    assert write(how={"mine": True}) == [True, True, True]


def row(regime, seed, recall, by_block=None, **fields):
    decision = {
        "step": 6, "expected_local": 0.7, "local_at_zero": 0.75, "polarised": 1.0,
        "full": {f"b{i}": [1] * n + [0] * (2 - n) for i, n in enumerate(by_block or ())},
    }  # fmt: skip
    at = {
        "cell": f"{regime}-{seed}", "regime": regime, "seed": seed, "pairs": 8, "passes": 1,
        "model": "transformer_full_cache", "match": "tokens", "cache": "keep", "floor": 0.1,
        "blocks": len(by_block or (0, 0)), "evaluation_sequences": 100, "state_bytes": 4096,
        "parameters": 7, "train_tokens": 2_000_000, "train_flops": 10**9, "exact_accuracy": recall,
        "curve": [
            {"step": 4, "train_tokens": 10**6, "exact_accuracy": 0.5},
            {"step": 8, "train_tokens": 2 * 10**6, "exact_accuracy": recall},
        ],
    }  # fmt: skip
    return {**at, **({"decision": decision} if by_block else {}), **fields}


def arm(regime, recall, by_block=None, **fields):
    return [row(regime, seed, recall + seed / 1000, by_block, **fields) for seed in range(3)]


LATE, EARLY, LOT = (
    "1 of 4 heads whole, learned at 0.6 to 0.75", "1 of 4 heads whole, learned at 0 to 0.15",
    "1 of 4 heads whole, random",
)  # fmt: skip
HALF = "2 of 4 heads whole, learned at 0.6 to 0.75"
EACH, RULE = (
    "2 of 4 heads whole, learned of each block at 0.6 to 0.75",
    "2 of 4 heads whole, the same number of each block",
)
ROWS = [
    *arm("plain", 0.98),
    *arm(LATE, 0.97, (0, 1)),
    *arm(EARLY, 0.5, (1, 0)),
    *arm(LOT, 0.6, (0, 1)),
    *arm(HALF, 0.975, (0, 2)),
    *arm(EACH, 0.9, (1, 1)),
    *arm(RULE, 0.95, (1, 1)),
    *arm("plain", 0.4, model="hybrid", cache="evict", state_bytes=512),
]


def test_groups_lines_and_words():
    summary = choices.summarise(ROWS)
    assert [group["name"] for group in summary] == [
        "all of the cache", HALF, EACH, RULE, EARLY, LATE, LOT, "fast weights, N = 1",
    ]  # fmt: skip
    table = [dict(zip(choices.HEADER, line, strict=True)) for line in choices.lines(summary)]
    assert [line["whole units by block"] for line in table] == [
        "all", "0.0 2.0", "1.0 1.0", "1.0 1.0", "1.0 0.0", "0.0 1.0", "0.0 1.0", "none",
    ]  # fmt: skip
    assert table[0]["tokens to 0.9, by seed"] == "2.00M 2.00M 2.00M"
    assert table[4]["tokens to 0.9, by seed"] == ">2.00M >2.00M >2.00M"
    ((_, header, found),) = choices.decided(summary)
    assert [line[0] for line in found] == [HALF, EACH, EARLY, LATE]
    at = dict(zip(header, found[-1], strict=True))
    assert (at["recall before"], at["recall at the end"]) == ("0.500", "0.971")
    assert (at["expected share local"], at["log alpha <= 0"]) == ("0.700", "0.75")
    assert choices.decided(choices.summarise(arm("plain", 0.9))) == []
    text = choices.conclude(summary)
    assert f"{LATE} 0.971 [0.969, 0.973] (whole by block: 0.0 1.0)" in text


def source(*rows):
    results = {"rows": rows, "device": "a CPU"}
    return Source("x", "x", "consa", Path(), results, choices.summarise(rows))


def without(*regimes):
    return [r for r in ROWS if r["regime"] not in regimes]


def test_half_of_the_heads_may_be_local():
    judge = claims_choices.half_is_enough
    assert judge(source(*ROWS)).verdict is Verdict.SHOWN
    less = judge(source(*without(HALF), *arm(HALF, 0.962, (0, 2))))  # .963 - .0025, all .981
    assert less.verdict is Verdict.NOT_SHOWN
    assert judge(source(*without(HALF))).verdict is Verdict.NOT_RUN
    assert judge(source(*without("plain"))).verdict is Verdict.NOT_RUN


@pytest.mark.parametrize(
    "judge, first, other",
    [
        (claims_choices.above_rule, EACH, RULE),
        (claims_choices.above_lots, LATE, LOT),
        (claims_choices.early_is_above_lots, EARLY, LOT),
    ],
)
def test_above_another_way_to_choose(judge, first, other):
    rest, blocks = without(first, other), (1, 1) if first == EACH else (0, 1)

    def verdict(mine, theirs):
        return judge(source(*rest, *arm(first, mine, blocks), *arm(other, theirs, blocks))).verdict

    assert verdict(0.9, 0.8) is Verdict.SHOWN
    assert verdict(0.9, 0.9) is Verdict.NOT_SHOWN
    assert verdict(0.8, 0.9) is Verdict.NOT_SHOWN
    assert judge(source(*rest, *arm(first, 0.9, blocks))).verdict is Verdict.NOT_RUN
    assert judge(source(*rest, *arm(other, 0.9, blocks))).verdict is Verdict.NOT_RUN


FOUR = "4 of 8 heads whole, learned at 0.6 to 0.75"


@pytest.mark.parametrize(
    "by_block, verdict",
    [
        ([(0, 2, 2, 0)] * 3, Verdict.SHOWN),
        ([(0, 2, 1, 1)] * 3, Verdict.SHOWN),
        ([(0, 1, 1, 2)] * 3, Verdict.NOT_SHOWN),
        ([(2, 1, 1, 0)] * 3, Verdict.NOT_SHOWN),
        ([(0, 2, 2, 0), (0, 2, 2, 0), (2, 0, 0, 2)], Verdict.NOT_SHOWN),
    ],
)
def test_whole_heads_in_the_middle(by_block, verdict):
    rows = [row(FOUR, seed, 0.9, blocks) for seed, blocks in enumerate(by_block)]
    found = claims_choices.in_the_middle(source(*rows))
    assert found.verdict is verdict, found.numbers
    assert claims_choices.in_the_middle(source(*ROWS)).verdict is Verdict.NOT_RUN  # two blocks
    assert claims_choices.in_the_middle(source(*rows[:2])).verdict is Verdict.NOT_RUN
