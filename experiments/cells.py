"""Cells of a sweep: one training run each, with the name of its directory."""

import dataclasses
from collections.abc import Sequence

from sleep_jax.config import RunConfig
from sleep_jax.flops import training_flops, training_flops_per_step

HYBRID, EVICTED, FULL_CACHE = "hybrid", "transformer_evicted", "transformer_full_cache"


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run: `match` says what it shares with its neighbours, "tokens" or "flops"."""

    model: str
    match: str
    config: RunConfig

    @property
    def name(self) -> str:
        """Directory name, the same wherever and by whomever the cell is run."""
        task, sleep = self.config.task, self.config.sleep
        suffix = "-flops" if self.match == "flops" else ""
        return (
            f"{self.model.replace('_', '-')}-N{sleep.passes}-t{task.rollout_steps}"
            f"-W{task.width}-s{self.config.train.seed}{suffix}"
        )

    @property
    def flops(self) -> int:
        """Training operations of the cell."""
        return training_flops(self.config)

    def identity(self) -> dict[str, object]:
        """The part of the row that is known before the run."""
        config = self.config
        fast = "gated_delta_net" in config.model.pattern
        return {
            "cell": self.name,
            "model": self.model,
            "update_rule": "gated_delta" if fast else "none",
            "passes": config.sleep.passes,
            "rollout_steps": config.task.rollout_steps,
            "width": config.task.width,
            "seed": config.train.seed,
            "match": self.match,
        }


def hybrid(base: RunConfig, passes: int, rollout_steps: int, seed: int) -> Cell:
    """The model under study, at the budget of `base`."""
    return Cell(HYBRID, "tokens", _at(base, passes, rollout_steps, seed))


def matched(base: RunConfig, passes: int, rollout_steps: int, seed: int) -> Cell:
    """N = 1 with as many training FLOPs as `passes` takes at the budget of `base`."""
    dear = training_flops(_at(base, passes, rollout_steps, seed))
    config = _at(base, 1, rollout_steps, seed)
    steps = round(dear / training_flops_per_step(config))
    train = dataclasses.replace(config.train, tokens=steps * config.tokens_per_step)
    return Cell(HYBRID, "flops", dataclasses.replace(config, train=train))


def transformer(base: RunConfig, cache: str, rollout_steps: int, seed: int) -> Cell:
    """Attention in every block, its cache evicted ("evict") or kept ("keep")."""
    config = _at(base, 1, rollout_steps, seed)
    config = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, pattern=("attention",) * len(base.model.pattern)),
        sleep=dataclasses.replace(config.sleep, cache=cache),
        train=dataclasses.replace(config.train, evaluate_passes=()),
    )
    return Cell(EVICTED if cache == "evict" else FULL_CACHE, "tokens", config)


def _at(base: RunConfig, passes: int, rollout_steps: int, seed: int) -> RunConfig:
    return dataclasses.replace(
        base,
        sleep=dataclasses.replace(base.sleep, passes=passes),
        task=dataclasses.replace(base.task, rollout_steps=rollout_steps),
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
    lines.append(f"{len(cells)} runs, {total:.3g} FLOPs, about {seconds:.0f} s ({basis})")
    return "\n".join(lines)
