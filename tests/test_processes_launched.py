"""The binary in processes of its own, as a launcher starts it.

Runs in `make test-multidevice`.
"""

import json
import os
import socket
import subprocess
import sys

from tests import marks
from tests.from_outside import CACHE, ROOT

pytestmark = marks.needs_eight_devices


def test_the_local_launcher_runs_a_sweep_in_two_processes(tmp_path):
    command = [sys.executable, "-m", "experiments.launch.local", "--processes=2", "--devices=4",
               "--", "cellular_automata", "--preset=smoke", f"--workdir={tmp_path}",
               "--passes=1", "--seeds=0", "--baselines=evicted", "--fsdp=2", "--tensor=1",
               "--set=train.evaluations=1"]  # fmt: skip
    environment = {**os.environ, "XLA_FLAGS": "", **CACHE}
    result = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400
    )
    assert result.returncode == 0, result.stderr
    directory = tmp_path / "cellular_automata" / "smoke"
    results = json.loads((directory / "results.json").read_text())
    assert results["missing"] == [] and len(results["rows"]) == 2
    environment = json.loads((directory / "cells/hybrid-N1-t1-W7-s0/environment.json").read_text())
    assert environment["processes"] == 2
    assert environment["mesh"] == {"data": 4, "fsdp": 2, "tensor": 1}


def test_processes_that_do_not_come_are_named():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "experiments", "cellular_automata", "--preset=smoke",
               f"--coordinator=localhost:{port}", "--num_processes=2", "--process_id=0",
               "--start_seconds=3"]  # fmt: skip
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode != 0
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("error: "))
    assert "--num_processes=2: not all of them have joined in --start_seconds=3" in line


def test_a_coordinator_that_cannot_be_reached_is_one_line():
    command = [sys.executable, "-m", "experiments", "cellular_automata", "--preset=smoke",
               "--coordinator=localhost:9", "--num_processes=2", "--process_id=1",
               "--start_seconds=2"]  # fmt: skip
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and "--coordinator=localhost:9 cannot be reached in 2 s" in lines[0]
