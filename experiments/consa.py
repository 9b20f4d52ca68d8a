"""How many heads need the whole cache, and does learning say which?

    python -m experiments.consa --preset=cpu [--pairs=16] [--window=4] [--passes=1,2]
        [--arms=full,late,top] [--seeds=0,1] [--workdir=DIR] [--dry_run]

ConSA (arXiv 2606.18056) at the size of a laptop, beside sleep: recall of pairs
(sleep_jax/tasks/recall.py) by a transformer that keeps its whole cache, by the same one of which
some heads or layers read a sliding window alone, chosen by L0 regularisation or by a rule, and by
hybrids that keep no cache but fast weights. All learn from scratch, on the same tokens.
"""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from experiments import arms, binary, cells, cli, recall_pairs
from experiments.cells import Cell
from experiments.presets import Preset
from experiments.readings import state_bytes, write_missing
from experiments.recall_pairs import PAIRS
from sleep_jax.config import RunConfig
from sleep_jax.model.config import LocalConfig
from sleep_jax.stage_config import ConsaConfig

# Learned late: once two blocks have learned to use the whole cache (.54 of these tokens at most).
_LATE = {"by": "learned", "begin": 0.6, "end": 0.75}
_EARLY = {"by": "learned", "begin": 0.0, "end": 0.15}
# Unit, and what is chosen how; three of four units local, or in the arms of half, two.
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "local": ("head", {"by": "bottom", "share": 1.0, "end": 0.0}),
    "late": ("head", {"share": 0.75, **_LATE}),
    "early": ("head", {"share": 0.75, **_EARLY}),
    "long": ("head", {"share": 0.75, "by": "learned", "begin": 0.0, "end": 0.75}),
    "ranked": ("head", {"share": 0.75, "by": "ranked", "end": 0.75}),
    "random": ("head", {"share": 0.75, "by": "random", "end": 0.0}),
    "top": ("head", {"share": 0.75, "by": "top", "end": 0.0}),
    "middle": ("head", {"share": 0.75, "by": "middle", "end": 0.0}),
    "bottom": ("head", {"share": 0.75, "by": "bottom", "end": 0.0}),
    "half_late": ("head", {**_LATE}),
    "half_each": ("head", {"budget": "each", **_LATE}),
    "half_layer": ("layer", {**_LATE}),
    "half_even": ("head", {"budget": "each", "by": "bottom", "end": 0.0}),
    "half_top": ("head", {"by": "top", "end": 0.0}),
    "half_bottom": ("head", {"by": "bottom", "end": 0.0}),
}
_WINDOW = flags.DEFINE_integer("window", 4, "w, tokens that a local unit reads.", lower_bound=1)


def cpu() -> Preset:
    """`make experiment EXP=consa`: 16 pairs, 64 tokens, four heads in two blocks.

    The model, the task and the tokens of `EXP=dash_attention`. One seed: 7.7 minutes on two cores
    of an Intel Xeon (Emerald Rapids), with the installation. Expected:
    experiments/results/consa/cpu.
    """
    return recall_pairs.cpu()


def deep() -> Preset:
    """Four blocks, eight heads, so that there is a middle.

    `make experiment EXP=consa PRESET=deep`; a run takes a minute or three on one core. Expected:
    experiments/results/consa/deep.
    """
    preset = cpu()
    model = cells.deeper(preset.config.model, 2)
    return dataclasses.replace(preset, config=dataclasses.replace(preset.config, model=model))


def smoke() -> Preset:
    """Every part of the real thing, too short to learn. Used by the tests."""
    preset = recall_pairs.smoke(cpu())
    model = preset.config.model
    attention = dataclasses.replace(model.attention, heads=2, kv_heads=2)  # four units, as above
    model = dataclasses.replace(model, attention=attention)
    return dataclasses.replace(preset, config=dataclasses.replace(preset.config, model=model))


def _planned(at: Mapping[int, RunConfig], preset: Preset) -> list[Cell]:
    return arms.planned(at, preset, ARMS, _transformer)


def _transformer(base: RunConfig, arm: str, seed: int) -> Cell:
    unit, choice = ARMS[arm]
    consa: ConsaConfig = dataclasses.replace(base.consa, **choice)
    at = dataclasses.replace(base, consa=consa)
    return cells.attending(at, seed, local=LocalConfig(_WINDOW.value, unit))


def _read(planned: Sequence[Cell], directory: Path) -> None:
    """Writes readings.json of every run that has none."""

    def kept(cell: Cell, run: Path) -> dict[str, Any]:
        return {"state_bytes": state_bytes(cell.config)}

    write_missing(planned, directory, kept)


EXPERIMENT = binary.Experiment(
    name="consa",
    presets={"cpu": cpu, "deep": deep, "smoke": smoke},
    depth_flag=PAIRS,
    lowest_depth=4,
    about=lambda task: {},
    adapt=recall_pairs.every_pair_once,
    swept={
        "model.attention.local.window": _WINDOW.name,
        "model.attention.local.unit": arms.ARMS.name,
        **{f"consa.{field}": arms.ARMS.name for field in ("by", "share", "budget", "begin", "end")},
    },
    planned=_planned,
    read=_read,
)


def main() -> int:
    """Plans, runs, reads and reports."""
    return binary.main(EXPERIMENT)


if __name__ == "__main__":
    sys.exit(cli.run(main, sys.argv))
