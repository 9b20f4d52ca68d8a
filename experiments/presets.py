"""Presets of `EXP=cellular_automata`, each a function that returns one.

The docstring of a preset gives its command, hardware, measured time and expected numbers.
"""

import dataclasses
import importlib.metadata
import os
from collections.abc import Callable, Mapping

from sleep_jax.config import OptimizerConfig, RunConfig, SleepConfig, TrainConfig
from sleep_jax.errors import UserError
from sleep_jax.model.config import AttentionConfig, GatedDeltaNetConfig, ModelConfig
from sleep_jax.tasks.rule110 import Rule110Config
from sleep_jax.tasks.task import Task

# LLVM's cheaper pipeline: compiles a quarter faster here, and the code is no slower.
CPU_XLA_FLAGS = "--xla_backend_optimization_level=1"
# For what is compiled and hardly run: three times as fast to compile as level 0 alone, code 4 times
# as slow as above. One LLVM module instead of 32 parts saves a sixth of what is left.
FAST_COMPILATION = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (0, 11):
    FAST_COMPILATION += " --xla_cpu_use_fusion_emitters=false"  # jaxlib 0.11 aborts: unknown flag
else:  # 0.11.2 ends some steps of a sharded batch with "YNNPACK operation failed"
    _NO_YNNPACK = " --xla_cpu_experimental_ynn_fusion_type="
    CPU_XLA_FLAGS += _NO_YNNPACK
    FAST_COMPILATION += _NO_YNNPACK


@dataclasses.dataclass(frozen=True)
class Preset:
    """A sweep: every N at every depth; matched and baseline runs at the first depth only."""

    config: RunConfig
    passes: tuple[int, ...]
    depths: dict[int, tuple[int, ...]]  # rollout steps t to seeds; the first one is the headline
    match: tuple[str, ...]  # what smaller N spend the FLOPs of the largest on: see cells.matched
    matched_seeds: tuple[int, ...]
    # Muon's rate of the N that want another one for the tokens that these FLOPs buy them.
    matched_rates: Mapping[int, float]
    evicted_seeds: tuple[int, ...]
    full_cache_seeds: tuple[int, ...]
    platform: str  # "cpu", or "" for whatever JAX finds
    xla_flags: str
    # For the estimate of --dry_run: sustained rate of one job and what it was measured on.
    flops_per_second: float
    basis: str

    def set_environment(self) -> None:
        """Tells JAX how to run this; must come before JAX is first imported."""
        if self.platform:
            os.environ["JAX_PLATFORMS"] = self.platform
        given = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{given} {self.xla_flags}".strip()


def cpu() -> Preset:
    """A laptop. `make experiment EXP=cellular_automata`.

    The smallest hybrid, one block of each kind: here one pass is short of computation, so that what
    more passes add can be seen in minutes. Expected: see
    experiments/results/cellular_automata/cpu.
    """
    return Preset(
        config=RunConfig(
            model=ModelConfig(pattern=("attention", "gated_delta_net")),
            task=Rule110Config(width=12, window=12, strings=4),
            # Chosen on the validation split; the best of three rates for N = 1 as for N = 4 on
            # these tokens.
            optimizer=OptimizerConfig(muon_learning_rate=1e-2, adamw_learning_rate=2e-3),
            train=TrainConfig(batch_size=64, tokens=750_000, evaluations=8, curve_sequences=128),
        ),
        passes=(1, 2, 4),
        depths={2: (0, 1, 2), 1: (0,)},
        match=("tokens",),
        matched_seeds=(0, 1, 2),
        # Chosen on the validation split: 5e-3 from 1e-2, 5e-3, 2.5e-3.
        matched_rates={1: 5e-3},
        evicted_seeds=(0,),
        full_cache_seeds=(0,),
        platform="cpu",
        xla_flags=CPU_XLA_FLAGS,
        flops_per_second=20e9,
        basis="20 GFLOP/s a core, measured on an AMD EPYC (Milan)",
    )


def narrow() -> Preset:
    """A residual stream of 16: 13 thousand parameters, t = 3; every way to spend the same FLOPs.

    Small enough that eight seeds are affordable at a depth where N = 1 is short of data. Two cores
    of an AMD EPYC (Genoa): 22 minutes. Seeds 0 to 2 were looked at on the validation split when t
    and budget were chosen, so they are not among these. Expected: see
    experiments/results/cellular_automata/narrow.
    """
    preset = extremes(cpu(), tokens=2_000_000)
    model = dataclasses.replace(preset.config.model, d_model=16, mlp_hidden=32)
    seeds = tuple(range(10, 18))
    return dataclasses.replace(
        preset,
        config=dataclasses.replace(preset.config, model=model),
        depths={3: seeds},
        match=("tokens", "blocks", "width"),
        matched_seeds=seeds,
        evicted_seeds=seeds[:1],
        full_cache_seeds=seeds[:1],
        flops_per_second=11e9,
        basis="11 GFLOP/s a core at this size, measured on an AMD EPYC (Genoa)",
    )


def smoke() -> Preset:
    """Every part of the real thing, too short to learn. Used by the tests.

    Two cores of an AMD EPYC (Milan): under a minute. Expected: every row at the floor.
    """
    small = shrink(cpu(), Rule110Config(width=7, window=7, strings=4, rollout_steps=1))
    return dataclasses.replace(small, match=("tokens", "blocks", "width"), depths={1: (0, 1)})


