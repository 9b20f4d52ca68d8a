"""Accuracy of a model on held-out sequences, at any N."""

import dataclasses

import numpy as np
from jax.sharding import Mesh

from sleep_jax import distributed
from sleep_jax.config import RunConfig
from sleep_jax.model.decoder import Parameters
from sleep_jax.tasks import rule110
from sleep_jax.training.step import Program, make_evaluation_step, means

# Evaluation sequences are the same for every run, whatever its seed.
EVALUATION_SEED = 20_260_527
_SPLITS = {"validation": rule110.VALIDATION, "test": rule110.TEST}
Sequences = dict[str, np.ndarray]


def evaluation_sequences(config: RunConfig, count: int) -> Sequences:
    """The first `count` sequences of the run's evaluation split."""
    split = _SPLITS[config.train.evaluation_split]
    return rule110.sample(config.task, EVALUATION_SEED, split, 0, count)


def evaluate(
    program: Program,
    mesh: Mesh,
    params: Parameters,
    sequences: Sequences,
    batch_size: int,
    passes: int | None = None,
) -> dict[str, float]:
    """`loss`, `label_accuracy`, `exact_accuracy` over all sequences, at the trained N or another.

    Args:
      sequences: arrays `[S, ...]`; a ragged last batch is filled with masked rows.
      passes: N at which the context is read; None is the N that was trained.
    """
    if passes is not None:
        program = dataclasses.replace(
            program, sleep=dataclasses.replace(program.sleep, passes=passes)
        )
    step = make_evaluation_step(program, mesh)
    count = len(sequences["mask"])
    totals: dict[str, float] = {}
    pending = [
        step(params, distributed.to_mesh(_rows(sequences, start, batch_size), mesh))
        for start in range(0, count, batch_size)
    ]
    for sums in pending:
        for name, value in sums.items():
            totals[name] = totals.get(name, 0.0) + float(value)
    filled = len(pending) * batch_size - count
    totals["exact"] -= filled  # a row without labels counts as exact
    totals["sequences"] -= filled
    return {name: float(value) for name, value in means(totals).items()}  # type: ignore[arg-type]


def _rows(sequences: Sequences, start: int, size: int) -> Sequences:
    rows = {name: array[start : start + size] for name, array in sequences.items()}
    missing = size - len(rows["mask"])
    if not missing:
        return rows
    return {
        name: np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)])
        for name, array in rows.items()
    }
