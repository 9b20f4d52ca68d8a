"""Processes of one run on this machine, over loopback, with simulated devices: for tests.

python -m experiments.launch.local --processes=2 --devices=4 [--dry_run] --
    cellular_automata --preset=smoke --workdir=DIR --data=4 --tensor=2
"""

import os
import socket
import sys

from absl import flags

from experiments.launch import commands
from experiments.launch.commands import Command

FLAGS = flags.FlagValues()
_PROCESSES = flags.DEFINE_integer(
    "processes", 2, "Processes of the run.", lower_bound=1, flag_values=FLAGS
)
_DEVICES = flags.DEFINE_integer(
    "devices", 1, "Simulated devices of each process.", lower_bound=1, flag_values=FLAGS
)
commands.define_dry_run(FLAGS)


def build(experiment: Command) -> list[Command]:
    """One command a process."""
    number = _PROCESSES.value
    count = f"--xla_force_host_platform_device_count={_DEVICES.value}"
    xla_flags = f"{os.environ.get('XLA_FLAGS', '')} {count}".strip()
    run = ["env", "JAX_PLATFORMS=cpu", f"XLA_FLAGS={xla_flags}"]
    run += [sys.executable, "-m", "experiments", *experiment]
    if number == 1:
        return [run]
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    run += [f"--coordinator=localhost:{port}", f"--num_processes={number}"]
    return [[*run, f"--process_id={index}"] for index in range(number)]


if __name__ == "__main__":
    sys.exit(commands.main(sys.argv, FLAGS, build, commands.at_once))
