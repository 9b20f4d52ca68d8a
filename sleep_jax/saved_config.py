"""The configuration of a run, read back from its directory. Imports no JAX."""

import json
import os
from pathlib import Path
from typing import Any

from sleep_jax.config import RunConfig, flatten
from sleep_jax.errors import UserError
from sleep_jax.overrides import override
from sleep_jax.tasks.depo import DepoConfig
from sleep_jax.tasks.gsm_infinite.task import GsmInfiniteConfig
from sleep_jax.tasks.recall import RecallConfig
from sleep_jax.tasks.rule110 import Rule110Config

TASKS = {task.name: task for task in (Rule110Config, DepoConfig, GsmInfiniteConfig, RecallConfig)}


def read_config(directory: str | os.PathLike[str]) -> RunConfig:
    """The configuration of a run; a field that it is too old to have is as it is by default.

    Raises:
      UserError: there is no config.json, or it is not a configuration of this version.
    """
    path = Path(directory) / "config.json"
    try:
        saved = json.loads(path.read_text())
        config = RunConfig(task=TASKS[saved["task"].pop("name")]())
        return override(config, [f"{name}={_text(x)}" for name, x in flatten(saved).items()])
    except OSError as error:
        raise UserError(
            f"{directory} is no run directory ({path.name}: {error.strerror}); allowed: "
            "RUNS/EXPERIMENT/PRESET/cells/NAME"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, UserError) as error:
        raise UserError(f"{path} is not a configuration of this version ({error})") from error


def _text(value: Any) -> str:
    """As a flag has it."""
    return ",".join(map(_text, value)) if isinstance(value, list) else str(value)
