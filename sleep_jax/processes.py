"""Several processes of one run: how they start, agree, and end when one of them is lost.

All of them run the same program; the first one (`is_first`) writes what is not sharded. JAX's
distributed service watches them: a process that is not heard of for `HEARTBEAT_SECONDS` is given
up, and then it ends the others, which might otherwise wait in a collective for ever.
"""

import atexit
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

from sleep_jax.errors import UserError

T = TypeVar("T")
HEARTBEAT_SECONDS = 20
START_SECONDS = 120
END_SECONDS = 60  # for which a process that has ended waits for the others
COMPILE_SECONDS = 1800  # by which one process may compile longer than another
_COMPILED: dict[Any, Any] = {}
_LONGEST = 500  # bytes of a text that processes agree on
_ABSENT = (
    "error: --num_processes={}: not all of them have joined in --start_seconds={}; allowed: as "
    "many as are started, with --process_id from 0 on"
)
_LOST = (
    "error: a process of this run was lost, or it ended before the others, which have ended as "
    "well; the last checkpoint is kept: start all processes again to go on from it"
)


def start(
    coordinator: str | None = None,
    number: int | None = None,
    index: int | None = None,
    start_seconds: int = START_SECONDS,
) -> None:
    """Joins the other processes; before anything that asks JAX for devices.

    Args:
      coordinator: `host:port` of the first process. None lets JAX find it, the number and the
        index from the cluster: Cloud TPU, GKE, SLURM or Open MPI.
      number: of processes.
      index: of this process, 0 .. number-1.
      start_seconds: how long the processes wait for one another.

    Raises:
      UserError: the coordinator cannot be reached in that time, or there is no known cluster.
    """
    if coordinator is not None and index != 0:
        _wait_for(coordinator, start_seconds)
    joined = _watch_this_process(_ABSENT.format(number or "auto", start_seconds))
    try:
        jax.distributed.initialize(
            coordinator,
            number,
            index,
            initialization_timeout=start_seconds,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=END_SECONDS,
        )
    except ValueError as error:
        raise UserError(
            f"--coordinator=auto finds no cluster ({error}); allowed: host:port, with "
            "--num_processes and --process_id"
        ) from error
    joined()


def _wait_for(coordinator: str, seconds: int) -> None:
    """The service itself would abort, with a stack trace."""
    host, _, port = coordinator.rpartition(":")
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise UserError(
                    f"--coordinator={coordinator} cannot be reached in {seconds} s ({error}); "
                    "allowed: host:port of the process with --process_id=0, which must be running"
                ) from error
        time.sleep(0.5)


def _watch_this_process(absent: str) -> Callable[[], None]:
    """Leaves a child that says in one line what happened, should this process be aborted or killed.

    The service ends a process from C++, where neither Python's handlers nor its `finally` run.

    Args:
      absent: the line until the function that is returned has been called.
    """
    script = "import sys; s = sys.stdin.read(); 'ended' in s or sys.exit(sys.argv[2 if s else 1])"
    command = [sys.executable, "-S", "-c", script, absent, _LOST]
    watcher = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    assert watcher.stdin is not None
    told = watcher.stdin

    def joined() -> None:
        told.write(b"joined ")
        told.flush()

    def end_well() -> None:
        jax.distributed.shutdown()  # waits for the others, and aborts if one of them is lost
        watcher.communicate(b"ended")

    atexit.register(end_well)
    return joined


def is_first() -> bool:
    """Whether this is the process that writes; a single process is."""
    return jax.process_index() == 0


def compiled(function: Any, *arguments: Any) -> jax.stages.Compiled:
    """A jitted function compiled for these arguments; of several processes when all have done so.

    The first collective on CPUs gives up after 30 s on a process that still compiles.
    """
    key = (function, str(jax.tree.map(jax.typeof, arguments)))
    if key not in _COMPILED:
        _COMPILED[key] = function.lower(*arguments).compile()
        if jax.process_count() > 1:
            name = f"sleep_jax_compiled_{len(_COMPILED)}"
            multihost.sync_global_processes(name, timeout=COMPILE_SECONDS)
    return _COMPILED[key]


def agree(text: str) -> str:
    """What the first process that has something to say says; the same in all of them."""
    if jax.process_count() == 1:
        return text
    encoded = text.encode()[:_LONGEST]
    padded = np.zeros(_LONGEST, np.uint8)
    padded[: len(encoded)] = np.frombuffer(encoded, np.uint8)
    for row in np.asarray(multihost_utils.process_allgather(padded)).reshape(-1, _LONGEST):
        if row.any():
            return bytes(row[row > 0]).decode(errors="replace")
    return ""
