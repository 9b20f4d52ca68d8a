"""Frozen configuration of a model. Imports no JAX."""

import dataclasses

from sleep_jax.errors import UserError

MIXERS = ("attention", "gated_delta_net", "prime_mlp")
FAST_WEIGHTS = ("gated_delta_net", "prime_mlp")  # the mixers that have some
# Local rules of the fast weights; what each is, is said in model/gated_delta_net.py.
UPDATE_RULES = ("hebbian", "delta", "gated_delta", "gated_delta_negative", "kda", "jet")


def require(condition: bool, field: str, value: object, allowed: str) -> None:
    """Raises UserError naming the field, its value and what is allowed, unless `condition`."""
    if not condition:
        raise UserError(f"{field}={value!r} is not possible; allowed: {allowed}")


@dataclasses.dataclass(frozen=True)
class RoutingConfig:
    """What queries read of a kept cache (DashAttention, arXiv 2605.18753; model/routing.py).

    Attributes:
      chunk: b, tokens of a chunk; 0: all that came before is read.
      select: "entmax", as many chunks as 1.5-entmax gives a weight, or "top_k".
      top_k: chunks that "top_k" reads, beside the query's own.
      gamma: what logits of chunks are multiplied with; the larger, the fewer chunks of "entmax".
      prior: what a chunk's weight w adds to the logits of its tokens, and so what teaches the
        routing: "scaled", (log w - mean log w) / sigma; "straight_through", nothing, with the
        gradient of log w; "none", nothing, and nothing teaches it.
      sigma: of "scaled"; the paper has 1e6 and 1e8.
    """

    chunk: int = 0
    select: str = "entmax"
    top_k: int = 2
    gamma: float = 1.0
    prior: str = "scaled"
    sigma: float = 1e6

    def validate(self) -> None:
        at = "model.attention.routing"
        require(self.chunk >= 0, f"{at}.chunk", self.chunk, ">= 0 (0: off)")
        known = ("entmax", "top_k")
        require(self.select in known, f"{at}.select", self.select, ", ".join(known))
        require(self.top_k >= 1, f"{at}.top_k", self.top_k, ">= 1")
        priors = ("scaled", "straight_through", "none")
        require(self.prior in priors, f"{at}.prior", self.prior, ", ".join(priors))
        for name in ("gamma", "sigma"):
            require(getattr(self, name) > 0, f"{at}.{name}", getattr(self, name), "> 0")
        chosen = self.chunk > 0 and self.select == "top_k"
        allowed = "'none' with model.attention.routing.select='top_k', which has no weights"
        require(not chosen or self.prior == "none", f"{at}.prior", self.prior, allowed)


@dataclasses.dataclass(frozen=True)
class LocalConfig:
    """Attention of which some units read all of a kept cache, and others the nearest tokens alone.

    Which do is a parameter of every block, log alpha (ConSA, arXiv 2606.18056; model/local.py).

    Attributes:
      window: w, tokens that a local unit reads, itself included; 0: off, all units read all.
      unit: "head", a KV head with its query heads, or "layer".
      relaxed: outputs of both kinds are mixed, as while a choice is learned; else log alpha > 0
        reads all.
    """

    window: int = 0
    unit: str = "head"
    relaxed: bool = False

    def validate(self) -> None:
        require(self.window >= 0, "model.attention.local.window", self.window, ">= 0 (0: off)")
        units = ("head", "layer")
        require(self.unit in units, "model.attention.local.unit", self.unit, ", ".join(units))
        allowed = "false: training sets it while a choice is learned"
        require(not self.relaxed, "model.attention.local.relaxed", self.relaxed, allowed)


