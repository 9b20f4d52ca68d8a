"""Rule 110 against cellpylib, its splits and streams, its trivial floor and its errors."""

import dataclasses

import cellpylib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sleep_jax.errors import UserError
from sleep_jax.tasks import rule110
from sleep_jax.tasks.rule110 import Rule110Config
from sleep_jax.tasks.task import TEST, TRAIN, VALIDATION

FIELDS = ("context", "tokens", "targets", "mask", "answer", "depth")


def config_of(width: int, **fields) -> Rule110Config:
    return Rule110Config(width=width, window=width, **fields)


def oracle(bits: np.ndarray, steps: int) -> np.ndarray:
    """Rows 0..steps `[steps+1, W]` of a periodic Rule 110, by cellpylib."""
    return cellpylib.evolve(
        np.asarray(bits)[None],
        timesteps=steps + 1,
        memoize=True,
        apply_rule=lambda n, c, t: cellpylib.nks_rule(n, 110),
    )


def word(bits) -> int:
    return sum(int(bit) << i for i, bit in enumerate(bits))


bit_strings = st.integers(3, 64).flatmap(
    lambda width: st.lists(st.integers(0, 1), min_size=width, max_size=width)
)


@settings(deadline=None, max_examples=40)
@given(bits=bit_strings, steps=st.integers(0, 12))
def test_rollout_equals_cellpylib(bits, steps):
    states = np.array([word(bits)], np.uint64)
    final = rule110.rollout(states, steps, len(bits), "periodic")
    assert final.dtype == np.uint64
    assert final.tolist() == [word(oracle(np.array(bits), steps)[-1])]


@settings(deadline=None, max_examples=40)
@given(bits=bit_strings, steps=st.integers(0, 12))
def test_zero_boundary_equals_padded_cells(bits, steps):
    """cellpylib has no zero boundary, so the rule table is applied cell by cell."""
    cells = list(bits)
    for _ in range(steps):
        padded = [0, *cells, 0]
        cells = [
            (110 >> (4 * padded[i - 1] + 2 * padded[i] + padded[i + 1])) & 1
            for i in range(1, len(padded) - 1)
        ]
    states = np.array([word(bits)], np.uint64)
    assert rule110.rollout(states, steps, len(bits), "zero").tolist() == [word(cells)]


def test_step_refuses_an_unknown_boundary():
    with pytest.raises(ValueError, match="reflect"):
        rule110.step(np.zeros(1, np.uint64), 12, "reflect")


@settings(deadline=None, max_examples=40)
@given(bits=bit_strings)
def test_pack_puts_the_first_bit_lowest_and_unpack_inverts_it(bits):
    packed = rule110.pack(np.array([bits, bits[::-1]], np.uint8))
    assert packed.tolist() == [word(bits), word(bits[::-1])]
    assert rule110.unpack(packed, len(bits)).tolist() == [bits, bits[::-1]]


@pytest.mark.parametrize("width, steps", [(12, 0), (12, 2), (24, 9), (64, 4)])
def test_sampled_labels_follow_from_the_context(width, steps):
    config = config_of(width, rollout_steps=steps, strings=5)
    batch = rule110.sample(config, seed=3, split=TRAIN, start=11, count=6)
    assert {name: (a.shape, a.dtype.name) for name, a in batch.items()} == {
        "context": ((6, 5, width), "int32"),
        "tokens": ((6, 1, 5), "int32"),
        "targets": ((6, 1, 5), "int32"),
        "mask": ((6, 1, 5), "float32"),
        "answer": ((6, 1, 5), "int32"),
        "depth": ((6, 1), "int32"),
    }
    labels = [[[oracle(s, steps)[-1][0] for s in strings]] for strings in batch["context"]]
    assert batch["targets"].tolist() == labels
    assert batch["tokens"][..., 1:].tolist() == batch["targets"][..., :-1].tolist()
    assert (batch["tokens"][..., 0] == rule110.BOS).all()
    assert (batch["mask"] == 1).all()
    marked = dataclasses.replace(config, marked=True, window=width + 1)
    other = rule110.sample(marked, seed=3, split=TRAIN, start=11, count=6)
    context = other.pop("context")
    assert (context[..., 0] == rule110.BOS).all()
    assert context[..., 1:].tolist() == batch.pop("context").tolist()
    assert all((other[name] == batch[name]).all() for name in batch)
    numbered = dataclasses.replace(marked, numbered=True)
    counted = rule110.sample(numbered, seed=3, split=TRAIN, start=11, count=6)["context"]
    assert counted[..., 0].tolist() == [[2, 3, 4, 5, 6]] * 6
    assert numbered.vocab_size == 7 and marked.vocab_size == 3
    assert (counted[..., 1:] == context[..., 1:]).all()


