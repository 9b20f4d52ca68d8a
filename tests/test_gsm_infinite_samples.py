"""GSM-Infinite beside 20 problems of the original, and beside what was measured of it."""

import collections
import json
import pathlib

import pytest

from sleep_jax.tasks.gsm_infinite import task
from sleep_jax.tasks.gsm_infinite.task import GsmInfiniteConfig
from sleep_jax.tasks.task import VALIDATION
from tests import gsm_evaluator
from tests.gsm_evaluator import Problem
from tests.test_gsm_infinite import NOUNS, OWN_PLACES, read

SAMPLES = pathlib.Path(__file__).parents[2] / "shared/data/gsm_infinite_samples.jsonl"
SAMPLE_NOUNS = {
    "adult animals": "count",
    "schools": "count",
    "movies": "count",
    "newborn animal children": "product",
    "teachers from all schools": "product",
    "movie nominations": "product",
}
needs_samples = pytest.mark.skipif(not SAMPLES.exists(), reason=f"{SAMPLES} is not here")


def original_samples() -> list[dict]:
    return [json.loads(line) for line in SAMPLES.read_text().splitlines()]


@needs_samples
def test_the_evaluator_solves_the_originals_samples():
    """The evaluator's reading of answers and operations is the original's, forward and reverse."""
    rows = original_samples()
    assert len(rows) == 20
    for row in rows:
        solved = gsm_evaluator.solve(row["question"], Problem(row["problem"], SAMPLE_NOUNS))
        assert solved == (row["answer"], row["op"])


def own_shares(problem: Problem, own: set[str]) -> collections.Counter:
    """How many of a problem's own statements depend on 0, 1, 2, 3, 4 quantities, with constant."""
    return collections.Counter(
        (len(e.operands), bool(e.operands) and e.constant is not None)
        for name, e in problem.definitions.items()
        if name.split(" in ")[-1] in own
    )


@needs_samples
def test_problems_look_like_the_originals_samples():
    """Marginals over 20 original samples, which are few, so the tolerances are wide."""
    theirs, ours = collections.Counter(), collections.Counter()
    rows = original_samples()
    for row in rows:
        problem = Problem(row["problem"], SAMPLE_NOUNS)
        # Filler has no constants, so a place with one is a place of the problem itself.
        own = {
            n.split(" in ")[-1] for n, e in problem.definitions.items() if e.constant is not None
        }
        theirs += own_shares(problem, own)
    config = GsmInfiniteConfig(target_length=2939, window=2939)  # The samples' mean length.
    examples = read(config, config.sample(0, VALIDATION, 0, 100))
    for example in examples:
        ours += own_shares(Problem(example.statements, NOUNS), OWN_PLACES)
    for form in theirs | ours:
        assert ours[form] / ours.total() == pytest.approx(theirs[form] / theirs.total(), abs=0.07)
    # Own statements in a problem: 13.7 in the samples; tokens in a sentence: 32.4.
    assert ours.total() / 100 == pytest.approx(theirs.total() / 20, rel=0.25)
    sentences = sum(len(Problem(row["problem"], SAMPLE_NOUNS).statements) for row in rows)
    their_length = sum(row["context_tokens_qwen"] for row in rows) / sentences
    our_length = 100 * 2939 / sum(len(Problem(e.statements, NOUNS).statements) for e in examples)
    assert our_length == pytest.approx(their_length, rel=0.2)


# tasks.md, section 3: what a constant guess scores, forward, and the number of distinct answers.
@pytest.mark.parametrize(
    "difficulty, operations, floor, distinct",
    [
        ("hard", 1, 0.29, (4, 4)),
        ("medium", 2, 0.30, (4, 4)),
        ("medium", 4, 0.25, (8, 16)),
        ("medium", 6, 0.18, (18, 50)),
        ("medium", 8, 0.13, (20, 80)),
        ("hard", 8, 0.19, (20, 80)),
    ],
)
def test_forward_answers_are_spread_as_in_the_original(difficulty, operations, floor, distinct):
    config = GsmInfiniteConfig(
        difficulty, "forward", min_operations=operations, max_operations=operations
    )
    answers = collections.Counter(
        task._draw_example(config, 0, VALIDATION, i).problem.answer for i in range(600)
    )
    ((_, most),) = answers.most_common(1)
    # The original's own figures come from about a hundred problems each.
    assert most / 600 == pytest.approx(floor, abs=0.08)
    assert distinct[0] <= len(answers) <= distinct[1]


def test_reverse_answers_are_constants():
    """A constant guess scores .31 to .40 in the original, in samples that are small."""
    config = GsmInfiniteConfig(modes="reverse")
    answers = collections.Counter(
        task._draw_example(config, 0, VALIDATION, i).problem.answer for i in range(600)
    )
    assert set(answers) == {1, 2, 3, 4}
    assert 0.25 <= max(answers.values()) / 600 <= 0.40
