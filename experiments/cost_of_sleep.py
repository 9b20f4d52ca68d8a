"""The price of sleep, measured: wake latency, sleep, memory and training against N.

    python -m experiments cost_of_sleep [--preset=cpu] [--workdir=runs]
        [--set=passes=1,4] [--set=lengths=512,8192] [--set=run.model.d_model=128] [--dry_run]

Latency of a token with models that were not trained, as it depends on shapes alone. Beside the
hybrid's sessions stands the same decoder with attention in every block and a growing cache. Writes
results.json, table.md, table.tex and cost_of_sleep.png into `<workdir>/cost_of_sleep/<preset>`.
"""

import dataclasses
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

from absl import flags

from experiments import cli, presets
from experiments.bench import timing
from sleep_jax.config import RunConfig, to_dict
from sleep_jax.errors import UserError
from sleep_jax.model.config import AttentionConfig, GatedDeltaNetConfig, require
from sleep_jax.overrides import override
from sleep_jax.tasks.rule110 import Rule110Config

EXPERIMENT = "cost_of_sleep"
log = logging.getLogger("sleep_jax")

_PRESET = flags.DEFINE_string("preset", "cpu", "Name of a preset; an unknown one lists them.")
_WORKDIR = flags.DEFINE_string("workdir", "runs", "Where the results go.")
_SET = flags.DEFINE_multi_string("set", [], "path=value for any field of the configuration.")
_DRY_RUN = flags.DEFINE_boolean("dry_run", False, "Print what would be measured and stop.")


@dataclasses.dataclass(frozen=True)
class CostConfig:
    """What is measured.

    Attributes:
      run: the model, and the training step that is timed at each N.
      window: L of the sessions.
      passes: N.
      lengths: tokens read before a token is timed, ascending multiples of L.
      rounds: timed turns of a token; those of a training step.
    """

    run: RunConfig
    window: int
    passes: tuple[int, ...]
    lengths: tuple[int, ...]
    rounds: int
    training_rounds: int

    def validate(self) -> None:
        """Raises UserError naming the field."""
        self.run.validate()
        # Both caches are timed, and gradient steps know only one.
        fits = "gated_delta_net" in self.run.model.pattern and self.run.sleep.cache == "evict"
        allowed = "a hybrid with gated_delta_net and sleep.cache=evict"
        require(fits, "run", self.run.model.pattern, allowed)
        for name in ("rounds", "training_rounds"):
            require(getattr(self, name) >= 2, name, getattr(self, name), ">= 2")
        # Timed tokens must fit into the window that they are fed into.
        warm_up = timing.VISITS * timing.WARM_UP
        allowed = f">= rounds + {warm_up}"
        require(self.window >= self.rounds + warm_up, "window", self.window, allowed)
        for name in ("passes", "lengths"):
            values = getattr(self, name)
            ascending = values and values == tuple(sorted(set(values)))
            require(bool(ascending) and values[0] >= 1, name, values, "whole numbers, ascending")
        whole = all(length % self.window == 0 for length in self.lengths)
        require(whole, "lengths", self.lengths, f"multiples of window={self.window}")


def cpu() -> CostConfig:
    """A laptop: the paper's four blocks at half its width, windows of 512, up to 128K tokens."""
    run = presets.paper().config
    model = dataclasses.replace(
        run.model,
        d_model=128,
        mlp_hidden=256,
        attention=AttentionConfig(heads=4, kv_heads=4, head_dim=32),
        gated_delta_net=GatedDeltaNetConfig(key_heads=4, value_heads=4, key_dim=32, value_dim=32),
    )
    train = dataclasses.replace(run.train, batch_size=8)
    return CostConfig(
        run=dataclasses.replace(run, model=model, train=train),
        window=512,
        passes=(1, 2, 4, 8),
        lengths=(512, 1024, 2048, 4096, 8192, 32768, 131072),
        rounds=20,
        training_rounds=5,
    )


def smoke() -> CostConfig:
    """Every part, too small to mean anything. Used by the tests."""
    run = presets.smoke().config
    return CostConfig(
        run=dataclasses.replace(run, task=Rule110Config(width=7, window=7, strings=2)),
        window=16,
        passes=(1, 2),
        lengths=(16, 64),
        rounds=4,
        training_rounds=2,
    )


PRESETS: dict[str, Callable[[], CostConfig]] = {"cpu": cpu, "smoke": smoke}


def plan(config: CostConfig, directory: Path) -> str:
    """What will be measured, a line each."""
    lengths, passes = (", ".join(map(str, x)) for x in (config.lengths, config.passes))
    run = config.run
    return (
        f"blocks: {', '.join(run.model.pattern)}; d = {run.model.d_model}; windows of "
        f"{config.window} tokens\n"
        f"a token awake after {lengths} tokens, {config.rounds} turns: the hybrid evicting and "
        "sliding, and a transformer with a growing cache\n"
        f"a token awake and a sleep at N = {passes}, {config.rounds} turns\n"
        f"a training step of {run.train.batch_size} sequences at N = {passes}, "
        f"{config.training_rounds} turns\n"
        f"results into {directory}"
    )


def main() -> int:
    """Measures, prints, writes."""
    if _PRESET.value not in PRESETS:
        raise UserError(f"--preset={_PRESET.value} is unknown; allowed: {', '.join(PRESETS)}")
    config = override(PRESETS[_PRESET.value](), _SET.value)
    config.validate()
    directory = Path(_WORKDIR.value) / EXPERIMENT / _PRESET.value
    if _DRY_RUN.value:
        print(plan(config, directory))
        return 0
    presets.named(_PRESET.value).set_environment()

    # Imports JAX, so only once the environment says how it is to run.
    from experiments.bench import cost
    from experiments.report import cost as report
    from sleep_jax import distributed, records
    from sleep_jax.training.step import Program

    records.check_writable(directory)
    mesh = distributed.make_mesh()
    hybrid = Program.of(config.run, mesh.devices.flat[0].platform).model
    pattern = ("attention",) * len(hybrid.pattern)
    transformer = dataclasses.replace(hybrid, pattern=pattern)
    load = os.getloadavg()[0]
    contexts = cost.by_context(hybrid, transformer, config.window, config.lengths, config.rounds)
    log.info("a token awake and a sleep, at N = %s", ", ".join(map(str, config.passes)))
    awake, asleep = cost.by_passes(hybrid, config.window, config.passes, config.rounds)
    log.info("a training step")
    results = {
        "experiment": EXPERIMENT,
        "preset": _PRESET.value,
        **records.environment(mesh, {"preset": _PRESET.value, "set": _SET.value}),
        "load_average_before": load,
        "config": to_dict(config),
        "awake_by_context": contexts,
        "awake_by_passes": awake,
        "sleep": asleep,
        "training": cost.training(config.run, config.passes, config.training_rounds),
    }
    written = report.write(results, directory)
    print((directory / "table.md").read_text())
    for path in written:
        log.info("wrote %s", path)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, sys.argv))
