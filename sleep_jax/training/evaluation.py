"""Accuracy of a model on held-out sequences, at any N and for each depth."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jax.sharding import Mesh

from sleep_jax import distributed, processes
from sleep_jax.config import RunConfig
from sleep_jax.model.config import require
from sleep_jax.model.decoder import Parameters
from sleep_jax.tasks import frozen
from sleep_jax.tasks.task import SPLITS, Batch
from sleep_jax.training.step import Program, make_evaluation_step, means

# Evaluation sequences are the same for every run, whatever its seed.
EVALUATION_SEED = 20_260_527


def evaluation_sequences(config: RunConfig, count: int) -> Batch:
    """The first `count` sequences of the run's evaluation split.

    Raises:
      UserError: `train.evaluation_data` is damaged, of another task or split, or too short.
    """
    split, directory = config.train.evaluation_split, config.train.evaluation_data
    if not directory:
        return config.task.sample(EVALUATION_SEED, SPLITS[split], 0, count)
    sequences = frozen.load(directory, config.task, split)
    found = len(sequences["mask"])
    require(found >= count, "train.evaluation_sequences", count, f"<= {found}, what is frozen")
    return {name: array[:count] for name, array in sequences.items()}


def evaluation_steps(steps: int, evaluations: int, by_factors: bool = False) -> set[int]:
    """Steps of a run after which it is evaluated, the last one among them.

    Args:
      by_factors: equal factors apart, from a hundredth of the run on, instead of evenly spaced.
    """
    if by_factors:
        return {steps, *(math.ceil(steps * x) for x in np.geomspace(0.01, 1, evaluations))}
    return {math.ceil(steps * (i + 1) / evaluations) for i in range(evaluations)}


def evaluate(
    program: Program,
    mesh: Mesh,
    params: Parameters,
    sequences: Batch,
    batch_size: int,
    passes: int | None = None,
    threshold: float | None = None,
) -> dict[str, Any]:
    """`loss`, `label_accuracy`, `exact_accuracy` over all sequences, at the trained N or another.

    Args:
      sequences: arrays `[S, ...]`; a ragged last batch is filled with masked rows.
      passes: N at which the context is read; None is the N that was trained.
      threshold: where sleep halts (`sleep.sleep_until`); None: never.

    Returns:
      The three numbers. Where all sequences are scored at all positions of the prediction window,
      `label_accuracy_by_position`, the share of right labels at each, from "1" on. Where answers
      differ in depth, the three for each of them under `by_depth`, with the number of `answers`.
      With a `threshold`, `mean_passes` over windows.
    """
    program = program.at(passes or program.sleep.passes)
    step = make_evaluation_step(program, mesh, threshold)
    count = len(sequences["mask"])
    batches = in_batches(sequences, batch_size, mesh)
    step = processes.compiled(step, params, batches[0])
    pending = [step(params, batch) for batch in batches]
    sums = {
        name: np.concatenate([np.asarray(batch[name], np.float64) for batch in pending])[:count]
        for name in pending[0]
    }
    taken, hits = sums.pop("passes", None), sums.pop("hits")
    values: dict[str, Any] = _floats(sums)
    if sequences["mask"].all():
        by_position = hits.reshape(count, -1).mean(axis=0)
        values["label_accuracy_by_position"] = {
            str(position): float(share) for position, share in enumerate(by_position, start=1)
        }
    if taken is not None:
        values["mean_passes"] = float(taken.mean())
    scored = sums["labels"] > 0
    depths = np.unique(sequences["depth"][scored])
    if len(depths) > 1:
        values["by_depth"] = {}
        for depth in depths:
            chosen = scored & (sequences["depth"] == depth)
            part = {name: array[chosen] for name, array in sums.items()}
            values["by_depth"][str(depth)] = {**_floats(part), "answers": int(chosen.sum())}
    return values


def in_batches(sequences: Batch, size: int, mesh: Mesh) -> list[dict[str, Any]]:
    """Sequences `[S, ...]` on the mesh, `size` at a time, a ragged last batch as in `evaluate`."""
    starts = range(0, len(sequences["mask"]), size)
    return [distributed.whole_to_mesh(_rows(sequences, start, size), mesh) for start in starts]


def exact_at_greatest_depth(values: Mapping[str, Any]) -> float:
    """Of what `evaluate` returned: the exact accuracy at the greatest depth if it is split up."""
    depths = values.get("by_depth")
    return (depths[max(depths, key=int)] if depths else values)["exact_accuracy"]


def _floats(sums: dict[str, np.ndarray]) -> dict[str, float]:
    return {name: float(value) for name, value in means(sums).items()}  # type: ignore[arg-type]


def _rows(sequences: Batch, start: int, size: int) -> Batch:
    rows = {name: array[start : start + size] for name, array in sequences.items()}
    missing = size - len(rows["mask"])
    if not missing:
        return rows
    return {
        name: np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)])
        for name, array in rows.items()
    }
