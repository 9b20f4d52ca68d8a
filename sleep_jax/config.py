"""Frozen configuration of a run."""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

from sleep_jax.model.config import ModelConfig, require
from sleep_jax.stage_config import MOST_PASSES, TRAINED, ConsaConfig, CurriculumConfig
from sleep_jax.tasks.rule110 import Rule110Config
from sleep_jax.tasks.task import Task

MOST_STEPS = 10**7  # what is kept for each step stays small


@dataclasses.dataclass(frozen=True)
class SleepConfig:
    """The sleep loop: passes N over a window, and what is rematerialised in the backward."""

    passes: int = 1
    # "pass" keeps only the features and fast weights between passes, "window" only the fast
    # weights between windows.
    remat: str = "pass"
    # "evict" destroys the cache after each window (arXiv 2605.26099, Algorithm 1); "slide" keeps
    # its newest L - 1 tokens; "keep" reads the whole sequence in one window, the full-attention
    # baseline.
    cache: str = "evict"
    # The gradient goes back through the last so many passes over a window, as if the passes before
    # them had changed nothing; 0: through all.
    backward_passes: int = 0
    # What a pass hands to the next one over the same window: "all", features and fast weights
    # (Algorithm 1); or "features" or "fast_weights" alone, and the other is once more as it was
    # before the first pass.
    carry: str = "all"

    def validate(self) -> None:
        possible = 1 <= self.passes <= MOST_PASSES
        require(possible, "sleep.passes", self.passes, f"N >= 1, up to {MOST_PASSES}")
        back = self.backward_passes
        require(back >= 0, "sleep.backward_passes", back, ">= 0 (0: all)")
        require(
            self.remat in ("none", "pass", "window"),
            "sleep.remat",
            self.remat,
            "none, pass, window",
        )
        caches = ("evict", "slide", "keep")
        require(self.cache in caches, "sleep.cache", self.cache, ", ".join(caches))
        carries = ("all", "features", "fast_weights")
        require(self.carry in carries, "sleep.carry", self.carry, ", ".join(carries))
        require(
            self.cache != "keep" or self.passes == 1,
            "sleep.passes",
            self.passes,
            "1 with sleep.cache=keep (nothing is evicted, so nothing sleeps)",
        )


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Muon for hidden matrices, AdamW for the rest; one schedule shape for both rates."""

    muon_learning_rate: float = 2e-3
    adamw_learning_rate: float = 5e-5
    muon_momentum: float = 0.95
    adamw_b1: float = 0.9
    adamw_b2: float = 0.98
    adamw_eps: float = 1e-8
    weight_decay: float = 0.0
    warmup_fraction: float = 0.05
    decay_fraction: float = 0.3
    clip_norm: float = 1.0
    trained: str = "all"  # one of TRAINED

    def validate(self) -> None:
        require(self.trained in TRAINED, "optimizer.trained", self.trained, ", ".join(TRAINED))
        for name in ("muon_learning_rate", "adamw_learning_rate", "adamw_eps", "clip_norm"):
            require(getattr(self, name) > 0, f"optimizer.{name}", getattr(self, name), "> 0")
        for name in ("muon_momentum", "adamw_b1", "adamw_b2"):
            value = getattr(self, name)
            require(0 <= value < 1, f"optimizer.{name}", value, "0 <= x < 1")
        for name in ("warmup_fraction", "decay_fraction"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"optimizer.{name}", value, "a share of the run, 0 to 1")
        total = self.warmup_fraction + self.decay_fraction
        require(total <= 1, "optimizer.decay_fraction", self.decay_fraction, "<= 1 - warm-up")
        require(self.weight_decay >= 0, "optimizer.weight_decay", self.weight_decay, ">= 0")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Budget, cadence and evaluation of one run. Steps are counted in optimizer updates."""

    seed: int = 0
    pretrained: str = ""  # "smollm2" or a GGUF file (sleep_jax/pretrained); empty: drawn
    # A finished run, RUNS/EXPERIMENT/PRESET/cells/NAME, with whose parameters this one begins;
    # "{seed}" in it is the run's own seed. Empty: they are drawn, or `pretrained`.
    warm_start: str = ""
    batch_size: int = 64
    accumulate: int = 1  # micro-batches of a batch, for its memory; the update is the same
    tokens: int = 1_000_000  # training tokens, context and answers together
    log_every: int = 20
    checkpoint_every: int = 200
    keep_checkpoints: int = 2
    evaluations: int = 10  # evenly spaced over the run, the last one at its end
    # The run ends at the first evaluation with this exact accuracy, of the greatest depth if there
    # are several; the budget is the most it may take. Evaluations are then equal factors apart,
    # from a hundredth of the budget on. 0: off.
    target_accuracy: float = 0.0
    evaluation_sequences: int = 1024
    curve_sequences: int = 256  # of them, scored before the end, for curves only
    evaluation_split: str = "test"  # tune on "validation"
    evaluation_data: str = ""  # a split frozen by tasks/frozen.py; empty: sampled afresh
    evaluate_passes: tuple[int, ...] = ()  # other N at which the trained model is read as well
    # Read at the largest of these N and sleep.passes, and stop sleeping on a window as soon as a
    # pass changes the fast weights by less than this share of them: sleep.sleep_until.
    halting_thresholds: tuple[float, ...] = ()

    @property
    def warm_start_of_seed(self) -> str:
        """The directory that `warm_start` names for this run."""
        return self.warm_start.replace("{seed}", str(self.seed))

    def validate(self) -> None:
        for name in (
            "batch_size",
            "accumulate",
            "tokens",
            "log_every",
            "checkpoint_every",
            "keep_checkpoints",
            "evaluations",
            "evaluation_sequences",
            "curve_sequences",
        ):
            require(getattr(self, name) >= 1, f"train.{name}", getattr(self, name), ">= 1")
        require(
            self.batch_size % self.accumulate == 0,
            "train.accumulate",
            self.accumulate,
            f"a divisor of train.batch_size={self.batch_size}",
        )
        require(0 <= self.seed < 2**31, "train.seed", self.seed, "0 to 2^31 - 1")
        target = self.target_accuracy
        require(0 <= target <= 1, "train.target_accuracy", target, "a share of the answers, 0 to 1")
        split = self.evaluation_split
        require(
            split in ("validation", "test"), "train.evaluation_split", split, "validation, test"
        )
        passes = self.evaluate_passes
        require(all(n >= 1 for n in passes), "train.evaluate_passes", passes, "N >= 1")
        both = bool(self.pretrained and self.warm_start)
        allowed = "empty where train.pretrained is given"
        require(not both, "train.warm_start", self.warm_start, allowed)
        halting = self.halting_thresholds
        require(all(x > 0 for x in halting), "train.halting_thresholds", halting, "> 0")


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Everything that decides the result of one training run."""

    model: ModelConfig = ModelConfig()
    sleep: SleepConfig = SleepConfig()
    task: Task = Rule110Config()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    curriculum: CurriculumConfig = CurriculumConfig()
    consa: ConsaConfig = ConsaConfig()

    def validate(self) -> None:
        """Raises UserError with one line for the first field that cannot be."""
        for field, value in flatten(to_dict(self)).items():
            finite = not isinstance(value, float) or math.isfinite(value)
            require(finite, field, value, "a finite number")
        for field in dataclasses.fields(self):
            getattr(self, field.name).validate()
        easier = self.curriculum.rollout_steps
        require(
            not easier or isinstance(self.task, Rule110Config),
            "curriculum.rollout_steps",
            easier,
            f"empty for the task {self.task.name}",
        )
        self._validate_ladder()
        changing = self.curriculum.passes + self.curriculum.drawn_passes
        require(
            not changing or self.sleep.cache != "keep",
            "curriculum.passes",
            changing,
            "empty with sleep.cache=keep (nothing sleeps)",
        )
        halting = self.train.halting_thresholds
        sleeps = self.sleep.cache == "evict" and self.sleep.carry == "all"
        fits = sleeps and self.model.has_fast_weights
        allowed = "empty but for fast weights with sleep.cache=evict and sleep.carry=all"
        require(not halting or fits, "train.halting_thresholds", halting, allowed)
        possible = self.optimizer.trained == "all" or self.model.has_fast_weights
        allowed = "all, or a model that has fast weights"
        require(possible, "optimizer.trained", self.optimizer.trained, allowed)
        self._validate_hard_eviction()
        self._validate_pretrained()
        self._validate_prime_mlp()
        self._validate_latents()
        self._validate_routing()
        self._validate_local()
        vocabulary = self.model.vocab_size
        needed = self.task.vocab_size
        require(vocabulary >= needed, "model.vocab_size", vocabulary, f">= {needed} for this task")
        allowed = f"one batch of sequences, {self.tokens_per_step} tokens, to {MOST_STEPS} of them"
        possible = 1 <= self.steps <= MOST_STEPS
        require(possible, "train.tokens", self.train.tokens, allowed)

    def _validate_ladder(self) -> None:
        """Raises UserError where there are no rungs, or a rung has no sequences of its own."""
        climb = self.curriculum.climb_at
        if not climb:
            return
        top = getattr(self.task, "rollout_steps", 0)
        allowed = "0, or Rule 110 with task.rollout_steps >= 1"
        require(top >= 1, "curriculum.climb_at", climb, allowed)
        every, allowed = self.curriculum.climb_every, f"up to {self.steps}, the steps of the run"
        require(every <= self.steps, "curriculum.climb_every", every, allowed)
        frozen = self.train.evaluation_data
        allowed = "empty with curriculum.climb_at, whose evaluation sequences change with t"
        require(not frozen, "train.evaluation_data", frozen, allowed)

    def _validate_hard_eviction(self) -> None:
        """Raises UserError where there is nothing to warm up, or it would train what is frozen."""
        change = self.curriculum
        slides = self.sleep.cache == "slide" and self.model.has_fast_weights
        allowed = "0, or a hybrid with sleep.cache=slide"
        require(
            not change.hard_eviction or slides,
            "curriculum.hard_eviction",
            change.hard_eviction,
            allowed,
        )
        trained, later = change.hard_eviction_trained, self.optimizer.trained
        require(
            not change.hard_eviction or trained != "all" or later == "all",
            "curriculum.hard_eviction_trained",
            trained,
            f"{later}, as optimizer.trained",
        )

    def _validate_pretrained(self) -> None:
        """Weights mean something only for the tokens that they were trained on."""
        weights = self.train.pretrained
        if not weights:
            return
        possible = self.model.inserted or not self.model.has_fast_weights
        allowed = "true with train.pretrained: it has no weights for other fast-weight blocks"
        require(possible, "model.inserted", self.model.inserted, allowed)
        for field, needed in (("tokenizer", weights), ("vocabulary", "full")):
            value = getattr(self.task, field, None)
            allowed = f"{needed!r} with train.pretrained={weights!r}"
            require(value == needed, f"task.{field}", value, allowed)

    def _validate_prime_mlp(self) -> None:
        """Raises UserError where gradient steps cannot take the place of passes."""
        if not self.model.written_by_gradient:
            return
        needed = (
            ("sleep.cache", self.sleep.cache, "evict"),
            ("sleep.backward_passes", self.sleep.backward_passes, 0),
            ("sleep.carry", self.sleep.carry, "all"),
            ("train.halting_thresholds", self.train.halting_thresholds, ()),
            ("optimizer.trained", self.optimizer.trained, "all"),
        )
        _require_all(needed, "prime_mlp in model.pattern")
        allowed = "windows of 2 tokens or more with prime_mlp in model.pattern, to predict one"
        require(self.task.window >= 2, "task.window", self.task.window, allowed)

    def _validate_latents(self) -> None:
        """Raises UserError where there would be passes, or a group of tokens cut in two."""
        if not self.model.has_latents:
            return
        needed = (
            ("sleep.cache", self.sleep.cache, "evict"),
            ("sleep.passes", self.sleep.passes, 1),
            ("curriculum.passes", self.curriculum.passes, ()),
            ("curriculum.drawn_passes", self.curriculum.drawn_passes, ()),
            ("train.evaluate_passes", self.train.evaluate_passes, ()),
            ("train.pretrained", self.train.pretrained, ""),
        )
        _require_all(needed, "model.latents.blocks > 0")
        ratio, window = self.model.latents.ratio, self.task.window
        allowed = f"a divisor of task.window={window}"
        require(window % ratio == 0, "model.latents.ratio", ratio, allowed)

    def _validate_routing(self) -> None:
        """Raises UserError where there is no cache to choose from, or no chunk before another."""
        if not self.model.is_routed:
            return
        needed = (
            ("sleep.cache", self.sleep.cache, "keep"),
            ("train.pretrained", self.train.pretrained, ""),
        )
        _require_all(needed, "model.attention.routing.chunk > 0")
        chunk, length = self.model.attention.routing.chunk, self.sequence_length
        allowed = f"1 to {length - 1}, less than the sequence"
        require(chunk < length, "model.attention.routing.chunk", chunk, allowed)

    def _validate_local(self) -> None:
        """Raises UserError where there is no cache to keep a part of, or no such part."""
        if not self.model.is_local:
            return
        needed = (
            ("sleep.cache", self.sleep.cache, "keep"),
            ("train.pretrained", self.train.pretrained, ""),
            ("train.warm_start", self.train.warm_start, ""),
        )
        _require_all(needed, "model.attention.local.window > 0")
        window, length = self.model.attention.local.window, self.sequence_length
        allowed = f"1 to {length - 1}, less than the sequence"
        require(window < length, "model.attention.local.window", window, allowed)
        blocks, units = self.model.pattern.count("attention"), self.model.attention.units
        self.consa.validate_units(blocks, units)
        first, last = self.consa.steps(self.steps)
        allowed = "at least one step ahead of consa.end"
        chooses = self.consa.by != "learned" or first < last
        require(chooses, "consa.begin", self.consa.begin, allowed)

    @property
    def sequence_length(self) -> int:
        """Tokens of one sequence, T: all context windows and the prediction window."""
        return self.task.context_windows * self.task.window + self.task.answer_length

    @property
    def tokens_per_step(self) -> int:
        return self.train.batch_size * self.sequence_length

    @property
    def steps(self) -> int:
        """Optimizer updates that the token budget pays for."""
        return self.train.tokens // self.tokens_per_step


def _require_all(needed: Iterable[tuple[str, Any, Any]], where: str) -> None:
    """Raises UserError for the first (field, value, what alone is allowed `where` that is so)."""
    for field, value, allowed in needed:
        words = "empty" if allowed in ((), "") else repr(allowed)
        require(value == allowed, field, value, f"{words} with {where}")


def to_dict(config: Any) -> dict[str, Any]:
    """A JSON-ready nested dict; tuples become lists, and a task says its name."""
    fields = {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(config)}
    return {"name": config.name, **fields} if hasattr(config, "name") else fields


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    return list(value) if isinstance(value, tuple) else value


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dict to `{"model.d_model": 64, ...}`."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        nested = isinstance(value, dict)
        flat.update(flatten(value, f"{prefix}{key}.") if nested else {prefix + key: value})
    return flat
