"""Runs that go on from finished ones: fine-tuned on a chain of another rule, for which recall pays.

What `EXP=qk_restore` and `EXP=recovery` share: flags and second cells (`Experiment.then`).
"""

import dataclasses
from pathlib import Path

from absl import flags

from experiments.cells import Cell
from sleep_jax.errors import UserError
from sleep_jax.tasks.recall import SKILLS, RecallConfig

RECALL, *CHAINS = SKILLS
_FACTOR = 3  # of the chains of fine-tuning, which before had 1
SHARE = flags.DEFINE_float(
    "fine_tuning_share", 0.2, "Of the tokens of training, those of fine-tuning.", lower_bound=0
)
RATE = flags.DEFINE_float(
    "fine_tuning_rate", 0.5, "Learning rates of fine-tuning, in those of training.", lower_bound=0
)


def on_chains(first: Cell, skill: str, directory: Path) -> Cell:
    """The run that begins with what `first` has learned, all its parameters free.

    Args:
      directory: of the sweep.

    Raises:
      UserError: there would be no tokens, or no rate.
    """
    for flag in (SHARE, RATE):
        if not 0 < flag.value:
            raise UserError(f"--{flag.name}={flag.value} is not possible; allowed: more than 0")
    config = first.config
    assert isinstance(config.task, RecallConfig)
    seed = config.train.seed
    name = first.name.replace(f"-s{seed}", "-s{seed}")
    rates = ("muon_learning_rate", "adamw_learning_rate")
    slower = {rate: RATE.value * getattr(config.optimizer, rate) for rate in rates}
    config = dataclasses.replace(
        config,
        task=dataclasses.replace(config.task, skills=(skill,), factor=_FACTOR),
        optimizer=dataclasses.replace(config.optimizer, **slower),
        train=dataclasses.replace(
            config.train,
            tokens=round(SHARE.value * config.train.tokens),
            warm_start=str(directory / "cells" / name),
        ),
    )
    return dataclasses.replace(first, config=config)
