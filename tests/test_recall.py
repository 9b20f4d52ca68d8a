"""Recall and chains, against a reader that knows only token ids."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sleep_jax.errors import UserError
from sleep_jax.tasks.recall import SKILLS, RecallConfig
from sleep_jax.tasks.task import TEST, TRAIN, VALIDATION

V, K = 10, 64


def read(batch, row):
    """Pairs in order, the marker, and (given, answer, distance) of every step."""
    tokens = batch["context"][row].ravel().tolist()
    keys, values = tokens[::2], tokens[1::2]
    assert all(V <= key < V + K for key in keys) and len(set(keys)) == len(keys)
    assert all(0 <= value < V for value in values)
    inputs, targets = batch["tokens"][row, 0].tolist(), batch["targets"][row, 0].tolist()
    assert inputs[1:] == targets[:-1]  # what is predicted is what comes next
    owner, mask = batch["answer"][row, 0], batch["mask"][row, 0]
    steps = []
    for position in range(1, len(inputs), 2):
        assert mask[position] == 1 and mask[position - 1] == 0
        assert owner[position] == len(steps) and owner[position - 1] == -1
        steps.append((inputs[position], targets[position], batch["depth"][row, len(steps)]))
    return list(zip(keys, values, strict=True)), inputs[0] - V - K, steps


@settings(max_examples=30, deadline=None)
@given(
    skills=st.lists(st.sampled_from(SKILLS), min_size=1, unique=True),
    factor=st.integers(1, V - 1),
    pairs=st.sampled_from([4, 8, 32]),
    seed=st.integers(0, 2**64 - 1),
    split=st.sampled_from([TRAIN, VALIDATION, TEST]),
    start=st.integers(0, 10**6),
)
def test_every_answer_follows_from_the_tokens(skills, factor, pairs, seed, split, start):
    config = RecallConfig(tuple(skills), factor, pairs, questions=4, window=2 * pairs)
    batch = config.sample(seed, split, start, 3)
    for row in range(3):
        context, marker, steps = read(batch, row)
        skill = SKILLS[marker]
        assert skill in skills and len(steps) == 4
        where = {key: place for place, (key, _) in enumerate(context)}
        total = 0
        for given_token, answer, distance in steps:
            if skill == "chain":
                assert 0 <= given_token < V and distance == 1
                added = given_token
            else:
                place = where[given_token]
                added = context[place][1]
                # Quarters, the one that ends the context first.
                assert distance == 4 - place * 4 // pairs
            total = (total + factor * added) % V
            assert answer == (added if skill == "recall" else total)
        if skill != "chain":
            assert len({key for key, _, _ in steps}) == 4


def test_a_range_is_the_same_however_it_is_cut():
    config = RecallConfig()
    whole = config.sample(3, TRAIN, 10, 6)
    parts = [config.sample(3, TRAIN, start, 2) for start in (10, 12, 14)]
    for name, array in whole.items():
        np.testing.assert_array_equal(array, np.concatenate([part[name] for part in parts]))
    other = config.sample(4, TRAIN, 10, 6)["context"]
    assert not np.array_equal(whole["context"], other)


def test_skills_are_as_likely():
    batch = RecallConfig(skills=SKILLS).sample(0, TRAIN, 0, 3000)
    shares = np.unique(batch["tokens"][:, 0, 0], return_counts=True)[1] / 3000
    np.testing.assert_allclose(shares, 1 / 3, rtol=0.1)


def test_all_distances_values_and_keys_are_as_likely():
    batch = RecallConfig().sample(0, TEST, 0, 2000)
    for counted, many in ((batch["depth"], 4), (batch["context"][..., 1::2], V)):
        shares = np.unique(counted, return_counts=True)[1] / counted.size
        np.testing.assert_allclose(shares, 1 / many, rtol=0.05)
    assert RecallConfig().floor(batch) == {"exact": 0.1, "label": 0.1}
    assert RecallConfig().floor_by_depth(batch) == dict.fromkeys((1, 2, 3, 4), 0.1)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"skills": ("sleep",)}, "task.skills='sleep' .* allowed: of recall, chain, far_chain"),
        ({"skills": ("chain", "chain")}, "task.skills='chain,chain' .* allowed: of recall"),
        ({"skills": ()}, "task.skills='' .* allowed: of recall"),
        ({"factor": 10}, "task.factor=10 .* 1 to task.values - 1"),
        ({"pairs": 6}, "task.pairs=6 .* a multiple of 4"),
        ({"keys": 31}, "task.keys=31 .* >= task.pairs=32"),
        ({"values": 1}, "task.values=1 .* >= 2"),
        ({"questions": 33}, "task.questions=33 .* 1 to task.pairs=32"),
        ({"window": 5}, "task.window=5 .* a divisor of 64"),
    ],
)
def test_an_impossible_setting_names_the_field(change, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(RecallConfig(), **change).validate()
    with pytest.raises(UserError, match="seed=-1"):
        RecallConfig().sample(-1, TRAIN, 0, 1)
