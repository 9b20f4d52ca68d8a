"""Cells of a sweep: one training run each, with the name of its directory."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from sleep_jax.config import RunConfig
from sleep_jax.errors import UserError
from sleep_jax.flops import training_flops, training_flops_per_step
from sleep_jax.model.config import ModelConfig

HYBRID, EVICTED, FULL_CACHE = "hybrid", "transformer_evicted", "transformer_full_cache"
LCLM = "lclm"  # a transformer that keeps latents of its windows (model/latents.py)
# What a smaller N may spend the FLOPs of the largest on, and the `match` of its row.
TOKENS, BLOCKS, WIDTH = "tokens", "blocks", "width"
EQUAL_TOKENS = "tokens"
EQUAL_FLOPS = {TOKENS: "flops", BLOCKS: "flops_blocks", WIDTH: "flops_width"}


def without_seed(name: str) -> str:
    """The name of a cell less its seed, which all seeds of one setting share."""
    return re.sub(r"-s\d+(?=-|$)", "", name)


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run: `match` says what it shares with its neighbours, tokens or (how spent) FLOPs."""

    model: str
    match: str
    config: RunConfig

    @property
    def name(self) -> str:
        """Directory name, the same wherever and by whomever the cell is run."""
        suffix = "" if self.match == EQUAL_TOKENS else "-" + self.match.replace("_", "-")
        usual = ("none", "gated_delta", "latents")
        rule = "" if self.update_rule in usual else f"-{self.update_rule}"
        return (
            f"{self.model}{rule}-N{self.config.sleep.passes}".replace("_", "-")
            + f"-{self.config.task.label}-s{self.config.train.seed}"
            + f"{_regime_name(self.config)}{suffix}"
        )

    @property
    def update_rule(self) -> str:
        """What is left of a window: what writes fast weights, a local rule or "prime_mlp"; or
        "latents", or "none"."""
        model = self.config.model
        if model.has_latents:
            return "latents"
        if model.written_by_gradient:
            return "prime_mlp"
        return model.gated_delta_net.update_rule if model.has_fast_weights else "none"

    @property
    def flops(self) -> int:
        """Training operations of the cell."""
        return training_flops(self.config)

    def identity(self) -> dict[str, object]:
        """The part of the row that is known before the run."""
        config = self.config
        return {
            "cell": self.name,
            "model": self.model,
            "update_rule": self.update_rule,
            "passes": config.sleep.passes,
            "cache": config.sleep.cache,
            "blocks": len(config.model.pattern),
            "d_model": config.model.d_model,
            "label": config.task.label,
            **config.task.setting(),
            "seed": config.train.seed,
            "match": self.match,
            "regime": regime(self.config),
        }


def regime(config: RunConfig) -> str:
    """How a run departs from one depth, one N, the paper's samples and blocks, or "plain"."""
    easier, rising, drawn, back = _departures(config)
    hard, alone = _hard_eviction(config)
    carried = _carried_alone(config)
    words = [
        f"t = {', '.join(map(str, easier))} first" if easier else "",
        "t climbs" if config.curriculum.climb_at else "",
        f"N = {', '.join(map(str, rising))} first" if rising else "",
        f"N drawn from {', '.join(map(str, drawn))}" if drawn else "",
        f"gradient through the last {back} of {config.sleep.passes} passes" if back else "",
        f"hard eviction for {hard:.0%}{' of fast weights alone' if alone else ''}" if hard else "",
        f"passes hand on {carried.replace('_', ' ')} alone" if carried else "",
        config.task.departure,
        "attention sink" if config.model.attention.sink else "",
        "fast weights turned at windows' ends" if _turns(config) else "",
        _latents(config),
        _routing(config),
        _choice(config),
        f"from {begun}" if (begun := _begun_with(config)) else "",
    ]
    return "; ".join(filter(None, words)) or "plain"


