"""Files of a report: read with an error that names them, written so that no reader meets a half."""

import json
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

READINGS = "readings.json"  # beside row.json: what was measured on the trained model afterwards


class ReportError(ValueError):
    """The files cannot be turned into an honest report; the message says why."""


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in `path`; ReportError if it is anything else."""
    try:
        value = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ReportError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ReportError(f"{path} holds {type(value).__name__}, not an object")
    return value


def replace(path: Path, write: Callable[[Path], object]) -> Path:
    """Lets `write` make a file beside `path` and renames it."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")  # not other launchers'
    write(temporary)
    os.replace(temporary, path)
    return path


def write_text(path: Path, text: str) -> Path:
    """`replace` with a text."""
    return replace(path, lambda temporary: temporary.write_text(text))
