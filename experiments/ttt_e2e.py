"""Sleep or test-time training: what does each take to learn to follow k edges?

    python -m experiments.ttt_e2e --preset=cpu [--writers=gated_delta_net,prime_mlp]
        [--passes=1,2] [--max_hops=2] [--seeds=10,11] [--workdir=DIR] [--dry_run]

Two ways to fill fixed-size fast weights before the cache is dropped, on one task and one budget: N
passes of blocks that write (arXiv 2605.26099), and N gradient steps of a prime MLP on the window
(TTT-E2E, arXiv 2512.23675). The two models differ in the mixer of their fast-weight blocks alone.
Runs end when they have learned, as in experiments/cost_of_depth_depo.py, whose task this is.
"""

import dataclasses
import sys
from collections.abc import Mapping

from absl import flags

from experiments import binary, cells, cli, cost_of_depth_depo, until_learned
from experiments.cells import Cell
from experiments.presets import Preset
from sleep_jax.config import RunConfig
from sleep_jax.flops import training_flops
from sleep_jax.model.config import FAST_WEIGHTS, ModelConfig, PrimeMLPConfig, require

_WRITERS = flags.DEFINE_list(
    "writers",
    list(FAST_WEIGHTS),
    "What has the fast weights: gated_delta_net (passes write), prime_mlp (gradient steps do).",
)
# Muon's. On the validation split, two seeds: for passes the best of four (N = 1) and three (N = 2),
# for gradient steps of two, at N = 1 and 64 hidden units; at the preset's 11 it is the only one.
_RATES = {"gated_delta_net": 5e-3, "prime_mlp": 1e-2}


def cpu() -> Preset:
    """`make experiment EXP=ttt_e2e`: cycles of up to 6 nodes, 2 hops, two blocks.

    Gradient steps alone, on five seeds: 18 minutes on two cores of an AMD EPYC (Naples); the whole
    was not timed. Both writers have 2 thousand fast weights: 2 x 32 x 32, and three matrices of
    64 x 11. The budget is that of cost_of_depth_depo, so its rows are comparable. Seeds 0 and 1
    were looked at when the rates were chosen, so they are not among these. Expected:
    experiments/results/ttt_e2e/cpu.
    """
    preset = cost_of_depth_depo.cpu()
    config = dataclasses.replace(
        preset.config,
        model=dataclasses.replace(preset.config.model, prime_mlp=PrimeMLPConfig(hidden=11)),
        train=dataclasses.replace(preset.config.train, tokens=13_242_250),
    )
    return dataclasses.replace(preset, config=config, passes=(1, 2), depths={2: (10, 11)})


def smoke() -> Preset:
    """Every part of the real thing, too short to learn. Used by the tests."""
    return cost_of_depth_depo.smoke()


def _planned(at: Mapping[int, RunConfig], preset: Preset) -> list[Cell]:
    """For each writer the cells of cost_of_depth_depo, all with the FLOPs of the first writer's."""
    names = cli.parse_names(_WRITERS.name, _WRITERS.value, FAST_WEIGHTS)
    pattern = preset.config.model.pattern
    allowed = f"one with {' or '.join(FAST_WEIGHTS)}, in whose place each writer goes"
    written = preset.config.model.has_fast_weights
    require(written, "model.pattern", ",".join(pattern), allowed)
    rates = _RATES if preset.matched_rates else {}  # empty where --set gives one for all
    preset = dataclasses.replace(preset, matched_rates={})
    return [
        cell
        for name in names
        for cell in until_learned.planned(
            {
                depth: _written_by(name, cells.at_rate(config, rates.get(name)), preset)
                for depth, config in at.items()
            },
            preset,
        )
    ]


def _written_by(name: str, base: RunConfig, preset: Preset) -> RunConfig:
    """The run with this mixer for its fast weights, and as many FLOPs as gated delta nets have."""
    loop = dataclasses.replace(base.sleep, passes=max(preset.passes))
    config, usual = (
        dataclasses.replace(base, sleep=loop, model=with_writer(base.model, mixer))
        for mixer in (name, FAST_WEIGHTS[0])
    )
    return cells.with_flops(config, training_flops(usual))


def with_writer(model: ModelConfig, mixer: str) -> ModelConfig:
    """The model with this mixer in the place of whatever has its fast weights."""
    pattern = tuple(mixer if name in FAST_WEIGHTS else name for name in model.pattern)
    return dataclasses.replace(model, pattern=pattern)


EXPERIMENT = dataclasses.replace(
    cost_of_depth_depo.EXPERIMENT,
    name="ttt_e2e",
    presets={"cpu": cpu, "smoke": smoke},
    planned=_planned,
)


def main() -> int:
    """Plans, runs and reports."""
    return binary.main(EXPERIMENT)


if __name__ == "__main__":
    sys.exit(cli.run(main, sys.argv))
