"""How deep does each N get if a run moves on to t + 1 as soon as it has learned t?

    python -m experiments.rollout_ladder --preset=cpu [--passes=1,2,4] [--rollout_steps=12]
        [--seeds=0,1,2] [--workdir=DIR] [--dry_run]

Rule 110 as in experiments/cellular_automata.py. A run begins at t = 1 and goes on to t + 1 when
enough of the sequences of its last training batches was right (`curriculum.climb_at`), up to
--rollout_steps or until its FLOPs are spent, which are the same for every N. No held-out sequence
decides that. A depth has been learned at the first evaluation on it with nine of ten unseen
sequences right; what that took, from the first step of the run on, is reported like a depth of
experiments/cost_of_depth.py, where every depth is a run of its own that never saw another.
"""

import dataclasses
import sys
from collections.abc import Mapping

from absl import flags

from experiments import binary, cli, presets, until_learned
from experiments.cells import Cell
from experiments.presets import Preset
from experiments.until_learned import WATCHED, to_learn
from sleep_jax.config import CurriculumConfig, RunConfig
from sleep_jax.errors import UserError
from sleep_jax.tasks.rule110 import Rule110Config

_ROLLOUT_STEPS = flags.DEFINE_list("rollout_steps", None, "The top of the ladder, t; one number.")

_SEEDS = (10, 11, 12, 13, 14)
# Above the target, so that unseen sequences are as good as sure to have reached it before.
_CLIMBING = CurriculumConfig(climb_at=0.95)
_WIDE = Rule110Config(width=24, window=24)  # the paper's strings


def _ladder(preset: Preset, task: Rule110Config, curriculum: CurriculumConfig) -> Preset:
    config = dataclasses.replace(preset.config, task=task, curriculum=curriculum)
    return dataclasses.replace(preset, config=config)


def _two_blocks(top: int, seeds: tuple[int, ...], tokens: int, passes: tuple[int, ...]) -> Preset:
    """The model of cellular_automata's cpu preset, on strings as wide as the paper's."""
    # On the validation split, one seed: the best of three rates for N = 1 and for N = 2.
    preset = until_learned.at_rate(presets.cpu(), muon_learning_rate=2.5e-3)
    preset = dataclasses.replace(
        _ladder(preset, _WIDE, _CLIMBING), passes=passes, matched_rates={1: 5e-3}
    )
    preset = to_learn(preset, {top: seeds}, tokens=tokens, **WATCHED)
    return until_learned.warmed_up(preset, steps=36)  # as many as in cost_of_depth


def cpu() -> Preset:
    """`make experiment EXP=rollout_ladder`: N = 1, 2 and 4, one seed, to t = 3 or so.

    14 minutes on one core of an AMD EPYC (Genoa), beside other work; N = 4 has the rate of N = 2,
    which was not tuned for it. Expected: experiments/results/rollout_ladder/cpu.
    """
    return _two_blocks(12, (0,), 2_900_000, (1, 2, 4))


def deep() -> Preset:
    """Five seeds of N = 1 and 2, with the FLOPs for t = 5 or so.

    `make experiment EXP=rollout_ladder PRESET=deep`: 47 minutes on two cores of an AMD EPYC
    (Genoa). Expected: experiments/results/rollout_ladder/deep.
    """
    return _two_blocks(12, _SEEDS, 12_500_000, (1, 2))


def narrow() -> Preset:
    """Ten thousand parameters, so few that one pass stops on the way to t = 6, if it does.

    A residual stream of 16, MLPs of 2 hidden units, strings of 16 bits with BOS before each. N = 1
    and 2, five seeds. `make experiment EXP=rollout_ladder PRESET=narrow`: 77 minutes on two
    cores of an AMD EPYC (Genoa), beside other work. Expected:
    experiments/results/rollout_ladder/narrow.
    """
    preset = presets.narrow()
    model = dataclasses.replace(preset.config.model, mlp_hidden=2)
    preset = dataclasses.replace(preset, config=dataclasses.replace(preset.config, model=model))
    preset = _ladder(preset, Rule110Config(width=16, window=17, marked=True), _CLIMBING)
    # On the validation split, one seed: the best of four for N = 1, the first tried for N = 2.
    preset = until_learned.at_rate(preset, muon_learning_rate=5e-3)
    preset = dataclasses.replace(preset, passes=(1, 2), matched_rates={1: 2.5e-3})
    preset = to_learn(preset, {6: _SEEDS}, tokens=50_000_000, **WATCHED)
    return until_learned.warmed_up(preset, steps=36)


def h100() -> Preset:
    """One GPU: the paper's model, N in {1, 2, 4}, to its t = 32 at most. Not measured yet."""
    preset = _ladder(presets.h100(), _WIDE, _CLIMBING)
    preset = dataclasses.replace(preset, passes=(1, 2, 4))
    return to_learn(preset, {32: (0, 1, 2)}, **WATCHED)


def smoke() -> Preset:
    """Every part of the real thing, climbing without having learned. Used by the tests."""
    preset = presets.smoke()
    climbing = CurriculumConfig(climb_at=0.01, climb_every=4)
    assert isinstance(preset.config.task, Rule110Config)
    return to_learn(
        _ladder(preset, preset.config.task, climbing), {3: (0, 1)}, target_accuracy=0.05
    )


def planned(at: Mapping[int, RunConfig], preset: Preset) -> list[Cell]:
    """As where every depth is learned by itself; but one ladder has one top."""
    if len(at) > 1:
        given = ",".join(map(str, at))
        raise UserError(f"--rollout_steps={given} is not possible; allowed: one number, the top")
    return until_learned.planned(at, preset)


EXPERIMENT = binary.Experiment(
    name="rollout_ladder",
    presets={"cpu": cpu, "deep": deep, "narrow": narrow, "h100": h100, "smoke": smoke},
    depth_flag=_ROLLOUT_STEPS,
    lowest_depth=1,
    about=lambda task: {},
    planned=planned,
)


def main() -> int:
    """Plans, runs and reports."""
    return binary.main(EXPERIMENT)


if __name__ == "__main__":
    sys.exit(cli.run(main, sys.argv))
