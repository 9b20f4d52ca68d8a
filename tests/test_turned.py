"""Fast weights that are turned at the end of every window, so that windows have places in them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import cells
from sleep_jax import sleep
from sleep_jax.config import SleepConfig
from sleep_jax.errors import UserError
from sleep_jax.model import decoder
from sleep_jax.model.config import GatedDeltaNetConfig
from sleep_jax.model.gated_delta_net import GatedDeltaNetState, turned
from sleep_jax.model.layers import rotate
from sleep_jax.session import Session
from tests import tiny

THETA = 100.0
TURNED = dataclasses.replace(
    tiny.MODEL,
    gated_delta_net=dataclasses.replace(tiny.MODEL.gated_delta_net, window_theta=THETA),
)
BATCH, L = 2, 5
(NAME,) = decoder.initial_fast_weights(TURNED, 1)


@pytest.fixture(scope="module")
def params():
    return jax.jit(functools.partial(decoder.init, TURNED))(jax.random.key(0))


@pytest.fixture(scope="module")
def windows():
    return jax.random.randint(jax.random.key(1), (BATCH, 3, L), 0, 3)


@functools.cache
def reader(model, cache="evict"):
    loop = SleepConfig(passes=2, remat="none", cache=cache)
    return jax.jit(lambda params, x, state: sleep.read(sleep.bind(model, params), x, state, loop))


def test_a_query_that_is_turned_as_far_reads_what_was_written():
    """By hand, in float64: pair i of the first and second half turns by theta^(-2 i / Dk)."""
    fast = np.random.default_rng(0).normal(size=(BATCH, 3, 8, 5))
    got = turned(jnp.asarray(fast, jnp.float32), THETA)
    angle = THETA ** (-np.arange(0, 8, 2) / 8)
    first, second = fast[:, :, :4], fast[:, :, 4:]
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    want = np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=2)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    q = np.random.default_rng(1).normal(size=(BATCH, 3, 8)).astype(np.float32)
    along = rotate(jnp.asarray(q)[:, None], THETA, jnp.ones(1))[:, 0]
    np.testing.assert_allclose(
        jnp.einsum("bhk,bhkv->bhv", along, got),
        np.einsum("bhk,bhkv->bhv", q, fast),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize("cache", ["evict", "slide"])
def test_every_window_ends_with_a_turn_and_passes_do_not(params, windows, cache):
    """Window by window with a model that does not turn, and the turn between by hand."""
    loop = SleepConfig(cache=cache)
    state = sleep.initial_state(TURNED, loop, BATCH, (L, 2))
    got = reader(TURNED, cache)(params, windows, state)[NAME]
    for i in range(windows.shape[1]):
        state = reader(tiny.MODEL, cache)(params, windows[:, i : i + 1], state)
        block = state[NAME]
        if isinstance(block, GatedDeltaNetState):
            state[NAME] = block.replace(fast=turned(block.fast, THETA))
        else:
            state[NAME] = turned(block, THETA)
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(state[NAME]), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)


def test_after_one_window_it_is_one_turn_that_keeps_lengths(params, windows):
    zeros = decoder.initial_fast_weights(TURNED, BATCH)
    one = reader(TURNED)(params, windows[:, :1], zeros)[NAME]
    plain = reader(tiny.MODEL)(params, windows[:, :1], zeros)[NAME]
    np.testing.assert_allclose(one, turned(plain, THETA), rtol=1e-4, atol=1e-6)
    assert jnp.max(jnp.abs(one - plain)) > 1e-2
    np.testing.assert_allclose(*(jnp.linalg.norm(x, axis=2) for x in (one, plain)), rtol=1e-4)


def test_a_session_turns_at_the_end_of_its_window(params, windows):
    session = Session(TURNED, params, SleepConfig(passes=2), L, batch=BATCH)
    tokens = np.asarray(windows).reshape(BATCH, -1)
    got = session.feed(np.concatenate([tokens, tokens[:, :2]], axis=1))
    state = reader(TURNED)(params, windows, decoder.initial_fast_weights(TURNED, BATCH))
    want, _ = sleep.wake(sleep.bind(TURNED, params), windows[:, :1, :2], state)
    np.testing.assert_allclose(got, want[:, 0, -1], rtol=1e-4, atol=1e-5)


def test_what_cannot_turn_is_refused_and_what_does_is_named():
    for fields, said in (
        ({"window_theta": -1.0}, "model.gated_delta_net.window_theta=-1.0 is not possible"),
        ({"window_theta": 9.0, "key_dim": 7}, "model.gated_delta_net.key_dim=7 is not possible"),
    ):
        with pytest.raises(UserError, match=said):
            GatedDeltaNetConfig(**fields).validate()  # type: ignore[arg-type]
    GatedDeltaNetConfig(key_dim=7).validate()
    config = tiny.run_config()
    names = ((tiny.MODEL, "plain", "s0"), (TURNED, "fast weights turned", "-turned"))
    for model, words, end in names:
        cell = cells.hybrid(dataclasses.replace(config, model=model), 1, 0)
        assert cells.regime(cell.config).startswith(words) and cell.name.endswith(end)
