"""Depo: follow a cycle of named nodes k hops on from a start node.

The context lists the edges of one cycle over n nodes in random order, an edge being the name of a
node and, directly after it, the name of the next one. Then come question and answer pairs: the
query token of k, a start name, the answer marker, and the name k hops on. The format is that of
PhysicsLM4's Depo (github.com/facebookresearch/PhysicsLM4, data-synthetic-pretrain/Depo), sized as
in *Do Language Models Need Sleep?* (arXiv 2605.26099): at most 75 nodes in 300 tokens, ten pairs
in 60. Upstream's BOS before the context is left out: the budget of 300 is that of the edges alone.

Token ids, V being `names_vocab` and K `max_hops`:

    0                  padding: left of the context, right of the pairs
    1 .. V             a token of a name, not its last one
    V+1 .. 2V          the last token of a name, which makes names prefix-free
    2V+1 .. 2V+K       the query token of k = 1 .. K
    2V+K+1             the answer marker
"""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from sleep_jax.errors import UserError
from sleep_jax.tasks.random_words import random_words
from sleep_jax.tasks.task import TRAIN, Batch, check_range

PAD = 0

_NODE_DRAWS = ("depo", "uniform", "fixed")
_MAX_SPELLINGS = 2**32  # Drawn by remainder of a 64-bit word: a bias below 2^-31.


