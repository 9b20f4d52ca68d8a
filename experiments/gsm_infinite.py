"""Word problems hidden in filler, after sleep: the paper's GSM-Infinite (arXiv 2605.26099).

    python -m experiments.gsm_infinite --preset=cpu [--passes=1,2,4] [--max_operations=4]
        [--seeds=0,1,2] [--match=flops] [--workdir=DIR] [--set=task.target_length=512] [--dry_run]

Models from scratch on our own generator, with a vocabulary of its words; accuracy is reported by
the number of operations. The paper fine-tunes pretrained models of 1.4B and 2B parameters. What is
trained beside it, and where results go, is as in experiments/cellular_automata.py.
"""

import dataclasses
import sys
from typing import Any

from absl import flags

from experiments import binary, cli, presets
from experiments.presets import CPU_XLA_FLAGS, Preset
from sleep_jax.config import ModelConfig, OptimizerConfig, RunConfig, SleepConfig, TrainConfig
from sleep_jax.tasks.gsm_infinite.task import GsmInfiniteConfig

_MAX_OPERATIONS = flags.DEFINE_list(
    "max_operations", None, "Most operations, comma-separated; the first is the headline."
)


def cpu() -> Preset:
    """`make experiment EXP=gsm_infinite`: 192 tokens in windows of 64, 1 to 4 operations."""
    task = GsmInfiniteConfig(
        difficulty="hard", modes="forward", max_operations=4, target_length=192, window=64
    )
    return Preset(
        config=RunConfig(
            model=ModelConfig(pattern=("attention", "gated_delta_net"), vocab_size=task.vocab_size),
            sleep=SleepConfig(),
            task=task,
            optimizer=OptimizerConfig(muon_learning_rate=1e-2, adamw_learning_rate=2e-3),
            train=TrainConfig(batch_size=32, tokens=1_500_000, evaluations=6, curve_sequences=128),
        ),
        passes=(1, 2, 4),
        depths={4: (0, 1, 2)},
        match=("tokens",),
        matched_seeds=(0, 1, 2),
        evicted_seeds=(0,),
        full_cache_seeds=(0,),
        platform="cpu",
        xla_flags=CPU_XLA_FLAGS,
        flops_per_second=20e9,
        basis="20 GFLOP/s a core, measured on an AMD EPYC (Milan)",
    )


def smoke() -> Preset:
    """Every part of the real thing, too short to learn. Used by the tests."""
    preset = cpu()
    task = dataclasses.replace(preset.config.task, max_operations=2)
    return dataclasses.replace(presets.shrink(preset, task), match=("tokens",), depths={2: (0,)})


def _about(task: Any) -> dict[str, Any]:
    return {"difficulty": task.difficulty, "modes": task.modes}


EXPERIMENT = binary.Experiment(
    name="gsm_infinite",
    presets={"cpu": cpu, "smoke": smoke},
    depth_flag=_MAX_OPERATIONS,
    lowest_depth=1,
    about=_about,
)


def main() -> int:
    """Plans, runs and reports."""
    return binary.main(EXPERIMENT)


if __name__ == "__main__":
    sys.exit(cli.run(main, sys.argv))
