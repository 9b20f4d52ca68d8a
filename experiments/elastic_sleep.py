"""Is one model good at every N, can it stop by itself, and how far back must gradients go?

    python -m experiments.elastic_sleep --preset=cpu [--passes=1,4] [--drawn_passes=1,2,4,8]
        [--backward_passes=1,2] [--rollout_steps=2] [--seeds=0,1,2] [--workdir=DIR] [--dry_run]

Rule 110 as in experiments/cellular_automata.py. Trained beside each other, on equal tokens: one N
throughout; N drawn anew for every batch; the largest N with the gradient cut after the last k
passes. Every one is then read at many N, beyond those it was trained with, and with a rule that
stops sleeping on a window once a pass changes its fast weights little (`sleep.sleep_until`).
"""

import dataclasses
import sys

from absl import flags

from experiments import binary, cells, cli, presets
from experiments.cells import Cell
from experiments.presets import Preset
from sleep_jax.config import CurriculumConfig, RunConfig
from sleep_jax.errors import UserError

_ROLLOUT_STEPS = flags.DEFINE_list(
    "rollout_steps", None, "t, comma-separated; the first one is the headline."
)
_DRAWN = flags.DEFINE_list(
    "drawn_passes", ["1", "2", "4", "8"], "N to draw from for every batch; empty: no such run."
)
_BACKWARD = flags.DEFINE_list(
    "backward_passes",
    None,
    "k, passes that the gradient goes through, one run each; 1 and 2 unless N is no greater.",
)
_BACKWARD_USUALLY = (1, 2)


def _read_at(
    preset: Preset, passes: tuple[int, ...], thresholds: tuple[float, ...], sequences: int
) -> Preset:
    read = presets.extremes(
        preset,
        evaluate_passes=passes,
        halting_thresholds=thresholds,
        evaluation_sequences=sequences,
    )
    return dataclasses.replace(read, depths=dict([*preset.depths.items()][:1]), match=())


def cpu() -> Preset:
    """`make experiment EXP=elastic_sleep`: the model and budget of cellular_automata's cpu preset.

    Half as many sequences are read as there: at so many N that costs as much as training. 6.2
    minutes on two cores of an AMD EPYC (Genoa). Expected: experiments/results/elastic_sleep/cpu.
    """
    return _read_at(presets.cpu(), (1, 2, 4, 8, 16), (0.4, 0.2, 0.1), 512)


def smoke() -> Preset:
    """Every part of the real thing, too short to learn. Used by the tests."""
    small = _read_at(presets.smoke(), (1, 3), (0.5,), 64)
    return dataclasses.replace(small, depths={1: (0,)})


def h100() -> Preset:
    """One GPU: the model and budget of cellular_automata's h100 preset. Not measured yet."""
    return _read_at(presets.h100(), (1, 2, 3, 4, 6, 8, 12, 16), (0.8, 0.4, 0.2, 0.1, 0.05), 1024)


def more(config: RunConfig, preset: Preset) -> list[Cell]:
    """The runs that are not one N throughout.

    Raises:
      UserError: --drawn_passes or --backward_passes is impossible.
    """
    most = max(preset.passes)
    if _BACKWARD.value is None:
        backward = tuple(k for k in _BACKWARD_USUALLY if k < most)
    else:
        backward = cli.parse_numbers("backward_passes", _BACKWARD.value, 1, "whole numbers k")
    drawn = cli.parse_numbers("drawn_passes", _DRAWN.value, 1, "whole numbers N")
    if any(k >= most for k in backward):
        raise UserError(
            f"--backward_passes={','.join(map(str, backward))} is not possible; allowed: less than "
            f"the largest N of --passes, {most}"
        )
    changed = []
    if drawn:
        curriculum = CurriculumConfig(drawn_passes=drawn)
        changed.append(dataclasses.replace(config, curriculum=curriculum))
    for k in backward:
        sleep = dataclasses.replace(config.sleep, backward_passes=k)
        changed.append(dataclasses.replace(config, sleep=sleep))
    seeds = next(iter(preset.depths.values()))
    return [cells.hybrid(one, most, seed) for one in changed for seed in seeds]


EXPERIMENT = binary.Experiment(
    name="elastic_sleep",
    presets={"cpu": cpu, "smoke": smoke, "h100": h100},
    depth_flag=_ROLLOUT_STEPS,
    lowest_depth=0,
    about=lambda task: {},
    more=more,
)


def main() -> int:
    """Plans, runs and reports."""
    return binary.main(EXPERIMENT)


if __name__ == "__main__":
    sys.exit(cli.run(main, sys.argv))