@dataclasses.dataclass(frozen=True)
class DepoConfig:
    """Settings of the task.

    Attributes:
        nodes: N, the most nodes of a cycle. Validation and test cycles have exactly N.
        min_nodes: the fewest nodes of a training cycle.
        node_draw: how n is drawn in training: "depo" (upstream's: weight 1 / (n + sqrt(N)) on
            min_nodes .. N), "uniform" on the same range, or "fixed" (always N).
        names_vocab: V, spellings of each token of a name.
        min_name_length: fewest tokens of a name. The length is drawn first, uniformly.
        max_name_length: most tokens of a name.
        max_hops: K. Training draws k uniformly from 1 .. K; validation and test from the powers
            of two up to K, and K itself.
        pairs: M, the most question and answer pairs. An example has min(n, M), their starts
            drawn without replacement.
        window: L, tokens per context window.
    """

    name: ClassVar[str] = "depo"

    nodes: int = 75
    min_nodes: int = 3
    node_draw: str = "depo"
    names_vocab: int = 50
    min_name_length: int = 1
    max_name_length: int = 2
    max_hops: int = 16
    pairs: int = 10
    window: int = 75

    def validate(self) -> None:
        """Checks every field.

        Raises:
            UserError: names the field, its value and what is allowed.
        """
        if self.nodes < 2:
            raise UserError(f"task.nodes={self.nodes}: must be at least 2")
        if not 2 <= self.min_nodes <= self.nodes:
            raise UserError(
                f"task.min_nodes={self.min_nodes}: must be in 2..{self.nodes}, task.nodes"
            )
        if self.node_draw not in _NODE_DRAWS:
            raise UserError(
                f"task.node_draw={self.node_draw!r}: must be one of {', '.join(_NODE_DRAWS)}"
            )
        if self.names_vocab < 1:
            raise UserError(f"task.names_vocab={self.names_vocab}: must be at least 1")
        if not 1 <= self.min_name_length <= self.max_name_length:
            raise UserError(
                f"task.min_name_length={self.min_name_length}: must be in "
                f"1..{self.max_name_length}, task.max_name_length"
            )
        if self.names_vocab**self.max_name_length > _MAX_SPELLINGS:
            raise UserError(
                f"task.max_name_length={self.max_name_length}: too long, "
                f"task.names_vocab={self.names_vocab} to this power must be at most 2^32"
            )
        lengths = range(self.min_name_length, self.max_name_length + 1)
        names = sum(self.names_vocab**length for length in lengths)
        # Distinct names are drawn by rejection, which would be slow with few to spare.
        if names < 2 * self.nodes:
            raise UserError(
                f"task.names_vocab={self.names_vocab}: too small, it makes {names} names, at least "
                f"{2 * self.nodes} (two for each of task.nodes={self.nodes}) are needed"
            )
        if self.max_hops < 1:
            raise UserError(f"task.max_hops={self.max_hops}: must be at least 1")
        if not 1 <= self.pairs <= self.nodes:
            raise UserError(f"task.pairs={self.pairs}: must be in 1..{self.nodes}, task.nodes")
        if self.window < 1 or self._context_length % self.window:
            raise UserError(
                f"task.window={self.window}: must be a divisor of the context's "
                f"{self._context_length} tokens (2 * task.nodes * task.max_name_length)"
            )

    @property
    def label(self) -> str:
        return f"n{self.nodes}-k{self.max_hops}"

    def setting(self) -> dict[str, int | str]:
        return {"nodes": self.nodes, "max_hops": self.max_hops, "node_draw": self.node_draw}

    @property
    def departure(self) -> str:
        return ""

    @property
    def vocab_size(self) -> int:
        """Token ids: padding, 2V for names, K queries, the answer marker."""
        return self.answer_marker + 1

    @property
    def answer_marker(self) -> int:
        """The token between a start name and its answer."""
        return 2 * self.names_vocab + self.max_hops + 1

    @property
    def _context_length(self) -> int:
        return 2 * self.nodes * self.max_name_length

    @property
    def context_windows(self) -> int:
        """C: the context takes 2 N names of the greatest length, in windows of L tokens."""
        return self._context_length // self.window

    @property
    def answer_length(self) -> int:
        """A, tokens of the prediction window: M pairs with names of the greatest length."""
        return self.pairs * (2 + 2 * self.max_name_length)

    def sample(self, seed: int, split: int, start: int, count: int) -> Batch:
        """Examples start .. start+count-1; each is a pure function of (seed, split, its index).

        The splits are different random streams. No example is held out by force: short training
        cycles may recur, one of 75 nodes has no chance to.

        Args:
            seed: in 0 .. 2^64-1.
            split: TRAIN, VALIDATION or TEST.
            start: index of the first example, at least 0.
            count: B, number of examples, at least 1.

        Returns:
            "context" int32 `[B, C, L]`: the edges, padded on the left.
            "tokens" int32 `[B, 1, A]`: the pairs, padded on the right.
            "targets" int32 `[B, 1, A]`: the same, one token on.
            "mask" float32 `[B, 1, A]`: 1 where the target is an answer marker or in an answer.
            "answer" int32 `[B, 1, A]`: the pair 0 .. M-1 of each scored target, elsewhere -1.
            "depth" int32 `[B, M]`: k of each pair, 0 where there are fewer than M.

        Raises:
            UserError: the config is invalid, or the seed is out of range.
            ValueError: split, start or count is out of range.
        """
        self.validate()
        check_range(seed, split, start, count)
        sizes = (1, self.nodes, self.nodes, self.nodes, self.pairs)
        words = random_words(seed, split, start, count, sum(sizes), stream=0)
        for_size, for_cycle, for_edges, for_starts, for_hops = np.split(
            words, np.cumsum(sizes)[:-1], axis=1
        )
        n = _draw_sizes(self, split, for_size)
        names = _draw_names(self, seed, split, start, n)
        row = np.arange(count)[:, None]
        # From here on a node is its place on the cycle.
        letters, spelled = _spell(self, names[row, _permutation(for_cycle, n)])

        tails = _permutation(for_edges, n)
        ends_of_edges = np.stack([tails, (tails + 1) % n], axis=-1).reshape(count, -1)
        written = np.arange(2 * self.nodes) < 2 * n
        context = _pack(
            letters[row, ends_of_edges],
            spelled[row, ends_of_edges] & written[..., None],
            to_the_right=True,
        )

        hops = _draw_hops(self, split, for_hops)
        starts = _permutation(for_starts, n)[:, : self.pairs]
        goals = (starts + hops) % n
        asked = np.arange(self.pairs) < n
        one = np.ones((count, self.pairs, 1), np.int64)
        query, marker = 2 * self.names_vocab + hops[..., None], self.answer_marker * one
        block = np.concatenate([query, letters[row, starts], marker, letters[row, goals]], axis=-1)
        used = np.concatenate([one, spelled[row, starts], one, spelled[row, goals]], axis=-1) > 0
        used &= asked[..., None]
        # Which answer each token of the block belongs to, +1, so that padding is 0.
        owner = np.zeros_like(block)
        owner[..., 1 + self.max_name_length :] = 1 + np.arange(self.pairs)[:, None]
        tokens, owner = _pack(block, used), _pack(owner, used)
        targets, answer = _shift_left(tokens), _shift_left(owner) - 1
        return {
            "context": context.reshape(count, self.context_windows, self.window),
            "tokens": tokens[:, None],
            "targets": targets[:, None],
            "mask": (answer >= 0).astype(np.float32)[:, None],
            "answer": answer[:, None],
            "depth": np.where(asked, hops, 0).astype(np.int32),
        }

    def floor(self, batch: Batch) -> dict[str, float]:
        """What the best answer that knows the nodes, but not the edges, is expected to score.

        The answer is the start node where k is a multiple of n, and otherwise any other node: one
        in n-1 is right. (What pairs shown before give away is not used.)

        Args:
            batch: the arrays of `sample`; only "context", "tokens" and "depth" count.

        Returns:
            "exact": expected share of answers right. "label": expected share of scored targets
            right, if each is guessed from those before it: a marker always is, a token of a name
            is the commonest among the names that go on from there.
        """
        chance = self._chance(batch)
        expected, targets = 0.0, 0
        for context, tokens in zip(batch["context"], batch["tokens"], strict=True):
            nodes = set(_split_names(self, context))
            names = _split_names(self, tokens)
            for start, goal in zip(names[::2], names[1::2], strict=True):
                possible = {start} if goal == start else nodes - {start}
                expected += 1 + sum(_token_chances(goal, possible))
                targets += 1 + len(goal)
        return {
            "exact": float(chance[batch["depth"] > 0].mean()),
            "label": expected / targets,
        }

    def floor_by_depth(self, batch: Batch) -> dict[int, float]:
        """The "exact" of `floor` over the answers of each k that occurs in the batch."""
        chance, depth = self._chance(batch), batch["depth"]
        return {int(k): float(chance[depth == k].mean()) for k in np.unique(depth[depth > 0])}

    def _chance(self, batch: Batch) -> NDArray[np.float64]:
        """Probability of guessing each answer, float64 `[B, M]`."""
        letters = batch["context"].reshape(len(batch["context"]), -1)
        n = (letters > self.names_vocab).sum(axis=1, keepdims=True) // 2
        return np.where(batch["depth"] % n == 0, 1.0, 1.0 / (n - 1))


