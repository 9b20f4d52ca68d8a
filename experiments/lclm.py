"""Fast weights or latents: what does each take to learn t steps of Rule 110?

    python -m experiments.lclm --preset=cpu [--ratios=2,4] [--passes=1,2] [--rollout_steps=2,3]
        [--seeds=10,11] [--workdir=DIR] [--dry_run]

What the two are: experiments/latents.py. Runs end when they have learned, as in
experiments/cost_of_depth.py, whose task this is.
"""

import dataclasses
import sys

from experiments import binary, cli, cost_of_depth, latents
from experiments.presets import Preset


def cpu() -> Preset:
    """`make experiment EXP=lclm`: two blocks, t = 3, a latent for each window, two seeds.

    9.0 minutes on two cores of an Intel Xeon, installation included. Expected: see
    experiments/results/lclm/as_it_comes, and with five seeds lclm/cpu.
    """
    return _beside_two_passes(cost_of_depth.deep())


def four_blocks() -> Preset:
    """The paper's four blocks; of latents two of the encoder and two of the decoder.

    `make experiment EXP=lclm PRESET=four_blocks`; a scout alone has been run
    (experiments/results/NOTES_lclm.md).
    """
    return _beside_two_passes(cost_of_depth.four_blocks())


def _beside_two_passes(preset: Preset) -> Preset:
    return dataclasses.replace(
        preset,
        passes=(1, 2),
        depths={3: (10, 11)},
        matched_rates=dict.fromkeys((1, 2), latents.RATE),
        full_cache_seeds=(10,),
    )


def smoke() -> Preset:
    """Every part of the real thing, too short to learn. Used by the tests."""
    return cost_of_depth.smoke()


EXPERIMENT = latents.comparison(
    cost_of_depth.EXPERIMENT,
    name="lclm",
    presets={"cpu": cpu, "four_blocks": four_blocks, "smoke": smoke},
)


def main() -> int:
    """Plans, runs and reports."""
    return binary.main(EXPERIMENT)


if __name__ == "__main__":
    sys.exit(cli.run(main, sys.argv))
