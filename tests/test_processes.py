"""Real processes over loopback: the same run in one and in two, and one of them lost.

Runs in `make test-multidevice`.
"""

import shutil
import signal
import socket
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from chex import assert_trees_all_equal

from experiments.presets import FAST_COMPILATION
from sleep_jax import records
from tests import marks
from tests.from_outside import CACHE, Started
from tests.one_process import STEPS, digest

pytestmark = marks.needs_eight_devices


def start(task, directory, number, sizes=(2, 2, 2)):
    """Starts the processes of a run, four devices each or eight."""
    directory.mkdir(exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    flags = f"--xla_force_host_platform_device_count={8 // number}"
    environment = {**CACHE, "XLA_FLAGS": f"{flags} {FAST_COMPILATION}"}
    arguments = (str(number), str(port), *map(str, sizes))
    return [
        Started(
            "tests.one_process", task, str(directory), str(index), *arguments,
            environment=environment,
        )
        for index in range(number)
    ]  # fmt: skip


def finish(processes, seconds=300):
    """Exit codes, and what was written, of all of them, which a failed test shows whole."""
    ended = [process.finish(seconds) for process in processes]
    for one in ended:
        print(one.returncode, one.stdout, one.stderr, sep="\n")
    return [one.returncode for one in ended], [(one.stdout, one.stderr) for one in ended]


def wait_for_step(directory, step, processes):
    deadline = time.monotonic() + 300
    while not any(r["step"] >= step for r in records.read_metrics(directory)):
        assert all(process.poll() is None for process in processes), finish(processes)
        assert time.monotonic() < deadline
        time.sleep(0.05)


def losses(directory):
    kept = [r for r in records.read_metrics(directory) if r["kind"] == "train"]
    assert [r["step"] for r in kept] == list(range(1, STEPS + 1))
    return [r["loss"] for r in kept]


def state_at(directory, step):
    """As NumPy arrays, whatever devices wrote it."""
    path = (directory / "checkpoints" / str(step) / "state").absolute()
    with ocp.PyTreeCheckpointer() as checkpointer:
        saved = checkpointer.metadata(path).item_metadata.tree
        plain = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), saved)
        return checkpointer.restore(path, restore_args=plain)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The run in one process with eight devices."""
    directory = tmp_path_factory.mktemp("one")
    codes, written = finish(start("train", directory, 1))
    assert codes == [0], written
    return directory


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The run in two processes with four devices each."""
    directory = tmp_path_factory.mktemp("two")
    codes, written = finish(start("train", directory, 2))
    assert codes == [0, 0], written
    return directory


def test_two_processes_train_like_one(one, two):
    np.testing.assert_allclose(losses(two), losses(one), rtol=1e-5)


@pytest.mark.parametrize("written_by, read_by", [(2, 1), (1, 2)])
def test_a_checkpoint_is_the_same_for_other_processes_and_meshes(one, two, written_by, read_by):
    directory = {1: one, 2: two}[written_by]
    expected = digest(jax.tree.leaves(state_at(directory, STEPS)["params"]))
    codes, written = finish(start("digest", directory, read_by, (1, 4, 2)))
    assert set(codes) == {0}, written
    for out, err in written:
        assert f"digest {STEPS} {expected}" in out and "was lost" not in err


def test_killed_killed_again_and_stopped_it_ends_like_the_run_that_was_not(two, tmp_path):
    run = tmp_path / "run"
    for lost, step in ((1, 6), (0, 11)):
        processes = start("slowly", run, 2)
        wait_for_step(run, step, processes)
        processes[lost].send_signal(signal.SIGKILL)
        codes, written = finish(processes, 60)
        assert codes[lost] == -signal.SIGKILL and codes[1 - lost] not in (0, None)
        assert "error: a process of this run was lost" in written[1 - lost][1]
    processes = start("slowly", run, 2)
    wait_for_step(run, 13, processes)
    processes[1].send_signal(signal.SIGTERM)
    codes, written = finish(processes, 60)
    assert codes == [143, 143], written
    stopped = {out.splitlines()[-1] for out, _ in written}
    assert len(stopped) == 1 and "which is saved" in next(iter(stopped))
    codes, written = finish(start("train", run, 2))
    assert codes == [0, 0], written
    assert losses(run) == losses(two)
    assert_trees_all_equal(state_at(run, STEPS), state_at(two, STEPS))


def test_what_two_began_one_ends(two, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(two, run)
    for path in (run / "checkpoints").iterdir():
        if int(path.name.split(".")[0]) > 10:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    codes, written = finish(start("train", run, 1))
    assert codes == [0] and f"resuming at step 10 of {STEPS}" in written[0][0], written
    np.testing.assert_allclose(losses(run), losses(two), rtol=1e-5)
