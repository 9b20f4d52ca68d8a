"""Passes that repeat the middle of the stack: prelude once, core N times, coda once."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest
from chex import assert_trees_all_close, assert_trees_all_equal

from sleep_jax import sleep
from sleep_jax.config import SleepConfig
from sleep_jax.errors import UserError
from sleep_jax.model import decoder
from tests import tiny

BATCH, WINDOWS, LENGTH = 2, 3, 6
CONTEXT = jax.random.randint(jax.random.key(1), (BATCH, WINDOWS, LENGTH), 0, 2)
# A writing block in each part, and a core that begins and ends with another kind.
PATTERN = ("gated_delta_net", "attention", "gated_delta_net", "attention", "gated_delta_net")
MODEL = dataclasses.replace(tiny.MODEL, pattern=PATTERN, looped=(1, 4))


@pytest.fixture(scope="module")
def params():
    return jax.jit(functools.partial(decoder.init, MODEL))(jax.random.key(0))


def initial(config):
    return sleep.initial_state(MODEL, config, BATCH, (LENGTH, 2))


@functools.partial(jax.jit, static_argnums=0)
def one_block(index, params, h, state):
    """Block `index` as the only one of a model of its own."""
    mixer = PATTERN[index]
    name, alone = decoder.block_name(index, mixer), decoder.block_name(0, mixer)
    model = dataclasses.replace(MODEL, pattern=(mixer,), looped=())
    renamed = {alone: state[name]} if name in state else {}
    h, after = decoder.blocks(model, {**params, alone: params[name]}, h, renamed)
    return h, {**state, **({name: after[alone]} if renamed else {})}


@pytest.mark.parametrize("passes", [1, 2, 4])
def test_it_is_block_after_block_by_hand(params, passes):
    model = sleep.bind(MODEL, params)
    config = SleepConfig(passes=passes)
    got = jax.jit(lambda context: sleep.read(model, context, initial(config), config))(CONTEXT)
    fast = initial(config)
    for window in range(WINDOWS):
        h = model.embed(CONTEXT[:, window])
        for index in (0, *(1, 2, 3) * passes, 4):
            h, fast = one_block(index, params, h, fast)
    assert_trees_all_close(got, fast, rtol=1e-4, atol=1e-5)


def test_under_a_sliding_window_the_core_alone_reads_again(params):
    """What is kept of earlier windows is for every pass of the core as it was before the first."""
    model, config = sleep.bind(MODEL, params), SleepConfig(passes=3, cache="slide")
    got = jax.jit(lambda context: sleep.read(model, context, initial(config), config))(CONTEXT)
    state = initial(config)
    for window in range(WINDOWS):
        h, state = one_block(0, params, model.embed(CONTEXT[:, window]), state)
        before = state
        for _ in range(3):
            state = decoder.next_pass(before, state)
            for index in (1, 2, 3):
                h, state = one_block(index, params, h, state)
        h, state = one_block(4, params, h, state)
        state = decoder.evict(MODEL, state)
    assert_trees_all_close(got, state, rtol=1e-4, atol=1e-5)


def test_one_pass_and_prediction_are_those_of_the_whole_stack(params):
    whole = sleep.bind(dataclasses.replace(MODEL, looped=()), params)
    model, fast = sleep.bind(MODEL, params), initial(SleepConfig())
    assert_trees_all_close(
        sleep.read(model, CONTEXT, fast, SleepConfig()),
        sleep.read(whole, CONTEXT, fast, SleepConfig()),
        rtol=1e-5,
        atol=1e-6,
    )
    wakes = [jax.jit(functools.partial(sleep.wake, m))(CONTEXT, fast) for m in (model, whole)]
    assert_trees_all_equal(*wakes)


def test_halting_repeats_the_core_alone(params):
    model, config = sleep.bind(MODEL, params), SleepConfig(passes=3)
    got, used = sleep.read_until(model, CONTEXT, initial(config), 3, 1e-9)
    assert (used == 3).all()
    assert_trees_all_close(
        got, sleep.read(model, CONTEXT, initial(config), config), rtol=1e-4, atol=1e-5
    )


def test_the_gradient_reaches_prelude_core_and_coda(params):
    config = SleepConfig(passes=2, remat="pass")

    def loss(params):
        fast = sleep.read(sleep.bind(MODEL, params), CONTEXT, initial(config), config)
        return sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(fast))

    gradient = jax.jit(jax.grad(loss))(params)
    for index, mixer in enumerate(PATTERN):
        block = gradient[decoder.block_name(index, mixer)]
        assert any(jnp.any(leaf != 0) for leaf in jax.tree.leaves(block["mixer"]["in"]))


@pytest.mark.parametrize("looped", [(1,), (3, 3), (4, 2), (-1, 2), (0, 6), (1, 2), (0, 1, 2)])
def test_what_is_no_part_or_writes_nothing_is_refused(looped):
    with pytest.raises(UserError, match=r"model\.looped=.* is not possible; allowed: "):
        dataclasses.replace(MODEL, looped=looped).validate()
