"""The examples of sleep_jax/README.md: what others can build on the sleep loop and the training."""

import re
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sleep_jax import saved_config, sleep
from sleep_jax.config import SleepConfig

PAGE = Path(__file__).parent.parent / "sleep_jax" / "README.md"


def example(title, path):
    """What the example under this title leaves behind."""
    section = PAGE.read_text().partition(f"## {title}\n")[2].partition("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    path.write_text(code)
    return runpy.run_path(str(path))


def test_sleep_around_a_model_that_is_not_ours(tmp_path):
    found = example("Sleep around a model of your own", tmp_path / "example.py")
    state = {"S": jnp.zeros((2, 1, 8, 8))}
    for window in range(3):
        h = found["embedding"][found["windows"][:, window]]
        for _ in range(4):
            h, state = found["blocks"](h, state)
    np.testing.assert_allclose(found["state"]["S"], state["S"], rtol=1e-5, atol=1e-6)
    h, _ = found["blocks"](found["embedding"][found["windows"][:, 0]], state)
    np.testing.assert_allclose(
        found["logits"][:, 0], h @ found["embedding"].T, rtol=1e-4, atol=1e-5
    )

    def first(S, passes):
        read = sleep.read(found["model"], found["windows"], {"S": S}, SleepConfig(passes=passes))
        return jnp.sum(read["S"] ** 2)

    one, four = (jax.grad(first)(jnp.ones((2, 1, 8, 8)), n) for n in (1, 4))
    assert jnp.isfinite(four).all() and float(jnp.abs(one - four).max()) > 1e-3


def test_a_task_that_is_not_ours_is_learned(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(saved_config, "TASKS", dict(saved_config.TASKS))
    found = example("A task of your own", tmp_path / "example.py")
    result = found["result"]
    assert result["exact_accuracy"] > 10 * result["floor"] > 0.1
    assert capsys.readouterr().out == f"{result['exact_accuracy']} {result['floor']}\n"
    assert (tmp_path / "runs/recall/metrics.jsonl").exists()
    task = found["config"].task
    session = found["session"]
    asked = task.sample(0, 2, 0, 1)
    session.feed(asked["context"].reshape(1, -1))
    session.feed(asked["tokens"][0, :, :1])
    assert session.answer(3).shape == (1, 3)
    whole = task.sample(3, 1, 0, 8)
    for name, part in task.sample(3, 1, 5, 2).items():
        np.testing.assert_array_equal(part, whole[name][5:7])
    assert whole["targets"].ravel().tolist() == whole["context"][:, :, 0].ravel().tolist()


@pytest.mark.parametrize("name", re.findall(r"^\| `(.*?)`", PAGE.read_text(), flags=re.M))
def test_modules_that_are_named_exist(name):
    assert (PAGE.parent / name).exists()
