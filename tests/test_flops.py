"""The FLOP count against the compiler's own."""

import dataclasses
import functools

import jax
import pytest

from sleep_jax import distributed, flops
from sleep_jax.config import OptimizerConfig, SleepConfig
from sleep_jax.model import decoder, routing
from sleep_jax.model.config import UPDATE_RULES, AttentionConfig, LocalConfig, RoutingConfig
from sleep_jax.training.step import Program, gradient_sum, predict
from tests import tiny

# Wide enough that the products dwarf what is deliberately not counted.
MODEL = dataclasses.replace(tiny.MODEL, d_model=128, mlp_hidden=256)


def compiled_flops(config):
    """Of one forward pass with both scans unrolled: XLA counts the body of a loop once."""
    batch = {
        "context": jax.ShapeDtypeStruct((1, config.task.strings, config.task.window), "int32"),
        "tokens": jax.ShapeDtypeStruct((1, 1, config.task.strings), "int32"),
    }
    params = jax.eval_shape(lambda: decoder.init(config.model, jax.random.key(0)))
    run = functools.partial(predict, config.model, config.sleep)
    cost = jax.jit(run).lower(params, batch).compile().cost_analysis()
    assert cost is not None
    return cost["flops"]


def compiled_update_flops(config):
    """Of the gradient of one batch, likewise."""
    rows, task = config.train.batch_size, config.task
    window = jax.ShapeDtypeStruct((rows, 1, task.answer_length), "int32")
    batch = {
        "context": jax.ShapeDtypeStruct((rows, task.context_windows, task.window), "int32"),
        **dict.fromkeys(("tokens", "targets", "answer"), window),
        "mask": jax.ShapeDtypeStruct(window.shape, "float32"),
        "depth": jax.ShapeDtypeStruct((rows, 1), "int32"),
    }
    program = Program.of(config, "cpu")
    params = jax.eval_shape(lambda: decoder.init(program.model, jax.random.key(0)))
    step = gradient_sum(program, distributed.make_mesh())
    cost = jax.jit(step).lower(params, batch).compile().cost_analysis()
    assert cost is not None
    return cost["flops"]


@pytest.mark.parametrize(
    "pattern, rule, looped",
    [(("gated_delta_net",), rule, ()) for rule in UPDATE_RULES if rule != "gated_delta_negative"]
    + [(("attention", "gated_delta_net"), "gated_delta", ())]
    + [(("attention", "gated_delta_net", "attention"), "gated_delta", (1, 2))],
)
def test_the_cost_of_a_pass_against_the_compiler(monkeypatch, pattern, rule, looped):
    """One pass, of which XLA drops what only its discarded features need, and two passes more."""
    monkeypatch.setattr("sleep_jax.sleep.lax.scan", functools.partial(jax.lax.scan, unroll=True))

    def counts(passes):
        config = tiny.run_config()
        config = dataclasses.replace(
            config,
            task=dataclasses.replace(config.task, strings=2),  # all of them are unrolled
            model=dataclasses.replace(tiny.with_rule(MODEL, rule), pattern=pattern, looped=looped),
            sleep=SleepConfig(passes=passes, remat="none"),
        )
        return flops.forward_flops(config, passes), compiled_flops(config)

    (ours_one, theirs_one), (ours_three, theirs_three) = counts(1), counts(3)
    assert 0.95 < (ours_three - ours_one) / (theirs_three - theirs_one) < 1.05
    assert 0.9 < ours_one / theirs_one < 1.05


def test_a_kept_cache_unembeds_its_answers_alone():
    config = tiny.run_config(passes=1)
    model = dataclasses.replace(MODEL, pattern=("attention", "attention"), vocab_size=2048)
    kept = dataclasses.replace(config, model=model, sleep=SleepConfig(cache="keep", remat="none"))
    assert 0.9 < flops.forward_flops(kept, 1) / compiled_flops(kept) < 1.05
    ours, theirs = flops.training_flops_per_step(kept), compiled_update_flops(kept)
    assert 0.9 < ours / theirs < 1.05


def test_choosing_chunks_costs_their_keys_and_logits(monkeypatch):
    """Of the cost of routing alone: what is dense and masked costs as much as reading all."""
    monkeypatch.setattr("sleep_jax.model.routing.entmax", lambda z: z)  # no product in it
    config = tiny.run_config(passes=1)
    task = dataclasses.replace(config.task, width=63, window=63)
    wide = dataclasses.replace(MODEL.attention, heads=4, kv_heads=2, head_dim=128)

    def counts(chunk):
        attention = dataclasses.replace(wide, routing=RoutingConfig(chunk, prior="none"))
        model = dataclasses.replace(MODEL, pattern=("attention",), attention=attention)
        kept = dataclasses.replace(
            config, model=model, task=task, sleep=SleepConfig(cache="keep", remat="none")
        )
        return flops.forward_flops(kept, 1), compiled_flops(kept)

    (plain, theirs_plain), (fine, theirs_fine), (coarse, theirs_coarse) = map(counts, (0, 1, 64))
    assert 0.95 < plain / theirs_plain < 1.05 and 0.9 < fine / theirs_fine < 1.05
    # Fewer chunks, fewer logits of them; the rest of routing is the same.
    assert 0.9 < (fine - coarse) / (theirs_fine - theirs_coarse) < 1.1


