"""The report of EXP=knowledge_seeding on made-up rows; its days and its sweep from outside."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import flagsaver

from experiments import days, knowledge_seeding
from experiments.report import build, claims_seeded, seeded
from experiments.report.sources import Source
from experiments.report.verdicts import Verdict
from sleep_jax import distributed
from sleep_jax.knowledge_seeding import Seeding
from sleep_jax.model import decoder
from sleep_jax.tasks.recall import RecallConfig
from sleep_jax.tasks.task import TEST
from sleep_jax.trained import Trained
from sleep_jax.training.step import Program
from tests.from_outside import ends, run

TASK = RecallConfig(pairs=4, keys=12, values=5, questions=4, window=8)
STREAM = days.streams(TASK, "test")


def row(pairs, seed, recalls):
    """Three days; of each arm the recall of all days after the last, the first day's less."""
    readings = []
    for arm, share in recalls.items():
        share += seed / 100
        more = {"asleep": 0.9, "reading": 0.8, "tokens": 3000, "flops": 60}
        readings += [
            {
                "arm": arm,
                "day": day,
                "recall": [share - 0.1, share, share + 0.1][:day],
                **(more if arm != seeded.FAST_WEIGHTS else {}),
            }
            for day in (1, 2, 3)
        ]
    return {
        "cell": f"recall-P{pairs}-s{seed}",
        "pairs": pairs,
        "passes": 1,
        "seed": seed,
        "floor": 0.1,
        "keys": 12,
        "streams": 4,
        "train_tokens": 1000,
        "train_flops": 10**9,
        "parameters": 5,
        "readings": readings,
    }


def rows(day=0.2, stream=0.4, dreams=0.8, no_expert=0.85, text=0.3, seeds=3):
    arms = {
        seeded.FAST_WEIGHTS: day,
        seeded.DREAMS: dreams,
        seeded.NO_EXPERT: no_expert,
        seeded.TEXT: text,
    }
    of_a_day = [row(4, seed, arms) for seed in range(seeds)]
    return [*of_a_day, *(row(12, seed, {seeded.FAST_WEIGHTS: stream}) for seed in range(seeds))]


def test_groups_are_arms_after_the_last_day():
    summary = seeded.summarise(rows())
    assert [(group["pairs"], group["arm"]) for group in summary] == [
        (4, seeded.FAST_WEIGHTS), (4, seeded.DREAMS), (4, seeded.NO_EXPERT), (4, seeded.TEXT),
        (12, seeded.FAST_WEIGHTS),
    ]  # fmt: skip
    fast, dreams, *_ = summary
    assert fast["asleep"] is None and fast["reading"] is None and fast["tokens"] == 0
    assert dreams["recall"]["mean"] == pytest.approx(0.81) and dreams["recall"]["n"] == 3
    assert [day["mean"] for day in dreams["by_day"]] == pytest.approx([0.71, 0.81, 0.91])
    assert dreams["so_far"] == pytest.approx([0.71, 0.76, 0.81])
    assert dreams["asleep"] and dreams["asleep"]["mean"] == pytest.approx(0.9)
    assert (dreams["days"], dreams["tokens"], dreams["flops"]) == (3, 3000, 60)


def test_lines_and_words():
    summary = seeded.summarise(rows())
    fast, dreams = (
        dict(zip(seeded.HEADER, line, strict=True)) for line in seeded.lines(summary)[:2]
    )
    assert dreams["first day [95%]"].startswith("0.710")
    assert dreams["last day [95%]"].startswith("0.910")
    assert dreams["what keeps a day"] == "dreams" and dreams["new windows [95%]"].startswith("0.8")
    assert dreams["tokens"] == "1.0k + 3.0k" and fast["tokens"] == "1.0k"
    assert fast["the day, before [95%]"] == "-"
    text = seeded.conclude(summary)
    assert "in fast weights, of 4 pairs, 0.210" in text and "of 12 pairs, 0.410" in text
    assert "in MLPs by dreams, 0.810" in text and "by dreams, no expert, 0.860" in text


def test_one_seed_has_an_interval_over_its_answers():
    summary = seeded.summarise(rows(seeds=1))
    (low, high), (first_low, first_high) = (
        summary[1][name]["ci95"] if name == "recall" else summary[1]["by_day"][0]["ci95"]
        for name in ("recall", "by_day")
    )
    assert summary[1]["recall"]["ci95_over"] == "evaluation sequences"
    assert first_high - first_low > 1.3 * (high - low)  # a third of the answers