def on_task(
    preset: Preset, task: Task, depths: dict[int, tuple[int, ...]], **train: object
) -> Preset:
    """The preset on another task, at one rate for all; `train` are fields of TrainConfig."""
    config = dataclasses.replace(
        preset.config,
        task=task,
        model=dataclasses.replace(preset.config.model, vocab_size=task.vocab_size),
        train=dataclasses.replace(preset.config.train, **train),  # type: ignore[arg-type]
    )
    return dataclasses.replace(preset, config=config, depths=depths, matched_rates={})


def extremes(preset: Preset, **train: object) -> Preset:
    """N = 1 and the largest N alone at one rate, no transformers; `train`: of TrainConfig."""
    config = dataclasses.replace(
        preset.config,
        train=dataclasses.replace(preset.config.train, **train),  # type: ignore[arg-type]
    )
    return dataclasses.replace(
        preset,
        config=config,
        passes=(1, max(preset.passes)),
        matched_rates={},
        evicted_seeds=(),
        full_cache_seeds=(),
    )


def shrink(preset: Preset, task: Task) -> Preset:
    """The preset on another task, with a tiny model and 12 steps of 8 sequences; one seed each."""
    model = dataclasses.replace(
        preset.config.model,
        pattern=("attention", "gated_delta_net"),
        d_model=16,
        mlp_hidden=16,
        vocab_size=task.vocab_size,
        attention=AttentionConfig(heads=2, kv_heads=1, head_dim=8),
        gated_delta_net=GatedDeltaNetConfig(key_heads=1, value_heads=2, key_dim=8, value_dim=8),
    )
    train = TrainConfig(
        batch_size=8,
        log_every=4,
        checkpoint_every=5,
        evaluations=3,
        evaluation_sequences=64,
        curve_sequences=32,
    )
    config = dataclasses.replace(preset.config, model=model, task=task, train=train)
    train = dataclasses.replace(train, tokens=12 * config.tokens_per_step)
    return dataclasses.replace(
        preset,
        config=dataclasses.replace(config, train=train),
        passes=(1, 2),
        matched_seeds=(0,),
        evicted_seeds=(0,),
        full_cache_seeds=(0,),
        xla_flags=FAST_COMPILATION,
        flops_per_second=2e8,
        basis="0.2 GFLOP/s a core at this size; compilation dominates",
    )


def h100() -> Preset:
    """One H100, at most ten minutes: W = 24 with the paper's model. Not yet measured on one."""
    preset = paper()
    train = dataclasses.replace(
        preset.config.train, tokens=40_000_000, checkpoint_every=200, evaluations=8
    )
    optimizer = OptimizerConfig(muon_learning_rate=1e-2, adamw_learning_rate=2e-3)
    return dataclasses.replace(
        preset,
        config=dataclasses.replace(preset.config, train=train, optimizer=optimizer),
        passes=(1, 2, 4),
        depths={4: (0, 1, 2)},
        matched_seeds=(0,),
        evicted_seeds=(0,),
        full_cache_seeds=(0,),
        flops_per_second=2e13,
        basis="an assumed 20 TFLOP/s; not measured",
    )


def paper() -> Preset:
    """Section 6.1 of arXiv 2605.26099 as written: W = 24, d = 256, batch 512, 5B tokens a run.

    The paper: under one A6000 day a run; exact accuracy at t = 32 about .10, .20, above .30, above
    .30 for N = 1, 2, 3, 4. Not stated there and chosen here: 4 heads of 64, SwiGLU hidden 512,
    schedule, clipping. Starts and resumes here; nobody has finished it yet.
    """
    return Preset(
        config=RunConfig(
            model=ModelConfig(
                d_model=256,
                mlp_hidden=512,
                attention=AttentionConfig(heads=4, kv_heads=4, head_dim=64),
                gated_delta_net=GatedDeltaNetConfig(
                    key_heads=4, value_heads=4, key_dim=64, value_dim=64
                ),
            ),
            sleep=SleepConfig(),
            task=Rule110Config(width=24, window=24, strings=4),
            optimizer=OptimizerConfig(muon_learning_rate=2e-3, adamw_learning_rate=5e-5),
            train=TrainConfig(
                batch_size=512,
                tokens=5_000_000_000,
                log_every=50,
                checkpoint_every=1000,
                evaluations=50,
                evaluation_sequences=4096,
                curve_sequences=1024,
            ),
        ),
        passes=(1, 2, 3, 4),
        depths={32: (0,), 16: (0,), 8: (0,), 4: (0,)},
        match=("tokens",),
        matched_seeds=(0,),
        matched_rates={},
        evicted_seeds=(0,),
        full_cache_seeds=(0,),
        platform="",
        xla_flags="",
        flops_per_second=2e13,
        basis="an assumed 20 TFLOP/s; not measured",
    )


PRESETS: dict[str, Callable[[], Preset]] = {
    "cpu": cpu,
    "narrow": narrow,
    "smoke": smoke,
    "h100": h100,
    "paper": paper,
}


def named(name: str) -> Preset:
    """The preset of that name.

    Raises:
      UserError: there is none; the message lists the known ones.
    """
    if name not in PRESETS:
        raise UserError(f"--preset={name} is unknown; allowed: {', '.join(PRESETS)}")
    return PRESETS[name]()
