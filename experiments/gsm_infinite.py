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
from experiments.presets import Preset
from sleep_jax.tasks.gsm_infinite.task import GsmInfiniteConfig

_MAX_OPERATIONS = flags.DEFINE_list(
    "max_operations", None, "Most operations, comma-separated; the first is the headline."
)


def cpu() -> Preset:
    """`make experiment EXP=gsm_infinite`: 192 tokens in windows of 64, 1 to 4 operations.

    Three seeds: 11.8 minutes on two cores of an AMD EPYC (Genoa). Expected, with five:
    experiments/results/gsm_infinite/cpu.
    """
    task = GsmInfiniteConfig(
        difficulty="hard", modes="forward", max_operations=4, target_length=192, window=64
    )
    return presets.on_task(
        presets.cpu(), task, {4: (0, 1, 2)}, batch_size=32, tokens=900_000, evaluations=6
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
