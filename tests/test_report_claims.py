"""Verdicts on made-up rows: every outcome of every rule, decided by the intervals alone."""

import re
from pathlib import Path

import pytest

from experiments.report import (
    claims,
    claims_cost,
    claims_depth,
    claims_rule110,
    comparison,
    published,
)
from experiments.report.kinds import kind_of
from experiments.report.sources import BENCH, COST, RUN, Source
from experiments.report.verdicts import Finding, Verdict
from tests.test_report_depths import row as depth_row

SMALL = {"rollout_steps": 2, "width": 12, "train_tokens": 1000, "parameters": 10_000}
PAPER = {"rollout_steps": 32, "width": 24, "train_tokens": 5 * 10**9, "parameters": 2_800_000}


def source(rows: list[dict], experiment: str = "cellular_automata", **results) -> Source:
    kind = kind_of(experiment)
    results = {"device": "a machine", "commit": "abc", "preset": "made up", **results}
    results["rows"] = rows
    return Source(RUN, f"{experiment}/made-up", experiment, Path(), results, kind.summarise(rows))


def row(right: float, passes: int = 1, seed: int = 0, **changes) -> dict:
    found = {
        "cell": f"{passes}-{seed}-{sorted(changes.items())}",
        "model": "hybrid",
        "update_rule": "gated_delta",
        "passes": passes,
        "seed": seed,
        "match": "tokens",
        "regime": "plain",
        "train_flops": passes * 10**9,
        "exact_accuracy": right,
        "label_accuracy": 0.5,
        "floor": 0.1,
        "label_floor": 0.5,
        "loss": 1.0,
        "evaluation_sequences": 1000,
        "evaluation_split": "test",
        "wall_seconds": 1.0,
        "curve": [],
        **SMALL,
    }
    return found | changes


def seeds(mean: float, passes: int = 1, spread: float = 0.01, **changes) -> list[dict]:
    """Two seeds, whose interval is the mean plus and minus 12.7 times the spread."""
    return [row(mean - spread, passes, 0, **changes), row(mean + spread, passes, 1, **changes)]


def check(finding: Finding, verdict: Verdict, *words: str) -> None:
    assert finding.verdict is verdict, finding
    assert all(word in finding.numbers for word in words), finding.numbers


LOW, HIGH, WIDE = seeds(0.3), seeds(0.9, 4), seeds(0.6, 4, spread=0.1)


@pytest.mark.parametrize(
    "rows, verdict, words",
    [
        (LOW + HIGH, Verdict.SAME_DIRECTION, ("N = 4: 0.900 [0.773, 1.000] (n = 2)", "apart")),
        (LOW + WIDE, Verdict.NOT_REPRODUCED, ("the intervals overlap",)),
        (seeds(0.8) + HIGH, Verdict.NOT_REPRODUCED, ("the intervals overlap",)),
        (seeds(0.9) + seeds(0.3, 4), Verdict.NOT_REPRODUCED, ("the other way round",)),
        (seeds(0.01, spread=0) + seeds(0.08, 4, spread=0), Verdict.NOT_REPRODUCED, ("floor",)),
        (seeds(0.3, **PAPER) + seeds(0.9, 4, **PAPER), Verdict.REPRODUCED, ("apart",)),
        (LOW, Verdict.NOT_RUN, ("N > 1",)),
        (HIGH, Verdict.NOT_RUN, ("N = 1",)),
        ([row(0.1, model="transformer_evicted")], Verdict.NOT_RUN, ("hybrid",)),
        ([], Verdict.NOT_RUN, ("hybrid",)),
    ],
)
def test_more_passes(rows, verdict, words):
    check(claims_rule110.more_passes(source(rows)), verdict, *words)


