"""`EXP=dash_attention`: its plan, all of it at its smallest, and its report on made-up rows."""

import dataclasses
import json
import signal
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import flagsaver

from experiments import binary, dash_attention
from experiments.report import claims_routed, routed
from experiments.report.sources import Source
from experiments.report.verdicts import Verdict
from sleep_jax import distributed, trained
from sleep_jax.model import decoder
from sleep_jax.model.config import RoutingConfig
from sleep_jax.tasks.recall import RecallConfig
from sleep_jax.training.step import Program
from tests import tiny
from tests.from_outside import Started, ends, run


@pytest.fixture(autouse=True)
def flags_are_parsed():
    with flagsaver.flagsaver():
        dash_attention.flags.FLAGS.mark_as_parsed()
        yield


def planned(preset):
    return binary.plan(dash_attention.EXPERIMENT, preset)


def test_arms_differ_in_what_is_read_and_in_nothing_else():
    cells = {cell.name: cell.config for cell in planned(dash_attention.cpu())}
    assert len(cells) == 9
    kept = {n: c for n, c in cells.items() if n.startswith("transformer")}
    full = cells["transformer-full-cache-N1-recall-P16-s0"]
    assert not full.model.is_routed and len(kept) == 6
    for config in kept.values():
        attention = dataclasses.replace(config.model.attention, routing=RoutingConfig())
        assert dataclasses.replace(config.model, attention=attention) == full.model
        assert dataclasses.replace(config, model=full.model) == full
        routing = config.model.attention.routing
        assert routing.chunk == (0 if config is full else 4)
    hybrids = {n: c for n, c in cells.items() if n not in kept}
    assert {(c.sleep.cache, c.sleep.passes) for c in hybrids.values()} == {
        ("evict", 1), ("evict", 2),
    }  # fmt: skip
    matched = cells["hybrid-N1-recall-P16-s0-flops"]
    assert matched.train.tokens > full.train.tokens
    with flagsaver.flagsaver(set=["model.attention.routing.gamma=2"]):
        other = planned(binary.select(dash_attention.EXPERIMENT, dash_attention.cpu()))
    routed_cells = [cell.config.model for cell in other if cell.config.model.is_routed]
    assert {model.attention.routing.gamma for model in routed_cells} == {2.0}
    # A question about every pair, whatever P.
    more = binary.at_depth(dash_attention.EXPERIMENT, dash_attention.cpu(), 8)
    assert isinstance(more.task, RecallConfig)
    assert (more.task.keys, more.task.questions) == (16, 8)
    assert more.model.vocab_size == more.task.vocab_size


def test_the_smoke_preset_and_what_it_refuses(tmp_path):
    arguments = ("experiments", "dash_attention", "--preset=smoke", f"--workdir={tmp_path}")
    for flag, said in (
        ("--arms=best", "--arms=best is unknown; allowed: full, dash, sigma_1"),
        ("--chunk=0", "--chunk=0: 0 is not a positive integer"),
        ("--chunk=99", "model.attention.routing.chunk=99 is not possible; allowed: 1 to"),
        ("--pairs=6", "task.pairs=6"),
        ("--set=model.attention.routing.chunk=2", "is set by the sweep; allowed: --chunk=..."),
        ("--set=model.attention.routing.sigma=2", "is set by the sweep; allowed: --arms=..."),
    ):
        refused = ends(*arguments, flag)
        assert refused.returncode == 2 and said in refused.stderr, refused.stderr
        assert refused.stderr.count("\n") == 1 and not list(tmp_path.iterdir())
    few = ("--jobs=1", "--passes=1", "--match=", "--arms=full,dash,top_k")
    cells = tmp_path / "dash_attention" / "smoke" / "cells"
    started = Started(*arguments, *few)
    while not list(cells.glob("*/readings.json")) and started.poll() is None:
        time.sleep(0.02)
    started.send_signal(signal.SIGTERM)
    stopped = started.finish(60)
    assert stopped.returncode == 143, stopped.stderr
    assert stopped.stderr == "" and "the same command goes on from there" in stopped.stdout
    assert len(list(cells.glob("*/row.json"))) == 4
    assert 1 <= len(list(cells.glob("*/readings.json"))) < 4
    result = run(*arguments, *few)
    assert result.returncode == 0, result.stderr
    directory = tmp_path / "dash_attention" / "smoke"
    results = json.loads((directory / "results.json").read_text())
    rows = {row["regime"]: row for row in results["rows"] if row["cache"] == "keep"}
    assert results["missing"] == [] and len(results["rows"]) == 4 and len(rows) == 3
    for regime, ways in (
        ("plain", {"as trained", "gamma 1", "gamma 16", "best 1", "best 8"}),
        ("chunks of 4 by entmax, sigma 1e+06", {"as trained", "gamma 2", "gamma 32"}),
        ("chunks of 4, best 2", {"as trained", "best 1", "best 4"}),
    ):
        found = {reading["read"]: reading for reading in rows[regime]["readings"]}
        assert ways <= set(found)
        own = found["as trained"]
        assert own["exact_accuracy"] == rows[regime]["exact_accuracy"]
        assert own["loss"] == pytest.approx(rows[regime]["loss"], rel=1e-6)
        assert ("share" in own) == (regime != "plain")
    # The best eight of its chunks are all of them.
    plain = {reading["read"]: reading for reading in rows["plain"]["readings"]}
    assert plain["best 8"]["loss"] == pytest.approx(plain["as trained"]["loss"], rel=1e-5)
    assert plain["best 8"]["share"] == plain["best 8"]["found"] == 1
    shares = [plain[f"gamma {gamma:g}"]["share"] for gamma in dash_attention.GAMMAS]
    assert sorted(shares, reverse=True) == shares and shares[-1] < shares[0]
    assert rows["plain"]["state_bytes"] == 16 * 2 * 2 * 8 * 4  # tokens, k and v, blocks, Dh, bytes
    (asleep,) = (row for row in results["rows"] if row["cache"] == "evict")
    assert asleep["state_bytes"] == 2 * 8 * 8 * 4 and len(asleep["readings"]) == 1
    assert (directory / "routed.png").read_bytes().startswith(b"\x89PNG")
    assert "Read otherwise, without training" in (directory / "table.md").read_text()


