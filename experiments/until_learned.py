"""What experiments share whose runs end when a depth is learned, not with a budget.

A run ends at the first evaluation with `train.target_accuracy` at its greatest depth, and what it
took until then is the result. So no budget has to be guessed, at which one seed has learned and
another has not. All N may spend the same FLOPs at most, those of the largest N on `train.tokens`,
and are evaluated at the same shares of them. All warm up for as many steps as the largest N; after
that the rate is constant, so that no N stands nearer to the end of a schedule.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from experiments import cells
from experiments.cells import Cell
from experiments.presets import Preset
from sleep_jax.config import RunConfig

# How closely the cpu presets watch for the target.
WATCHED: dict[str, Any] = {
    "target_accuracy": 0.9,
    "evaluations": 64,
    "evaluation_sequences": 512,
}


def to_learn(preset: Preset, depths: dict[int, tuple[int, ...]], **train: Any) -> Preset:
    """The preset with a target, a constant rate, and the same seeds for every way to spend.

    Args:
      train: fields of TrainConfig, `target_accuracy` among them.
    """
    config = dataclasses.replace(
        preset.config,
        optimizer=dataclasses.replace(
            preset.config.optimizer, warmup_fraction=0.02, decay_fraction=0.0
        ),
        train=dataclasses.replace(preset.config.train, **train),
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


def at_rate(preset: Preset, muon_learning_rate: float) -> Preset:
    """The preset with one rate for all N."""
    config = cells.at_rate(preset.config, muon_learning_rate)
    return dataclasses.replace(preset, config=config, matched_rates={})


def warmed_up(preset: Preset, steps: int) -> Preset:
    """The preset with so many steps of warm-up, for every N."""
    return dataclasses.replace(preset, config=warming_up(preset.config, steps))


def twice_the_blocks(preset: Preset) -> Preset:
    """The preset with its pattern of blocks repeated."""
    model = cells.deeper(preset.config.model, 2)
    return dataclasses.replace(preset, config=dataclasses.replace(preset.config, model=model))


def planned(at: Mapping[int, RunConfig], preset: Preset) -> list[Cell]:
    """At every depth the largest N, and all that may spend its FLOPs."""
    found: list[Cell] = []
    for depth, seeds in preset.depths.items():
        config, most = at[depth], max(preset.passes)
        tuned = cells.at_rate(config, preset.matched_rates.get(most))
        found += [cells.hybrid(tuned, most, seed) for seed in seeds]
        spenders = cells.all_matched(
            config, preset.passes, preset.match, seeds, preset.matched_rates
        )
        warmup = config.optimizer.warmup_fraction * config.steps
        found += [
            dataclasses.replace(cell, config=warming_up(cell.config, warmup)) for cell in spenders
        ]
    return found


def warming_up(config: RunConfig, steps: float) -> RunConfig:
    """The run with so many steps of warm-up."""
    optimizer = dataclasses.replace(config.optimizer, warmup_fraction=steps / config.steps)
    return dataclasses.replace(config, optimizer=optimizer)
