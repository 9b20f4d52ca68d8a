"""Every implementation that XLA runs, against the float64 token-by-token oracle."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import gated_delta_rule
from tests.rule import KEYS, Case, check, check_chained

LENGTHS = (1, 7, 24, 63, 64, 65, 75, 130)


@functools.cache
def rule(**options):
    return functools.partial(gated_delta_rule, **options)


@pytest.mark.parametrize(
    "length, chunk_size", [(n, None) for n in (1, 24, 64, 75, 130)] + [(n, 16) for n in (7, 24, 65)]
)
def test_xla_in_float64(length, chunk_size):
    check(rule(implementation="xla", chunk_size=chunk_size), Case(length), "float64", 1e-13, 1e-12)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("keys", KEYS)
def test_xla_in_float32(length, keys):
    check(rule(implementation="xla"), Case(length, keys), "float32", 2e-6, 1e-5)


@pytest.mark.parametrize("beta", [0.0, 1.0, 1.99])
@pytest.mark.parametrize("log_decay", [0.0, -50.0])
@pytest.mark.parametrize("keys", ["random", "identical"])
def test_extreme_gates(beta, log_decay, keys):
    case = Case(65, keys, beta, log_decay)
    check(rule(implementation="xla"), case, "float64", 1e-11, 1e-10)


def test_float32_keeps_the_small_inverse():
    """Where Neumann squaring loses every digit: correlated keys, beta near one, long chunk."""
    case = Case(64, "correlated", 0.95, -0.01)
    check(rule(implementation="xla"), case, "float32", 1e-5, 1e-4)


@pytest.mark.parametrize("implementation", [None, "xla"])
def test_bfloat16_tokens_keep_a_float32_state(implementation):
    case = Case(24, dtype="bfloat16")
    check(rule(implementation=implementation), case, "bfloat16", 4e-3, 4e-3, gates=8e-3)


@pytest.mark.parametrize("length", [1, 2, 5])
def test_token_by_token_unrolled(length):
    check(rule(implementation="recurrent"), Case(length, H=1), "float64", 1e-13, 1e-12)
    check(rule(implementation="recurrent"), Case(length, H=1), "float32", 2e-6, 1e-5)


@pytest.mark.parametrize("implementation", ["oracle", "recurrent", "xla"])
def test_value_heads_share_key_heads(implementation):
    """Value head j reads key head j // (Hv / H)."""
    case = Case(7, H=2, Hv=4)
    q, k, *rest = (jnp.asarray(x, jnp.float32) for x in case.draw()[0])
    shared = rule(implementation=implementation)(q, k, *rest)
    repeated = rule(implementation=implementation)(
        jnp.repeat(q, 2, axis=2), jnp.repeat(k, 2, axis=2), *rest
    )
    for a, b in zip(shared, repeated, strict=True):
        np.testing.assert_array_equal(a, b)
    check(rule(implementation=implementation), case, "float64", 1e-13, 1e-12)


@pytest.mark.parametrize("cut", [1, 24, 74])
@pytest.mark.parametrize("implementation", ["oracle", "xla"])
def test_a_window_cut_anywhere_with_the_state_handed_over_is_the_whole(cut, implementation):
    run = jax.jit(rule(implementation=implementation))
    with jax.enable_x64(True):
        *tokens, state = map(jnp.asarray, Case(75).draw()[0])
        whole, final = run(*tokens, state)
        head, state = run(*(x[:, :cut] for x in tokens), state)
        tail, state = run(*(x[:, cut:] for x in tokens), state)
    np.testing.assert_allclose(jnp.concatenate([head, tail], 1), whole, rtol=0, atol=1e-13)
    np.testing.assert_allclose(state, final, rtol=0, atol=1e-13)


def test_chained_passes_equal_one_scan():
    check_chained(rule(implementation="xla"), "float64", 1e-13)


def test_no_key_projection_is_hebbian():
    """Orthogonal keys: the delta rule's correction vanishes and S = sum of decayed outer products.

    The ungated delta rule is alpha = 1, which `test_extreme_gates` holds at log_decay = 0.
    """
    T = 7
    case = Case(T, H=1, Hv=1, B=1)
    q, _, v, log_decay, beta, _ = case.draw()[0]
    k = np.eye(case.Dk)[None, :T, None]
    state = np.zeros((1, 1, case.Dk, case.Dv))
    with jax.enable_x64(True):
        _, final = gated_delta_rule(*map(jnp.asarray, (q, k, v, log_decay, beta, state)))
    decay = np.exp(np.cumsum(log_decay[0, ::-1, 0])[::-1] - log_decay[0, :, 0])
    written = np.zeros((case.Dk, case.Dv))
    for t in range(T):
        written += decay[t] * beta[0, t, 0] * np.outer(k[0, t, 0], v[0, t, 0])
    np.testing.assert_allclose(final[0, 0], written, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(implementation="cuda"), "implementation='cuda' is unknown; allowed: oracle, rec"),
        (dict(chunk_size=0), "chunk_size=0"),
        (dict(implementation="gpu"), "does not take Dk = 32, Dv = 16, only 32, 64 or 128; impl"),
        (dict(implementation="tpu"), "does not take Dk = 32, Dv = 16.*implementation='xla' does"),
    ],
)
def test_bad_options_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        gated_delta_rule(*(jnp.asarray(x, jnp.float32) for x in Case(7).draw()[0]), **change)


def test_bad_shapes_are_named():
    q, k, v, log_decay, beta, state = map(jnp.asarray, Case(7).draw()[0])
    with pytest.raises(ValueError, match="initial_state has shape"):
        gated_delta_rule(q, k, v, log_decay, beta, state[:, :1])