def _regime_name(config: RunConfig) -> str:
    """The same as part of the name of a directory."""
    easier, rising, drawn, back = _departures(config)
    parts = (("t", easier), ("N", rising), ("drawn", drawn), ("back", (back,) if back else ()))
    name = "".join(f"-{name}{'.'.join(map(str, values))}" for name, values in parts if values)
    name += "-climbs" * bool(config.curriculum.climb_at)
    hard, alone = _hard_eviction(config)
    name += f"-hard{hard:g}{'-alone' if alone else ''}" if hard else ""
    carried = _carried_alone(config)
    name += f"-carry-{carried.replace('_', '-')}" if carried else ""
    name += "-sink" * config.model.attention.sink
    name += "-turned" * _turns(config)
    if config.model.has_latents:
        latents = config.model.latents
        name += f"-per{latents.ratio}" + "-concat" * (latents.pooling == "concat")
    if config.model.is_routed:
        words = re.sub(r"[^a-z0-9+.]+", "-", _routing(config).removeprefix("chunks of "))
        name += f"-chunks{words}"
    if config.model.is_local:
        words = re.sub(r"[^a-z0-9.]+", "-", _choice(config))
        name += f"-{words}-w{config.model.attention.local.window}"
    return f"{name}-warm" if config.train.warm_start else name


def _turns(config: RunConfig) -> bool:
    """Whether windows have places in the fast weights."""
    model = config.model
    return "gated_delta_net" in model.pattern and model.gated_delta_net.window_theta > 0


def _latents(config: RunConfig) -> str:
    """How many tokens a latent stands for, where there are latents."""
    if not config.model.has_latents:
        return ""
    latents = config.model.latents
    tokens = f"{latents.ratio} token{'s' * (latents.ratio > 1)}"
    return f"{tokens} a latent" + ", concatenated" * (latents.pooling == "concat")


def _routing(config: RunConfig) -> str:
    """Which chunks attention reads, where it reads chosen ones, and what teaches it to choose."""
    if not config.model.is_routed:
        return ""
    routing = config.model.attention.routing
    chunks = f"chunks of {routing.chunk}"
    if routing.select == "top_k":
        return f"{chunks}, best {routing.top_k}"
    taught = {
        "scaled": f"sigma {routing.sigma:g}",
        "straight_through": "straight through",
        "none": "untaught",
    }[routing.prior]
    gamma = f", gamma {routing.gamma:g}" * (routing.gamma != 1)
    return f"{chunks} by entmax, {taught}{gamma}"


def _choice(config: RunConfig) -> str:
    """Which heads or layers read all of the cache, where not all do, and who says so."""
    if not config.model.is_local:
        return ""
    attention, consa = config.model.attention, config.consa
    units = config.model.pattern.count("attention") * attention.units
    whole = round(units * (1 - consa.share))
    words = f"{whole} of {units} {attention.local.unit}s whole"
    if whole in (0, units):
        return words
    learned, each = consa.by == "learned", consa.budget == "each"
    rule = consa.by in ("bottom", "middle", "top")
    who = "the same number" if each and rule else consa.by
    when = f" at {consa.begin:g} to {consa.end:g}" if learned else f" at {consa.end:g}"
    return f"{words}, {who}{' of each block' * each}{when * (consa.end > 0)}"


def _begun_with(config: RunConfig) -> str:
    """The run with whose parameters it begins, less its seed."""
    return without_seed(Path(config.train.warm_start_of_seed).name)


def _hard_eviction(config: RunConfig) -> tuple[float, bool]:
    """Share of the run that evicts everything first; whether it changes less than the rest does."""
    change = config.curriculum
    return change.hard_eviction, change.hard_eviction_trained != config.optimizer.trained


def _carried_alone(config: RunConfig) -> str:
    """What passes hand on where it is not all, or nothing."""
    return config.sleep.carry if config.sleep.carry != "all" and config.sleep.passes > 1 else ""


def _departures(
    config: RunConfig,
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int]:
    change = config.curriculum
    return change.rollout_steps, change.passes, change.drawn_passes, config.sleep.backward_passes


def hybrid(base: RunConfig, passes: int, seed: int) -> Cell:
    """The model under study, at the budget of `base`."""
    return Cell(HYBRID, EQUAL_TOKENS, _at(base, passes, seed))