def _draw_sizes(config: DepoConfig, split: int, words: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Nodes n of each example, `[B, 1]`, from words `[B, 1]`."""
    if split != TRAIN or config.node_draw == "fixed":
        return np.full(words.shape, config.nodes)
    sizes = np.arange(config.min_nodes, config.nodes + 1)
    weights = np.ones(len(sizes))
    if config.node_draw == "depo":
        weights = 1 / (sizes + np.sqrt(config.nodes))
    cumulative = np.cumsum(weights)
    uniform = (words >> np.uint64(11)) * 2.0**-53  # in [0, 1)
    return sizes[np.searchsorted(cumulative / cumulative[-1], uniform, side="right")]


def _draw_hops(config: DepoConfig, split: int, words: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Hops k of each pair, `[B, M]`, from words `[B, M]`."""
    if split == TRAIN:
        allowed = np.arange(1, config.max_hops + 1)
    else:
        powers = 2 ** np.arange(config.max_hops.bit_length())
        allowed = np.union1d(powers, [config.max_hops])
    return allowed[words % np.uint64(len(allowed))]


def _draw_names(
    config: DepoConfig, seed: int, split: int, start: int, n: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The first n distinct names of each example's stream, `[B, N]`; 0 after the n-th.

    A name is coded as spelling * (max_name_length + 1) + length.
    """
    width, choices = config.max_name_length + 1, config.max_name_length - config.min_name_length + 1
    drawn = np.empty((len(n), 0), np.int64)
    for stream in itertools.count(1):
        # 2 N draws nearly always hold N distinct names (91 of 150 do at the paper's setting).
        words = random_words(seed, split, start, len(n), 2 * config.nodes, stream)
        length = config.min_name_length + words % np.uint64(choices)
        spelling = words // np.uint64(choices) % np.uint64(config.names_vocab) ** length
        drawn = np.concatenate([drawn, (spelling * width + length).astype(np.int64)], axis=1)
        first = _first_occurrences(drawn)
        rank = np.cumsum(first, axis=1)
        if (rank[:, -1:] >= n).all():
            break
    names = np.zeros((len(n), config.nodes), np.int64)
    names[np.arange(config.nodes) < n] = drawn[first & (rank <= n)]
    return names


def _first_occurrences(values: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Where no equal value stands further left in the row, `[B, D]`."""
    order = np.argsort(values, axis=1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=1)
    new = np.ones(values.shape, bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first = np.empty_like(new)
    np.put_along_axis(first, order, new, axis=1)
    return first


def _permutation(words: NDArray[np.uint64], n: NDArray[np.int64]) -> NDArray[np.int64]:
    """A uniform permutation of 0 .. n-1 in the first n places of each row, `[B, N]`."""
    beyond = np.arange(words.shape[1]) >= n
    return np.argsort(np.where(beyond, np.iinfo(np.uint64).max, words), axis=1)


def _spell(
    config: DepoConfig, names: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Tokens of coded names `[..., J]`, and which of them are used: both `[..., J, length]`."""
    spelling, length = np.divmod(names, config.max_name_length + 1)
    place = np.arange(config.max_name_length)
    letters = 1 + spelling[..., None] // config.names_vocab**place % config.names_vocab
    letters += config.names_vocab * (place == length[..., None] - 1)
    return letters, place < length[..., None]


def _split_names(config: DepoConfig, tokens: NDArray[np.integer]) -> list[tuple[int, ...]]:
    """The names in a row of tokens, in order; all that is not part of a name is skipped."""
    letters = tokens[(tokens > PAD) & (tokens <= 2 * config.names_vocab)]
    after = np.flatnonzero(letters > config.names_vocab) + 1
    flat = letters.tolist()
    return [tuple(flat[a:b]) for a, b in itertools.pairwise([0, *after.tolist()])]


def _token_chances(goal: tuple[int, ...], possible: set[tuple[int, ...]]) -> Iterator[float]:
    """For each token of `goal`, the share of its commonest value among names equal so far."""
    for place, token in enumerate(goal):
        values = [name[place] for name in possible]
        yield Counter(values).most_common(1)[0][1] / len(values)
        possible = {name for name in possible if name[place] == token}


def _pack(
    values: NDArray[np.int64], used: NDArray[np.bool_], to_the_right: bool = False
) -> NDArray[np.int32]:
    """Closes the gaps of each row: `[B, ...]` to int32 `[B, T]`, padded with zeros on one side."""
    values, used = values.reshape(len(values), -1), used.reshape(len(used), -1)
    place = np.arange(values.shape[1])
    total = used.sum(axis=1, keepdims=True)
    packed = np.zeros(values.shape, np.int32)
    packed[place >= len(place) - total if to_the_right else place < total] = values[used]
    return packed


def _shift_left(rows: NDArray[np.int32]) -> NDArray[np.int32]:
    """Each row one place on, with a zero at its end."""
    shifted = np.zeros_like(rows)
    shifted[:, :-1] = rows[:, 1:]
    return shifted
