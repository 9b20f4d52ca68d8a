"""Reading GGUF through the package `gguf`: metadata, and tensors as float32."""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sleep_jax.errors import UserError
from sleep_jax.pretrained import files

# What a truncated or overwritten file makes the reader raise.
_DAMAGE = (ValueError, IndexError, KeyError, TypeError, OverflowError, OSError)


class GgufFile(NamedTuple):
    """A GGUF file, read.

    Attributes:
      origin: `field='name'`, which says in messages who asked for it.
      metadata: numbers, strings and lists of them, by key.
      tensors: the package's `ReaderTensor`s by name; their data stay on disk until they are used.
    """

    origin: str
    metadata: dict[str, Any]
    tensors: dict[str, Any]

    def value(self, key: str, kind: type | tuple[type, ...]) -> Any:
        """A value of the metadata.

        Raises:
          UserError: it is missing or of another type.
        """
        value = self.metadata.get(key)
        if not isinstance(value, kind):
            raise UserError(f"{self.origin}: its {key} is {value!r}; allowed: a file that has one")
        return value

    def tensor(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """A tensor, dequantised: a matrix is `[out, in]`, as in PyTorch.

        Raises:
          UserError: it is of another shape, packed in a way that `gguf` cannot undo, or has values
            that are not numbers.
        """
        import gguf.quants

        found = self.tensors[name]
        actual = tuple(int(n) for n in reversed(found.shape))
        if actual != shape:
            raise UserError(f"{self.origin}: {name} has shape {actual}; allowed: {shape}")
        try:
            values = gguf.quants.dequantize(found.data, found.tensor_type)
        except NotImplementedError as error:
            raise UserError(
                f"{self.origin}: {name} is of type {found.tensor_type.name}; allowed: a type that "
                "the package gguf can dequantise"
            ) from error
        values = np.asarray(values, np.float32)
        if not np.isfinite(values).all():
            raise UserError(f"{self.origin}: {name} is not finite; allowed: an undamaged file")
        return values


def read(name: str, field: str) -> GgufFile:
    """The file of that name (`files.find`); each is read once.

    Args:
      field: the setting that holds the name, for messages.

    Raises:
      UserError: the file or the package `gguf` is missing, or the file is damaged.
    """
    path = files.find(name, field)
    try:
        metadata, tensors = _read(path)
    except ImportError as error:
        raise UserError(
            f"{field}={name!r}: the package gguf is missing; allowed: make pretrained (pip install "
            "gguf)"
        ) from error
    except _DAMAGE as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise UserError(
            f"{field}={name!r}: {path} is damaged or no GGUF file ({reason}); allowed: a whole one"
        ) from error
    return GgufFile(f"{field}={name!r}", metadata, tensors)


@functools.cache
def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    import gguf

    reader = gguf.GGUFReader(path)
    metadata = {key: field.contents() for key, field in reader.fields.items()}
    return metadata, {tensor.name: tensor for tensor in reader.tensors}