def test_a_verdict_names_its_scale_and_the_fewest_seeds():
    rows = [row(0.3, blocks=2), *(one | {"blocks": 2} for one in HIGH)]
    finding = claims_rule110.more_passes(source(rows))
    assert finding.scale == "W = 12, t = 2, 2 blocks, 10.0k parameters, 1.0k tokens, 1 to 2 seeds"
    assert "one seed, interval over answers" in finding.numbers
    finding = claims_rule110.more_passes(source(LOW + HIGH))
    assert "blocks not recorded" in finding.scale and "2 seeds" in finding.scale
    for field in ("width", "rollout_steps", "train_tokens", "parameters"):
        smaller = {**PAPER, field: SMALL[field]}
        finding = claims_rule110.more_passes(
            source(seeds(0.3, **smaller) + seeds(0.9, 4, **smaller))
        )
        assert finding.verdict is Verdict.SAME_DIRECTION, field


@pytest.mark.parametrize(
    "rows, verdict",
    [
        (LOW + seeds(0.6, 2, 0.001) + HIGH, Verdict.SAME_DIRECTION),
        (LOW + seeds(0.85, 2) + HIGH, Verdict.NOT_REPRODUCED),
        (LOW + seeds(0.31, 2) + HIGH, Verdict.NOT_REPRODUCED),
        (LOW + HIGH, Verdict.NOT_RUN),
        (LOW + seeds(0.6, 2), Verdict.NOT_RUN),
    ],
)
def test_each_pass(rows, verdict):
    check(claims_rule110.each_pass(source(rows)), verdict)


@pytest.mark.parametrize(
    "deep, changes, verdict",
    [
        (0.2, {}, Verdict.SAME_DIRECTION),
        (0.8, {}, Verdict.NOT_REPRODUCED),
        (0.2, PAPER, Verdict.REPRODUCED),
        (None, {}, Verdict.NOT_RUN),
    ],
)
def test_collapse_with_depth(deep, changes, verdict):
    changes = {**changes, "rollout_steps": 4}
    rows = seeds(0.9, **changes)
    if deep is not None:
        rows += seeds(deep, **changes | {"rollout_steps": 16})
    rows += seeds(0.1, **changes | {"rollout_steps": 16, "train_tokens": 7})  # another budget
    rows.append(row(0.1, **changes | {"rollout_steps": 32, "regime": "attention sink"}))
    finding = claims_rule110.collapse_with_depth(source(rows))
    check(finding, verdict)
    if deep is not None:
        assert "t = 4 to 16" in finding.scale


@pytest.mark.parametrize(
    "rows, verdict",
    [
        (seeds(0.1, spread=0.001, model="transformer_evicted"), Verdict.REPRODUCED),
        (seeds(0.2, spread=0.02, model="transformer_evicted"), Verdict.SAME_DIRECTION),
        (seeds(0.2, spread=0.001, model="transformer_evicted"), Verdict.NOT_REPRODUCED),
        (LOW, Verdict.NOT_RUN),
    ],
)
def test_evicted_transformer(rows, verdict):
    check(claims_rule110.evicted_at_chance(source(rows)), verdict)


@pytest.mark.parametrize(
    "other, verdict", [(0.3, Verdict.SHOWN), (0.95, Verdict.NOT_SHOWN), (None, Verdict.NOT_RUN)]
)
def test_full_cache(other, verdict):
    rows = LOW + HIGH
    if other is not None:
        rows = rows + seeds(other, model="transformer_full_cache", update_rule="none")
    check(claims_rule110.beats_full_cache(source(rows)), verdict)


@pytest.mark.parametrize("match", ["flops", "flops_blocks", "flops_width"])
def test_equal_compute_on_rule_110(match):
    def judge(right: float, flops: float = 4e9, rows=LOW + HIGH) -> Finding:
        matched = seeds(right, match=match, train_flops=int(flops), train_tokens=4000)
        return claims_rule110.same_flops(match)(source(rows + matched))

    check(judge(0.3), Verdict.SHOWN, "apart")
    check(judge(0.85), Verdict.NOT_SHOWN, "overlap")
    check(judge(0.3, 4.1e9), Verdict.SHOWN)
    check(judge(0.3, 4.3e9), Verdict.NOT_RUN, "other FLOPs")
    check(judge(0.3, rows=LOW), Verdict.NOT_RUN, "N > 1")
    other = {"flops": "flops_width"}.get(match, "flops")
    check(claims_rule110.same_flops(other)(source(LOW + HIGH)), Verdict.NOT_RUN, "N = 1 with the")


