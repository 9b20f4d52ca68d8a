"""A fast memory teaches a slow one: what an expert is, what the objective is, what is learned."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sleep_jax import flops, knowledge_seeding
from sleep_jax.config import SleepConfig
from sleep_jax.errors import UserError
from sleep_jax.knowledge_seeding import Dreams, Seeding
from sleep_jax.model import decoder
from tests import tiny

MODEL = dataclasses.replace(tiny.MODEL, vocab_size=5)
LOOP = SleepConfig(passes=2)
PARAMS, TEACHER = (decoder.init(MODEL, jax.random.key(seed)) for seed in (0, 9))
PROMPTS = jnp.asarray([[1, 2], [1, 3], [1, 0]], jnp.int32)
WINDOWS = jnp.asarray(np.random.default_rng(0).integers(0, MODEL.vocab_size, (3, 2, 4)), jnp.int32)
UNITS = 3
HIDDEN = MODEL.mlp_hidden
METHOD = Seeding(units=UNITS, steps=60, batch=8, learning_rate=3e-2)


def say(model, params, windows=None):
    return knowledge_seeding.say(model, LOOP, params, PROMPTS, windows)


def test_room_for_experts_changes_nothing_and_an_expert_nothing_at_first():
    model, params = knowledge_seeding.with_room(MODEL, PARAMS, 2 * UNITS)
    assert model == dataclasses.replace(MODEL, mlp_hidden=HIDDEN + 2 * UNITS)
    chex.assert_trees_all_equal_shapes(params, decoder.init(model, jax.random.key(1)))
    np.testing.assert_allclose(say(model, params), say(MODEL, PARAMS), atol=1e-6)
    expert = knowledge_seeding.new_expert(MODEL, UNITS, jax.random.key(2))
    put = knowledge_seeding.with_expert(params, expert, HIDDEN + UNITS)
    np.testing.assert_allclose(say(model, put), say(MODEL, PARAMS), atol=1e-6)
    for block in expert:
        gate, other = (tree[block]["mlp"]["in"]["gate"] for tree in (put, params))
        np.testing.assert_array_equal(gate[:, HIDDEN + UNITS :], expert[block]["in"]["gate"])
        np.testing.assert_array_equal(gate[:, : HIDDEN + UNITS], other[:, : HIDDEN + UNITS])
        assert np.abs(expert[block]["in"]["up"]).min() > 0


def test_an_expert_is_more_hidden_units_of_its_mlp():
    model, params = knowledge_seeding.with_room(MODEL, PARAMS, UNITS)
    expert = knowledge_seeding.new_expert(MODEL, UNITS, jax.random.key(2))
    expert = jax.tree.map(lambda x: jax.random.normal(jax.random.key(3), x.shape), expert)
    params = knowledge_seeding.with_expert(params, expert, HIDDEN)
    x = np.asarray(jax.random.normal(jax.random.key(4), (5, MODEL.d_model)), np.float64)
    (block, *_) = expert

    def mlp(part):
        gate, up, down = (
            np.asarray(part[side][name], np.float64)
            for side, name in (("in", "gate"), ("in", "up"), ("out", "down"))
        )
        return (x @ gate / (1 + np.exp(-x @ gate)) * (x @ up)) @ down

    whole, before = mlp(params[block]["mlp"]), mlp(PARAMS[block]["mlp"])
    np.testing.assert_allclose(whole, before + mlp(expert[block]), atol=1e-6)


def test_windows_are_slept_over_before_a_prompt():
    said = say(MODEL, PARAMS, WINDOWS)
    np.testing.assert_allclose(jnp.exp(said).sum(axis=1), 1, rtol=1e-5)
    assert np.abs(said - say(MODEL, PARAMS)).max() > 1e-3
    once = dataclasses.replace(LOOP, passes=1)
    other = knowledge_seeding.say(MODEL, once, PARAMS, PROMPTS, WINDOWS)
    assert np.abs(said - other).max() > 1e-4
    alone = knowledge_seeding.say(MODEL, LOOP, PARAMS, PROMPTS[1:2], WINDOWS[1:2])
    np.testing.assert_allclose(said[1:2], alone, atol=1e-5)


@pytest.mark.parametrize("imitation", [0.0, 0.5, 1.0])
def test_the_objective_is_divergence_less_reward(imitation):
    model, params = knowledge_seeding.with_room(MODEL, PARAMS, UNITS)
    dreams = Dreams(PROMPTS[:1], say(MODEL, PARAMS, WINDOWS)[:1])
    method = dataclasses.replace(METHOD, steps=1, imitation=imitation)
    _, values = knowledge_seeding.seed(
        model, LOOP, method, params, [dreams], HIDDEN, jax.random.key(0)
    )
    p, q = (np.exp(np.asarray(x[0], np.float64)) for x in (dreams.said, say(model, params)[:1]))
    expected = (1 - imitation) * np.sum(p * np.log(p / q)) - imitation * np.sum(p * q)
    np.testing.assert_allclose(values, [expected], rtol=1e-4)


def test_the_reward_is_the_chance_of_saying_the_same():
    """Against draws of both: the paper samples what is averaged here."""
    model, params = knowledge_seeding.with_room(MODEL, PARAMS, UNITS)
    taught = say(MODEL, PARAMS, WINDOWS)[:1]
    method = dataclasses.replace(METHOD, steps=1, imitation=1.0)
    dreams = [Dreams(PROMPTS[:1], taught)]
    _, values = knowledge_seeding.seed(
        model, LOOP, method, params, dreams, HIDDEN, jax.random.key(0)
    )
    for_teacher, for_student = jax.random.split(jax.random.key(5))
    count = (40_000,)
    teacher = jax.random.categorical(for_teacher, taught[0], shape=count)
    student = jax.random.categorical(for_student, say(model, params)[0], shape=count)
    assert -values[0] == pytest.approx(float((teacher == student).mean()), abs=0.01)


def seeded(method, **more):
    model, params = knowledge_seeding.with_room(MODEL, PARAMS, 2 * method.units)
    dreams = [Dreams(PROMPTS, say(MODEL, TEACHER, WINDOWS))]
    learned, values = knowledge_seeding.seed(
        model, LOOP, method, params, more.get("dreams", dreams), HIDDEN, jax.random.key(1)
    )
    return model, params, learned, values


def test_an_expert_learns_what_the_teacher_said_and_nothing_else_changes():
    model, before, after, values = seeded(METHOD)
    assert values[-1] < values[0] / 5
    taught = say(MODEL, TEACHER, WINDOWS)
    assert np.abs(say(model, after) - taught).max() < np.abs(say(model, before) - taught).max() / 3
    slot = slice(HIDDEN, HIDDEN + UNITS)

    def zeroed(params):
        """Without the expert."""
        params = jax.tree.map(np.array, params)
        for block in knowledge_seeding._mlps(params).values():
            block["in"]["gate"][:, slot] = block["in"]["up"][:, slot] = 0
            block["out"]["down"][slot] = 0
        return params

    chex.assert_trees_all_equal(zeroed(after), before)


def test_without_an_expert_the_mlps_learn_and_nothing_else():
    _, before, after, values = seeded(dataclasses.replace(METHOD, units=0))
    assert values[-1] < values[0] / 5
    moved = {
        "/".join(entry.key for entry in path)
        for (path, new), old in zip(
            jax.tree_util.tree_flatten_with_path(after)[0], jax.tree.leaves(before), strict=True
        )
        if not np.array_equal(new, old)
    }
    assert moved and all(path.split("/")[1] == "mlp" for path in moved)
    assert len(moved) == 3 * len(MODEL.pattern)


def test_what_is_rehearsed_is_read_from_its_windows():
    """What the student says after the windows costs nothing at first, and is kept."""
    said = say(MODEL, PARAMS, WINDOWS)
    both = [Dreams(PROMPTS, say(MODEL, TEACHER)), Dreams(PROMPTS, said, WINDOWS)]
    model, _, after, values = seeded(METHOD, dreams=both)
    _, _, forgot, alone = seeded(METHOD, dreams=both[:1])
    assert values[0] == pytest.approx(float(alone[0]) / 2, rel=1e-3)  # of the same draws
    wrong = [np.abs(say(model, params, WINDOWS) - said).max() for params in (after, forgot)]
    assert wrong[0] < wrong[1] / 2


def test_text_is_known_for_sure():
    answers = jnp.asarray([2, 0, 1])
    said = knowledge_seeding.for_sure(answers, MODEL.vocab_size)
    np.testing.assert_array_equal(jnp.exp(said), jax.nn.one_hot(answers, MODEL.vocab_size))
    fewer = dataclasses.replace(METHOD, batch=2, steps=120)  # than there are
    model, _, after, values = seeded(fewer, dreams=[Dreams(PROMPTS, said)])
    assert np.isfinite(values).all()
    np.testing.assert_array_equal(jnp.argmax(say(model, after), axis=1), answers)


def test_many_models_at_once_learn_as_each_alone():
    model, params = knowledge_seeding.with_room(MODEL, PARAMS, UNITS)
    keys = jax.random.split(jax.random.key(2), 2)
    said = jnp.stack([say(MODEL, PARAMS, WINDOWS), say(MODEL, PARAMS)[::-1]])
    both = jax.tree.map(lambda x: jnp.stack([x, x]), params)

    def seed(params, said, key):
        dreams = [Dreams(PROMPTS, said)]
        return knowledge_seeding.seed(model, LOOP, METHOD, params, dreams, HIDDEN, key)

    learned, _ = jax.vmap(seed)(both, said, keys)
    alone, _ = seed(params, said[1], keys[1])
    theirs = jax.tree.map(lambda x: x[1], learned)
    chex.assert_trees_all_close(theirs, alone, atol=1e-3)


@pytest.mark.parametrize(
    "field, value, allowed",
    [
        ("units", -1, ">= 0"),
        ("steps", 0, ">= 1"),
        ("batch", 0, ">= 1"),
        ("learning_rate", 0.0, "> 0"),
        ("imitation", 1.5, "0 to 1"),
    ],
)
def test_impossible_methods_are_refused(field, value, allowed):
    with pytest.raises(UserError, match=f"seeding.{field}={value}.*{allowed}"):
        dataclasses.replace(Seeding(), **{field: value}).validate()


def test_flops_of_waking_are_those_of_a_run_less_its_context():
    config = tiny.run_config()
    more_words = dataclasses.replace(config.model, vocab_size=100)
    context, with_more_words = (
        flops.forward_flops(run, 1) - flops.wake_flops(run.model, run.task.answer_length)
        for run in (config, dataclasses.replace(config, model=more_words))
    )
    more = flops.forward_flops(config, 2) - flops.forward_flops(config, 1)
    assert 0 < context < more  # the last pass stops at the state
    assert context == with_more_words
