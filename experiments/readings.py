"""What is measured on a trained model afterwards, and kept beside its row."""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from experiments.cells import Cell
from experiments.report import files
from sleep_jax.config import RunConfig

log = logging.getLogger("sleep_jax")


def write_missing(
    planned: Sequence[Cell],
    directory: Path,
    measure: Callable[[Cell, Path], dict[str, Any]],
    how: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Writes readings.json of every run that has none and that no other launcher is at.

    Args:
      directory: of the sweep.
      measure: what it holds, of a cell and its run directory.
      how: what it holds beside that, the same for all; a file that says otherwise is written anew.
    """
    from sleep_jax import claims, records

    def is_read(path: Path) -> bool:
        if not path.exists():
            return False
        found = files.read_object(path) if how else {}
        return all(found.get(field) == value for field, value in how.items())

    for cell in planned:
        path = directory / "cells" / cell.name / files.READINGS
        if is_read(path):
            continue
        try:
            with claims.claimed(path.parent):
                if not is_read(path):
                    log.info("reading %s", cell.name)
                    records.write_json(path, {**how, **measure(cell, path.parent)})
        except claims.Held as error:
            log.info("%s is left to another launcher, %s", cell.name, error)


def state_bytes(config: RunConfig) -> int:
    """What one sequence has kept of its context in float32 when the questions come."""
    import jax

    from sleep_jax.model import decoder

    model = dataclasses.replace(config.model, activation_dtype="float32")
    length = config.task.context_windows * config.task.window

    def state() -> Any:
        fast = decoder.initial_fast_weights(model, 1)
        if config.sleep.cache != "keep":
            return fast
        cache = decoder.with_cache(model, fast, 1, span=length, kept=0, room=length)
        return [(block.keys, block.values) for block in cache.values()]

    sizes = (leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(jax.eval_shape(state)))
    return round(sum(sizes) * _share_kept(config, length))


def _share_kept(config: RunConfig, length: int) -> float:
    """Of a cache of `length` tokens: local units need those of their window before the next."""
    if not config.model.is_local:
        return 1.0
    local = min(config.model.attention.local.window - 1, length) / length
    return 1 - config.consa.share * (1 - local)
