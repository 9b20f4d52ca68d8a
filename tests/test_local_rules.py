"""The comparison of local rules: its smoke presets and bad input from outside, and its report."""

import json
import re

import pytest

from experiments.report import depths, kinds, rule110, rules
from sleep_jax.model.config import UPDATE_RULES
from tests.from_outside import ends, run
from tests.test_report_depths import row as depo_row

FLOOR = 0.1


def arguments(experiment, workdir, *flags):
    return ["experiments", experiment, "--preset=smoke", f"--workdir={workdir}", *flags]


def test_the_smoke_preset_compares_the_rules_that_are_named(tmp_path):
    flags = ("--update_rules=jet,hebbian", "--passes=2", "--jobs=1")
    result = run(*arguments("local_rules", tmp_path, *flags))
    assert result.returncode == 0, result.stderr
    directory = tmp_path / "local_rules" / "smoke"
    results = json.loads((directory / "results.json").read_text())
    assert results["missing"] == []
    found = [(row["update_rule"], row["passes"], row["match"]) for row in results["rows"]]
    assert sorted(found) == [("hebbian", 2, "tokens"), ("jet", 2, "tokens")]
    assert len({row["train_tokens"] for row in results["rows"]}) == 1
    assert (directory / "rules.png").read_bytes().startswith(b"\x89PNG")
    table = (directory / "table.md").read_text()
    assert table in result.stdout
    scores, by_string = table.split("For comparison")[0].split("Labels right by string")
    for part in (scores, by_string):
        lines = [x.split(" | ")[:2] for x in part.splitlines() if x.startswith("| hybrid")]
        assert lines == [["| hybrid, hebbian", "2"], ["| hybrid, jet", "2"]]


def test_every_rule_is_planned_and_no_transformer(tmp_path):
    result = ends(*arguments("local_rules", tmp_path, "--seeds=0,1", "--dry_run"))
    cells = [line.split()[0] for line in result.stdout.splitlines() if line.startswith("hybrid")]
    rules = ["" if r == "gated_delta" else f"-{r}".replace("_", "-") for r in UPDATE_RULES]
    assert cells == [f"hybrid{rule}-N1-t1-W7-s{seed}" for rule in rules for seed in (0, 1)]
    assert f"{len(cells)} runs" in result.stdout


def test_the_smoke_preset_on_depo(tmp_path):
    flags = ("--update_rules=kda", "--seeds=1,2", "--jobs=1")
    result = run(*arguments("local_rules_depo", tmp_path, *flags))
    assert result.returncode == 0, result.stderr
    directory = tmp_path / "local_rules_depo" / "smoke"
    rows = json.loads((directory / "results.json").read_text())["rows"]
    assert [row["cell"].partition("-n")[0] for row in rows] == ["hybrid-kda-N1"] * 2
    assert (directory / "rules.png").read_bytes().startswith(b"\x89PNG")


BAD = [
    (
        "--set=model.pattern=attention,prime_mlp",
        "model.pattern='attention,prime_mlp' is not possible; allowed: one with gated_delta_net",
    ),
    ("--update_rules=oja", "--update_rules=oja is unknown; allowed: hebbian, delta, gated_delta,"),
    ("--update_rules=", "--update_rules= is empty; allowed: at least one of hebbian, delta,"),
    ("--update_rules=kda,kda", "--update_rules=kda,kda names a value twice; allowed: each once"),
    (
        "--set=model.gated_delta_net.update_rule=kda",
        "is set by the sweep; allowed: --update_rules=",
    ),
    ("--max_hops=2", "Unknown command line flag 'max_hops'"),
]


@pytest.mark.parametrize("flag, message", BAD, ids=[flag for flag, _ in BAD])
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, flag, message):
    result = ends(*arguments("local_rules", tmp_path, flag))
    assert result.returncode == 2
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: ") and message in line
    assert not list(tmp_path.rglob("*.json"))


