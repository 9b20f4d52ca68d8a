"""Which local rule does the work: Depo after sleep, by the rule that writes the fast weights.

    python -m experiments.local_rules_depo --preset=cpu [--update_rules=hebbian,delta,gated_delta]
        [--passes=1,4] [--max_hops=2] [--seeds=0] [--workdir=DIR] [--dry_run]

As experiments/local_rules.py, on the task of experiments/depo.py.
"""

import sys

from experiments import binary, cli, depo, update_rules
from experiments.presets import Preset


def cpu() -> Preset:
    """`make experiment EXP=local_rules_depo`: cycles of up to 6 nodes, 1 and 2 hops, one seed.

    7.6 minutes on two cores of an AMD EPYC (Genoa). The budget of `EXP=depo`: with 0.75M tokens no
    rule got to two hops. Expected, with five seeds: experiments/results/local_rules_depo/cpu.
    """
    return update_rules.among_rules(depo.cpu(), (1, 4), {2: (0,)})


def smoke() -> Preset:
    """Every rule, one pass, too short to learn. Used by the tests."""
    return update_rules.among_rules(depo.smoke(), (1,), {2: (0,)})


def paper() -> Preset:
    """The paper's setting of Depo, which it ran with the gated delta rule alone."""
    return update_rules.among_rules(depo.paper(), (1, 4), {16: (0,)})


EXPERIMENT = update_rules.comparison(
    depo.EXPERIMENT,
    name="local_rules_depo",
    presets={"cpu": cpu, "smoke": smoke, "paper": paper},
)


def main() -> int:
    """Plans, runs and reports."""
    return binary.main(EXPERIMENT)


if __name__ == "__main__":
    sys.exit(cli.run(main, sys.argv))
