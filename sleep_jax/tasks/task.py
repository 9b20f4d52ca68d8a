"""What a task is: a pure function of (seed, split, index), with its depth and its floor.

A task is a frozen dataclass, part of the run's configuration. A sample has context windows, which
are slept on and then evicted, and one prediction window, in which answers are scored. An answer
is right if every one of its scored targets is; results are grouped by the depth of the answer:
rollout steps t, hops k, operations.
"""

from typing import Any, ClassVar, Protocol

import numpy as np

from sleep_jax.errors import UserError

Batch = dict[str, np.ndarray]

TRAIN, VALIDATION, TEST = 0, 1, 2
SPLITS = {"train": TRAIN, "validation": VALIDATION, "test": TEST}


def check_range(seed: int, split: int, start: int, count: int) -> None:
    """What every task asks of the examples that are wanted.

    Raises:
      UserError: the seed is not in 0 .. 2^64-1.
      ValueError: the split is none, start is negative or count below 1.
    """
    if not 0 <= seed < 2**64:
        raise UserError(f"seed={seed}: must be in 0..2^64-1")
    if split not in SPLITS.values() or start < 0 or count < 1:
        raise ValueError(f"bad range: {split=}, {start=}, {count=}")


class Task(Protocol):
    """The door between tasks and training; dimension letters B, C, L, A, Q are those below."""

    __dataclass_fields__: ClassVar[dict[str, Any]]
    name: ClassVar[str]

    @property
    def label(self) -> str:
        """The setting in the name of a run, e.g. `t2-W12`."""
        ...

    @property
    def departure(self) -> str:
        """What stands in a sample that is not in the paper's, e.g. `strings marked`, or ""."""
        ...

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        ...

    @property
    def window(self) -> int:
        """L, tokens of a context window."""
        ...

    @property
    def context_windows(self) -> int:
        """C, context windows of a sample."""
        ...

    @property
    def answer_length(self) -> int:
        """A, tokens of the prediction window."""
        ...

    def validate(self) -> None:
        """Raises UserError naming the field, its value and what is allowed."""
        ...

    def setting(self) -> dict[str, Any]:
        """The fields that a table names, e.g. `{"rollout_steps": 2, "width": 12}`."""
        ...

    def sample(self, seed: int, split: int, start: int, count: int) -> Batch:
        """Examples start .. start+count-1; each is a pure function of (seed, split, its index).

        Returns:
          "context" int32 `[B, C, L]`: context windows.
          "tokens" int32 `[B, 1, A]`: inputs of the prediction window, answers fed in.
          "targets" int32 `[B, 1, A]`: the tokens to predict.
          "mask" float32 `[B, 1, A]`: 1 where the target is scored.
          "answer" int32 `[B, 1, A]`: which answer, 0 .. Q-1, of its example a scored target
            belongs to.
          "depth" int32 `[B, Q]`: depth of each answer; an answer without scored targets is none.
        """
        ...

    def floor(self, batch: Batch) -> dict[str, float]:
        """What an answer that does not read the context scores on these very examples.

        Returns:
          "exact": share of answers right; "label": share of scored targets right.
        """
        ...

    def floor_by_depth(self, batch: Batch) -> dict[int, float]:
        """The same share of answers right, for each depth of the batch."""
        ...
