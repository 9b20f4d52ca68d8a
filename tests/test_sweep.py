"""Workers of one launcher; whole sweeps are run in test_experiments."""

import multiprocessing as mp
import threading

from experiments import cells, presets, sweep
from sleep_jax.distributed import MeshConfig

BASE = presets.smoke().config
OPTIONS = sweep.Options(flags={}, mesh=MeshConfig(), compilation_cache="", profile_steps=None)


def test_any_number_of_cells_reaches_the_workers(tmp_path):
    todo = [cells.hybrid(BASE, 1, seed) for seed in range(200)]
    for cell in todo:  # finished in the meantime, so that a worker is done with it at once
        path = tmp_path / "cells" / cell.name
        path.mkdir(parents=True)
        (path / "row.json").write_text("{}")
    codes = []
    launcher = threading.Thread(
        target=lambda: codes.append(
            sweep._run_in_workers(todo, tmp_path, 2, OPTIONS, lambda: False)
        ),
        daemon=True,  # where it stands still the test ends all the same
    )
    launcher.start()
    launcher.join(timeout=120)
    assert codes == [0]


def test_each_cell_is_taken_once():
    todo = [cells.hybrid(BASE, 1, seed) for seed in range(3)]
    taken = mp.get_context("spawn").Value("i", 0)
    assert [sweep._next(todo, taken) for _ in range(5)] == [*todo, None, None]
