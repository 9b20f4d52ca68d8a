"""Depo against a parser that knows only token ids, its marginals, floors and errors."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sleep_jax.errors import UserError
from sleep_jax.tasks.depo import DepoConfig
from sleep_jax.tasks.task import TEST, TRAIN, VALIDATION

SMALL = DepoConfig(
    nodes=3, names_vocab=2, pairs=1, max_hops=4, window=6, node_draw="fixed"
)  # six names in all, so that names are often drawn twice


def split_names(tokens: list[int], vocab: int) -> list[tuple[int, ...]]:
    """Cuts tokens into names; every name ends in an id above the vocabulary."""
    names, current = [], []
    for token in tokens:
        assert 1 <= token <= 2 * vocab
        current.append(token)
        if token > vocab:
            names.append(tuple(current))
            current = []
    assert not current
    return names


def oracle(context: list[int], block: list[int], vocab: int, marker: int):
    """Reads edges and pairs, and answers the questions one hop at a time.

    Returns the edges in order, the pairs (k, start, answer), and for every token of the block the
    pair that it is scored for, or -1.
    """
    names = split_names(context, vocab)
    edges = list(zip(names[::2], names[1::2], strict=True))
    successor = dict(edges)
    assert len(successor) == len(edges)
    node, visited = edges[0][0], set()
    while node not in visited:
        visited.add(node)
        node = successor[node]
    assert visited == set(successor), "not one cycle"
    queries = [i for i, token in enumerate(block) if 2 * vocab < token < marker]
    assert queries[0] == 0
    pairs, owner = [], []
    for pair, (begin, end) in enumerate(itertools.pairwise([*queries, len(block)])):
        at = block.index(marker, begin)
        (start,) = split_names(block[begin + 1 : at], vocab)
        hops = block[begin] - 2 * vocab
        node = start
        for _ in range(hops):
            node = successor[node]
        assert tuple(block[at + 1 : end]) == node
        pairs.append((hops, start, node))
        owner += [-1] * (at - begin) + [pair] * (end - at)
    return edges, pairs, owner


def unpadded(batch, row: int) -> tuple[list[int], list[int]]:
    """The tokens of an example's context and pairs; only the outer ends may hold padding."""
    context, block = batch["context"][row].ravel(), batch["tokens"][row, 0]
    context, block = np.trim_zeros(context, "f"), np.trim_zeros(block, "b")
    assert context.all() and block.all()
    return context.tolist(), block.tolist()


def read(config: DepoConfig, batch, row: int):
    return oracle(*unpadded(batch, row), config.names_vocab, config.vocab_size - 1)


def test_oracle_reads_a_row_made_upstream():
    """tasks.md gives this row of PhysicsLM4's own function, V = 50, its parse and its mask."""
    row = [0, 16, 65, 88, 98, 94, 94, 3, 52, 3, 52, 16, 65, 88, 98]
    row += [9006, 3, 52, 9500, 16, 65, 9014, 94, 9500, 98, 9011, 88, 9500, 98]
    config = DepoConfig()
    ours = [t - 9000 + 100 if 9000 < t < 9500 else 117 if t == 9500 else t for t in row]
    assert (config.vocab_size, config.answer_marker) == (118, 117)
    assert (config.context_windows, config.window, config.answer_length) == (4, 75, 60)
    edges, pairs, owner = oracle(ours[1:15], ours[15:], 50, 117)
    assert edges == [
        ((16, 65), (88,)),
        ((98,), (94,)),
        ((94,), (3, 52)),
        ((3, 52), (16, 65)),
        ((88,), (98,)),
    ]
    assert pairs == [(6, (3, 52), (16, 65)), (14, (94,), (98,)), (11, (88,), (98,))]
    assert [15 + i for i, pair in enumerate(owner) if pair >= 0] == [18, 19, 20, 23, 24, 27, 28]


@st.composite
def configs(draw) -> DepoConfig:
    nodes, shortest = draw(st.integers(2, 12)), draw(st.integers(1, 3))
    config = DepoConfig(
        nodes=nodes,
        min_nodes=draw(st.integers(2, nodes)),
        node_draw=draw(st.sampled_from(("depo", "uniform", "fixed"))),
        names_vocab=draw(st.integers(2, 30)),
        min_name_length=shortest,
        max_name_length=shortest + draw(st.integers(0, 2)),
        max_hops=draw(st.integers(1, 40)),
        pairs=draw(st.integers(1, nodes)),
        window=draw(st.sampled_from((1, 2, nodes, 2 * nodes))),
    )
    lengths = range(config.min_name_length, config.max_name_length + 1)
    assume(sum(config.names_vocab**length for length in lengths) >= 2 * nodes)
    return config