def spenders(passes: Sequence[int], spend: str) -> list[int]:
    """The N that get the FLOPs of the largest: every smaller one on TOKENS, else N = 1 alone."""
    return sorted({1, *passes} - {max(passes)}) if spend == TOKENS else [1]


def matched(base: RunConfig, passes: int, seed: int, spend: str, smaller: int = 1) -> Cell:
    """N = `smaller` with as many training FLOPs as N = `passes` takes at the budget of `base`.

    Args:
      spend: what the FLOPs buy: TOKENS; BLOCKS, the pattern repeated the whole number of times that
        comes nearest; or WIDTH, d, MLP and heads wider by the nearest whole number of heads. What
        rounding leaves over or under is made up in tokens.

    Raises:
      UserError: a model that begins with another's parameters cannot be deeper or wider.
    """
    dear = training_flops(_at(base, passes, seed))
    config = _one_pass(base, seed) if smaller == 1 else _at(base, smaller, seed)
    for field in ("pretrained", "warm_start"):
        begun = getattr(base.train, field)
        if spend != TOKENS and begun:
            raise UserError(
                f"--match={spend} is not possible with train.{field}={begun!r}, which has its "
                f"size; allowed: {TOKENS}"
            )
    if spend != TOKENS:
        grow = {BLOCKS: deeper, WIDTH: _wider}[spend]
        target = dear / config.steps
        config = min(
            (dataclasses.replace(config, model=grow(config.model, n)) for n in range(1, 65)),
            key=lambda grown: abs(training_flops_per_step(grown) - target),
        )
    return Cell(HYBRID, EQUAL_FLOPS[spend], with_flops(config, dear))


def with_flops(config: RunConfig, flops: int) -> RunConfig:
    """The run at the tokens, in whole steps, that make it cost as many training FLOPs."""
    steps = round(flops * config.steps / training_flops(config))
    train = dataclasses.replace(config.train, tokens=steps * config.tokens_per_step)
    return dataclasses.replace(config, train=train)


def all_matched(
    base: RunConfig,
    passes: Sequence[int],
    ways: Sequence[str],
    seeds: Sequence[int],
    rates: Mapping[int, float],
) -> list[Cell]:
    """`matched` to the largest N: each of `ways` to spend, each of its `spenders`, each seed.

    There are none where the largest N is 1.

    Args:
      rates: Muon's, of the N that want another one than `base` has on more TOKENS.
    """
    if max(passes) == 1:
        return []
    return [
        matched(tuned, max(passes), seed, spend, smaller)
        for spend in ways
        for smaller in spenders(passes, spend)
        for tuned in [at_rate(base, rates.get(smaller) if spend == TOKENS else None)]
        for seed in seeds
    ]


def at_rate(base: RunConfig, rate: float | None) -> RunConfig:
    """The configuration with that rate of Muon's; None: as it is."""
    if rate is None:
        return base
    optimizer = dataclasses.replace(base.optimizer, muon_learning_rate=rate)
    return dataclasses.replace(base, optimizer=optimizer)


def deeper(model: ModelConfig, times: int) -> ModelConfig:
    """The model with its pattern of blocks repeated."""
    return dataclasses.replace(model, pattern=model.pattern * times)


