"""Rule 110 after sleep: the paper's Fig. 2 and its baselines (arXiv 2605.26099, Section 6.1).

    python -m experiments.cellular_automata --preset=cpu [--passes=1,2,4] [--rollout_steps=2,3]
        [--seeds=0,1,2] [--match=flops] [--workdir=DIR] [--set=model.d_model=128] [--dry_run]

Trains the hybrid for every N at equal tokens, N = 1 again with the FLOPs of the largest N (spent on
tokens, blocks or width), and the transformers whose cache is evicted and kept; then writes tables
and figures into the sweep directory, `<workdir>/cellular_automata/<preset>`. A finished run is not
run again.
"""

import dataclasses
import logging
import os
import sys
from pathlib import Path

from absl import flags

from experiments import cells, cli, presets
from experiments.presets import Preset
from sleep_jax.config import override
from sleep_jax.errors import UserError

EXPERIMENT = "cellular_automata"
log = logging.getLogger("sleep_jax")

_PRESET = flags.DEFINE_string("preset", "cpu", f"One of {', '.join(presets.PRESETS)}.")
_PASSES = flags.DEFINE_list("passes", None, "N, passes a window, comma-separated.")
_ROLLOUT_STEPS = flags.DEFINE_list(
    "rollout_steps", None, "t, comma-separated; the first is the headline depth."
)
_SEEDS = flags.DEFINE_list("seeds", None, "Seeds of every cell, comma-separated.")
_MATCH = flags.DEFINE_list(
    "match",
    None,
    "What N = 1 spends the training FLOPs of the largest N on: tokens, blocks, width, or flops for "
    "each of the three.",
)
_WORKDIR = flags.DEFINE_string("workdir", "runs", "Where sweep directories are kept.")
_SET = flags.DEFINE_multi_string("set", [], "path=value for any field of the config.")
_JOBS = flags.DEFINE_integer(
    "jobs", None, "Runs at a time, one a core; default: all cores on CPU presets, else 1."
)
_DRY_RUN = flags.DEFINE_boolean("dry_run", False, "Print the plan and stop.")


def select(preset: Preset) -> Preset:
    """The preset as changed by flags."""
    passes, depths = preset.passes, preset.depths
    headline = next(iter(depths.values()))
    if _PASSES.value is not None:
        passes = cli.parse_numbers("passes", _PASSES.value, 1, "whole numbers N")
    if _ROLLOUT_STEPS.value is not None:
        steps = cli.parse_numbers("rollout_steps", _ROLLOUT_STEPS.value, 0, "whole numbers t")
        depths = {t: depths.get(t, headline) for t in steps}
    selected = dataclasses.replace(
        preset, config=override(preset.config, _SET.value), passes=passes, depths=depths
    )
    for given, flag in ((passes, "passes"), (depths, "rollout_steps")):
        if not given:
            raise UserError(f"--{flag}= is empty; allowed: at least one number")
    if _MATCH.value is not None:
        selected = dataclasses.replace(selected, match=_match(_MATCH.value, passes))
    _refuse_swept_fields()
    if _SEEDS.value is not None:
        seeds = cli.parse_numbers("seeds", _SEEDS.value, 0, "whole numbers")
        if not seeds:
            raise UserError("--seeds= is empty; allowed: at least one number")
        selected = dataclasses.replace(
            selected,
            depths=dict.fromkeys(depths, seeds),
            matched_seeds=seeds,
            evicted_seeds=seeds,
            full_cache_seeds=seeds,
        )
    return selected


def _match(values: list[str], passes: tuple[int, ...]) -> tuple[str, ...]:
    known = tuple(cells.EQUAL_FLOPS)
    if values == ["flops"]:
        values = list(known)
    if not values or len(set(values)) < len(values) or not set(values) <= set(known):
        allowed = f"flops, or some of {', '.join(known)}"
        raise UserError(f"--match={','.join(values)} is not possible; allowed: {allowed}")
    if max(passes) == 1:
        raise UserError(
            f"--match={','.join(values)} needs a larger N to match; allowed: an N > 1 in --passes"
        )
    return tuple(values)


def _refuse_swept_fields() -> None:
    flag_of = {
        "sleep.passes": "passes",
        "task.rollout_steps": "rollout_steps",
        "train.seed": "seeds",
        "sleep.cache": None,
    }
    for assignment in _SET.value:
        field = assignment.partition("=")[0]
        if field in flag_of:
            instead = flag_of[field]
            allowed = f"--{instead}=..." if instead else "the baselines vary it by themselves"
            raise UserError(f"--set={assignment} is set by the sweep; allowed: {allowed}")


def plan(preset: Preset) -> list[cells.Cell]:
    """All cells of the sweep."""
    at = {
        t: dataclasses.replace(
            preset.config, task=dataclasses.replace(preset.config.task, rollout_steps=t)
        )
        for t in preset.depths
    }
    headline, largest = at[next(iter(preset.depths))], max(preset.passes)
    planned = [
        cells.hybrid(at[t], passes, seed)
        for t, seeds in preset.depths.items()
        for passes in preset.passes
        for seed in seeds
    ]
    if largest > 1:
        planned += [
            cells.matched(headline, largest, seed, spend)
            for spend in preset.match
            for seed in preset.matched_seeds
        ]
    planned += [
        cells.transformer(headline, cache, seed)
        for cache, seeds in (("evict", preset.evicted_seeds), ("keep", preset.full_cache_seeds))
        for seed in seeds
    ]
    return planned


def main() -> int:
    """Plans, runs and reports."""
    if _JOBS.value is not None and _JOBS.value < 1:
        raise UserError(f"--jobs={_JOBS.value} is not possible; allowed: whole numbers >= 1")
    preset = select(presets.named(_PRESET.value))
    preset.set_environment()
    jobs = _JOBS.value or (_cores() if preset.platform == "cpu" else 1)

    # Imports JAX, so only once the environment says how it is to run.
    from experiments import sweep
    from experiments.report.build import write_report
    from sleep_jax.model.decoder import count_parameters
    from sleep_jax.tasks import rule110

    planned = plan(preset)
    directory = Path(_WORKDIR.value) / EXPERIMENT / _PRESET.value
    for cell in planned:
        cell.config.validate()
    if _DRY_RUN.value:
        seconds = sum(cell.flops for cell in planned) / preset.flops_per_second / jobs
        counts = [count_parameters(cell.config.model) for cell in planned]
        print(cells.plan_text(planned, counts, seconds, f"{jobs} at a time, {preset.basis}"))
        return 0
    sweep.check(planned, directory)
    assert isinstance(preset.config.task, rule110.Rule110Config)
    headline = dataclasses.replace(preset.config.task, rollout_steps=next(iter(preset.depths)))
    diagram = rule110.space_time(headline, seed=0)
    about = {
        "experiment": EXPERIMENT,
        "preset": _PRESET.value,
        "diagram": diagram.tolist(),
    }
    names = sweep.write_plan(planned, directory, about)
    log.info("%d runs in %s, %d at a time", len(planned), directory, jobs)
    module = sys.modules[__name__]
    used = {flag.name: flag.value for flag in flags.FLAGS.get_key_flags_for_module(module)}
    code = sweep.run(planned, directory, jobs, used)
    if code:
        log.info("what is finished is kept in %s; the same command goes on from there", directory)
        return code
    cli.set_up_logging()
    written = write_report(directory, EXPERIMENT, _PRESET.value, names, diagram)
    print((directory / "table.md").read_text())
    for path in written:
        log.info("wrote %s", path)
    return 0


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    sys.exit(cli.run(main, sys.argv))
