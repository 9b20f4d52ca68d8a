"""Rule 110 after sleep: the paper's Fig. 2 and its baselines (arXiv 2605.26099, Section 6.1).

    python -m experiments.cellular_automata --preset=cpu [--passes=1,2,4] [--rollout_steps=2,3]
        [--seeds=0,1,2] [--match=flops] [--baselines=full] [--workdir=DIR]
        [--set=model.d_model=128] [--dry_run]

Trains the hybrid for every N at equal tokens, every smaller N again with the FLOPs of the largest
(spent on tokens; by N = 1 on blocks or width as well), and the transformers whose cache is evicted
and kept; then writes tables and figures into the sweep directory,
`<workdir>/cellular_automata/<preset>`. A finished run is not run again.
"""

import sys
from typing import Any

from absl import flags

from experiments import binary, cli, presets
from sleep_jax.tasks import rule110

_ROLLOUT_STEPS = flags.DEFINE_list(
    "rollout_steps", None, "t, comma-separated; the first is the headline depth."
)


def _diagram(task: rule110.Rule110Config) -> dict[str, Any]:
    return {"diagram": rule110.space_time(task, seed=0).tolist()}


EXPERIMENT = binary.Experiment(
    name="cellular_automata",
    presets=presets.PRESETS,
    depth_flag=_ROLLOUT_STEPS,
    lowest_depth=0,
    about=_diagram,
)


def main() -> int:
    """Plans, runs and reports."""
    return binary.main(EXPERIMENT)


if __name__ == "__main__":
    sys.exit(cli.run(main, sys.argv))
