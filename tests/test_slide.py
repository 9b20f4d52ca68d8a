"""Sliding-window eviction against an ordinary hybrid run over the whole sequence at once."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sleep_jax import flops, sleep
from sleep_jax.config import SleepConfig
from sleep_jax.model import decoder
from sleep_jax.model.config import UPDATE_RULES
from sleep_jax.tasks.rule110 import Rule110Config
from sleep_jax.training.step import predict
from tests import tiny
from tests.test_flops import compiled_flops

PATTERN = ("attention", "gated_delta_net", "attention")
MODEL = dataclasses.replace(tiny.MODEL, pattern=PATTERN)
SLIDE = SleepConfig(cache="slide")
BATCH = 2


@functools.cache
def params_of(model):
    """At random where they start as zeros, so that everything is heard."""
    params = jax.jit(functools.partial(decoder.init, model))(jax.random.key(0))
    keys = iter(jax.random.split(jax.random.key(1), 100))
    return jax.tree.map(
        lambda x: x if x.any() else 0.1 * jax.random.normal(next(keys), x.shape), params
    )


def batch_of(windows, length, predictions=1, answer=1):
    keys = jax.random.split(jax.random.key(length))
    return {
        "context": jax.random.randint(keys[0], (BATCH, windows, length), 0, 3),
        "tokens": jax.random.randint(keys[1], (BATCH, predictions, answer), 0, 3),
    }


# The ordinary hybrid: whole sequence, banded mask, one recurrence. Nothing of sleep_jax in it.


def rms(x, eps):
    return x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True) + eps)


def silu(x):
    return x / (1 + jnp.exp(-x))


def turned(x, theta):
    """RoPE with absolute positions, as products of complex numbers."""
    half = x.shape[-1] // 2
    angle = jnp.arange(x.shape[1])[:, None] / theta ** (jnp.arange(half) / half)
    z = (x[..., :half] + 1j * x[..., half:]) * jnp.exp(1j * angle)[:, None]
    return jnp.concatenate([z.real, z.imag], -1)


def swa(p, c, x, span):
    def heads(name):
        y = (x @ p["in"][name]).reshape(*x.shape[:2], -1, c.head_dim)
        return jnp.repeat(y, c.heads // y.shape[2], axis=2)

    q, k, v = (heads(name) for name in ("query", "key", "value"))
    scores = jnp.einsum("bihd,bjhd->bhij", turned(q, c.rope_theta), turned(k, c.rope_theta))
    back = jnp.arange(x.shape[1])[:, None] - jnp.arange(x.shape[1])
    weights = jnp.where((back >= 0) & (back < span), jnp.exp(scores / c.head_dim**0.5), 0)
    weights = weights / weights.sum(-1, keepdims=True)
    return jnp.einsum("bhij,bjhd->bihd", weights, v).reshape(*x.shape[:2], -1) @ p["out"]["output"]


def gdn(p, c, x, eps):
    def kernel_of(name):
        """Taps `[width, D]` or, made for each output, `[width, B, T, D]`; none is one of 1."""
        if c.update_rule != "jet":
            return p[f"{name}_convolution"]["kernel"]
        if name != "value":
            return jnp.ones(1)
        made = silu(x @ p["in"]["generator"]) @ p["value_convolution"]["kernels"]
        made = made + p["value_convolution"]["bias"]
        return jnp.moveaxis(made.reshape(*x.shape[:2], -1, c.conv_width), -1, 0)

    def convolved(name):
        y, kernel = x @ p["in"][name], kernel_of(name)
        padded = jnp.concatenate([jnp.zeros_like(y[:, : len(kernel) - 1]), y], axis=1)
        out = sum(padded[:, i : i + y.shape[1]] * kernel[i] for i in range(len(kernel)))
        size = c.value_dim if name == "value" else c.key_dim
        out = silu(out).reshape(*x.shape[:2], -1, size)
        return jnp.repeat(out, c.value_heads // out.shape[2], axis=2)

    def unit(y):
        return y / jnp.sqrt(jnp.sum(y**2, -1, keepdims=True) + 1e-6)

    q, k, v = (convolved(name) for name in ("query", "key", "value"))
    q, k = unit(q) / c.key_dim**0.5, unit(k)
    alpha = decay(p, c, x)
    beta = (1 + (c.update_rule == "gated_delta_negative")) / (1 + jnp.exp(-(x @ p["in"]["beta"])))

    def token(S, now):
        q, k, v, alpha, beta = now
        S = alpha[..., None] * S
        error = v - (c.update_rule != "hebbian") * jnp.einsum("bhk,bhkv->bhv", k, S)
        S = S + jnp.einsum("bh,bhk,bhv->bhkv", beta, k, error)
        return S, jnp.einsum("bhk,bhkv->bhv", q, S)

    S = jnp.zeros((x.shape[0], c.value_heads, c.key_dim, c.value_dim))
    _, o = jax.lax.scan(token, S, [y.swapaxes(0, 1) for y in (q, k, v, alpha, beta)])
    gate = silu(x @ p["in"]["gate"]).reshape(v.shape)
    y = rms(o.swapaxes(0, 1), eps) * p["norm_scale"] * gate
    return y.reshape(*x.shape[:2], -1) @ p["out"]["output"]


def decay(p, c, x):
    """`[B, T, Hv, 1]`, or `[B, T, Hv, Dk]` for KDA."""
    if c.update_rule == "delta":
        return jnp.ones((*x.shape[:2], c.value_heads, 1))
    if c.update_rule == "kda":
        a = x @ p["in"]["decay"] @ p["decay"]["up"]
        size = c.key_dim
    else:
        a, size = x @ p["in"]["alpha"], 1
    rate = jnp.logaddexp(a + p["decay"]["dt_bias"], 0).reshape(*x.shape[:2], -1, size)
    return jnp.exp(-jnp.exp(p["decay"]["A_log"])[:, None] * rate)


def ordinary_hybrid(params, model, tokens, span):
    """Logits of every token, `[B, T, V]`."""
    h = params["embedding"][tokens]
    for i, mixer in enumerate(model.pattern):
        p = params[f"block_{i:02d}_{mixer}"]
        x = rms(h, model.norm_eps) * p["mixer_norm"]["scale"]
        if mixer == "attention":
            h = h + swa(p["mixer"], model.attention, x, span)
        else:
            h = h + gdn(p["mixer"], model.gated_delta_net, x, model.norm_eps)
        x, mlp = rms(h, model.norm_eps) * p["mlp_norm"]["scale"], p["mlp"]
        h = h + (silu(x @ mlp["in"]["gate"]) * (x @ mlp["in"]["up"])) @ mlp["out"]["down"]
    return rms(h, model.norm_eps) * params["final_norm"]["scale"] @ params["unembedding"]


@functools.partial(jax.jit, static_argnums=2)
def expected(params, batch, model=MODEL):
    context, tokens = batch["context"], batch["tokens"]
    whole = jnp.concatenate([x.reshape(BATCH, -1) for x in (context, tokens)], axis=1)
    logits = ordinary_hybrid(params, model, whole, context.shape[-1])
    return logits[:, -tokens[0].size :].reshape(*tokens.shape, -1)


@pytest.mark.parametrize(
    "windows, length, predictions, answer",
    [
        (4, 6, 1, 6),
        (3, 2, 1, 5),  # a window shorter than the convolution and than the answer
        (2, 5, 3, 3),  # prediction windows are one text as well
        (3, 1, 1, 2),  # nothing is kept
    ],
)
def test_one_pass_is_an_ordinary_hybrid_of_sliding_window_attention(
    windows, length, predictions, answer
):
    params, batch = params_of(MODEL), batch_of(windows, length, predictions, answer)
    got = jax.jit(functools.partial(predict, MODEL, SLIDE))(params, batch)
    np.testing.assert_allclose(got, expected(params, batch), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rule", [rule for rule in UPDATE_RULES if rule != "gated_delta"])
def test_one_pass_is_an_ordinary_hybrid_with_every_rule(rule):
    model = tiny.with_rule(MODEL, rule)
    params, batch = params_of(model), batch_of(3, 4, answer=4)
    got = jax.jit(functools.partial(predict, model, SLIDE))(params, batch)
    np.testing.assert_allclose(got, expected(params, batch, model), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rule", ["gated_delta", "kda", "jet"])
def test_the_gradient_of_one_pass_is_that_of_the_ordinary_hybrid(rule):
    model = tiny.with_rule(MODEL, rule)
    params, batch = params_of(model), batch_of(3, 4, answer=3)
    weights = jax.random.normal(jax.random.key(5), (BATCH, 1, 3, MODEL.vocab_size))

    def loss(logits, params):
        return jnp.sum(weights * jax.nn.log_softmax(logits(params)))

    want = jax.jit(jax.grad(functools.partial(loss, lambda p: expected(p, batch, model))))(params)
    got = jax.jit(jax.grad(functools.partial(loss, lambda p: predict(model, SLIDE, p, batch))))(
        params
    )
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), got, want)


def test_passes_see_what_was_kept_before_the_window_and_keep_what_the_last_one_made():
    params, tokens = params_of(MODEL), batch_of(2, 5)["context"]
    model = tiny.compiled(sleep.bind(MODEL, params))
    first = sleep.read(
        model, tokens[:, :1], sleep.initial_state(MODEL, SLIDE, BATCH, (5, 1)), SLIDE
    )
    h, state, kept = model.embed(tokens[:, 1]), first, {}
    for _ in range(3):
        h, after = model.blocks(h, state)
        # By hand, and not by decoder.next_pass: only the fast weights go into the next pass.
        state, kept = {}, after
        for name, block in first.items():
            fast = {"fast": after[name].fast} if "gated_delta_net" in name else {}
            state[name] = block.replace(**fast)
    got = sleep.sleep(model, model.embed(tokens[:, 1]), first, SleepConfig(passes=3))
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), got, model.evict(kept)
    )
    one = sleep.sleep(model, model.embed(tokens[:, 1]), first, SleepConfig(passes=1))
    name = "block_01_gated_delta_net"
    assert np.max(np.abs(got[name].fast - one[name].fast)) > 1e-3
    name = "block_02_attention"
    assert np.max(np.abs(got[name].keys - one[name].keys)) > 1e-3


def test_attention_sees_a_token_for_one_window_and_no_longer():
    """One block of it: in the next, or in the next pass, features have seen L tokens.

    Predicts from the second token, for which the oldest of the L - 1 that are kept is too old.
    """
    model_config, length = dataclasses.replace(MODEL, pattern=PATTERN[:1]), 4
    bound, batch = sleep.bind(model_config, params_of(model_config)), batch_of(3, length, answer=2)

    def prediction(embedded):
        # The "tokens" of window i are its index, so that embed can hand out perturbed features.
        windows = jnp.broadcast_to(jnp.arange(3)[None, :, None], (BATCH, 3, 1))
        model = bound._replace(embed=lambda tokens: embedded[:, tokens[0, 0]])
        state = sleep.initial_state(model_config, SLIDE, BATCH, (length, 2))
        logits, _ = sleep.wake(bound, batch["tokens"], sleep.read(model, windows, state, SLIDE))
        return jnp.sum(logits[:, :, 1] ** 2)

    gradient = jax.jit(jax.grad(prediction))(bound.embed(batch["context"]))
    seen = np.max(np.abs(gradient), axis=(0, 3)).reshape(-1) > 0
    np.testing.assert_array_equal(seen, np.arange(seen.size) >= seen.size - (length - 2))


def test_a_sliding_window_costs_the_keys_it_keeps(monkeypatch):
    """Two passes more, counted by the compiler, as in test_flops.py."""
    monkeypatch.setattr("sleep_jax.sleep.lax.scan", functools.partial(jax.lax.scan, unroll=True))
    # Mostly attention, in a window long enough that its products dwarf what is not counted.
    attention = dataclasses.replace(MODEL.attention, head_dim=1024)
    wide = dataclasses.replace(MODEL, pattern=PATTERN[:2], d_model=32, attention=attention)
    task = Rule110Config(width=24, window=24, strings=2)

    def more_passes(cache):
        def counts(passes):
            config = dataclasses.replace(
                tiny.run_config(),
                model=wide,
                task=task,
                sleep=SleepConfig(passes, remat="none", cache=cache),
            )
            return flops.forward_flops(config, passes), compiled_flops(config)

        return [three - one for one, three in zip(counts(1), counts(3), strict=True)]

    (ours, theirs), (ours_evicted, _) = more_passes("slide"), more_passes("evict")
    assert 0.95 < ours / theirs < 1.05
    assert ours > 1.2 * ours_evicted
