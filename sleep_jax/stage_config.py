"""Configuration of what changes in the course of training. Imports no JAX."""

import dataclasses
import math

from sleep_jax.model.config import require

# What an update changes: every parameter, or those of the fast-weight blocks alone.
TRAINED = ("all", "fast_weights")
MOST_PASSES = 1000  # what is kept for each pass stays small
# Who says which heads or layers read all of the cache.
CHOOSERS = ("learned", "ranked", "bottom", "middle", "top", "random")


@dataclasses.dataclass(frozen=True)
class CurriculumConfig:
    """What changes in the course of training; evaluation is at the task's own depth and N.

    Attributes:
      rollout_steps: t of Rule 110 for the first `share` of the run, in this order and for equally
        long; after them the task's own t. Empty: its own from the start.
      passes: N for the first `share` of the run, likewise.
      drawn_passes: N is drawn from these for every batch, each equally often: elastic sleep.
      share: of the run's steps.
      climb_at: t begins at 1 and rises by one, up to the task's own, whenever this share of the
        sequences of the last `climb_every` batches was right. Evaluation is then at the t of the
        moment. 0: off.
      climb_every: after so many steps that is asked, and again after as many.
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
    climb_at: float = 0.0
    climb_every: int = 50
    hard_eviction: float = 0.0
    hard_eviction_trained: str = "all"

    def validate(self) -> None:
        """Raises UserError naming the field."""
        for name, least in (("rollout_steps", 0), ("passes", 1), ("drawn_passes", 1)):
            values = getattr(self, name)
            most = MOST_PASSES if least else math.inf
            allowed = f"whole numbers >= {least}" + f", up to {most}" * bool(least)
            possible = all(least <= n <= most for n in values)
            require(possible, f"curriculum.{name}", values, allowed)
        require(0 < self.share <= 1, "curriculum.share", self.share, "a share of the run, 0 to 1")
        hard = self.hard_eviction
        require(0 <= hard < 1, "curriculum.hard_eviction", hard, "a share of the run, 0 to 1")
        trained = self.hard_eviction_trained
        known = ", ".join(TRAINED)
        require(trained in TRAINED, "curriculum.hard_eviction_trained", trained, known)
        climb, allowed = self.climb_at, "a share of the sequences, 0 to 1"
        require(0 <= climb <= 1, "curriculum.climb_at", climb, allowed)
        require(self.climb_every >= 1, "curriculum.climb_every", self.climb_every, ">= 1")
        allowed = "empty where curriculum.climb_at is given"
        easier = self.rollout_steps
        require(not (climb and easier), "curriculum.rollout_steps", easier, allowed)
        both = bool(self.passes and self.drawn_passes)
        allowed = "empty where curriculum.passes is given"
        require(not both, "curriculum.drawn_passes", self.drawn_passes, allowed)


@dataclasses.dataclass(frozen=True)
class ConsaConfig:
    """Which units, KV heads or layers, read all of the cache (ConSA, arXiv 2606.18056).

    It is of use where `model.attention.local.window` says what the others read. Until it is
    decided all units read everything, or are learned; then it stands.

    Attributes:
      by: "learned", by L0 regularisation with a constraint on the share (consa.py); "ranked", those
        by which the loss on training data rises most when they alone are made local; "bottom",
        "middle" or "top", those of the blocks there; "random", drawn from the run's seed.
      share: rho, of the units, that are local in the end.
      budget: "all", rho of all units together; "each", of those of every block.
      begin: share of the run's steps at which learning begins.
      end: share of them at which it is decided.
      learning_rate: of log alpha, by Adam.
      multiplier_rate: of the multipliers of the constraint, by gradient ascent.
    """

    by: str = "learned"
    share: float = 0.5
    budget: str = "all"
    begin: float = 0.0
    end: float = 0.1
    learning_rate: float = 0.3
    multiplier_rate: float = 0.01

    def validate(self) -> None:
        """Raises UserError naming the field."""
        require(self.by in CHOOSERS, "consa.by", self.by, ", ".join(CHOOSERS))
        require(0 <= self.share <= 1, "consa.share", self.share, "a share of the units, 0 to 1")
        budgets = ("all", "each")
        require(self.budget in budgets, "consa.budget", self.budget, ", ".join(budgets))
        require(0 <= self.end < 1, "consa.end", self.end, "a share of the run, 0 to less than 1")
        allowed = f"0 to consa.end={self.end:g}"
        require(0 <= self.begin <= self.end, "consa.begin", self.begin, allowed)
        learns = self.by == "learned" or self.begin == 0
        require(learns, "consa.begin", self.begin, "0 where consa.by is not 'learned'")
        for name in ("learning_rate", "multiplier_rate"):
            require(getattr(self, name) > 0, f"consa.{name}", getattr(self, name), "> 0")

    def validate_units(self, blocks: int, units: int) -> None:
        """Raises UserError where rho is no whole number of them.

        Args:
          blocks: of attention.
          units: of a block.
        """
        of = units if self.budget == "each" else blocks * units
        local = of * self.share
        where = " of every block" * (self.budget == "each")
        allowed = f"a multiple of 1/{of}, as there are {of} units{where}"
        require(math.isclose(local, round(local), abs_tol=1e-9), "consa.share", self.share, allowed)

    def steps(self, steps: int) -> tuple[int, int]:
        """After how many of a run's steps learning begins, and after how many it is decided."""
        return round(steps * self.begin), round(steps * self.end)
