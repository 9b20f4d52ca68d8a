"""The report of tasks with several depths in one run, on made-up rows."""

import pytest

from experiments.report import depth_figures, depths
from experiments.report.summary import ReportError, student_t_interval, wilson_interval

FLOOR = 0.2


def row(passes=1, seed=0, match="tokens", right=(0.9, 0.5), model="hybrid", **changes) -> dict:
    """A row with two depths; accuracies grow along the curve up to `right`."""
    by_depth = {
        depth: {"exact_accuracy": x, "loss": 1 - x, "answers": 100, "floor": FLOOR}
        for depth, x in zip(("1", "10"), right, strict=True)
    }
    curve = [
        {
            "step": step,
            "train_flops": step * 1e9 * passes,
            "exact_accuracy": 0.5,
            "label_accuracy": 0.5,
            "by_depth": {d: {**at, "loss": at["loss"] + 1 / step} for d, at in by_depth.items()},
        }
        for step in (1, 2)
    ]
    found = {
        "cell": f"{model}-{passes}-{seed}-{match}",
        "label": "n8-k10",
        "model": model,
        "update_rule": "gated_delta" if model == "hybrid" else "none",
        "passes": passes,
        "seed": seed,
        "match": match,
        "regime": "plain",
        "train_tokens": 1000 if match == "tokens" else 2000,
        "train_flops": 2 * 10**9 * passes,
        "parameters": 1234,
        "wall_seconds": 3.0,
        "loss": 0.5,
        "exact_accuracy": 0.5,
        "label_accuracy": 0.5,
        "floor": FLOOR,
        "label_floor": FLOOR,
        "by_depth": by_depth,
        "curve": curve,
    }
    return found | changes


ROWS = [
    row(right=(0.90, 0.20)),
    row(seed=1, right=(0.92, 0.22)),
    row(passes=4, right=(0.92, 0.80)),
    row(passes=4, seed=1, right=(0.92, 0.82)),
    row(match="flops", right=(0.99, 0.81)),
    row(match="flops", seed=1, right=(0.99, 0.83)),
    row(model="transformer_evicted", right=(0.2, 0.2)),
]


def test_groups_hold_an_interval_for_each_depth():
    found = {(g["model"], g["passes"], g["match"]): g for g in depths.summarise(ROWS)}
    four = found["hybrid", 4, "tokens"]["by_depth"]
    assert list(four) == ["1", "10"]  # by number, not as text
    assert four["10"]["exact_accuracy"]["mean"] == pytest.approx(0.81)
    assert four["10"]["exact_accuracy"]["ci95"] == student_t_interval([0.80, 0.82])
    assert four["10"]["loss"] == pytest.approx(0.19) and four["10"]["floor"] == FLOOR
    single = found["transformer_evicted", 1, "tokens"]["by_depth"]["1"]["exact_accuracy"]
    assert single["ci95"] == wilson_interval(0.2, 100)


def test_a_seed_twice_or_a_failed_score_is_an_error():
    with pytest.raises(ReportError, match="one setting and seed"):
        depths.summarise([*ROWS, ROWS[0]])
    with pytest.raises(ReportError, match="hybrid-1-0-tokens: exact_accuracy"):
        depths.summarise([row(exact_accuracy=float("nan"))])


def test_the_conclusion_is_drawn_for_each_depth():
    text = depths.conclude(depths.summarise(ROWS))
    equal, matched = text.split("; ")[:2]
    assert "equal tokens, N = 4 is not shown to differ at depth 1, better at depth 10" in equal
    assert "spent on more tokens, N = 4 is worse at depth 1, not shown to differ at" in matched
    assert "is missing" in depths.conclude(depths.summarise(ROWS[:4]))
    low = [row(right=(0.9, 0.2)), row(passes=2, right=(0.9, 0.2))]
    assert "like it not clear of the floor at depth 10" in depths.conclude(depths.summarise(low))
    assert "nothing can be concluded" in depths.conclude(depths.summarise(ROWS[:2]))


@pytest.mark.parametrize("other", [{"update_rule": "hebbian"}, {"regime": "attention sink"}])
def test_what_else_has_run_is_not_held_against_it(other):
    """Neither takes the place of a group of the headline, nor stands beside it."""
    more = [row(passes=n, right=(0.3, 0.3), cell=f"other{n}", **other) for n in (1, 4)]
    more += [row(match="flops", right=(0.3, 0.3), cell="other", **other)]
    plain = depths.summarise(ROWS)
    both = depths.summarise([*more, *ROWS])
    assert len(both) == len(plain) + 3
    assert depths.headline(both) == depths.headline(plain)
    assert depths.conclude(both) == depths.conclude(plain)


def test_an_n_between_is_held_against_one_pass_that_spent_the_same():
    between = [
        row(passes=2, seed=seed, match="flops", right=(0.99, 0.97), train_flops=2 * 10**9)
        for seed in (0, 1)
    ]
    text = depths.conclude(depths.summarise([*ROWS, *between]))
    said = (
        "N = 2 with equal training FLOPs spent on more tokens is, against N = 1 that spent them "
        "so, not shown to differ at depth 1, better at depth 10"
    )
    assert said in text
    assert "N = 2" not in text.replace(said, "")
    assert "N = 2" not in depths.conclude(depths.summarise([*ROWS[:4], *between]))
    spent = [{**one, "train_tokens": 1500} for one in between]
    table = depths.lines(depths.summarise([*ROWS, *spent]))
    assert [line[2] for line in table[:4]] == ["1", "4", "1", "2"]


def test_the_table_has_a_column_a_depth_and_a_line_of_floors():
    summary = depths.summarise(ROWS)
    assert depths.header(summary)[8:10] == ("depth 1", "depth 10")
    table = depths.lines(summary)
    assert [(line[1], line[2], line[3]) for line in table] == [
        ("hybrid, gated delta", "1", "equal tokens"),
        ("hybrid, gated delta", "4", "equal tokens"),
        ("hybrid, gated delta", "1", "equal compute, more tokens"),
        ("transformer, evicted cache", "1", "equal tokens"),
        ("floor", "-", "-"),
    ]
    assert table[1][9].startswith("0.810 [") and table[-1][8:10] == ["0.200", "0.200"]


def test_the_figure_ends_where_the_rows_end(monkeypatch, tmp_path):
    kept = []
    monkeypatch.setattr(depth_figures, "save", lambda figure, path: kept.append(figure))
    depth_figures.by_depth({"summary": depths.summarise(ROWS), "rows": ROWS}, tmp_path)
    axes = kept[0].axes
    assert [axis.get_title() for axis in axes[:2]] == ["depth 1", "depth 10"]
    four = next(line for line in axes[3].get_lines() if line.get_label() == "N = 4")
    assert (four.get_xdata()[-1], four.get_ydata()[-1]) == (8e9, pytest.approx(0.81))
    four = next(line for line in axes[1].get_lines() if line.get_label() == "N = 4")
    assert four.get_ydata()[0] == pytest.approx(1.19)


def test_a_curve_of_one_point_is_a_mark(monkeypatch, tmp_path):
    kept = []
    monkeypatch.setattr(depth_figures, "save", lambda figure, path: kept.append(figure))
    short = [{**row, "curve": row["curve"][-1:]} for row in ROWS]
    for rows in (short, ROWS):
        depth_figures.by_depth({"summary": depths.summarise(rows), "rows": rows}, tmp_path)
    marks, lines = (
        {line.get_marker() for line in figure.axes[0].get_lines() if line.get_label()[0] != "_"}
        for figure in kept
    )
    assert marks == {"o"} and not lines & {"o"}
