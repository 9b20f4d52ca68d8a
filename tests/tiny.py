"""A model and a run small enough to compile in seconds, for all tests."""

import dataclasses

import jax
import jax.numpy as jnp

from sleep_jax import sleep
from sleep_jax.config import OptimizerConfig, RunConfig, SleepConfig, TrainConfig
from sleep_jax.model.config import AttentionConfig, GatedDeltaNetConfig, ModelConfig
from sleep_jax.tasks.rule110 import Rule110Config

MODEL = ModelConfig(
    pattern=("attention", "gated_delta_net"),
    d_model=16,
    mlp_hidden=24,
    activation_dtype="float32",
    attention=AttentionConfig(heads=2, kv_heads=1, head_dim=8),
    gated_delta_net=GatedDeltaNetConfig(key_heads=1, value_heads=2, key_dim=8, value_dim=8),
)

# Heads for two shards of the mesh axis `tensor`, and a parameter that all heads share.
TWO_SHARDS = dataclasses.replace(
    MODEL,
    attention=AttentionConfig(heads=4, kv_heads=2, head_dim=8, qk_norm=True),
    gated_delta_net=GatedDeltaNetConfig(key_heads=2, value_heads=4, key_dim=32, value_dim=32),
)
ONE_BLOCK = dataclasses.replace(TWO_SHARDS, pattern=("gated_delta_net",))  # compiles sooner


def with_rule(model: ModelConfig, rule: str) -> ModelConfig:
    """The model with another local rule."""
    delta = dataclasses.replace(model.gated_delta_net, update_rule=rule)
    return dataclasses.replace(model, gated_delta_net=delta)


def run_config(passes: int = 2, steps: int = 12, **train: object) -> RunConfig:
    """A run of `steps` updates on Rule 110, W = 7, t = 1."""
    task = Rule110Config(width=7, window=7, strings=4, rollout_steps=1)
    tokens = 8 * task.strings * (task.width + 1) * steps
    config = TrainConfig(
        batch_size=8,
        tokens=tokens,
        log_every=4,
        checkpoint_every=5,
        evaluations=2,
        evaluation_sequences=20,
        curve_sequences=8,
    )
    return RunConfig(
        model=MODEL,
        sleep=SleepConfig(passes=passes),
        task=task,
        optimizer=OptimizerConfig(muon_learning_rate=1e-2, adamw_learning_rate=2e-3),
        train=dataclasses.replace(config, **train),  # type: ignore[arg-type]
    )


def float64_attention(q, k, v, bias=0.0, mask=None, is_causal=False):
    """`jax.nn.dot_product_attention` without its float32 softmax, which would drown differences."""
    assert is_causal == (mask is None)
    k, v = (jnp.repeat(x, q.shape[2] // x.shape[2], axis=2) for x in (k, v))
    logits = jnp.einsum("bthd,bshd->bhts", q, k) / q.shape[-1] ** 0.5
    seen = jnp.tri(*logits.shape[-2:], dtype=bool) if mask is None else mask
    logits = jnp.where(seen, logits + bias, -jnp.inf)
    return jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(logits, -1), v)


def compiled(model: sleep.Model) -> sleep.Model:
    """The model with each of its functions compiled."""
    functions = {name: x for name, x in model._asdict().items() if callable(x)}
    return model._replace(**{name: jax.jit(f) for name, f in functions.items()})
