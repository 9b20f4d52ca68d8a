"""The host loop of one run: restore, step, evaluate, save, and write the row at the end."""

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from sleep_jax import consa, distributed, processes, records
from sleep_jax.chips import CHIPS
from sleep_jax.config import RunConfig, to_dict
from sleep_jax.curriculum import Ladder, Stage, stages_by_step
from sleep_jax.flops import training_flops_by_step
from sleep_jax.model.decoder import Parameters
from sleep_jax.pretrained import llama
from sleep_jax.training import warm_start
from sleep_jax.training.checkpoint import Checkpoints
from sleep_jax.training.deciding import decide, decision_step
from sleep_jax.training.evaluation import (
    evaluate,
    evaluation_steps,
    exact_at_greatest_depth,
)
from sleep_jax.training.examples import Examples
from sleep_jax.training.goodput import TRAINING, Goodput, summary
from sleep_jax.training.optimizer import path_name, schedule, table
from sleep_jax.training.step import (
    Program,
    TrainState,
    make_init,
    make_train_step,
    placed_state,
)
from sleep_jax.training.tracing import Tracer

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
    profile_steps: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Trains to the end of the budget, or to `target_accuracy`, from the newest checkpoint if any.

    Args:
      config: validated.
      directory: the run directory; holds config.json, parameters.json, metrics and checkpoints
        afterwards (records.py).
      should_stop: asked before every step; True saves and raises Interrupted.
      profile_steps: first and last step, from 1, of a trace for XProf.

    Returns:
      What was measured: accuracies, floors, curve, tokens, FLOPs, seconds by cause.

    Raises:
      UserError: the directory holds a run of another configuration, or its checkpoints are damaged;
        or it cannot begin with what `train.warm_start` names.
      NonFiniteLoss: loss or gradient is not finite; names the step and the checkpoint kept.
      Interrupted: `should_stop` said so.
    """
    directory.mkdir(parents=True, exist_ok=True)
    records.check_config(directory, to_dict(config))
    if processes.is_first():
        records.write_json(directory / "config.json", to_dict(config))
    run = _Run(config, directory, mesh, profile_steps)
    try:
        run.to_the_end(should_stop)
        return run.result()
    finally:
        run.close()


class _Run:
    """One run in progress."""

    def __init__(
        self,
        config: RunConfig,
        directory: Path,
        mesh: Mesh,
        profile_steps: tuple[int, int] | None = None,
    ):
        self.goodput = Goodput()
        self.config, self.directory, self.mesh = config, directory, mesh
        train = config.train
        distributed.require_batch_divides(mesh, train.batch_size, train.accumulate)
        self.program = Program.of(config, mesh.devices.flat[0].platform)
        self.stages, self.stage_at = stages_by_step(config)
        self.compiled: dict[Stage, jax.stages.Compiled] = {}
        self.decides_at = decision_step(config)
        self.rate = schedule(config.optimizer, config.steps)
        self.ladder = Ladder(config)
        self.flops = np.cumsum(training_flops_by_step(config))

        self.checkpoints = Checkpoints(
            directory / "checkpoints", train.checkpoint_every, train.keep_checkpoints
        )
        self.state, self.step, position = self._start()
        self.examples = Examples(config, mesh, self.ladder.task, position)
        self.metrics = records.Metrics(directory, self.step, writes=processes.is_first())
        self.reached = any(self._is_target(record) for record in self.metrics.records)
        self.goodput.resume({"lost": self._lost()})
        self.tracer = Tracer(profile_steps, directory)
        if processes.is_first():
            listed = table(self.state.params, config.optimizer.trained)
            records.write_json(directory / "parameters.json", listed)
        self.pending: tuple[int, dict[str, jax.Array]] | None = None
        self.goodput.charge("other")
        self.logged = (self.step, self.goodput.now())

    def _start(self) -> tuple[TrainState, int, dict[str, Any] | None]:
        """State, steps done, and the position in the batches; None: at their first."""
        restored = self.checkpoints.restore(placed_state(self.program, self.mesh))
        if restored is None:
            state = make_init(self.program, self.mesh)(self.config.train.seed)
            learned = warm_start.parameters(self.config, self.directory, self.mesh)
            if learned is None:
                learned = self._pretrained(state.params)
            return state.replace(params=learned), 0, None
        step, state, progress = restored
        if "ladder" in progress:
            self.ladder.restore(progress["ladder"])
        self.goodput.resume(progress["seconds"])
        log.info("resuming at step %d of %d", step, self.config.steps)
        return state, step, progress["data"]

    def _pretrained(self, params: Parameters) -> Parameters:
        """The parameters, those that the run's pretrained file has taken from there."""
        name = self.config.train.pretrained
        found = llama.parameters(name, self.config.model) if name else {}

        def of(path: tuple[Any, ...], drawn: jax.Array) -> jax.Array:
            given = found.get(path_name(path))
            return drawn if given is None else distributed.whole_array(given, drawn.sharding)

        return jax.tree_util.tree_map_with_path(of, params)

    def _lost(self) -> float:
        """Seconds from the checkpoint to the last record of a process that was killed."""
        saved = sum(self.goodput.seconds.values())
        known = [r["wall_seconds"] for r in self.metrics.dropped if r["kind"] == "train"]
        return max([0.0, *(seconds - saved for seconds in known)])

    def to_the_end(self, should_stop: Callable[[], bool]) -> None:
        config, steps = self.config, self.config.steps
        target = config.train.target_accuracy
        evaluations = evaluation_steps(steps, config.train.evaluations, by_factors=target > 0)
        while self.step < steps and not self.reached:
            if should_stop() or self.checkpoints.preempted(self.step):
                self._save()
                raise Interrupted(f"stopped at step {self.step} of {steps}, which is saved")
            if self.step == self.decides_at:  # a checkpoint of this step has it still before it
                self._decide()
            self._one_step()
            if self.step % config.train.log_every == 0 or self.step == 1:
                self._log()
            with self.goodput.spent(TRAINING):  # waits for the step if it has to decide
                learned = self.ladder.is_learned(self.step)
            if self.step in evaluations or learned:
                self._evaluate(learned=learned)
            if learned and self.step < steps and not self.ladder.is_top(self.ladder.rung):
                self.ladder.climb()
                with self.goodput.spent("data"):
                    self.examples.change(self.ladder.task)
            if self.checkpoints.due(self.step) or self.step == steps or self.reached:
                self._save()

    def _decide(self) -> None:
        """Which heads or layers read all of the cache, once and for all."""
        with self.goodput.spent("other"):
            params, record = decide(self.config, self.program, self.mesh, self.state.params)
        self.state = self.state.replace(params=params)
        self.metrics.write("decision", self.step, record)

    def _one_step(self) -> None:
        with self.goodput.spent("data"):
            batch = distributed.to_mesh(next(self.examples.batches), self.mesh)
            rate = jnp.asarray(self.rate(self.step), jnp.float32)
        stage = self.stages[self.stage_at[self.step]]
        given = (batch, rate, *([consa.choice(self.config, self.step)] if stage.choosing else []))
        if stage not in self.compiled:
            step = make_train_step(self.program.in_stage(stage), self.mesh)
            with self.goodput.spent("compile"):  # and waits for the other processes
                self.compiled[stage] = processes.compiled(step, self.state, *given)
        with self.tracer.step(self.step + 1, self.state), self.goodput.spent(TRAINING):
            self.state, metrics = self.compiled[stage](self.state, *given)
            self.step += 1
            self.ladder.saw(metrics["exact_accuracy"])
            previous, self.pending = self.pending, (self.step, metrics)
            if previous:
                self._check(*previous)
        self.tracer.after(self.step, self.state)

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

    def _settle(self) -> dict[str, float]:
        """Waits for the last step and returns what it measured."""
        assert self.pending is not None
        with self.goodput.spent(TRAINING):
            return self._check(*self.pending)

    def _log(self) -> None:
        values, seconds = self._settle(), self.goodput.now()
        since, then = self.logged
        self.logged = (self.step, seconds)
        steps = self.step - since
        busy = sum(seconds[cause] - then[cause] for cause in ("data", TRAINING))
        wall = sum(seconds.values()) - sum(then.values())
        left = (self.config.steps - self.step) * wall / steps
        values["tokens_per_second"] = steps * self.config.tokens_per_step / busy
        chip = CHIPS.get(self.mesh.devices.flat[0].device_kind)
        if chip is None:  # a CPU, or what we have no peak of
            unit, count, utilisation = "device", self.mesh.size, ""
        else:
            unit, count = "chip", self.mesh.size / chip.devices_per_chip
            flops = self._flops(self.step) - self._flops(since)
            values["mfu"] = flops / busy / (self.mesh.size * chip.bf16_flops)
            utilisation = f"  MFU {values['mfu']:.1%}"
        self.metrics.write("train", self.step, {**values, "wall_seconds": sum(seconds.values())})
        log.info(
            "step %d/%d  %.0f tokens/s a %s%s  loss %.3f  exact %.2f  ETA %.0f s",
            self.step,
            self.config.steps,
            values["tokens_per_second"] / count,
            unit,
            utilisation,
            values["loss"],
            values["exact_accuracy"],
            left,
        )

    def _evaluate(
        self, passes: int | None = None, threshold: float | None = None, learned: bool = False
    ) -> dict[str, Any]:
        train = self.config.train
        whole = self.step == self.config.steps or train.target_accuracy
        count = train.evaluation_sequences if whole else train.curve_sequences
        sequences = self.examples.first_sequences(count)
        if self.pending:
            self._settle()
        with self.goodput.spent("evaluation"):
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
            record = {**values, "train_tokens": tokens, "train_flops": self._flops(self.step)}
            if self.ladder.rung:
                floor = self.examples.floor["exact"]
                record |= {"rung": self.ladder.rung, "learned": learned, "floor": floor}
            self.metrics.write("evaluation", self.step, record)
            self.reached |= self._is_target(self.metrics.records[-1])
            log.info(
                "step %d/%d  evaluation: exact %.3f (floor %.3f)  labels %.3f (floor %.3f)",
                self.step,
                self.config.steps,
                values["exact_accuracy"],
                self.examples.floor["exact"],
                values["label_accuracy"],
                self.examples.floor["label"],
            )
        return values

    def _is_target(self, record: dict[str, Any]) -> bool:
        """Whether it is an evaluation that may end the run: of a ladder, its top learned."""
        target = self.config.train.target_accuracy
        if not target or record["kind"] != "evaluation" or not record.get("learned", True):
            return False
        at_top = self.ladder.is_top(record.get("rung", 0))
        return at_top and exact_at_greatest_depth(record) >= target

    def _save(self) -> None:
        if self.pending:  # never keep a state that a non-finite step has touched
            self._settle()
        with self.goodput.spent("checkpoints"):
            progress = {"data": self.examples.batches.get_state(), "seconds": self.goodput.now()}
            if self.ladder.rung:
                progress["ladder"] = self.ladder.state()
            self.checkpoints.save(self.step, self.state, progress)

    def _flops(self, step: int) -> int:
        """Operations of the first `step` steps."""
        return self.flops[step - 1] if step else 0

    def _temporary_bytes(self) -> int | None:
        """Peak of a step's temporary memory as the compiler planned it, at the largest N compiled.

        None where the compiler does not say, or no step was left to do.
        """
        if not self.compiled:
            return None
        planned = self.compiled[max(self.compiled)].memory_analysis()
        return planned.temp_size_in_bytes if planned else None

    def result(self) -> dict[str, Any]:
        """The measured part of the row; evaluates again if the run was cut off before it could."""
        config, steps = self.config, self.step
        last = (r for r in self.metrics.records if (r["kind"], r["step"]) == ("evaluation", steps))
        final = next(last, None) or self._evaluate()
        by_passes = {
            str(n): self._evaluate(n)["exact_accuracy"] for n in config.train.evaluate_passes
        }
        most = max((config.sleep.passes, *config.train.evaluate_passes))
        halting = [
            {"threshold": threshold, "most_passes": most, **self._evaluate(most, threshold)}
            for threshold in config.train.halting_thresholds
        ]
        seconds = self.goodput.now()
        wall = sum(seconds.values())
        tokens = steps * config.tokens_per_step
        rates = [r["tokens_per_second"] for r in self.metrics.records if r["kind"] == "train"][1:]
        return {
            "train_tokens": tokens,
            "train_flops": self._flops(steps),
            "parameters": sum(x.size for x in jax.tree.leaves(self.state.params)),
            "steps": steps,
            **warm_start.began_with(self.directory),
            "loss": final["loss"],
            "exact_accuracy": final["exact_accuracy"],
            "label_accuracy": final["label_accuracy"],
            "floor": float(self.examples.floor["exact"]),
            "label_floor": float(self.examples.floor["label"]),
            **self._in_detail(final),
            **self._decision(),
            **self._target(),
            "evaluation_sequences": config.train.evaluation_sequences,
            "evaluation_split": config.train.evaluation_split,
            "accuracy_by_passes": by_passes,
            "halting": halting,
            "temporary_bytes": self._temporary_bytes(),
            "wall_seconds": wall,
            "compile_seconds": seconds["compile"],
            "goodput": summary(seconds),
            "tokens_per_second": float(np.median(rates)) if rates else tokens / wall,
            "curve": records.curve(self.metrics.records),
        }

    def _in_detail(self, final: dict[str, Any]) -> dict[str, Any]:
        """By position and by depth, where the evaluation tells them apart."""
        detail: dict[str, Any] = {}
        if by_position := final.get("label_accuracy_by_position"):
            detail["label_accuracy_by_position"] = by_position
        if by_depth := final.get("by_depth"):
            floors = self.config.task.floor_by_depth(self.examples.sequences)
            detail["by_depth"] = {
                depth: {**values, "floor": floors[int(depth)]} for depth, values in by_depth.items()
            }
        return detail

    def _decision(self) -> dict[str, Any]:
        """Which heads or layers read all of the cache, and what that was decided from."""
        found = [record for record in self.metrics.records if record["kind"] == "decision"]
        return {"decision": found[-1]} if found else {}

    def _target(self) -> dict[str, Any]:
        """What a run that may end early was to reach, and for how much at most."""
        target = self.config.train.target_accuracy
        if not target:
            return {}
        budget = self._flops(self.config.steps)
        return {"target_accuracy": target, "reached": self.reached, "budget_flops": budget}

    def close(self) -> None:
        self.tracer.close()
        self.metrics.close()
        self.checkpoints.close()
