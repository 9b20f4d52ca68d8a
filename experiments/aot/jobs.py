"""What can be compiled: the presets of the experiments, and the shape of Ouro 1.4B."""

import dataclasses
import functools
import importlib
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from experiments.__main__ import SWEPT
from experiments.presets import Preset
from sleep_jax.config import OptimizerConfig, RunConfig, TrainConfig
from sleep_jax.errors import UserError
from sleep_jax.model.config import AttentionConfig, GatedDeltaNetConfig, ModelConfig
from sleep_jax.tasks.task import Batch


@dataclasses.dataclass(frozen=True)
class Job:
    """A run to compile, at each of several N; `notes` say where it is not what it stands for."""

    config: RunConfig
    passes: tuple[int, ...]
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class ShapeOnly:
    """A task of which only the shapes matter: its tokens are zeros, one answer, all scored."""

    name: ClassVar[str] = "shape_only"
    window: int
    context_windows: int
    answer_length: int
    vocab_size: int

    @property
    def label(self) -> str:
        return f"C{self.context_windows}-L{self.window}"

    @property
    def departure(self) -> str:
        return ""

    def validate(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 1:
                value = getattr(self, field.name)
                raise UserError(f"task.{field.name}={value} is not possible; allowed: >= 1")

    def setting(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def sample(self, seed: int, split: int, start: int, count: int) -> Batch:
        answer = (count, 1, self.answer_length)
        return {
            "context": np.zeros((count, self.context_windows, self.window), np.int32),
            "tokens": np.zeros(answer, np.int32),
            "targets": np.zeros(answer, np.int32),
            "mask": np.ones(answer, np.float32),
            "answer": np.zeros(answer, np.int32),
            "depth": np.ones((count, 1), np.int32),
        }

    def floor(self, batch: Batch) -> dict[str, float]:
        raise NotImplementedError("there is nothing to learn")

    def floor_by_depth(self, batch: Batch) -> dict[int, float]:
        raise NotImplementedError("there is nothing to learn")


def ouro() -> Job:
    """Ouro 1.4B with inserted fast-weight layers, T = 12,000, windows of 2,000: the paper's Fig. 6.

    `make aot EXP=ouro_shape TOPOLOGY=v5p:8x8x8`. Ouro's sizes are those of specs/pretrained.md; the
    batch of 256 is the paper's of GSM-Infinite, in steps of 512 where the slice has 512 devices.
    """
    group = ("attention",) * 3 + ("gated_delta_net",)
    return Job(
        config=RunConfig(
            model=ModelConfig(
                pattern=group * 6 + ("attention",) * 2,
                d_model=2048,
                mlp_hidden=5632,
                vocab_size=49_152,
                attention=AttentionConfig(heads=16, kv_heads=16, head_dim=128, rope_theta=1e6),
                gated_delta_net=GatedDeltaNetConfig(
                    key_heads=12, value_heads=12, key_dim=96, value_dim=256
                ),
            ),
            task=ShapeOnly(window=2000, context_windows=5, answer_length=2000, vocab_size=49_152),
            optimizer=OptimizerConfig(muon_learning_rate=1e-3, adamw_learning_rate=5e-5),
            train=TrainConfig(batch_size=512, tokens=10_000_000_000),
        ),
        passes=(1, 2, 4),
        notes=(
            "Ouro has 24 attention blocks and the paper inserts 6 fast-weight layers without MLP. "
            "Our blocks all have an MLP, so 4 attention blocks are left out, whose parameters and "
            "products pay for the 6 MLPs: 20 attention and 6 Gated DeltaNet blocks.",
            "The fast-weight layers have the heads of a Jet block (12, keys 96, values 256) and a "
            "short convolution instead of the dynamic one.",
            "Ouro's sandwich norms and its exit gate are left out. Its loop over all blocks is the "
            "loop over passes.",
            "T = 12,000 is 5 context windows, slept on N times, and one prediction window in one "
            "pass, scored whole; so the cost of a step goes as 5 N + 1.",
        ),
    )


OURO_SHAPE = "ouro_shape"


def named(experiment: str, preset: str) -> Job:
    """The job of an experiment and a preset.

    Raises:
      UserError: there is none; the message lists the known ones.
    """
    known: dict[str, Callable[[], Job]] = {}
    if experiment == OURO_SHAPE:
        known["paper"] = ouro
    elif experiment in SWEPT:
        module = importlib.import_module(f"experiments.{experiment}")
        for name, make in module.EXPERIMENT.presets.items():
            known[name] = functools.partial(_of_preset, make)
    else:
        allowed = ", ".join((*SWEPT, OURO_SHAPE))
        raise UserError(f"--experiment={experiment} is unknown; allowed: {allowed}")
    if preset not in known:
        raise UserError(f"--preset={preset} is unknown; allowed: {', '.join(known)}")
    return known[preset]()


def _of_preset(make: Callable[[], Preset]) -> Job:
    preset = make()
    return Job(preset.config, preset.passes)


def with_passes(config: RunConfig, passes: int) -> RunConfig:
    """The run at another N."""
    return dataclasses.replace(config, sleep=dataclasses.replace(config.sleep, passes=passes))


def with_batch(config: RunConfig, batch: int) -> RunConfig:
    """The run with another global batch."""
    return dataclasses.replace(config, train=dataclasses.replace(config.train, batch_size=batch))
