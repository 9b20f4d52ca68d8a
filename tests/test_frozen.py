"""Frozen splits: the same arrays back, readable by tensorflow-datasets alone, damage found out."""

import dataclasses
import json
import shutil
import sys
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds

from sleep_jax.errors import UserError
from sleep_jax.tasks import frozen
from sleep_jax.tasks.depo import DepoConfig
from sleep_jax.tasks.rule110 import Rule110Config
from sleep_jax.tasks.task import SPLITS, Task

DEPO = DepoConfig(nodes=9, window=12, pairs=3)


def assert_same(batch, expected):
    assert batch.keys() == expected.keys()
    for name, array in expected.items():
        assert batch[name].dtype == array.dtype
        np.testing.assert_array_equal(batch[name], array)


@pytest.mark.parametrize("task", [DEPO, Rule110Config()])
@pytest.mark.parametrize("split", ["validation", "test"])
def test_what_was_sampled_is_read_back(tmp_path, task, split):
    directory = frozen.freeze(task, split, count=30, seed=2**63, data_dir=tmp_path)
    expected = task.sample(2**63, SPLITS[split], 0, 30)
    assert_same(frozen.load(directory, task, split), expected)
    # Again, and another beside it: neither is disturbed.
    written = {path: path.stat().st_mtime_ns for path in directory.iterdir()}
    assert frozen.freeze(task, split, count=30, seed=2**63, data_dir=tmp_path) == directory
    assert frozen.freeze(task, split, count=31, seed=2**63, data_dir=tmp_path) != directory
    assert written == {path: path.stat().st_mtime_ns for path in directory.iterdir()}


@pytest.fixture(scope="module")
def frozen_split(tmp_path_factory):
    return frozen.freeze(DEPO, "test", count=30, seed=4, data_dir=tmp_path_factory.mktemp("data"))


def test_tensorflow_datasets_reads_it_without_us(frozen_split):
    expected = DEPO.sample(4, SPLITS["test"], 0, 30)
    data_dir, name = frozen_split.parents[2], f"frozen_split/{frozen_split.parent.name}"
    builder: Any = tfds.builder_from_directory(frozen_split)
    by_name: Any = tfds.data_source(name, data_dir=data_dir, split="test")
    for source in (builder.as_data_source("test"), by_name):
        assert len(source) == 30
        assert_same({key: np.stack([row[key] for row in source]) for key in source[0]}, expected)
    metadata = json.loads((frozen_split / "metadata.json").read_text())
    assert metadata["task"] == {"name": "depo", **dataclasses.asdict(DEPO)}
    assert (metadata["split"], metadata["seed"], metadata["count"]) == ("test", 4, 30)


def refusal(directory, task: Task = DEPO, split: str = "test") -> str:
    with pytest.raises(UserError) as caught:
        frozen.load(directory, task, split)
    message = str(caught.value)
    assert str(directory) in message and "\n" not in message
    return message


def test_another_task_or_split_is_refused(frozen_split):
    other = dataclasses.replace(DEPO, max_hops=8)
    assert "task.max_hops=16, asked was 8" in refusal(frozen_split, other)
    assert "task.name='depo', asked was 'rule110'" in refusal(frozen_split, Rule110Config())
    assert "split='test', asked was 'validation'" in refusal(frozen_split, split="validation")


def test_other_arrays_are_found_out(frozen_split, tmp_path):
    """Records of another seed, in files that are whole."""
    other = frozen.freeze(DEPO, "test", count=30, seed=5, data_dir=tmp_path)
    shutil.copy(frozen_split / "metadata.json", other)
    assert "SHA-256" in refusal(other)


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json", "metadata.json", "records"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "flipped"])
def test_damage_is_found_out(frozen_split, tmp_path, name, damage):
    directory = tmp_path / "copy"
    shutil.copytree(frozen_split, directory)
    path = next(directory.glob("*.array_record*")) if name == "records" else directory / name
    content = bytearray(path.read_bytes())
    path.unlink()
    if damage == "empty":
        path.touch()
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        content[70 if name == "records" else 0] ^= 1
        path.write_bytes(content)
    refusal(directory)


def test_missing_directories_and_packages_are_named(frozen_split, tmp_path, monkeypatch):
    assert "allowed: a directory that frozen.freeze returned" in refusal(tmp_path / "nothing")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="data_dir=.*file.* cannot be written"):
        frozen.freeze(DEPO, "test", count=1, seed=0, data_dir=tmp_path / "file")
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(UserError, match=r"pip install 'sleep_jax\[tfds\]'"):
        frozen.load(frozen_split, DEPO, "test")