def source(rows):
    results = {"rows": rows, "device": "a CPU"}
    summary = seeded.summarise(rows)
    return Source("made up", "made up", "knowledge_seeding", Path(), results, summary)


@pytest.mark.parametrize(
    "claim, found, verdict",
    [
        (claims_seeded.keeps_what_fast_weights_lose, rows(), Verdict.SHOWN),
        (claims_seeded.keeps_what_fast_weights_lose, rows(stream=0.9), Verdict.NOT_SHOWN),
        (claims_seeded.keeps_what_fast_weights_lose, rows(day=0.9), Verdict.NOT_SHOWN),
        (claims_seeded.keeps_what_fast_weights_lose, rows(seeds=2), Verdict.NOT_RUN),
        (claims_seeded.needs_an_expert, rows(), Verdict.NOT_SHOWN),
        (claims_seeded.needs_an_expert, rows(no_expert=0.5), Verdict.SHOWN),
        (claims_seeded.keeps_more_than_text, rows(), Verdict.SHOWN),
        (claims_seeded.keeps_more_than_text, rows(text=0.8), Verdict.NOT_SHOWN),
    ],
)
def test_claims(claim, found, verdict):
    assert claim(source(found)).verdict is verdict


def test_what_was_compared_is_said():
    found = claims_seeded.keeps_what_fast_weights_lose(source(rows()))
    assert "dreams: 0.810" in found.numbers and "fast weights of 12 pairs: 0.410" in found.numbers
    assert found.scale == "3 days, 5 parameters, 3 seeds"


def test_a_stream_has_every_key_on_one_day():
    assert STREAM.windows.shape == (days.STREAMS, 3, 8)
    for windows, answers, day in zip(*STREAM, strict=True):
        for number, window in enumerate(windows):
            for key, value in window.reshape(-1, 2):
                at = key - TASK.values
                assert answers[at] == value and day[at] == number
    assert (np.bincount(STREAM.day.ravel()) == 4 * days.STREAMS).all()
    example = days.whole(TASK).sample(days.EVALUATION_SEED, TEST, 0, 1)
    np.testing.assert_array_equal(STREAM.windows[0], example["context"][0])


def test_what_each_arm_is_taught():
    """By teachers that say 1 of everything: awake with fast weights, or with none, 2."""
    keys = np.arange(TASK.keys)
    prompts = jnp.broadcast_to(TASK.question(TASK.values + keys), (days.STREAMS, TASK.keys, 2))
    shape = (*prompts.shape[:2], TASK.vocab_size)
    awake, empty = (
        jnp.log(jnp.broadcast_to(jax.nn.one_hot(said, TASK.vocab_size), shape)) for said in (1, 2)
    )
    assert int(prompts[0, 0, 0]) == TASK.values + TASK.keys  # the marker of recall

    def taught(name):
        arm = days.Arm("", name, Seeding(), rehearsed=False)
        dreams = days._taught(arm, STREAM, 1, prompts, awake, empty)
        asked = np.asarray(dreams.prompts)[..., 1] - TASK.values
        assert asked.shape == (days.STREAMS, TASK.keys) and dreams.windows is None
        return asked, np.argmax(dreams.said, axis=-1)

    def of(stream, values):
        return np.take_along_axis(values, stream, axis=1)

    for name, possible in ((days.TEXT, {1}), (days.STORED, {0, 1})):
        asked, said = taught(name)
        assert set(of(asked, STREAM.day).ravel()) == possible
        np.testing.assert_array_equal(said, of(asked, STREAM.answers))
    asked, said = taught(days.TODAY)
    assert set(of(asked, STREAM.day).ravel()) == {1} and (said == 1).all()
    asked, said = taught(days.ONE_TEACHER)
    assert (asked == keys).all() and (said == 1).all()
    asked, said = taught(days.DREAMS)
    np.testing.assert_array_equal(said, np.where(of(asked, STREAM.day) == 1, 1, 2))


def test_rehearsed_windows_hold_the_key_that_is_asked():
    windows, prompts = days._random_windows(TASK, 64, jax.random.key(0))
    assert windows.shape == (64, 1, 8)
    pairs = np.asarray(windows).reshape(64, 4, 2)
    assert (pairs[..., 1] < TASK.values).all() and (pairs[..., 0] >= TASK.values).all()
    assert all(len(set(keys)) == 4 for keys in pairs[..., 0])
    asked = np.asarray(prompts)[:, 1]
    where = pairs[..., 0] == asked[:, None]
    assert (where.sum(axis=1) == 1).all() and where.any(axis=0).all()