def test_few_passes_at_equal_compute_on_rule_110():
    def spent(right: float, passes: int, flops: float = 4e9) -> list[dict]:
        return seeds(right, passes, match="flops", train_flops=int(flops), train_tokens=4000)

    def judge(*matched: list[dict]) -> Finding:
        return claims_rule110.few_passes_same_flops(source(sum(matched, LOW + HIGH)))

    check(judge(spent(0.3, 1), spent(0.9, 2)), Verdict.SHOWN, "N = 2", "apart")
    check(judge(spent(0.9, 1), spent(0.3, 2)), Verdict.NOT_SHOWN, "the other way round")
    check(judge(spent(0.3, 1), spent(0.35, 2), spent(0.9, 3)), Verdict.NOT_SHOWN, "overlap")
    check(judge(spent(0.3, 1), spent(0.9, 2, 3e9)), Verdict.NOT_RUN, "took others")
    check(judge(spent(0.3, 1)), Verdict.NOT_RUN, "an N between")
    check(judge(spent(0.9, 2)), Verdict.NOT_RUN, "N = 1")
    # An N between is not taken for N = 1.
    rule = claims_rule110.same_flops("flops")(source(LOW + HIGH + spent(0.3, 2)))
    check(rule, Verdict.NOT_RUN, "N = 1 with the")


def deep(right: dict[int, float], passes: int = 1, **changes) -> list[dict]:
    """Two seeds that score `right` at each depth."""
    found = []
    for seed in (0, 1):
        one = depth_row(passes=passes, seed=seed, **changes)
        one["by_depth"] = {
            str(depth): {
                "exact_accuracy": score + 0.001 * seed,
                "loss": 1.0,
                "answers": 100,
                "floor": 0.2,
            }
            for depth, score in right.items()
        }
        found.append(one)
    return found


DEPO_PAPER = {"nodes": 75, "max_hops": 16, "train_tokens": 5 * 10**9, "label": "n75-k16"}


@pytest.mark.parametrize(
    "one, four, changes, verdict, words",
    [
        ({1: 0.9, 4: 0.3}, {1: 0.9, 4: 0.8}, {}, Verdict.SAME_DIRECTION, "better at depth 4"),
        ({1: 0.9, 4: 0.3}, {1: 0.9, 4: 0.3}, {}, Verdict.NOT_REPRODUCED, "at no depth"),
        ({1: 0.9, 4: 0.8}, {1: 0.9, 4: 0.805}, {}, Verdict.NOT_REPRODUCED, "at no depth"),
        ({1: 0.9, 4: 0.3}, {1: 0.7, 4: 0.8}, {}, Verdict.NOT_REPRODUCED, "worse at depth 1"),
        ({1: 0.0, 4: 0.0}, {1: 0.1, 4: 0.1}, {}, Verdict.NOT_REPRODUCED, "at no depth"),
        ({1: 0.9, 4: 0.3}, {1: 0.9, 4: 0.8}, DEPO_PAPER, Verdict.REPRODUCED, "better at depth 4"),
    ],
)
def test_more_passes_by_depth(one, four, changes, verdict, words):
    rows = deep(one, **changes) + deep(four, 4, **changes)
    judge = claims_depth.more_passes(None, None)
    check(judge(source(rows, "depo")), verdict, words)
    check(judge(source(rows[:2], "depo")), Verdict.NOT_RUN)


