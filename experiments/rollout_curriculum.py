"""Does a curriculum over the depth open what N = 1, or any N, does not learn without one?

    python -m experiments.rollout_curriculum --preset=cpu [--passes=1,4] [--rollout_steps=3,4]
        [--seeds=0,1,2] [--match=tokens] [--workdir=DIR] [--dry_run]

Rule 110 as in experiments/cellular_automata.py. For the first two thirds of a run its examples are
of depth 1, 2, .., t - 1, each for equally long, and then of t. At the headline t the same runs
stand beside it without that, and the largest N also with N rising over the same part of the run.
Smaller N have the training FLOPs of the largest as well (--match).
"""

import dataclasses
import sys

from absl import flags

from experiments import binary, cells, cli, presets
from experiments.cells import Cell
from experiments.presets import Preset
from sleep_jax.config import CurriculumConfig, RunConfig
from sleep_jax.tasks.rule110 import Rule110Config

_ROLLOUT_STEPS = flags.DEFINE_list(
    "rollout_steps", None, "t, comma-separated; the first one is the headline."
)


def _on(preset: Preset, depths: dict[int, tuple[int, ...]], **train: object) -> Preset:
    extremes = presets.extremes(preset, **train)
    return dataclasses.replace(extremes, depths=depths, match=("tokens",))


def cpu() -> Preset:
    """`make experiment EXP=rollout_curriculum`: the model of cellular_automata's cpu preset.

    One seed; `--seeds=0,1,2` adds two. Expected: experiments/results/rollout_curriculum/cpu.
    """
    preset = _on(presets.cpu(), {3: (0,)}, tokens=3_000_000)
    return dataclasses.replace(preset, matched_seeds=(0,))


def smoke() -> Preset:
    """Every part of the real thing, too short to learn. Used by the tests."""
    preset = _on(presets.smoke(), {2: (0,)})
    return dataclasses.replace(preset, matched_seeds=(0,))


def h100() -> Preset:
    """One GPU: W = 24 and the paper's model, t = 8 and 16. Not measured yet."""
    return _on(presets.h100(), {8: (0, 1, 2), 16: (0,)})


def easier_first(config: RunConfig) -> RunConfig:
    """Depths 1 to t - 1 before t."""
    assert isinstance(config.task, Rule110Config)
    easier = tuple(range(1, config.task.rollout_steps))
    return dataclasses.replace(config, curriculum=CurriculumConfig(rollout_steps=easier))


def more(config: RunConfig, preset: Preset) -> list[Cell]:
    """The headline's runs without a curriculum, and its largest N with one over N as well."""
    plain = dataclasses.replace(config, curriculum=CurriculumConfig())
    most, seeds = max(preset.passes), next(iter(preset.depths.values()))
    found = [cells.hybrid(plain, passes, seed) for passes in preset.passes for seed in seeds]
    if most > 1:
        found += cells.all_matched(
            plain, preset.passes, preset.match, preset.matched_seeds, preset.matched_rates
        )
        rising = dataclasses.replace(
            config.curriculum, passes=tuple(2**i for i in range((most - 1).bit_length()))
        )
        both = dataclasses.replace(config, curriculum=rising)
        found += [cells.hybrid(both, most, seed) for seed in seeds]
    return found


EXPERIMENT = binary.Experiment(
    name="rollout_curriculum",
    presets={"cpu": cpu, "smoke": smoke, "h100": h100},
    depth_flag=_ROLLOUT_STEPS,
    lowest_depth=2,
    about=lambda task: {},
    adapt=easier_first,
    more=more,
)


def main() -> int:
    """Plans, runs and reports."""
    return binary.main(EXPERIMENT)


if __name__ == "__main__":
    sys.exit(cli.run(main, sys.argv))
