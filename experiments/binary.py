"""The binary that every swept experiment shares: flags, plan, dry run, sweep, report.

An experiment module declares what is its own in an `Experiment` and calls `main`. Flags say which
cells there are; `--set` reaches every field of the configuration that no flag sweeps.
"""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from experiments import cells, cli, machines
from experiments.presets import Preset
from sleep_jax.config import RunConfig
from sleep_jax.errors import UserError
from sleep_jax.overrides import override

log = logging.getLogger("sleep_jax")

_PRESET = flags.DEFINE_string("preset", "cpu", "Name of a preset; an unknown one lists them.")
_PASSES = flags.DEFINE_list("passes", None, "N, passes a window, comma-separated.")
_SEEDS = flags.DEFINE_list("seeds", None, "Seeds of every cell, comma-separated.")
_MATCH = flags.DEFINE_list(
    "match",
    None,
    "What smaller N spend the training FLOPs of the largest N on: tokens (every smaller N), "
    "blocks, width (N = 1 alone), or flops for each of the three; empty for nothing.",
)
_TRANSFORMERS = ["evicted", "full"]
_BASELINES = flags.DEFINE_list(
    "baselines",
    _TRANSFORMERS,
    "Of the preset's transformers, those to run: evicted, full; empty for none.",
)
_WORKDIR = flags.DEFINE_string("workdir", "runs", "Where sweep directories are kept.")
_SET = flags.DEFINE_multi_string("set", [], "path=value for any field of the config.")
_JOBS = flags.DEFINE_integer(
    "jobs", None, "Runs at a time, one a core; default: all cores on CPU presets, else 1."
)
_PROFILE_STEPS = flags.DEFINE_list(
    "profile_steps", None, "FIRST,LAST: steps of every run to trace for XProf, into its directory."
)
_COMPILATION_CACHE = flags.DEFINE_string(
    "compilation_cache",
    "",
    "Where compiled programs are kept; default: JAX_COMPILATION_CACHE_DIR, else in the sweep's "
    "directory. Not to be shared by hosts with different CPUs.",
)
_RATE = "optimizer.muon_learning_rate"
_DRY_RUN = flags.DEFINE_boolean("dry_run", False, "Print the plan and stop.")


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What a swept experiment declares.

    Attributes:
      depth_flag: the flag that lists depths, headline first; it has the name of the field of the
        task that it sets.
      lowest_depth: the least number it allows.
      about: what plan.json is to hold for the report beside the cells, from the headline config.
      adapt: what else a depth changes in a configuration; the vocabulary is fitted behind it.
      more: further cells, from the headline config and the preset.
      variants: the hybrids that are compared, from the configuration at a depth.
      swept: fields that `variants` sets, and the flag of each.
      planned: all cells, from the configurations by depth, headline first, and the preset; None:
        the usual ones.
      then: cells that begin with what those have learned, from them and the sweep's directory.
      read: measures trained models, from the finished cells and the directory; in one process.
    """

    name: str
    presets: Mapping[str, Callable[[], Preset]]
    depth_flag: flags.FlagHolder[list[str] | None]
    lowest_depth: int
    about: Callable[[Any], dict[str, Any]]
    adapt: Callable[[RunConfig], RunConfig] = lambda config: config
    more: Callable[[RunConfig, Preset], list[cells.Cell]] = lambda config, preset: []
    variants: Callable[[RunConfig], Sequence[RunConfig]] = lambda config: (config,)
    swept: Mapping[str, str] = dataclasses.field(default_factory=dict)
    planned: Callable[[Mapping[int, RunConfig], Preset], list[cells.Cell]] | None = None
    then: Callable[[Sequence[cells.Cell], Path], list[cells.Cell]] = lambda first, directory: []
    read: Callable[[Sequence[cells.Cell], Path], None] | None = None


def select(experiment: Experiment, preset: Preset) -> Preset:
    """The preset as changed by flags."""
    passes, depths = preset.passes, preset.depths
    headline = next(iter(depths.values()))
    if _PASSES.value is not None:
        passes = cli.parse_numbers("passes", _PASSES.value, 1, "whole numbers N")
    flag = experiment.depth_flag
    if flag.value is not None:
        numbers = cli.parse_numbers(flag.name, flag.value, experiment.lowest_depth, "whole numbers")
        depths = {depth: depths.get(depth, headline) for depth in numbers}
    config = override(preset.config, _SET.value)
    if any(assignment.startswith("model.vocab_size=") for assignment in _SET.value):
        for depth in depths:  # what is given must do as it is
            _asking(experiment, config, depth).validate()
    else:
        config = _fit_vocabulary(config, preset.config)
    selected = dataclasses.replace(preset, config=config, passes=passes, depths=depths)
    if any(assignment.startswith(f"{_RATE}=") for assignment in _SET.value):
        selected = dataclasses.replace(selected, matched_rates={})  # what is given is for all
    for given, name in ((passes, "passes"), (depths, flag.name)):
        if not given:
            raise UserError(f"--{name}= is empty; allowed: at least one number")
    if _MATCH.value is not None:
        selected = dataclasses.replace(selected, match=_match(_MATCH.value, passes))
    _refuse_swept_fields({f"task.{flag.name}": flag.name, **experiment.swept})
    # Runs that end at an accuracy cannot be reported as runs of one budget, nor those as these.
    _refuse_another_report(
        "train.target_accuracy",
        config.train.target_accuracy,
        preset.config.train.target_accuracy,
        "rollout_ladder, cost_of_depth, cost_of_depth_depo, ttt_e2e, lclm, lclm_depo",
    )
    # Of a run that climbs, depth and scores are those of a rung, which one report can tell.
    _refuse_another_report(
        "curriculum.climb_at",
        config.curriculum.climb_at,
        preset.config.curriculum.climb_at,
        "rollout_ladder",
    )
    if _SEEDS.value is not None:
        seeds = cli.parse_numbers("seeds", _SEEDS.value, 0, "whole numbers")
        if not seeds:
            raise UserError("--seeds= is empty; allowed: at least one number")
        selected = dataclasses.replace(
            selected,
            depths=dict.fromkeys(depths, seeds),
            matched_seeds=seeds,
            evicted_seeds=seeds if preset.evicted_seeds else (),
            full_cache_seeds=seeds if preset.full_cache_seeds else (),
        )
    if not set(_BASELINES.value) <= set(_TRANSFORMERS):
        raise UserError(
            f"--baselines={','.join(_BASELINES.value)} is not possible; allowed: evicted, full, or "
            "nothing"
        )
    return dataclasses.replace(
        selected,
        evicted_seeds=selected.evicted_seeds if "evicted" in _BASELINES.value else (),
        full_cache_seeds=selected.full_cache_seeds if "full" in _BASELINES.value else (),
    )


def _match(values: list[str], passes: tuple[int, ...]) -> tuple[str, ...]:
    known = tuple(cells.EQUAL_FLOPS)
    if values == ["flops"]:
        values = list(known)
    if not values:
        return ()
    if len(set(values)) < len(values) or not set(values) <= set(known):
        allowed = f"flops, some of {', '.join(known)}, or nothing"
        raise UserError(f"--match={','.join(values)} is not possible; allowed: {allowed}")
    if max(passes) == 1:
        raise UserError(
            f"--match={','.join(values)} needs a larger N to match; allowed: an N > 1 in --passes"
        )
    return tuple(values)


def _refuse_swept_fields(swept: Mapping[str, str]) -> None:
    flag_of = {"sleep.passes": "passes", "train.seed": "seeds", **swept}
    for assignment in _SET.value:
        field = assignment.partition("=")[0]
        if field in flag_of:
            allowed = f"--{flag_of[field]}=..."
            raise UserError(f"--set={assignment} is set by the sweep; allowed: {allowed}")
        if assignment == "sleep.cache=keep":
            raise UserError(
                f"--set={assignment} is not possible for a sweep, whose baselines keep the cache; "
                "allowed: sleep.cache=evict, sleep.cache=slide"
            )


def _refuse_another_report(field: str, given: float, usual: float, elsewhere: str) -> None:
    """Of the fields with 0 for off that decide what a run is reported as: off and on stay so."""
    if bool(given) != bool(usual):
        allowed = "more than 0" if usual else f"0, or EXP={elsewhere}"
        raise UserError(f"--set={field}={given:g} is not possible here; allowed: {allowed}")


def plan(experiment: Experiment, preset: Preset) -> list[cells.Cell]:
    """All cells of the sweep."""
    at = {depth: at_depth(experiment, preset, depth) for depth in preset.depths}
    for config in at.values():
        config.validate()  # before FLOPs of what cannot be are counted
    if experiment.planned is not None:
        return experiment.planned(at, preset)
    headline = at[next(iter(preset.depths))]
    planned = [
        cells.hybrid(config, passes, seed)
        for depth, seeds in preset.depths.items()
        for config in experiment.variants(at[depth])
        for passes in preset.passes
        for seed in seeds
    ]
    for config in experiment.variants(headline):
        planned += cells.all_matched(
            config, preset.passes, preset.match, preset.matched_seeds, preset.matched_rates
        )
    planned += [
        cells.transformer(headline, cache, seed)
        for cache, seeds in (("evict", preset.evicted_seeds), ("keep", preset.full_cache_seeds))
        for seed in seeds
    ]
    return planned + experiment.more(headline, preset)


def at_depth(experiment: Experiment, preset: Preset, depth: int) -> RunConfig:
    """The preset's configuration at a depth."""
    config = experiment.adapt(_asking(experiment, preset.config, depth))
    return _fit_vocabulary(config, preset.config)