def test_operations_and_cache_select_what_a_claim_asks():
    def judge(depths: dict[int, float], better: dict[int, float], cache: str | None) -> Finding:
        extra: dict = {} if cache is None else {"cache": cache}
        rows = deep(depths, **extra) + deep(better, 4, **extra)
        return claims_depth.more_passes((6, 8), "evict")(source(rows, "gsm_infinite"))

    check(judge({6: 0.3, 8: 0.3}, {6: 0.3, 8: 0.9}, "evict"), Verdict.SAME_DIRECTION)
    check(judge({2: 0.3, 6: 0.3}, {2: 0.9, 6: 0.3}, "evict"), Verdict.NOT_REPRODUCED)
    check(judge({2: 0.3}, {2: 0.9}, "evict"), Verdict.NOT_RUN, "depth 6 or 8")
    check(judge({6: 0.3}, {6: 0.9}, "slide"), Verdict.NOT_RUN, "sleep.cache=evict")
    check(judge({6: 0.3}, {6: 0.9}, None), Verdict.NOT_RUN, "not recorded")


@pytest.mark.parametrize(
    "right, verdict",
    [
        ({1: 0.9, 4: 0.2, 8: 0.2}, Verdict.SAME_DIRECTION),
        ({1: 0.9, 4: 0.2, 8: 0.9}, Verdict.NOT_REPRODUCED),
        ({1: 0.2, 4: 0.2}, Verdict.NOT_REPRODUCED),
        ({1: 0.9, 2: 0.9}, Verdict.NOT_RUN),
    ],
)
def test_stalls(right, verdict):
    check(claims_depth.stalls(1, 4)(source(deep(right), "depo")), verdict)
    check(claims_depth.stalls(2, 8)(source(deep(right), "depo")), Verdict.NOT_RUN, "N = 2")


def test_moves():
    judge = claims_depth.moves(4, 16)
    check(judge(source(deep({16: 0.5}, 4), "depo")), Verdict.SAME_DIRECTION)
    check(judge(source(deep({16: 0.2}, 4), "depo")), Verdict.NOT_REPRODUCED)
    check(judge(source(deep({8: 0.5}, 4), "depo")), Verdict.NOT_RUN, "depth 16")
    check(judge(source(deep({16: 0.5}), "depo")), Verdict.NOT_RUN, "N = 4")
    check(judge(source(deep({16: 0.5}, 4, **DEPO_PAPER), "depo")), Verdict.REPRODUCED)


def test_saturates():
    def judge(one: dict[int, float], four: dict[int, float], **changes) -> Finding:
        rows = deep(one, **changes) + deep(four, 4, **changes)
        return claims_depth.saturates(source(rows, "gsm_infinite"))

    check(judge({2: 0.9, 4: 0.9}, {2: 0.9, 4: 0.9}), Verdict.SAME_DIRECTION)
    check(judge({2: 0.9, 4: 0.6}, {2: 0.9, 4: 0.9}), Verdict.NOT_REPRODUCED)
    check(judge({2: 0.2, 4: 0.2}, {2: 0.2, 4: 0.2}), Verdict.NOT_REPRODUCED)
    check(judge({8: 0.9}, {8: 0.9}), Verdict.NOT_RUN, "depth 2 or 4")
    check(judge({2: 0.9}, {2: 0.9}, parameters=2 * 10**9), Verdict.REPRODUCED)


def test_equal_compute_by_depth():
    def judge(one: float, four: float, flops: float = 8e9) -> Finding:
        rows = deep({1: 0.5}) + deep({1: four}, 4)
        rows += deep({1: one}, match="flops", train_flops=int(flops))
        return claims_depth.same_flops("flops")(source(rows, "depo"))

    check(judge(0.5, 0.9), Verdict.SHOWN)
    check(judge(0.9, 0.5), Verdict.NOT_SHOWN, "worse at depth 1")
    check(judge(0.5, 0.9, 4e9), Verdict.NOT_RUN, "other FLOPs")
    check(claims_depth.same_flops("flops")(source(deep({1: 0.5}), "depo")), Verdict.NOT_RUN)