@dataclasses.dataclass(frozen=True)
class AttentionConfig:
    """Softmax attention.

    `sink`: one is added to the softmax's denominator, exp(x_i) / (1 + sum_j exp(x_j)), so that a
    token may attend to nothing (the zero sink of arXiv 2309.17453). It has no position.
    """

    heads: int = 2
    kv_heads: int = 2
    head_dim: int = 32
    qk_norm: bool = False
    rope_theta: float = 10_000.0
    sink: bool = False
    routing: RoutingConfig = RoutingConfig()
    local: LocalConfig = LocalConfig()

    @property
    def units(self) -> int:
        """Of a block, those that read all of the cache or a part of it."""
        return self.kv_heads if self.local.unit == "head" else 1

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
        require(self.rope_theta > 0, "model.attention.rope_theta", self.rope_theta, "> 0")
        self.routing.validate()
        self.local.validate()
        routed = self.routing.chunk > 0
        allowed = "false with model.attention.routing.chunk > 0"
        require(not (routed and self.sink), "model.attention.sink", self.sink, allowed)
        local = self.local.window > 0
        allowed = "false with model.attention.local.window > 0"
        require(not (local and self.sink), "model.attention.sink", self.sink, allowed)
        allowed = "0 with model.attention.local.window > 0"
        chunk = self.routing.chunk
        require(not (local and routed), "model.attention.routing.chunk", chunk, allowed)


@dataclasses.dataclass(frozen=True)
class GatedDeltaNetConfig:
    """Gated DeltaNet (arXiv 2412.06464) and its relatives: rule, heads, sizes of fast weights.

    `window_theta`: at the end of every window the fast weights are turned on the side of the keys
    by one position of RoPE with this base, so that queries and keys meet by how many windows lie
    between them, and windows have places. It has no parameters. 0: off, as in the papers.
    """

    key_heads: int = 2
    value_heads: int = 2
    key_dim: int = 32
    value_dim: int = 32
    conv_width: int = 4
    update_rule: str = "gated_delta"
    # Of "jet": hidden units that make the convolution's kernels; Jet-Nemotron has an eighth of the
    # value features. It is the same on every shard of a mesh, so it is no share here.
    generator_hidden: int = 8
    window_theta: float = 0.0

    def validate(self) -> None:
        for name in ("key_heads", "key_dim", "value_dim", "conv_width", "generator_hidden"):
            value = getattr(self, name)
            require(value >= 1, f"model.gated_delta_net.{name}", value, ">= 1")
        turns, even = self.window_theta != 0, self.key_dim % 2 == 0
        name = "model.gated_delta_net.window_theta"
        require(self.window_theta >= 0, name, self.window_theta, ">= 0 (0: off)")
        allowed = "even with model.gated_delta_net.window_theta (RoPE turns pairs)"
        require(not turns or even, "model.gated_delta_net.key_dim", self.key_dim, allowed)
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
class PrimeMLPConfig:
    """The prime MLP of TTT-E2E (arXiv 2512.23675): gradient steps on a window write its weights.

    Attributes:
      hidden: width of its SwiGLU; the fast weights are three matrices of d_model x hidden.
      learning_rate: of the inner SGD; the released configurations have 1.
      clip_norm: the gradient of one sequence, over all prime MLPs, is shortened to this norm.
      second_order: whether training differentiates through the inner gradient; false takes it for
        a constant (first-order meta-learning), so that nothing learns to be written.
    """

    hidden: int = 64
    learning_rate: float = 1.0
    clip_norm: float = 1.0
    second_order: bool = True

    def validate(self) -> None:
        require(self.hidden >= 1, "model.prime_mlp.hidden", self.hidden, ">= 1")
        for name in ("learning_rate", "clip_norm"):
            require(getattr(self, name) > 0, f"model.prime_mlp.{name}", getattr(self, name), "> 0")


