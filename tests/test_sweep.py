"""Workers of one launcher; whole sweeps are run in test_experiments."""

import dataclasses
import multiprocessing as mp
import os
import signal
import sys
import threading
import time

import pytest

from experiments import cells, presets, sweep
from experiments.cli import STOPPED, StopSignal
from sleep_jax import records
from sleep_jax.config import to_dict
from sleep_jax.distributed import MeshConfig
from sleep_jax.errors import UserError

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


def test_the_seeds_of_a_cell_are_of_one_configuration(tmp_path):
    def planned(seed, match="tokens", **train):
        config = dataclasses.replace(BASE, train=dataclasses.replace(BASE.train, **train))
        return dataclasses.replace(cells.hybrid(config, 1, seed), match=match)

    first = planned(3)
    path = tmp_path / "cells" / first.name
    path.mkdir(parents=True)
    records.write_json(path / "config.json", to_dict(first.config))
    scout = {"evaluation_split": "validation"}
    sweep.check([planned(12), planned(4, "flops", **scout)], tmp_path, MeshConfig())
    with pytest.raises(UserError, match="train.evaluation_split='test', asked was 'validation'"):
        sweep.check([planned(12, **scout)], tmp_path, MeshConfig())


@pytest.mark.parametrize("text", ["[]", "{}", "{half", '{"cells": 3}'])
def test_a_plan_that_cannot_be_read_is_one_line(tmp_path, text):
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(UserError, match="plan.json is not readable"):
        sweep.write_plan([], tmp_path, {})


def test_each_cell_is_taken_once():
    todo = [cells.hybrid(BASE, 1, seed) for seed in range(3)]
    taken = mp.get_context("spawn").Value("i", 0)
    assert [sweep._next(todo, taken) for _ in range(5)] == [*todo, None, None]


@pytest.mark.parametrize(
    "codes, code, ran", [([0, 1, 2, 0], 1, 4), ([0, STOPPED, 0], STOPPED, 2), ([0, 0], 0, 2)]
)
def test_a_cell_that_fails_leaves_the_others_their_turn(codes, code, ran):
    seen = []
    found = sweep._one_by_one(
        [cells.hybrid(BASE, 1, seed) for seed in range(len(codes))],
        lambda cell: seen.append(cell) or codes[cell.config.train.seed],
    )
    assert (found, len(seen)) == (code, ran)


@pytest.mark.parametrize("first, code, second", [(1, 1, 0), (STOPPED, STOPPED, -signal.SIGTERM)])
def test_a_worker_that_fails_leaves_the_others_at_work(first, code, second):
    context = mp.get_context("spawn")
    ends = context.Process(target=sys.exit, args=(first,))
    stays = context.Process(target=time.sleep, args=(5 if first == 1 else 60,))
    for worker in (stays, ends):
        worker.start()
    assert sweep._wait_for([ends, stays], lambda: False) == code
    assert stays.exitcode == second


def _sleeps_until_asked():
    stop = StopSignal()
    while not stop():
        time.sleep(0.05)
    sys.exit(STOPPED)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_that_is_still_importing_hears_the_signal_later(number):
    worker = mp.get_context("spawn").Process(target=_sleeps_until_asked)
    mp.get_context("spawn").Value("i", 0)  # as in a sweep: its tracker, once started, is there
    sweep._start([worker])
    os.kill(worker.pid or 0, number)
    worker.join(timeout=60)
    assert worker.exitcode == STOPPED
