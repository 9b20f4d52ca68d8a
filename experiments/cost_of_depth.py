"""How much computation does each N need to learn a depth, and how fast does that grow with depth?

    python -m experiments.cost_of_depth --preset=cpu [--passes=1,2,4] [--rollout_steps=2,1,3]
        [--seeds=0,1,2] [--match=tokens,blocks] [--workdir=DIR] [--dry_run]

Rule 110 as in experiments/cellular_automata.py, but no run is trained to the end of a budget: it
ends when it has learned (experiments/until_learned.py). How the need of N = 1 grows with depth says
whether it is about to stop. experiments/cost_of_depth_depo.py asks the same of Depo.
"""

import dataclasses
import sys

from absl import flags

from experiments import binary, cli, presets, until_learned
from experiments.presets import Preset
from experiments.until_learned import WATCHED, to_learn
from sleep_jax.tasks.rule110 import Rule110Config

_ROLLOUT_STEPS = flags.DEFINE_list(
    "rollout_steps", None, "t, comma-separated; the first one is the headline."
)

_SEEDS = (10, 11, 12, 13, 14)


def cpu() -> Preset:
    """`make experiment EXP=cost_of_depth`: the model of cellular_automata's cpu preset.

    6.7 minutes on two cores of an AMD EPYC (Genoa). Expected, with five seeds:
    experiments/results/cost_of_depth/cpu.
    """
    return to_learn(
        presets.cpu(),
        {2: (0, 1, 2), 1: (0, 1, 2)},
        tokens=6_000_000,
        **WATCHED,
    )


def deep() -> Preset:
    """The same two blocks at t = 3 and 4, where every N wants half of the cpu preset's usual rate.

    `make experiment EXP=cost_of_depth PRESET=deep`: 46 minutes on two cores of an AMD EPYC (Genoa).
    Seeds 0 and 1 were looked at when the rate was chosen, so they are not among these. Expected:
    experiments/results/cost_of_depth/deep.
    """
    # On the validation split at t = 3, two seeds, the best of three rates for every N.
    preset = until_learned.at_rate(presets.cpu(), muon_learning_rate=5e-3)
    return to_learn(preset, {3: _SEEDS, 4: _SEEDS}, tokens=6_000_000, **WATCHED)


def four_blocks() -> Preset:
    """The paper's four blocks: where one pass is as deep as two of the cpu preset's.

    `make experiment EXP=cost_of_depth PRESET=four_blocks`: 63 minutes on two cores of an AMD
    EPYC (Genoa), and six more with `ARGS=--rollout_steps=1`. Seeds 0 and 1 were looked at when
    the rates were chosen, so they are not among these. Expected:
    experiments/results/cost_of_depth/four_blocks.
    """
    # On the validation split at t = 3, two seeds, the best of four rates for every N.
    preset = until_learned.at_rate(presets.cpu(), muon_learning_rate=5e-3)
    return to_learn(
        until_learned.twice_the_blocks(preset),
        {3: _SEEDS, 2: _SEEDS, 4: _SEEDS},
        tokens=3_000_000,
        **WATCHED,
    )


def narrow_mlp() -> Preset:
    """Two blocks whose MLPs have 2 hidden units, not 128, at t = 3 and 4; BOS before every string.

    `make experiment EXP=cost_of_depth PRESET=narrow_mlp`: 42 minutes on two cores of an AMD EPYC
    (Genoa). Is a second pass worth its FLOPs where one pass has little else to compute with? Seeds
    0 and 1 were looked at when the rates were chosen, so they are not among these. Expected:
    experiments/results/cost_of_depth/narrow_mlp.
    """
    preset = until_learned.at_rate(presets.cpu(), muon_learning_rate=2.5e-3)
    # Validation split, t = 3: the best of three rates on seed 0, of two on seed 1 too for N = 2.
    preset = dataclasses.replace(
        preset,
        config=dataclasses.replace(
            preset.config,
            task=Rule110Config(marked=True, window=13),
            model=dataclasses.replace(preset.config.model, mlp_hidden=2),
        ),
        passes=(1, 2),
        matched_rates={1: 5e-3},
    )
    preset = to_learn(preset, {3: _SEEDS, 4: _SEEDS}, tokens=24_000_000, **WATCHED)
    return until_learned.warmed_up(preset, steps=36)  # as many as in cpu and deep


def smoke() -> Preset:
    """Every part of the real thing, too short to learn. Used by the tests."""
    return to_learn(presets.smoke(), {1: (0, 1)}, target_accuracy=0.9)


EXPERIMENT = binary.Experiment(
    name="cost_of_depth",
    presets={
        "cpu": cpu,
        "deep": deep,
        "four_blocks": four_blocks,
        "narrow_mlp": narrow_mlp,
        "smoke": smoke,
    },
    depth_flag=_ROLLOUT_STEPS,
    lowest_depth=0,
    about=lambda task: {},
    planned=until_learned.planned,
)


def main() -> int:
    """Plans, runs and reports."""
    return binary.main(EXPERIMENT)


if __name__ == "__main__":
    sys.exit(cli.run(main, sys.argv))
