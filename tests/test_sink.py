"""Attention with a zero sink: the formula in float64, a cache, and a run's name and cost."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import cells
from sleep_jax.flops import training_flops
from sleep_jax.model.attention import Attention, KeyValues
from sleep_jax.model.config import AttentionConfig
from tests.tiny import run_config

CONFIG = AttentionConfig(heads=4, kv_heads=2, head_dim=8, sink=True)
BATCH, LENGTH, WIDTH = 2, 7, 16


@pytest.fixture(scope="module")
def layer():
    x = jax.random.normal(jax.random.key(0), (BATCH, LENGTH, WIDTH))
    module = Attention(CONFIG, 1e-6)
    return module, nn.unbox(module.init(jax.random.key(1), x)), x


def by_hand(parameters, x):
    """Softmax with one more in its denominator, in float64, token by token."""
    kernels = {
        name: np.asarray(kernel, np.float64)
        for part in parameters["params"].values()
        for name, kernel in part.items()
    }
    x = np.asarray(x, np.float64)
    half = CONFIG.head_dim // 2
    angle = np.arange(LENGTH)[:, None] * CONFIG.rope_theta ** -(np.arange(half) / half)
    cos, sin = (f(angle)[:, None] for f in (np.cos, np.sin))

    def heads(name, turn):
        y = (x @ kernels[name]).reshape(BATCH, LENGTH, -1, CONFIG.head_dim)
        a, b = y[..., :half], y[..., half:]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1) if turn else y

    q, k, v = heads("query", True), heads("key", True), heads("value", False)
    out = np.zeros_like(q)
    for i in range(LENGTH):
        for head in range(CONFIG.heads):
            group = head // (CONFIG.heads // CONFIG.kv_heads)
            scores = np.einsum("bd,bjd->bj", q[:, i, head], k[:, : i + 1, group])
            weight = np.exp(scores / np.sqrt(CONFIG.head_dim))
            weight /= 1 + weight.sum(-1, keepdims=True)
            out[:, i, head] = np.einsum("bj,bjd->bd", weight, v[:, : i + 1, group])
    return out.reshape(BATCH, LENGTH, -1) @ kernels["output"]


def test_one_more_in_the_denominator(layer):
    module, parameters, x = layer
    y, _ = module.apply(parameters, x)
    np.testing.assert_allclose(y, by_hand(parameters, x), rtol=2e-5, atol=2e-6)
    without, _ = Attention(dataclasses.replace(CONFIG, sink=False), 1e-6).apply(parameters, x)
    assert np.abs(without - y).max() > 0.1  # and the same parameters


def test_token_by_token_with_a_cache_is_the_same(layer):
    module, parameters, x = layer
    shape = (BATCH, LENGTH + 2, CONFIG.kv_heads, CONFIG.head_dim)
    zero = jnp.zeros((), jnp.int32)
    cache = KeyValues(jnp.zeros(shape), jnp.zeros(shape), zero, zero, span=LENGTH)
    expected, _ = module.apply(parameters, x)
    for i in range(LENGTH):
        y, cache = module.apply(parameters, x[:, i : i + 1], cache)
        np.testing.assert_allclose(y[:, 0], expected[:, i], rtol=1e-5, atol=1e-6)


def test_it_is_named_and_charged_for():
    plain = run_config()
    attention = dataclasses.replace(plain.model.attention, sink=True)
    sunk = dataclasses.replace(plain, model=dataclasses.replace(plain.model, attention=attention))
    assert training_flops(sunk) > training_flops(plain)
    assert (cells.regime(plain), cells.regime(sunk)) == ("plain", "attention sink")
    names = [cells.hybrid(config, 2, seed=0).name for config in (plain, sunk)]
    assert names[1] == f"{names[0]}-sink"
