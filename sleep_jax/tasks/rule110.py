"""Rule 110: run K bit strings forward t steps in one's head, and say the first bit of each.

The context holds K strings of W bits, one string a window. Then one prediction window follows,
BOS, y1 .. y_{K-1}, whose targets are y1 .. yK: y_k is cell 0 of string k after t steps. Tokens of
their own may stand before the strings (`marked`, `numbered`); the paper's have none.

Strings are words of uint64, bit i of the word being cell i; cell 0 is the first bit that is read.
"""

import dataclasses
import functools
import itertools
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from sleep_jax.errors import UserError
from sleep_jax.tasks.random_words import random_words
from sleep_jax.tasks.task import TEST, TRAIN, VALIDATION, Batch, check_range

# Tokens 0 and 1 are the bits.
BOS = 2
VOCAB_SIZE = 3

_STRINGS = 4  # K, as the paper has it.
_BOUNDARIES = ("periodic", "zero")
_MAX_WIDTH = 64  # One machine word holds one string.
_MIN_HELD_OUT_STRINGS = 16
_MAX_HELD_OUT = 1024  # Held-out strings are found by rejection, in some held_out * log(n) draws.
_EXHAUSTIVE_WIDTH = 20  # Up to here all 2^W strings are enumerated.


@dataclasses.dataclass(frozen=True)
class Rule110Config:
    """Settings of the task.

    Attributes:
        width: W, bits per string.
        strings: K, strings per example and labels to predict.
        rollout_steps: t, the depth: how often the rule is applied before bit 0 is read.
        window: L, tokens per context window. Each window holds exactly one string.
        boundary: "periodic" (a ring of cells) or "zero" (dead cells beyond both ends).
        allow_degenerate: accept the zero boundary, which a constant answer nearly solves.
        held_out: a hash of the string puts one string in `held_out` into the test split and
            another one in `held_out` into the validation split.
        marked: BOS stands before every string, as the first token of its window. Without it
            nothing in the tokens says where a string begins; only the window does.
        numbered: the mark of the k-th string is a token of its own, BOS + k (k from 0), so that a
            window says which of the K it is. Nothing else tells a pass whose writes hang on the
            window alone, as the first pass of one fast-weight block does.
    """

    name: ClassVar[str] = "rule110"

    width: int = 12
    strings: int = _STRINGS
    rollout_steps: int = 2
    window: int = 12
    boundary: str = "periodic"
    allow_degenerate: bool = False
    held_out: int = 8
    marked: bool = False
    numbered: bool = False

    @property
    def label(self) -> str:
        few = f"K{self.strings}" if self.strings != _STRINGS else ""
        return "-".join(filter(None, (f"t{self.rollout_steps}-W{self.width}", few, self._mark)))

    @property
    def departure(self) -> str:
        few = f"K = {self.strings}" if self.strings != _STRINGS else ""
        return ", ".join(filter(None, (few, self._mark and f"strings {self._mark}")))

    @property
    def _mark(self) -> str:
        return ("numbered" if self.numbered else "marked") if self.marked else ""

    @property
    def vocab_size(self) -> int:
        return VOCAB_SIZE + (self.strings - 1) * self.numbered

    @property
    def context_windows(self) -> int:
        return self.strings

    @property
    def answer_length(self) -> int:
        return self.strings

    def setting(self) -> dict[str, int]:
        return {"rollout_steps": self.rollout_steps, "width": self.width}

    def sample(self, seed: int, split: int, start: int, count: int) -> Batch:
        return sample(self, seed, split, start, count)

    def floor(self, batch: Batch) -> dict[str, float]:
        return floor(self, batch)

    def floor_by_depth(self, batch: Batch) -> dict[int, float]:
        return {self.rollout_steps: floor(self, batch)["exact"]}

    def validate(self) -> None:
        """Checks every field.

        Raises:
            UserError: names the field, its value and what is allowed.
        """
        if not 3 <= self.width <= _MAX_WIDTH:
            raise UserError(f"task.width={self.width}: must be in 3..{_MAX_WIDTH}")
        if self.strings < 1:
            raise UserError(f"task.strings={self.strings}: must be at least 1")
        if self.rollout_steps < 0:
            raise UserError(f"task.rollout_steps={self.rollout_steps}: must be at least 0")
        if self.window != self.width + self.marked:
            raise UserError(
                f"task.window={self.window}: must equal task.width={self.width}"
                f"{' + 1' * self.marked}, a window holds one string"
                f"{' and its mark' * self.marked}"
            )
        if self.numbered and not self.marked:
            raise UserError("task.numbered=True: a mark has the number; allowed: task.marked=True")
        if self.boundary not in _BOUNDARIES:
            raise UserError(
                f"task.boundary={self.boundary!r}: must be one of {', '.join(_BOUNDARIES)}"
            )
        if self.boundary == "zero" and not self.allow_degenerate:
            # Bit 0 ends as 1 unless the first t+1 bits are all 0.
            label = 1 - 0.5 ** min(self.rollout_steps + 1, self.width)
            raise UserError(
                f"task.boundary='zero': degenerate, always answering 1 gets {label:.5g} of the "
                f"labels and {label**self.strings:.5g} of the examples right at "
                f"task.rollout_steps={self.rollout_steps}; use 'periodic', or set "
                "task.allow_degenerate=True"
            )
        if not 3 <= self.held_out <= _MAX_HELD_OUT:
            raise UserError(f"task.held_out={self.held_out}: must be in 3..{_MAX_HELD_OUT}")
        if 2**self.width // self.held_out < _MIN_HELD_OUT_STRINGS:
            raise UserError(
                f"task.width={self.width}: too small to hold out one string in "
                f"task.held_out={self.held_out}, 2^width / held_out must be at least "
                f"{_MIN_HELD_OUT_STRINGS}"
            )