@dataclasses.dataclass(frozen=True)
class LatentsConfig:
    """What turns a window into latents (LCLM, arXiv 2606.09659): model/latents.py.

    Attributes:
      blocks: attention blocks of the encoder; 0: there is none, and windows become no latents.
      ratio: n, tokens that a latent stands for.
      pooling: of n outputs of the encoder, "mean" or "concat".
    """

    blocks: int = 0
    ratio: int = 4
    pooling: str = "mean"

    def validate(self) -> None:
        require(self.blocks >= 0, "model.latents.blocks", self.blocks, ">= 0 (0: no latents)")
        require(self.ratio >= 1, "model.latents.ratio", self.ratio, ">= 1")
        known = ("mean", "concat")
        require(self.pooling in known, "model.latents.pooling", self.pooling, ", ".join(known))


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
    prime_mlp: PrimeMLPConfig = PrimeMLPConfig()
    latents: LatentsConfig = LatentsConfig()

    @property
    def is_routed(self) -> bool:
        """Whether attention reads chosen chunks of its cache alone."""
        return self.attention.routing.chunk > 0 and "attention" in self.pattern

    @property
    def is_local(self) -> bool:
        """Whether some heads or layers may read a part of the cache alone."""
        return self.attention.local.window > 0 and "attention" in self.pattern

    def relaxed(self) -> "ModelConfig":
        """The model while it is learned which heads or layers read all of the cache."""
        local = dataclasses.replace(self.attention.local, relaxed=True)
        return dataclasses.replace(self, attention=dataclasses.replace(self.attention, local=local))

    @property
    def has_latents(self) -> bool:
        """Whether an encoder turns windows into latents; blocks then write no fast weights."""
        return self.latents.blocks > 0

    @property
    def has_fast_weights(self) -> bool:
        return any(mixer in FAST_WEIGHTS for mixer in self.pattern)

    @property
    def written_by_gradient(self) -> bool:
        """Whether a gradient step writes the fast weights, rather than the blocks themselves."""
        return "prime_mlp" in self.pattern

    @property
    def loop(self) -> tuple[int, int]:
        """The first block that passes repeat, and the one after the last.

        Gradient steps repeat what lies behind the first fast weights: nothing else changes.
        """
        if self.written_by_gradient:
            return self.pattern.index("prime_mlp"), len(self.pattern)
        first, end = self.looped or (0, len(self.pattern))
        return first, end

    def validate(self) -> None:
        known = bool(self.pattern) and all(name in MIXERS for name in self.pattern)
        require(known, "model.pattern", ",".join(self.pattern), f"a list of {', '.join(MIXERS)}")
        for name in ("d_model", "mlp_hidden", "vocab_size"):
            require(getattr(self, name) >= 1, f"model.{name}", getattr(self, name), ">= 1")
        require(self.norm_eps > 0, "model.norm_eps", self.norm_eps, "> 0")
        dtypes = ("auto", "float32", "bfloat16")
        dtype = self.activation_dtype
        require(dtype in dtypes, "model.activation_dtype", dtype, ", ".join(dtypes))
        require(
            not self.inserted or set(self.pattern) == {"attention", "gated_delta_net"},
            "model.inserted",
            self.inserted,
            "false, or attention and gated_delta_net in model.pattern",
        )
        writers = [name for name in FAST_WEIGHTS if name in self.pattern]
        allowed = f"one of {', '.join(FAST_WEIGHTS)} beside attention"
        require(len(writers) <= 1, "model.pattern", ",".join(self.pattern), allowed)
        self._validate_looped()
        self.attention.validate()
        self.gated_delta_net.validate()
        self.prime_mlp.validate()
        self.latents.validate()
        alone = set(self.pattern) == {"attention"} or not self.has_latents
        allowed = "attention alone with model.latents.blocks > 0"
        require(alone, "model.pattern", ",".join(self.pattern), allowed)

    def _validate_looped(self) -> None:
        """Raises UserError where there is no such part, or repeating it would write nothing."""
        last = len(self.pattern)
        given = len(self.looped) == 2 and 0 <= self.looped[0] < self.looped[1] <= last
        allowed = f"empty, or first,end with 0 <= first < end <= {last}"
        require(not self.looped or given, "model.looped", self.looped, allowed)
        steps = "empty where a gradient step writes (prime_mlp)"
        require(not self.looped or not self.written_by_gradient, "model.looped", self.looped, steps)
        first, end = self.loop
        writes = any(mixer in FAST_WEIGHTS for mixer in self.pattern[first:end])
        writes = writes or not self.has_fast_weights
        require(writes, "model.looped", self.looped, "a part of model.pattern with fast weights")
