"""What a run trains on and is evaluated on: of its task, or of the rung of its ladder."""

import dataclasses
from typing import Any

import numpy as np
from jax.sharding import Mesh

from sleep_jax import distributed
from sleep_jax.config import RunConfig
from sleep_jax.curriculum import sampler
from sleep_jax.tasks.pipeline import BatchSource, make_iterator
from sleep_jax.tasks.task import Batch, Task
from sleep_jax.training.evaluation import evaluation_sequences


class Examples:
    """Training batches in order, evaluation sequences, and their floor.

    Attributes:
      batches: an iterator; its position is counted in batches of the run, whatever their task.
      sequences: arrays `[S, ...]`.
      floor: of the sequences, as the task has it.
    """

    def __init__(
        self, config: RunConfig, mesh: Mesh, task: Task, position: dict[str, Any] | None = None
    ):
        """Begins at a position that `batches.get_state` gave, or with the run's first batch."""
        self._config, self._mesh = config, mesh
        self._set(task, position)

    def change(self, task: Task) -> None:
        """Goes on with another task at the same position."""
        self._set(task, self.batches.get_state())

    def _set(self, task: Task, position: dict[str, Any] | None) -> None:
        config = self._config
        part, parts = distributed.batch_part(self._mesh)
        self.batches = make_iterator(
            BatchSource(
                sampler(config, task),
                global_batch_size=config.train.batch_size,
                num_batches=config.steps,
                process_index=part,
                process_count=parts,
            )
        )
        if position is not None:
            self.batches.set_state(position)
        at = dataclasses.replace(config, task=task)
        self.sequences: Batch = evaluation_sequences(at, config.train.evaluation_sequences)
        self.floor = task.floor(self.sequences)

    def first_sequences(self, count: int) -> dict[str, np.ndarray]:
        """Of the evaluation sequences."""
        return {name: array[:count] for name, array in self.sequences.items()}
