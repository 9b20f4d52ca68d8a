"""Which local rule does the work: Rule 110 after sleep, by the rule that writes the fast weights.

    python -m experiments.local_rules --preset=cpu [--update_rules=hebbian,delta,gated_delta]
        [--passes=1,4] [--rollout_steps=2] [--seeds=0,1] [--workdir=DIR] [--dry_run]

The paper (arXiv 2605.26099) calls the rule immaterial and compares none. Here the hybrid of
experiments/cellular_automata.py is trained with each (sleep_jax/model/gated_delta_net.py says what
they are), all else equal: tokens, sizes, rates. FLOPs and parameters differ a little, and the table
says by how much. experiments/local_rules_depo.py is the same on Depo.
"""

import sys

from experiments import binary, cellular_automata, cli, presets, update_rules
from experiments.presets import Preset
from sleep_jax.tasks.rule110 import Rule110Config


def cpu() -> Preset:
    """`make experiment EXP=local_rules`: the cpu preset of cellular_automata with every rule.

    Two seeds: 10.0 minutes on two cores of an AMD EPYC (Genoa). Expected, with five:
    experiments/results/local_rules/cpu.
    """
    return update_rules.among_rules(presets.cpu(), (1, 4), {2: (0, 1)})


def smoke() -> Preset:
    """Every rule, one pass, too short to learn: 72 s on two cores, nearly all of it compilation."""
    task = Rule110Config(width=7, window=7, strings=4, rollout_steps=1)
    return update_rules.among_rules(presets.shrink(cpu(), task), (1,), {1: (0,)})


def h100() -> Preset:
    """One H100: W = 24 with the paper's model, t = 4. Not measured on one."""
    return update_rules.among_rules(presets.h100(), (1, 4), {4: (0, 1)})


def paper() -> Preset:
    """The paper's setting of Rule 110 at t = 32, which it ran with the gated delta rule alone."""
    return update_rules.among_rules(presets.paper(), (1, 4), {32: (0,)})


EXPERIMENT = update_rules.comparison(
    cellular_automata.EXPERIMENT,
    name="local_rules",
    presets={"cpu": cpu, "smoke": smoke, "h100": h100, "paper": paper},
)


def main() -> int:
    """Plans, runs and reports."""
    return binary.main(EXPERIMENT)


if __name__ == "__main__":
    sys.exit(cli.run(main, sys.argv))
