"""Every implementation that XLA runs, against the float64 token-by-token oracle."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import gated_delta_rule
from pallas_kernels.xla import gated_delta_rule_xla
from tests.rule import KEYS, Case, check, check_chained, oracle, relative

LENGTHS = (1, 7, 24, 63, 64, 65, 75, 130)
FORMS: dict[str, dict[str, Any]] = {
    "hebbian": dict(rule="hebbian"),
    "channels": dict(channels=True),
}
BOTH: dict[str, Any] = dict(rule="hebbian", channels=True)
forms = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())


rule_at_once = functools.partial(gated_delta_rule_xla, one_by_one=False)


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


@pytest.mark.parametrize("length", [64, 75, 130])
@pytest.mark.parametrize("keys", KEYS)
def test_xla_in_the_longer_chunks_of_other_platforms(length, keys):
    check(rule_at_once, Case(length, keys), "float32", 2e-6, 1e-5)


@pytest.mark.parametrize("beta", [0.0, 1.0, 1.99])
@pytest.mark.parametrize("log_decay", [0.0, -50.0])
@pytest.mark.parametrize("keys", ["random", "identical"])
def test_extreme_gates(beta, log_decay, keys):
    case = Case(65, keys, beta, log_decay)
    check(rule(implementation="xla", chunk_size=64), case, "float64", 1e-11, 1e-10)


def test_float32_keeps_the_small_inverse():
    """Where Neumann squaring loses every digit: correlated keys, beta near one, long chunk."""
    case = Case(64, "correlated", 0.95, -0.01)
    check(rule(implementation="xla", chunk_size=64), case, "float32", 1e-5, 1e-4)


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


@pytest.mark.parametrize(
    "case",
    [
        Case(7, B=1, H=1, Hv=1),
        Case(7, B=1, H=1, Hv=1, log_decay=0.0),  # the delta rule without a gate
        *(Case(7, B=1, H=1, Hv=1, **form) for form in (*FORMS.values(), BOTH)),
    ],
)
def test_the_definition_is_the_matrix_form_of_the_papers(case):
    """S <- (I - beta k k^T) Diag(alpha) S + beta k v^T, without the projection if Hebbian."""
    inputs, _ = case.draw()
    q, k, v, log_decay, beta, S = (x[0] if i == 5 else x[0, :, 0] for i, x in enumerate(inputs))
    S, outputs = S[0], []
    for t in range(case.T):
        kept = np.eye(case.Dk) * np.exp(log_decay[t])
        if case.rule == "delta":
            kept = (np.eye(case.Dk) - beta[t] * np.outer(k[t], k[t])) @ kept
        S = kept @ S + beta[t] * np.outer(k[t], v[t])
        outputs.append(q[t] @ S)
    with jax.enable_x64(True):
        output, final = oracle(case.rule)(*map(jnp.asarray, inputs))
    np.testing.assert_allclose(output[0, :, 0], outputs, rtol=0, atol=1e-14)
    np.testing.assert_allclose(final[0, 0], S, rtol=0, atol=1e-14)


@forms
@pytest.mark.parametrize("length", [1, 7, 24, 64, 65])
def test_other_rules_in_chunks(form, length):
    case = Case(length, **form)
    chunkwise = rule(implementation="xla", rule=case.rule)
    check(chunkwise, case, "float64", 1e-13, 1e-12)
    check(chunkwise, case, "float32", 2e-6, 1e-5)


@pytest.mark.parametrize("form", [{}, *FORMS.values(), BOTH], ids=["delta", *FORMS, "both"])
@pytest.mark.parametrize("one_by_one", [True, False])
def test_chunks_one_by_one_and_at_once(form, one_by_one):
    """What runs on CPU, and what runs elsewhere."""
    case = Case(130, **form)
    chunkwise = functools.partial(
        gated_delta_rule_xla, rule=case.rule, chunk_size=32, one_by_one=one_by_one
    )
    check(chunkwise, case, "float64", 1e-13, 1e-12)
    check(chunkwise, case, "float32", 2e-6, 1e-5)


@pytest.mark.parametrize("form", [*FORMS.values(), BOTH], ids=[*FORMS, "both"])
def test_other_rules_in_other_chunks(form):
    """A chunk for all tokens, and one that does not divide them."""
    case = Case(24, **form)
    for size in (24, 7):
        chunkwise = rule(implementation="xla", rule=case.rule, chunk_size=size)
        check(chunkwise, case, "float64", 1e-13, 1e-12)


@forms
@pytest.mark.parametrize("log_decay", [0.0, -50.0])
def test_other_rules_with_extreme_decays(form, log_decay):
    """At -50 a token the quotient of two decays overflows within two tokens."""
    case = Case(24, "identical", 0.9, log_decay, **form)
    check(rule(implementation="xla", rule=case.rule), case, "float64", 1e-12, 1e-11)
    case = dataclasses.replace(case, T=5)
    check(rule(implementation="recurrent", rule=case.rule), case, "float64", 1e-13, 1e-12)


@forms
def test_other_rules_unrolled_and_with_shared_keys(form):
    case = Case(5, H=2, Hv=4, **form)
    for implementation in ("recurrent", "xla"):
        check(rule(implementation=implementation, rule=case.rule), case, "float64", 1e-13, 1e-12)
    case = dataclasses.replace(case, T=2)  # what None takes the unrolled form for
    check(rule(rule=case.rule), case, "float64", 1e-13, 1e-12)


@forms
def test_other_rules_keep_a_float32_state_of_bfloat16_tokens(form):
    case = Case(24, dtype="bfloat16", **form)
    check(rule(rule=case.rule), case, "bfloat16", 4e-3, 4e-3, gates=8e-3)


def test_one_decay_for_all_channels_is_that_decay():
    case = Case(24)
    q, k, v, log_decay, *rest = (jnp.asarray(x, jnp.float32) for x in case.draw()[0])
    channels = jnp.repeat(log_decay[..., None], case.Dk, axis=-1)
    run = jax.jit(rule(implementation="xla"))
    for a, b in zip(run(q, k, v, channels, *rest), run(q, k, v, log_decay, *rest), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


def test_no_kernel_is_chosen_for_what_none_takes():
    def traced(**form):
        case = Case(7, Dv=32, **form)
        arrays = [jnp.asarray(x, jnp.float32) for x in case.draw()[0]]
        return str(jax.make_jaxpr(rule(rule=case.rule))(*arrays))

    assert "pallas_call" in traced()
    assert not any("pallas_call" in traced(**form) for form in FORMS.values())


@pytest.mark.parametrize("implementation", ["xla", None])
@pytest.mark.parametrize("channels", [False, True])
@pytest.mark.parametrize("length", [24, 75])
def test_what_is_forgotten_leaves_the_rest_exact(implementation, channels, length):
    """A token after -1e9 or -inf, as a mask that parts documents has it, against the oracle."""
    case = Case(length, "correlated", channels=channels, Dv=32)
    (q, k, v, log_decay, *rest), (d_output, d_state) = (
        [jnp.asarray(x, jnp.float32) for x in arrays] for arrays in case.draw()
    )
    for least in (-1e9, -jnp.inf):
        arrays = (q, k, v, log_decay.at[:, 9].set(least), *rest)
        found = {}
        for name in ("oracle", implementation):
            run = jax.jit(functools.partial(gated_delta_rule, implementation=name))
            (output, state), pullback = jax.vjp(run, *arrays)
            found[name] = [output, state, *pullback((d_output, d_state))]
        for ours, theirs in zip(found[implementation], found["oracle"], strict=True):
            assert relative(np.asarray(ours), np.asarray(theirs)) < 3e-5
        no_past = jnp.zeros_like(rest[-1])
        q9, k9, v9, log_decay9, beta9 = (x[:, 9:] for x in arrays[:5])
        emptied = gated_delta_rule(q9, k9, v9, log_decay9, beta9, no_past)
        assert relative(np.asarray(found[implementation][1]), np.asarray(emptied[1])) < 3e-5


def test_what_no_kernel_takes_goes_to_xla():
    case = Case(5, Dv=32)
    q, k, v, *gates = (jnp.asarray(x, jnp.float32) for x in case.draw()[0])
    with jax.enable_x64(True):
        wide = [x.astype(jnp.float64) for x in gates]
        output, state = jax.jit(gated_delta_rule)(q, k, v, *wide)
        assert output.dtype == jnp.float32 and state.dtype == jnp.float64
        with pytest.raises(ValueError, match="'tpu' does not take gates or a state of float64"):
            gated_delta_rule(q, k, v, *wide, implementation="tpu")
    split = jax.jit(functools.partial(gated_delta_rule, precision=("high", "highest")))
    assert split(q, k, v, *gates)[0].shape == v.shape
    with pytest.raises(ValueError, match="does not take precision='X3'; implementation='xla' does"):
        gated_delta_rule(q, k, v, *gates, implementation="tpu", precision="X3")


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(implementation="cuda"), "implementation='cuda' is unknown; allowed: oracle, rec"),
        (dict(chunk_size=0), "chunk_size=0"),
        (dict(chunk_size=4.0), "chunk_size=4.0 must be a whole number"),
        (dict(rule="oja"), "rule='oja' is unknown; allowed: delta, hebbian"),
        (
            dict(rule="hebbian", implementation="tpu"),
            "'tpu' does not take rule='hebbian'; implementation='xla' does",
        ),
        (
            dict(rule="hebbian", implementation="gpu"),
            "'gpu' does not take rule='hebbian'; implementation='xla' does",
        ),
        (
            dict(rule="hebbian", implementation="mosaic"),
            "'mosaic' does not take rule='hebbian'; implementation='xla' does",
        ),
        (
            dict(implementation="mosaic"),
            "does not take q, k, v of float32, only bfloat16; implementation='xla' does",
        ),
        (dict(implementation="gpu"), "does not take Dk = 32, Dv = 16, only 32, 64 or 128; impl"),
        (dict(implementation="tpu"), "does not take Dk = 32, Dv = 16.*implementation='xla' does"),
    ],
)
def test_bad_options_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        gated_delta_rule(*(jnp.asarray(x, jnp.float32) for x in Case(7).draw()[0]), **change)


def test_bad_shapes_are_named():
    q, k, v, log_decay, beta, state = map(jnp.asarray, Case(7).draw()[0])
    with pytest.raises(ValueError, match=r"q has shape \(.*\), expected four axes"):
        gated_delta_rule(q[0], k, v, log_decay, beta, state)
    empty = (x[:0] for x in (q, k, v, log_decay, beta, state))
    with pytest.raises(ValueError, match="B = 0 and T = 7 must be at least 1"):
        gated_delta_rule(*empty)
    with pytest.raises(ValueError, match="initial_state has shape"):
        gated_delta_rule(q, k, v, log_decay, beta, state[:, :1])
    channels = jnp.repeat(log_decay[..., None], 3, axis=-1)
    with pytest.raises(ValueError, match=r"log_decay has shape .* 3\), expected .* 32\) "):
        gated_delta_rule(q, k, v, channels, beta, state)


@pytest.mark.parametrize("implementation", ["tpu", "gpu", "mosaic"])
def test_kernels_refuse_a_decay_a_channel(implementation):
    arrays = (jnp.asarray(x, jnp.float32) for x in Case(7, channels=True).draw()[0])
    with pytest.raises(ValueError, match="does not take a decay a channel; implementation='xla'"):
        gated_delta_rule(*arrays, implementation=implementation)


@pytest.mark.parametrize("channels", [False, True])
def test_on_cpu_nothing_waits_for_a_pool_of_threads_that_it_occupies(channels):
    """LAPACK's calls do in jaxlib 0.10, and a program with several at a time hangs."""
    arguments = [
        jnp.asarray(x, jnp.float32) for x in Case(24, dtype="float32", channels=channels).draw()[0]
    ]

    def loss(*arguments):
        output, state = gated_delta_rule(*arguments, implementation="xla")
        return jnp.sum(output) + jnp.sum(state)

    text = jax.jit(jax.grad(loss, argnums=tuple(range(6)))).lower(*arguments).compile().as_text()
    assert text and "custom_call_target" not in text
