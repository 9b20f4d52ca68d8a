"""Evaluation splits on disk, as tensorflow-datasets' ArrayRecord; TensorFlow itself is not needed.

A frozen split stays the same when a sampler changes, and needs nothing of this package to be read:
`tfds.builder_from_directory(directory).as_data_source("test")`. Its metadata.json says what was
frozen: the task with all its fields, split, seed, count, and the SHA-256 of the arrays.
"""

import functools
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sleep_jax.config import flatten, to_dict
from sleep_jax.errors import UserError
from sleep_jax.tasks.task import SPLITS, Batch, Task


def freeze(task: Task, split: str, count: int, seed: int, data_dir: str | os.PathLike[str]) -> Path:
    """Writes examples 0 .. count-1 of a split, and reads them back.

    Args:
        task: any task.
        split: a name in `SPLITS`.
        count: number of examples, at least 1.
        seed: of `task.sample`.
        data_dir: what tensorflow-datasets calls so; other frozen splits may lie there.

    Returns:
        The directory of this split, `data_dir/frozen_split/<task>-<split>-<digest>/1.0.0`. One
        that is there already is only read back.

    Raises:
        UserError: the task is invalid, the directory cannot be written or is damaged, or
            tensorflow-datasets is not installed.
    """
    tfds = _tensorflow_datasets()
    batch = task.sample(seed, SPLITS[split], 0, count)
    metadata = {
        "task": to_dict(task),
        "split": split,
        "seed": seed,
        "count": count,
        "sha256": _checksum(batch),
    }
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode()).hexdigest()[:12]
    try:
        builder = _builder_class()(
            batch,
            metadata,
            data_dir=data_dir,
            config=tfds.core.BuilderConfig(name=f"{task.name}-{split}-{digest}"),
            file_format="array_record",
        )
        builder.download_and_prepare()
    except OSError as error:
        raise UserError(
            f"data_dir={str(data_dir)!r} cannot be written ({error}); "
            "allowed: a directory you may write to"
        ) from error
    load(builder.data_dir, task, split)
    return Path(builder.data_dir)


def load(directory: str | os.PathLike[str], task: Task, split: str) -> Batch:
    """All examples of a frozen split, as `task.sample` gave them.

    Args:
        directory: what `freeze` returned.
        task: the task that was frozen, field by field.
        split: the split that was frozen.

    Raises:
        UserError: there is no frozen split, it is of another task or split, it is damaged, or
            tensorflow-datasets is not installed.
    """
    tfds = _tensorflow_datasets()
    from google.protobuf import json_format

    try:
        builder = tfds.builder_from_directory(directory)
        metadata: dict[str, Any] = dict(builder.info.metadata or {})
        _check_same(directory, metadata, {"split": split, "task": to_dict(task)})
        rows = list(builder.as_data_source(split))
        batch = {name: np.stack([row[name] for row in rows]) for name in builder.info.features}
    # What tensorflow-datasets and ArrayRecord raise if files are missing or damaged.
    except (OSError, RuntimeError, ValueError, json_format.ParseError) as error:
        raise UserError(
            f"{directory} is not a readable frozen split ({' '.join(str(error).split())}); "
            "allowed: a directory that frozen.freeze returned"
        ) from error
    if _checksum(batch) != metadata.get("sha256"):
        raise UserError(
            f"{directory} has arrays with SHA-256 {_checksum(batch)}, frozen was "
            f"{metadata.get('sha256')}; delete it and freeze it again"
        )
    return batch


def _check_same(
    directory: str | os.PathLike[str], metadata: dict[str, Any], asked: dict[str, Any]
) -> None:
    wanted = flatten(json.loads(json.dumps(asked)))
    frozen = flatten({name: metadata.get(name, {}) for name in asked})
    for field in {**wanted, **frozen}:  # in the order asked: split and name of the task first
        old, new = frozen.get(field, "absent"), wanted.get(field, "absent")
        if old != new:
            raise UserError(f"{directory} was frozen with {field}={old!r}, asked was {new!r}")


def _checksum(batch: Batch) -> str:
    """SHA-256 over names, types, shapes and values, in the order of names."""
    digest = hashlib.sha256()
    for name in sorted(batch):
        array = np.ascontiguousarray(batch[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _tensorflow_datasets() -> Any:
    """The package, which is slow to import and optional."""
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise UserError(
            f"frozen splits need tensorflow-datasets ({error}); pip install 'sleep_jax[tfds]'"
        ) from error
    return tensorflow_datasets


@functools.cache
def _builder_class() -> type:
    import tensorflow_datasets as tfds

    # Not registered: what is on disk can be read by name without this class.
    class FrozenSplit(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """One split of one task; each array of the batch is a feature."""

        VERSION = tfds.core.Version("1.0.0")

        def __init__(self, batch: Batch, metadata: dict[str, Any], **kwargs: Any):
            self._batch, self._metadata = batch, metadata
            super().__init__(**kwargs)

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self,
                description="An evaluation split of a task of sleep_jax; see its metadata.",
                features=tfds.features.FeaturesDict(
                    {
                        name: tfds.features.Tensor(shape=array.shape[1:], dtype=array.dtype)
                        for name, array in self._batch.items()
                    }
                ),
                disable_shuffling=True,
                metadata=tfds.core.MetadataDict(self._metadata),
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            return {self._metadata["split"]: self._generate_examples()}

        def _generate_examples(self) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
            for index in range(self._metadata["count"]):
                yield index, {name: array[index] for name, array in self._batch.items()}

    return FrozenSplit
