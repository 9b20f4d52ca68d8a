"""Frozen configuration of a run."""

import dataclasses
from typing import Any

from sleep_jax.errors import UserError
from sleep_jax.tasks.rule110 import Rule110Config
from sleep_jax.tasks.task import Task

MIXERS = ("attention", "gated_delta_net")
# What an update changes: every parameter, or those of the fast-weight blocks alone.
TRAINED = ("all", "fast_weights")
# Local rules of the fast weights; what each is, is said in model/gated_delta_net.py.
UPDATE_RULES = ("hebbian", "delta", "gated_delta", "gated_delta_negative", "kda", "jet")


def require(condition: bool, field: str, value: object, allowed: str) -> None:
    """Raises UserError naming the field, its value and what is allowed, unless `condition`."""
    if not condition:
        raise UserError(f"{field}={value!r} is not possible; allowed: {allowed}")


@dataclasses.dataclass(frozen=True)
class AttentionConfig:
    """Softmax attention."""

    heads: int = 2
    kv_heads: int = 2
    head_dim: int = 32
    qk_norm: bool = False
    rope_theta: float = 10_000.0

    def validate(self) -> None:
        require(self.heads >= 1, "model.attention.heads", self.heads, ">= 1")
        require(
            self.kv_heads >= 1 and self.heads % self.kv_heads == 0,
            "model.attention.kv_heads",
            self.kv_heads,
            f"a divisor of model.attention.heads={self.heads}",
        )
        even = self.head_dim >= 2 and self.head_dim % 2 == 0
        require(even, "model.attention.head_dim", self.head_dim, "even, >= 2 (RoPE turns pairs)")