def pack(bits: NDArray[np.integer]) -> NDArray[np.uint64]:
    """Packs bits `[..., W]` (values 0 and 1, W <= 64) into uint64 words `[...]`."""
    places = np.arange(bits.shape[-1], dtype=np.uint64)
    return np.bitwise_or.reduce(bits.astype(np.uint64) << places, axis=-1)


def unpack(states: NDArray[np.uint64], width: int) -> NDArray[np.uint8]:
    """Unpacks uint64 words `[...]` into their first `width` bits, uint8 `[..., width]`."""
    places = np.arange(width, dtype=np.uint64)
    return ((states[..., None] >> places) & np.uint64(1)).astype(np.uint8)


def _width_mask(width: int) -> np.uint64:
    return np.uint64((1 << width) - 1)


def step(states: NDArray[np.uint64], width: int, boundary: str) -> NDArray[np.uint64]:
    """Applies Rule 110 once to every string.

    Args:
        states: uint64 `[...]`, one string a word, with no bit set at or above `width`.
        width: cells per string, 3..64.
        boundary: "periodic" or "zero".

    Returns:
        uint64 `[...]`.

    Raises:
        ValueError: the boundary is unknown.
    """
    if boundary not in _BOUNDARIES:
        raise ValueError(f"boundary={boundary!r}: must be one of {_BOUNDARIES}")
    one, far = np.uint64(1), np.uint64(width - 1)
    left, right = states << one, states >> one
    if boundary == "periodic":
        left, right = left | (states >> far), right | (states << far)
    # Shifts to the left may leave bits above the width; the mask drops them.
    return (states | right) & ~(left & states & right) & _width_mask(width)


def rollout(
    states: NDArray[np.uint64], steps: int, width: int, boundary: str = "periodic"
) -> NDArray[np.uint64]:
    """Applies Rule 110 `steps` times: uint64 `[...]` to uint64 `[...]`. See `step`."""
    for _ in range(steps):
        states = step(states, width, boundary)
    return states


