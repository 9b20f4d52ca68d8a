"""A run that begins with what another has learned."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
from chex import assert_trees_all_equal

from experiments import cells, sweep
from experiments.report import tables
from sleep_jax import records
from sleep_jax.distributed import MeshConfig
from sleep_jax.errors import UserError
from sleep_jax.training import loop, warm_start
from tests import tiny
from tests.test_training import state_at, stop_before, train


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A finished run of one pass, seed 5, with its row."""
    directory = tmp_path_factory.mktemp("sweep") / "cells" / "hybrid-N1-t1-W7-s5"
    config = tiny.run_config(passes=1, seed=5)
    row = {"commit": "abc", "train_tokens": 7, "train_flops": 9, **train(config, directory)}
    records.write_json(directory / "row.json", row)
    return directory, row


def begun(source, **change):
    name = str(source).replace("s5", "s{seed}")
    return tiny.run_config(**{"passes": 2, "seed": 5, "warm_start": name, **change})


def test_it_begins_with_the_parameters_and_nothing_else(source, tmp_path):
    directory, _ = source
    with pytest.raises(loop.Interrupted, match="stopped at step 0"):
        train(begun(directory), tmp_path / "run", should_stop=stop_before(0))
    state = state_at(tmp_path / "run", 0)
    assert_trees_all_equal(state["params"], state_at(directory, 12)["params"])
    assert state["step"] == 0
    moments = [np.abs(x).max() for x in jax.tree.leaves(state["opt_state"]) if x.ndim > 1]
    assert moments and not any(moments)


def test_it_resumes_to_the_same_bits_without_the_other_run(source, tmp_path):
    directory, row = source
    copied = shutil.copytree(directory, tmp_path / directory.name)
    config = begun(copied)
    whole = train(config, tmp_path / "whole")
    with pytest.raises(loop.Interrupted):
        train(config, tmp_path / "run", should_stop=stop_before(3))
    shutil.rmtree(copied)
    warm_start.check(config, tmp_path / "run")
    resumed = train(config, tmp_path / "run")
    assert_trees_all_equal(state_at(tmp_path / "run", 12), state_at(tmp_path / "whole", 12))
    assert resumed["curve"] == whole["curve"]
    spent = {"total_tokens": row["train_tokens"], "total_flops": row["train_flops"]}
    assert resumed["warm_start"] == whole["warm_start"]
    assert resumed["warm_start"] == {"run": directory.name, "commit": "abc", "step": 12, **spent}
    # The next one has all that was spent before it.
    records.write_json(tmp_path / "run" / "row.json", {"commit": "def", **resumed})
    third = train(begun(tmp_path / "run"), tmp_path / "third")["warm_start"]
    assert third["total_flops"] == row["train_flops"] + resumed["train_flops"]
    assert third["total_tokens"] == row["train_tokens"] + resumed["train_tokens"]


def test_which_blocks_are_repeated_is_free(source):
    directory, _ = source
    config = begun(directory)
    looped = dataclasses.replace(config.model, looped=(1, 2))
    warm_start.check(dataclasses.replace(config, model=looped), directory)


@pytest.mark.parametrize(
    "prepare, change, message",
    [
        (shutil.rmtree, {}, "is no run directory .config.json: No such file"),
        (lambda d: (d / "row.json").unlink(), {}, "is not finished; allowed: a run that has its"),
        (lambda d: (d / "row.json").write_text("{half"), {}, "row.json is not JSON"),
        (lambda d: None, {"seed": 6}, "s6 is no run directory"),
        (lambda d: shutil.rmtree(d / "checkpoints"), {}, "has no checkpoints; allowed: a run that"),
    ],
)
def test_what_it_cannot_begin_with_is_refused(source, tmp_path, prepare, change, message):
    copied = shutil.copytree(source[0], tmp_path / source[0].name)
    prepare(copied)
    cell = cells.hybrid(begun(copied, **change), 2, change.get("seed", 5))
    with pytest.raises(UserError, match=rf"train.warm_start='.*s{{seed}}'.*{message}") as caught:
        sweep.check([cell], tmp_path / "sweep", MeshConfig())
    assert len(str(caught.value).splitlines()) == 1


def test_another_model_is_refused_by_its_field(source, tmp_path):
    config = begun(source[0])
    other = dataclasses.replace(config, model=dataclasses.replace(config.model, mlp_hidden=32))
    with pytest.raises(UserError, match="model.mlp_hidden=32 is not possible; allowed: 24, with"):
        sweep.check([cells.hybrid(other, 2, 5)], tmp_path, MeshConfig())
    with pytest.raises(UserError, match="--match=width is not possible with train.warm_start="):
        cells.matched(config, 2, 5, cells.WIDTH)
    with pytest.raises(UserError, match="--baselines=full is not possible .* allowed: --baselines"):
        cells.transformer(config, "keep", 5)
    both = dataclasses.replace(config.train, pretrained="smollm2")
    with pytest.raises(UserError, match="train.warm_start=.*: empty where train.pretrained"):
        both.validate()


def test_a_run_with_a_beginning_is_a_setting_of_its_own(source):
    config = begun(source[0])
    cell = cells.hybrid(config, 2, 5)
    assert cell.name == "hybrid-N2-t1-W7-s5-warm"
    assert cell.identity()["regime"] == "from hybrid-N1-t1-W7"


def test_a_table_says_what_was_spent_before():
    rows = [{"warm_start": {"total_flops": 3 * 10**12}}, {"warm_start": {"total_flops": 10**12}}]
    said = "2 of the 3 runs begin with the parameters of another, as their lines say; the 1e+12 to "
    assert said + "3e+12 FLOPs" in tables._begun([*rows, {}])
    assert tables._begun([{}]) == ""
    about = {"model": "hybrid", "update_rule": "gated_delta", "passes": 1, "match": "tokens"}
    first, second = ({**about, "config": {"optimizer.muon_learning_rate": x}} for x in (0.2, 0.1))
    said = tables._rates([first, {**second, "warm_start": {}}])
    assert said == " Muon's rate is 0.1 for N = 1, begun from another, and 0.2 for N = 1."
