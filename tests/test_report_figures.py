"""The report's figures: what is drawn, over the made up sweep in tests/fixtures/sweep."""

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.report import figures
from experiments.report.rule110 import summarise
from experiments.report.summary import load_rows

SWEEP = Path(__file__).parent / "fixtures" / "sweep"
DIAGRAM = json.loads((SWEEP / "plan.json").read_text())["diagram"]
T4_FLOOR = 0.0817


def results_of(keep=lambda row: True) -> dict:
    rows = [row for row in load_rows(SWEEP) if keep(row)]
    return {"rows": rows, "summary": summarise(rows)}


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """The figures that were drawn, kept instead of written."""
    kept = []
    monkeypatch.setattr(figures, "save", lambda figure, path: kept.append(figure))
    return kept


def xy(line: Line2D) -> np.ndarray:
    return np.array([line.get_xdata(), line.get_ydata()], float)


def line_ends(axis: Axes) -> dict:
    return {
        str(line.get_label()): tuple(xy(line)[:, -1])
        for line in axis.get_lines()
        if not str(line.get_label()).startswith("_")
    }


def test_curves_end_at_the_mean_over_seeds_on_tokens_and_on_flops(drawn, tmp_path):
    figures.accuracy_against_tokens(results_of(), tmp_path)
    tokens, flops = drawn[0].axes
    means = {"N = 1": 0.61 / 3, "N = 2": 0.26, "N = 4": 1.22 / 3}
    matched = "N = 1, more tokens"
    cost = {"N = 1": 1.2e12, "N = 2": 2.3e12, "N = 4": 4.5e12}
    expected = {name: pytest.approx((614400, mean)) for name, mean in means.items()}
    assert line_ends(tokens) == expected
    expected = {name: pytest.approx((cost[name], mean)) for name, mean in means.items()}
    assert line_ends(flops) == expected | {matched: pytest.approx((4.5e12, 1.0 / 3))}
    for axis in (tokens, flops):
        assert xy(axis.get_lines()[-1]).tolist() == [[0, 1], [T4_FLOOR, T4_FLOOR]]
    band = np.asarray(tokens.collections[2].get_paths()[0].vertices)  # N = 4
    ends = band[band[:, 0] == 614400][:, 1]
    assert (ends.min(), ends.max()) == (0.38, 0.43)  # of seeds 0.41, 0.38, 0.43
    shown = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert shown == [*means, matched, "best constant answer"]


def test_depths_carry_intervals_and_their_own_floor(drawn, tmp_path):
    results = results_of()
    figures.accuracy_against_depth(results, tmp_path)
    axis = drawn[0].axes[0]
    bars = {container.get_label(): container for container in axis.containers}
    assert list(bars) == [
        *("N = 1", "N = 2", "N = 4", "N = 1, more tokens"),
        *("transformer, full cache", "transformer, evicted cache"),
    ]
    container = bars["N = 4"]
    assert isinstance(container, ErrorbarContainer)
    points, _, (spans,) = container.lines
    assert points is not None
    assert xy(points)[1] == pytest.approx([2.57 / 3, 1.22 / 3])
    assert np.round(xy(points)[0]).tolist() == [2, 4]
    group = next(
        group
        for group in results["summary"]
        if group["passes"] == 4 and group["rollout_steps"] == 4
    )
    assert spans.get_segments()[1][:, 1] == pytest.approx(group["exact_accuracy"]["ci95"])
    floors = axis.collections[-1]
    assert isinstance(floors, LineCollection)
    assert [segment[0, 1] for segment in floors.get_segments()] == [0.0801, T4_FLOOR]


def test_an_n_between_with_the_same_flops_has_the_colour_of_its_n(drawn, tmp_path):
    rows = load_rows(SWEEP)
    rows += [
        {**row, "passes": 2, "train_tokens": 1_200_000} for row in rows if row["match"] == "flops"
    ]
    results = {"rows": rows, "summary": summarise(rows)}
    figures.accuracy_against_tokens(results, tmp_path)
    lines = {str(line.get_label()): line for line in drawn[0].axes[1].get_lines()}
    two, spent = lines["N = 2"], lines["N = 2, more tokens"]
    assert two.get_color() == spent.get_color() != lines["N = 1, more tokens"].get_color()
    assert two.get_linestyle() != spent.get_linestyle()
    assert "N = 2, more tokens" not in line_ends(drawn[0].axes[0])
    figures.accuracy_against_depth(results, tmp_path)
    shown = [container.get_label() for container in drawn[1].axes[0].containers]
    assert shown[:5] == ["N = 1", "N = 2", "N = 4", "N = 1, more tokens", "N = 2, more tokens"]


def test_the_curves_say_what_they_are_of(drawn, tmp_path):
    """A reader of the picture alone must see that strings are marked, or that a cache slides."""
    rows = [{**row, "regime": "strings marked", "cache": "slide"} for row in results_of()["rows"]]
    figures.accuracy_against_tokens(results_of(), tmp_path)
    figures.accuracy_against_tokens({"rows": rows, "summary": summarise(rows)}, tmp_path)
    plain, marked = (figure.get_supxlabel() for figure in drawn)
    assert plain == "t = 4, W = 12; line: mean over seeds (n = 2 or 3), band: lowest to highest"
    assert marked == plain.replace("; ", ", strings marked, cache slides;\n", 1)


def test_only_what_finished_is_in_the_legend(drawn, tmp_path):
    kept = results_of(lambda row: row["match"] == "tokens" and row["model"] == "hybrid")
    figures.accuracy_against_depth(kept, tmp_path)
    shown = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert shown == ["N = 1", "N = 2", "N = 4", "best constant answer"]


@pytest.mark.parametrize(
    "keep",
    [
        lambda row: row["rollout_steps"] == 2,
        lambda row: row["seed"] == 0 and row["match"] == "tokens",
        lambda row: False,
    ],
    ids=["one depth", "one seed, nothing matched", "nothing finished"],
)
def test_figures_of_an_unfinished_sweep(keep, tmp_path):
    results = results_of(keep)
    figures.accuracy_against_tokens(results, tmp_path / "tokens.png")
    figures.accuracy_against_depth(results, tmp_path / "depth.png")
    assert_picture(tmp_path / "tokens.png")
    assert_picture(tmp_path / "depth.png")


def test_space_time_diagram(tmp_path):
    figures.space_time_diagram(np.array(DIAGRAM, np.uint8), tmp_path / "rule110.png")
    assert_picture(tmp_path / "rule110.png")


def assert_picture(path: Path) -> None:
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    pixels = image.imread(path)
    assert pixels.shape[1] == 700 and pixels[..., :3].std() > 0.02


def rule_110(bits: np.ndarray, steps: int) -> list[np.ndarray]:
    rows = [bits]
    for _ in range(steps):
        left, centre, right = np.roll(rows[-1], 1), rows[-1], np.roll(rows[-1], -1)
        rows.append((centre | right) & (1 - (left & centre & right)))
    return rows


def test_the_shaded_cells_are_those_that_the_label_can_depend_on():
    assert np.array_equal(rule_110(np.array(DIAGRAM[0]), 4), DIAGRAM)
    width, steps = 8, 2
    reach = figures._reach(steps, width)
    states = (np.arange(2**width)[:, None] >> np.arange(width)) & 1
    label = np.array([rule_110(bits, steps)[-1][0] for bits in states])
    for place in range(width):
        flipped = np.arange(2**width) ^ (1 << place)
        assert reach[0, place] == np.any(label != label[flipped])
