"""The report of EXP=recovery on made-up rows, its claims, and its sweep from outside."""

import copy
import json
from pathlib import Path

import pytest

from experiments.report import claims_planes, planes
from experiments.report.sources import Source
from experiments.report.verdicts import Verdict
from tests.from_outside import ends, run

MARKS = [0, 10, 100, 300]
# By plane: captured, captured behind the first updates, recall in the plane.
MADE_UP = {
    "static": (0.01, 0.005, 0.5),
    "local": (0.1, 0.05, 0.6),
    "prefix": (0.8, 0.3, 0.9),
    "random": (0.001, 0.001, 0.3),
}


def recovery(shift, lost_by="fine-tuning", optimizer="adam", made_up=MADE_UP, since=0.1):
    def score(recall):
        return {"exact_accuracy": recall, "loss": 1 - recall}

    overlap = [[0.5 if i == j else since + shift for j in range(4)] for i in range(4)]
    spectrum = {"energy": 0.9, "of_any": 0.2, "stable_rank": 1.1, "participation": 1.2}
    main = (lost_by, optimizer) == ("fine-tuning", "adam")
    return {
        "lost_by": lost_by, "optimizer": optimizer, "before": score(1.0), "lost": score(0.2),
        "found": score(1.0), "displacement": 4.0, "of_first": {"1": 0.5, "10": 2.0 + shift},
        "captured": {n: {"3": 0.0, "10": v[0] + shift} for n, v in made_up.items()},
        "held_out": {n: {"3": 0.0, "10": v[1] + shift} for n, v in made_up.items()},
        "within": {n: {"10": score(v[2] + shift)} for n, v in made_up.items()} if main else {},
        "back": 0.1, "spectrum": {"as they are": spectrum, "less their mean": spectrum},
        "marks": MARKS, "tokens": 1000, "flops": 10**9,
        "parts": {
            name: {
                "dimensions": dimensions, "share": share, "overlap": {"10": overlap},
                "captured": {"static": 0.01, "local": 0.1, "prefix": 0.7},
            }
            for name, dimensions, share in (("all", 2000, 1.0), ("MLPs", 500, 0.4))
        },
    }  # fmt: skip


def row(seed, passes=1, keeps=False, **made_up):
    shift = seed / 1000
    return {
        "cell": f"x{passes}{keeps}-s{seed}", "pairs": 8, "passes": passes, "skills": "chain",
        "model": "transformer_full_cache" if keeps else "hybrid", "regime": "from x",
        "cache": "keep" if keeps else "evict", "seed": seed, "floor": 0.1, "parameters": 7,
        "train_flops": 5, "evaluation_sequences": 100,
        "recoveries": [
            recovery(shift, **made_up), recovery(shift, optimizer="sgd", **made_up),
            recovery(shift, lost_by="noise", **made_up),
        ],
    }  # fmt: skip


def rows(cache=None, **made_up):
    """One pass, two, and the transformer with its cache."""
    found = [row(seed, passes, **made_up) for passes in (1, 2) for seed in range(3)]
    found += [row(seed, keeps=True, **(made_up if cache is None else cache)) for seed in range(3)]
    first = {**row(0), "cell": "first", "regime": "plain", "recoveries": []}
    return [first, *found]


def changed(**by_plane):
    """Made up, but for what is given as plane=(captured, held out, recall)."""
    return {"made_up": {**MADE_UP, **by_plane}}


CACHE = changed(prefix=(0.9, 0.3, 0.9))


def source(found):
    results = {"rows": found, "device": "a CPU"}
    return Source("made up", "made up", "recovery", Path(), results, planes.summarise(found))


