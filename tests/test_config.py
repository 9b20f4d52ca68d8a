"""Strict overrides and refusals of the configuration; the run directory's own checks."""

import dataclasses
import json

import pytest

from sleep_jax import records
from sleep_jax.config import RunConfig, flatten, to_dict
from sleep_jax.errors import UserError
from sleep_jax.overrides import override
from tests import tiny


@pytest.mark.parametrize(
    "assignment, path, value",
    [
        ("model.d_model=128", "model.d_model", 128),
        ("train.tokens=5e9", "train.tokens", 5_000_000_000),
        ("optimizer.muon_learning_rate=0.5", "optimizer.muon_learning_rate", 0.5),
        ("model.attention.qk_norm=true", "model.attention.qk_norm", True),
        ("model.gated_delta_net.update_rule=kda", "model.gated_delta_net.update_rule", "kda"),
        ("model.pattern=attention,attention", "model.pattern", ["attention", "attention"]),
        ("train.evaluate_passes=1,8", "train.evaluate_passes", [1, 8]),
    ],
)
def test_every_kind_of_field_can_be_set(assignment, path, value):
    before, after = (
        flatten(to_dict(c)) for c in (RunConfig(), override(RunConfig(), [assignment]))
    )
    assert after[path] == value
    assert {k for k in after if after[k] != before[k]} <= {path}


@pytest.mark.parametrize(
    "assignment, message",
    [
        ("model.depth=3", "no field 'depth' here; allowed: activation_dtype"),
        ("model=3", "allowed: model.<field>=value"),
        ("model.d_model.x=3", "allowed: d_model=value"),
        ("model.d_model", "allowed: path=value"),
        ("model.d_model=3.5", "allowed: a value of int"),
        ("model.attention.qk_norm=1", "allowed: a value of bool"),
    ],
)
def test_an_impossible_override_says_what_is_possible(assignment, message):
    with pytest.raises(UserError) as refused:
        override(RunConfig(), [assignment])
    assert message in str(refused.value)


@pytest.mark.parametrize(
    "assignment, message",
    [
        ("sleep.passes=0", "sleep.passes=0 is not possible; allowed: N >= 1"),
        ("sleep.remat=all", "allowed: none, pass, window"),
        ("model.attention.kv_heads=3", "a divisor of model.attention.heads=2"),
        ("model.gated_delta_net.value_heads=3", "a multiple of model.gated_delta_net.key_heads=2"),
        (
            "model.gated_delta_net.update_rule=oja",
            "model.gated_delta_net.update_rule='oja' is not possible; allowed: hebbian, delta, ",
        ),
        ("model.gated_delta_net.generator_hidden=0", ">= 1"),
        ("model.activation_dtype=float8", "allowed: auto, float32, bfloat16"),
        ("model.attention.head_dim=7", "even"),
        ("train.tokens=1", "one batch of sequences"),
        ("train.tokens=1e15", "train.tokens=1000000000000000 is not possible; allowed: one batch"),
        ("train.tokens=1e15", " tokens, to 10000000 of them"),
        ("sleep.passes=100000000000", "allowed: N >= 1, up to 1000"),
        ("curriculum.passes=1,2000", "curriculum.passes=(1, 2000) is not possible"),
        ("optimizer.muon_learning_rate=inf", "optimizer.muon_learning_rate=inf is not possible"),
        ("train.target_accuracy=nan", "train.target_accuracy=nan is not possible"),
        ("model.attention.rope_theta=0", "model.attention.rope_theta=0.0 is not possible"),
        ("model.norm_eps=-1", "model.norm_eps=-1.0 is not possible; allowed: > 0"),
        ("optimizer.decay_fraction=0.99", "<= 1 - warm-up"),
        ("task.rollout_steps=-1", "task.rollout_steps=-1"),
    ],
)
def test_an_impossible_configuration_names_the_field(assignment, message):
    with pytest.raises(UserError) as refused:
        override(RunConfig(), [assignment]).validate()
    assert message in str(refused.value)


def test_only_a_kept_cache_forbids_more_passes():
    config = tiny.run_config(passes=2)
    sleep = dataclasses.replace(config.sleep, cache="keep")
    with pytest.raises(UserError, match="nothing is evicted, so nothing sleeps"):
        dataclasses.replace(config, sleep=sleep).validate()


def test_a_directory_belongs_to_one_configuration(tmp_path):
    config = to_dict(tiny.run_config())
    records.check_config(tmp_path, config)
    records.write_json(tmp_path / "config.json", config)
    records.check_config(tmp_path, config)
    with pytest.raises(UserError, match="with sleep.passes=2, asked was 4"):
        records.check_config(tmp_path, to_dict(tiny.run_config(passes=4)))
    (tmp_path / "config.json").write_text("{half")
    with pytest.raises(UserError, match="not a readable configuration"):
        records.check_config(tmp_path, config)


def test_metrics_after_the_restored_step_are_dropped(tmp_path):
    metrics = records.Metrics(tmp_path, 0)
    for step in (1, 2, 3):
        metrics.write("train", step, {"loss": 1.0 / step})
    metrics.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"kind": "train", "st')  # killed while writing
    resumed = records.Metrics(tmp_path, 2)
    resumed.write("train", 3, {"loss": 0.5})
    resumed.close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]
    assert json.loads(lines[-1])["loss"] == 0.5
