"""How much computation does each N need to learn a depth, and how fast does that grow with depth?

    python -m experiments.cost_of_depth --preset=cpu [--passes=1,2,4] [--rollout_steps=2,1,3]
        [--seeds=0,1,2] [--match=tokens,blocks] [--workdir=DIR] [--dry_run]

Rule 110 as in experiments/cellular_automata.py, but no run is trained to the end of a budget. It
ends at the first evaluation with `train.target_accuracy`, and what it took until then is the
result. So no budget has to be guessed, at which one seed has learned and another has not, and how
the need of N = 1 grows with depth says whether it is about to stop. All N may spend the same FLOPs
at most, those of the largest N on `train.tokens`, and are evaluated at the same shares of them. All
warm up for as many steps as the largest N; after that the rate is constant, so that no N stands
nearer to the end of a schedule.
"""

import dataclasses
import sys
from collections.abc import Mapping

from absl import flags

from experiments import binary, cells, cli, presets
from experiments.cells import Cell
from experiments.presets import Preset
from sleep_jax.config import RunConfig

_ROLLOUT_STEPS = flags.DEFINE_list(
    "rollout_steps", None, "t, comma-separated; the first one is the headline."
)


# How closely the cpu presets watch for the target.
_WATCHED = {"target_accuracy": 0.9, "evaluations": 64, "evaluation_sequences": 512}


def _to_learn(preset: Preset, depths: dict[int, tuple[int, ...]], **train: object) -> Preset:
    """The preset with a target, a constant rate, and the same seeds for every way to spend."""
    config = dataclasses.replace(
        preset.config,
        optimizer=dataclasses.replace(
            preset.config.optimizer, warmup_fraction=0.02, decay_fraction=0.0
        ),
        train=dataclasses.replace(preset.config.train, **train),  # type: ignore[arg-type]
    )
    return dataclasses.replace(
        preset,
        config=config,
        depths=depths,
        match=("tokens",),
        matched_seeds=(),
        evicted_seeds=(),
        full_cache_seeds=(),
    )


def cpu() -> Preset:
    """`make experiment EXP=cost_of_depth`: the model of cellular_automata's cpu preset.

    6.7 minutes on two cores of an AMD EPYC (Genoa); `--rollout_steps=3` is eight more a
    seed. Expected: experiments/results/cost_of_depth/cpu.
    """
    return _to_learn(
        presets.cpu(),
        {2: (0, 1, 2), 1: (0, 1, 2)},
        tokens=6_000_000,
        **_WATCHED,
    )


def four_blocks() -> Preset:
    """The paper's four blocks: where one pass is as deep as two of the cpu preset's.

    `make experiment EXP=cost_of_depth PRESET=four_blocks`: 63 minutes on two cores of an AMD
    EPYC (Genoa), and six more with `ARGS=--rollout_steps=1`. Seeds 0 and 1 were looked at when
    the rates were chosen, so they are not among these. Expected:
    experiments/results/cost_of_depth/four_blocks.
    """
    preset = presets.cpu()
    model = dataclasses.replace(preset.config.model, pattern=preset.config.model.pattern * 2)
    # On the validation split at t = 3, two seeds, the best of four rates for every N.
    optimizer = dataclasses.replace(preset.config.optimizer, muon_learning_rate=5e-3)
    config = dataclasses.replace(preset.config, model=model, optimizer=optimizer)
    seeds = (10, 11, 12, 13, 14)
    return _to_learn(
        dataclasses.replace(preset, config=config, matched_rates={}),
        {3: seeds, 2: seeds, 4: seeds},
        tokens=3_000_000,
        **_WATCHED,
    )


def smoke() -> Preset:
    """Every part of the real thing, too short to learn. Used by the tests."""
    return _to_learn(presets.smoke(), {1: (0, 1)}, target_accuracy=0.9)


def planned(at: Mapping[int, RunConfig], preset: Preset) -> list[Cell]:
    """At every depth the largest N, and all that may spend its FLOPs."""
    found: list[Cell] = []
    for depth, seeds in preset.depths.items():
        config = at[depth]
        found += [cells.hybrid(config, max(preset.passes), seed) for seed in seeds]
        spenders = cells.all_matched(
            config, preset.passes, preset.match, seeds, preset.matched_rates
        )
        warmup = config.optimizer.warmup_fraction * config.steps
        found += [_warmed_up(cell, warmup) for cell in spenders]
    return found


def _warmed_up(cell: Cell, steps: float) -> Cell:
    config = cell.config
    optimizer = dataclasses.replace(config.optimizer, warmup_fraction=steps / config.steps)
    return dataclasses.replace(cell, config=dataclasses.replace(config, optimizer=optimizer))


EXPERIMENT = binary.Experiment(
    name="cost_of_depth",
    presets={"cpu": cpu, "four_blocks": four_blocks, "smoke": smoke},
    depth_flag=_ROLLOUT_STEPS,
    lowest_depth=0,
    about=lambda task: {},
    planned=planned,
)


def main() -> int:
    """Plans, runs and reports."""
    return binary.main(EXPERIMENT)


if __name__ == "__main__":
    sys.exit(cli.run(main, sys.argv))
