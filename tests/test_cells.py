"""What N = 1 gets when it may spend as many training FLOPs as a larger N."""

import dataclasses

import pytest

from experiments import binary, cells, presets
from sleep_jax.flops import training_flops
from sleep_jax.model.config import AttentionConfig, GatedDeltaNetConfig
from sleep_jax.model.decoder import count_parameters
from sleep_jax.tasks.rule110 import Rule110Config
from tests import tiny

BASE = presets.cpu().config
GROUPED = dataclasses.replace(  # query heads and value heads in groups
    BASE,
    model=dataclasses.replace(
        BASE.model,
        attention=AttentionConfig(heads=4, kv_heads=2, head_dim=16),
        gated_delta_net=GatedDeltaNetConfig(key_heads=2, value_heads=4, key_dim=16, value_dim=16),
    ),
)


@pytest.mark.parametrize("base", [BASE, GROUPED], ids=["equal heads", "grouped heads"])
@pytest.mark.parametrize("passes", [2, 4, 7])
@pytest.mark.parametrize("spend", [cells.TOKENS, cells.BLOCKS, cells.WIDTH])
def test_flops_are_those_of_the_larger_n_and_buy_what_is_said(base, passes, spend):
    dear = cells.hybrid(base, passes, seed=3)
    cell = cells.matched(base, passes, seed=3, spend=spend)
    config, plain = cell.config, cells.hybrid(base, 1, seed=3).config
    config.validate()
    assert config.sleep.passes == 1 and config.train.seed == 3
    assert training_flops(config) == pytest.approx(training_flops(dear.config), rel=0.01)
    tokens = config.train.tokens / plain.train.tokens
    blocks = len(config.model.pattern) / len(plain.model.pattern)
    parameters = count_parameters(config.model) / count_parameters(plain.model)
    if spend == cells.TOKENS:
        assert config.model == plain.model and tokens > 1.8
    elif spend == cells.BLOCKS:
        assert blocks == passes == pytest.approx(parameters, rel=0.01) and 0.8 < tokens < 1.3
    else:
        assert blocks == 1 and parameters > 1.5 and 0.7 < tokens < 1.4
        assert config.model.attention.head_dim == plain.model.attention.head_dim


@pytest.mark.parametrize("smaller", [1, 2, 3])
def test_every_smaller_n_gets_the_flops_of_the_largest(smaller):
    dear = cells.hybrid(BASE, 4, seed=3)
    cell = cells.matched(BASE, 4, 3, cells.TOKENS, smaller)
    assert cell.config.sleep.passes == smaller and cell.config.model == BASE.model
    assert training_flops(cell.config) == pytest.approx(training_flops(dear.config), rel=0.01)
    assert cell.name == f"hybrid-N{smaller}-t2-W12-s3-flops"


def test_blocks_and_width_are_for_one_pass():
    assert cells.spenders((1, 2, 4), cells.TOKENS) == [1, 2]
    assert cells.spenders((2, 4), cells.TOKENS) == [1, 2]
    assert cells.spenders((4, 1, 3), cells.BLOCKS) == cells.spenders((2, 4), cells.WIDTH) == [1]


def test_a_sweep_matches_every_smaller_n_on_tokens_and_one_pass_on_blocks():
    ways = (cells.TOKENS, cells.BLOCKS)
    found = cells.all_matched(BASE, (1, 2, 4), ways, (0, 5), {1: 0.5, 4: 0.25})
    assert [cell.name for cell in found] == [
        f"hybrid-N{n}-t2-W12-s{seed}-{spent}"
        for n, spent in ((1, "flops"), (2, "flops"), (1, "flops-blocks"))
        for seed in (0, 5)
    ]
    dear = training_flops(cells.hybrid(BASE, 4, seed=0).config)
    assert [cell.flops for cell in found] == pytest.approx([dear] * 6, rel=0.01)
    rates = [cell.config.optimizer.muon_learning_rate for cell in found]
    usual = BASE.optimizer.muon_learning_rate  # of N = 2, and of more blocks
    assert rates == [0.5, 0.5, *[usual] * 4]


def test_names_tell_what_was_spent():
    names = {cells.matched(BASE, 4, 0, spend).name for spend in cells.EQUAL_FLOPS}
    end = "hybrid-N1-t2-W12-s0-flops"
    assert names == {end, f"{end}-blocks", f"{end}-width"}
    base = dataclasses.replace(BASE, model=tiny.with_rule(BASE.model, "gated_delta_negative"))
    cell = cells.hybrid(base, 4, seed=0)
    assert cell.name == "hybrid-gated-delta-negative-N4-t2-W12-s0"
    assert cell.identity()["update_rule"] == "gated_delta_negative"
    assert cells.transformer(base, "evict", seed=0).update_rule == "none"


def test_what_passes_hand_on_is_said_where_there_is_a_pass_to_hand_it_to():
    sleep = dataclasses.replace(BASE.sleep, carry="fast_weights")
    base = dataclasses.replace(BASE, sleep=sleep)
    one, two = (cells.hybrid(base, n, seed=0) for n in (1, 2))
    assert two.name == "hybrid-N2-t2-W12-s0-carry-fast-weights"
    assert two.identity()["regime"] == "passes hand on fast weights alone"
    assert one.name == "hybrid-N1-t2-W12-s0" and one.identity()["regime"] == "plain"


def test_marked_strings_are_a_setting_of_their_own():
    task = Rule110Config(marked=True, window=13)
    cell = cells.hybrid(dataclasses.replace(BASE, task=task), 4, seed=0)
    assert cell.name == "hybrid-N4-t2-W12-marked-s0"
    assert cell.identity()["regime"] == "strings marked"
    numbered = dataclasses.replace(task, numbered=True)
    cell = cells.hybrid(dataclasses.replace(BASE, task=numbered), 4, seed=0)
    assert cell.name == "hybrid-N4-t2-W12-numbered-s0"
    assert cell.identity()["regime"] == "strings numbered"
    one = dataclasses.replace(BASE.task, strings=1)
    cell = cells.hybrid(dataclasses.replace(BASE, task=one), 4, seed=0)
    assert cell.name == "hybrid-N4-t2-W12-K1-s0"
    assert cell.identity()["regime"] == "K = 1"


def test_what_muon_adds_is_that_of_whole_gradients():
    planned = [cells.hybrid(BASE, n, seed=0) for n in (1, 2)]
    sleep = dataclasses.replace(planned[1].config.sleep, backward_passes=1)
    cut = dataclasses.replace(
        planned[1], config=dataclasses.replace(planned[1].config, sleep=sleep)
    )
    assert binary._uncounted([*planned, cut]) == binary._uncounted(planned)
    assert binary._uncounted([cut]) not in binary._uncounted(planned)