def test_splits_are_disjoint_and_cover_every_string():
    """At W = 12 each split is drawn until all of it has been seen, from two seeds."""
    config = Rule110Config()
    seen = {TRAIN: set(), VALIDATION: set(), TEST: set()}
    for split, examples in ((TRAIN, 10_000), (VALIDATION, 2_000), (TEST, 2_000)):
        for seed in (0, 1):
            context = rule110.sample(config, seed, split, 0, examples)["context"]
            seen[split].update(rule110.pack(context).ravel().tolist())
    assert not seen[TRAIN] & seen[TEST]
    assert not seen[TRAIN] & seen[VALIDATION]
    assert not seen[VALIDATION] & seen[TEST]
    assert seen[TRAIN] | seen[VALIDATION] | seen[TEST] == set(range(2**12))
    assert 400 < len(seen[TEST]) < 640 and 400 < len(seen[VALIDATION]) < 640  # 512 expected


def test_training_strings_are_uniform():
    """Chi-square of 80,000 draws over the training strings, redrawn ones included."""
    config = Rule110Config()
    everything = np.arange(2**12, dtype=np.uint64)
    train = rule110.split_of(everything, config) == TRAIN
    drawn = rule110.pack(rule110.sample(config, 5, TRAIN, 0, 20_000)["context"]).ravel()
    counts = np.bincount(drawn.astype(int), minlength=2**12)[train]
    expected = drawn.size / train.sum()
    freedom = train.sum() - 1
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert abs(chi_square - freedom) < 5 * np.sqrt(2 * freedom)


@settings(deadline=None, max_examples=40)
@given(
    start=st.integers(0, 2**40),
    count=st.integers(2, 12),
    data=st.data(),
    strings=st.integers(1, 9),
    split=st.sampled_from((TRAIN, VALIDATION, TEST)),
    seed=st.integers(0, 2**64 - 1),
)
def test_examples_do_not_depend_on_how_a_range_is_cut(start, count, data, strings, split, seed):
    cut = data.draw(st.integers(1, count - 1))
    config = Rule110Config(strings=strings)
    whole = rule110.sample(config, seed, split, start, count)
    head = rule110.sample(config, seed, split, start, cut)
    tail = rule110.sample(config, seed, split, start + cut, count - cut)
    for name in FIELDS:
        np.testing.assert_array_equal(whole[name], np.concatenate([head[name], tail[name]]))


def test_every_seed_split_index_and_place_draws_afresh():
    """At W = 64 any repeated string would mean that two examples share random bits."""
    config = config_of(64, strings=5)
    words = np.concatenate(
        [
            rule110.pack(rule110.sample(config, seed, split, 0, 300)["context"]).ravel()
            for seed in (0, 1, 2)
            for split in (TRAIN, VALIDATION, TEST)
        ]
    )
    assert np.unique(words).size == words.size == 3 * 3 * 300 * 5


def test_the_stream_and_the_splits_are_pinned():
    """If this fails, seeds of earlier runs no longer give the data they were trained on."""
    config = Rule110Config()
    batch = rule110.sample(config, seed=7, split=TEST, start=10**6, count=1)
    assert rule110.pack(batch["context"]).tolist() == [[2182, 861, 2420, 2672]]
    splits = rule110.split_of(np.arange(24, dtype=np.uint64), config)
    assert np.flatnonzero(splits).tolist() == [1, 7, 15, 19, 20, 21]
    assert splits[[1, 7, 21]].tolist() == [TEST, VALIDATION, TEST]


@pytest.mark.parametrize("steps, probability", [(0, 0.5), (1, 0.625), (2, 0.53125)])
def test_label_probability_is_exact_at_small_width(steps, probability):
    assert rule110.label_probability(Rule110Config(rollout_steps=steps)) == probability


@pytest.mark.parametrize("steps, probability", [(8, 0.5406), (32, 0.5617)])
def test_label_probability_at_width_24_agrees_with_all_states(steps, probability):
    """tasks.md measured these over all 2^24 states."""
    config = config_of(24, rollout_steps=steps)
    assert rule110.label_probability(config) == pytest.approx(probability, abs=2e-3)