def row(rule, passes, right, seed=0, steps=2, **changes):
    """A row of Rule 110 with made-up numbers."""
    found = {
        "cell": f"{rule}-{passes}-{seed}-{steps}",
        "model": "hybrid",
        "update_rule": rule,
        "passes": passes,
        "rollout_steps": steps,
        "width": 12,
        "match": "tokens",
        "regime": "plain",
        "seed": seed,
        "train_tokens": 750_000,
        "train_flops": 10**12 * passes + 10**10 * UPDATE_RULES.index(rule),
        "parameters": 1234,
        "loss": 0.5,
        "exact_accuracy": right,
        "label_accuracy": 0.9,
        "floor": FLOOR,
        "label_floor": 0.5,
        "evaluation_sequences": 1024,
        "wall_seconds": 3.0,
        "curve": [],
    }
    return found | changes


def seeds(rule, passes, right):
    return [row(rule, passes, right + 0.002 * seed, seed) for seed in (0, 1)]


ROWS = [
    *seeds("delta", 1, 0.50),
    *seeds("delta", 4, 0.50),
    *seeds("hebbian", 1, 0.05),
    *seeds("hebbian", 4, 0.05),
    *seeds("kda", 1, 0.90),
    *seeds("kda", 4, 0.80),
    *seeds("gated_delta", 1, 0.20),
    *seeds("gated_delta", 4, 0.95),
]


def conclusion(rows):
    text = kinds.LOCAL_RULES.conclude(rule110.summarise(rows))
    assert len(re.findall(r"\.(?=\s|$)", text)) == 2 and text.endswith("."), text
    return text


def test_the_conclusion_follows_the_numbers():
    text = conclusion(ROWS)
    for words in (
        "At t = 2, W = 12 and 0.75M training tokens, the exact accuracy with N = 4 is 0.951 [",
        "] for gated delta, 0.801 [",
        "floor is 0.100: with intervals apart, gated delta lies above kda, delta and hebbian; kda "
        "lies above delta and hebbian; delta lies above hebbian; ",
        "N = 4 is above N = 1 for gated delta",
        "N = 4 is below N = 1 for kda",
        "N = 4 is not shown to differ from N = 1 for delta",
        "neither N is clear of the floor for hebbian",
        "(n = 2 seeds) are equal",
        "that hebbian with N = 4 and hebbian with N = 1 learned anything",
        "1.01 times",
    ):
        assert words in text, (words, text)


def test_lines_are_in_order_of_n_and_then_of_rules():
    lines = kinds.LOCAL_RULES.lines(rule110.summarise(ROWS[::-1]))
    rules_in_order = ("hebbian", "delta", "gated delta", "kda")
    assert [line[:2] for line in lines] == [
        [f"hybrid, {rule}", n] for n in "14" for rule in rules_in_order
    ]


def test_the_conclusion_says_when_nothing_is_shown():
    overlapping = [row(rule, 4, 0.5 + 0.3 * seed, seed) for rule in ("delta", "kda")
                   for seed in (0, 1)]  # fmt: skip
    text = conclusion(overlapping)
    assert "no two rules have intervals apart" in text and "only one N has finished" in text
    assert "nothing can be concluded about the rules" in conclusion([])
    text = conclusion([row("kda", 1, 0.5), row("kda", 4, 0.5), row("delta", 4, 0.9)])
    assert "N = 1 is missing for delta" in text and "of the answers of one seed" in text


