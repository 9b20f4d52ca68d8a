"""Windows that become latents (LCLM): the encoder, what is left of a window, and what it costs."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from sleep_jax import flops, sleep
from sleep_jax.config import CurriculumConfig, SleepConfig
from sleep_jax.errors import UserError
from sleep_jax.model import decoder
from sleep_jax.model.config import LatentsConfig
from sleep_jax.model.latents import Adapter, pooled
from sleep_jax.session import Session
from sleep_jax.training.optimizer import labels
from sleep_jax.training.step import predict
from tests import tiny
from tests.test_flops import compiled_flops, compiled_update_flops

RATIO = 3
MODEL = dataclasses.replace(
    tiny.MODEL, pattern=("attention", "attention"), latents=LatentsConfig(blocks=1, ratio=RATIO)
)
CONCAT = dataclasses.replace(MODEL, latents=LatentsConfig(blocks=1, ratio=RATIO, pooling="concat"))
LOOP = SleepConfig(remat="none")
BATCH, WINDOWS, L, A = 2, 3, 9, 4


def run_config(model=MODEL, **changes):
    config = tiny.run_config(passes=1)
    task = dataclasses.replace(config.task, width=L, window=L)
    return dataclasses.replace(config, model=model, task=task, **changes)


@functools.cache
def params_of(model):
    params = jax.jit(functools.partial(decoder.init, model))(jax.random.key(0))
    # Biases of zeros would hide one that is left out.
    keys = iter(jax.random.split(jax.random.key(7), 2))
    adapter = params["encoder"]["adapter"]
    for name in ("in_bias", "out_bias"):
        adapter[name] = jax.random.normal(next(keys), adapter[name].shape)
    return params


@pytest.fixture(scope="module")
def batch():
    keys = jax.random.split(jax.random.key(1), 2)
    return {
        "context": jax.random.randint(keys[0], (BATCH, WINDOWS, L), 0, 3),
        "tokens": jax.random.randint(keys[1], (BATCH, 1, A), 0, 3),
    }


def compress(model, tokens):
    return jax.jit(functools.partial(decoder.compress, model, params_of(model)))(tokens)


@pytest.mark.parametrize("model", [MODEL, CONCAT], ids=["mean", "concat"])
def test_the_decoder_reads_all_latents_and_then_the_prompt(model, batch):
    """One pass without a cache over everything side by side is the same."""
    params = params_of(model)
    latents = [compress(model, batch["context"][:, i]) for i in range(WINDOWS)]
    whole = jnp.concatenate([*latents, decoder.embed(model, params, batch["tokens"][:, 0])], axis=1)
    assert whole.shape[1] == WINDOWS * L // RATIO + A
    h, _ = decoder.blocks(model, params, whole, {})
    want = decoder.unembed(model, params, h[:, -A:])
    got = jax.jit(functools.partial(predict, model, LOOP))(params, batch)
    np.testing.assert_allclose(got[:, 0], want, rtol=1e-4, atol=1e-5)


def test_a_prompt_stays_for_the_next_one(batch):
    """As raw text does between latents: nothing of a kept cache is evicted."""
    prompts = jnp.stack([batch["tokens"][:, 0], (batch["tokens"][:, 0] + 1) % 3], axis=1)
    one_by_one = predict(MODEL, LOOP, params_of(MODEL), {**batch, "tokens": prompts})
    at_once = {**batch, "tokens": prompts.reshape(BATCH, 1, 2 * A)}
    want = predict(MODEL, LOOP, params_of(MODEL), at_once)[:, 0]
    got = one_by_one.reshape(BATCH, 2 * A, -1)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "concat"])
def test_pooling_and_adapter_against_numpy(pooling):
    """Float64, written out: W2 GELU(W1 RMSNorm(z) + b1) + b2 of a group of n."""
    model = dataclasses.replace(MODEL, latents=LatentsConfig(1, RATIO, pooling))
    params = params_of(model)["encoder"]["adapter"]
    h = np.random.default_rng(0).normal(size=(BATCH, L, model.d_model)).astype(np.float32)
    z = pooled(jnp.asarray(h), RATIO, pooling)
    got = np.asarray(Adapter(model).apply({"params": params}, z))
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    for row in range(BATCH):
        for group in range(L // RATIO):
            members = h[row, group * RATIO : (group + 1) * RATIO].astype(np.float64)
            z = members.mean(0) if pooling == "mean" else members.reshape(-1)
            z = z / np.sqrt((z**2).mean() + model.norm_eps) * p["norm"]["scale"]
            z = z @ p["in"]["up"] + p["in_bias"]
            z = z * (1 + erf(z / np.sqrt(2))) / 2
            want = z @ p["out"]["down"] + p["out_bias"]
            np.testing.assert_allclose(got[row, group], want, rtol=1e-4, atol=1e-5)


def test_a_latent_knows_its_window_up_to_its_last_token(batch):
    """Encoded alone and causally: no other window, no later group."""
    tokens = batch["context"][:, 0]
    latents = compress(MODEL, tokens)
    assert latents.shape == (BATCH, L // RATIO, MODEL.d_model)
    for changed in range(L):
        other = compress(MODEL, tokens.at[:, changed].set((tokens[:, changed] + 1) % 3))
        same = np.all(np.asarray(other == latents), axis=(0, 2))
        np.testing.assert_array_equal(same, np.arange(L // RATIO) < changed // RATIO)
    again = compress(MODEL, batch["context"][:, 1].at[:].set(tokens))
    np.testing.assert_array_equal(again, latents)


def test_what_crosses_a_window_are_keys_and_values_of_latents(batch):
    """As many slots as there will be latents and answers, and no token of the window itself."""
    with pytest.raises(ValueError, match="room for all windows"):
        sleep.initial_state(MODEL, LOOP, BATCH, (L, A))
    bound = sleep.bind(MODEL, params_of(MODEL))
    state = sleep.initial_state(MODEL, LOOP, BATCH, (L, A), (WINDOWS, 1))
    state = jax.jit(lambda x: sleep.read(bound, x, state, LOOP))(batch["context"])
    assert len(state) == 2
    for cache in state.values():
        assert cache.keys.shape[1] == WINDOWS * L // RATIO + A
        assert cache.end == WINDOWS * L // RATIO and cache.start == 0
        assert jnp.all(cache.keys[:, cache.end :] == 0)
        assert jnp.all(jnp.any(cache.keys[:, : cache.end] != 0, axis=(2, 3)))


def test_learning_reaches_the_encoder_whatever_is_rematerialised(batch):
    def loss(params, remat):
        return jnp.sum(jnp.sin(predict(MODEL, SleepConfig(remat=remat), params, batch)))

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    want = gradient(params_of(MODEL), "none")
    assert all(jnp.any(g != 0) for g in jax.tree.leaves(want["encoder"]))
    for remat in ("pass", "window"):
        got = gradient(params_of(MODEL), remat)
        for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            assert jnp.linalg.norm(x - y) <= 1e-5 * jnp.linalg.norm(y)


def test_optimizers_of_encoder_and_adapter():
    found = labels(params_of(MODEL))["encoder"]
    assert found["embedding"] == "adamw"
    assert found["adapter"] == {
        "norm": {"scale": "adamw"},
        "in": {"up": "muon"},
        "out": {"down": "muon"},
        **dict.fromkeys(("in_bias", "out_bias"), "adamw"),
    }
    assert found["block_00_attention"] == labels(params_of(MODEL))["block_00_attention"]


@pytest.mark.parametrize("pooling", ["mean", "concat"])
def test_the_cost_against_the_compiler(monkeypatch, pooling):
    """Of reading and answering, and of an update; XLA counts the body of a loop once."""
    monkeypatch.setattr("sleep_jax.sleep.lax.scan", functools.partial(jax.lax.scan, unroll=True))

    def counts(blocks):
        latents = LatentsConfig(blocks, RATIO, pooling)
        wide = dataclasses.replace(MODEL, d_model=128, mlp_hidden=256, latents=latents)
        config = run_config(wide, sleep=LOOP)
        config = dataclasses.replace(
            config,
            task=dataclasses.replace(config.task, strings=2),
            train=dataclasses.replace(config.train, batch_size=1),
        )
        ours = flops.forward_flops(config, 1), flops.training_flops_per_step(config)
        return *ours, compiled_flops(config), compiled_update_flops(config)

    one, two = counts(1), counts(2)
    for ours, theirs in ((one[0], one[2]), (one[1], one[3])):
        assert 0.95 < ours / theirs < 1.02
    assert 0.95 < (two[0] - one[0]) / (two[2] - one[2]) < 1.02  # a block of the encoder


def test_every_query_of_the_decoder_is_charged_every_slot():
    """By hand, multiply-adds of one window of 9 tokens and one answer of 1: heads 2 x 8, d = 16."""
    config = run_config()
    task = dataclasses.replace(config.task, strings=1)
    assert (task.context_windows, task.answer_length, L // RATIO) == (1, 1, 3)
    heads, kv, d, mlp = 2 * 8, 1 * 8, 16, 24
    block = 2 * d * heads + 2 * d * kv + 3 * d * mlp  # a token, without its attention
    encoder = L * (block + 2 * heads * L)
    adapter = 3 * 2 * d * d
    slots = 3 + 1
    first = 3 * (block + 2 * heads * slots)
    second = 3 * (d * heads + 2 * d * kv)  # of the last block, up to keys and values
    answer = 2 * (block + 2 * heads * slots) + d * MODEL.vocab_size
    want = encoder + adapter + first + second + answer
    assert flops.forward_flops(dataclasses.replace(config, task=task), 1) == 2 * want


@pytest.mark.parametrize(
    "change, words",
    [
        ({"sleep": SleepConfig(passes=2)}, "sleep.passes=2 is not possible; allowed: 1 with"),
        ({"sleep": SleepConfig(cache="keep")}, "sleep.cache='keep'"),
        ({"sleep": SleepConfig(cache="slide")}, "sleep.cache='slide'"),
        (
            {"curriculum": CurriculumConfig(drawn_passes=(1, 2))},
            "curriculum.drawn_passes=(1, 2) is not possible; allowed: empty",
        ),
        (
            {"model": dataclasses.replace(MODEL, latents=LatentsConfig(1, 4))},
            "model.latents.ratio=4 is not possible; allowed: a divisor of task.window=9",
        ),
        (
            {"model": dataclasses.replace(MODEL, latents=LatentsConfig(1, 0))},
            "model.latents.ratio=0",
        ),
        (
            {"model": dataclasses.replace(MODEL, latents=LatentsConfig(-1))},
            "model.latents.blocks=-1",
        ),
        (
            {"model": dataclasses.replace(MODEL, latents=LatentsConfig(1, 3, "eos"))},
            "model.latents.pooling='eos' is not possible; allowed: mean, concat",
        ),
        (
            {"model": dataclasses.replace(MODEL, pattern=("attention", "gated_delta_net"))},
            "model.pattern='attention,gated_delta_net' is not possible; allowed: attention alone",
        ),
    ],
)
def test_what_latents_cannot_do_is_refused(change, words):
    run_config().validate()
    with pytest.raises(UserError) as error:
        run_config(**{"model": MODEL, **change}).validate()
    assert words in str(error.value)


def test_neither_a_session_nor_several_devices_of_one_sequence():
    with pytest.raises(UserError, match="model.latents.blocks=1 is not possible; allowed: 0 in a"):
        Session(MODEL, params_of(MODEL), SleepConfig(), L)
    with pytest.raises(UserError, match="--tensor=2 is not possible with latents"):
        decoder.shard(MODEL, 2)