def test_few_passes_at_equal_compute_by_depth():
    def spent(right: float, passes: int, flops: float = 8e9) -> list[dict]:
        return deep({1: right}, passes, match="flops", train_flops=int(flops))

    def judge(*matched: list[dict]) -> Finding:
        rows = sum(matched, deep({1: 0.5}) + deep({1: 0.9}, 4))
        return claims_depth.few_passes_same_flops(source(rows, "depo"))

    check(judge(spent(0.5, 1), spent(0.9, 2)), Verdict.SHOWN, "N = 2 is better at depth 1")
    check(judge(spent(0.9, 1), spent(0.5, 2)), Verdict.NOT_SHOWN, "N = 2 is worse at depth 1")
    check(judge(spent(0.5, 1), spent(0.9, 2, 4e9)), Verdict.NOT_RUN, "took others")
    check(judge(spent(0.9, 2)), Verdict.NOT_RUN, "an N between")
    rows = deep({1: 0.5}) + deep({1: 0.9}, 4) + spent(0.5, 2)
    check(claims_depth.same_flops("flops")(source(rows, "depo")), Verdict.NOT_RUN)


def measured(tables: dict, experiment: str = COST) -> Source:
    results = {"device": "a machine", "commit": "abc", "preset": "made up", **tables}
    return Source(RUN, "made-up", experiment, Path(), results, [])


def times(seconds: float, spread: float = 0.02, **row) -> dict:
    low, high = seconds * (1 - spread), seconds * (1 + spread)
    return {"seconds": seconds, "lower_quartile": low, "upper_quartile": high, **row}


@pytest.mark.parametrize(
    "seconds, spread, verdict",
    [
        ({1: 1, 2: 2, 4: 4.5}, 0.02, Verdict.SAME_DIRECTION),
        ({1: 1, 2: 2, 4: 4}, 0.3, Verdict.NOT_REPRODUCED),  # quartiles leave the factor
        ({1: 1, 2: 1, 4: 1}, 0.02, Verdict.NOT_REPRODUCED),
        ({1: 1, 2: 4}, 0.02, Verdict.NOT_REPRODUCED),
        ({1: 1}, 0.02, Verdict.NOT_RUN),
        ({2: 1, 4: 2}, 0.02, Verdict.NOT_RUN),
    ],
)
def test_throughput(seconds, spread, verdict):
    rows = [times(s, spread, passes=n, tokens_per_second=100 / s) for n, s in seconds.items()]
    check(claims_cost.throughput(measured({"training": rows})), verdict)
    if spread < 0.3:  # the benchmark has no quartiles
        plain = [{key: row[key] for key in ("passes", "tokens_per_second")} for row in rows]
        check(claims_cost.throughput(measured({"training": plain}, BENCH)), verdict)


def sessions(by: str, evict: list[float], slide: list[float], spread: float = 0.02) -> Source:
    rows = [
        times(s, spread, model=model, state_bytes=64, **{by: 2**i})
        for model, seconds in (("evict", evict), ("slide", slide))
        for i, s in enumerate(seconds)
    ]
    return measured({"table": rows})


def test_flat_latency():
    judge = claims_cost.flat("table")
    check(judge(sessions("passes", [1, 1.1], [1, 1])), Verdict.SHOWN, "medians 1000.00 to 1100.00")
    check(judge(sessions("passes", [1, 1.1], [1, 2])), Verdict.NOT_SHOWN)
    check(judge(sessions("passes", [1, 1.1], [1, 1], spread=0.2)), Verdict.NOT_SHOWN)
    check(judge(sessions("passes", [1], [1, 1])), Verdict.NOT_RUN, "hard eviction")


def contexts(ours: list[float], cache: list[float], state=lambda context: 64) -> Source:
    rows = [
        times(s, model=model, context=2**i, state_bytes=state(i))
        for model, seconds in (("evict", ours), ("slide", ours), ("transformer", cache))
        for i, s in enumerate(seconds)
    ]
    return measured({"awake_by_context": rows})


