"""Every worker of one or more Cloud TPU VM slices, over ssh.

    python -m experiments.launch.tpu_vm --name=slice-a,slice-b --zone=ZONE [--project=PROJECT]
        [--directory=sleep_jax] [--python=.venv/bin/python] [--dry_run] --
        cellular_automata --preset=paper --workdir=/mnt/shared/runs

Each worker needs a checkout and an environment, and all of them the shared --workdir (Filestore).
gcloud shows what workers print when they end; a slice that was preempted goes on by the same
command. Google maintains this interface but puts no new TPUs behind it: for TPU7x use xpk.
"""

import sys

from absl import flags

from experiments.launch import commands
from experiments.launch.commands import Command
from sleep_jax.errors import UserError

FLAGS = flags.FlagValues()
_NAME = flags.DEFINE_list(
    "name",
    None,
    "Of the TPU VM; several are slices of one sweep.",
    required=True,
    flag_values=FLAGS,
)
_ZONE = flags.DEFINE_string("zone", None, "Where they are.", required=True, flag_values=FLAGS)
_PROJECT = flags.DEFINE_string("project", None, "Default: gcloud's.", flag_values=FLAGS)
_DIRECTORY = flags.DEFINE_string(
    "directory", "sleep_jax", "The checkout on a worker, from its home.", flag_values=FLAGS
)
_PYTHON = flags.DEFINE_string(
    "python", ".venv/bin/python", "Interpreter, from the checkout.", flag_values=FLAGS
)
commands.define_dry_run(FLAGS)


def build(experiment: Command) -> list[Command]:
    """One command a slice."""
    if not _NAME.value:
        raise UserError("--name= is empty; allowed: at least one slice")
    for name in _NAME.value:
        commands.check_name("name", name)
    if len(set(_NAME.value)) < len(_NAME.value):
        raise UserError(f"--name={','.join(_NAME.value)} names a slice twice; allowed: each once")
    where = [f"--zone={_ZONE.value}"]
    if _PROJECT.value:
        where.append(f"--project={_PROJECT.value}")
    line = commands.on_cluster(experiment, _DIRECTORY.value, _PYTHON.value)
    ssh = ["gcloud", "compute", "tpus", "tpu-vm", "ssh"]
    return [[*ssh, name, *where, "--worker=all", f"--command={line}"] for name in _NAME.value]


if __name__ == "__main__":
    sys.exit(commands.main(sys.argv, FLAGS, build, commands.at_once))
