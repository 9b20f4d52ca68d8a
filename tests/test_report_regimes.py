"""Reports of elastic sleep and of curricula, on made-up rows."""

import copy

import pytest

from experiments.report import elastic, regimes, rule110
from experiments.report.files import ReportError

DRAWN = "N drawn from 1, 4"


def row(passes, seed, accuracy, regime="plain", match="tokens", **change):
    return {
        "cell": f"N{passes}-{regime}-{match}-s{seed}",
        "model": "hybrid",
        "update_rule": "gated_delta",
        "passes": passes,
        "rollout_steps": 4,
        "width": 12,
        "seed": seed,
        "match": match,
        "regime": regime,
        "train_tokens": 1000 * (4 if match == "flops" else 1),
        "train_flops": 10_000 if match == "flops" else 2500 * passes,
        "parameters": 100,
        "exact_accuracy": accuracy,
        "label_accuracy": accuracy,
        "floor": 0.1,
        "label_floor": 0.5,
        "loss": 0.3,
        "evaluation_sequences": 1024,
        "wall_seconds": 10.0,
        "temporary_bytes": passes * 2**20,
        "accuracy_by_passes": {"1": accuracy / 2, "4": accuracy, "16": accuracy / 4},
        "halting": [
            {
                "threshold": 0.2,
                "most_passes": 16,
                "exact_accuracy": accuracy - 0.01,
                "mean_passes": 2 + seed,
            }
        ],
        "curve": [],
        **change,
    }


ELASTIC = [
    *(row(1, seed, 0.2 + seed / 100) for seed in range(3)),
    *(row(4, seed, 0.9 + seed / 100) for seed in range(3)),
    *(row(4, seed, 0.5 + seed / 100, DRAWN, train_flops=6250) for seed in range(3)),
]


def test_elastic_groups_and_lines():
    summary = elastic.summarise(ELASTIC)
    drawn = next(group for group in summary if group["regime"] == DRAWN)
    assert drawn["by_passes"]["16"]["mean"] == pytest.approx(0.51 / 4)
    assert drawn["halting"][0]["mean_passes"] == 3
    header, lines = elastic.header(summary), elastic.lines(summary)
    assert [line[0] for line in lines] == ["N = 1", "N = 4", DRAWN]
    assert all(len(line) == len(header) for line in lines)
    by_name = dict(zip(header, lines[2], strict=True))
    assert by_name["halt below 0.2"] == "0.500 in 3.0 passes"
    assert by_name["step's memory MiB"] == "4" and by_name["FLOPs"] == "6.25e03"
    assert by_name["read at N = 4"].startswith("0.510 [")


@pytest.mark.parametrize("shift, verdict", [(0.0, "worse"), (0.4, "not shown"), (0.48, "better")])
def test_the_verdict_on_elastic_sleep_follows_the_intervals(shift, verdict):
    rows = copy.deepcopy(ELASTIC)
    for one in rows:
        if one["regime"] == DRAWN:
            one["exact_accuracy"] += shift
    text = elastic.conclude(elastic.summarise(rows))
    assert f"{verdict}" in text.split("Read with")[0] and "0.62 of its FLOPs" in text
    assert text.count("not shown to differ") == (verdict == "not shown")
    assert "N = 4 is best at N = 4 (0.910) and has 0.228 at N = 16" in text


def test_elastic_without_a_run_to_compare_says_so():
    assert "missing" in elastic.conclude(elastic.summarise(ELASTIC[:6]))


def test_an_accuracy_that_is_none_stops_the_report():
    with pytest.raises(ReportError, match="N4-plain-tokens-s0: accuracy at N = 16"):
        elastic.summarise([row(4, 0, 0.9, accuracy_by_passes={"16": float("nan")})])


def curricula(with_curriculum):
    first = "t = 1, 2, 3 first"
    rows = []
    for seed in range(3):
        noise = seed / 100
        rows += [
            row(1, seed, 0.1 + noise),
            row(4, seed, 0.3 + noise),
            row(1, seed, 0.12 + noise, match="flops"),
            row(1, seed, 0.11 + noise, first),
            row(4, seed, with_curriculum + noise, first),
            row(1, seed, 0.9 + noise, first, "flops"),
        ]
    return regimes.conclude(rule110.summarise(rows))


def test_the_verdict_on_a_curriculum_compares_like_with_like():
    text = curricula(0.6)
    assert (
        "N = 4 with t = 1, 2, 3 first 0.610 [0.585, 0.635], without 0.310 [0.285, 0.335]: better"
    ) in text
    assert "N = 1 with t = 1, 2, 3 first 0.120" in text and "neither is clear of the floor" in text
    assert "N = 4 0.610 [0.585, 0.635], N = 1, more tokens 0.910 [0.885, 0.935]: worse" in text
    assert "0.300 [" not in text
    assert "without 0.310 [0.285, 0.335]: worse" in curricula(0.2)
    assert "without 0.310 [0.285, 0.335]: not shown to differ" in curricula(0.3)


def test_a_curriculum_alone_says_what_is_missing():
    assert "missing" in regimes.conclude([])
