"""Floating-point operations of a run, from its shapes.

Counted: the matrix products of Algorithm 1 (two operations a multiply-add), backward as twice the
forward of the passes that it goes through, less the gradients of frozen weights. Not counted:
rematerialisation (the same share of every hybrid run), norms, gates and other elementwise work, the
embedding lookup, the optimizer. Muon's products are the same in every step, so they weigh more
where a step is one pass: `--dry_run` says how much they would add at each N. What nothing uses, the
compiler removes, and it is not counted either: of the last pass over a window, and of every pass
that hands on fast weights alone, all that comes after the last state is written, and of a
transformer whose cache is evicted the context windows.
Attention is counted for every pair of a token and a key at hand, masked or not. tests/test_flops.py
holds this against the compiler's own count.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sleep_jax.config import RunConfig
from sleep_jax.curriculum import Stage, stages_by_step
from sleep_jax.model.config import GatedDeltaNetConfig, ModelConfig


class BlockFlops(NamedTuple):
    """Forward operations of one block on one window of one sequence, in the order of the data."""

    into: int  # products with weights ahead of the mixing: projections, gates, convolutions
    write: int  # of the mixing, what the state after the window needs
    read: int  # of the mixing, what only the block's output needs
    out: int  # products with weights behind it: output projection and MLP


def block_flops(config: ModelConfig, mixer: str, length: int, kept: int = 0) -> BlockFlops:
    """Of one block on a window of `length` tokens.

    `kept` tokens of earlier windows have their keys and values at hand: L - 1 under "slide".
    """
    d = config.d_model
    mlp = 0 if config.inserted and mixer == "gated_delta_net" else 3 * d * config.mlp_hidden
    if mixer == "attention":
        a = config.attention
        out = d * a.heads * a.head_dim
        into, write = out + 2 * d * a.kv_heads * a.head_dim, 0
        read = 2 * a.heads * a.head_dim * (kept + length + a.sink)
        # Both kinds of attention, which have their logits in common.
        read += a.local.relaxed * a.heads * a.head_dim * length
        if chunk := a.routing.chunk:  # keys of chunks, and their logits
            read += 2 * a.kv_heads * a.head_dim + a.heads * a.head_dim * (length // chunk)
    elif mixer == "prime_mlp":
        into, write, read, out = 0, 0, 3 * d * config.prime_mlp.hidden, 0
    else:
        g = config.gated_delta_net
        key, value = g.key_heads * g.key_dim, g.value_heads * g.value_dim
        into, out = d * (2 * key + 2 * value) + _gates_and_convolutions(g, d), d * value
        # Of the recurrence itself: read k (unless keys are not projected out), write, read q. The
        # chunkwise form trades some of it for products within the chunk; the recurrence is what
        # every implementation has to compute.
        read = g.value_heads * g.key_dim * g.value_dim
        write = (1 if g.update_rule == "hebbian" else 2) * read
    return BlockFlops(*(2 * length * part for part in (into, write, read, mlp + out)))


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
    return _unembedding(config) + _in_blocks(config, passes)


def wake_flops(model: ModelConfig, length: int) -> int:
    """Forward operations for a prediction window of one sequence, with its logits."""
    blocks = sum(sum(block_flops(model, mixer, length)) for mixer in model.pattern)
    return blocks + _unembedding_of(model, length)


def _unembedding(config: RunConfig) -> int:
    return _unembedding_of(config.model, config.task.answer_length)


def _unembedding_of(model: ModelConfig, length: int) -> int:
    return 2 * length * model.d_model * model.vocab_size


def gradient_step_flops(model: ModelConfig, length: int) -> int:
    """Operations of one gradient step of test-time training on a window of one sequence.

    Forward from the first prime MLP on, and back to it: the gradient of every input there, of the
    weights for the prime MLPs alone; two of a product between activations. The first prime MLP's
    input has none.
    """
    first, _ = model.loop
    forward = backward = _unembedding_of(model, length)
    for mixer in model.pattern[first:]:
        block = block_flops(model, mixer, length)
        forward += sum(block)
        backward += sum(block) + block.read
    first_read = block_flops(model, model.pattern[first], length).read
    return forward + backward - first_read * 2 // 3


def _in_blocks(config: RunConfig, passes: int, frozen_weights: bool = False) -> int:
    """Sum over the windows of one sequence, passes and blocks; or of frozen weights' products."""
    task, model = config.task, config.model
    if model.has_latents:
        return _with_latents(config)
    slide = config.sleep.cache == "slide"
    kept = task.window - 1 if slide else 0

    def counted(mixer: str, length: int) -> BlockFlops:
        block = block_flops(model, mixer, length, kept)
        if not frozen_weights:
            return block
        return block._replace(write=0, read=0) if mixer == "attention" else BlockFlops(0, 0, 0, 0)

    def window(length: int, mixers: tuple[str, ...] = model.pattern) -> int:
        return sum(sum(counted(mixer, length)) for mixer in mixers)

    if config.sleep.cache == "keep":
        return window(config.sequence_length)
    context = 0
    if model.written_by_gradient:
        first, _ = model.loop
        step = gradient_step_flops(model, task.window)
        once = window(task.window, model.pattern[:first])
        context = task.context_windows * (once + passes * step) if passes else 0
    elif slide or model.has_fast_weights:

        def to_the_state(mixers: tuple[str, ...]) -> int:
            """Without what comes after the last state is written."""
            keeps_state = [slide or mixer != "attention" for mixer in mixers]
            last = max((i for i, keeps in enumerate(keeps_state) if keeps), default=-1)
            if last < 0:
                return 0
            ending = counted(mixers[last], task.window)
            return window(task.window, mixers[: last + 1]) - ending.read - ending.out

        core = model.pattern[slice(*model.loop)]
        features = config.sleep.carry != "fast_weights"  # of passes before the last
        again = window(task.window, core) if features else to_the_state(core)
        once = to_the_state(model.pattern)
        context = task.context_windows * ((passes - 1) * again + once)
    return context + window(task.answer_length)


