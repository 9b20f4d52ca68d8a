"""Do slow weights keep what fast weights have to forget, if the one teach the other in time?

    python -m experiments.knowledge_seeding --preset=cpu [--pairs=8] [--days=6] [--passes=1]
        [--seeds=0,1] [--arm=dreams --arm=text ...] [--expert_units=8] [--updates=200]
        [--workdir=DIR] [--dry_run]

Knowledge Seeding (arXiv 2606.03979) at the size of a laptop, with the fast weights of a sleeping
hybrid as the memory that is about to be overwritten. The model learns to recall pairs from one
window, which its fast weights alone carry (sleep_jax/tasks/recall.py). Then it lives for some days:
on each it sleeps over a window of new pairs and is asked for those of all days so far. Either fast
weights go on from day to day; or what they hold is taught to the MLPs, in ways that differ in what
is said to whom (experiments/days.py), and they begin empty. Trained besides: a model that reads all
days into its fast weights.
"""

import dataclasses
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from experiments import binary, cells, cli, presets, until_learned
from experiments.cells import Cell
from experiments.presets import Preset
from experiments.readings import write_missing
from experiments.recall_pairs import PAIRS
from sleep_jax.config import RunConfig
from sleep_jax.errors import UserError
from sleep_jax.model.config import GatedDeltaNetConfig, require
from sleep_jax.tasks.recall import RecallConfig

if TYPE_CHECKING:
    from experiments.days import Arm

log = logging.getLogger("sleep_jax")

_DAYS = flags.DEFINE_integer("days", 6, "D, days of a stream.", lower_bound=2)
_UNITS = flags.DEFINE_integer("expert_units", 8, "Hidden units of an expert.", lower_bound=1)
_UPDATES = flags.DEFINE_integer(
    "updates", None, "Of a day's consolidation; default: 200, 3 of the smoke preset.", lower_bound=1
)
_UPDATES_OF = {"cpu": 200, "smoke": 3}
_ARM = flags.DEFINE_multi_string("arm", [], "A way to consolidate, may be repeated; none: all.")
FAST_WEIGHTS = "fast weights go on"
_RATES = {True: 1e-2, False: 1e-3}  # of experts, and of the MLPs themselves


def cpu() -> Preset:
    """`make experiment EXP=knowledge_seeding`: 8 pairs a day, 6 days, 31 thousand parameters.

    One seed: 10.5 minutes on two cores of an Intel Xeon (Emerald Rapids), with the installation.
    Rates were chosen on the validation split, one seed: of training the better of two, of experts
    and of MLPs the best of three. Expected: experiments/results/knowledge_seeding/cpu.
    """
    task = RecallConfig(pairs=8, keys=48, values=16, questions=8, window=16)
    train = {"batch_size": 128, "tokens": 2400 * 128 * 32, "accumulate": 2}
    preset = presets.on_task(presets.cpu(), task, {task.pairs: (0,)}, **train)
    preset = until_learned.at_rate(preset, muon_learning_rate=5e-3)
    model = dataclasses.replace(
        preset.config.model,
        d_model=32,
        mlp_hidden=64,
        gated_delta_net=GatedDeltaNetConfig(key_heads=2, value_heads=2, key_dim=16, value_dim=16),
    )
    return dataclasses.replace(
        _hybrids(preset),
        config=dataclasses.replace(preset.config, model=model),
        flops_per_second=6e9,
        basis="6 GFLOP/s a core at this size, measured on an Intel Xeon beside other work",
    )


def smoke() -> Preset:
    """Every part of the real thing, too short to learn. Used by the tests."""
    task = RecallConfig(pairs=4, keys=24, values=4, questions=4, window=8)
    preset = presets.shrink(presets.cpu(), task)
    return _hybrids(dataclasses.replace(preset, depths={task.pairs: (0,)}))


def _hybrids(preset: Preset) -> Preset:
    """The preset with hybrids alone, at N = 1."""
    none = {"match": (), "evicted_seeds": (), "full_cache_seeds": ()}
    return dataclasses.replace(preset, passes=(1,), **none)  # type: ignore[arg-type]


def _a_window_a_day(config: RunConfig) -> RunConfig:
    """As many keys as a stream has pairs, and a question about each pair of a day."""
    task = config.task
    assert isinstance(task, RecallConfig)
    day = {"keys": task.pairs * _DAYS.value, "window": 2 * task.pairs, "questions": task.pairs}
    return dataclasses.replace(config, task=dataclasses.replace(task, **day))


