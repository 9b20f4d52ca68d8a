"""`EXP=ttt_e2e`: its plan, all of it at its smallest, and what its report adds on made-up rows."""

import functools
import json
import re

import pytest
from absl import flags
from absl.testing import flagsaver

from experiments import binary, ttt_e2e
from experiments.report import depth_cost, writers
from sleep_jax.flops import training_flops
from tests.from_outside import ends, run
from tests.test_cost_of_depth import point, took
from tests.test_needs import hops


def test_every_writer_and_n_may_spend_the_same():
    flags.FLAGS.mark_as_parsed()
    preset = ttt_e2e.cpu()
    planned = binary.plan(ttt_e2e.EXPERIMENT, preset)
    seeds = len(preset.depths[2])
    assert len({cell.name for cell in planned}) == len(planned) == 4 * seeds
    most = training_flops(planned[0].config)
    for cell in planned:
        assert training_flops(cell.config) == pytest.approx(most, rel=0.001)
    rules = [cell.update_rule for cell in planned]
    assert rules == ["gated_delta"] * 2 * seeds + ["prime_mlp"] * 2 * seeds
    rates = [cell.config.optimizer.muon_learning_rate for cell in planned]
    assert rates == [5e-3] * 2 * seeds + [1e-2] * 2 * seeds
    with flagsaver.flagsaver(set=["optimizer.muon_learning_rate=3e-3"]):
        given = binary.plan(ttt_e2e.EXPERIMENT, binary.select(ttt_e2e.EXPERIMENT, preset))
        assert {cell.config.optimizer.muon_learning_rate for cell in given} == {3e-3}
    with flagsaver.flagsaver(match=[], passes=["4"], set=["train.tokens=8000725"]):
        alone = binary.plan(ttt_e2e.EXPERIMENT, binary.select(ttt_e2e.EXPERIMENT, preset))
        assert [cell.config.sleep.passes for cell in alone] == [4] * 2 * seeds
        assert training_flops(alone[0].config) == pytest.approx(most, rel=0.001)
    with flagsaver.flagsaver(writers=["prime_mlp"]):
        assert binary.plan(ttt_e2e.EXPERIMENT, preset) == planned[2 * seeds :]


def test_the_smoke_preset_and_writers_that_are_not_there(tmp_path):
    arguments = ("experiments", "ttt_e2e", "--preset=smoke", f"--workdir={tmp_path}")
    result = run(*arguments, "--jobs=1", "--passes=1", "--set=train.target_accuracy=0.1")
    assert result.returncode == 0, result.stderr
    directory = tmp_path / "ttt_e2e" / "smoke"
    results = json.loads((directory / "results.json").read_text())
    assert results["missing"] == []
    assert [row["update_rule"] for row in results["rows"]] == ["gated_delta", "prime_mlp"]
    assert "| 1, gradient steps |" in (directory / "table.md").read_text()
    assert (directory / "needs_by_depth.png").read_bytes().startswith(b"\x89PNG")
    refused = ends(*arguments, "--set=model.pattern=attention,attention", "--dry_run")
    assert refused.returncode == 2 and "in whose place each writer goes" in refused.stderr
    for value, said in (
        ("attention", "is unknown; allowed: gated_delta_net, prime_mlp"),
        ("", "is empty; allowed: at least one of gated_delta_net, prime_mlp"),
        ("prime_mlp,prime_mlp", "names a value twice; allowed: each once"),
    ):
        refused = ends(*arguments, f"--writers={value}", "--dry_run")
        assert refused.returncode == 2 and f"--writers={value} {said}" in refused.stderr


def said_of(*rows):
    groups = depth_cost.summarise(depth_cost.DEPO, hops([one for some in rows for one in some]))
    return writers.conclude(groups)


def with_an_easier_depth(rows, flops):
    """The rows, with k = 1 learned at their second evaluation, the first being just before."""
    curve = [
        point(flops - 0.01, by_depth={"1": {"exact_accuracy": 0.1}}),
        point(flops, by_depth={"1": {"exact_accuracy": 0.9}}),
    ]
    return [{**one, "by_depth": {"1": {}}, "curve": curve} for one in rows]


def test_the_conclusion_puts_the_writers_side_by_side():
    gradient = functools.partial(took, update_rule="prime_mlp")
    few, many = gradient([4, 4.1, 4.2]), took([8, 8.1, 8.2])
    said = said_of(few, many)
    assert re.search(
        r" At k = 2 N = 1 takes 1\.98 \[1\.\d\d, 2\.\d\d\] times what N = 1, gradient steps takes, "
        r"apart\. It may not be concluded",
        said,
    )
    said = said_of(few, took([3, 4.1, 5.5]))
    assert re.search(r"N = 1 takes \d\.\d\d \[.*\] times .* takes, not apart\.", said)
    never = said_of(few, took([100, 8.1, 8.2], reached=False))
    assert "At k = 2 N = 1 and N = 1, gradient steps are not apart." in never
    none = took([100] * 5, reached=False)
    early = said_of([{**one, "reached": False} for one in none], gradient([4] * 5))
    assert "At k = 2 N = 1 takes more than N = 1, gradient steps, apart." in early
    other_n = said_of(few, took([8, 8.1, 8.2], 2))
    both = said_of(*(with_an_easier_depth(rows, k) for rows, k in ((few, 1), (many, 3))))
    assert re.search(
        r"apart\. At k = 1, on the way, N = 1 takes 3\.00 \[.*\] times what N = 1, g", both
    )
    dearer = said_of(few, [{**one, "budget_flops": 2 * 10**11} for one in many])
    assert not any("gradient steps takes" in text for text in (other_n, dearer))
