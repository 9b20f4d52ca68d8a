"""Decides once in a run which heads or layers read all of the cache (consa.py)."""

import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from sleep_jax import consa, distributed
from sleep_jax.config import RunConfig
from sleep_jax.model.decoder import Parameters
from sleep_jax.model.local import LIMIT
from sleep_jax.tasks.task import TRAIN
from sleep_jax.training.evaluation import evaluate
from sleep_jax.training.step import Program

log = logging.getLogger("sleep_jax")
_BATCHES = 4  # of training data, by which units are ranked
_DRAW = 2  # keeps this draw apart from all others made from the run's seed
_TIE = 1e-6  # of log alpha
_POLARISED = 2.0


def decision_step(config: RunConfig) -> int:
    """After how many steps it is decided; -1: never."""
    return config.consa.steps(config.steps)[1] if config.model.is_local else -1


def decide(
    config: RunConfig, program: Program, mesh: Mesh, params: Parameters
) -> tuple[Parameters, dict[str, Any]]:
    """The parameters with units that are decided, and what there was to decide from.

    Returns:
      The second holds by block of attention `log_alpha` before, `scores`, and `full`, 1 for a unit
      that reads all, 0 for a local one; and of log alpha before `expected_local`, r of the
      constraint, `local_at_zero`, the share of units with log alpha <= 0, and `polarised`, that
      with |log alpha| > 2.
    """
    whole = jax.jit(consa.gates, out_shardings=distributed.replicated(mesh))(params)
    before = {name: np.asarray(value) for name, value in whole.items()}
    if config.consa.by == "ranked":
        scores = _ranked(config, program, mesh, params, before)
    else:
        scores = _scores(config, before)
    after = consa.decided(scores, config.consa)
    full = {name: (value > 0).astype(int).tolist() for name, value in after.items()}
    log.info("units that read all of the cache, by block: %s", full)
    every = np.concatenate(list(before.values()))
    return _with_gates(params, after), {
        "log_alpha": {name: value.tolist() for name, value in before.items()},
        "scores": {name: value.tolist() for name, value in scores.items()},
        "full": full,
        "expected_local": float(consa.expected_local(jnp.asarray(every))),
        "local_at_zero": float(np.mean(every <= 0)),
        "polarised": float(np.mean(np.abs(every) > _POLARISED)),
    }


def _with_gates(params: Parameters, values: dict[str, np.ndarray]) -> Parameters:
    shardings = {name: gate.sharding for name, gate in consa.gates(params).items()}
    return consa.with_gates(
        params,
        {name: distributed.whole_array(x, shardings[name]) for name, x in values.items()},
    )


def _scores(config: RunConfig, log_alpha: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """By block, `[units]` float: those of the largest will read all."""
    blocks, units = sorted(log_alpha), config.model.attention.units
    lot = np.random.default_rng((config.train.seed, _DRAW)).permutation(len(blocks) * units)
    lot = lot.reshape(len(blocks), units).astype(float)
    block = np.repeat(np.arange(len(blocks), dtype=float), units).reshape(len(blocks), units)
    match config.consa.by:
        case "learned":
            # Those that stand at the bound are as good as each other, so lots are drawn.
            found = np.stack([log_alpha[name] for name in blocks]) + _TIE * lot
        case "random":
            found = lot
        case "bottom":
            found = -block
        case "top":
            found = block
        case _:  # "middle"
            found = -np.abs(block - (len(blocks) - 1) / 2)
    return dict(zip(blocks, found, strict=True))


def _ranked(
    config: RunConfig,
    program: Program,
    mesh: Mesh,
    params: Parameters,
    log_alpha: dict[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """By how much the loss rises, in nats, if a unit alone is local and all others read all.

    On batches that a longer run would have trained on next.
    """
    size = config.train.batch_size
    sequences = config.task.sample(config.train.seed, TRAIN, config.steps * size, _BATCHES * size)
    all_full = {name: np.full_like(x, LIMIT) for name, x in log_alpha.items()}

    def loss(gates: dict[str, np.ndarray]) -> float:
        return evaluate(program, mesh, _with_gates(params, gates), sequences, size)["loss"]

    def without(name: str, unit: int) -> dict[str, np.ndarray]:
        local = np.where(np.arange(len(log_alpha[name])) == unit, -LIMIT, LIMIT)
        return {**all_full, name: local.astype(np.float32)}

    usual = loss(all_full)
    return {
        name: np.array([loss(without(name, unit)) - usual for unit in range(len(value))])
        for name, value in log_alpha.items()
    }