splits = st.sampled_from((TRAIN, VALIDATION, TEST))
seeds = st.integers(0, 2**64 - 1)


@settings(deadline=None, max_examples=100)
@given(config=configs(), split=splits, seed=seeds)
def test_every_example_agrees_with_the_oracle(config, split, seed):
    config.validate()
    batch = config.sample(seed, split, start=5, count=3)
    answers = (3, 1, config.answer_length)
    assert {name: (a.shape, a.dtype.name) for name, a in batch.items()} == {
        "context": ((3, config.context_windows, config.window), "int32"),
        "tokens": (answers, "int32"),
        "targets": (answers, "int32"),
        "mask": (answers, "float32"),
        "answer": (answers, "int32"),
        "depth": ((3, config.pairs), "int32"),
    }
    for row in range(3):
        edges, pairs, owner = read(config, batch, row)
        n = len(edges)
        fixed = split != TRAIN or config.node_draw == "fixed"
        assert n == config.nodes if fixed else config.min_nodes <= n <= config.nodes
        for name, _ in edges:
            assert config.min_name_length <= len(name) <= config.max_name_length
        assert len(pairs) == len({start for _, start, _ in pairs}) == min(n, config.pairs)
        hops = [k for k, _, _ in pairs]
        assert all(1 <= k <= config.max_hops for k in hops)
        if split != TRAIN:
            assert all(k.bit_count() == 1 or k == config.max_hops for k in hops)
        assert batch["depth"][row].tolist() == hops + [0] * (config.pairs - len(hops))
        # Targets are one token on, and what is scored is what the oracle says of that token.
        tokens, targets = batch["tokens"][row, 0].tolist(), batch["targets"][row, 0].tolist()
        assert targets == tokens[1:] + [0]
        rest = config.answer_length - len(owner)
        assert batch["answer"][row, 0].tolist() == owner[1:] + [-1] * (rest + 1)
        np.testing.assert_array_equal(batch["mask"][row], batch["answer"][row] >= 0)


def expected_small_contexts() -> dict[tuple, float]:
    """P(edges in order, start) at SMALL, by enumeration of draws, cycles and orders."""
    chances = {(3,): 1 / 4, (4,): 1 / 4}
    chances |= {(a, b): 1 / 8 for a in (1, 2) for b in (3, 4)}
    expected = dict[tuple, float]()
    for names in itertools.permutations(chances, 3):
        first, second, third = (chances[name] for name in names)
        drawn = first * second / (1 - first) * third / (1 - first - second)
        for cycle in itertools.permutations(names):
            edges = list(zip(cycle, (*cycle[1:], cycle[0]), strict=True))
            for order in itertools.permutations(edges):
                for start in names:
                    event = (order, start)
                    expected[event] = expected.get(event, 0) + drawn / (6 * 6 * 3)
    return expected


def assert_likely(seen: dict, expected: dict) -> None:
    """Chi-square of counts against counts expected, at five standard deviations."""
    assert set(seen) <= set(expected)
    chi_square = sum((seen.get(event, 0) - mean) ** 2 / mean for event, mean in expected.items())
    freedom = len(expected) - 1
    assert abs(chi_square - freedom) < 5 * np.sqrt(2 * freedom)


def test_names_cycles_orders_and_starts_have_the_right_joint_distribution():
    """Over every possible context and start, with names that are drawn twice."""
    chances, count = expected_small_contexts(), 20_000
    assert sum(chances.values()) == pytest.approx(1)
    batch = SMALL.sample(seed=1, split=TRAIN, start=0, count=count)
    events = []
    for row in range(count):
        edges, pairs, _ = read(SMALL, batch, row)
        events.append((tuple(edges), pairs[0][1]))
    assert_likely(Counter(events), {event: count * p for event, p in chances.items()})
    # The starts alone: fewer cells see smaller errors.
    starts = dict.fromkeys((start for _, start in chances), 0.0)
    for (_, start), p in chances.items():
        starts[start] += count * p
    assert_likely(Counter(start for _, start in events), starts)
    hops = Counter(batch["depth"].ravel().tolist())
    assert_likely(hops, dict.fromkeys((1, 2, 3, 4), count / 4))