def test_a_stream_costs_what_its_parts_do():
    preset = knowledge_seeding.smoke()
    config, model, task = preset.config, preset.config.model, preset.config.task
    assert isinstance(task, RecallConfig)
    plain = days.Arm("", days.TEXT, Seeding(steps=5, batch=8), rehearsed=False)
    tokens, operations = days._cost(config, model, plain)
    assert tokens == 5 * 8 * 2
    rehearsed, more = days._cost(config, model, dataclasses.replace(plain, rehearsed=True))
    assert rehearsed - tokens == (5 * 8 + days._REHEARSED) * (8 + 2)
    dreamt = days._cost(config, model, dataclasses.replace(plain, taught=days.DREAMS))[0]
    assert dreamt - tokens == task.keys * (8 + 2 + 2)
    assert 0 < operations < more


@pytest.fixture(scope="module")
def model():
    """A trained model, but for the training."""
    config = knowledge_seeding.smoke().config
    task = dataclasses.replace(TASK, keys=8)
    config = dataclasses.replace(
        config,
        task=task,
        model=dataclasses.replace(config.model, vocab_size=task.vocab_size),
        sleep=dataclasses.replace(config.sleep, passes=2),
    )
    program = Program.of(config, "cpu")
    params = decoder.init(program.model, jax.random.key(1))
    # So that what is said depends on all that was read: much is read out, and nothing decays.
    mixer = params["block_01_gated_delta_net"]["mixer"]
    mixer["out"]["output"] *= 40
    mixer["decay"]["A_log"] -= 10
    return Trained(config, program, 1, params, distributed.make_mesh(devices=jax.devices()[:1]))


def by_session(model, windows, keys):
    """The likeliest value of each key after windows `[C, L]`, by a stream that is read alone."""
    found = []
    for key in keys:
        session = model.session()
        question = model.config.task.question(np.asarray([key]))
        tokens = np.concatenate([windows.reshape(1, -1), question], axis=1)
        found.append(int(session.feed(tokens.astype(np.int32)).argmax()))
    return np.asarray(found)


def shares(right, day, today):
    return [right[day == number].mean() for number in range(today + 1)]


def said_of(model, stream, keys, read):
    """What it says of each key, `[R, K]`, after the days `read`, a slice for every stream."""
    return np.stack([by_session(model, windows[read], keys) for windows in stream.windows])


def test_fast_weights_that_go_on_are_those_of_a_session(model, monkeypatch):
    """Right is here what a session says in the end."""
    stream = days.streams(model.config.task, "test")
    keys = model.config.task.values + np.arange(8)
    said = [said_of(model, stream, keys, read) for read in (slice(1), slice(2), slice(1, 2))]
    stream = stream._replace(answers=said[1])
    monkeypatch.setattr(days, "streams", lambda task, split: stream)
    first, last = days.kept_in_fast_weights(model)
    assert (first["day"], last["day"]) == (1, 2) and last["recall"] == [1, 1]
    assert first["recall"] == pytest.approx(shares(said[0] == said[1], stream.day, 0))
    assert (said[1] != said[2]).any()  # the first day matters


def test_a_day_is_read_taught_and_asked(model, monkeypatch):
    """To be taught is to say the next token here. Right is what a session says of today."""
    seen = []

    def taught(params):
        return {**params, "unembedding": jnp.roll(params["unembedding"], 1, axis=-1)}

    def teach(config, loop, method, params, dreams, at, keys):
        seen.append((at, len(dreams), loop.passes, config.mlp_hidden, len(set(map(str, keys)))))
        return taught(params)

    task = model.config.task
    keys = task.values + np.arange(8)
    models = [model]
    for _ in range(2):
        models.append(dataclasses.replace(model, params=taught(models[-1].params)))
    stream = days.streams(task, "test")
    today = [said_of(models[day], stream, keys, slice(day, day + 1)) for day in (0, 1)]
    stream = stream._replace(answers=np.where(stream.day == 0, *today))
    monkeypatch.setattr(days, "streams", lambda task, split: stream)
    monkeypatch.setattr(days, "_seed", teach)
    monkeypatch.setattr(days, "_NEW", 4)
    arm = days.Arm("", days.DREAMS, Seeding(units=3, steps=2), rehearsed=True)
    readings = days.consolidated(model, arm)
    hidden = model.config.model.mlp_hidden
    assert [at for at, *_ in seen] == [hidden, hidden + 3]
    assert {tuple(more) for _, *more in seen} == {(2, 2, hidden + 6, days.STREAMS)}
    new = task.sample(days.EVALUATION_SEED, TEST, days._NEW_FROM, 4)["context"]
    for day, (reading, after) in enumerate(zip(readings, models[1:], strict=True)):
        assert reading["asleep"] == 1
        right = said_of(after, stream, keys, slice(0)) == stream.answers
        assert reading["recall"] == pytest.approx(shares(right, stream.day, day))
        read = [
            by_session(after, window, window.reshape(-1, 2)[:, 0]) == window.reshape(-1, 2)[:, 1]
            for window in new
        ]
        assert reading["reading"] == pytest.approx(np.mean(read))
    assert [reading["tokens"] / readings[0]["tokens"] for reading in readings] == [1, 2]


