"""What the comparisons of latents with fast weights share: the flag, and the runs they add.

Two ways to keep of a window what will be asked for when its own cache is gone: N passes of blocks
that write into fast weights of a fixed size (arXiv 2605.26099), or an encoder that makes of every n
of its tokens one latent, which a transformer reads in their place and whose keys and values stay
(LCLM, arXiv 2606.09659). Fast weights hold all windows in one matrix; latents have a place each.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from absl import flags

from experiments import cells, cli, until_learned
from experiments.binary import Experiment
from experiments.cells import Cell
from experiments.presets import Preset
from sleep_jax.config import RunConfig
from sleep_jax.flops import training_flops

_RATIOS = flags.DEFINE_list(
    "ratios",
    None,
    "n, tokens that a latent stands for, comma-separated; default: the whole window. Empty for no "
    "latents.",
)

# Muon's, where --set gives none for all. Of latents on Rule 110 (validation split, one seed,
# results/NOTES_lclm.md) the best of three with one block each, with two 1e-2 was the better; on
# Depo it was not chosen.
RATE = 5e-3


def comparison(base: Experiment, name: str, presets: Any) -> Experiment:
    """The experiment that puts latents beside the passes of `base`, whose runs end when learned."""
    swept = dict.fromkeys(("model.latents.ratio", "model.latents.blocks"), _RATIOS.name)
    return dataclasses.replace(base, name=name, presets=presets, swept=swept, planned=_planned)


def _planned(at: Mapping[int, RunConfig], preset: Preset) -> list[Cell]:
    """The cells of `until_learned`, and for each depth and n latents that may spend as much.

    Encoder and decoder have half of the hybrid's blocks each, so as many parameters as it has.
    Beside them the transformer that keeps its whole cache, at the headline depth.
    """
    own = RATE if preset.matched_rates else None
    found = until_learned.planned(at, preset)
    for depth, seeds in preset.depths.items():
        base = cells.at_rate(at[depth], own)
        dear = cells.hybrid(base, max(preset.passes), 0).config
        added = [cells.lclm(base, n, s) for n in _ratios(base.task.window) for s in seeds]
        if depth == next(iter(preset.depths)):
            added += [cells.transformer(base, "keep", s) for s in preset.full_cache_seeds]
        found += [_with_the_flops_of(dear, cell) for cell in added]
    return found


def _ratios(window: int) -> tuple[int, ...]:
    if _RATIOS.value is not None:
        return cli.parse_numbers(_RATIOS.name, _RATIOS.value, 1, "whole numbers n")
    return (window,)


def _with_the_flops_of(dear: RunConfig, cell: Cell) -> Cell:
    """The cell with the FLOPs and the steps of warm-up of another run."""
    config = cells.with_flops(cell.config, training_flops(dear))
    config = until_learned.warming_up(config, dear.optimizer.warmup_fraction * dear.steps)
    return Cell(cell.model, cells.EQUAL_FLOPS[cells.TOKENS], config)
