"""DashAttention: against loops over queries and chunks in float64, and what it reads in a model."""

import dataclasses

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from jax.test_util import check_grads
from scipy import optimize

from sleep_jax import routed_attention
from sleep_jax.config import RunConfig
from sleep_jax.errors import UserError
from sleep_jax.model import decoder, routing
from sleep_jax.model.config import AttentionConfig, RoutingConfig
from sleep_jax.training.optimizer import ADAMW, label
from tests import tiny

B, T, H, R, D, CHUNK, GROUP = 2, 14, 4, 2, 8, 4, 2  # the last chunk is not whole
_SHAPES = ((B, T, H, D), (B, T, R, D), (B, T, R, D), (R, D))
Q, K, V, QUERY = (np.random.default_rng(i).normal(size=shape) for i, shape in enumerate(_SHAPES))
ENTMAX = RoutingConfig(CHUNK, gamma=4.0, sigma=1.0)
TOP = RoutingConfig(CHUNK, "top_k", top_k=1, prior="none")


def entmax(z):
    """By the root of a sum, not by sorting."""
    x = np.asarray(z, np.float64) / 2
    found = optimize.root_scalar(
        lambda tau: np.square(np.maximum(x - tau, 0)).sum() - 1,
        bracket=(x.max() - 1.01, x.max()),
        xtol=1e-15,
    )
    return np.square(np.maximum(x - found.root, 0))


def given():
    """The same as arrays of JAX."""
    return tuple(map(jnp.array, (Q, K, V, QUERY)))


def softmax(x):
    weights = np.exp(x - np.max(x))
    return weights / weights.sum()