def _wider(model: ModelConfig, more: int) -> ModelConfig:
    """Wider by `more` heads of every kind and the same share of d and of the MLP's width."""
    attention, delta = model.attention, model.gated_delta_net
    kv_heads = attention.kv_heads + more
    grow = kv_heads / attention.kv_heads
    key_heads = round(delta.key_heads * grow)
    return dataclasses.replace(
        model,
        d_model=round(model.d_model * grow),
        mlp_hidden=round(model.mlp_hidden * grow),
        attention=dataclasses.replace(
            attention, heads=kv_heads * (attention.heads // attention.kv_heads), kv_heads=kv_heads
        ),
        gated_delta_net=dataclasses.replace(
            delta,
            key_heads=key_heads,
            value_heads=key_heads * (delta.value_heads // delta.key_heads),
            generator_hidden=round(delta.generator_hidden * grow),
        ),
        prime_mlp=dataclasses.replace(model.prime_mlp, hidden=round(model.prime_mlp.hidden * grow)),
    )


def lclm(base: RunConfig, ratio: int, seed: int) -> Cell:
    """Attention in every block, and of every window latents of n tokens, at the tokens of `base`.

    The blocks of `base` are dealt out evenly to encoder and decoder; of one each has one.

    Args:
      ratio: n.
    """
    config = _one_pass(base, seed)
    blocks = len(base.model.pattern)
    encoder = max(1, blocks // 2)
    latents = dataclasses.replace(config.model.latents, blocks=encoder, ratio=ratio)
    pattern = ("attention",) * max(1, blocks - encoder)
    model = dataclasses.replace(config.model, pattern=pattern, latents=latents)
    return Cell(LCLM, EQUAL_TOKENS, dataclasses.replace(config, model=model))


def transformer(base: RunConfig, cache: str, seed: int) -> Cell:
    """Attention in every block, its cache evicted ("evict") or kept ("keep").

    Raises:
      UserError: a run whose parameters it cannot have is what the others begin with.
    """
    if begun := base.train.warm_start:
        name = "evicted" if cache == "evict" else "full"
        raise UserError(
            f"--baselines={name} is not possible with train.warm_start={begun!r}, which has other "
            "blocks; allowed: --baselines="
        )
    config = _one_pass(base, seed)
    config = dataclasses.replace(
        config,
        curriculum=dataclasses.replace(config.curriculum, hard_eviction=0.0),
        model=dataclasses.replace(config.model, pattern=("attention",) * len(base.model.pattern)),
        sleep=dataclasses.replace(config.sleep, cache=cache),
        train=dataclasses.replace(config.train, evaluate_passes=(), halting_thresholds=()),
    )
    return Cell(EVICTED if cache == "evict" else FULL_CACHE, EQUAL_TOKENS, config)


def attending(base: RunConfig, seed: int, **attention: object) -> Cell:
    """The transformer that keeps its cache, and attends to it in another way.

    Args:
      attention: fields of the model's `AttentionConfig`.
    """
    full = transformer(base, "keep", seed)
    changed = dataclasses.replace(full.config.model.attention, **attention)  # type: ignore[arg-type]
    model = dataclasses.replace(full.config.model, attention=changed)
    return dataclasses.replace(full, config=dataclasses.replace(full.config, model=model))


def _one_pass(base: RunConfig, seed: int) -> RunConfig:
    """N = 1 throughout, with the depths of `base`."""
    config = _at(base, 1, seed)
    return dataclasses.replace(
        config,
        sleep=dataclasses.replace(config.sleep, backward_passes=0),
        curriculum=dataclasses.replace(config.curriculum, passes=(), drawn_passes=()),
    )


def _at(base: RunConfig, passes: int, seed: int) -> RunConfig:
    return dataclasses.replace(
        base,
        sleep=dataclasses.replace(base.sleep, passes=passes),
        train=dataclasses.replace(base.train, seed=seed),
    )


def plan_text(cells: Sequence[Cell], parameters: Sequence[int], seconds: float, basis: str) -> str:
    """The plan as text, one line a run, and the totals."""
    lines = [f"{'run':44}{'steps':>8}{'tokens':>12}{'parameters':>12}{'FLOPs':>10}"]
    lines += [
        f"{cell.name:44}{cell.config.steps:>8}"
        f"{cell.config.steps * cell.config.tokens_per_step:>12}{count:>12}{cell.flops:>10.2g}"
        for cell, count in zip(cells, parameters, strict=True)
    ]
    total = sum(cell.flops for cell in cells)
    about = "at most" if any(cell.config.train.target_accuracy for cell in cells) else "about"
    lines.append(f"{len(cells)} runs, {total:.3g} FLOPs, {about} {seconds:.0f} s ({basis})")
    return "\n".join(lines)
