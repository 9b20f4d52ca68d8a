"""Transformers by name beside hybrids by N: what experiments on a kept cache plan alike."""

from collections.abc import Callable, Iterable, Mapping

from absl import flags

from experiments import cells, cli
from experiments.cells import Cell
from experiments.presets import Preset
from sleep_jax.config import RunConfig

ARMS = flags.DEFINE_list(
    "arms",
    None,
    "The experiment's transformers, by name; empty for none, an unknown one lists them.",
)
FULL = "full"


def planned(
    at: Mapping[int, RunConfig],
    preset: Preset,
    known: Iterable[str],
    transformer: Callable[[RunConfig, str, int], Cell],
) -> list[Cell]:
    """Transformers by arm, hybrids by N, and smaller N with the FLOPs of the largest.

    Args:
      known: all arms beside `FULL`, which reads all of its cache.
      transformer: of one of them, from the configuration, its name and a seed.

    Raises:
      UserError: an arm that is asked for is unknown, or named twice.
    """
    arms: tuple[str, ...] = (FULL, *known)
    if ARMS.value is not None:
        arms = cli.parse_names(ARMS.name, ARMS.value, arms) if ARMS.value else ()
    found = []
    for pairs, seeds in preset.depths.items():
        base = at[pairs]
        for arm in arms:
            make = transformer if arm != FULL else _reading_all
            found += [make(base, arm, seed) for seed in seeds]
        found += [cells.hybrid(base, passes, seed) for passes in preset.passes for seed in seeds]
        found += cells.all_matched(base, preset.passes, preset.match, seeds, preset.matched_rates)
    return found


def _reading_all(base: RunConfig, arm: str, seed: int) -> Cell:
    return cells.transformer(base, "keep", seed)