@dataclasses.dataclass(frozen=True)
class GatedDeltaNetConfig:
    """Gated DeltaNet (arXiv 2412.06464) and its relatives: rule, heads, sizes of fast weights."""

    key_heads: int = 2
    value_heads: int = 2
    key_dim: int = 32
    value_dim: int = 32
    conv_width: int = 4
    update_rule: str = "gated_delta"
    # Of "jet": hidden units that make the convolution's kernels; Jet-Nemotron has an eighth of the
    # value features. It is the same on every shard of a mesh, so it is no share here.
    generator_hidden: int = 8

    def validate(self) -> None:
        for name in ("key_heads", "key_dim", "value_dim", "conv_width", "generator_hidden"):
            value = getattr(self, name)
            require(value >= 1, f"model.gated_delta_net.{name}", value, ">= 1")
        rule = self.update_rule
        known = ", ".join(UPDATE_RULES)
        require(rule in UPDATE_RULES, "model.gated_delta_net.update_rule", rule, known)
        require(
            self.value_heads >= 1 and self.value_heads % self.key_heads == 0,
            "model.gated_delta_net.value_heads",
            self.value_heads,
            f"a multiple of model.gated_delta_net.key_heads={self.key_heads}",
        )


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Pre-norm decoder; `pattern` names the mixer of each block, first block first."""

    pattern: tuple[str, ...] = ("attention", "gated_delta_net", "attention", "gated_delta_net")
    d_model: int = 64
    mlp_hidden: int = 128
    vocab_size: int = 3
    norm_eps: float = 1e-6
    tied_embeddings: bool = False  # logits are products with the embedding itself
    # The Gated DeltaNet blocks are additions to a trained stack of attention blocks: no MLP, and an
    # output projection of zeros at first, so that they change nothing before they are trained.
    inserted: bool = False
    # (first, end): passes repeat only these blocks; those before run once, ahead of the first pass,
    # those from `end` on once, behind the last. Empty: all are repeated. The paper repeats the
    # middle 14 of 28 blocks of Jet-Nemotron, which was not trained in loops (Ouro was: all).
    looped: tuple[int, ...] = ()
    # "auto" is bfloat16 where the device computes in it (TPU, GPU), float32 on CPU.
    activation_dtype: str = "auto"
    attention: AttentionConfig = AttentionConfig()
    gated_delta_net: GatedDeltaNetConfig = GatedDeltaNetConfig()

    @property
    def has_fast_weights(self) -> bool:
        return "gated_delta_net" in self.pattern

    @property
    def loop(self) -> tuple[int, int]:
        """The first block that passes repeat, and the one after the last."""
        first, end = self.looped or (0, len(self.pattern))
        return first, end

    def validate(self) -> None:
        known = bool(self.pattern) and all(name in MIXERS for name in self.pattern)
        require(known, "model.pattern", ",".join(self.pattern), f"a list of {', '.join(MIXERS)}")
        for name in ("d_model", "mlp_hidden", "vocab_size"):
            require(getattr(self, name) >= 1, f"model.{name}", getattr(self, name), ">= 1")
        dtypes = ("auto", "float32", "bfloat16")
        dtype = self.activation_dtype
        require(dtype in dtypes, "model.activation_dtype", dtype, ", ".join(dtypes))
        require(
            not self.inserted or set(self.pattern) == set(MIXERS),
            "model.inserted",
            self.inserted,
            "false, or both mixers in model.pattern",
        )
        self._validate_looped()
        self.attention.validate()
        self.gated_delta_net.validate()

    def _validate_looped(self) -> None:
        """Raises UserError where there is no such part, or repeating it would write nothing."""
        last = len(self.pattern)
        given = len(self.looped) == 2 and 0 <= self.looped[0] < self.looped[1] <= last
        allowed = f"empty, or first,end with 0 <= first < end <= {last}"
        require(not self.looped or given, "model.looped", self.looped, allowed)
        first, end = self.loop
        writes = "gated_delta_net" in self.pattern[first:end] or not self.has_fast_weights
        require(writes, "model.looped", self.looped, "a part of model.pattern with fast weights")


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

    def validate(self) -> None:
        require(self.passes >= 1, "sleep.passes", self.passes, "N >= 1")
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
    weight_decay: float = 0.0
    warmup_fraction: float = 0.05
    decay_fraction: float = 0.3
    clip_norm: float = 1.0
    trained: str = "all"  # one of TRAINED

    def validate(self) -> None:
        require(self.trained in TRAINED, "optimizer.trained", self.trained, ", ".join(TRAINED))
        for name in ("muon_learning_rate", "adamw_learning_rate", "clip_norm"):
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
class CurriculumConfig:
    """What changes in the course of training; evaluation is at the task's own depth and N.

    Attributes:
      rollout_steps: t of Rule 110 for the first `share` of the run, in this order and for equally
        long; after them the task's own t. Empty: its own from the start.
      passes: N for the first `share` of the run, likewise.
      drawn_passes: N is drawn from these for every batch, each equally often: elastic sleep.
      share: of the run's steps.
      hard_eviction: share of the run's steps, at its start, in which the whole cache is evicted
        where sleep.cache="slide": fast weights are learned before keys and values outlive a window
        (arXiv 2605.26099 for Ouro with a sliding window: one epoch of three).
      hard_eviction_trained: what these steps change, one of TRAINED; in the paper the fast-weight
        blocks alone.
    """

    rollout_steps: tuple[int, ...] = ()
    passes: tuple[int, ...] = ()
    drawn_passes: tuple[int, ...] = ()
    share: float = 2 / 3
    hard_eviction: float = 0.0
    hard_eviction_trained: str = "all"

    def validate(self) -> None:
        """Raises UserError naming the field."""
        for name, least in (("rollout_steps", 0), ("passes", 1), ("drawn_passes", 1)):
            values = getattr(self, name)
            allowed = f"whole numbers >= {least}"
            require(all(n >= least for n in values), f"curriculum.{name}", values, allowed)
        require(0 < self.share <= 1, "curriculum.share", self.share, "a share of the run, 0 to 1")
        hard = self.hard_eviction
        require(0 <= hard < 1, "curriculum.hard_eviction", hard, "a share of the run, 0 to 1")
        trained = self.hard_eviction_trained
        known = ", ".join(TRAINED)
        require(trained in TRAINED, "curriculum.hard_eviction_trained", trained, known)
        both = bool(self.passes and self.drawn_passes)
        allowed = "empty where curriculum.passes is given"
        require(not both, "curriculum.drawn_passes", self.drawn_passes, allowed)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Budget, cadence and evaluation of one run. Steps are counted in optimizer updates."""

    seed: int = 0
    pretrained: str = ""  # "smollm2" or a GGUF file (sleep_jax/pretrained); empty: drawn
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

    def validate(self) -> None:
        """Raises UserError with one line for the first field that cannot be."""
        parts = (self.model, self.sleep, self.task, self.optimizer, self.train, self.curriculum)
        for part in parts:
            part.validate()
        easier = self.curriculum.rollout_steps
        require(
            not easier or isinstance(self.task, Rule110Config),
            "curriculum.rollout_steps",
            easier,
            f"empty for the task {self.task.name}",
        )
        changing = self.curriculum.passes + self.curriculum.drawn_passes
        require(
            not changing or self.sleep.cache != "keep",
            "curriculum.passes",
            changing,
            "empty with sleep.cache=keep (nothing sleeps)",
        )
        halting = self.train.halting_thresholds
        fits = self.sleep.cache == "evict" and self.model.has_fast_weights
        allowed = "empty but for fast weights with sleep.cache=evict"
        require(not halting or fits, "train.halting_thresholds", halting, allowed)
        possible = self.optimizer.trained == "all" or self.model.has_fast_weights
        allowed = "all, or a model that has fast weights"
        require(possible, "optimizer.trained", self.optimizer.trained, allowed)
        self._validate_hard_eviction()
        self._validate_pretrained()
        vocabulary = self.model.vocab_size
        needed = self.task.vocab_size
        require(vocabulary >= needed, "model.vocab_size", vocabulary, f">= {needed} for this task")
        require(self.steps >= 1, "train.tokens", self.train.tokens, ">= one batch of sequences")

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
