"""Flags that say what an experiment runs on: the mesh of devices, and the processes of one run.

    --data=-1 --fsdp=4 --tensor=2                     the mesh; -1 is what the others leave
    --coordinator=auto                                many processes, found by JAX from the cluster
    --coordinator=host:port --num_processes=2 --process_id=0     or told

They are no part of a run's configuration: a run goes on from its checkpoint on another mesh and
with another number of processes. environment.json records them.
"""

from typing import TYPE_CHECKING

from absl import flags

from sleep_jax.errors import UserError

if TYPE_CHECKING:
    from sleep_jax.distributed import MeshConfig

_DATA = flags.DEFINE_integer("data", -1, "Shards of the batch alone; -1: the rest of the devices.")
_FSDP = flags.DEFINE_integer("fsdp", 1, "Shards of the batch, the parameters and the optimizer.")
_TENSOR = flags.DEFINE_integer("tensor", 1, "Shards of the heads and of the MLP's columns.")
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "host:port of process 0, or auto; default: a single process."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Processes of the run.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this one is, from 0.")
_START_SECONDS = flags.DEFINE_integer(
    "start_seconds", 120, "How long processes wait for one another at the start."
)


def mesh_config() -> "MeshConfig":
    """The mesh as flags have it."""
    from sleep_jax.distributed import MeshConfig

    return MeshConfig(_DATA.value, _FSDP.value, _TENSOR.value)


def start() -> int:
    """Joins the other processes of the run, if there are; returns their number.

    To be called once the environment is set, before anything asks JAX for devices.

    Raises:
      UserError: flags that do not go together, or a coordinator that cannot be reached.
    """
    coordinator, number, index = _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value
    if coordinator is None:
        for flag in (_NUM_PROCESSES, _PROCESS_ID):
            if flag.value is not None:
                raise UserError(f"--{flag.name}={flag.value} needs --coordinator=host:port")
        return 1
    if coordinator != "auto":
        _, colon, port = coordinator.rpartition(":")
        if not colon or not port.isdecimal():
            raise UserError(
                f"--coordinator={coordinator} is not possible; allowed: host:port, or auto"
            )
        if number is None or index is None or not 0 <= index < number:
            raise UserError(
                f"--process_id={index} --num_processes={number} is not possible with "
                f"--coordinator={coordinator}; allowed: 0 <= process_id < num_processes"
            )
    import jax

    from sleep_jax import processes

    processes.start(
        None if coordinator == "auto" else coordinator, number, index, _START_SECONDS.value
    )
    return jax.process_count()
