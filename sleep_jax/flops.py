"""Floating-point operations of a run, from its shapes.

Counted: the matrix products of Algorithm 1 (two operations a multiply-add), backward as twice the
forward of the passes that it goes through, less the gradients of frozen weights. Not counted:
rematerialisation (the same share of every hybrid run), norms, gates and other elementwise work, the
embedding lookup, the optimizer. A transformer whose cache is evicted learns nothing from its
context windows, so the compiler removes them and they are not counted either. Attention is counted
for every pair of a token and a key at hand, masked or not. tests/test_flops.py holds this against
the compiler's own count.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sleep_jax.config import GatedDeltaNetConfig, ModelConfig, RunConfig
from sleep_jax.curriculum import Stage, stages_by_step


def block_flops(config: ModelConfig, mixer: str, length: int, kept: int = 0) -> int:
    """Forward operations of one block on one window of `length` tokens of one sequence.

    `kept` tokens of earlier windows have their keys and values at hand: L - 1 under "slide".
    """
    if mixer == "attention":
        a = config.attention
        mixing = 2 * a.heads * a.head_dim * (kept + length)
    else:
        g = config.gated_delta_net
        # Of the recurrence itself: read k (unless keys are not projected out), write, read q. The
        # chunkwise form trades some of it for products within the chunk; the recurrence is what
        # every implementation has to compute.
        products = 2 if g.update_rule == "hebbian" else 3
        mixing = products * g.value_heads * g.key_dim * g.value_dim
    return weight_flops(config, mixer, length) + 2 * length * mixing


def weight_flops(config: ModelConfig, mixer: str, length: int, kept: int = 0) -> int:
    """The share of `block_flops` that are products with the block's weights; `kept` adds none."""
    d = config.d_model
    if mixer == "attention":
        a = config.attention
        projections = d * a.head_dim * (2 * a.heads + 2 * a.kv_heads)
    else:
        g = config.gated_delta_net
        key, value = g.key_heads * g.key_dim, g.value_heads * g.value_dim
        projections = d * (2 * key + 3 * value) + _gates_and_convolutions(g, d)
    mlp = 0 if config.inserted and mixer == "gated_delta_net" else 3 * d * config.mlp_hidden
    return 2 * length * (mlp + projections)


def _gates_and_convolutions(g: GatedDeltaNetConfig, d: int) -> int:
    """Multiply-adds a token of what makes alpha and beta, and of the convolutions."""
    key, value = g.key_heads * g.key_dim, g.value_heads * g.value_dim
    beta = alpha = d * g.value_heads
    convolution = g.conv_width * (2 * key + value)
    match g.update_rule:
        case "delta":
            alpha = 0
        case "kda":
            alpha = g.value_dim * (d + g.value_heads * g.key_dim)
        case "jet":
            generator = g.generator_hidden * (d + g.conv_width * value)
            convolution = g.conv_width * value + generator
    return alpha + beta + convolution


def forward_flops(config: RunConfig, passes: int) -> int:
    """Forward operations for one sequence: C context windows of N passes, one prediction window."""
    return _unembedding(config) + _in_blocks(config, passes, config.model.pattern, block_flops)


def _unembedding(config: RunConfig) -> int:
    return 2 * config.task.answer_length * config.model.d_model * config.model.vocab_size


def _in_blocks(
    config: RunConfig, passes: int, mixers: tuple[str, ...], flops: Callable[..., int]
) -> int:
    """Sum over the windows of one sequence, passes and these blocks."""
    task = config.task
    slide = config.sleep.cache == "slide"
    kept = task.window - 1 if slide else 0

    def window(length: int) -> int:
        return sum(flops(config.model, mixer, length, kept) for mixer in mixers)

    if config.sleep.cache == "keep":
        return window(config.sequence_length)
    remembers = slide or config.model.has_fast_weights
    context = task.context_windows * passes * window(task.window) if remembers else 0
    return context + window(task.answer_length)


def _frozen_flops(config: RunConfig, passes: int) -> int:
    """Operations of a backward of everything that only gradients of frozen weights would need."""
    if config.optimizer.trained == "all":
        return 0
    frozen = tuple(mixer for mixer in config.model.pattern if mixer == "attention")
    return _unembedding(config) + _in_blocks(config, passes, frozen, weight_flops)


def training_flops_per_step(config: RunConfig) -> int:
    """Operations of one optimizer update without a curriculum: forward and backward."""
    passes = config.sleep.passes
    back = min(config.sleep.backward_passes or passes, passes)
    forward = forward_flops(config, passes)
    backward = 2 * forward_flops(config, back) - _frozen_flops(config, back)
    return config.train.batch_size * (forward + backward)


def training_flops_by_step(config: RunConfig) -> NDArray[np.int64]:
    """Operations of each optimizer update, `[steps]`."""
    stages, which = stages_by_step(config)
    at = [training_flops_per_step(_in_stage(config, stage)) for stage in stages]
    return np.asarray(at, np.int64)[which]


def _in_stage(config: RunConfig, stage: Stage) -> RunConfig:
    sleep = dataclasses.replace(config.sleep, passes=stage.passes, cache=stage.cache)
    optimizer = dataclasses.replace(config.optimizer, trained=stage.trained)
    return dataclasses.replace(config, sleep=sleep, optimizer=optimizer)


def training_flops(config: RunConfig) -> int:
    """Operations of the whole run."""
    return int(training_flops_by_step(config).sum())