def test_equal_compute_stands_beside_equal_tokens(monkeypatch, tmp_path):
    spent = [
        row(rule, 1, right + 0.002 * seed, seed, match="flops", train_tokens=3_000_000,
            train_flops=4 * 10**12, cell=f"{rule}-flops-{seed}")
        for rule, right in (("gated_delta", 0.95), ("kda", 0.9), ("delta", 0.3))
        for seed in (0, 1)
    ]  # fmt: skip
    text = conclusion([*ROWS, *spent])
    assert (
        "N = 4 is not shown to differ from N = 1 with the same FLOPs for gated delta, N = 4 is "
        "below N = 1 with the same FLOPs for kda, N = 4 is above N = 1 with the same FLOPs for "
        "delta, N = 1 with the same FLOPs is missing for hebbian. It may not"
    ) in text
    kept = conclusion(ROWS).partition(". It may")[0]
    assert text.startswith(kept)
    between = [
        {**row, "passes": 2, "exact_accuracy": 0.01, "cell": f"N2-{row['cell']}"} for row in spent
    ]
    assert conclusion([*ROWS, *spent, *between]) == text  # of the rules N = 1 alone is shown
    assert "No run on equal tokens has finished" in conclusion(spent)
    figures = []
    monkeypatch.setattr(rules, "save", lambda figure, path: figures.append(figure))
    rules.draw(rules.by_rollout, {"summary": rule110.summarise([*ROWS, *spent])}, tmp_path)
    (panel,) = figures[0].axes
    bars = {container.get_label(): container.lines[0] for container in panel.containers}
    assert list(bars) == ["N = 1", "N = 4", "N = 1, same FLOPs"]
    cheap = bars["N = 1, same FLOPs"]
    points = {round(x): y for x, y in zip(cheap.get_xdata(), cheap.get_ydata(), strict=True)}
    assert points == pytest.approx({1: 0.301, 2: 0.951, 3: 0.901})
    assert "0.75M training tokens each, but where N = 1" in figures[0].get_supxlabel()


def test_the_conclusion_is_about_the_deepest_that_was_learned():
    deep = [row(rule, 4, 0.05, steps=8) for rule in ("delta", "kda")]
    assert "At t = 2, W = 12" in conclusion(ROWS + deep)
    learned = [row(rule, 4, 0.5, steps=4) for rule in ("delta", "kda")]
    assert "At t = 4, W = 12" in conclusion(ROWS + deep + learned)


def test_depo_is_concluded_by_depth():
    found = [
        depo_row(passes=n, right=(0.9, right), update_rule=rule, cell=f"{rule}-{n}")
        for rule, right in (("delta", 0.5), ("kda", 0.8))
        for n in (1, 4)
    ]
    summary = depths.summarise(found)
    text = kinds.LOCAL_RULES_DEPO.conclude(summary)
    assert "At n8-k10, depth 10 and 1.0k training tokens" in text
    assert "kda lies above delta" in text
    lines = kinds.LOCAL_RULES_DEPO.lines(summary)
    assert [line[1] for line in lines] == ["hybrid, delta", "hybrid, kda"] * 2 + ["floor"]


def test_the_figure_has_a_point_for_each_rule_and_n(monkeypatch, tmp_path):
    kept = []
    monkeypatch.setattr(rules, "save", lambda figure, path: kept.append(figure))
    results = {"summary": rule110.summarise([*ROWS, row("kda", 4, 0.3, steps=4)])}
    rules.draw(rules.by_rollout, results, tmp_path)
    two, four = kept[0].axes
    assert (two.get_title(), four.get_title()) == ("t = 2, W = 12", "t = 4, W = 12")
    ticks = [text.get_text() for text in two.get_xticklabels()]
    assert ticks == ["hebbian", "delta", "gated delta", "kda"]
    bars = {container.get_label(): container.lines[0] for container in two.containers}
    assert list(bars) == ["N = 1", "N = 4"]
    four = bars["N = 4"]
    points = {round(x): y for x, y in zip(four.get_xdata(), four.get_ydata(), strict=True)}
    assert points == pytest.approx({0: 0.051, 1: 0.501, 2: 0.951, 3: 0.801})
    (floor,) = [line for line in two.get_lines() if len(set(line.get_ydata())) == 1
                and line.get_linestyle() == "--"]  # fmt: skip
    assert floor.get_ydata()[0] == FLOOR
    rules.draw(rules.by_rollout, {"summary": []}, tmp_path)
    assert kept[1].get_supxlabel() == "no finished cell"
