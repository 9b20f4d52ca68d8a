"""`EXP=lclm`: its plan, all of it at its smallest, and its report on made-up rows."""

import dataclasses
import json
import re

import pytest
from absl import flags
from absl.testing import flagsaver

from experiments import binary, cells, cost_of_depth, lclm
from experiments.report import claims_latents, depth_cost, depth_cost_figure, latents
from experiments.report.verdicts import Verdict
from sleep_jax.flops import training_flops
from sleep_jax.model.decoder import count_parameters
from tests.from_outside import ends, run
from tests.test_cost_of_depth import took
from tests.test_report_claims import source


@pytest.mark.parametrize("name", lclm.EXPERIMENT.presets)
def test_all_may_spend_the_same_and_warm_up_for_as_long(name):
    flags.FLAGS.mark_as_parsed()
    planned = binary.plan(lclm.EXPERIMENT, lclm.EXPERIMENT.presets[name]())
    assert len({cell.name for cell in planned}) == len(planned)
    hybrids = [cell for cell in planned if cell.model == cells.HYBRID]
    most, warmup = training_flops(hybrids[0].config), hybrids[0].config.optimizer.warmup_fraction
    for cell in planned:
        cell.config.validate()
        rate, steps = cell.config.optimizer, cell.config.steps
        assert training_flops(cell.config) == pytest.approx(most, rel=0.04)  # smoke: few steps
        assert round(rate.warmup_fraction * steps) == round(warmup * hybrids[0].config.steps)


def test_latents_are_as_many_blocks_and_about_as_many_parameters():
    flags.FLAGS.mark_as_parsed()
    planned = binary.plan(lclm.EXPERIMENT, lclm.cpu())
    sizes = {cell.model: count_parameters(cell.config.model) for cell in planned}
    assert set(sizes) == {cells.HYBRID, cells.LCLM, cells.FULL_CACHE}
    assert max(sizes.values()) < 1.11 * min(sizes.values())
    for cell in planned:
        model = cell.config.model
        assert model.latents.blocks + len(model.pattern) == 2
    ratios = [cell.config.model.latents.ratio for cell in planned if cell.model == cells.LCLM]
    assert set(ratios) == {12}  # the whole window
    with flagsaver.flagsaver(rollout_steps=["4", "3"]):
        deeper = binary.select(lclm.EXPERIMENT, lclm.cpu())
    full = [c for c in binary.plan(lclm.EXPERIMENT, deeper) if c.model == cells.FULL_CACHE]
    assert [c.config.task.setting()["rollout_steps"] for c in full] == [4]  # the headline alone
    with flagsaver.flagsaver(ratios=["3"]):
        asked = binary.plan(lclm.EXPERIMENT, lclm.cpu())
    assert {c.config.model.latents.ratio for c in asked if c.model == cells.LCLM} == {3}
    with flagsaver.flagsaver(ratios=[]):
        assert not any(c.model == cells.LCLM for c in binary.plan(lclm.EXPERIMENT, lclm.cpu()))
    (one,) = {c.name for c in asked if c.model == cells.LCLM and c.config.train.seed == 10}
    assert one == "lclm-N1-t3-W12-s10-per3-flops"


def test_blocks_are_dealt_out_evenly():
    base = cost_of_depth.cpu().config
    for blocks, encoder, decoder in ((1, 1, 1), (2, 1, 1), (3, 1, 2), (4, 2, 2)):
        pattern = ("gated_delta_net", "attention", "gated_delta_net", "attention")[:blocks]
        model = dataclasses.replace(base.model, pattern=pattern)
        cell = cells.lclm(dataclasses.replace(base, model=model), 4, 0)
        assert cell.config.model.latents.blocks == encoder
        assert cell.config.model.pattern == ("attention",) * decoder


def test_the_smoke_preset_and_what_it_refuses(tmp_path):
    arguments = ("experiments", "lclm", "--preset=smoke", f"--workdir={tmp_path}")
    flags_of_it = ("--jobs=1", "--seeds=0", "--passes=1", "--set=train.target_accuracy=0.1")
    result = run(*arguments, *flags_of_it)
    assert result.returncode == 0, result.stderr
    directory = tmp_path / "lclm" / "smoke"
    results = json.loads((directory / "results.json").read_text())
    assert results["missing"] == []
    assert [row["model"] for row in results["rows"]] == ["hybrid", "lclm"]
    assert [row["update_rule"] for row in results["rows"]] == ["gated_delta", "latents"]
    assert "| 7 tokens a latent |" in (directory / "table.md").read_text()
    assert (directory / "needs_by_depth.png").read_bytes().startswith(b"\x89PNG")
    for flag, said in (
        ("--ratios=5", "model.latents.ratio=5 is not possible; allowed: a divisor of task.window="),
        ("--ratios=0", "--ratios=0 is not possible"),
        ("--set=model.latents.blocks=2", "is set by the sweep; allowed: --ratios=..."),
    ):
        refused = ends(*arguments, flag, "--dry_run")
        assert refused.returncode == 2 and said in refused.stderr, refused.stderr
        assert refused.stderr.count("\n") == 1


