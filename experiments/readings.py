"""What is measured on a trained model afterwards, and kept beside its row."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments.cells import Cell
from experiments.report import files

log = logging.getLogger("sleep_jax")


def write_missing(
    planned: Sequence[Cell], directory: Path, measure: Callable[[Cell, Path], dict[str, Any]]
) -> None:
    """Writes readings.json of every run that has none.

    Args:
      directory: of the sweep.
      measure: what it holds, of a cell and its run directory.
    """
    from sleep_jax import records

    for cell in planned:
        path = directory / "cells" / cell.name / files.READINGS
        if not path.exists():
            log.info("reading %s", cell.name)
            records.write_json(path, measure(cell, path.parent))
