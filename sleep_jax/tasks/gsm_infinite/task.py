"""GSM-Infinite as a task: a long word problem is read and evicted, then its answer is asked.

The context is the question, then all statements in random order, those that matter among filler.
The prediction window is `Answer: `, the digits of the answer and end of text; no reasoning is
written down. The depth is the number of operations.
"""

import collections
import dataclasses
import itertools
import random
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sleep_jax.errors import UserError
from sleep_jax.tasks.gsm_infinite import text, tokens
from sleep_jax.tasks.gsm_infinite.filler import draw_filler
from sleep_jax.tasks.gsm_infinite.problem import LARGEST_VALUE, Problem, Statement, draw_problem
from sleep_jax.tasks.gsm_infinite.themes import THEMES, Theme
from sleep_jax.tasks.task import Batch, check_range

_DIFFICULTIES = ("medium", "hard", "both")
_MODES = ("forward", "reverse", "both")
_MOST_OPERATIONS = 16
# Below, too few problems fit; above, filler could run out.
_SHORTEST, _LONGEST = 192, 12_288
_MOST_NUMBERS = 10


@dataclasses.dataclass(frozen=True)
class GsmInfiniteConfig:
    """Settings of the task.

    Attributes:
        difficulty: "medium" (counts and their totals), "hard" (averages and products too) or
            "both", drawn evenly.
        modes: "forward" (find what follows), "reverse" (find the constant that leads to what is
            told) or "both", drawn evenly.
        min_operations, max_operations: the depth is uniform between them. As in the original no
            medium problem has one operation; under "both" those are all hard.
        target_length: tokens of the question and all statements.
        window: L, tokens per context window; the context is padded on its left to whole windows.
        number_range: constants are 1..number_range-1.
        tokenizer: "qwen2.5", that of Qwen 2.5 and of Jet-Nemotron; "smollm2", or the path of a
            GGUF file, from sleep_jax/pretrained.
        vocabulary: "compact" (only the ids in use, renumbered, for models trained from scratch) or
            "full" (the tokenizer's own ids, for pretrained models).
    """

    name: ClassVar[str] = "gsm_infinite"

    difficulty: str = "both"
    modes: str = "both"
    min_operations: int = 1
    max_operations: int = 8
    target_length: int = 2000
    window: int = 2000
    number_range: int = 5
    tokenizer: str = "qwen2.5"
    vocabulary: str = "compact"

    def validate(self) -> None:
        """Checks every field.

        Raises:
            UserError: names the field, its value and what is allowed.
        """
        for name, allowed in (
            ("difficulty", _DIFFICULTIES),
            ("modes", _MODES),
            ("vocabulary", tokens.VOCABULARIES),
        ):
            if getattr(self, name) not in allowed:
                raise UserError(
                    f"task.{name}={getattr(self, name)!r}: must be one of {', '.join(allowed)}"
                )
        if self.tokenizer not in tokens.TOKENIZERS and not self.tokenizer.endswith(".gguf"):
            known = ", ".join(tokens.TOKENIZERS)
            raise UserError(
                f"task.tokenizer={self.tokenizer!r}: must be one of {known}, or a GGUF file's path"
            )
        fewest = 2 if self.difficulty == "medium" else 1
        for name, low, high in (
            ("min_operations", fewest, _MOST_OPERATIONS),
            ("max_operations", self.min_operations, _MOST_OPERATIONS),
            ("target_length", _SHORTEST, _LONGEST),
            ("window", 1, self.target_length),
            ("number_range", 3, _MOST_NUMBERS),
        ):
            if not low <= getattr(self, name) <= high:
                raise UserError(f"task.{name}={getattr(self, name)}: must be in {low}..{high}")

    @property
    def label(self) -> str:
        return (
            f"{self.difficulty}-{self.modes}-op{self.min_operations}to{self.max_operations}"
            f"-T{self.target_length}-L{self.window}"
        )

    def setting(self) -> dict[str, Any]:
        names = ("difficulty", "modes", "min_operations", "max_operations", "target_length")
        return {name: getattr(self, name) for name in (*names, "window")}

    @property
    def departure(self) -> str:
        return ""

    @property
    def vocab_size(self) -> int:
        """Number of token ids.

        Raises:
            UserError: the tokenizer's package is not installed.
        """
        return self._vocabulary.size

    @property
    def context_windows(self) -> int:
        """C, windows that hold `target_length` tokens."""
        return -(-self.target_length // self.window)

    @property
    def answer_length(self) -> int:
        """A: the prompt and the digits of the largest answer; end of text is only a target."""
        return len(self._vocabulary.encode(text.ANSWER_PROMPT)) + len(str(LARGEST_VALUE))

    @property
    def _vocabulary(self) -> tokens.Vocabulary:
        return tokens.vocabulary(self.tokenizer, self.vocabulary)

    def sample(self, seed: int, split: int, start: int, count: int) -> Batch:
        """Examples start .. start+count-1; each is a pure function of (seed, split, its index).

        Args:
            seed: in 0 .. 2^64-1.
            split: TRAIN, VALIDATION or TEST; each has a random stream of its own.
            start: index of the first example, at least 0.
            count: B, number of examples, at least 1.

        Returns:
            "context" int32 `[B, C, L]`: end-of-text tokens as padding, question, statements.
                The text has exactly `target_length` tokens; where the problem alone leaves fewer
                than 55, and no filler fits, it may lack up to 20 (at 256 one example in eight
                does, at 2000 none).
            "tokens" int32 `[B, 1, A]`: prompt and digits, then padding.
            "targets" int32 `[B, 1, A]`: the same, one token on, with end of text after the digits.
            "mask" float32 `[B, 1, A]`: 1 for the digits and the end of text.
            "answer" int32 `[B, 1, A]`: 0 where the mask is 1, else -1.
            "depth" int32 `[B, 1]`: operations.

        Raises:
            UserError: the config is invalid, the seed is out of range, or the tokenizer's package
                is not installed.
            ValueError: split, start or count is out of range.
        """
        self.validate()
        check_range(seed, split, start, count)
        vocabulary = self._vocabulary
        prompt = vocabulary.encode(text.ANSWER_PROMPT)
        shape = (count, self.answer_length)
        width = self.context_windows * self.window
        context = np.full((count, width), vocabulary.end_of_text, np.int32)
        inputs, targets = (np.full(shape, vocabulary.end_of_text, np.int32) for _ in range(2))
        mask = np.zeros(shape, np.float32)
        depth = np.zeros((count, 1), np.int32)
        for row in range(count):
            example = _draw_example(self, seed, split, start + row)
            ids = _context_ids(self, example)
            context[row, width - len(ids) :] = ids
            sequence = [*prompt, *self._digits(example.problem.answer)]
            inputs[row, : len(sequence)] = sequence
            targets[row, : len(sequence) - 1] = sequence[1:]
            mask[row, len(prompt) - 1 : len(sequence)] = 1
            depth[row] = example.problem.operations
        return {
            "context": context.reshape(count, self.context_windows, self.window),
            "tokens": inputs[:, None],
            "targets": targets[:, None],
            "mask": mask[:, None],
            "answer": np.where(mask > 0, 0, -1).astype(np.int32)[:, None],
            "depth": depth,
        }

    def _digits(self, answer: int) -> tuple[int, ...]:
        return self._vocabulary.encode(str(answer))

    def is_reverse(self, batch: Batch) -> NDArray[np.bool_]:
        """Which examples of a batch are reverse problems, bool `[B]`: an unknown is spoken of."""
        (unknown,) = self._vocabulary.encode(text.UNKNOWN)
        return (batch["context"] == unknown).any(axis=(-2, -1))

    def floor(self, batch: Batch) -> dict[str, float]:
        """The most that a guess which knows only the depth and the mode scores on these examples.

        It is fitted to them, so no constant answer does better. (One that was fitted to training
        examples had .176 at one operation, where a model that saw nothing had .256 by luck.)

        Returns:
            "exact": share of answers right, if the commonest one is always given. "label": share
            of digits and ends right, if each is the commonest after the digits before it.
        """
        right, hits = [], []
        for counts, answer in self._answers_beside_their_like(batch):
            right.append(_commonest(counts) == answer)
            for place in range(len(answer) + 1):
                following: collections.Counter[str] = collections.Counter()
                for other, times in counts.items():
                    if other.startswith(answer[:place]):
                        following[other[place : place + 1]] += times
                hits.append(_commonest(following) == answer[place : place + 1])
        return {"exact": float(np.mean(right)), "label": float(np.mean(hits))}

    def floor_by_depth(self, batch: Batch) -> dict[int, float]:
        """The "exact" of `floor` for each depth of the batch."""
        right = [_commonest(c) == answer for c, answer in self._answers_beside_their_like(batch)]
        depth = batch["depth"][:, 0]
        return {int(d): float(np.mean(right, where=depth == d)) for d in np.unique(depth)}

    def _answers_beside_their_like(
        self, batch: Batch
    ) -> list[tuple[collections.Counter[str], str]]:
        """For each example how often each answer occurs at its depth and mode, and its own."""
        digits = {self._digits(digit)[0]: str(digit) for digit in range(10)}
        answers = [
            "".join(digits[i] for i in targets[mask][:-1].tolist())
            for targets, mask in zip(batch["targets"][:, 0], batch["mask"][:, 0] > 0, strict=True)
        ]
        kinds = list(
            zip(batch["depth"][:, 0].tolist(), self.is_reverse(batch).tolist(), strict=True)
        )
        counts: dict[Any, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        for kind, answer in zip(kinds, answers, strict=True):
            counts[kind][answer] += 1
        return [(counts[kind], answer) for kind, answer in zip(kinds, answers, strict=True)]


def _commonest(counts: collections.Counter[str]) -> str:
    """The commonest, the first in order where several are."""
    return min(counts, key=lambda key: (-counts[key], key))


class _Example(NamedTuple):
    """A problem, its words, their token ids, and the rng for what is still to be drawn."""

    rng: random.Random
    theme: Theme
    problem: Problem
    question: list[int]
    statements: list[list[int]]


def _draw_example(config: GsmInfiniteConfig, seed: int, split: int, index: int) -> _Example:
    """Draws the problem of an example, again until it fits into the target length."""
    words = np.random.Philox(
        key=np.array([seed, split], np.uint64), counter=np.array([0, index, 0, 0], np.uint64)
    ).random_raw(4)
    rng = random.Random(int.from_bytes(words.astype("<u8").tobytes(), "little"))
    theme = rng.choice(THEMES)
    operations = rng.randint(config.min_operations, config.max_operations)
    reverse = {"forward": False, "reverse": True, "both": rng.random() < 0.5}[config.modes]
    hard = {"medium": False, "hard": True, "both": rng.random() < 0.5 or operations == 1}
    encode = config._vocabulary.encode_pieces
    while True:
        problem = draw_problem(
            rng,
            hard=hard[config.difficulty],
            reverse=reverse,
            operations=operations,
            number_range=config.number_range,
            places=len(theme.own_places),
            items=len(theme.own_items),
        )
        question = encode(text.question(theme, problem.asked))
        statements = [encode(text.statement(theme, s)) for s in problem.statements]
        if len(question) + sum(map(len, statements)) <= config.target_length:
            return _Example(rng, theme, problem, question, statements)


def _context_ids(config: GsmInfiniteConfig, example: _Example) -> list[int]:
    """The ids of the question and of all statements, filler among them, shuffled."""

    def encode(statement: Statement) -> list[int]:
        return config._vocabulary.encode_pieces(text.statement(example.theme, statement))

    room = config.target_length - len(example.question) - sum(map(len, example.statements))
    filler = draw_filler(example.rng, example.theme, example.problem, encode, room)
    statements = example.statements + filler
    example.rng.shuffle(statements)
    return list(itertools.chain(example.question, *statements))