def _asking(experiment: Experiment, config: RunConfig, depth: int) -> RunConfig:
    """The configuration with that depth in its task, and nothing else changed."""
    task = dataclasses.replace(config.task, **{experiment.depth_flag.name: depth})
    return dataclasses.replace(config, task=task)


def _fit_vocabulary(changed: RunConfig, before: RunConfig) -> RunConfig:
    """A model that had just the tokens of its task has just those of the changed task."""
    if before.model.vocab_size != before.task.vocab_size:
        return changed
    model = dataclasses.replace(changed.model, vocab_size=changed.task.vocab_size)
    return dataclasses.replace(changed, model=model)


def main(experiment: Experiment) -> int:
    """Plans, runs and reports."""
    if _JOBS.value is not None and _JOBS.value < 1:
        raise UserError(f"--jobs={_JOBS.value} is not possible; allowed: whole numbers >= 1")
    name = _PRESET.value
    if name not in experiment.presets:
        raise UserError(f"--preset={name} is unknown; allowed: {', '.join(experiment.presets)}")
    preset = select(experiment, experiment.presets[name]())
    preset.set_environment()
    many = machines.start() > 1
    if many and (_JOBS.value or 1) > 1:
        raise UserError(f"--jobs={_JOBS.value} is not possible with --coordinator; allowed: 1")
    if many and experiment.read:
        raise UserError(f"--coordinator is not possible for {experiment.name}; allowed: without it")
    jobs = _JOBS.value or (cli.usable_cores() if preset.platform == "cpu" and not many else 1)

    # Imports JAX, so only once the environment says how it is to run.
    from experiments import sweep
    from sleep_jax import processes, records
    from sleep_jax.model.decoder import count_parameters

    first = plan(experiment, preset)
    directory = Path(_WORKDIR.value) / experiment.name / name
    then = experiment.then(first, directory)
    planned = [*first, *then]
    for cell in planned:
        cell.config.validate()
    profile_steps = _profile_steps(max(cell.config.steps for cell in planned))
    if _DRY_RUN.value:
        seconds = sum(cell.flops for cell in planned) / preset.flops_per_second / jobs
        counts = [count_parameters(cell.config.model) for cell in planned]
        print(cells.plan_text(planned, counts, seconds, f"{jobs} at a time, {preset.basis}"))
        print(f"Not counted in FLOPs, Muon's own products: {_uncounted(planned)}")
        return 0
    sweep.check(first, directory, machines.mesh_config())
    sweep.check_directories(then, directory)  # what they begin with may not be there yet
    if _COMPILATION_CACHE.value:
        records.check_writable(Path(_COMPILATION_CACHE.value), "compilation_cache")
    headline = at_depth(experiment, preset, next(iter(preset.depths)))
    about = {"experiment": experiment.name, "preset": name, **experiment.about(headline.task)}
    sweep.write_plan(planned, directory, about)
    log.info("%d runs in %s, %d at a time", len(planned), directory, jobs)
    options = sweep.Options(
        {flag.name: flag.value for flag in cli.own_flags()},
        machines.mesh_config(),
        _COMPILATION_CACHE.value,
        profile_steps,
    )
    code = sweep.run(first, directory, jobs, options)
    if not code and then and not sweep.unfinished(first, directory):
        sweep.check(then, directory, options.mesh)
        code = sweep.run(then, directory, jobs, options)
    if code != cli.STOPPED and experiment.read:
        cli.set_up_logging()  # what comes now is of no one cell
        left = sweep.unfinished(planned, directory)
        try:
            with cli.stopped_at_once():
                experiment.read([cell for cell in planned if cell not in left], directory)
        except cli.Stopped:
            code = cli.STOPPED
    if code == cli.STOPPED:
        log.info("what is finished is kept in %s; the same command goes on from there", directory)
    if code == cli.STOPPED or not processes.is_first():
        return code
    # Imports matplotlib and scipy, two seconds that the first step need not wait for.
    from experiments.report.build import rebuild

    cli.set_up_logging()
    written = rebuild(directory)
    print((directory / "table.md").read_text())
    for path in written:
        log.info("wrote %s", path)
    if code:
        log.info("not every run got to its end (above); the same command tries those again")
    return code


