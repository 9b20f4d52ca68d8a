"""A trained run read again: the same numbers, nothing changed, and what cannot be is refused."""

import dataclasses
import json
import logging
import re
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
from chex import assert_trees_all_equal

from experiments import evaluate
from experiments.report import reread
from experiments.report.summary import interval
from sleep_jax import distributed, records, trained
from sleep_jax.config import CurriculumConfig, RunConfig, SleepConfig, to_dict
from sleep_jax.errors import UserError
from sleep_jax.saved_config import read_config
from sleep_jax.tasks.depo import DepoConfig
from sleep_jax.tasks.gsm_infinite.task import GsmInfiniteConfig
from sleep_jax.tasks.rule110 import Rule110Config
from sleep_jax.training import loop
from sleep_jax.training.evaluation import evaluation_sequences
from tests import from_outside, tiny
from tests.test_training import state_at

STEPS = 60
README = Path(__file__).parent.parent / "README.md"
NAME = "hybrid-N2-t1-W7-s0"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run in a sweep, with what was measured at its end."""
    config = tiny.run_config(
        steps=STEPS, keep_checkpoints=2, checkpoint_every=20, evaluate_passes=(1, 3)
    )
    directory = tmp_path_factory.mktemp("sweep") / "cells" / NAME
    mesh = distributed.make_mesh()
    result = loop.train(config, directory, mesh)
    records.write_json(directory / "environment.json", records.environment(mesh, {}))
    records.write_json(directory / "row.json", {"cell": NAME, **result})
    return directory, result


def files(directory: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in sorted(directory.rglob("*")) if p.is_file()}


def test_a_run_is_read_as_it_ended(run):
    directory, result = run
    before = files(directory)
    found = trained.load(directory)
    assert found.step == STEPS
    assert_trees_all_equal(found.params, state_at(directory, STEPS)["params"])
    sequences = evaluation_sequences(found.config, 20)
    again = found.evaluate(sequences)
    for name in ("loss", "exact_accuracy", "label_accuracy"):
        assert again[name] == result[name]
    by_passes = {n: found.evaluate(sequences, int(n))["exact_accuracy"] for n in ("1", "3")}
    assert by_passes == result["accuracy_by_passes"]
    assert files(directory) == before


def test_a_session_answers_what_the_evaluation_counts_as_right(run):
    directory, result = run
    found = trained.load(directory)
    batch = evaluation_sequences(found.config, 20)
    session = found.session(batch=20)
    asked = np.concatenate([batch["context"].reshape(20, -1), batch["tokens"][:, 0, :1]], axis=1)
    session.feed(asked)
    right = (session.answer(4) == batch["targets"][:, 0]).all(axis=1)
    assert right.mean() == result["exact_accuracy"]
    assert 0 < right.mean() < 1
    once = found.session(batch=20, passes=1)
    assert not np.array_equal(once.feed(asked), found.session(batch=20).feed(asked))


def test_the_example_of_the_readme_answers_as_the_evaluation_says(run, tmp_path):
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    path = tmp_path / "example.py"
    path.write_text(re.sub(r"trained\.load\(.*?\)", f"trained.load({str(run[0])!r})", example))
    found = runpy.run_path(str(path))
    right = (found["answers"] == found["some"]["targets"][:, 0]).all(axis=1)
    assert right.shape == (8,)
    assert right.mean() == found["run"].evaluate(found["some"])["exact_accuracy"]


def test_damage_is_skipped_and_left_where_it_is(run, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("sleep_jax"), "propagate", True)
    directory = shutil.copytree(run[0], tmp_path / "run")
    state = directory / "checkpoints" / str(STEPS) / "state"
    largest = max((p for p in state.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1] + b"\0")
    before = files(directory)
    assert trained.load(directory).step == STEPS - 20
    assert f"{STEPS} cannot be read" in caplog.text
    for checkpoint in (directory / "checkpoints").glob("[0-9]*"):
        if checkpoint.is_dir():
            (checkpoint / "state" / "_METADATA").unlink()
    with pytest.raises(UserError, match="has no readable checkpoint .*_METADATA is missing"):
        trained.load(directory)
    assert set(files(directory)) < set(before)
    shutil.rmtree(directory / "checkpoints")
    with pytest.raises(UserError, match="checkpoints does not exist; allowed: a run that has"):
        trained.load(directory)


@pytest.mark.parametrize(
    "config",
    [
        dataclasses.replace(
            tiny.run_config(target_accuracy=0.9, evaluate_passes=(1, 2), halting_thresholds=(0.1,)),
            curriculum=CurriculumConfig(rollout_steps=(1, 2), share=1 / 3),
            task=Rule110Config(boundary="zero", allow_degenerate=True, marked=True, window=13),
        ),
        RunConfig(task=DepoConfig(nodes=9, window=12, pairs=3), sleep=SleepConfig(cache="slide")),
        RunConfig(task=GsmInfiniteConfig(difficulty="hard", max_operations=3)),
    ],
)
def test_every_configuration_is_read_back(tmp_path, config):
    records.write_json(tmp_path / "config.json", to_dict(config))
    assert read_config(tmp_path) == config


def test_a_configuration_of_another_version(tmp_path):
    path, saved = tmp_path / "config.json", to_dict(tiny.run_config(passes=3))
    del saved["sleep"]["carry"]  # older than that field
    path.write_text(json.dumps(saved))
    assert read_config(tmp_path) == tiny.run_config(passes=3)
    for change, said in (
        ({"sleep": {"dreams": 1}}, "no field 'dreams' here"),
        ({"sleep": {"passes": "many"}}, "a value of int"),
        ({"task": {"name": "chess"}}, "'chess'"),
        ({"task": 3}, "'int'"),
        ({"sleep": 3}, "sleep.<field>=value"),
    ):
        path.write_text(json.dumps({**saved, **change}))
        with pytest.raises(
            UserError, match="config.json is not a configuration of this version"
        ) as e:
            read_config(tmp_path)
        assert said in str(e.value)
    path.write_text("{half")
    with pytest.raises(UserError, match="is not a configuration"):
        read_config(tmp_path)
    with pytest.raises(UserError, match="nowhere is no run directory .*; allowed: RUNS/"):
        read_config(tmp_path / "nowhere")


def test_the_binary_reads_a_sweep_at_other_n_and_depths(run, tmp_path):
    directory, result = run
    before, sweep = files(directory), directory.parents[1]
    arguments = (f"--run={sweep}", "--passes=2,1,3", f"--output={tmp_path}")
    done = from_outside.run("experiments.evaluate", *arguments)
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "evaluation.json").read_text())
    read = {str(row["passes"]): row["exact_accuracy"] for row in written["rows"]}
    assert read == {"2": result["exact_accuracy"], **result["accuracy_by_passes"]}
    one = written["rows"][0]
    assert (one["run"], one["setting"], one["seed"]) == (NAME, "hybrid-N2-t1-W7", 0)
    assert (one["step"], one["answers"], one["depth"]) == (STEPS, 20, "1")
    assert one["floor"] == result["floor"] and one["config"]["task.width"] == 7
    assert written["commit"] and written["versions"] and written["device"]["platform"] == "cpu"
    assert "| hybrid-N2-t1-W7 | 1 | 1 | 20 |" in done.stdout
    assert (tmp_path / "accuracy_against_passes.png").stat().st_size > 5000
    assert r"\begin{tabular}" in (tmp_path / "table.tex").read_text()
    assert files(directory) == before

    (directory / "evaluation").mkdir()
    (directory / "evaluation" / "accuracy_against_passes.png").touch()  # an older one
    deeper = ("--set=task.rollout_steps=2", "--set=train.evaluation_sequences=30")
    done = from_outside.run("experiments.evaluate", f"--run={directory}", *deeper)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((directory / "evaluation" / "evaluation.json").read_text())["rows"]
    assert not list((directory / "evaluation").glob("*.png"))
    assert (row["passes"], row["answers"], row["depth"]) == (2, 30, "2")
    shutil.rmtree(directory / "evaluation")


@pytest.mark.parametrize(
    "arguments, said",
    [
        ((), "--run is missing; allowed: a run directory"),
        (("--run=nowhere",), "--run=nowhere is neither a run nor a sweep with finished runs"),
        (("--passes=0",), "--passes=0 is not possible; allowed: whole numbers N >= 1"),
        (("--passes=2,2",), "names a value twice"),
        (("--passes=1001",), "sleep.passes=1001 is not possible"),
        (("--set=model.d_model=8",), "what was trained stays as it is; allowed: task."),
        (("--set=train.tokens=8",), "what was trained stays as it is"),
        (("--set=task.width=9",), "task.window=7: must equal task.width=9"),
        (("--set=task.depth=9",), "no field 'depth' here; allowed: "),
        (("--set=train.evaluation_split=train",), "allowed: validation, test"),
        (("--output=/proc/there",), "--output='/proc/there' cannot be written"),
        (("--nodes=3",), "flag 'nodes'; allowed: --run, --passes, --set, --output"),
    ],
)
def test_bad_input_is_one_line_and_code_2(run, arguments, said):
    given = f"--run={run[0]}"
    named = arguments[:1] == ("--run=nowhere",) or not arguments
    done = from_outside.ends("experiments.evaluate", *([] if named else [given]), *arguments)
    assert done.returncode == 2
    assert said in done.stderr and done.stderr.count("\n") == 1 and not done.stdout


def test_what_never_sleeps_is_read_as_it_was_trained(tmp_path):
    for name, change in (
        ("keep", {"sleep": SleepConfig(cache="keep")}),
        ("attention", {"model": dataclasses.replace(tiny.MODEL, pattern=("attention",))}),
    ):
        (tmp_path / name).mkdir()
        config = dataclasses.replace(tiny.run_config(passes=1), **change)
        records.write_json(tmp_path / name / "config.json", to_dict(config))
        assert evaluate._asked(tmp_path / name, [], [1, 4], alone=False)[1] == [1]
        assert evaluate._asked(tmp_path / name, [], [1], alone=True)[1] == [1]
        with pytest.raises(UserError, match=f"--passes=1,4 is not possible for {name}, which"):
            evaluate._asked(tmp_path / name, [], [1, 4], alone=True)


def test_a_damaged_environment_is_named(tmp_path):
    assert evaluate._environment(tmp_path) == {}
    (tmp_path / "environment.json").write_text("{half")
    with pytest.raises(UserError, match="environment.json is not JSON .*; allowed: what the run"):
        evaluate._environment(tmp_path)


def test_groups_are_means_over_seeds_at_each_depth_and_n():
    def row(seed, passes, accuracy, depth="1", answers=50):
        return {
            **{"setting": "hybrid", "seed": seed, "passes": passes, "depth": depth, "floor": 0.1},
            **{"answers": answers, "exact_accuracy": accuracy, "step": 9},
        }

    one, deep = reread.summarise(
        [row(0, 4, 0.5), row(1, 4, 0.7), row(0, 1, 0.2), row(1, 1, 0.3), row(0, 4, 0.9, "2", 30)]
    )
    assert one["seeds"] == [0, 1] and list(one["by_passes"]) == [1, 4]
    assert one["by_passes"][4] == interval([0.5, 0.7], 50)
    assert deep["by_passes"] == {4: interval([0.9], 30)} and deep["depth"] == "2"
    header, lines = reread.table([one, deep])
    assert header[-2:] == ("read at N = 1", "read at N = 4")
    assert lines[0][:5] == ["hybrid", "1", "2", "50", "0.100"]
    assert lines[1][-2:] == ["-", "0.900 [0.744, 0.965]"]


def test_answers_of_several_depths_have_a_row_each(run, monkeypatch):
    class Stub:
        step = 7

        def evaluate(self, sequences, passes, batch_size):
            assert batch_size == 4
            at = {"exact_accuracy": 0.5, "label_accuracy": 0.6, "loss": 1.0}
            by_depth = {"1": {**at, "answers": 12}, "2": {**at, "answers": 8}}
            return {**at, "by_depth": by_depth}

    task = DepoConfig(nodes=9, window=12, pairs=3, max_hops=2)
    train = tiny.run_config(evaluation_sequences=10, batch_size=4)
    config = dataclasses.replace(train, task=task)
    stub: trained.Trained = Stub()  # type: ignore[assignment]
    monkeypatch.setattr(DepoConfig, "floor_by_depth", lambda task, batch: {1: 0.3, 2: 0.4})
    rows = evaluate._rows(run[0], stub, config, [2])
    floor = task.floor(evaluation_sequences(config, 10))["exact"]
    assert [row["floor"] for row in rows] == [floor, 0.3, 0.4]
    assert [(row["depth"], row["answers"]) for row in rows] == [("all", 20), ("1", 12), ("2", 8)]
    assert all("by_depth" not in row for row in rows)
