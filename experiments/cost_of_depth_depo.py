"""How much computation does each N need to learn to follow k edges?

    python -m experiments.cost_of_depth_depo --preset=cpu [--passes=1,2,4] [--max_hops=2,1]
        [--seeds=10,11] [--match=tokens,blocks] [--workdir=DIR] [--dry_run]

As experiments/cost_of_depth.py, on the task of experiments/depo.py: a run ends when the greatest
number of hops, K, is answered, whatever the easier ones score. Every sequence has a graph of its
own, so here no table of answers can replace steps.
"""

import dataclasses
import sys

from experiments import binary, cli, depo, until_learned
from experiments.presets import Preset
from experiments.until_learned import WATCHED, to_learn


def cpu() -> Preset:
    """`make experiment EXP=cost_of_depth_depo`: cycles of up to 6 nodes, 2 hops, two blocks.

    13 minutes on two cores of an AMD EPYC (Genoa). Seeds 0 and 1 were looked at when the rates were
    chosen, so they are not among these. Expected, with five seeds:
    experiments/results/cost_of_depth_depo/cpu.
    """
    # On the validation split, two seeds: the best of four rates for N = 1, of three for the others.
    preset = dataclasses.replace(depo.cpu(), matched_rates={1: 5e-3, 2: 5e-3})
    return to_learn(preset, {2: (10, 11, 12)}, tokens=8_000_000, **WATCHED)


def smoke() -> Preset:
    """Every part of the real thing, too short to learn. Used by the tests."""
    return to_learn(depo.smoke(), {2: (0,)}, target_accuracy=0.9)


EXPERIMENT = dataclasses.replace(
    depo.EXPERIMENT,
    name="cost_of_depth_depo",
    presets={"cpu": cpu, "smoke": smoke},
    planned=until_learned.planned,
)


def main() -> int:
    """Plans, runs and reports."""
    return binary.main(EXPERIMENT)


if __name__ == "__main__":
    sys.exit(cli.run(main, sys.argv))