def test_names_are_shuffled_before_they_become_a_cycle():
    """Else short names, drawn earlier, would follow each other more often than by chance."""
    config, count = DepoConfig(), 2000
    batch = config.sample(seed=0, split=TEST, start=0, count=count)
    excess = []
    for row in range(count):
        names = split_names(unpadded(batch, row)[0], config.names_vocab)
        short = [len(name) == 1 for name in names]
        ones = sum(short[::2])
        both = sum(tail and head for tail, head in zip(short[::2], short[1::2], strict=True))
        excess.append(both - ones * (ones - 1) / 74)
    assert abs(np.mean(excess)) < 4 * np.std(excess) / np.sqrt(count)


def test_test_split_has_the_published_sizes_and_hops():
    """tasks.md measured upstream's function: 240.2 and 52.0 tokens, 30 of 75 names of one."""
    config, count = DepoConfig(), 3000
    batch = config.sample(seed=0, split=TEST, start=0, count=count)
    lengths = (batch["context"] > 0).sum((1, 2))
    # Four standard errors of two means of 3000 draws each, and the digit given.
    slack = 4 * lengths.std() * np.sqrt(2 / count) + 0.05
    assert lengths.mean() == pytest.approx(240.2, abs=slack)
    assert 205 < lengths.min() < 230 and 250 < lengths.max() < 275
    pairs = (batch["tokens"] > 0).sum((1, 2))
    assert pairs.mean() == pytest.approx(52.0, abs=4 * pairs.std() * np.sqrt(2 / count) + 0.05)
    # A one-token name leaves two pads, for it is written twice.
    assert (300 - lengths).mean() == pytest.approx(2 * 30, abs=1)
    assert ((batch["context"] > 50).sum((1, 2)) == 2 * 75).all()
    hops = Counter(batch["depth"].ravel().tolist())
    assert_likely(hops, dict.fromkeys((1, 2, 4, 8, 16), 6000))
    depth = DepoConfig(max_hops=24).sample(seed=0, split=VALIDATION, start=0, count=50)["depth"]
    assert np.unique(depth).tolist() == [1, 2, 4, 8, 16, 24]


def test_training_split_has_the_published_sizes():
    """tasks.md, from upstream's function and its weights 1 / (n + sqrt(N))."""
    config, count = DepoConfig(), 20_000
    batch = config.sample(seed=0, split=TRAIN, start=0, count=count)
    n = (batch["context"] > 50).sum((1, 2)) // 2
    assert n.mean() == pytest.approx(27.5, abs=4 * n.std() / np.sqrt(count) + 0.05)
    assert abs(np.median(n) - 22) <= 1
    assert (n < 10).mean() == pytest.approx(0.24, abs=0.017)
    assert (n <= 16).mean() == pytest.approx(0.40, abs=0.019)
    assert batch["mask"].sum((1, 2)).mean() == pytest.approx(22.9, abs=0.25)
    pairs = (batch["depth"] > 0).sum(1)
    assert pairs.tolist() == np.minimum(n, 10).tolist()
    assert pairs.mean() == pytest.approx(9.0, abs=0.1)
    # The whole distribution of n, by chi-square.
    weights = {size: 1 / (size + 75**0.5) for size in range(3, 76)}
    total = sum(weights.values())
    expected = {size: count * weight / total for size, weight in weights.items()}
    assert_likely(Counter(n.tolist()), expected)


def test_node_draws_other_than_upstreams():
    uniform = DepoConfig(node_draw="uniform").sample(0, TRAIN, 0, 7300)["context"]
    n = (uniform > 50).sum((1, 2)) // 2
    assert_likely(Counter(n.tolist()), dict.fromkeys(range(3, 76), 100))
    fixed = DepoConfig(node_draw="fixed").sample(0, TRAIN, 0, 20)["context"]
    assert ((fixed > 50).sum((1, 2)) == 150).all()


@settings(deadline=None, max_examples=40)
@given(
    config=st.sampled_from((DepoConfig(), SMALL)),
    start=st.integers(0, 2**40),
    count=st.integers(2, 12),
    data=st.data(),
    split=splits,
    seed=seeds,
)
def test_examples_do_not_depend_on_how_a_range_is_cut(config, start, count, data, split, seed):
    cut = data.draw(st.integers(1, count - 1))
    whole = config.sample(seed, split, start, count)
    head = config.sample(seed, split, start, cut)
    tail = config.sample(seed, split, start + cut, count - cut)
    for name, array in whole.items():
        np.testing.assert_array_equal(array, np.concatenate([head[name], tail[name]]))


