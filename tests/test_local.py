"""Local heads: against loops in float64, and how a choice of them is learned and decided."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from chex import assert_trees_all_close, assert_trees_all_equal
from jax.test_util import check_grads

from sleep_jax import consa, flops
from sleep_jax.config import ConsaConfig, RunConfig, SleepConfig
from sleep_jax.curriculum import stages_by_step
from sleep_jax.errors import UserError
from sleep_jax.model import decoder, local
from sleep_jax.model.config import AttentionConfig, LocalConfig, RoutingConfig
from sleep_jax.training.optimizer import GATES, label
from sleep_jax.training.step import Program, abstract_state
from tests import tiny

B, T, H, R, D, W = 2, 9, 4, 2, 8, 3
Q, K, V = (
    np.random.default_rng(i).normal(size=shape)
    for i, shape in enumerate(((B, T, H, D), (B, T, R, D), (B, T, R, D)))
)
FULL, LOCAL = local.LIMIT, -local.LIMIT


@pytest.fixture
def in_float64(monkeypatch):
    monkeypatch.setattr(jax.nn, "dot_product_attention", tiny.float64_attention)
    with jax.enable_x64(True):
        yield


def softmax(x):
    weights = np.exp(x - np.max(x))
    return weights / weights.sum()


def oracle(z):
    """One query of one head after the other; z by key-value head, 1 where all is read."""
    y = np.zeros(Q.shape)
    for b, h, i in np.ndindex(B, H, T):
        r = h // (H // R)
        for weight, first in ((z[r], 0), (1 - z[r], max(0, i - W + 1))):
            keys = K[b, first : i + 1, r]
            y[b, i, h] += weight * softmax(keys @ Q[b, i, h] / D**0.5) @ V[b, first : i + 1, r]
    return y


def attended(log_alpha, config):
    return local.attend(jnp.array(Q), jnp.array(K), jnp.array(V), log_alpha, config)


@pytest.mark.parametrize("log_alpha", [(FULL, LOCAL), (LOCAL, 0.1), (-0.1, LOCAL), (0.0, FULL)])
def test_a_head_reads_all_or_its_window(log_alpha, in_float64):
    found = attended(jnp.array(log_alpha), LocalConfig(W))
    z = [float(x > 0) for x in log_alpha]
    np.testing.assert_allclose(found, oracle(z), atol=1e-12)


def test_a_window_is_that_of_jax():
    q, k, v = (jnp.array(x, jnp.float32) for x in (Q, K, V))
    ours = local.attend(q, k, v, jnp.array([LOCAL]), LocalConfig(W, "layer"))
    theirs = jax.nn.dot_product_attention(q, k, v, is_causal=True, local_window_size=(W - 1, 0))
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    whole = local.attend(q, k, v, jnp.array([FULL]), LocalConfig(W, "layer"))
    np.testing.assert_allclose(
        whole, jax.nn.dot_product_attention(q, k, v, is_causal=True), atol=1e-6
    )


def test_while_it_is_learned_both_are_mixed(in_float64):
    relaxed = LocalConfig(W, relaxed=True)

    def output(log_alpha):
        return attended(log_alpha, relaxed)

    middle = np.array([0.3, -0.4])
    z = 1.2 / (1 + np.exp(-middle * 3 / 2)) - 0.1
    np.testing.assert_allclose(output(jnp.array(middle)), oracle(z), atol=1e-12)
    check_grads(output, (jnp.array(middle),), order=1, modes=["rev"])
    # Where z is clipped both ways of reading agree to the bit, and nothing is felt.
    ends = jnp.array([FULL, LOCAL])
    np.testing.assert_array_equal(local.hard_concrete(ends), [1, 0])
    np.testing.assert_allclose(output(ends), oracle([1, 0]), atol=1e-12)
    assert not jax.grad(lambda x: jnp.sin(output(x)).sum())(ends).any()


def test_expected_share_is_that_of_samples():
    log_alpha = jnp.array([-1.6, 0.0, 0.8, 2.0])
    params = {
        f"block_{i:02d}_attention": {"mixer": {"log_alpha": jnp.full((50_000,), x)}}
        for i, x in enumerate(log_alpha)
    }
    noisy = consa.gates(consa.noisy(params, jax.random.key(0)))
    shares = [float((local.hard_concrete(x) == 0).mean()) for x in noisy.values()]
    expected = [float(consa.expected_local(x)) for x in log_alpha[:, None]]
    np.testing.assert_allclose(shares, expected, atol=0.01)
    assert expected[1] == pytest.approx(0.17, abs=0.005)  # not a half, at log alpha = 0
    assert float(consa.expected_local(log_alpha)) == pytest.approx(np.mean(expected))
    # Every unit has noise of its own, and the same key gives the same.
    drawn = np.concatenate(
        [np.asarray(x - y[0]) for x, y in zip(noisy.values(), log_alpha[:, None], strict=True)]
    )
    assert len(np.unique(drawn.round(5))) > 0.5 * drawn.size
    again = consa.gates(consa.noisy(params, jax.random.key(0)))
    assert_trees_all_equal(noisy, again)


def some_gates():
    return {"a": jnp.array([0.5, -1.0]), "b": jnp.array([2.0, 0.1])}


@pytest.mark.parametrize("budget", ["all", "each"])
def test_the_constraint_is_met_by_descent_and_ascent(budget):
    config = ConsaConfig(budget=budget, learning_rate=0.01, multiplier_rate=0.5)
    transformation = consa.constrained(config)
    gates = some_gates()
    state: Any = transformation.init(gates)
    assert state.linear.shape == ((2,) if budget == "each" else (1,))
    none = jax.tree.map(jnp.zeros_like, gates)
    # Without a share nothing is learned, whatever the gradient.
    moves, same = transformation.update(jax.tree.map(jnp.ones_like, gates), state, gates)
    assert_trees_all_equal(moves, none)
    assert_trees_all_equal(same, state)
    share = jnp.float32(0.75)
    parts = list(gates.values()) if budget == "each" else [jnp.concatenate(list(gates.values()))]
    excess = np.array([float(consa.expected_local(part)) for part in parts]) - 0.75
    _, state = transformation.update(none, state, gates, share=share)
    np.testing.assert_allclose(state.linear, 0.5 * excess, rtol=1e-5)
    np.testing.assert_allclose(state.quadratic, 0.5 * excess**2, rtol=1e-5)
    assert (excess < 0).all() and float(state.adam[0].count) == 1

    def penalty(gates):
        parts = list(gates.values())
        parts = parts if budget == "each" else [jnp.concatenate(parts)]
        by = [consa.expected_local(part) - share for part in parts]
        return sum(
            lin * e + quad * e**2
            for lin, quad, e in zip(state.linear, state.quadratic, by, strict=True)
        ) / len(by)

    slope = jax.grad(penalty)(gates)
    of_loss = {"a": jnp.array([0.3, 0.0]), "b": jnp.array([0.0, -0.2])}
    adam = optax.adam(0.01)
    _, moments = adam.update(none, adam.init(gates))
    wanted, _ = adam.update(jax.tree.map(jnp.add, of_loss, slope), moments)
    moves, _ = transformation.update(of_loss, state, gates, share=share)
    assert_trees_all_close(moves, wanted, atol=1e-6)


def test_with_nothing_to_say_the_share_is_kept():
    """The constraint alone, from where all units read all; and no step leads beyond the bounds."""
    config, steps = dataclasses.replace(RunConfig(), consa=ConsaConfig(share=0.75)), 300
    transformation = consa.constrained(config.consa)
    gates = {"a": jnp.full((4,), FULL)}

    @jax.jit
    def update(gates, state, share):
        moves, state = transformation.update(
            jax.tree.map(jnp.zeros_like, gates), state, gates, share=share
        )
        return jax.tree.map(jnp.add, gates, moves), state

    state: Any = transformation.init(gates)
    for step in range(steps):
        share = 0.75 * min(1.0, (step + 1) / (0.2 * steps))
        gates, state = update(gates, state, jnp.float32(share))
        assert float(jnp.abs(gates["a"]).max()) <= FULL + 1e-5
    assert float(consa.expected_local(gates["a"])) == pytest.approx(0.75, abs=0.03)


def test_as_many_are_decided_as_the_share_leaves():
    scores = {"b": np.array([0.1, 0.9]), "a": np.array([0.2, 0.3])}
    for share, budget, wanted in (
        (0.75, "all", {"a": [0, 0], "b": [0, 1]}),
        (0.5, "all", {"a": [0, 1], "b": [0, 1]}),
        (0.25, "all", {"a": [1, 1], "b": [0, 1]}),
        (0.5, "each", {"a": [0, 1], "b": [0, 1]}),
        (1.0, "all", {"a": [0, 0], "b": [0, 0]}),
        (0.0, "each", {"a": [1, 1], "b": [1, 1]}),
    ):
        found = consa.decided(scores, ConsaConfig(share=share, budget=budget))
        assert {name: (x > 0).astype(int).tolist() for name, x in found.items()} == wanted
        assert all(set(np.abs(x)) == {np.float32(local.LIMIT)} for x in found.values())
        assert all(x.dtype == np.float32 for x in found.values())
    one_block = {"b": np.array([0.8, 0.9]), "a": np.array([0.2, 0.3])}
    for budget, wanted in (("all", [0, 2]), ("each", [1, 1])):
        found = consa.decided(one_block, ConsaConfig(budget=budget))
        assert [int((found[name] > 0).sum()) for name in ("a", "b")] == wanted


def with_local(config, window=W, unit="head", **choice):
    attention = AttentionConfig(heads=2, kv_heads=2, head_dim=8, local=LocalConfig(window, unit))
    model = dataclasses.replace(config.model, pattern=("attention",) * 2, attention=attention)
    return dataclasses.replace(
        config, model=model, sleep=SleepConfig(cache="keep"), consa=ConsaConfig(**choice)
    )


def test_what_a_step_of_learning_is_given():
    config = with_local(tiny.run_config(steps=100), share=0.5, begin=0.2, end=0.6)
    given = [consa.choice(config, step) for step in range(20, 60)]
    shares = [float(choice.share) for choice in given]
    np.testing.assert_allclose(shares[:8], [0.0625 * (i + 1) for i in range(8)], rtol=1e-6)
    assert shares[8:] == [0.5] * 32
    keys = {tuple(jax.random.key_data(choice.key).tolist()) for choice in given}
    other = dataclasses.replace(config, train=dataclasses.replace(config.train, seed=1))
    keys.add(tuple(jax.random.key_data(consa.choice(other, 20).key).tolist()))
    assert len(keys) == 41


def test_stages_of_a_choice():
    config = with_local(tiny.run_config(steps=10), begin=0.2, end=0.5)
    stages, which = stages_by_step(config)
    assert [stages[i].choosing for i in which] == [False] * 2 + [True] * 3 + [False] * 5
    program = Program.of(config, "cpu")
    by_kind = {stage.choosing: program.in_stage(stage) for stage in stages}
    assert by_kind[True].model.attention.local.relaxed and by_kind[True].choosing
    assert by_kind[False] == program and not program.model.attention.local.relaxed
    # Both ways of reading are computed then.
    plain, relaxed = (flops.block_flops(p.model, "attention", 8) for p in (program, by_kind[True]))
    assert 2 * relaxed.read == 3 * plain.read and relaxed._replace(read=plain.read) == plain
    ruled = with_local(tiny.run_config(steps=10), by="top", end=0.5)
    assert [stage.choosing for stage in stages_by_step(ruled)[0]] == [False]
    assert flops.training_flops(config) > flops.training_flops(ruled)
    other = dataclasses.replace(config, model=tiny.MODEL)
    assert [stage.choosing for stage in stages_by_step(other)[0]] == [False]


@pytest.mark.parametrize("unit, shape", [("head", (2,)), ("layer", (1,))])
def test_parameters_of_a_choice(unit, shape):
    model = with_local(tiny.run_config(), unit=unit).model
    params = decoder.init(model, jax.random.key(0))
    gates = consa.gates(params)
    assert list(gates) == ["block_00_attention", "block_01_attention"]
    assert all(gate.shape == shape and (gate == local.LIMIT).all() for gate in gates.values())
    assert label("block_00_attention/mixer/log_alpha") == GATES
    assert label("block_00_attention/mixer/log_alpha", "fast_weights") == GATES
    moved = consa.with_gates(params, {"block_01_attention": -gates["block_01_attention"]})
    assert (consa.gates(moved)["block_01_attention"] < 0).all()
    assert jax.tree.structure(moved) == jax.tree.structure(params)
    assert math.isclose(local.LIMIT, 4.605, abs_tol=1e-3)


@pytest.mark.parametrize(
    "config, parts",
    [
        (tiny.run_config(), {"muon", "adamw", "frozen"}),
        (with_local(tiny.run_config(), by="top", end=0.0), {"muon", "adamw", "frozen"}),
        (with_local(tiny.run_config(), end=0.5), {"muon", "adamw", "frozen", "gates"}),
    ],
)
def test_the_state_has_a_part_for_gates_where_they_are_learned(config, parts):
    """Checkpoints of other models, from before there were any, have none and must fit."""
    state: Any = abstract_state(Program.of(config, "cpu")).opt_state
    assert set(state[1].inner_states) == parts


@pytest.mark.parametrize(
    "model, choice, cache, field",
    [
        ({}, {}, "evict", "sleep.cache"),
        ({"window": -1}, {}, "keep", "model.attention.local.window"),
        ({"window": 400}, {}, "keep", "model.attention.local.window"),
        ({"unit": "block"}, {}, "keep", "model.attention.local.unit"),
        ({"relaxed": True}, {}, "keep", "model.attention.local.relaxed"),
        ({}, {"by": "chance"}, "keep", "consa.by"),
        ({}, {"share": 1.5}, "keep", "consa.share"),
        ({}, {"share": 0.6}, "keep", "consa.share"),
        ({}, {"share": 0.25, "budget": "each"}, "keep", "consa.share"),
        ({}, {"budget": "both"}, "keep", "consa.budget"),
        ({}, {"end": 1.0}, "keep", "consa.end"),
        ({}, {"begin": 0.3, "end": 0.2}, "keep", "consa.begin"),
        ({}, {"begin": 0.1, "end": 0.1}, "keep", "consa.begin"),
        ({}, {"by": "top", "begin": 0.1}, "keep", "consa.begin"),
        ({}, {"learning_rate": 0.0}, "keep", "consa.learning_rate"),
        ({}, {"multiplier_rate": -1.0}, "keep", "consa.multiplier_rate"),
    ],
)
def test_an_impossible_choice_is_one_line(model, choice, cache, field):
    config = RunConfig()
    attention = AttentionConfig(local=LocalConfig(**{"window": 4, **model}))
    config = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, attention=attention),
        sleep=dataclasses.replace(config.sleep, cache=cache),
        consa=ConsaConfig(**choice),
    )
    with pytest.raises(UserError, match=f"^{field}=") as raised:
        config.validate()
    assert "\n" not in str(raised.value) and "allowed: " in str(raised.value)


def test_a_choice_begins_where_all_units_read_everything():
    config = with_local(tiny.run_config(warm_start="runs/a"))
    with pytest.raises(UserError, match=r"^train.warm_start='runs/a' .* allowed: empty with model"):
        config.validate()


@pytest.mark.parametrize(
    "attention, field",
    [
        (AttentionConfig(local=LocalConfig(4), sink=True), "sink"),
        (AttentionConfig(local=LocalConfig(4), routing=RoutingConfig(4)), "routing.chunk"),
    ],
)
def test_local_heads_have_neither_sinks_nor_routing(attention, field):
    with pytest.raises(UserError, match=f"^model.attention.{field}="):
        attention.validate()
