"""The page of all results: whole, self-contained, honest about what is missing."""

import base64
import io
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from matplotlib import image

from experiments.report import claims, markup, rule110, sources
from experiments.report import publish as report
from experiments.report.files import ReportError
from experiments.report.kinds import KINDS
from experiments.report.verdicts import Verdict
from tests.from_outside import ends
from tests.test_readme import committed, named
from tests.test_report_claims import HIGH, LOW, row

ROOT = Path(__file__).parent.parent
COMMITTED = ROOT / "experiments" / "results"
SWEEP = Path(__file__).parent / "fixtures" / "sweep"
VOID = {"meta", "img", "br", "hr", "link", "input", "wbr"}


class Page(HTMLParser):
    """What a browser would see: elements in order, with text; refuses tags that do not match."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), attrs
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data):
        if self.elements and self.elements[-1][0] == "wbr":  # a word goes on behind it
            tag, before = self.texts.pop()
            self.texts.append((tag, before + data))
        elif self.open:
            self.texts.append((self.open[-1], data))

    def all(self, name: str) -> list[dict]:
        return [attributes for tag, attributes in self.elements if tag == name]

    @property
    def text(self) -> str:
        return " ".join(data for tag, data in self.texts if tag != "style")


def read(path: Path) -> Page:
    return Page(path.read_text())


@pytest.fixture(scope="module")
def of_committed(tmp_path_factory) -> Path:
    """A work directory that was empty: what is written there is of the committed results."""
    runs = tmp_path_factory.mktemp("empty") / "runs"
    before = contents(COMMITTED)
    found, path = report.write(runs, COMMITTED)
    assert path == runs / "index.html"
    drawn = {f"{name}.{end}" for name in ("needs", "strings", "overview") for end in ("md", "png")}
    assert {path.name for path in runs.iterdir()} == {"index.html", *drawn}
    assert {source.origin for source in found} == {"committed"} and len(found) >= 6
    assert contents(COMMITTED) == before
    return runs


@pytest.fixture(scope="module")
def committed_page(of_committed) -> Page:
    """The page there."""
    return read(of_committed / "index.html")


@pytest.fixture
def few(tmp_path) -> Path:
    """A part of the committed results, whose page takes a moment."""
    name = "cellular_automata/cpu"
    shutil.copytree(COMMITTED / name, tmp_path / "committed" / name)
    return tmp_path / "committed"


@pytest.fixture
def runs(tmp_path) -> Path:
    """A work directory with one made up, unfinished sweep."""
    shutil.copytree(SWEEP, tmp_path / "runs" / "cellular_automata" / "made-up")
    return tmp_path / "runs"


def contents(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["needs", "strings", "overview"])
def test_a_committed_table_and_figure_are_those_of_the_committed_results(name, of_committed):
    written, kept = (at / f"{name}.md" for at in (of_committed, COMMITTED))
    assert written.read_text() == kept.read_text()
    drawn, kept = (image.imread(at / f"{name}.png") for at in (of_committed, COMMITTED))
    assert drawn.shape == kept.shape


def test_nothing_is_fetched_from_elsewhere_and_nothing_runs(committed_page):
    names = {tag for tag, _ in committed_page.elements}
    assert not names & {"script", "link", "iframe", "object", "base", "form"}
    for tag, attributes in committed_page.elements:
        for name in ("src", "srcset", "data", "action", "style", "background"):
            value = attributes.get(name)
            assert value is None or value.startswith("data:image/png;base64,"), (tag, name)
        assert attributes.get("href", "#").startswith("#"), attributes
        assert not any(name.startswith("on") for name in attributes)
    (style,) = (data for tag, data in committed_page.texts if tag == "style")
    assert "url(" not in style and "@import" not in style
    assert "prefers-color-scheme: dark" in style and "@media print" in style
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in (
        committed_page.all("meta")
    )


def test_every_picture_decodes_and_says_what_it_shows(committed_page):
    pictures = committed_page.all("img")
    drawn = [path for path in COMMITTED.rglob("*.png")]
    assert len(pictures) == len(drawn) > 0
    for attributes in pictures:
        data = base64.b64decode(attributes["src"].partition(",")[2], validate=True)
        pixels = image.imread(io.BytesIO(data), format="png")
        assert pixels.shape[:2] == tuple(2 * int(attributes[k]) for k in ("height", "width"))
        assert len(attributes["alt"]) > 40
    of_sources = [a for a in pictures if a["alt"].startswith("committed: ")]
    assert len(of_sources) == len(pictures) - 3  # all but needs, strings and overview


def test_every_link_has_its_target_and_every_id_is_one(committed_page):
    ids = [attributes["id"] for _, attributes in committed_page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    targets = {attributes["href"].removeprefix("#") for attributes in committed_page.all("a")}
    assert targets <= set(ids)
    every = claims.PAPER + claims.OURS
    assert {f"claim-{claim.key}" for claim in every} <= targets


def test_headings_descend_one_by_one_and_what_was_found_comes_first(committed_page):
    levels = [int(tag[1]) for tag, _ in committed_page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))
    titles = [data for tag, data in committed_page.texts if tag == "h2"]
    assert titles[:5] == [
        "What each N needs to learn a depth",
        "What each N needs to answer each string",
        "All tasks at a glance",
        "Verdicts",
        "Contents",
    ]
    assert len(committed_page.all("html")) == 1 and committed_page.all("html")[0]["lang"] == "en"


def test_tables_scroll_by_themselves_and_no_cell_is_blank(committed_page):
    tables = [i for i, (tag, _) in enumerate(committed_page.elements) if tag == "table"]
    for i in tables:
        tag, attributes = committed_page.elements[i - 1]
        assert (tag, attributes["class"]) == ("div", "scroll") and attributes["aria-label"]
    # A cell with nothing in it is one whose start is followed at once by its end.
    text = report.page.build(sources.committed(COMMITTED), [], COMMITTED)
    assert not re.findall(r"<t[dh][^>]*>\s*</t[dh]>", text.replace("<tr><td></td>", "<tr>"))


def test_missing_cells_are_named(runs, few):
    text = Page(report.page.build([committed("cellular_automata/cpu")], [], COMMITTED)).text
    for words in (
        "not run: N = 3",
        "not run: N = 1, t = 32",
        "not run: N = 4, k = 16",
        "not run: 8 operations, N = 6",
        "missing: EXP=cost_of_sleep",
        "No planned cell is missing.",
    ):
        assert words in text, words
    _, path = report.write(runs, few)
    assert "Missing, planned but not finished (1): hybrid-N2-t4-W12-s2." in read(path).text


def test_verdicts_on_the_committed_results_are_those_of_the_code(committed_page):
    order = [*KINDS, sources.COST, sources.BENCH]  # of the page
    shown = sorted(sources.committed(COMMITTED), key=lambda source: order.index(source.experiment))
    found = [finding for claim in claims.PAPER + claims.OURS for finding in claim.findings(shown)]
    for finding in found:
        assert finding.numbers in committed_page.text
        assert finding.verdict is Verdict.NOT_RUN or f"at {finding.at}" in committed_page.text
    badges = [a["class"].split()[1] for a in committed_page.all("span") if "badge" in a["class"]]
    defined = len(Verdict)  # at the end of the page
    expected = [finding.verdict.value.replace(" ", "-") for finding in found]
    assert badges[-len(expected) - defined : -defined] == expected
    assert set(badges[: -len(expected) - defined]) == set(expected)
    assert badges[-defined:] == [verdict.value.replace(" ", "-") for verdict in Verdict]


def test_runs_and_committed_results_stand_apart(runs, few):
    found, path = report.write(runs, few)
    page = read(path)
    labels = {source.label for source in found}
    assert {"run: cellular_automata/made-up", "committed: cellular_automata/cpu"} <= labels
    for source in found:
        assert ("h3", source.label) in page.texts
        assert any(attributes.get("id") == source.anchor for _, attributes in page.elements)
    # The made-up N = 4 at t = 4, and the committed one, in columns of their own.
    assert "0.407 [0.344, 0.469] (n = 3)" in page.text
    lines = [line for line in named(committed("cellular_automata/cpu")) if line["t"] == "2"]
    (line,) = (line for line in lines if line["N"] == "4")
    assert f"{line['exact accuracy [95%]']} (n = {line['seeds n']})" in page.text
    assert (runs / "cellular_automata" / "made-up" / "table.md").is_file()


def test_a_smoke_run_is_listed_and_not_judged(runs, few):
    plan = runs / "cellular_automata" / "made-up" / "plan.json"
    for preset, judged in (("cpu", True), ("smoke", False)):
        plan.write_text(json.dumps(json.loads(plan.read_text()) | {"preset": preset}))
        _, path = report.write(runs, few)
        links = [attributes["href"] for attributes in read(path).all("a")]
        count = links.count("#source-run-cellular-automata-made-up")
        assert count > 5 if judged else count == 1, count  # one in the contents


def put(root: Path, name: str, results: dict) -> Path:
    path = root / name / "results.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(results))
    return path


def made_up(experiment: str, rows: list[dict]) -> dict:
    return {"experiment": experiment, "preset": "cpu", "commit": "abc", "rows": rows}


def test_an_unknown_experiment_gets_its_own_section(tmp_path):
    rows = [
        {"cell": f"{n}-{seed}", "seed": seed, "trained_passes": n, "halted": "early & late"}
        | {"passes_saved": 0.5 + seed, "exact_accuracy": 0.5, "evaluation_sequences": 100}
        for n in (16, 4)
        for seed in (0, 1)
    ]
    put(tmp_path, "dreams/cpu", made_up("dreams", rows))
    put(tmp_path, "nothing/cpu", {"experiment": "nothing", "preset": "cpu", "commit": "abc"})
    found, path = report.write(tmp_path / "runs", tmp_path)
    page = read(path)
    assert [source.summary != [] for source in found] == [True, False]
    assert "does not know the experiment" in page.text and "early & late" in page.text
    first, second = found[0].summary
    assert first["setting"] == {"halted": "early & late", "trained_passes": 4}
    assert (second["scores"], second["exact_accuracy"]["n"]) == ({"passes_saved": 1.0}, 2)
    assert "0.500 [0.500, 0.500]" in page.text and "committed: nothing/cpu" in page.text


def test_an_unknown_sweep_is_rebuilt_and_one_in_its_beginnings_shown(runs, few):
    sweep = runs / "cellular_automata" / "made-up"
    plan = json.loads((sweep / "plan.json").read_text())
    (sweep / "plan.json").write_text(json.dumps(plan | {"experiment": "dreams"}))
    (runs / "depo" / "cpu").mkdir(parents=True)
    begun = {"experiment": "depo", "preset": "cpu", "cells": ["hybrid-N1-s0"]}
    (runs / "depo" / "cpu" / "plan.json").write_text(json.dumps(begun))
    _, path = report.write(runs, few)
    text = read(path).text
    assert "not finished (1): hybrid-N1-s0." in text and "No finished run." in text
    assert "nothing is concluded" in (sweep / "table.md").read_text()


DAMAGED = {
    "not JSON": lambda text: text[: len(text) // 2],
    "codec can't decode": lambda text: "\udcff",
    "lacks experiment": lambda text: "{}",
    "holds list": lambda text: "[]",
    "lacks rows": lambda text: json.dumps({**json.loads(text), "rows": 3}),
    "row 0 is 7": lambda text: json.dumps({**json.loads(text), "rows": [7]}),
    "lacks width": lambda text: text.replace('"width"', '"wide"'),
    "passes is '1'": lambda text: text.replace('"passes": 1', '"passes": "1"'),
    "match is 'luck'": lambda text: text.replace('"match": "tokens"', '"match": "luck"'),
    "exact_accuracy is 7.5": lambda text: re.sub(
        r'"exact_accuracy": [\d.]+', '"exact_accuracy": 7.5', text
    ),
    "missing is 'nothing'": lambda text: json.dumps({**json.loads(text), "missing": "nothing"}),
    "one setting and seed": lambda text: text.replace('"seed": 1', '"seed": 0'),
}


@pytest.mark.parametrize("said", DAMAGED)
@pytest.mark.parametrize("root", ["committed", "run"])
def test_a_damaged_file_is_one_line_that_names_it(said, root, tmp_path):
    good = json.dumps(made_up("cellular_automata", LOW + HIGH))
    path = put(tmp_path / root, "cellular_automata/cpu", {})
    path.write_bytes(DAMAGED[said](good).encode(errors="surrogateescape"))
    with pytest.raises(ReportError) as raised:
        report.write(tmp_path / "run", tmp_path / "committed")
    message = str(raised.value)
    assert message.startswith(str(path)) and said in message and "\n" not in message
    assert not (tmp_path / "run" / "index.html").exists()


def test_damaged_measurements_are_named_too(tmp_path):
    path = put(tmp_path, "cost_of_sleep/cpu", made_up("cost_of_sleep", []))
    with pytest.raises(ReportError, match="cost_of_sleep/cpu/results.json lacks config"):
        report.write(tmp_path / "run", tmp_path)
    shutil.rmtree(path.parent)
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "training.json").write_text('{"training": [{"passes": 1}]}')
    with pytest.raises(ReportError, match="bench/training.json lacks preset"):
        report.write(tmp_path / "run", tmp_path)


def test_command(tmp_path):
    runs = tmp_path / "runs"
    done = ends("experiments.report", f"--workdir={runs}")
    assert done.returncode == 0 and done.stdout == f"{runs}/index.html\n", done.stderr
    path = put(runs, "cellular_automata/cpu", {})
    done = ends("experiments.report", f"--workdir={runs}")
    lacking = "experiment, preset, commit"
    assert (done.returncode, done.stderr) == (2, f"report: {path} lacks {lacking}\n")
    for flag in ("extra", "--workdr=x"):
        done = ends("experiments.report", flag)
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    (tmp_path / "file").write_text("")
    done = ends("experiments.report", f"--workdir={tmp_path / 'file'}")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "file" in done.stderr


def test_the_report_imports_no_jax():
    code = (
        "import sys, experiments.report.__main__; "
        "print(sorted({'jax', 'flax', 'optax'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_the_committed_table_is_on_the_page(committed_page):
    for line in rule110.lines(committed("cellular_automata/cpu").summary):
        assert line[9] in committed_page.text


def same(now, then) -> bool:
    """Equal but for the last digit of sums, which Python 3.12 adds more exactly than 3.11."""
    if isinstance(then, dict):
        return now.keys() == then.keys() and all(same(now[name], then[name]) for name in then)
    if isinstance(then, list):
        return len(now) == len(then) and all(map(same, now, then))
    return now == (pytest.approx(then, rel=1e-13) if isinstance(then, float) else then)


def test_groups_of_committed_results_are_those_that_they_were_committed_with():
    for source in sources.committed(COMMITTED):
        if source.rows:
            # Groups may have gained fields since.
            then = source.results["summary"]
            now = [
                {name: group[name] for name in old}
                for group, old in zip(source.summary, then, strict=True)
            ]
            assert same(now, then), source.label


def test_our_markdown_becomes_headings_tables_and_text():
    text = "# A & B\n\nTwo\nlines.\n\n- one\n- two\n\n"
    text += "| N | what |\n|--:|--|\n| 1 | a \\| b |\n| 2 | |\n"
    page = Page(markup.from_markdown(text, level=3))
    assert [tag for tag, _ in page.elements if tag[0] in "hpu"] == ["h3", "p", "ul"]
    cells = [data for tag, data in page.texts if tag in ("th", "td")]
    assert cells == ["N", "what", "1", "a | b", "2", "–"] and "Two lines." in page.text
    assert page.texts[0] == ("h3", "A & B")


def test_what_a_row_holds_beyond_its_group_is_found():
    rows = [row(0.3, blocks=2), row(0.9, 4, blocks=4)]
    results = made_up("cellular_automata", rows)
    source = sources.Source("run", "x", "cellular_automata", Path(), results, [])
    (one, four) = rule110.summarise(rows)
    assert (source.row_of(one)["blocks"], source.row_of(four)["blocks"]) == (2, 4)