def test_every_seed_split_and_index_draws_afresh():
    contexts = [
        DepoConfig(node_draw="fixed").sample(seed, split, 0, 100)["context"].reshape(100, -1)
        for seed in (0, 1, 2)
        for split in (TRAIN, VALIDATION, TEST)
    ]
    assert len(np.unique(np.concatenate(contexts), axis=0)) == 900


def test_the_stream_is_pinned():
    """If this fails, seeds of earlier runs no longer give the data they were trained on."""
    batch = DepoConfig().sample(seed=7, split=TRAIN, start=10**6 + 10, count=1)
    assert unpadded(batch, 0) == (
        [98, 92, 77, 98, 92, 77],
        [115, 77, 117, 77, 103, 98, 117, 98, 115, 92, 117, 92],
    )


def test_floor_equals_enumeration_of_all_cycles():
    """The best answer, and the best guess of each token, over every cycle on an example's nodes."""
    config = DepoConfig(
        nodes=5, min_nodes=2, names_vocab=3, pairs=3, max_hops=6, window=20, node_draw="uniform"
    )
    batch = config.sample(seed=3, split=TRAIN, start=0, count=60)
    chances, by_depth, targets = [], {}, []
    for row in range(60):
        edges, pairs, _ = read(config, batch, row)
        nodes = [name for name, _ in edges]
        for hops, start, goal in pairs:
            others = [node for node in nodes if node != start]
            goals = [(start, *order)[hops % len(nodes)] for order in itertools.permutations(others)]
            chance = max(Counter(goals).values()) / len(goals)
            chances.append(chance)
            by_depth.setdefault(hops, []).append(chance)
            targets.append(1)  # the marker
            for place in range(len(goal)):
                seen = [name[place] for name in goals if name[:place] == goal[:place]]
                targets.append(max(Counter(seen).values()) / len(seen))
    floor = config.floor(batch)
    assert floor == pytest.approx({"exact": np.mean(chances), "label": np.mean(targets)})
    assert config.floor_by_depth(batch) == pytest.approx(
        {hops: np.mean(group) for hops, group in by_depth.items()}
    )
    assert 1.0 in chances and min(chances) == 1 / 4  # whole turns and all sizes did occur
    floors = DepoConfig().floor_by_depth(DepoConfig().sample(0, TEST, 0, 50))
    assert floors == pytest.approx(dict.fromkeys((1, 2, 4, 8, 16), 1 / 74))


@pytest.mark.parametrize(
    "fields, name",
    [
        ({"nodes": 1}, "nodes=1"),
        ({"min_nodes": 1}, "min_nodes=1"),
        ({"min_nodes": 76}, "min_nodes=76"),
        ({"node_draw": "zipf"}, "node_draw='zipf'"),
        ({"names_vocab": 0}, "names_vocab=0"),
        ({"names_vocab": 11}, "names_vocab=11"),  # 11 + 121 names for 75 nodes
        ({"min_name_length": 0}, "min_name_length=0"),
        ({"min_name_length": 3}, "min_name_length=3"),
        ({"max_name_length": 6}, "max_name_length=6"),  # 50^6 spellings
        ({"max_hops": 0}, "max_hops=0"),
        ({"pairs": 0}, "pairs=0"),
        ({"pairs": 76}, "pairs=76"),
        ({"window": 80}, "window=80"),
        ({"window": 0}, "window=0"),
    ],
)
def test_validation_names_the_field_and_its_value_on_one_line(fields, name):
    with pytest.raises(UserError) as caught:
        DepoConfig(**fields).validate()
    assert str(caught.value).startswith(f"task.{name}:")
    assert "\n" not in str(caught.value)


def test_sample_refuses_bad_arguments():
    with pytest.raises(UserError, match="task.pairs"):
        DepoConfig(pairs=0).sample(0, TRAIN, 0, 1)
    for seed in (-1, 2**64):
        with pytest.raises(UserError, match=f"seed={seed}"):
            DepoConfig().sample(seed, TRAIN, 0, 1)
    for split, start, count in ((3, 0, 1), (TRAIN, -1, 1), (TRAIN, 0, 0)):
        with pytest.raises(ValueError, match="bad range"):
            DepoConfig().sample(0, split, start, count)