def test_the_arms_have_the_names_of_the_report():
    with flagsaver.flagsaver():
        knowledge_seeding.flags.FLAGS.mark_as_parsed()
        arms = {arm.name: arm for arm in knowledge_seeding.arms()}
    named = (seeded.DREAMS, seeded.NO_EXPERT, seeded.TEXT, seeded.STORED)
    assert set(named) < set(arms) and knowledge_seeding.FAST_WEIGHTS == seeded.FAST_WEIGHTS
    assert {arm.method.steps for arm in arms.values()} == {200}
    for name, arm in arms.items():
        assert (arm.method.units == 0) == ("no expert" in name)
        assert arm.rehearsed == (name != "dreams, nothing rehearsed" and name not in (
            "text", "text, no expert"
        ))  # fmt: skip


def test_smoke_trains_lives_and_reads(tmp_path):
    flags = ("--preset=smoke", "--jobs=1", "--seeds=0", "--days=2", f"--workdir={tmp_path}")
    result = run("experiments", "knowledge_seeding", *flags, "--arm=dreams, no expert")
    assert result.returncode == 0, result.stderr
    directory = tmp_path / "knowledge_seeding" / "smoke"
    results = json.loads((directory / "results.json").read_text())
    assert results["missing"] == [] and [found["pairs"] for found in results["rows"]] == [4, 8]
    day, stream = results["rows"]
    assert {reading["arm"] for reading in stream["readings"]} == {seeded.FAST_WEIGHTS}
    arms = [arm["name"] for arm in day["arms"]]
    by_arm = {reading["arm"]: reading for reading in day["readings"]}  # the last day's
    assert list(by_arm) == [seeded.FAST_WEIGHTS, *arms]
    assert all(len(reading["recall"]) == 2 for reading in by_arm.values())
    assert arms == ["dreams, no expert"]
    assert (directory / "seeded.png").read_bytes().startswith(b"\x89PNG")
    cell = day["cell"]
    (directory / "cells" / cell / "readings.json").unlink()  # as another launcher leaves it
    build.rebuild(directory)
    results = json.loads((directory / "results.json").read_text())
    assert results["missing"] == [cell] and [found["pairs"] for found in results["rows"]] == [8]
    refused = ends("experiments", "knowledge_seeding", *flags[:3], "--days=3", flags[-1])
    assert refused.returncode == 2 and "holds a run with" in refused.stderr


def test_a_run_is_read_again_for_other_arms(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(knowledge_seeding, "readings", lambda run: read.append(run.name) or [])
    preset = knowledge_seeding.smoke()

    def again(**given):
        with flagsaver.flagsaver(**given):
            knowledge_seeding.flags.FLAGS.mark_as_parsed()
            planned = knowledge_seeding._of_a_day_and_of_all({4: preset.config}, preset)[:1]
            (tmp_path / "cells" / planned[0].name).mkdir(parents=True, exist_ok=True)
            knowledge_seeding._read(planned, tmp_path)
        return len(read)

    assert [again(), again(), again(expert_units=2), again(expert_units=2)] == [1, 1, 2, 2]
    assert again(expert_units=2, arm=["text"]) == 3


@pytest.mark.parametrize(
    "flag, allowed",
    [
        ("--days=1", "allowed"),
        ("--expert_units=0", "allowed"),
        ("--updates=0", "allowed"),
        ("--arm=dream", "dreams; dreams, half for the reward; "),
        ("--pairs=4,8", "one number"),
        ("--pairs=6", "a multiple of 4"),
        ("--set=task.keys=99", "--days="),
        ("--set=sleep.cache=slide", "allowed: evict"),
    ],
)
def test_impossible_flags_end_in_one_line(tmp_path, flag, allowed):
    result = ends(
        "experiments", "knowledge_seeding", "--preset=smoke", flag, f"--workdir={tmp_path}"
    )
    assert result.returncode == 2 and not list(tmp_path.iterdir())
    (line,) = result.stderr.strip().splitlines()
    assert flag.split("=")[-2].strip("-") in line and allowed in line
