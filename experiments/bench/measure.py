"""What is timed and counted of our side: training step, wake, memory, input pipeline."""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments.bench.timing import ROUNDS, interleaved
from sleep_jax import distributed, sleep
from sleep_jax.config import RunConfig
from sleep_jax.flops import training_flops_per_step
from sleep_jax.model import decoder
from sleep_jax.tasks.pipeline import BatchSource, make_iterator
from sleep_jax.tasks.task import TRAIN
from sleep_jax.training.step import (
    Program,
    init_state,
    make_init,
    make_train_step,
    means,
    predict,
    score,
)

REMAT = ("none", "pass", "window")
PIPELINE_SECONDS = 1.0
Row = dict[str, Any]


def at(config: RunConfig, passes: int, remat: str | None = None) -> RunConfig:
    """The run at another N, and with another rematerialisation."""
    loop = dataclasses.replace(
        config.sleep, passes=passes, remat=config.sleep.remat if remat is None else remat
    )
    return dataclasses.replace(config, sleep=loop)


def batch_of(config: RunConfig) -> dict[str, np.ndarray]:
    """Global batch 0 of the run's training data."""
    size = config.train.batch_size
    return config.task.sample(config.train.seed, TRAIN, 0, size)


class Stepper:
    """The compiled training step of one run, with its state."""

    def __init__(self, config: RunConfig, mesh: Mesh):
        program = Program.of(config, mesh.devices.flat[0].platform)
        self.state = make_init(program, mesh)(config.train.seed)
        self.batch = distributed.to_mesh(batch_of(config), mesh)
        self.rate = jnp.float32(1.0)
        lowered = make_train_step(program, mesh).lower(self.state, self.batch, self.rate)
        start = time.perf_counter()
        self.compiled = lowered.compile()
        self.compile_seconds = time.perf_counter() - start

    def __call__(self) -> None:
        """One update, to its end."""
        self.state, metrics = self.compiled(self.state, self.batch, self.rate)
        jax.block_until_ready((self.state, metrics))

    @property
    def temporary_bytes(self) -> int:
        """Peak of temporary memory as the compiler planned it."""
        return self.compiled.memory_analysis().temp_size_in_bytes


def training_steps(config: RunConfig, mesh: Mesh, passes: tuple[int, ...]) -> list[Row]:
    """A row for each N: speed, compile time, and temporary memory under the run's own remat."""
    steppers = {n: Stepper(at(config, n), mesh) for n in passes}
    seconds = interleaved(steppers)
    rows = []
    for n, stepper in steppers.items():
        rows.append(
            {
                "passes": n,
                "step_seconds": seconds[n],
                "tokens_per_second": config.tokens_per_step / seconds[n],
                "relative_to_first": seconds[n] / seconds[passes[0]],
                "flops_per_second": training_flops_per_step(at(config, n)) / seconds[n],
                "compile_seconds": stepper.compile_seconds,
                "temporary_bytes": stepper.temporary_bytes,
            }
        )
    return rows


def remat_memory(config: RunConfig, mesh: Mesh, rows: list[Row]) -> dict[str, int]:
    """Temporary bytes of the step at the largest N under every remat; `rows` has one of them."""
    largest = max(rows, key=lambda row: row["passes"])
    return {
        remat: largest["temporary_bytes"]
        if remat == config.sleep.remat
        else Stepper(at(config, largest["passes"], remat), mesh).temporary_bytes
        for remat in REMAT
    }


def slope(rows: list[Row]) -> Row | None:
    """Least squares of seconds a step over N, and the share of their variance it explains."""
    if len(rows) < 3:
        return None
    n, seconds = (np.array([row[key] for row in rows]) for key in ("passes", "step_seconds"))
    per_pass, fixed = np.polyfit(n, seconds, 1)
    residual = np.sum((seconds - fixed - per_pass * n) ** 2)
    explained = 1.0 - residual / np.sum((seconds - seconds.mean()) ** 2)
    return {
        "seconds_per_pass": float(per_pass),
        "fixed_seconds": float(fixed),
        "explained": float(explained),
    }


def wake_seconds(config: RunConfig, mesh: Mesh, passes: tuple[int, ...]) -> dict[int, float]:
    """Seconds to predict one batch by N, from the fast weights that N passes left."""
    program = Program.of(config, mesh.devices.flat[0].platform)
    batch = distributed.to_mesh(batch_of(config), mesh)
    params = make_init(program, mesh)(config.train.seed).params

    @functools.partial(jax.jit, static_argnums=0)
    def read(loop, params, context):
        fast = decoder.initial_fast_weights(program.model, context.shape[0])
        return sleep.read(sleep.bind(program.model, params), context, fast, loop)

    @jax.jit
    def wake(params, tokens, fast):
        return sleep.wake(sleep.bind(program.model, params), tokens, fast)[0]

    def call(n: int) -> Callable[[], object]:
        fast = read(at(config, n).sleep, params, batch["context"])
        return lambda: jax.block_until_ready(wake(params, batch["tokens"], fast))

    return interleaved({n: call(n) for n in passes}, rounds=10 * ROUNDS)


def pipeline_tokens_per_second(config: RunConfig) -> float:
    """Tokens a second that the input pipeline makes when nothing else runs."""
    sample = functools.partial(config.task.sample, config.train.seed, TRAIN)
    source = BatchSource(
        sample,
        global_batch_size=config.train.batch_size,
        num_batches=2**31,
        process_index=0,
        process_count=1,
    )
    batches = make_iterator(source)
    next(batches)
    start, count = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < PIPELINE_SECONDS:
        next(batches)
        count += 1
    return count * config.tokens_per_step / elapsed


def loss_and_gradient(config: RunConfig) -> tuple[Any, Callable[[], tuple[Any, Any]]]:
    """Our parameters, and a call that gives loss and gradient on the run's first batch.

    With the run's own rematerialisation, which PyTorch eager has no need of; without optimizer; on
    the default device.
    """
    program = Program.of(config, jax.devices()[0].platform)
    params = init_state(program, config.train.seed).params
    batch = jax.tree.map(jnp.asarray, batch_of(config))

    @jax.jit
    def run(params, batch):
        def loss(params):
            logits = predict(program.model, program.sleep, params, batch)
            return means(score(logits, batch))["loss"]

        return jax.value_and_grad(loss)(params)

    return params, lambda: jax.block_until_ready(run(params, batch))