def _with_latents(config: RunConfig) -> int:
    """The same where the blocks read latents: the encoder's on windows, theirs, the answer's."""
    task, model = config.task, config.model
    d, of, windows = model.d_model, model.latents, task.context_windows
    length = task.window // of.ratio
    room = windows * length + task.answer_length  # every query meets every slot, filled or not

    def decoder(length: int) -> BlockFlops:
        return block_flops(model, "attention", length, room - length)

    encoder = of.blocks * sum(block_flops(model, "attention", task.window))
    pooled = d * (of.ratio if of.pooling == "concat" else 1)
    adapter = 2 * length * d * (pooled + d)
    blocks, last = len(model.pattern), decoder(length)
    reading = blocks * sum(last) - last.read - last.out  # of the last block keys and values alone
    return windows * (encoder + adapter + reading) + blocks * sum(decoder(task.answer_length))


def _frozen_flops(config: RunConfig, passes: int) -> int:
    """Operations of a backward of everything that only gradients of frozen weights would need."""
    if config.optimizer.trained == "all":
        return 0
    return _unembedding(config) + _in_blocks(config, passes, frozen_weights=True)


def training_flops_per_step(config: RunConfig) -> int:
    """Operations of one optimizer update without a curriculum: forward and backward."""
    passes = config.sleep.passes
    back = min(config.sleep.backward_passes or passes, passes)
    forward = forward_flops(config, passes)
    if config.model.written_by_gradient and not config.model.prime_mlp.second_order:
        back = 0  # into no context window: what a step writes is a constant
    backward = 2 * forward_flops(config, back) - _frozen_flops(config, back)
    return config.train.batch_size * (forward + backward)


def training_flops_by_step(config: RunConfig) -> NDArray[np.object_]:
    """Operations of each optimizer update, `[steps]`: ints of Python, as a run may take 2^63."""
    stages, which = stages_by_step(config)
    at = [training_flops_per_step(_in_stage(config, stage)) for stage in stages]
    return np.asarray(at, object)[which]


def _in_stage(config: RunConfig, stage: Stage) -> RunConfig:
    sleep = dataclasses.replace(config.sleep, passes=stage.passes, cache=stage.cache)
    optimizer = dataclasses.replace(config.optimizer, trained=stage.trained)
    model = config.model.relaxed() if stage.choosing else config.model
    return dataclasses.replace(config, model=model, sleep=sleep, optimizer=optimizer)


def training_flops(config: RunConfig) -> int:
    """Operations of the whole run."""
    return training_flops_by_step(config).sum()
