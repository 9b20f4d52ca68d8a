"""A trained model, read back from its run directory: to score it again, or to stream with it.

    run = trained.load("runs/cellular_automata/cpu/cells/hybrid-N4-t2-W12-s0")
    session = run.session()  # sleeps whenever its window is full
    logits = session.feed(tokens)

The run directory is only read, so one that is still in training can be looked at as well.
"""

import dataclasses
import os
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from sleep_jax import distributed
from sleep_jax.config import RunConfig
from sleep_jax.model.decoder import Parameters
from sleep_jax.saved_config import read_config
from sleep_jax.session import Session
from sleep_jax.tasks.task import Batch
from sleep_jax.training import checkpoint
from sleep_jax.training.evaluation import evaluate
from sleep_jax.training.step import Program, placed_state


@dataclasses.dataclass(frozen=True)
class Trained:
    """The newest checkpoint of a run, without its optimizer.

    Attributes:
      config: as the run was started.
      program: model and sleep loop, `activation_dtype` resolved for the device.
      step: optimizer updates done.
      params: master weights, float32, on one device.
      mesh: of that device.
    """

    config: RunConfig
    program: Program
    step: int
    params: Parameters
    mesh: Mesh

    def session(self, batch: int = 1, passes: int | None = None) -> Session:
        """A stream of B sequences, asleep at the trained N or another.

        Raises:
          UserError: the model keeps its cache, so it never sleeps, or N is not possible.
        """
        program = self.program if passes is None else self.program.at(passes)
        return Session(program.model, self.params, program.sleep, self.config.task.window, batch)

    def evaluate(
        self, sequences: Batch, passes: int | None = None, batch_size: int | None = None
    ) -> dict[str, Any]:
        """What `training.evaluation.evaluate` returns for these sequences of the task.

        Args:
          batch_size: sequences at a time; None is as many as in training.
        """
        size = batch_size or self.config.train.batch_size
        return evaluate(self.program, self.mesh, self.params, sequences, size, passes)


def load(directory: str | os.PathLike[str], device: Any = None) -> Trained:
    """Reads a run directory, `.../cells/NAME`; changes nothing there.

    Args:
      device: of JAX; None is the first one. The run may have been on any mesh.

    Raises:
      UserError: it is no run directory, or no checkpoint of it can be read.
    """
    config = read_config(directory)
    device = jax.devices()[0] if device is None else device
    mesh = distributed.make_mesh(devices=[device])
    program = Program.of(config, device.platform)
    placed = placed_state(program, mesh)
    step, state = checkpoint.newest(Path(directory) / "checkpoints", placed)
    return Trained(config, program, step, state.params, mesh)
