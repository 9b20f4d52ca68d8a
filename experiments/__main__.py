"""`python -m experiments NAME [--flag=value ...]`: the door that `make experiment` uses."""

import importlib
import sys

from experiments import cli

# Those with an `EXPERIMENT` of cells.
SWEPT = (
    "cellular_automata",
    "depo",
    "gsm_infinite",
    "smollm2_gsm",
    "local_rules",
    "local_rules_depo",
    "elastic_sleep",
    "rollout_curriculum",
    "rollout_ladder",
    "cost_of_depth",
    "cost_of_depth_depo",
    "ttt_e2e",
    "lclm",
    "lclm_depo",
    "dash_attention",
    "consa",
    "qk_restore",
    "recovery",
    "knowledge_seeding",
)
EXPERIMENTS = (*SWEPT, "cost_of_sleep")


def main(argv: list[str]) -> int:
    """Runs an experiment by name; exit code 2 and the known names if there is none of that name."""
    name = argv[1] if len(argv) > 1 else ""
    if name not in EXPERIMENTS:
        allowed = ", ".join(EXPERIMENTS)
        print(f"error: EXP={name} is unknown; allowed: {allowed}", file=sys.stderr)
        return 2
    experiment = importlib.import_module(f"experiments.{name}")
    return cli.run(experiment.main, argv[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv))
