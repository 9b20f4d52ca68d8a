"""One process of a run, for tests/test_processes.py.

    python -m tests.one_process train|slowly|digest DIRECTORY INDEX NUMBER PORT DATA FSDP TENSOR

`train` goes on with a small run to its end, `slowly` so that a signal arrives in mid-run; `digest`
prints that of the parameters of the newest checkpoint as restored here. With NUMBER = 1 nobody is
joined.
"""

import dataclasses
import hashlib
import sys
import time
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from experiments import cli
from sleep_jax import distributed, processes
from sleep_jax.distributed import MeshConfig
from sleep_jax.training import loop
from tests import tiny

STEPS = 20
STEP_SECONDS = {"train": 0.0, "slowly": 0.1}


def config():
    run = tiny.run_config(
        steps=STEPS, log_every=1, checkpoint_every=5, keep_checkpoints=9, evaluations=1
    )
    return dataclasses.replace(run, model=tiny.with_rule(tiny.ONE_BLOCK, "hebbian"))


def digest(leaves) -> str:
    """Of the bits of NumPy arrays, in this order."""
    return hashlib.sha256(b"".join(leaf.tobytes() for leaf in leaves)).hexdigest()


def main() -> int:
    task, directory, index, number, port, *sizes = sys.argv[1:]
    cli.set_up_logging()
    if int(number) > 1:
        processes.start(f"localhost:{port}", int(number), int(index))
    mesh = distributed.make_mesh(MeshConfig(*map(int, sizes)))
    assert jax.device_count() == 8 and jax.process_count() == int(number)
    if task == "digest":
        run = loop._Run(config(), Path(directory), mesh)
        leaves = [
            np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
            for leaf in jax.tree.leaves(run.state.params)
        ]
        print("digest", run.step, digest(leaves))
        run.close()
        return 0

    def nap() -> bool:
        time.sleep(STEP_SECONDS[task])
        return False

    try:
        loop.train(config(), Path(directory), mesh, nap)
    except loop.Interrupted as error:
        print(error)
        return 143
    return 0


if __name__ == "__main__":
    sys.exit(main())