def test_both_kinds_of_attention_are_counted_while_a_choice_is_learned():
    config = tiny.run_config(passes=1)
    task = dataclasses.replace(config.task, width=63, window=63)
    wide = dataclasses.replace(MODEL.attention, heads=4, kv_heads=2, head_dim=128)

    def counts(local):
        attention = dataclasses.replace(wide, local=local)
        model = dataclasses.replace(MODEL, pattern=("attention",), attention=attention)
        kept = dataclasses.replace(
            config, model=model, task=task, sleep=SleepConfig(cache="keep", remat="none")
        )
        return flops.forward_flops(kept, 1), compiled_flops(kept)

    (plain, theirs_plain), (masked, theirs_masked), (mixed, theirs_mixed) = map(
        counts, (LocalConfig(), LocalConfig(4), LocalConfig(4, relaxed=True))
    )
    assert plain == masked and 0.95 < theirs_masked / theirs_plain < 1.05
    assert 0.95 < mixed / theirs_mixed < 1.05
    assert 0.9 < (mixed - plain) / (theirs_mixed - theirs_plain) < 1.1


def test_the_keys_of_chunks_are_counted():
    attention = AttentionConfig(heads=2, kv_heads=2, head_dim=128)
    routed = dataclasses.replace(attention, routing=RoutingConfig(1000))  # no chunk is whole
    model, wanted = (dataclasses.replace(MODEL, attention=a) for a in (attention, routed))
    ours = flops.block_flops(wanted, "attention", 64).read
    ours -= flops.block_flops(model, "attention", 64).read
    keys = jax.ShapeDtypeStruct((1, 64, 2, 128), "float32")
    query = jax.ShapeDtypeStruct((2, 128), "float32")
    cost = jax.jit(functools.partial(routing.chunk_keys, chunk=4)).lower(keys, query).compile()
    theirs = cost.cost_analysis()
    assert theirs is not None and 0.9 < ours / theirs["flops"] < 1.1


def test_flops_beyond_64_bits():
    config = tiny.run_config(passes=1)
    tokens = config.sequence_length * 10**15
    train = dataclasses.replace(config.train, tokens=tokens, batch_size=10**9)
    large = dataclasses.replace(config, train=train)
    one = flops.training_flops_per_step(config) // config.train.batch_size
    assert flops.training_flops(large) == one * 10**15 > 2**63


def test_gradients_of_frozen_weights_are_not_charged(monkeypatch):
    """What the compiler saves when all but the inserted blocks are frozen."""
    monkeypatch.setattr("sleep_jax.sleep.lax.scan", functools.partial(jax.lax.scan, unroll=True))
    # Nothing lies below the first trained block, and the last one reads what all have made.
    pattern = ("gated_delta_net", "attention", "gated_delta_net")
    model = dataclasses.replace(MODEL, pattern=pattern, inserted=True, vocab_size=64)

    def counts(trained):
        config = tiny.run_config(passes=1)
        config = dataclasses.replace(
            config,
            task=dataclasses.replace(config.task, strings=1),
            model=model,
            sleep=SleepConfig(remat="none"),
            optimizer=OptimizerConfig(trained=trained),
        )
        return flops.training_flops_per_step(config), compiled_update_flops(config)

    (ours_all, theirs_all), (ours, theirs) = counts("all"), counts("fast_weights")
    assert 0.95 < (ours_all - ours) / (theirs_all - theirs) < 1.05
    assert ours < 0.85 * ours_all


def test_rules_differ_by_what_they_compute():
    """By hand, a token: heads 1 and 2, dimensions 8, d = 128, 8 hidden units, 4 taps."""
    cost = {
        rule: sum(flops.block_flops(tiny.with_rule(MODEL, rule), "gated_delta_net", 1)) // 2
        for rule in UPDATE_RULES
    }
    more = {rule: cost[rule] - cost["gated_delta"] for rule in UPDATE_RULES}
    assert more == {
        "gated_delta": 0,
        "gated_delta_negative": 0,
        "delta": -128 * 2,  # no alpha
        "hebbian": -2 * 8 * 8,  # no read of the key
        "kda": 8 * (128 + 2 * 8) - 128 * 2,  # two products of rank 8 instead of alpha's
        "jet": 8 * (128 + 4 * 16) - 4 * (8 + 8),  # the generator; nothing convolved but values
    }


def test_more_passes_cost_that_many_context_windows():
    config = tiny.run_config()
    one, two, four = (flops.forward_flops(config, n) for n in (1, 2, 4))
    assert four - two == 2 * (two - one)
    assert two - one == config.task.context_windows * sum(
        sum(flops.block_flops(config.model, mixer, config.task.window))
        for mixer in config.model.pattern
    )


@pytest.mark.parametrize(
    "pattern, looped, per_pass",
    [
        (("attention", "gated_delta_net"), (), 1),
        (("gated_delta_net", "attention"), (), 0),  # nothing behind the first block is of use
        (("gated_delta_net", "attention", "gated_delta_net"), (0, 2), 0),
    ],
)
def test_passes_that_hand_on_fast_weights_alone_stop_where_they_are_written(
    pattern, looped, per_pass
):
    config = tiny.run_config()
    model = dataclasses.replace(config.model, pattern=pattern, looped=looped)

    def more(carry):
        run = dataclasses.replace(config, model=model, sleep=SleepConfig(carry=carry))
        return flops.forward_flops(run, 4) - flops.forward_flops(run, 3)

    attention, delta = (
        flops.block_flops(model, mixer, config.task.window)
        for mixer in ("attention", "gated_delta_net")
    )
    windows = config.task.context_windows
    assert more("all") == more("features") == windows * (sum(attention) + sum(delta))
    assert more("fast_weights") == windows * (per_pass * sum(attention) + delta.into + delta.write)


def test_an_evicted_transformer_is_charged_for_its_answers_only():
    config = tiny.run_config(passes=1)
    model = dataclasses.replace(config.model, pattern=("attention", "attention"))
    evicted = dataclasses.replace(config, model=model)
    kept = dataclasses.replace(evicted, sleep=SleepConfig(cache="keep"))
    assert flops.forward_flops(kept, 1) > 7 * flops.forward_flops(evicted, 1)