def oracle(config, q, k, v, query):
    """One query of one head after the other; what it reads, and the outputs."""
    y, chosen = np.zeros(q.shape), np.zeros((B, R, T, T // CHUNK), bool)
    for b, r, i in np.ndindex(B, R, T):
        own, mine = i // CHUNK, range(r * GROUP, (r + 1) * GROUP)
        bias = np.zeros(own + 1)
        if own:
            z = logits_of_chunks(config, q[b, i, mine], k[b, :, r], query[r], own)
            if config.select == "top_k":
                order = np.argsort(-np.mean([softmax(row) for row in z], axis=0))
                chosen[b, r, i, order[: config.top_k]] = True
            else:
                weight = np.mean([entmax(row) for row in z], axis=0)
                support = np.flatnonzero(weight)
                chosen[b, r, i, support] = True
                logs = np.log(weight[support])
                if config.prior == "scaled":
                    bias[support] = (logs - logs.mean()) / config.sigma
                elif config.prior == "straight_through":
                    at = logits_of_chunks(config, q[b, i, mine], k[b, :, r], QUERY[r], own)
                    taken = np.mean([entmax(row) for row in at], axis=0)
                    bias[support] = logs - np.log(taken[support])
        read = [j for j in range(i + 1) if j // CHUNK == own or chosen[b, r, i, j // CHUNK]]
        for h in mine:
            seen = k[b, read, r] @ q[b, i, h] / D**0.5 + bias[np.array(read) // CHUNK]
            y[b, i, h] = softmax(seen) @ v[b, read, r]
    return y, chosen


def logits_of_chunks(config, q, keys, query, count):
    """Of `count` chunks, for each head that shares them."""
    means = []
    for c in range(count):
        inside = keys[c * CHUNK : (c + 1) * CHUNK]
        means.append(softmax(inside @ query / D**0.5) @ inside)
    return config.gamma * q @ np.array(means).T / D**0.5


@hypothesis.settings(deadline=None)
@hypothesis.given(st.lists(st.floats(-30, 30), min_size=1, max_size=9))
def test_entmax_is_the_root(values):
    z = np.array(values)
    with jax.enable_x64(True):
        np.testing.assert_allclose(routing.entmax(jnp.array(z)), entmax(z), atol=1e-7)
        with_none = routing.entmax(jnp.array([*values, -np.inf]))
        assert with_none[-1] == 0 and abs(with_none.sum() - 1) < 1e-6


def test_gradient_of_entmax():
    with jax.enable_x64(True):
        z = jnp.array(np.random.default_rng(1).normal(size=(4, 6)) * 2)
        assert 0 < (routing.entmax(z) == 0).sum() < z.size  # some in the support, some not
        check_grads(routing.entmax, (z,), order=1, modes=["fwd", "rev"])


@pytest.mark.parametrize(
    "config",
    [
        ENTMAX,
        dataclasses.replace(ENTMAX, gamma=1.0, sigma=1e6),
        dataclasses.replace(ENTMAX, prior="none"),
        dataclasses.replace(ENTMAX, prior="straight_through"),
        TOP,
        dataclasses.replace(TOP, top_k=2),
        dataclasses.replace(TOP, top_k=9),
    ],
)
def test_every_query_reads_what_it_is_routed_to(config, in_float64):
    y, chosen = oracle(config, Q, K, V, QUERY)
    with jax.enable_x64(True):
        ours, read = routing.attend(*given(), config=config)
    np.testing.assert_array_equal(read, chosen)
    np.testing.assert_allclose(ours, y, atol=1e-12)
    rows = read[:, :, 3 * CHUNK :, :].sum(-1)
    if config.select == "top_k":
        assert (rows == min(config.top_k, 3)).all()
    elif config.gamma > 1:
        assert len(np.unique(rows)) > 1  # as many as it takes, which differs


def test_all_chunks_are_full_attention():
    q, k, v, query = given()
    full = jax.nn.dot_product_attention(q, k, v, is_causal=True)
    for config in (dataclasses.replace(TOP, top_k=9), RoutingConfig(T + 1)):
        y, _ = routing.attend(q, k, v, query, config)
        np.testing.assert_allclose(y, full, atol=1e-6)


@pytest.fixture
def in_float64(monkeypatch):
    monkeypatch.setattr(jax.nn, "dot_product_attention", tiny.float64_attention)


def gradient(config):
    with jax.enable_x64(True):
        q, k, v, query = given()
        return jax.grad(lambda query: jnp.sin(routing.attend(q, k, v, query, config)[0]).sum())(
            query
        )


def test_what_teaches_the_routing(in_float64):
    """The prior alone reaches the queries of chunks; straight through, it is that of sigma = 1."""
    for config in (dataclasses.replace(ENTMAX, prior="none"), TOP):
        assert not gradient(config).any()
    with jax.enable_x64(True):

        def output(q, k, v, query):
            return routing.attend(q, k, v, query, ENTMAX)[0]

        check_grads(output, given(), order=1, modes=["rev"], eps=1e-6, atol=1e-4, rtol=1e-4)
    through = dataclasses.replace(ENTMAX, prior="straight_through")
    ours = gradient(through)

    def loss(moved):
        return np.sin(oracle(through, Q, K, V, moved)[0]).sum()

    step = 1e-6 * np.random.default_rng(2).normal(size=(R, D))
    slope = (loss(QUERY + step) - loss(QUERY - step)) / 2
    assert abs(slope) > 1e-8
    np.testing.assert_allclose(np.sum(ours * step), slope, rtol=1e-4)


MODEL = dataclasses.replace(
    tiny.MODEL,
    pattern=("gated_delta_net", "attention", "attention"),
    attention=AttentionConfig(heads=4, kv_heads=2, head_dim=8, routing=ENTMAX),
)


def test_what_a_model_reads_and_does_not_read():
    params = decoder.init(MODEL, jax.random.key(0))
    tokens = jax.random.randint(jax.random.key(1), (3, T), 0, MODEL.vocab_size)
    read = routed_attention.chunks_read(MODEL, params, tokens)
    assert list(read) == ["block_01_attention", "block_02_attention"]
    assert all(x.shape == (3, 2, T, T // CHUNK) for x in read.values())

    def logits(tokens):
        h = decoder.embed(MODEL, params, tokens)
        h, _ = decoder.blocks(MODEL, params, h, decoder.initial_fast_weights(MODEL, 3))
        return decoder.unembed(MODEL, params, h)

    before = logits(tokens)
    changed = tokens.at[:, -1].set((tokens[:, -1] + 1) % MODEL.vocab_size)
    np.testing.assert_array_equal(before[:, :-1], logits(changed)[:, :-1])  # causal


def test_shares_and_places():
    chunks = np.zeros((1, 2, 8, 2), bool)
    chunks[0, 0, 6, 1] = chunks[0, 1, 6, :] = True
    queries = np.array([6, 7])
    # Chunks of 3: position 6 is the first of its own, 7 the second.
    shares = routed_attention.share_read(chunks, 3, queries)
    np.testing.assert_allclose(shares, [[[4 / 7, 2 / 8], [7 / 7, 2 / 8]]])
    for place, expected in ((1, [True, False]), (4, [True, False]), (6, [True, True])):
        places = np.full((1, 2), place)
        assert routed_attention.found(chunks, 3, queries, places).tolist() == [expected]


def test_queries_of_chunks_are_adams():
    assert label("block_01_attention/mixer/chunk_query") == ADAMW
    shapes = decoder.init(MODEL, jax.random.key(0))["block_01_attention"]["mixer"]
    assert shapes["chunk_query"].shape == (16,) and not shapes["chunk_query"].any()


@pytest.mark.parametrize(
    "routed, cache, field",
    [
        ({"chunk": 4}, "evict", "sleep.cache"),
        ({"chunk": -1}, "keep", "model.attention.routing.chunk"),
        ({"chunk": 4, "select": "best"}, "keep", "model.attention.routing.select"),
        ({"chunk": 4, "select": "top_k"}, "keep", "model.attention.routing.prior"),
        ({"chunk": 4, "prior": "much"}, "keep", "model.attention.routing.prior"),
        ({"chunk": 4, "gamma": 0.0}, "keep", "model.attention.routing.gamma"),
        ({"chunk": 4, "sigma": -1.0}, "keep", "model.attention.routing.sigma"),
        ({"chunk": 4, "top_k": 0}, "keep", "model.attention.routing.top_k"),
        ({"chunk": 400}, "keep", "model.attention.routing.chunk"),
    ],
)
def test_impossible_routing_is_one_line(routed, cache, field):
    config = RunConfig()
    attention = AttentionConfig(routing=RoutingConfig(**routed))
    model = dataclasses.replace(config.model, attention=attention)
    loop = dataclasses.replace(config.sleep, cache=cache)
    with pytest.raises(UserError, match=f"^{field}=") as raised:
        dataclasses.replace(config, model=model, sleep=loop).validate()
    assert "\n" not in str(raised.value) and "allowed: " in str(raised.value)
