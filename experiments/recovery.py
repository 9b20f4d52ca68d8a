"""In how few directions does lost recall come back, and do they stand still?

    python -m experiments.recovery --preset=cpu [--pairs=16] [--passes=1,2] [--recovery_steps=300]
        [--fine_tuning_share=0.2] [--fine_tuning_rate=0.5] [--seeds=0,1] [--workdir=DIR] [--dry_run]

*Recoverable but Not Stationary* (arXiv 2606.10929) at the size of a laptop, where it matters to
sleep: hybrids that keep no cache but fast weights, and a transformer that keeps its cache, learn to
recall pairs and to add up chains (sleep_jax/tasks/recall.py), then go on with chains of another
rule alone, and forget how to recall. Recall is learned again, with all weights, and with nothing
but k directions that were found before, on the way, or by lot. experiments/planes.py says which.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from experiments import binary, cli, recall_pairs
from experiments.cells import Cell
from experiments.fine_tuned import CHAINS, RECALL, on_chains
from experiments.presets import Preset
from experiments.readings import write_missing
from experiments.recall_pairs import PAIRS

_CHAIN = CHAINS[0]
_STEPS = flags.DEFINE_integer(
    "recovery_steps", 300, "T, updates in which recall is learned again.", lower_bound=31
)


def cpu() -> Preset:
    """`make experiment EXP=recovery`: 16 pairs, 64 tokens, two blocks, one pass, one seed.

    The model of `EXP=dash_attention` and `consa`, twice the tokens, as there are two skills. The
    rates of training are those of its first try; those of recovery, see Measuring, as well
    (validation split, one seed). Expected, with `--passes=1,2`: experiments/results/recovery/cpu.
    """
    preset = recall_pairs.cpu()
    train = dataclasses.replace(preset.config.train, tokens=6_400_000)
    config = dataclasses.replace(preset.config, train=train)
    return _two_skills(dataclasses.replace(preset, config=config))


def smoke() -> Preset:
    """Every part of the real thing, too short to learn. Used by the tests."""
    return _two_skills(recall_pairs.smoke(cpu()))


def _two_skills(preset: Preset) -> Preset:
    """Recall and chains, by one pass, for every seed beside a transformer that keeps its cache.

    Models that are damaged and recover are compared with themselves, so FLOPs are not matched.
    """
    task = dataclasses.replace(preset.config.task, skills=(RECALL, _CHAIN))
    return dataclasses.replace(
        preset,
        config=dataclasses.replace(preset.config, task=task),
        passes=(1,),
        match=(),
        full_cache_seeds=next(iter(preset.depths.values())),
    )


def _fine_tuned(first: Sequence[Cell], directory: Path) -> list[Cell]:
    return [on_chains(cell, _CHAIN, directory) for cell in first]


def _read(planned: Sequence[Cell], directory: Path) -> None:
    """Writes readings.json of every fine-tuned run that has none of as many updates."""
    from experiments import planes
    from sleep_jax import trained

    measuring = planes.Measuring(steps=_STEPS.value)

    def measured(cell: Cell, run: Path) -> dict[str, Any]:
        begun = cell.config.train.warm_start_of_seed
        if not begun:
            return {"recoveries": []}
        both = trained.load(begun), trained.load(run)
        return {"recoveries": planes.measured(*both, measuring)}

    write_missing(planned, directory, measured, {"measuring": dataclasses.asdict(measuring)})


EXPERIMENT = binary.Experiment(
    name="recovery",
    presets={"cpu": cpu, "smoke": smoke},
    depth_flag=PAIRS,
    lowest_depth=4,
    about=lambda task: {},
    adapt=recall_pairs.every_pair_once,
    then=_fine_tuned,
    read=_read,
)


def main() -> int:
    """Plans, runs, reads and reports."""
    return binary.main(EXPERIMENT)


if __name__ == "__main__":
    sys.exit(cli.run(main, sys.argv))
