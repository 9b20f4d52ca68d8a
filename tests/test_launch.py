"""Launchers: what they would run, that it arrives unharmed, bad input, and exit codes.

tests/test_processes_launched.py runs `launch.local` for real.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# An argument with everything that a shell might take for its own.
NASTY = "--workdir=/mnt/a b'c\"d;touch $HOME/`id`\\ *"
EXPERIMENT = ["cellular_automata", "--preset=paper", NASTY]
LAUNCHERS = {
    "tpu_vm": ["--name=slice-a,slice-b", "--zone=us-east5-a", "--project=p", "--directory=a dir"],
    "xpk": [
        "--workload=sleep",
        "--cluster=c",
        "--tpu_type=v5litepod-16",
        "--image=i",
        "--slices=2",
    ],
    "slurm": ["--nodes=2", "--gpus_per_node=8", "--slices=4", "--time=1:00:00"],
}
# Stands for gcloud, xpk and sbatch: runs what it is to have run elsewhere, and for srun.
FAKE = """#!/usr/bin/env bash
for argument; do
  case $argument in --command=*|--wrap=*) exec sh -c "${argument#*=}";; esac
done
exec "${@:2}"
"""
# One write a line: two of these share a pipe, and where PYTHONUNBUFFERED is set print makes two.
PYTHON = """#!/usr/bin/env python3
import json, os, sys
os.write(1, (json.dumps([os.getcwd(), *sys.argv[1:]]) + "\\n").encode())
"""


def launch(name, *arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", f"experiments.launch.{name}", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=60, **options,
    )  # fmt: skip


def printed(name, *flags):
    result = launch(name, *LAUNCHERS.get(name, []), *flags, "--dry_run", "--", *EXPERIMENT)
    assert result.returncode == 0, result.stderr
    return [shlex.split(line) for line in result.stdout.splitlines()]


def test_a_command_for_each_slice_of_tpu_vms():
    line = shlex.join([".venv/bin/python", "-m", "experiments", *EXPERIMENT, "--coordinator=auto"])
    assert printed("tpu_vm") == [
        ["gcloud", "compute", "tpus", "tpu-vm", "ssh", name, "--zone=us-east5-a", "--project=p",
         "--worker=all", f"--command=cd 'a dir' && exec {line}"]
        for name in ("slice-a", "slice-b")
    ]  # fmt: skip


def test_a_workload_for_each_slice_on_gke():
    line = shlex.join(["python3", "-m", "experiments", *EXPERIMENT, "--coordinator=auto"])
    assert printed("xpk", "--zone=z") == [
        ["xpk", "workload", "create", f"--workload=sleep-{index}", "--cluster=c",
         "--tpu-type=v5litepod-16", "--num-slices=1", "--docker-image=i", "--max-restarts=10",
         "--zone=z", f"--command=cd /app && exec {line}"]
        for index in range(2)
    ]  # fmt: skip


def test_an_array_of_jobs_on_slurm():
    ((*options, wrapped),) = printed("slurm")
    assert options == ["sbatch", "--job-name=sleep_jax", "--nodes=2", "--ntasks-per-node=8",
                       "--gpus-per-node=8", "--requeue", "--signal=TERM@120", "--array=0-3",
                       "--time=1:00:00"]  # fmt: skip
    assert wrapped.startswith("--wrap=srun --kill-on-bad-exit=1 bash -c ")


def test_local_processes_find_one_another():
    commands = printed("local", "--processes=3", "--devices=2")
    for index, command in enumerate(commands):
        assert command[:2] == ["env", "JAX_PLATFORMS=cpu"]
        assert command[2].endswith("--xla_force_host_platform_device_count=2")
        assert command[6:-3] == EXPERIMENT
        coordinator, number, own = command[-3:]
        assert coordinator == commands[0][-3] and coordinator.startswith("--coordinator=localhost:")
        assert (number, own) == ("--num_processes=3", f"--process_id={index}")
    (alone,) = printed("local", "--processes=1")
    assert alone[6:] == EXPERIMENT


@pytest.fixture
def fakes(tmp_path):
    """A directory with stand-ins for the programs that launchers call, and for Python."""
    for name, text in (*((n, FAKE) for n in ("gcloud", "xpk", "sbatch", "srun")), ("py", PYTHON)):
        path = tmp_path / name
        path.write_text(text)
        path.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize("name", LAUNCHERS)
def test_arguments_arrive_as_they_were_given(fakes, name):
    place = fakes / "it's a place"
    place.mkdir()
    flags = (f"--directory={place}", f"--python={fakes / 'py'}")
    environment = {**os.environ, "PATH": f"{fakes}:{os.environ['PATH']}"}
    result = launch(name, *LAUNCHERS[name], *flags, "--", *EXPERIMENT, env=environment)
    assert result.returncode == 0, result.stderr
    arrived = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("[")]
    assert len(arrived) == (1 if name == "slurm" else 2)
    for said in arrived:
        assert said == [str(place), "-m", "experiments", *EXPERIMENT, "--coordinator=auto"]


@pytest.mark.parametrize("name", LAUNCHERS)
def test_what_fails_says_so_with_its_exit_code(fakes, name):
    (fakes / "py").write_text("#!/bin/sh\nexit 143\n")
    environment = {**os.environ, "PATH": f"{fakes}:{os.environ['PATH']}"}
    flags = ("--directory=/", f"--python={fakes / 'py'}")
    result = launch(name, *LAUNCHERS[name], *flags, "--", *EXPERIMENT, env=environment)
    assert result.returncode == 143


def test_a_signal_goes_on_to_what_was_started(fakes):
    (fakes / "py").write_text("#!/bin/sh\necho began\nexec sleep 60\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments.launch.tpu_vm", *LAUNCHERS["tpu_vm"],
         "--directory=/", f"--python={fakes / 'py'}", "--", *EXPERIMENT],
        cwd=ROOT, env={**os.environ, "PATH": f"{fakes}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    while process.stdout.readline() != "began\n":
        assert process.poll() is None
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 128 + signal.SIGTERM
    assert time.monotonic() - begun < 20


BAD = [
    ("local", ["--"], "no experiment given; allowed: -- NAME [--flag=value], NAME of cell"),
    ("local", [], "no experiment given"),
    ("local", ["--", "dreams"], "experiment dreams after -- is unknown; allowed: cellular_autom"),
    ("local", ["--processes=0", "--", "depo"], "--processes=0"),
    ("local", ["depo"], "argument 'depo' is not understood"),
    ("local", ["--nope=1", "--", "depo"], "'nope'; allowed: --processes, --devices, --dry_run"),
    ("slurm", ["--gpus_per_node=1", "--", "depo", "--process_id", "3"], "--process_id after --"),
    ("slurm", ["--", "depo"], "--gpus_per_node"),
    ("tpu_vm", ["--name=", "--zone=z", "--", "depo"], "--name= is empty; allowed: at least one"),
    ("tpu_vm", ["--name=a", "--zone=z", "--", "depo", "--coordinator=auto"], "set by the launcher"),
    ("tpu_vm", ["--name=-x", "--zone=z", "--", "depo"], "--name=-x is not possible; allowed: sma"),
    ("tpu_vm", ["--name=a,a", "--zone=z", "--", "depo"], "--name=a,a names a slice twice"),
    ("tpu_vm", ["--name=a", "--", "depo"], "--zone"),
    ("xpk", ["--workload=A", "--cluster=c", "--tpu_type=t", "--image=i", "--", "depo"],
     "--workload=A is not possible"),
]  # fmt: skip


@pytest.mark.parametrize(
    "name, arguments, message", BAD, ids=[" ".join([n, *a]) for n, a, _ in BAD]
)
def test_bad_input_is_one_line_and_exit_code_2(name, arguments, message):
    result = launch(name, *arguments)
    assert result.returncode == 2 and result.stdout == ""
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and message in lines[0]


def test_a_program_that_is_not_here_is_one_line(tmp_path):
    arguments = (*LAUNCHERS["xpk"], "--", *EXPERIMENT)
    result = launch("xpk", *arguments, env={**os.environ, "PATH": str(tmp_path)})
    assert result.returncode == 2
    assert result.stderr == "error: xpk is not installed here; allowed: --dry_run\n"