def brute_force_floor(config: Rule110Config, batch: dict[str, np.ndarray]) -> dict[str, float]:
    """Enumerates every string with cellpylib, then scores the commoner label by hand."""
    labels = [
        oracle(np.array([(n >> i) & 1 for i in range(config.width)]), config.rollout_steps)[-1][0]
        for n in range(2**config.width)
    ]
    best = int(2 * sum(labels) >= len(labels))
    rows = batch["targets"].reshape(-1, config.strings).tolist()
    return {
        "exact": sum(all(y == best for y in row) for row in rows) / len(rows),
        "label": sum(y == best for row in rows for y in row) / (len(rows) * config.strings),
    }


@pytest.mark.parametrize("width, steps", [(8, 2), (6, 5)])  # the best constants are 1 and 0
def test_floor_equals_brute_force(width, steps):
    config = config_of(width, rollout_steps=steps, strings=2, held_out=3)
    batch = rule110.sample(config, seed=0, split=TEST, start=0, count=50)
    assert rule110.floor(config, batch) == pytest.approx(brute_force_floor(config, batch))


@pytest.mark.parametrize("steps, exact", [(1, 0.153), (2, 0.080), (8, 0.085), (32, 0.100)])
def test_floor_agrees_with_the_table_at_width_24(steps, exact):
    config = config_of(24, rollout_steps=steps)
    batch = rule110.sample(config, seed=0, split=TEST, start=0, count=10_000)
    # Four standard errors of a mean of 10,000 draws.
    assert rule110.floor(config, batch)["exact"] == pytest.approx(exact, abs=0.0145)


@pytest.mark.parametrize("steps, label", [(2, 0.875), (8, 0.998046875), (30, 1 - 2.0**-12)])
def test_zero_boundary_is_refused_with_its_trivial_score(steps, label):
    refused = Rule110Config(boundary="zero", rollout_steps=steps)
    with pytest.raises(UserError) as caught:
        refused.validate()
    assert f"{label:.5g} of the labels" in str(caught.value)
    assert f"{label**4:.5g} of the examples" in str(caught.value)
    allowed = dataclasses.replace(refused, allow_degenerate=True)
    allowed.validate()
    assert rule110.label_probability(allowed) == label  # The text tells the truth.


@pytest.mark.parametrize(
    "fields, name",
    [
        ({"width": 2, "window": 2}, "width=2"),
        ({"width": 65, "window": 65}, "width=65"),
        ({"width": 7, "window": 7, "held_out": 9}, "width=7"),  # fewer than 16 held out
        ({"strings": 0}, "strings=0"),
        ({"rollout_steps": -1}, "rollout_steps=-1"),
        ({"window": 13}, "window=13"),
        ({"marked": True}, "window=12"),
        ({"numbered": True}, "numbered=True"),
        ({"boundary": "reflect"}, "boundary='reflect'"),
        ({"boundary": "zero"}, "boundary='zero'"),
        ({"held_out": 2}, "held_out=2"),
        ({"width": 64, "window": 64, "held_out": 1025}, "held_out=1025"),
    ],
)
def test_validation_names_the_field_and_its_value_on_one_line(fields, name):
    with pytest.raises(UserError) as caught:
        Rule110Config(**fields).validate()
    assert str(caught.value).startswith(f"task.{name}:")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("width", [6, 7, 8, 11])
def test_the_smallest_allowed_splits_are_not_empty(width):
    config = config_of(width, held_out=2**width // 16)
    config.validate()
    splits = rule110.split_of(np.arange(2**width, dtype=np.uint64), config)
    assert np.bincount(splits, minlength=3).min() >= 4


def test_sample_refuses_bad_arguments():
    with pytest.raises(UserError, match="task.strings"):
        rule110.sample(Rule110Config(strings=0), 0, TRAIN, 0, 1)
    for seed in (-1, 2**64):
        with pytest.raises(UserError, match=f"seed={seed}"):
            rule110.sample(Rule110Config(), seed, TRAIN, 0, 1)
    for split, start, count in ((3, 0, 1), (TRAIN, -1, 1), (TRAIN, 0, 0)):
        with pytest.raises(ValueError, match="bad range"):
            rule110.sample(Rule110Config(), 0, split, start, count)


def test_space_time_is_the_history_of_the_first_string():
    config = config_of(20, rollout_steps=7)
    diagram = rule110.space_time(config, seed=4)
    first = rule110.sample(config, 4, TRAIN, 0, 1)["context"][0, 0]
    assert diagram.dtype == np.uint8
    assert diagram.tolist() == oracle(first, 7).tolist()
    marked = dataclasses.replace(config, marked=True, window=21)
    assert rule110.space_time(marked, seed=4).tolist() == diagram.tolist()
