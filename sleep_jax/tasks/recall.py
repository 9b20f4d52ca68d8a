"""Recall at any distance, and a chain of sums that needs none: what fine-tuning may cost.

The context is P pairs of a key and a value, each key once. The prediction window begins with a
marker that says what is asked of it, one of `SKILLS`; then come Q steps, a token that is given and
a value that is to be predicted:

    recall      k  v    the value that stands behind key k in the context
    chain       d  s    s_i = s_(i-1) + c d_i modulo V, s_0 = 0: all of it is in the last two tokens
    far_chain   k  s    the same, d_i being the value behind key k_i in the context

So a chain is what a chain of thought is to QK-Restore (arXiv 2606.11052), every step following from
the one before it; a far chain is as much of a chain, and has to look far. The task is ours.

Token ids, V being `values` and K `keys`: 0 .. V-1 a value, V .. V+K-1 a key, then the markers.
"""

import dataclasses
from typing import Any, ClassVar

import numpy as np

from sleep_jax.model.config import require
from sleep_jax.tasks.random_words import random_words
from sleep_jax.tasks.task import Batch, check_range

SKILLS = ("recall", "chain", "far_chain")
DISTANCES = 4  # quarters of the context, 1 the nearest


@dataclasses.dataclass(frozen=True)
class RecallConfig:
    """Settings of the task.

    Attributes:
      skills: what is asked, of SKILLS; with several each example draws one, all as likely.
      factor: c of the chains.
      pairs: P, of a key and a value in the context.
      keys: K, that there are.
      values: V, that there are.
      questions: Q, steps of the prediction window.
      window: L, tokens of a context window.
    """

    name: ClassVar[str] = "recall"

    skills: tuple[str, ...] = ("recall",)
    factor: int = 1
    pairs: int = 32
    keys: int = 64
    values: int = 10
    questions: int = 8
    window: int = 64

    def validate(self) -> None:
        """Raises UserError naming the field, its value and what is allowed."""
        known = bool(self.skills) and set(self.skills) <= set(SKILLS)
        each_once = known and len(set(self.skills)) == len(self.skills)
        require(each_once, "task.skills", ",".join(self.skills), f"of {', '.join(SKILLS)}")
        allowed = f"a multiple of {DISTANCES}, from {DISTANCES} on"
        fits = self.pairs >= DISTANCES and self.pairs % DISTANCES == 0
        require(fits, "task.pairs", self.pairs, allowed)
        require(self.keys >= self.pairs, "task.keys", self.keys, f">= task.pairs={self.pairs}")
        require(self.values >= 2, "task.values", self.values, ">= 2")
        factor = self.factor
        require(1 <= factor < self.values, "task.factor", factor, "1 to task.values - 1")
        most = self.pairs
        asked = self.questions
        require(1 <= asked <= most, "task.questions", asked, f"1 to task.pairs={most}")
        fits = self.window >= 1 and 2 * self.pairs % self.window == 0
        require(fits, "task.window", self.window, f"a divisor of {2 * self.pairs}, 2 task.pairs")

    @property
    def label(self) -> str:
        by = f"{self.factor}" * (self.factor != 1)
        return f"{'-'.join(self.skills).replace('_', '-')}{by}-P{self.pairs}"

    @property
    def departure(self) -> str:
        return ""

    @property
    def vocab_size(self) -> int:
        """Token ids: values, keys, a marker for each skill."""
        return self.values + self.keys + len(SKILLS)

    @property
    def context_windows(self) -> int:
        """C: the pairs, in windows of L tokens."""
        return 2 * self.pairs // self.window

    @property
    def answer_length(self) -> int:
        """A, tokens of the prediction window: the marker, and all but the last value."""
        return 2 * self.questions

    def question(self, keys: np.ndarray) -> np.ndarray:
        """The prediction window `[..., 2]` int32 that asks for the value of one key by its id."""
        marker = np.full_like(keys, self.values + self.keys + SKILLS.index("recall"))
        return np.stack([marker, keys], axis=-1).astype(np.int32)

    def setting(self) -> dict[str, Any]:
        return {"skills": "+".join(self.skills), "factor": self.factor, "pairs": self.pairs}

    def sample(self, seed: int, split: int, start: int, count: int) -> Batch:
        """Examples start .. start+count-1; each is a pure function of (seed, split, its index).

        The splits are different random streams. No example is held out by force.

        Args:
          seed: in 0 .. 2^64-1.
          split: TRAIN, VALIDATION or TEST.
          start: index of the first example, at least 0.
          count: B, number of examples, at least 1.

        Returns:
          As `Task.sample`. Every step is an answer; its depth is the distance of what it looks up,
          in quarters of the context, 1 .. 4, and 1 in a chain, which looks up nothing.

        Raises:
          UserError: the config is invalid, or the seed is out of range.
          ValueError: split, start or count is out of range.
        """
        self.validate()
        check_range(seed, split, start, count)
        sizes = (1, self.keys, self.pairs, self.pairs, self.questions)
        words = random_words(seed, split, start, count, sum(sizes))
        for_skill, for_keys, for_values, for_order, for_steps = np.split(
            words, np.cumsum(sizes)[:-1], axis=1
        )
        possible = np.array([SKILLS.index(skill) for skill in self.skills])
        skill = possible[(for_skill % np.uint64(len(possible))).astype(np.int64)]
        is_recall, is_chain = (skill == SKILLS.index(name) for name in ("recall", "chain"))
        keys = self.values + np.argsort(for_keys, axis=1)[:, : self.pairs]
        values = (for_values % np.uint64(self.values)).astype(np.int64)
        asked = np.argsort(for_order, axis=1)[:, : self.questions]
        looked_up = np.take_along_axis(values, asked, axis=1)
        drawn = (for_steps % np.uint64(self.values)).astype(np.int64)
        given = np.where(is_chain, drawn, np.take_along_axis(keys, asked, axis=1))
        added = np.where(is_chain, drawn, looked_up)
        chained = self.factor * np.cumsum(added, axis=1) % self.values
        answers = np.where(is_recall, looked_up, chained)
        distance = 1 + (self.pairs - 1 - asked) * DISTANCES // self.pairs
        distance = np.where(is_chain, 1, distance)

        steps = np.stack([given, answers], axis=-1).reshape(count, -1)
        tokens = np.concatenate([self.values + self.keys + skill, steps[:, :-1]], axis=1)
        is_asked = np.arange(self.answer_length) % 2 == 1  # behind a token that is given
        owner = np.where(is_asked, np.arange(self.answer_length) // 2, -1)
        batch = {
            "context": np.stack([keys, values], axis=-1).reshape(
                count, self.context_windows, self.window
            ),
            "tokens": tokens[:, None],
            "targets": steps[:, None],
            "answer": np.broadcast_to(owner, (count, 1, self.answer_length)),
            "depth": distance,
        }
        mask = np.broadcast_to(is_asked, (count, 1, self.answer_length))
        return {
            **{name: array.astype(np.int32) for name, array in batch.items()},
            "mask": mask.astype(np.float32),
        }

    def floor(self, batch: Batch) -> dict[str, float]:
        """The chance of a guess: every value is as likely, whatever was asked before."""
        return {"exact": 1 / self.values, "label": 1 / self.values}

    def floor_by_depth(self, batch: Batch) -> dict[int, float]:
        """The same at every distance."""
        return {int(distance): 1 / self.values for distance in np.unique(batch["depth"])}