def _uncounted(planned: Sequence[cells.Cell]) -> str:
    """What Muon would add to the FLOPs of a step, by N of the first model that is planned.

    Of the cells of one N the first, as those behind it may cut the gradient or change N.
    """
    import jax

    from sleep_jax.flops import training_flops_per_step
    from sleep_jax.model import decoder
    from sleep_jax.training.optimizer import orthogonalisation_flops

    model = planned[0].config.model
    shapes = jax.eval_shape(lambda: decoder.init(model, jax.random.key(0)))
    first: dict[int, RunConfig] = {}
    for cell in planned:
        if cell.config.model == model:
            first.setdefault(cell.config.sleep.passes, cell.config)
    added = {
        n: orthogonalisation_flops(shapes, config.optimizer.trained)
        / training_flops_per_step(config)
        for n, config in first.items()
    }
    return ", ".join(f"{added[n]:+.1%} at N = {n}" for n in sorted(added))


def _profile_steps(longest: int) -> tuple[int, int] | None:
    if _PROFILE_STEPS.value is None:
        return None
    steps = _PROFILE_STEPS.value
    if (
        len(steps) != 2
        or not all(step.isdecimal() for step in steps)
        or (not 1 <= int(steps[0]) <= int(steps[1]) <= longest)
    ):
        raise UserError(
            f"--profile_steps={','.join(steps)} is not possible; allowed: FIRST,LAST with "
            f"1 <= FIRST <= LAST <= {longest}, the steps of the longest run"
        )
    return int(steps[0]), int(steps[1])
