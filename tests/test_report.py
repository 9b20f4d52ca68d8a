"""The report layer, on a sweep directory whose numbers are made up (tests/fixtures/sweep)."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.report import build, tables
from experiments.report.conclusion import conclude
from experiments.report.files import ReportError
from experiments.report.groups import headline
from experiments.report.rule110 import summarise
from experiments.report.summary import load_rows, student_t_interval, wilson_interval

FIXTURES = Path(__file__).parent / "fixtures"
SWEEP = FIXTURES / "sweep"
PLAN = json.loads((SWEEP / "plan.json").read_text())
MISSING = "hybrid-N2-t4-W12-s2"


def fixture_results(sweep: Path = SWEEP) -> dict:
    return build.build_results(sweep, PLAN)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """A copy of the fixture that a test may change."""
    return Path(shutil.copytree(SWEEP, tmp_path / "sweep"))


def edit(sweep: Path, cell: str, **changes: object) -> None:
    path = sweep / "cells" / cell / "row.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rows_with(change) -> list[dict]:
    """Fixture rows after `change(row)`; a row for which it returns False is dropped."""
    return [row for row in load_rows(SWEEP) if change(row) is not False]


def test_tables_are_exactly_the_committed_ones():
    results = fixture_results()
    assert tables.markdown(results) == (FIXTURES / "expected_table.md").read_text()
    assert tables.latex(results) == (FIXTURES / "expected_table.tex").read_text()


def test_labels_by_string_stand_in_a_table_of_their_own(sweep):
    def scores(value: float) -> dict:
        return {"label_accuracy_by_position": {"1": 1.0, "2": value}}

    for seed, value in enumerate((0.5, 0.6, 0.7)):
        edit(sweep, f"hybrid-N4-t2-W12-s{seed}", **scores(value))
    edit(sweep, "hybrid-N2-t2-W12-s0", **scores(0.5))  # two seeds of this N have none
    lines = tables.markdown(fixture_results(sweep)).splitlines()
    (title,) = (i for i, line in enumerate(lines) if line.startswith("Labels right by string"))
    shown = lines[title + 2 : title + 5]
    assert shown[0] == "| model | N | t | trained on | string 1 | string 2 |"
    line = "| hybrid, gated delta | 4 | 2 | equal tokens | 1.000 [1.000, 1.000] | "
    assert shown[2] == line + "0.600 [0.352, 0.848] |"
    assert lines[title + 5] == ""
    assert "1.000 [1.000, 1.000] & 0.600 [0.352, 0.848]" in tables.latex(fixture_results(sweep))
    edit(sweep, "hybrid-N4-t2-W12-s0", label_accuracy_by_position={"1": "all"})
    place = f"{sweep}: row hybrid-N4-t2-W12-s0: label_accuracy_by_position"
    with pytest.raises(ReportError, match=f"^{re.escape(place)}: 1 is 'all'"):
        fixture_results(sweep)


def test_results_say_how_every_run_was_configured(sweep):
    cells = [path.parent for path in sorted(sweep.glob("cells/*/row.json"))]
    for i, cell in enumerate(cells):
        config = {"model": {"d_model": 64, "attention": {"heads": 2}}, "train": {"seed": i % 3}}
        config |= {"extra": 1} if i == 0 else {}
        (cell / "config.json").write_text(json.dumps(config))
    results = fixture_results(sweep)
    assert results["config"] == {"model.d_model": 64, "model.attention.heads": 2}
    assert results["rows"][0]["config"] == {"train.seed": 0, "extra": 1}
    assert results["rows"][4]["config"] == {"train.seed": 1}
    (cells[2] / "config.json").unlink()  # not recorded: then nothing is said to be shared
    results = fixture_results(sweep)
    assert results["config"] == {} and results["rows"][2]["config"] == {}
    assert results["rows"][4]["config"]["model.d_model"] == 64
    assert results["summary"] == fixture_results()["summary"]


def test_table_order_is_by_depth_then_tokens_then_compute_then_baselines():
    results = fixture_results()
    for group in results["summary"]:
        group["train_tokens"] = 1  # else the longer training alone would order the matched run
    cells = [line.split(" | ") for line in tables.markdown(results).splitlines()[4:10]]
    assert [cell[1] for cell in cells] == ["1", "2", "4", "1", "1", "1"]
    trained_on = [cell[4] for cell in cells]
    assert (
        trained_on == ["equal tokens"] * 3 + ["equal compute, more tokens"] + ["equal tokens"] * 2
    )


def test_with_equal_compute_fewer_passes_come_first():
    rows = load_rows(SWEEP)
    rows += [
        {**row, "passes": 2, "train_tokens": 1_200_000} for row in rows if row["match"] == "flops"
    ]
    results = fixture_results() | {"summary": summarise(rows)}
    cells = [line.split(" | ") for line in tables.markdown(results).splitlines()[4:9]]
    assert [cell[1] for cell in cells] == ["1", "2", "4", "1", "2"]


def test_latex_escapes_what_latex_reads():
    results = fixture_results() | {"commit": r"a_b%c&d#e$f{g}h~i^j<k>l|m\n"}
    expected = (
        r"a\_b\%c\&d\#e\$f\{g\}h\textasciitilde{}i\textasciicircum{}j\textless{}k\textgreater{}l"
        r"\textbar{}m\textbackslash{}n"
    )
    assert expected in tables.latex(results)


def test_student_t_interval_by_hand():
    # mean 0.5, s = 0.1, t(0.975, 2) = 4.302653: half width 4.302653 * 0.1 / sqrt(3) = 0.248414
    assert student_t_interval([0.4, 0.5, 0.6]) == pytest.approx([0.251586, 0.748414], abs=1e-6)
    # t(0.975, 1) = 12.7062: the interval of two seeds leaves [0, 1] and is clipped
    assert student_t_interval([0.3, 0.7]) == [0.0, 1.0]


@pytest.mark.parametrize(
    "successes, trials, low, high",  # Newcombe 1998, table I, method 3
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_of_the_literature(successes, trials, low, high):
    found = wilson_interval(successes / trials, trials)
    assert found == pytest.approx([low, high], abs=5e-5)


def test_groups_are_over_seeds_and_say_what_their_interval_is_over():
    summary = summarise(load_rows(SWEEP))
    found = {(g["model"], g["passes"], g["rollout_steps"], g["match"]): g for g in summary}
    seeds = found["hybrid", 4, 4, "tokens"]
    assert seeds["seeds"] == [0, 1, 2] and seeds["values"] == [0.41, 0.38, 0.43]
    assert seeds["exact_accuracy"]["mean"] == pytest.approx(0.40666667)
    assert seeds["exact_accuracy"]["ci95_over"] == "seeds"
    single = found["transformer_evicted", 1, 4, "tokens"]["exact_accuracy"]
    assert (single["n"], single["ci95_over"]) == (1, "evaluation sequences")
    assert single["ci95"] == wilson_interval(0.083, 1024)
    assert found["hybrid", 2, 4, "tokens"]["exact_accuracy"]["n"] == 2


def test_headline_is_the_depth_with_most_seeds_then_most_passes_then_deepest():
    def depth(keep) -> int:
        found = headline(summarise(rows_with(keep)))
        assert found is not None
        return found.rollout_steps

    assert depth(lambda row: True) == 4
    assert depth(lambda row: row["rollout_steps"] == 2 or row["seed"] < 2) == 2
    assert depth(lambda row: row["rollout_steps"] == 2 or row["passes"] != 2) == 2


@pytest.mark.parametrize("value", [float("nan"), None, 1.5])
def test_a_failed_score_names_its_cell(sweep, value):
    edit(sweep, "hybrid-N4-t2-W12-s1", exact_accuracy=value)
    with pytest.raises(ValueError, match="hybrid-N4-t2-W12-s1: exact_accuracy"):
        fixture_results(sweep)


def test_a_failed_score_inside_the_curve_names_its_cell():
    rows = load_rows(SWEEP)
    rows[3]["curve"][2]["exact_accuracy"] = float("nan")
    with pytest.raises(ValueError, match=rows[3]["cell"]):
        summarise(rows)


@pytest.mark.parametrize(
    "changes, said", [({"seed": 0}, "one setting and seed"), ({"parameters": 7}, "in parameters")]
)
def test_cells_that_are_not_seeds_of_one_setting_are_not_pooled(sweep, changes, said):
    edit(sweep, "hybrid-N4-t2-W12-s1", **changes)
    with pytest.raises(ValueError, match=f"N4-t2-W12-s0 and hybrid-N4-t2-W12-s1 .*{said}"):
        fixture_results(sweep)


def test_a_missing_cell_is_named(sweep):
    results = fixture_results()
    assert results["missing"] == [MISSING]
    assert f"Missing, planned but not finished (1): `{MISSING}`" in tables.markdown(results)
    shutil.rmtree(sweep / "cells")
    assert fixture_results(sweep)["missing"] == PLAN["cells"]


def test_mixed_commits_devices_and_versions_are_all_reported(sweep):
    device = {"platform": "gpu", "kind": "H100", "count": 2, "host": "other"}
    versions = {"python": "3.12.1", "jax": "0.10.2"}
    edit(sweep, "hybrid-N4-t2-W12-s1", commit="abc", device=device, versions=versions)
    results = fixture_results(sweep)
    assert results["commit"] == "abc, f1c7u4e"
    assert results["device"] == (
        "1 x cpu (cpu) on Fixture & Co_processor, 2 cores; 2 x gpu (H100) on other"
    )
    assert results["versions"] == {
        "jax": "0.10.2",
        "numpy": "2.4.6, not recorded",
        "python": "3.11.7, 3.12.1",
    }
    assert "Commit abc, f1c7u4e; device" in tables.markdown(results)


def conclusion_when(change) -> str:
    """The conclusion over the changed fixture, after checking that it is two sentences."""
    text = conclude(summarise(rows_with(change)))
    assert len(re.findall(r"\.(?=\s|$)", text)) == 2 and text.endswith("."), text
    return text


def set_largest(value: float):
    def change(row: dict) -> None:
        if row["passes"] == 4:
            row["exact_accuracy"] = value + 0.01 * row["seed"]

    return change


@pytest.mark.parametrize(
    "largest, said, unsaid",
    [
        (0.10, ["hurt", "of -0.093", "N = 4 is worse", "take N = 1 further (0.333)"], "helped"),
        (0.20, ["of +0.007", "no difference is established", "N = 4 is worse"], "hurt"),
        (0.40, ["of +0.207", "passes helped", "N = 1 reaches 0.333 with the same"], "is better"),
        (0.60, ["passes helped", "N = 4 is better"], "saves training compute"),
    ],
)
def test_conclusion_follows_the_numbers_whichever_way_they_point(largest, said, unsaid):
    text = conclusion_when(set_largest(largest))
    assert all(words in text for words in said), text
    assert unsaid not in text


def test_conclusion_names_what_is_not_clear_of_the_floor():
    assert "learned anything" not in conclusion_when(lambda row: None)
    assert "that N = 4 learned anything" in conclusion_when(set_largest(0.08))

    def sink(row: dict) -> None:
        row["exact_accuracy"] = 0.01 * row["passes"] + 0.0001 * row["seed"]

    text = conclusion_when(sink)  # all intervals apart, and all below the floor
    assert "that N = 1, N = 4 or N = 1 at equal compute (more tokens) learned anything" in text
    assert text.count("neither is clear of the constant answer") == 2 and "helped" not in text


def test_conclusion_holds_the_passes_against_the_best_way_to_spend_as_much():
    rows = load_rows(FIXTURES / "sweep")
    deeper = [
        {**row, "match": "flops_blocks", "train_tokens": 600_000, "exact_accuracy": 0.9}
        for row in rows
        if row["match"] == "flops"
    ]
    text = conclude(summarise(rows + deeper))
    assert "spent on more tokens (2.30M tokens" in text
    assert "spent on more blocks (0.60M tokens, 0.10M parameters), reaches 0.900" in text
    assert "N = 4 is worse" in text and "further (0.900) when spent on more blocks" in text


@pytest.mark.parametrize(
    "right, flops, said",
    [
        (0.6, 1, "+0.277 from N = 1 so spent: the intervals do not overlap and N = 2 is better"),
        (0.3, 1, "-0.023 from N = 1 so spent: the intervals overlap and no difference is estab"),
        (0.1, 1, "-0.223 from N = 1 so spent: the intervals do not overlap and N = 2 is worse"),
        (0.6, 2, "+0.277 from N = 1 so spent: these are not equal compute, and no verdict"),
    ],
)
def test_conclusion_holds_an_n_between_against_one_pass_that_spent_the_same(right, flops, said):
    rows = load_rows(SWEEP)
    between = [
        {
            **row,
            "passes": 2,
            "train_tokens": 1_200_000,
            "train_flops": row["train_flops"] * flops,
            "exact_accuracy": right + 0.01 * row["seed"],
        }
        for row in rows
        if row["match"] == "flops"
    ]
    text = conclude(summarise(rows + between))
    assert "N = 2 that spends them on more tokens reaches" in text and said in text
    # It is no N = 1, so nothing else that is said of that changes.
    without = conclude(summarise(rows))
    text = text.replace(text[text.index("; N = 2") : text.index(". It may")], "")
    gain = "nor that the gain of N = 2 at equal compute (more tokens) is more than one pass reaches"
    assert (gain in text) == ("N = 2 is better" in said)
    assert without == text.replace(f"{gain} if tuned for that budget; ", "")


def test_conclusion_draws_no_verdict_from_unequal_compute():
    def change(row: dict) -> None:
        if row["match"] == "flops":
            row["train_flops"] //= 2

    assert "given 0.50 times" in (text := conclusion_when(change))
    assert "these are not equal compute" in text


@pytest.mark.parametrize(
    "keep, said",
    [
        (lambda row: row["match"] == "tokens", "N = 1 with the training FLOPs of N = 4 is missing"),
        (lambda row: row["passes"] > 1 or row["match"] == "flops", "N = 1 is missing at equal tok"),
        (lambda row: row["passes"] == 1, "no run with N > 1 has finished"),
        (lambda row: row["seed"] == 0, "that another seed would agree"),
        (lambda row: row["model"] != "hybrid", "nothing can be concluded about sleep"),
        (lambda row: False, "nothing can be concluded about sleep"),
    ],
)
def test_conclusion_over_an_unfinished_sweep(keep, said):
    assert said in conclusion_when(keep)


def test_write_report_writes_everything_and_leaves_nothing_else(sweep):
    before = set(sweep.iterdir())
    written = build.write_report(sweep, PLAN)
    names = ["results.json", "table.md", "table.tex"]
    pictures = ["accuracy_against_tokens.png", "accuracy_against_depth.png", "rule110.png"]
    assert written == [sweep / name for name in names + pictures]
    assert set(sweep.iterdir()) - before == set(written)
    for name in pictures:
        assert (sweep / name).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    results = json.loads((sweep / "results.json").read_text())
    assert results == fixture_results()
    assert set(results) == {
        *("experiment", "preset", "commit", "device", "versions", "wall_seconds", "rows"),
        *("summary", "published", "missing", "conclusion", "diagram", "fixture", "config"),
    }


def test_module_rebuilds_from_the_directory_alone(sweep):
    command = [sys.executable, "-m", "experiments.report.build", str(sweep)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=FIXTURES.parent.parent)
    assert done.returncode == 0, done.stderr
    assert (sweep / "table.md").read_text() == (FIXTURES / "expected_table.md").read_text()
    assert done.stdout.splitlines()[-1] == str(sweep / "rule110.png")


def test_main_refuses_in_one_line(sweep, capsys):
    (sweep / "plan.json").unlink()
    for path, said in ((sweep, "has no plan.json"), (sweep / "absent", "is not a directory")):
        assert build.main(["build", str(path)]) == 2
        assert capsys.readouterr().err == f"report: {path} {said}\n"


def test_a_refused_report_leaves_the_old_one(sweep):
    (sweep / "results.json").write_text("old")
    edit(sweep, "hybrid-N4-t2-W12-s1", exact_accuracy=float("nan"))
    assert build.main(["build", str(sweep)]) == 2
    assert (sweep / "results.json").read_text() == "old"