def test_what_is_found_is_what_a_question_asks_for():
    """Of a model that reads its own chunk alone, all that is asked is before it."""
    task = RecallConfig(pairs=4, keys=8, values=4, questions=4, window=8)
    attention = dataclasses.replace(tiny.MODEL.attention, routing=RoutingConfig(3, gamma=1e4))
    model = dataclasses.replace(
        tiny.MODEL, pattern=("attention",), vocab_size=task.vocab_size, attention=attention
    )
    config = dataclasses.replace(tiny.run_config(passes=1), model=model, task=task)
    program = Program.of(config, "cpu")
    params = decoder.init(program.model, jax.random.key(0))
    model_run = trained.Trained(config, program, 0, params, distributed.make_mesh())
    sequences = task.sample(0, 0, 0, 8)
    told = dash_attention._what_is_read(model_run, sequences)
    whole = np.concatenate([sequences["context"], sequences["tokens"]], -1).reshape(8, -1)
    read = np.asarray(dash_attention_chunks(program.model, params, whole))
    hits = shares = count = 0
    for row in range(8):
        for at in range(9, 16, 2):  # a marker, then key and value in turns
            place = list(whole[row, :8]).index(whole[row, at]) + 1
            hits += read[row, 0, at, place // 3]
            shares += (3 * read[row, 0, at].sum() + at % 3 + 1) / (at + 1)
            count += 1
    assert told["found"] == pytest.approx(hits / count)
    assert told["share"] == pytest.approx(shares / count)


def dash_attention_chunks(model, params, tokens):
    from sleep_jax import routed_attention

    (found,) = routed_attention.chunks_read(model, params, jnp.array(tokens)).values()
    return found


def reading(read, recall, share=None):
    found = {"read": read, "exact_accuracy": recall}
    return found if share is None else {**found, "share": share, "found": share}


def row(regime, seed, readings, **fields):
    at = {
        "cell": f"{regime}-s{seed}", "regime": regime, "seed": seed, "pairs": 8, "passes": 1,
        "model": "transformer_full_cache", "match": "tokens", "cache": "keep", "floor": 0.1,
        "evaluation_sequences": 100, "state_bytes": 4096, "parameters": 7, "readings": readings,
        "train_tokens": 2_000_000, "train_flops": 10**9,
        "curve": [
            {"train_tokens": 10**6, "exact_accuracy": 0.5},
            {"train_tokens": 2 * 10**6, "exact_accuracy": readings[0]["exact_accuracy"]},
        ],
    }  # fmt: skip
    return {**at, **fields}


DASH, UNTAUGHT, TOP = (
    "chunks of 4 by entmax, sigma 1e+06", "chunks of 4 by entmax, untaught", "chunks of 4, best 2",
)  # fmt: skip


def arm(regime, recall, share=None, others=(), **fields):
    """Three seeds of it, as trained and otherwise."""
    return [
        row(
            regime,
            seed,
            [reading("as trained", recall + seed / 1000, share)]
            + [reading(name, r + seed / 1000, s) for name, r, s in others],
            **fields,
        )
        for seed in range(3)
    ]


ROWS = [
    *arm("plain", 0.99, model="hybrid", cache="evict", passes=2, state_bytes=512, parameters=9),
    *arm("plain", 0.97, others=[("gamma 8", 0.5, 0.4)]),
    *arm(DASH, 0.96, 0.5, [("gamma 2", 0.955, 0.24), ("gamma 4", 0.8, 0.1)]),
    *arm(UNTAUGHT, 0.7, 0.3),
    *arm(TOP, 0.6, 0.2),
    *arm("plain", 0.4, model="hybrid", cache="evict", match="flops", state_bytes=512),
]
for _i, _row in enumerate(ROWS):
    _row["cell"] = f"{_i}"


def test_groups_lines_and_words():
    summary = routed.summarise(ROWS)
    first = [(group["name"], group["read"]) for group in routed.trained(summary)]
    assert first == [
        ("all of the cache", "as trained"), (DASH, "as trained"), (UNTAUGHT, "as trained"),
        (TOP, "as trained"), ("fast weights, N = 1, more tokens", "as trained"),
        ("fast weights, N = 2", "as trained"),
    ]  # fmt: skip
    table = [dict(zip(routed.HEADER, line, strict=True)) for line in routed.lines(summary)]
    assert [line["cache read [95%]"].split()[0] for line in table] == [
        "all", "0.500", "0.300", "0.200", "none", "none",
    ]  # fmt: skip
    assert table[0]["tokens to 0.9, by seed"] == "2.00M 2.00M 2.00M"
    assert table[2]["tokens to 0.9, by seed"] == ">2.00M >2.00M >2.00M"
    assert table[0]["bytes kept"] == "4,096" and table[5]["bytes kept"] == "512"
    ((_, _, otherwise),) = routed.read_otherwise(summary)
    assert [line[:2] for line in otherwise] == [
        ["all of the cache", "gamma 8"], [DASH, "gamma 2"], [DASH, "gamma 4"],
    ]  # fmt: skip
    assert routed.read_otherwise(routed.trained(summary)) == []
    text = routed.conclude(summary)
    assert f"{DASH} 0.961 [0.959, 0.963], reading 50% of the cache" in text


def source(rows):
    results = {"rows": rows, "device": "a CPU"}
    return Source("x", "x", "dash_attention", Path(), results, routed.summarise(rows))


def replaced(regime, *more):
    kept = [r for r in ROWS if r["regime"] != regime]
    rows = [{**r, "cell": str(i)} for i, r in enumerate([*kept, *more])]
    return source(rows)


@pytest.mark.parametrize(
    "dash, verdict, says",
    [
        ([("gamma 2", 0.955, 0.24)], Verdict.SHOWN, "reading 24%"),
        # Of what reads a quarter or less the reading of most decides, not the best.
        ([("gamma 2", 0.9, 0.24), ("gamma 4", 0.97, 0.1)], Verdict.NOT_SHOWN, "reading 24%"),
        ([("gamma 2", 0.952, 0.24)], Verdict.NOT_SHOWN, "reading 24%"),  # .953 - .002, full .971
        ([("gamma 2", 0.968, 0.3)], Verdict.NOT_SHOWN, "no reading of at most 25% of the cache"),
    ],
)
def test_a_quarter_is_close_to_all(dash, verdict, says):
    found = claims_routed.close_to_full(replaced(DASH, *arm(DASH, 0.96, 0.5, dash)))
    assert found.verdict is verdict and says in found.numbers
    assert found.scale == "8 pairs, 7 parameters, 3 seeds"


@pytest.mark.parametrize(
    "judge, other",
    [(claims_routed.above_top_k, TOP), (claims_routed.taught_is_above_untaught, UNTAUGHT)],
)
def test_above_what_reads_as_much(judge, other):
    found = judge(source(ROWS))
    # The reading of most within what the other reads.
    assert f"reading {'10%' if other is TOP else '24%'}; " in found.numbers
    assert found.verdict is Verdict.SHOWN
    # Reading no more than .15, the paper's kind has .8.
    assert judge(replaced(other, *arm(other, 0.9, 0.15))).verdict is Verdict.NOT_SHOWN
    less = judge(replaced(other, *arm(other, 0.1, 0.05)))
    assert less.verdict is Verdict.NOT_SHOWN and "reads as little" in less.numbers
    assert judge(replaced(other)).verdict is Verdict.NOT_RUN
    assert judge(replaced(DASH)).verdict is Verdict.NOT_RUN