def test_groups_lines_and_words():
    summary = planes.summarise(rows(CACHE))
    assert [(g["model"], g["lost_by"], g["optimizer"]) for g in summary[::3]] == [
        (model, "fine-tuning", "adam") for model in ("N = 1", "N = 2", "transformer, full cache")
    ]
    one = summary[0]
    prefix, local = (planes.plane(one, name) for name in ("prefix", "local"))
    assert prefix and prefix["captured"]["mean"] == pytest.approx(0.801)
    assert prefix["held_out"]["mean"] == pytest.approx(0.301)
    assert local and local["share"] and local["share"]["mean"] == pytest.approx((0.601 - 0.2) / 0.8)
    assert one["left"] == [0.2] * 3
    assert one["first_captured"] == pytest.approx([0.8, 0.801, 0.802])
    assert one["of_first"]["mean"] == pytest.approx(2.001 / 4)
    whole = one["parts"][0]
    assert whole["drift"] and whole["drift"]["mean"] == pytest.approx(0.101 - 0.5)
    assert [round(at["mean"], 3) for at in whole["since"]] == [0.5, 0.101, 0.101, 0.101]
    found = planes.lines(summary)
    assert len(found) == 12 and all(len(line) == len(planes.HEADER) for line in found)
    assert found[2][:6] == [
        "N = 1", "first updates", "10", "3", "0.801 [0.799, 0.803]", "0.301 [0.299, 0.303]",
    ]  # fmt: skip
    tables = planes.also(summary)
    assert [len(lines) for _, _, lines in tables] == [9, 9, 6]
    for _, header, lines in tables:
        assert {len(line) for line in lines} == {len(header)}
    assert tables[2][2][0][-6:] == ["0.50", "0.50", "0.10", "-", "0.10", "0.005"]
    said = planes.conclude(summary)
    assert "N = 2, 8 pairs: fine-tuning brings recall from 1.000" in said
    assert "first updates capture 0.901 [0.899, 0.903]" in said


def test_one_seed_has_no_interval_and_a_short_recovery_no_drift():
    found = copy.deepcopy(row(0))
    for recovered in found["recoveries"]:
        recovered["marks"] = [0, 10, 31, 32]
    (one, *_) = planes.summarise([found])
    assert planes.lines([one])[2][4] == "0.800" and one["parts"][0]["drift"] is None
    assert planes.also([one])[2][2][0][8] == "-"
    found["recoveries"][0]["found"] = found["recoveries"][0]["lost"]  # nothing was found again
    (one, *_) = planes.summarise([found])
    assert planes.lines([one])[2][7] == "-"
    three = rows()[1:4]
    for recovered in three[1]["recoveries"]:
        recovered["found"] = recovered["lost"]
    (one, *_) = planes.summarise(three)
    assert planes.lines([one])[2][7] == "-" and planes.lines([one])[2][6] != "-"
    assert planes.quote_share({"mean": 0.9, "half": 0.95}) == "0.900 [0.000, 1.000]"
    assert planes.quote_mean({"mean": 0.9, "half": 0.95}) == "0.900 [-0.050, 1.850]"
    assert planes.quote_mean({"mean": 0.5, "half": 0.0}) == "0.500 [0.500, 0.500]"


def test_a_seed_that_never_learned_is_left_out_and_named():
    found = rows()
    never = next(one for one in found if one["passes"] == 2 and one["seed"] == 1)
    for recovered in never["recoveries"]:
        recovered["before"] = {"exact_accuracy": 0.89, "loss": 2.3}
    summary = planes.summarise(found)
    two = next(group for group in summary if group["passes"] == 2)
    assert (two["seeds"], two["left_out"]) == ([0, 2], [1])
    assert planes.lines(summary)[4][3] == "2 of 3" and planes.lines(summary)[0][3] == "3"
    assert "N = 2: seed 1 is left out, which never recalled 0.9" in planes.conclude(summary)
    (alone, *_) = planes.summarise([never])  # where nobody learned all are told
    assert (alone["seeds"], alone["left_out"]) == ([1], [])
    assert "N = 2 never recalled 0.9, so it had little to lose" in planes.conclude([alone])
    assert "never recalled" not in planes.conclude(planes.summarise(rows()))