def _splitmix64(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 after one increment: a bijection that mixes all 64 bits."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def split_of(strings: NDArray[np.uint64], config: Rule110Config) -> NDArray[np.int8]:
    """The split that owns each string, whatever the seed.

    Args:
        strings: uint64 `[...]`, one string a word.
        config: `width` and `held_out` are used.

    Returns:
        int8 `[...]`: TRAIN (0), VALIDATION (1) or TEST (2).
    """
    salt = _splitmix64(np.full(1, config.width, np.uint64))[0]
    bucket = _splitmix64(strings ^ salt) % np.uint64(config.held_out)
    return np.select([bucket == 0, bucket == 1], [TEST, VALIDATION], TRAIN).astype(np.int8)


def _draw_strings(
    config: Rule110Config, seed: int, split: int, start: int, count: int
) -> NDArray[np.uint64]:
    """Uniform strings of a split, uint64 `[count, K]`, for examples start .. start+count-1.

    Strings of another split are redrawn from a next stream.
    """
    mask = _width_mask(config.width)
    strings = np.zeros((count, config.strings), np.uint64)
    missing = np.ones(strings.shape, bool)
    for attempt in itertools.count():
        words = random_words(seed, split, start, count, config.strings, stream=attempt) & mask
        accepted = missing & (split_of(words, config) == split)
        strings[accepted] = words[accepted]
        missing &= ~accepted
        if not missing.any():
            break
    return strings


def sample(config: Rule110Config, seed: int, split: int, start: int, count: int) -> Batch:
    """Examples start .. start+count-1; each is a pure function of (seed, split, its index).

    Args:
        config: the task.
        seed: in 0 .. 2^64-1.
        split: TRAIN, VALIDATION or TEST; only strings of that split are drawn.
        start: index of the first example, at least 0.
        count: B, number of examples, at least 1.

    Returns:
        "context" int32 `[B, K, L]`: the strings, one a window; L is W, or W + 1 where marked.
        "tokens" int32 `[B, 1, K]`: BOS, y1 .. y_{K-1}; axis 1 counts prediction windows.
        "targets" int32 `[B, 1, K]`: y1 .. yK.
        "mask" float32 `[B, 1, K]`: ones, every target is scored.
        "answer" int32 `[B, 1, K]`: zeros, the K labels are one answer.
        "depth" int32 `[B, 1]`: t.

    Raises:
        UserError: the config is invalid, or the seed is out of range.
        ValueError: split, start or count is out of range.
    """
    config.validate()
    check_range(seed, split, start, count)
    strings = _draw_strings(config, seed, split, start, count)
    final = rollout(strings, config.rollout_steps, config.width, config.boundary)
    targets = unpack(final, 1).astype(np.int32).reshape(count, 1, config.strings)
    tokens = np.full_like(targets, BOS)
    tokens[..., 1:] = targets[..., :-1]
    context = unpack(strings, config.width).astype(np.int32)
    if config.marked:
        marks = BOS + config.numbered * np.arange(config.strings, dtype=np.int32)
        context = np.insert(context, 0, marks, axis=-1)
    return {
        "context": context,
        "tokens": tokens,
        "targets": targets,
        "mask": np.ones(targets.shape, np.float32),
        "answer": np.zeros_like(targets),
        "depth": np.full((count, 1), config.rollout_steps, np.int32),
    }


@functools.lru_cache
def label_probability(config: Rule110Config) -> float:
    """P(label = 1) over the population of strings.

    Exact over all 2^W strings up to W = 20, otherwise estimated from 2^20 training strings of a
    fixed seed (standard error below 0.0005).
    """
    if config.width <= _EXHAUSTIVE_WIDTH:
        strings = np.arange(2**config.width, dtype=np.uint64)
    else:
        examples = -(-(2**_EXHAUSTIVE_WIDTH) // config.strings)
        strings = _draw_strings(config, seed=0, split=TRAIN, start=0, count=examples)
    final = rollout(strings, config.rollout_steps, config.width, config.boundary)
    return float(np.mean(final & np.uint64(1)))


def floor(config: Rule110Config, batch: Batch) -> dict[str, float]:
    """What the best constant answer scores on these very examples.

    The constant is the commoner label of the population (`label_probability`; 1 on a tie), so it
    is not fitted to the batch; its score is taken on the batch, so that it can be set beside a
    model's score on the same examples.

    Args:
        config: the task.
        batch: the "targets" of `sample`, int32 `[B, 1, K]`.

    Returns:
        "exact": fraction of examples with all K labels right; "label": fraction of labels right.
    """
    constant = int(label_probability(config) >= 0.5)
    right = batch["targets"] == constant
    return {"exact": float(right.all(axis=(-2, -1)).mean()), "label": float(right.mean())}


def space_time(config: Rule110Config, seed: int) -> NDArray[np.uint8]:
    """The diagram, uint8 `[t+1, W]`, of the first string of training example 0; row 0 is it.

    Raises:
        UserError: as in `sample`.
    """
    context = sample(config, seed, TRAIN, start=0, count=1)["context"]
    states = [pack(context[0, 0, -config.width :])]
    for _ in range(config.rollout_steps):
        states.append(step(states[-1], config.width, config.boundary))
    return unpack(np.stack(states), config.width)
