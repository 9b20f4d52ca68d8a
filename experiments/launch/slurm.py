"""Jobs of a SLURM cluster with GPUs, one process a GPU.

    python -m experiments.launch.slurm --nodes=2 --gpus_per_node=8 [--slices=4] [--time=24:00:00]
        [--partition=P] [--account=A] [--directory=.] [--python=.venv/bin/python] [--dry_run] --
        cellular_automata --preset=paper --workdir=/shared/runs

sbatch returns once the job is queued. A job that is preempted is queued again and goes on from its
checkpoints. Two minutes before the time is up SIGTERM makes it save and end: submit it again.
"""

import shlex
import sys

from absl import flags

from experiments.launch import commands
from experiments.launch.commands import Command

FLAGS = flags.FlagValues()
_NODES = flags.DEFINE_integer("nodes", 1, "Of a slice.", lower_bound=1, flag_values=FLAGS)
_GPUS = flags.DEFINE_integer(
    "gpus_per_node", None, "GPUs of a node.", lower_bound=1, required=True, flag_values=FLAGS
)
_SLICES = flags.DEFINE_integer(
    "slices", 1, "Jobs of an array that share the sweep.", lower_bound=1, flag_values=FLAGS
)
_TIME = flags.DEFINE_string("time", None, "Limit, as sbatch has it.", flag_values=FLAGS)
_PARTITION = flags.DEFINE_string("partition", None, "Default: the cluster's.", flag_values=FLAGS)
_ACCOUNT = flags.DEFINE_string("account", None, "Default: the user's.", flag_values=FLAGS)
_DIRECTORY = flags.DEFINE_string(
    "directory", ".", "The checkout, on a file system that nodes share.", flag_values=FLAGS
)
_PYTHON = flags.DEFINE_string(
    "python", ".venv/bin/python", "Interpreter, from the checkout.", flag_values=FLAGS
)
commands.define_dry_run(FLAGS)


def build(experiment: Command) -> list[Command]:
    """One command, an array of jobs where there are several slices."""
    line = commands.on_cluster(experiment, _DIRECTORY.value, _PYTHON.value)
    # JAX gives a process of SLURM one GPU, that of its local number.
    options = [
        "--job-name=sleep_jax",
        f"--nodes={_NODES.value}",
        f"--ntasks-per-node={_GPUS.value}",
        f"--gpus-per-node={_GPUS.value}",
        "--requeue",
        "--signal=TERM@120",
        f"--array=0-{_SLICES.value - 1}",
    ]
    options += [
        f"--{flag.name}={flag.value}"
        for flag in (_TIME, _PARTITION, _ACCOUNT)
        if flag.value is not None
    ]
    # One process that fails brings the others of its job down.
    step = shlex.join(["srun", "--kill-on-bad-exit=1", "bash", "-c", line])
    return [["sbatch", *options, f"--wrap={step}"]]


if __name__ == "__main__":
    sys.exit(commands.main(sys.argv, FLAGS, build, commands.in_turn))