@pytest.mark.parametrize(
    "judge, holds, fails",
    [
        (claims_planes.few_directions, {}, changed(prefix=(0.49, 0.3, 0.9))),
        (claims_planes.few_directions, {}, changed(local=(0.7995, 0.05, 0.6))),
        (claims_planes.beyond_the_prefix, {}, changed(local=(0.1, 0.2995, 0.6))),
        (claims_planes.static_misses, {}, changed(static=(0.01, 0.005, 0.8995))),
        (claims_planes.static_above_lots, {}, changed(random=(0.001, 0.001, 0.4995))),
        (claims_planes.drifts, {}, {"since": 0.5}),
        (claims_planes.worth_more, {}, changed(local=(0.3, 0.05, 0.6))),
    ],
)
def test_claims_hold_of_every_model_or_not(judge, holds, fails):
    assert judge(source(rows(**holds))).verdict is Verdict.SHOWN
    one_fails = judge(source(rows(cache=fails)))
    assert one_fails.verdict is Verdict.NOT_SHOWN
    assert one_fails.scale == "8 pairs, 7 to 7 parameters, 3 seeds"
    assert "N = 1: " in one_fails.numbers and "transformer, full cache: " in one_fails.numbers
    two_seeds = [one for one in rows(**holds) if one["seed"] < 2]
    assert judge(source(two_seeds)).verdict is Verdict.NOT_RUN


def test_fast_weights_take_more_directions_than_a_cache():
    judge = claims_planes.more_than_a_cache
    assert judge(source(rows(CACHE))).verdict is Verdict.SHOWN
    alike = judge(source(rows(changed(prefix=(0.8025, 0.3, 0.9)))))
    assert alike.verdict is Verdict.NOT_SHOWN and "cache kept 0.803" in alike.numbers
    one = [found for found in rows(CACHE) if found["cache"] == "evict"]
    assert judge(source(one)).verdict is Verdict.NOT_RUN


def test_smoke_loses_and_learns_again(tmp_path):
    flags = ("--preset=smoke", "--jobs=1", "--passes=1", "--baselines=", "--recovery_steps=31")
    result = run("experiments", "recovery", *flags, f"--workdir={tmp_path}")
    assert result.returncode == 0, result.stderr
    directory = tmp_path / "recovery" / "smoke"
    results = json.loads((directory / "results.json").read_text())
    assert results["missing"] == [] and len(results["rows"]) == 2
    first, tuned = sorted(results["rows"], key=lambda row: len(row["recoveries"]))
    assert first["recoveries"] == [] and tuned["skills"] == "chain"
    assert [at["lost_by"] for at in tuned["recoveries"]] == ["fine-tuning", "fine-tuning", "noise"]
    adam = tuned["recoveries"][0]
    assert adam["within"]["back"].keys() == {"1"} and len(adam["within"]) == 8
    assert adam["captured"]["prefix"]["30"] > 0.99  # 30 updates of 31
    assert adam["captured"]["random"]["30"] < 0.05
    for figure in ("planes.png", "by_loss.png"):
        assert (directory / figure).read_bytes().startswith(b"\x89PNG")
    assert "What was lost and found" in (directory / "table.md").read_text()
    again = run("experiments", "recovery", *flags, f"--workdir={tmp_path}")
    assert again.returncode == 0 and "reading" not in again.stdout
    (path,) = directory.glob("cells/*chain3*/readings.json")
    path.write_text(path.read_text().replace('"steps": 31', '"steps": 32'))
    longer = run("experiments", "recovery", *flags, f"--workdir={tmp_path}")
    assert longer.returncode == 0 and longer.stdout.count("reading hybrid") == 1


@pytest.mark.parametrize(
    "flag, allowed",
    [
        ("--recovery_steps=30", "--recovery_steps=30"),
        ("--fine_tuning_rate=0", "allowed: more than 0"),
        ("--set=train.warm_start=runs/x", "train.warm_start"),
        ("--pairs=6", "a multiple of 4"),
    ],
)
def test_impossible_flags_end_in_one_line(tmp_path, flag, allowed):
    result = ends("experiments", "recovery", "--preset=smoke", flag, f"--workdir={tmp_path}")
    assert result.returncode == 2 and not list(tmp_path.iterdir())
    (line,) = result.stderr.strip().splitlines()
    assert allowed in line