def _of_a_day_and_of_all(at: Mapping[int, RunConfig], preset: Preset) -> list[Cell]:
    """Models of one day, and as many that read whole streams, on as many sequences."""
    from experiments import days

    if len(at) > 1:
        given = ",".join(map(str, at))
        raise UserError(f"--pairs={given} is not possible; allowed: one number")
    ((pairs, config),) = at.items()
    cache = config.sleep.cache
    require(
        cache == "evict", "sleep.cache", cache, "evict, so that fast weights are all that is kept"
    )
    arms()  # so that a wrong name is not told after training
    assert isinstance(config.task, RecallConfig)
    stream = dataclasses.replace(config, task=days.whole(config.task))
    scale = stream.tokens_per_step / config.tokens_per_step
    train = dataclasses.replace(config.train, tokens=round(scale * config.train.tokens))
    return [
        cells.hybrid(kind, passes, seed)
        for kind in (config, dataclasses.replace(stream, train=train))
        for passes in preset.passes
        for seed in preset.depths[pairs]
    ]


def arms() -> list["Arm"]:
    """What is compared.

    Raises:
      UserError: there is no arm of a name that was given.
    """
    from experiments.days import DREAMS, ONE_TEACHER, STORED, TEXT, TODAY, Arm
    from sleep_jax.knowledge_seeding import Seeding

    def arm(name: str, taught: str, *, rehearsed: bool, expert: bool = True, imitation: float = 0):
        units = _UNITS.value if expert else 0
        updates = _UPDATES.value or _UPDATES_OF[flags.FLAGS.preset]
        rate = _RATES[expert]
        method = Seeding(units, updates, learning_rate=rate, imitation=imitation)
        return Arm(name, taught, method, rehearsed)

    possible = (
        arm("dreams", DREAMS, rehearsed=True),
        arm("dreams, half for the reward", DREAMS, rehearsed=True, imitation=0.5),
        arm("dreams, no expert", DREAMS, rehearsed=True, expert=False),
        arm("dreams, nothing rehearsed", DREAMS, rehearsed=False),
        arm("dreams of one teacher", ONE_TEACHER, rehearsed=True),
        arm("dreams of today", TODAY, rehearsed=True),
        arm("text", TEXT, rehearsed=False),
        arm("text, no expert", TEXT, rehearsed=False, expert=False),
        arm("text, rehearsed", TEXT, rehearsed=True),
        arm("all text kept, rehearsed", STORED, rehearsed=True),
    )
    names = [arm.name for arm in possible]
    for given in _ARM.value:
        if given not in names:
            raise UserError(f"--arm={given} is unknown; allowed: {'; '.join(names)}")
    return [arm for arm in possible if arm.name in (_ARM.value or names)]


def _read(planned: Sequence[Cell], directory: Path) -> None:
    """Writes readings.json beside the row of every run that has none of these arms."""
    from experiments import days

    def measured(cell: Cell, run: Path) -> dict[str, Any]:
        task = cell.config.task
        assert isinstance(task, RecallConfig)
        return {"keys": task.keys, "streams": days.STREAMS, "readings": readings(run)}

    compared = [dataclasses.asdict(arm) for arm in arms()]
    write_missing(planned, directory, measured, {"arms": compared})


def readings(run: Path) -> list[dict[str, Any]]:
    """Day by day, what a run keeps in its fast weights; one of single days by each arm as well."""
    from experiments import days
    from sleep_jax import trained

    model = trained.load(run)
    task = model.config.task
    assert isinstance(task, RecallConfig)
    log.info("reading %s: %s", run.name, FAST_WEIGHTS)
    found = [{"arm": FAST_WEIGHTS, **day} for day in days.kept_in_fast_weights(model)]
    if task != days.whole(task):
        for arm in arms():
            log.info("reading %s: %s", run.name, arm.name)
            found += [{"arm": arm.name, **day} for day in days.consolidated(model, arm)]
    return found


EXPERIMENT = binary.Experiment(
    name="knowledge_seeding",
    presets={"cpu": cpu, "smoke": smoke},
    depth_flag=PAIRS,
    lowest_depth=4,
    about=lambda task: {},
    adapt=_a_window_a_day,
    swept={"task.keys": "days", "task.window": "pairs", "task.questions": "pairs"},
    planned=_of_a_day_and_of_all,
    read=_read,
)


def main() -> int:
    """Plans, runs, reads and reports."""
    return binary.main(EXPERIMENT)


if __name__ == "__main__":
    sys.exit(cli.run(main, sys.argv))