def test_memory_and_overtaking():
    check(claims_cost.constant_memory(contexts([1, 1], [1, 2])), Verdict.SHOWN, "64 bytes")
    growing = contexts([1, 1], [1, 2], state=lambda i: 64 + i)
    check(claims_cost.constant_memory(growing), Verdict.NOT_SHOWN, "64 or 65")
    check(claims_cost.constant_memory(contexts([1], [1])), Verdict.NOT_RUN)
    found = claims_cost.overtakes(contexts([2, 2, 2], [1, 1, 3]))
    check(found, Verdict.SHOWN, "faster from 4 tokens on, not yet at 2")
    check(claims_cost.overtakes(contexts([2, 2], [1, 1])), Verdict.NOT_SHOWN, "at no measured")
    check(claims_cost.overtakes(contexts([1, 1], [1, 1.01])), Verdict.NOT_SHOWN)
    check(claims_cost.overtakes(contexts([1], [])), Verdict.NOT_RUN, "transformer")


def test_every_claim_without_results_is_not_run_and_says_what_to_run():
    every = claims.PAPER + claims.OURS
    assert len({claim.key for claim in every}) == len(every) > 20
    for claim in every:
        (finding,) = claim.findings([])
        assert finding.verdict is Verdict.NOT_RUN and finding.numbers
        assert re.fullmatch(r"[a-z0-9-]+", claim.key)


def test_a_claim_asks_only_its_experiments_and_each_source_by_itself():
    (claim,) = (one for one in claims.PAPER if one.key == "rule110-passes")
    sources = [source(LOW + HIGH), source(deep({1: 0.9}), "depo"), source(LOW + WIDE)]
    found = [(finding.verdict, finding.source) for finding in claim.findings(sources)]
    assert found == [
        (Verdict.SAME_DIRECTION, sources[0]),
        (Verdict.NOT_REPRODUCED, sources[2]),
    ]


def test_comparisons_name_every_missing_cell_and_hold_every_published_number():
    for sources in ([], [source(LOW + seeds(0.9, 8)), source(deep({1: 0.9}, 4), "depo")]):
        tables = comparison.comparisons(sources)
        for table in tables:
            assert all(len(line) == len(table.header) for line in table.lines)
            assert all(cell for line in table.lines for cell in line)
        text = str(tables)
        every = published.RULE_110 + published.DEPO + published.GSM_INFINITE + published.COST
        assert all(number["value"] in text for number in every)
    two_a = tables[0]
    lines = {line[0]: line[2] for line in two_a.lines}
    assert lines["N = 1"].startswith("0.300 [") and lines["N = 8"].startswith("0.900 [")
    assert lines["N = 2"] == "not run: N = 2" and lines["commit"] == "abc"
    three = {line[0]: line[2] for line in tables[3].lines}
    assert tables[3].key == "fig-3" and tables[0].key == "fig-2a"
    assert three["N = 4, k = 1"].startswith("0.90")
    assert three["N = 4, k = 16"] == "not run: N = 4, k = 16"


def test_only_equal_flops_and_the_same_eviction_stand_beside_the_paper():
    def lines(key: str, sources: list[Source]) -> dict[str, str]:
        (table,) = (one for one in comparison.comparisons(sources) if one.key == key)
        return {line[0]: line[2] for line in table.lines}

    name = "N = 1, equal FLOPs on more tokens"
    for flops, said in ((4e9, "0.500 ["), (2e9, "not run")):
        matched = seeds(0.5, match="flops", train_flops=int(flops), train_tokens=4000)
        found = lines("fig-2-baselines", [source(LOW + HIGH + matched)])
        assert found[name].startswith(said)
    for cache, hard, sliding in (("evict", "0.7", "not"), ("slide", "not", "0.7")):
        runs = [source(deep({6: 0.7}, cache=cache), "gsm_infinite")]
        assert lines("gsm-ouro", runs)["6 operations, N = 1"].startswith(hard)
        assert lines("gsm-ouro-sliding", runs)["6 operations, N = 1"].startswith(sliding)
