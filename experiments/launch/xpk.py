"""Workloads on GKE, one a slice, through xpk.

    python -m experiments.launch.xpk --workload=sleep --cluster=CLUSTER --tpu_type=v5litepod-256
        --image=IMAGE [--slices=4] [--zone=ZONE] [--project=PROJECT] [--restarts=10]
        [--directory=/app] [--python=python3] [--dry_run] --
        cellular_automata --preset=paper --workdir=/mnt/shared/runs

The image holds the checkout and its packages. xpk returns once a workload is queued.
"""

import sys

from absl import flags

from experiments.launch import commands
from experiments.launch.commands import Command

FLAGS = flags.FlagValues()
_WORKLOAD = flags.DEFINE_string(
    "workload", None, "Name; -0, -1, ... is added for each slice.", required=True, flag_values=FLAGS
)
_CLUSTER = flags.DEFINE_string("cluster", None, "Where.", required=True, flag_values=FLAGS)
_TPU_TYPE = flags.DEFINE_string(
    "tpu_type", None, "Such as v5litepod-256.", required=True, flag_values=FLAGS
)
_IMAGE = flags.DEFINE_string("image", None, "Docker image.", required=True, flag_values=FLAGS)
_SLICES = flags.DEFINE_integer(
    "slices", 1, "Slices that share the sweep.", lower_bound=1, flag_values=FLAGS
)
_ZONE = flags.DEFINE_string("zone", None, "Default: gcloud's.", flag_values=FLAGS)
_PROJECT = flags.DEFINE_string("project", None, "Default: gcloud's.", flag_values=FLAGS)
_RESTARTS = flags.DEFINE_integer(
    "restarts", 10, "Restarts after a failure or preemption.", lower_bound=0, flag_values=FLAGS
)
_DIRECTORY = flags.DEFINE_string(
    "directory", "/app", "The checkout in the image.", flag_values=FLAGS
)
_PYTHON = flags.DEFINE_string("python", "python3", "Interpreter in the image.", flag_values=FLAGS)
commands.define_dry_run(FLAGS)


def build(experiment: Command) -> list[Command]:
    """One command a slice: each is a run of its own, not one run over all slices."""
    commands.check_name("workload", _WORKLOAD.value)
    line = commands.on_cluster(experiment, _DIRECTORY.value, _PYTHON.value)
    options = [
        f"--cluster={_CLUSTER.value}",
        f"--tpu-type={_TPU_TYPE.value}",
        "--num-slices=1",
        f"--docker-image={_IMAGE.value}",
        f"--max-restarts={_RESTARTS.value}",
    ]
    options += [
        f"--{flag.name}={flag.value}" for flag in (_ZONE, _PROJECT) if flag.value is not None
    ]
    return [
        [*"xpk workload create".split(), f"--workload={_WORKLOAD.value}-{index}", *options,
         f"--command={line}"]
        for index in range(_SLICES.value)
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(commands.main(sys.argv, FLAGS, build, commands.in_turn))