def of(counts, tokens, depth=2, **fields):
    """What latents of so many tokens took, by seed."""
    regime = f"{tokens} tokens a latent"
    rows = took(counts, depth=depth, update_rule="latents", regime=regime, **fields)
    return [{**one, "cell": f"{one['cell']}-per{tokens}", "model": "lclm"} for one in rows]


def full(counts, **fields):
    rows = took(counts, update_rule="none", **fields)
    return [{**one, "cell": f"{one['cell']}-full", "model": "full_cache"} for one in rows]


FAST = [*took([8, 8.1, 8.2]), *took([4, 4.1, 4.2], 2)]


def said_of(*rows):
    found = depth_cost.summarise(depth_cost.RULE_110, [one for some in rows for one in some])
    return latents.conclude(found), found


def test_latents_stand_beside_every_other_way():
    said, found = said_of(FAST, of([2, 2.1, 2.2], 12), of([3, 3.1, 3.2], 4), full([9, 9.1, 9.2]))
    names = [depth_cost.name(group) for group in found]
    assert names == ["N = 1", "N = 2", "4 tokens a latent", "12 tokens a latent", "full cache"]
    for other, times in (("N = 1", "0.26"), ("N = 2", "0.51"), ("full cache", "0.23")):
        text = rf"At t = 2 12 tokens a latent takes {times} \[.*?\] times what {other} takes, apart"
        assert re.search(text, said), said
    assert "takes 1.51" not in said  # of two kinds of latents beside each other
    lines = {line[1]: line for line in depth_cost.lines(found)}
    assert set(lines) == {"1", "2", *names[2:]}
    times = dict(zip(lines, (line[7] for line in lines.values()), strict=True))
    assert times["1"] == "1" and times["12 tokens a latent"].startswith("3.86 [")
    assert times["full cache"].startswith("0.89 [")
    alone = depth_cost.summarise(depth_cost.RULE_110, of([2, 2.1, 2.2], 12))
    assert depth_cost.lines(alone)[0][7] == "not run"
    marked = of([2, 2.1, 2.2], 12)
    marked = [{**one, "regime": f"strings marked; {one['regime']}"} for one in marked]
    other = depth_cost.summarise(depth_cost.RULE_110, [*FAST, *marked])
    assert [line[7] for line in depth_cost.lines(other)][2] == "not run"


def test_what_had_another_budget_is_not_compared():
    dearer = [{**one, "budget_flops": 2 * one["budget_flops"]} for one in of([2, 2.1, 2.2], 4)]
    said, found = said_of(FAST, dearer)
    assert "takes" not in said
    assert [line[7] for line in depth_cost.lines(found)][-1] == "not run"


def test_every_kind_of_latents_has_a_colour_of_its_own(tmp_path):
    _, found = said_of(FAST, of([2, 2.1, 2.2], 12), of([3, 3.1, 3.2], 4), full([9, 9.1, 9.2]))
    kinds = [depth_cost_figure._kind(group) for group in found]
    assert len(set(kinds)) == 5 and kinds == sorted(kinds)
    results = {"summary": found}
    depth_cost_figure.draw(depth_cost.RULE_110, results, tmp_path / "x.png")


@pytest.mark.parametrize(
    "rows, verdict",
    [
        ([*FAST, *of([2, 2.1, 2.2], 4)], Verdict.SHOWN),
        ([*FAST, *of([2, 2.1, 2.2], 4), *of([9, 9.1, 9.2], 2)], Verdict.SHOWN),  # one is enough
        ([*FAST, *of([4, 4.1, 4.2], 4)], Verdict.NOT_SHOWN),  # like N = 2
        # Less at one depth and not at the other.
        (
            [*FAST, *of([2, 2.1, 2.2], 4), *took([3, 3.1, 3.2], depth=1)]
            + of([3, 3.1, 3.2], 4, depth=1),
            Verdict.NOT_SHOWN,
        ),
        ([*FAST, *of([2, 2.1], 4)], Verdict.NOT_RUN),  # two seeds
        ([*of([2, 2.1, 2.2], 4), *full([9, 9.1, 9.2])], Verdict.NOT_RUN),
    ],
)
def test_verdicts_on_latents_beside_fast_weights(rows, verdict):
    assert claims_latents.less_than_fast_weights(source(rows, "lclm")).verdict == verdict


@pytest.mark.parametrize(
    "rows, verdict",
    [
        ([*of([2, 2.1, 2.2], 4), *of([4, 4.1, 4.2], 12)], Verdict.SHOWN),
        ([*of([2, 2.1, 2.2], 12), *of([4, 4.1, 4.2], 4)], Verdict.NOT_SHOWN),
        ([*of([2, 2.1, 2.2], 12), *of([2, 2.1, 2.2], 4)], Verdict.NOT_SHOWN),
        ([*FAST, *of([2, 2.1, 2.2], 12)], Verdict.NOT_RUN),
    ],
)
def test_verdicts_on_how_many_tokens_a_latent_stands_for(rows, verdict):
    finding = claims_latents.coarser_take_more(source(rows, "lclm"))
    assert finding.verdict == verdict
    assert verdict is Verdict.NOT_RUN or finding.numbers.startswith("t = 2, 12 tokens a latent: ")
