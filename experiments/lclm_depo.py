"""Fast weights or latents: what does each take to learn to follow k edges?

    python -m experiments.lclm_depo --preset=cpu [--ratios=2,4] [--passes=1,2] [--max_hops=2]
        [--seeds=10,11] [--workdir=DIR] [--dry_run]

What the two are: experiments/latents.py. Runs end when they have learned, as in
experiments/cost_of_depth_depo.py, whose task this is.
"""

import dataclasses
import sys

from experiments import binary, cli, cost_of_depth_depo, latents
from experiments.presets import Preset


def cpu() -> Preset:
    """`make experiment EXP=lclm_depo`: cycles of up to 6 nodes, 2 hops, one seed.

    Not run with seeds yet, nor timed; expected: that latents do not learn two hops with what
    passes take (a scout, experiments/results/NOTES_lclm.md).
    """
    return dataclasses.replace(
        cost_of_depth_depo.cpu(), passes=(1, 2), depths={2: (10,)}, full_cache_seeds=(10,)
    )


def smoke() -> Preset:
    """Every part of the real thing, too short to learn. Used by the tests."""
    return cost_of_depth_depo.smoke()


EXPERIMENT = latents.comparison(
    cost_of_depth_depo.EXPERIMENT, name="lclm_depo", presets={"cpu": cpu, "smoke": smoke}
)


def main() -> int:
    """Plans, runs and reports."""
    return binary.main(EXPERIMENT)


if __name__ == "__main__":
    sys.exit(cli.run(main, sys.argv))
