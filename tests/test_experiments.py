"""The smoke preset of every swept experiment but the first, from outside."""

import dataclasses
import json
from pathlib import Path

import pytest

from experiments import depo
from experiments.__main__ import SWEPT
from sleep_jax.training.evaluation import evaluation_sequences
from tests.from_outside import ends, run

# Cells one after the other: a second process would import and trace everything once more.
SMOKE = ("--preset=smoke", "--jobs=1")


@pytest.mark.parametrize(
    "name, flags, rows",
    [("depo", [], 5), ("gsm_infinite", ["--baselines=", "--passes=2", "--match="], 1)],
)
def test_smoke_preset_writes_results_by_depth(tmp_path, name, flags, rows):
    result = run("experiments", name, *SMOKE, *flags, f"--workdir={tmp_path}")
    assert result.returncode == 0, result.stderr
    directory = tmp_path / name / "smoke"
    results = json.loads((directory / "results.json").read_text())
    assert results["missing"] == [] and len(results["rows"]) == rows
    for row in results["rows"]:
        assert sorted(row["by_depth"]) == ["1", "2"]
        counts = [at["answers"] for at in row["by_depth"].values()]
        overall = sum(
            at["answers"] * at["exact_accuracy"] for at in row["by_depth"].values()
        ) / sum(counts)
        assert row["exact_accuracy"] == pytest.approx(overall, abs=1e-6)
    assert (directory / "by_depth.png").read_bytes().startswith(b"\x89PNG")
    assert (directory / "table.md").read_text() in result.stdout


@pytest.mark.parametrize(
    "name, flags, cells, picture, says",
    [
        ("elastic_sleep", ["--drawn_passes=1,2"], 4, "by_passes.png", "N drawn from 1, 2"),
        ("rollout_curriculum", [], 7, "curves.png", "equal compute, more tokens; t = 1 first"),
    ],
)
def test_smoke_preset_of_what_changes_in_the_course_of_a_run(
    tmp_path, name, flags, cells, picture, says
):
    result = run("experiments", name, *SMOKE, *flags, f"--workdir={tmp_path}")
    assert result.returncode == 0, result.stderr
    directory = tmp_path / name / "smoke"
    results = json.loads((directory / "results.json").read_text())
    assert results["missing"] == [] and len(results["rows"]) == cells
    assert (directory / picture).read_bytes().startswith(b"\x89PNG")
    assert says in (directory / "table.md").read_text()


@pytest.mark.parametrize("name", SWEPT)
def test_presets_can_be_planned_as_they_come(tmp_path, name):
    # The cpu preset of smollm2_gsm wants `make pretrained`, and says so (tests/test_pretrained.py).
    for preset in ("smoke",) if name == "smollm2_gsm" else ("cpu", "smoke"):
        plan = (f"--preset={preset}", f"--workdir={tmp_path}", "--dry_run")
        done = ends("experiments", name, *plan)
        assert done.returncode == 0 and " runs, " in done.stdout, done.stderr


@pytest.mark.parametrize(
    "name, flag",
    [
        ("elastic_sleep", "--backward_passes=4"),
        ("elastic_sleep", "--drawn_passes=0"),
        ("rollout_curriculum", "--rollout_steps=1"),
        ("depo", "--data=0"),
        ("depo", "--fsdp=3"),
        ("depo", "--jobs=x"),
    ],
)
def test_impossible_flags_end_in_one_line(tmp_path, name, flag):
    result = ends("experiments", name, flag, f"--workdir={tmp_path}")
    assert result.returncode == 2 and not list(tmp_path.iterdir())
    (line,) = result.stderr.strip().splitlines()
    assert flag in line and "allowed: " in line


def test_a_frozen_split_is_evaluated_on_and_a_damaged_one_refused(tmp_path):
    freeze = ("--experiment=depo", "--preset=smoke", "--count=64", f"--data_dir={tmp_path / 'f'}")
    done = ends("experiments.freeze", *freeze)
    assert done.returncode == 0, done.stderr
    directory = Path(done.stdout.strip().splitlines()[-1])
    assert (directory / "metadata.json").exists()
    config = depo.smoke().config
    frozen = dataclasses.replace(config.train, evaluation_data=str(directory))
    frozen = evaluation_sequences(dataclasses.replace(config, train=frozen), 20)
    sampled = evaluation_sequences(config, 20)
    assert sampled.keys() == frozen.keys()
    assert all((sampled[name] == frozen[name]).all() for name in sampled)
    (record,) = directory.glob("*array_record*")
    content = bytearray(record.read_bytes())
    content[len(content) // 2] ^= 1
    record.write_bytes(content)
    sweep = ("--preset=smoke", f"--workdir={tmp_path}", f"--set=train.evaluation_data={directory}")
    done = ends("experiments", "depo", *sweep)
    assert done.returncode == 2 and str(directory) in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and not (tmp_path / "depo" / "smoke").exists()
    done = ends("experiments.freeze", "--experiment=dreams")
    assert done.returncode == 2 and "--experiment=dreams is unknown; allowed: cel" in done.stderr


@pytest.mark.parametrize("flag", ["--max_hops=3,1", "--set=task.names_vocab=9"])
def test_the_vocabulary_follows_the_task(tmp_path, flag):
    """Hops and names are tokens; who asks for more of them need not count them."""
    plan = ("depo", "--preset=smoke", f"--workdir={tmp_path}", "--dry_run")
    done = ends("experiments", *plan, flag)
    assert done.returncode == 0, done.stderr
    assert "hybrid-N1-n4-k" in done.stdout
    for given in (18, depo.smoke().config.model.vocab_size):  # the latter is what it was
        done = ends("experiments", *plan, flag, f"--set=model.vocab_size={given}")
        assert done.returncode == 2 and f"model.vocab_size={given} is not possible" in done.stderr
