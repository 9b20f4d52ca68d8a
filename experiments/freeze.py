"""Freezes the evaluation split of an experiment, so that anybody can load what was evaluated.

    python -m experiments.freeze --experiment=depo [--preset=cpu] [--split=test] [--count=1600]
        [--data_dir=frozen]

Writes ArrayRecord through tensorflow-datasets (sleep_jax/tasks/frozen.py), one split a depth of the
preset, and prints where. `--set=train.evaluation_data=DIRECTORY` makes a run evaluate on it.
"""

import importlib
import sys

from absl import flags

from experiments import binary, cli
from experiments.__main__ import SWEPT
from sleep_jax.errors import UserError
from sleep_jax.tasks.task import SPLITS

# The experiments, imported for their presets, have flags of the same names.
FLAGS = flags.FlagValues()
_EXPERIMENT = flags.DEFINE_string("experiment", "cellular_automata", "Whose.", flag_values=FLAGS)
_PRESET = flags.DEFINE_string("preset", "cpu", "Of which preset.", flag_values=FLAGS)
_SPLIT = flags.DEFINE_string("split", "test", f"One of {', '.join(SPLITS)}.", flag_values=FLAGS)
_COUNT = flags.DEFINE_integer("count", 1600, "Examples.", lower_bound=1, flag_values=FLAGS)
_DATA_DIR = flags.DEFINE_string("data_dir", "frozen", "Where they go.", flag_values=FLAGS)


def main() -> int:
    """Freezes and says where."""
    for flag, allowed in ((_EXPERIMENT, SWEPT), (_SPLIT, SPLITS)):
        if flag.value not in allowed:
            raise UserError(f"--{flag.name}={flag.value} is unknown; allowed: {', '.join(allowed)}")
    experiment = importlib.import_module(f"experiments.{_EXPERIMENT.value}").EXPERIMENT
    if _PRESET.value not in experiment.presets:
        allowed = ", ".join(experiment.presets)
        raise UserError(f"--preset={_PRESET.value} is unknown; allowed: {allowed}")
    preset = experiment.presets[_PRESET.value]()
    preset.set_environment()

    from sleep_jax.tasks import frozen
    from sleep_jax.training.evaluation import EVALUATION_SEED

    for depth in preset.depths:
        task = binary.at_depth(experiment, preset, depth).task
        directory = frozen.freeze(
            task, _SPLIT.value, _COUNT.value, EVALUATION_SEED, _DATA_DIR.value
        )
        print(directory)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, sys.argv, FLAGS))
