"""A session, token by token, against `sleep.read` and `sleep.wake` on the same tokens."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sleep_jax import sleep
from sleep_jax.config import SleepConfig
from sleep_jax.errors import UserError
from sleep_jax.model import decoder
from sleep_jax.session import Session
from tests import tiny

BATCH, WINDOWS, LENGTH, ANSWER = 2, 3, 5, 4
TOKENS = np.random.default_rng(0).integers(0, 3, (BATCH, WINDOWS * LENGTH + ANSWER), np.int32)


@functools.cache
def params(model=tiny.MODEL):
    return jax.jit(functools.partial(decoder.init, model))(jax.random.key(0))


@functools.cache
def reader(model, loop):
    return jax.jit(lambda p, *args: sleep.read(sleep.bind(model, p), *args, config=loop))


@functools.partial(jax.jit, static_argnums=0)
def wake(model, params, *args):
    return sleep.wake(sleep.bind(model, params), *args)[0][:, 0]


def expected(model, loop):
    """Logits `[B, n, V]` of the tokens of each window, read after all windows before it."""
    state = sleep.initial_state(model, loop, BATCH, (LENGTH, LENGTH))
    fill = -TOKENS.shape[1] % LENGTH  # of the last window; prediction is causal
    logits = []
    for window in np.split(np.pad(TOKENS, ((0, 0), (0, fill))), WINDOWS + 1, axis=1):
        logits.append(wake(model, params(model), window[:, None], state))
        state = reader(model, loop)(params(model), window[:, None], state)
    return logits


def size(session):
    return [(x.shape, x.dtype) for x in jax.tree.leaves(session.state)]


@pytest.mark.parametrize(
    "cache, passes, rule",
    [(cache, passes, "gated_delta") for cache in ("evict", "slide") for passes in (1, 3)]
    + [("evict", 2, rule) for rule in ("hebbian", "gated_delta_negative", "jet")]
    + [("slide", 2, rule) for rule in ("delta", "kda", "jet")],
)
def test_a_session_predicts_what_reading_and_waking_predict(cache, passes, rule):
    loop, model = SleepConfig(passes=passes, cache=cache), tiny.with_rule(tiny.MODEL, rule)
    session = Session(model, params(model), loop, LENGTH, BATCH)
    at_start, wanted = size(session), expected(model, loop)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    end = 0
    # Over no boundary, over two at once, onto one, then by single tokens.
    for chunk in (3, 0, 1, 8, 3, 1, 1, 1, 1):
        logits = session.feed(TOKENS[:, end : end + chunk])
        end += chunk
        if end == WINDOWS * LENGTH:
            close(logits, wanted[-2][:, -1])
        if end > WINDOWS * LENGTH:
            close(logits, wanted[-1][:, end - WINDOWS * LENGTH - 1])
        assert size(session) == at_start
    assert end == TOKENS.shape[1]

    answer = session.answer(LENGTH + 2)
    np.testing.assert_array_equal(answer[:, 0], np.argmax(wanted[-1][:, ANSWER - 1], -1))
    again = Session(model, params(model), loop, LENGTH, BATCH)
    close(again.feed(np.concatenate([TOKENS, answer], axis=1)), session.state.logits)
    assert size(session) == at_start
    assert session.programs.token._cache_size() == session.programs.window._cache_size() == 1


def test_the_token_program_does_not_depend_on_the_number_of_passes():
    def lowered(passes):
        session = Session(tiny.MODEL, params(), SleepConfig(passes=passes), LENGTH, BATCH)
        token = jax.ShapeDtypeStruct((BATCH,), jnp.int32)
        return session.programs.token.lower(params(), session.state, token).as_text()

    assert lowered(1) == lowered(6)


def test_a_session_without_eviction_is_refused():
    with pytest.raises(UserError, match="sleep.cache='keep' is not possible; allowed: evict"):
        Session(tiny.MODEL, params(), SleepConfig(cache="keep"), LENGTH)
