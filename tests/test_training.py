"""The host loop: resume to the bit, damaged checkpoints, divergence, records."""

import dataclasses
import json
import logging
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from chex import assert_trees_all_close, assert_trees_all_equal

from sleep_jax import distributed, processes, records
from sleep_jax.chips import CHIPS, Chip
from sleep_jax.errors import UserError
from sleep_jax.flops import training_flops_per_step
from sleep_jax.training import evaluation, loop
from sleep_jax.training import step as training_step
from sleep_jax.training.checkpoint import Checkpoints
from sleep_jax.training.goodput import CAUSES, Goodput
from sleep_jax.training.step import Program
from tests import tiny


def train(config, directory, **options):
    return loop.train(config, directory, distributed.make_mesh(), **options)


def state_at(directory: Path, step: int):
    path = (directory / "checkpoints" / str(step) / "state").absolute()
    return ocp.StandardCheckpointer().restore(path)


def stop_before(step):
    calls = iter(range(step + 1))
    return lambda: next(calls, None) == step


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An uninterrupted run of 12 steps, checkpoints at 5 and 10 and at the end."""
    directory = tmp_path_factory.mktemp("runs") / "whole"
    return directory, train(tiny.run_config(keep_checkpoints=4), directory)


def test_what_a_run_leaves_behind(finished):
    directory, result = finished
    config = tiny.run_config()
    assert result["steps"] == 12 and result["train_tokens"] == 12 * config.tokens_per_step
    assert [point["step"] for point in result["curve"]] == [6, 12]
    assert result["curve"][-1]["exact_accuracy"] == result["exact_accuracy"]
    trained = {
        r["step"]: r["exact_accuracy"]
        for r in records.read_metrics(directory)
        if r["kind"] == "train"
    }
    for point, logged in zip(result["curve"], ((1, 4), (8, 12)), strict=True):
        assert point["trained_exact_accuracy"] == np.mean([trained[step] for step in logged])
    assert 0 < result["floor"] < 1 and np.isfinite(result["loss"])
    table = json.loads((directory / "parameters.json").read_text())
    assert {row["optimizer"] for row in table} == {"muon", "adamw"}
    assert set(table[0]) == {"path", "shape", "sharding", "optimizer"}
    assert not (directory / "profile").exists()
    kinds = [(r["kind"], r["step"]) for r in records.read_metrics(directory)]
    assert kinds == [("train", 1), ("train", 4), ("evaluation", 6), ("train", 8), ("train", 12),
                     ("evaluation", 12)]  # fmt: skip
    assert list((directory / "tensorboard").glob("events*"))


@pytest.mark.parametrize("stop", [3, 7])
def test_an_interrupted_run_ends_with_the_same_bits(finished, tmp_path, stop):
    directory, result = finished
    config = tiny.run_config(keep_checkpoints=4)
    with pytest.raises(loop.Interrupted, match=f"stopped at step {stop} of 12"):
        train(config, tmp_path / "run", should_stop=stop_before(stop))
    resumed = train(config, tmp_path / "run")
    assert_trees_all_equal(state_at(tmp_path / "run", 12), state_at(directory, 12))
    assert resumed["curve"] == result["curve"]
    steps = [r["step"] for r in records.read_metrics(tmp_path / "run")]
    assert steps == sorted(steps)


def test_a_run_ends_where_it_reaches_its_target_and_after_a_kill_with_the_same_bits(
    tmp_path, monkeypatch
):
    # A constant answer is learned within a dozen steps, and right in a third of the sequences.
    config = tiny.run_config(steps=40, evaluations=8, target_accuracy=0.2, keep_checkpoints=9)
    result = train(config, tmp_path / "whole")
    *before, last = result["curve"]
    assert [point["step"] for point in before] == [1, 2, 3, 6, 11][: len(before)]
    assert max(point["exact_accuracy"] for point in before) < 0.2 <= last["exact_accuracy"]
    assert result["steps"] == last["step"] < 40 and result["reached"]
    assert result["train_tokens"] == last["step"] * config.tokens_per_step
    assert result["train_flops"] * 40 == result["budget_flops"] * last["step"]
    again = train(config, tmp_path / "whole")
    assert again["curve"] == result["curve"]

    saved = loop._Run._save

    def die(run):
        if run.reached:
            raise KeyboardInterrupt  # as sudden as a kill: evaluated, not saved
        saved(run)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop._Run, "_save", die)
        train(config, tmp_path / "killed")
    resumed = train(config, tmp_path / "killed")
    assert resumed["curve"] == result["curve"] and resumed["reached"]
    step = last["step"]
    assert_trees_all_equal(state_at(tmp_path / "killed", step), state_at(tmp_path / "whole", step))


def test_a_target_that_is_not_reached_takes_the_whole_budget(tmp_path):
    result = train(tiny.run_config(target_accuracy=1.0), tmp_path / "run")
    assert not result["reached"] and result["steps"] == 12
    assert result["target_accuracy"] == 1.0 and result["budget_flops"] == result["train_flops"]


def test_seconds_by_cause_add_up_over_a_stop_and_a_kill(tmp_path):
    config, run = tiny.run_config(log_every=1), tmp_path / "run"

    def slow_then(step, end):
        calls = iter(range(step + 1))

        def asked():
            time.sleep(0.1)
            return next(calls, None) == step and end()

        return asked

    def die():
        raise KeyboardInterrupt  # as sudden as a kill: nothing is saved

    with pytest.raises(loop.Interrupted):
        train(config, run, should_stop=slow_then(3, lambda: True))
    with pytest.raises(KeyboardInterrupt):
        train(config, run, should_stop=slow_then(5, die))  # at step 8, saved at 5
    records_of = {r["step"]: r for r in records.read_metrics(run) if r["kind"] == "train"}
    lost = records_of[8]["wall_seconds"] - records_of[5]["wall_seconds"]
    result = train(config, run)
    seconds = result["goodput"]["seconds"]
    assert sum(seconds.values()) == pytest.approx(result["wall_seconds"])
    assert result["goodput"]["share"] == seconds["training"] / result["wall_seconds"]
    assert result["compile_seconds"] == seconds["compile"]
    assert 0.3 < seconds["lost"] < lost
    assert seconds["other"] > 0.6  # naps before steps 1 to 5, and before stopping
    assert set(seconds) == set(CAUSES)
    assert all(seconds[cause] > 0 for cause in set(CAUSES) - {"compile"})  # done by other tests


def test_what_jax_compiles_is_charged_to_compilation_wherever_it_happens():
    """And once, though the tracing of the inner function is part of that of the outer one."""

    @jax.jit
    def inner(x):
        time.sleep(0.5)
        return jnp.sin(x)

    clock = Goodput()
    with clock.spent("training"):
        jax.jit(lambda x: inner(x) + 1)(1.0)
        time.sleep(0.5)
    seconds = clock.now()
    assert 0.5 <= seconds["training"] < 0.9 and seconds["compile"] >= 0.5


def test_progress_is_by_chip_and_against_its_peak_where_that_is_known(
    tmp_path, monkeypatch, caplog
):
    log = logging.getLogger("sleep_jax")
    log.propagate = True
    config = tiny.run_config(steps=4)
    with caplog.at_level(logging.INFO, "sleep_jax"):
        train(config, tmp_path / "cpu")
    assert "tokens/s a device  loss" in caplog.text and "MFU" not in caplog.text
    kind = jax.devices()[0].device_kind
    chip = Chip("half", 2, 0, 0, 1e9, 0, 0, "a device of 1 GFLOP/s, half a chip")
    monkeypatch.setitem(CHIPS, kind, chip)
    caplog.clear()
    with caplog.at_level(logging.INFO, "sleep_jax"):
        train(config, tmp_path / "chip")
    record = records.read_metrics(tmp_path / "chip")[-2]
    flops = training_flops_per_step(config) / config.tokens_per_step
    assert record["mfu"] == pytest.approx(record["tokens_per_second"] * flops / 1e9)
    line = f"{2 * record['tokens_per_second']:.0f} tokens/s a chip  MFU {record['mfu']:.1%}  loss"
    assert line in caplog.text


def test_a_window_of_steps_is_traced(tmp_path):
    train(tiny.run_config(steps=6), tmp_path / "run", profile_steps=(3, 4))
    (trace,) = (tmp_path / "run" / "profile").rglob("*.xplane.pb")
    data = jax.profiler.ProfileData.from_file(str(trace))
    steps = [
        dict(event.stats)["step_num"]
        for plane in data.planes
        for line in plane.lines
        for event in line.events
        if event.name == "train"
    ]
    assert sorted(steps) == [3, 4]


def damage_truncate(checkpoint: Path):
    largest = max((checkpoint / "state").rglob("*"), key=lambda p: p.is_file() and p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])


def damage_flip(checkpoint: Path):
    largest = max((checkpoint / "state").rglob("*"), key=lambda p: p.is_file() and p.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(bytes(content))


def damage_remove(checkpoint: Path):
    (checkpoint / "state" / "_METADATA").unlink()


def damage_unsealed(checkpoint: Path):
    """As if killed before the digest was written: orbax itself has to notice."""
    checkpoint.with_name(checkpoint.name + ".sha256.json").unlink()
    damage_remove(checkpoint)
    damage_truncate(checkpoint)


@pytest.mark.parametrize("damage", [damage_truncate, damage_flip, damage_remove, damage_unsealed])
def test_a_damaged_newest_checkpoint_is_skipped_by_name(finished, tmp_path, caplog, damage):
    directory, _ = finished
    config = tiny.run_config(keep_checkpoints=4)
    run = tmp_path / "run"
    with pytest.raises(loop.Interrupted):
        train(config, run, should_stop=stop_before(11))
    newest = run / "checkpoints" / "11"
    damage(newest)
    log = logging.getLogger("sleep_jax")
    log.propagate = True
    with caplog.at_level(logging.INFO, "sleep_jax"):
        train(config, run)
    ours = [r for r in caplog.records if r.name == "sleep_jax"]  # orbax warns of a slow disk
    warnings = [r.getMessage() for r in ours if r.levelno == logging.WARNING]
    assert len(warnings) == 1 and str(newest) in warnings[0]
    assert "resuming at step 10 of 12" in caplog.text
    assert (run / "checkpoints" / "damaged-11").exists()
    assert_trees_all_equal(state_at(run, 12), state_at(directory, 12))


def test_a_step_saved_again_is_not_held_to_the_digest_of_its_damaged_checkpoint(tmp_path):
    def restored():
        checkpoints = Checkpoints(tmp_path, every=1, keep=9)
        found = checkpoints.restore(jax.eval_shape(lambda: {"x": jnp.zeros(99)}))
        return checkpoints, found and found[0]

    for attempt in range(2):
        checkpoints, found = restored()
        assert found == (1 if attempt else None)
        for step in range(1 + attempt, 3):
            checkpoints.save(step, {"x": jnp.full(99, attempt)}, {})
        checkpoints.close()
        damage_truncate(tmp_path / "2")
    checkpoints, found = restored()
    assert found == 1 and (tmp_path / "damaged-2").exists() and (tmp_path / "damaged-2-2").exists()
    checkpoints.save(2, {"x": jnp.ones(99)}, {})
    checkpoints._manager.close()  # killed before the digest was written
    assert restored()[1] == 2


@pytest.mark.parametrize("evaluations", [1, 2, 9])
@pytest.mark.parametrize("by_factors", [False, True])
def test_the_last_step_is_evaluated(evaluations, by_factors):
    assert max(evaluation.evaluation_steps(1000, evaluations, by_factors)) == 1000


def test_a_whole_checkpoint_that_does_not_fit_is_not_set_aside(tmp_path):
    def checkpoints():
        return Checkpoints(tmp_path, every=1, keep=9)

    saved = checkpoints()
    for step in (1, 2):
        saved.save(step, {"x": jnp.ones(9)}, {})
    saved.close()
    with pytest.raises(UserError, match=f"{tmp_path / '2'} is whole, but cannot be restored here"):
        checkpoints().restore(jax.eval_shape(lambda: {"y": jnp.ones(9)}))
    found = checkpoints().restore(jax.eval_shape(lambda: {"x": jnp.ones(9)}))
    assert found is not None and found[0] == 2


def test_all_checkpoints_damaged_is_an_error_that_keeps_them(tmp_path):
    config = tiny.run_config()
    with pytest.raises(loop.Interrupted):
        train(config, tmp_path / "run", should_stop=stop_before(3))
    saved = [p for p in (tmp_path / "run" / "checkpoints").iterdir() if p.name.isdigit()]
    for checkpoint in saved:
        damage_truncate(checkpoint)
    for _ in range(2):  # and again: to start from nothing is for the user to say
        with pytest.raises(UserError, match="every checkpoint .* is damaged"):
            train(config, tmp_path / "run")
    kept = [p for p in (tmp_path / "run" / "checkpoints").glob("damaged-*") if p.is_dir()]
    assert len(kept) == len(saved)


def test_a_non_finite_loss_stops_and_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    config = tiny.run_config()
    sound = loop.schedule

    def explode(*args):
        rate = sound(*args)
        return lambda step: float("inf") if step == 7 else rate(step)

    monkeypatch.setattr(loop, "schedule", explode)
    with pytest.raises(loop.NonFiniteLoss, match=r"is nan at step 9 of 12.*checkpoint is kept"):
        train(config, tmp_path / "run")
    state = state_at(tmp_path / "run", 5)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(state["params"]))
    assert not (tmp_path / "run" / "checkpoints" / "10").exists()


def test_seeds_depths_and_budgets_share_one_compiled_step(tmp_path, monkeypatch):
    steps, compiled = [], processes.compiled

    def spy(function, *arguments):
        found = compiled(function, *arguments)
        if isinstance(arguments[0], training_step.TrainState):
            steps.append(found)
        return found

    monkeypatch.setattr(processes, "compiled", spy)
    config = tiny.run_config(steps=2)
    other = dataclasses.replace(
        tiny.run_config(steps=3, seed=5),
        task=dataclasses.replace(config.task, rollout_steps=3),
    )
    train(config, tmp_path / "a")
    train(other, tmp_path / "b")
    assert len(steps) == 2 and steps[0] is steps[1]


def test_evaluation_at_other_passes_and_in_ragged_batches(finished):
    config = tiny.run_config()
    mesh = distributed.make_mesh()
    program = Program.of(config, "cpu")
    state = training_step.make_init(program, mesh)(0)
    sequences = evaluation.evaluation_sequences(config, 20)
    scores = [
        evaluation.evaluate(program, mesh, state.params, sequences, batch_size)
        for batch_size in (20, 8)
    ]
    assert_trees_all_close(*scores, rtol=1e-5)
    on_device = jax.tree.map(jnp.asarray, sequences)
    logits = training_step.predict(program.model, program.sleep, state.params, on_device)
    right = np.argmax(logits, -1)[:, 0] == sequences["targets"][:, 0]
    by_position = scores[1]["label_accuracy_by_position"]
    assert list(by_position.values()) == pytest.approx(right.mean(axis=0))
    assert len(set(by_position.values())) > 1
    other = evaluation.evaluate(program, mesh, state.params, sequences, 20, passes=5)
    same = evaluation.evaluate(program, mesh, state.params, sequences, 20, passes=2)
    assert other["loss"] != scores[0]["loss"] and same == scores[0]


def test_training_learns_a_label_that_is_in_the_context(tmp_path):
    """t = 0: the label is the first bit of the string. Chance is one in sixteen."""
    config = tiny.run_config(passes=1, steps=250, checkpoint_every=1000, log_every=100)
    config = dataclasses.replace(
        config, task=dataclasses.replace(config.task, rollout_steps=0, strings=2)
    )
    tokens = 250 * config.tokens_per_step
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, tokens=tokens))
    result = train(config, tmp_path / "run")
    assert result["exact_accuracy"] > result["floor"] + 0.3, result["exact_accuracy"]
