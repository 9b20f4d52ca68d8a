"""A run that begins with what another has learned (`train.warm_start`), not with drawn parameters.

It takes the parameters of a finished run and nothing else: its steps, moments, schedule and data
are its own. What it began with is written into its directory, so that it resumes, and is reported,
without the other run.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from sleep_jax import processes, records
from sleep_jax.config import RunConfig, flatten
from sleep_jax.errors import UserError
from sleep_jax.model.config import ModelConfig, require
from sleep_jax.model.decoder import Parameters
from sleep_jax.saved_config import read_config
from sleep_jax.training import checkpoint
from sleep_jax.training.step import Program, placed_state

_BEGAN_WITH = "warm_start.json"


def check(config: RunConfig, directory: Path) -> None:
    """Checks that the run in `directory` can begin with, or has begun with, what it names.

    Raises:
      UserError: there is no such run, it is not finished, or its model is another one.
    """
    if config.train.warm_start and not (directory / _BEGAN_WITH).exists():
        _finished(config)


def parameters(config: RunConfig, directory: Path, mesh: Mesh) -> Parameters | None:
    """What the run begins with, on its mesh; None where that is drawn.

    Raises:
      UserError: as `check`; or the other run has no checkpoint that can be read.
    """
    if not config.train.warm_start:
        return None
    source, found, row = _finished(config)
    placed = placed_state(Program.of(found, mesh.devices.flat[0].platform), mesh)
    step, state = checkpoint.newest(source / "checkpoints", placed)
    if processes.is_first():
        before = row.get("warm_start") or {"total_tokens": 0, "total_flops": 0}
        began = {
            "run": source.name,
            "commit": row["commit"],
            "step": step,
            "total_tokens": row["train_tokens"] + before["total_tokens"],
            "total_flops": row["train_flops"] + before["total_flops"],
        }
        records.write_json(directory / _BEGAN_WITH, began)
    return state.params


def began_with(directory: Path) -> dict[str, Any]:
    """Of the run in `directory`: `{"warm_start": run, commit, step, total_tokens, total_flops}`.

    The totals are of everything that was trained before it. Empty where nothing was.
    """
    path = directory / _BEGAN_WITH
    return {"warm_start": json.loads(path.read_text())} if path.exists() else {}


def _finished(config: RunConfig) -> tuple[Path, RunConfig, dict[str, Any]]:
    """The run that `train.warm_start` names: its directory, configuration and row."""
    name = config.train.warm_start
    source = Path(config.train.warm_start_of_seed)
    path = source / "row.json"
    try:
        found, row = read_config(source), json.loads(path.read_text())
    except UserError as error:
        raise _refused(name, str(error)) from error
    except FileNotFoundError as error:
        why = f"{source} is not finished; allowed: a run that has its {path.name}"
        raise _refused(name, why) from error
    except json.JSONDecodeError as error:
        raise _refused(
            name, f"{path} is not JSON ({error}); allowed: what the run wrote"
        ) from error
    if not (source / "checkpoints").is_dir():
        raise _refused(name, f"{source} has no checkpoints; allowed: a run that has kept them")
    _check_model(config.model, found.model, name)
    return source, found, row


def _refused(name: str, why: str) -> UserError:
    return UserError(f"train.warm_start={name!r}: {why}")


def _check_model(model: ModelConfig, there: ModelConfig, name: str) -> None:
    """All that its parameters were trained in, so neither dtypes nor which blocks are repeated."""
    free = {"activation_dtype": there.activation_dtype, "looped": there.looped}
    here = flatten(dataclasses.asdict(dataclasses.replace(model, **free)))
    for field, right in flatten(dataclasses.asdict(there)).items():
        allowed = f"{right!r}, with train.warm_start={name!r}"
        require(here[field] == right, f"model.{field}", here[field], allowed)
