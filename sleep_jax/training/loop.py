"""The host loop of one run: restore, step, evaluate, save, and write the row at the end."""

import functools
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from sleep_jax import distributed, processes, records
from sleep_jax.config import RunConfig
from sleep_jax.curriculum import passes_by_step, sampler
from sleep_jax.flops import training_flops_by_step
from sleep_jax.tasks.pipeline import BatchSource, make_iterator
from sleep_jax.training.checkpoint import Checkpoints
from sleep_jax.training.evaluation import evaluate, evaluation_sequences
from sleep_jax.training.optimizer import label, path_name, schedule
from sleep_jax.training.step import (
    Program,
    TrainState,
    init_state,
    make_init,
    make_train_step,
    state_shardings,
)

log = logging.getLogger("sleep_jax")


class NonFiniteLoss(Exception):
    """Training diverged; the last good checkpoint is kept."""


class Interrupted(Exception):
    """The run was asked to stop and has saved its state."""


def train(
    config: RunConfig,
    directory: Path,
    mesh: Mesh,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Trains to the end of the budget, from the newest checkpoint if there is one.

    Args:
      config: validated.
      directory: the run directory; holds checkpoints, metrics and parameters.json afterwards.
      should_stop: asked before every step; True saves and raises Interrupted.

    Returns:
      What was measured: accuracies, floors, curve, tokens, FLOPs, seconds.

    Raises:
      NonFiniteLoss: loss or gradient is not finite; names the step and the checkpoint kept.
      Interrupted: `should_stop` said so.
    """
    run = _Run(config, directory, mesh)
    try:
        run.to_the_end(should_stop)
        return run.result()
    finally:
        run.close()


class _Run:
    """One run in progress."""

    def __init__(self, config: RunConfig, directory: Path, mesh: Mesh):
        self.config, self.directory, self.mesh = config, directory, mesh
        train = config.train
        distributed.require_batch_divides(mesh, train.batch_size, train.accumulate)
        self.program = Program.of(config, mesh.devices.flat[0].platform)
        self.passes = passes_by_step(config)
        self.steps_at: dict[int, jax.stages.Compiled] = {}  # by N
        self.rate = schedule(config.optimizer, config.steps)
        self.sequences = evaluation_sequences(config, config.train.evaluation_sequences)
        self.floor = config.task.floor(self.sequences)
        self.flops = np.cumsum(training_flops_by_step(config))

        self.checkpoints = Checkpoints(
            directory / "checkpoints", train.checkpoint_every, train.keep_checkpoints
        )
        part, parts = distributed.batch_part(mesh)
        self.batches = make_iterator(
            BatchSource(
                sampler(config),
                global_batch_size=train.batch_size,
                num_batches=config.steps,
                process_index=part,
                process_count=parts,
            )
        )
        self.state, self.step, self.seconds, self.compile_seconds = self._start()
        self.metrics = records.Metrics(directory, self.step, writes=processes.is_first())
        if processes.is_first():
            records.write_json(directory / "parameters.json", self._parameter_table())
        self.pending: tuple[int, dict[str, jax.Array]] | None = None
        self.clock = time.perf_counter()
        self.logged = (self.step, self.clock)

    def _start(self) -> tuple[TrainState, int, float, float]:
        shardings = state_shardings(self.program, self.mesh)
        shapes = jax.eval_shape(functools.partial(init_state, self.program), 0)
        abstract = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
        )
        restored = self.checkpoints.restore(abstract)
        if restored is None:
            seed = self.config.train.seed
            return make_init(self.program, self.mesh)(seed), 0, 0.0, 0.0
        step, state, progress = restored
        self.batches.set_state(progress["data"])
        log.info("resuming at step %d of %d", step, self.config.steps)
        return state, step, progress["seconds"], progress["compile_seconds"]

    def _parameter_table(self) -> list[dict[str, Any]]:
        leaves = jax.tree_util.tree_flatten_with_path(self.state.params)[0]
        return [
            {
                "path": path_name(path),
                "shape": list(leaf.shape),
                "sharding": str(leaf.sharding.spec),
                "optimizer": label(path_name(path)),
            }
            for path, leaf in leaves
        ]

    def to_the_end(self, should_stop: Callable[[], bool]) -> None:
        config, steps = self.config, self.config.steps
        evaluations = evaluation_steps(steps, config.train.evaluations)
        while self.step < steps:
            if should_stop() or self.checkpoints.preempted(self.step):
                self._save()
                raise Interrupted(f"stopped at step {self.step} of {steps}, which is saved")
            self._one_step()
            if self.step % config.train.log_every == 0 or self.step == 1:
                self._log()
            if self.step in evaluations:
                self._evaluate()
            if self.checkpoints.due(self.step) or self.step == steps:
                self._save()

    def _one_step(self) -> None:
        batch = distributed.to_mesh(next(self.batches), self.mesh)
        rate = jnp.asarray(self.rate(self.step), jnp.float32)
        passes = int(self.passes[self.step])
        first = passes not in self.steps_at
        start = time.perf_counter()
        if first:
            step = make_train_step(self.program.at(passes), self.mesh)
            self.steps_at[passes] = processes.compiled(step, self.state, batch, rate)
        self.state, metrics = self.steps_at[passes](self.state, batch, rate)
        if first:  # the first call of a program compiles it before it returns
            self.compile_seconds += time.perf_counter() - start
        self.step += 1
        previous, self.pending = self.pending, (self.step, metrics)
        if previous:
            self._check(*previous)

    def _check(self, step: int, metrics: dict[str, jax.Array]) -> dict[str, float]:
        values = {name: float(value) for name, value in metrics.items()}
        for name in ("loss", "gradient_norm"):
            if not math.isfinite(values[name]):
                raise NonFiniteLoss(
                    f"{name} is {values[name]} at step {step} of {self.config.steps}; the last "
                    f"good checkpoint is kept in {self.directory / 'checkpoints'}; "
                    "try lower optimizer.*_learning_rate"
                )
        return values

    def _log(self) -> None:
        assert self.pending is not None
        values = self._check(*self.pending)
        now = time.perf_counter()
        since, then = self.logged
        rate = (self.step - since) * self.config.tokens_per_step / (now - then)
        self.logged = (self.step, now)
        left = (self.config.steps - self.step) * self.config.tokens_per_step / rate
        self.metrics.write("train", self.step, {**values, "tokens_per_second": rate})
        log.info(
            "step %d/%d  %.0f tokens/s  loss %.3f  exact %.2f  ETA %.0f s",
            self.step,
            self.config.steps,
            rate,
            values["loss"],
            values["exact_accuracy"],
            left,
        )

    def _evaluate(
        self, passes: int | None = None, threshold: float | None = None
    ) -> dict[str, Any]:
        last = self.step == self.config.steps
        train = self.config.train
        count = train.evaluation_sequences if last else train.curve_sequences
        sequences = {name: array[:count] for name, array in self.sequences.items()}
        values = evaluate(
            self.program,
            self.mesh,
            self.state.params,
            sequences,
            train.batch_size,
            passes,
            threshold,
        )
        if passes is None:
            tokens = self.step * self.config.tokens_per_step
            record = {**values, "train_tokens": tokens, "train_flops": self._flops()}
            self.metrics.write("evaluation", self.step, record)
            log.info(
                "step %d/%d  evaluation: exact %.3f (floor %.3f)  labels %.3f (floor %.3f)",
                self.step,
                self.config.steps,
                values["exact_accuracy"],
                self.floor["exact"],
                values["label_accuracy"],
                self.floor["label"],
            )
        return values

    def _save(self) -> None:
        if self.pending:  # never keep a state that a non-finite step has touched
            self._check(*self.pending)
        progress = {
            "data": self.batches.get_state(),
            "seconds": self._elapsed(),
            "compile_seconds": self.compile_seconds,
        }
        self.checkpoints.save(self.step, self.state, progress)

    def _flops(self) -> int:
        """Operations of the steps done."""
        return int(self.flops[self.step - 1])

    def _temporary_bytes(self) -> int | None:
        """Peak of a step's temporary memory as planned by the compiler, at the largest N."""
        if not self.steps_at:  # restored after its last step
            return None
        return self.steps_at[max(self.steps_at)].memory_analysis().temp_size_in_bytes

    def _elapsed(self) -> float:
        return self.seconds + time.perf_counter() - self.clock

    def result(self) -> dict[str, Any]:
        """The measured part of the row; evaluates again if the run was cut off before it could."""
        config, steps = self.config, self.config.steps
        curve = [r for r in self.metrics.records if r["kind"] == "evaluation"]
        if not curve or curve[-1]["step"] != steps:
            self._evaluate()
            curve = [r for r in self.metrics.records if r["kind"] == "evaluation"]
        final = curve[-1]
        by_passes = {
            str(n): self._evaluate(n)["exact_accuracy"] for n in config.train.evaluate_passes
        }
        most = max((config.sleep.passes, *config.train.evaluate_passes))
        halting = [
            {"threshold": threshold, "most_passes": most, **self._evaluate(most, threshold)}
            for threshold in config.train.halting_thresholds
        ]
        seconds = self._elapsed()
        tokens = steps * config.tokens_per_step
        rates = [r["tokens_per_second"] for r in self.metrics.records if r["kind"] == "train"][1:]
        return {
            "train_tokens": tokens,
            "train_flops": self._flops(),
            "parameters": sum(x.size for x in jax.tree.leaves(self.state.params)),
            "steps": steps,
            "loss": final["loss"],
            "exact_accuracy": final["exact_accuracy"],
            "label_accuracy": final["label_accuracy"],
            "floor": float(self.floor["exact"]),
            "label_floor": float(self.floor["label"]),
            **self._by_depth(final),
            "evaluation_sequences": config.train.evaluation_sequences,
            "evaluation_split": config.train.evaluation_split,
            "accuracy_by_passes": by_passes,
            "halting": halting,
            "temporary_bytes": self._temporary_bytes(),
            "wall_seconds": seconds,
            "compile_seconds": self.compile_seconds,
            "tokens_per_second": float(np.median(rates)) if rates else tokens / seconds,
            "curve": [{k: r[k] for k in r if k not in ("kind", "loss")} for r in curve],
        }

    def _by_depth(self, final: dict[str, Any]) -> dict[str, Any]:
        if "by_depth" not in final:
            return {}
        floors = self.config.task.floor_by_depth(self.sequences)
        return {
            "by_depth": {
                depth: {**values, "floor": floors[int(depth)]}
                for depth, values in final["by_depth"].items()
            }
        }

    def close(self) -> None:
        self.metrics.close()
        self.checkpoints.close()


def evaluation_steps(steps: int, evaluations: int) -> set[int]:
    """Evenly spaced steps, the last one among them."""
    return {math.ceil(steps * (i + 1) / evaluations) for i in range(evaluations)}
