"""One self-contained page: what N needs and gains, verdicts, ours beside theirs, all sources."""

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from experiments.report import claims, comparison, cost, needs, overview, strings
from experiments.report.kinds import KINDS, kind_of
from experiments.report.markup import (
    figure,
    from_markdown,
    is_png,
    link,
    listing,
    markup_table,
    paragraph,
    table,
    tag,
)
from experiments.report.page_style import CSS
from experiments.report.sources import BENCH, COMMITTED, COST, Source
from experiments.report.verdicts import Claim, Finding, Verdict

TITLE = "Do language models need sleep? Ours beside the paper's"
# Drawn by report/; what a figure shows that its name does not say.
_FIGURES = {
    "accuracy_against_tokens.png": "exact accuracy during training, over tokens and over training "
    "FLOPs: a line for each N, a band from the lowest to the highest seed, the floor dashed",
    "accuracy_against_depth.png": "exact accuracy after training by rollout steps t: a line for "
    "each N with 95 % intervals, the floor of each t dashed",
    "rule110.png": "Rule 110 run from a random string to the label, the cells that it depends on "
    "shaded",
    "by_depth.png": "loss and whole answers right during training, a column for each depth and a "
    "line for each N",
    "needs_by_depth.png": "training FLOPs and tokens until the target was reached, over depth: "
    "every seed small, their geometric means joined, a line for each N",
    "ladder.png": "depths learned over training FLOPs and tokens, a line a seed",
    "restored.png": "recall and the fine-tuned skill by which weights were put back, with 95 % "
    "intervals, a panel for each skill; recall before as a grey line, the floor dashed",
    "seeded.png": "left, recall of each day after the last, a line for each way to keep a day; "
    "right, recall of all days and of new windows for every way, with 95 % intervals; the floor "
    "dashed",
    "cost_of_sleep.png": "latency of a token and bytes of state by context length; waking, "
    "sleeping and training by N",
}
_MEANINGS = {
    Verdict.REPRODUCED: "the rule of the claim holds at the paper's own scale, or the claim "
    "depends on no scale",
    Verdict.SAME_DIRECTION: "the rule holds at the smaller scale that is named",
    Verdict.NOT_REPRODUCED: "it was run and the rule does not hold: the intervals overlap, or they "
    "point the other way (the numbers say which)",
    Verdict.SHOWN: "the rule of a claim of our own holds at the scale that is named",
    Verdict.NOT_SHOWN: "it was run and the rule does not hold",
    Verdict.NOT_RUN: "no results file has the cells that the claim is about",
}
_PARTS = (
    ("needs", "what each N needs"),
    ("strings", "and by string"),
    ("overview", "all tasks at a glance"),
    ("contents", "contents"),
    ("comparison", "ours beside theirs"),
    ("sources", "sources"),
    ("method", "definitions"),
)
_METHOD = (
    "Intervals are 95 %: Student t over seeds where there are two or more (seeds vary the "
    "training, not the evaluation), Wilson over the answers scored where one seed ran; then they "
    "say nothing about other seeds, and “one seed” stands beside them. Times carry quartiles.",
    "The floor is what an answer without any knowledge of the sequence scores: the best constant "
    "answer for Rule 110, a guess among the nodes for Depo, the best constant answer for each "
    "number of operations for GSM-Infinite.",
    "Equal compute is N = 1 given the training FLOPs of the largest N, spent on more tokens, more "
    "blocks or more width. FLOPs are counted from shapes, without rematerialisation and optimizer.",
    "Runs of the smoke preset, too short to learn anything, are listed as sources and not judged.",
    "A sweep is judged at one setting, the one with most seeds. Sources are never pooled: a "
    "repetition on another machine or commit is a finding of its own. Several claims are judged, "
    "each by itself, and no correction for their number is made.",
)


def build(sources: Sequence[Source], others: Sequence[Path], figures: Path) -> str:
    """The page.

    Args:
      others: Markdown tables of measurements that are no results.json.
      figures: the directory of needs.png, strings.png and overview.png.
    """
    # What has a report of its own comes first; unknown experiments follow by name.
    order = [*KINDS, COST, BENCH]
    shown = sorted(
        sources,
        key=lambda s: (
            order.index(s.experiment) if s.experiment in order else len(order),
            s.experiment,
            s.origin == COMMITTED,
            s.name,
        ),
    )
    judged = [source for source in shown if not source.is_smoke]
    tables = comparison.comparisons(judged)
    main = [
        _needs(shown, figures / "needs.png"),
        _strings(shown, figures / "strings.png"),
        _overview(shown, figures / "overview.png"),
        _verdicts(judged),
        _contents(tables, shown, others),
        _comparisons(tables),
        _claims("claims", "What decides each claim of the paper", claims.PAPER, judged),
        _claims("our-claims", "What the paper never tested", claims.OURS, judged),
        _sources(shown),
        _others(others),
        _method(),
    ]
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            tag("title", escape(TITLE)),
            f"<style>{CSS}</style></head><body>",
            _head(shown),
            tag("main", *main),
            "</body></html>\n",
        ]
    )


def _head(sources: Sequence[Source]) -> str:
    of = [sum(source.origin == COMMITTED for source in sources)]
    of.append(len(sources) - of[0])
    return tag(
        "header",
        tag("h1", escape(TITLE)),
        paragraph(
            "The paper is Lee, McLeish, Goldstein, Fanti, arXiv 2605.26099: N offline passes over "
            "a window before its cache is destroyed. It has one seed and released no code; its "
            "numbers stand here as far as we know them. Ours come from "
            f"{of[0]} committed results and {of[1]} run directories."
        ),
        tag("p", "Go to ", ", ".join(link(*one) for one in _PARTS), "."),
    )


def _needs(sources: Sequence[Source], drawn: Path) -> str:
    first, others = needs.parted(needs.lines(sources))
    title = "What each N needs to learn a depth"
    return tag(
        "section",
        tag("h2", title, id="needs"),
        paragraph(needs.NOTE),
        figure(drawn, f"{title}: the training FLOPs of the table below, a panel a task and model"),
        _needs_table(title, first),
        tag("h3", needs.OTHERS) if others else "",
        _needs_table(needs.OTHERS, others),
    )


def _needs_table(title: str, found: Sequence[needs.Line]) -> str:
    return table(title, needs.header(found), needs.cells(found), titled=True) if found else ""


def _strings(sources: Sequence[Source], drawn: Path) -> str:
    found = strings.lines(sources)
    title = "What each N needs to answer each string"
    return tag(
        "section",
        tag("h2", title, id="strings"),
        paragraph(strings.NOTE),
        figure(drawn, f"{title}: the last string alone and all of them, of the table below"),
        table(title, strings.header(found), strings.cells(found), titled=True) if found else "",
    )


def _overview(sources: Sequence[Source], drawn: Path) -> str:
    found = overview.lines(sources)
    title = "What more passes gained over one"
    return tag(
        "section",
        tag("h2", "All tasks at a glance", id="overview"),
        paragraph(
            "Exact accuracy of the largest N less that of N = 1, trained on the same tokens and "
            "with the same FLOPs; where it was run, the smallest N > 1 as well, with the FLOPs of "
            "the largest. “Apart” where the two means' own intervals do not overlap."
        ),
        figure(drawn, f"{title}: the differences of the first table below, a line a setting"),
        *(
            tag("h3", name)
            + table(f"{title}. {name}", overview.HEADER, overview.cells(part), titled=True)
            for name, part in overview.parts(found).items()
            if part
        ),
        paragraph(overview.left_out(found), class_="quiet"),
    )


def _verdicts(sources: Sequence[Source]) -> str:
    return tag(
        "section",
        tag("h2", "Verdicts", id="verdicts"),
        paragraph(
            "Decided by intervals, in code; each sentence links to its numbers. What the words "
            "mean is said at the end, under definitions."
        ),
        tag("h3", "Claims of the paper"),
        tag("ul", *(_verdict_line(claim, sources) for claim in claims.PAPER), class_="claims"),
        tag("h3", "Claims that the paper never tested"),
        tag("ul", *(_verdict_line(claim, sources) for claim in claims.OURS), class_="claims"),
    )


def _verdict_line(claim: Claim, sources: Sequence[Source]) -> str:
    """The claim with a line a verdict, and the scales at which it fell; not run only if all are."""
    findings = claim.findings(sources)
    run = [finding for finding in findings if finding.verdict is not Verdict.NOT_RUN]
    lines = []
    for verdict in dict.fromkeys(finding.verdict for finding in run):
        scales = dict.fromkeys(finding.at for finding in run if finding.verdict is verdict)
        lines.append(_badge(verdict) + listing(f"at {escape(scale)}" for scale in scales))
    if not run:
        missing = "; ".join(dict.fromkeys(finding.numbers for finding in findings))
        lines.append(_badge(Verdict.NOT_RUN) + listing([f"missing: {escape(missing)}"]))
    return tag("li", link(f"claim-{claim.key}", claim.sentence), listing(lines))


def _badge(verdict: Verdict) -> str:
    name = verdict.value.replace(" ", "-")
    return tag("span", escape(verdict.value), class_=f"badge {name}")


def _contents(
    tables: Sequence[comparison.Comparison], sources: Sequence[Source], others: Sequence[Path]
) -> str:
    items = [
        link("comparison", "Ours beside theirs") + listing(link(t.key, t.title) for t in tables),
        link("claims", "What decides each claim of the paper"),
        link("our-claims", "What the paper never tested"),
        link("sources", "Sources") + listing(link(s.anchor, s.label) for s in sources),
        link("others", "Other measurements") if others else "",
        link("method", "Definitions"),
    ]
    return tag(
        "nav",
        tag("h2", "Contents", id="contents"),
        listing(filter(None, items)),
        aria_label="Contents",
    )


def _comparisons(tables: Iterable[comparison.Comparison]) -> str:
    parts = [
        tag("h3", escape(one.title), id=one.key)
        + paragraph(one.note)
        + table(one.title, one.header, one.lines, titled=True)
        for one in tables
    ]
    return tag("section", tag("h2", "Ours beside theirs", id="comparison"), *parts)


def _claims(key: str, title: str, found: Sequence[Claim], sources: Sequence[Source]) -> str:
    parts = []
    for claim in found:
        lines = [_finding_line(finding) for finding in claim.findings(sources)]
        parts += [
            tag("h3", escape(claim.sentence), id=f"claim-{claim.key}"),
            paragraph(f"Where: {claim.where}. Rule: {claim.rule}", class_="quiet"),
            markup_table(
                f"Verdicts: {claim.sentence}",
                ("source", "verdict", "numbers that decide it", "scale", "device", "commit"),
                lines,
                titled=True,
            ),
        ]
    return tag("section", tag("h2", escape(title), id=key), *parts)


def _finding_line(finding: Finding) -> list[str]:
    source = finding.source
    where = "no results file" if source is None else link(source.anchor, source.label)
    missing = finding.verdict is Verdict.NOT_RUN
    numbers = f"missing: {finding.numbers}" if missing else finding.numbers
    return [
        where,
        _badge(finding.verdict),
        escape(numbers),
        escape(finding.scale or "not run"),
        escape(source.device if source else "not run"),
        escape(source.commit if source else "not run"),
    ]


def _sources(sources: Sequence[Source]) -> str:
    parts = [tag("h3", escape(s.label), id=s.anchor) + _source(s) for s in sources]
    if not sources:
        parts = [paragraph("No results were found.")]
    return tag("section", tag("h2", "Sources", id="sources"), *parts)


def _source(source: Source) -> str:
    """What is known of one results file: conclusion, table, figures, how it was made."""
    results = dict(source.results)
    parts = []
    if source.experiment == COST:
        parts.append(paragraph(cost.conclusion(results)))
        parts += [table(title, head, lines) for title, head, lines in cost.measured(results)]
        parts += [paragraph(note, class_="quiet") for note in cost.notes(results)]
    elif source.experiment == BENCH:
        parts.append(_of_file(source.directory / f"{Path(source.name).name}.md"))
    elif source.rows:
        kind = kind_of(source.experiment)
        parts.append(paragraph(kind.conclude(source.summary)))
        caption = f"{source.experiment}, preset {results['preset']}"
        parts.append(table(caption, kind.header(source.summary), kind.lines(source.summary)))
        parts += [table(*more) for more in kind.also(source.summary)]
    else:
        parts.append(paragraph("No finished run."))
        parts.append(_of_file(source.directory / "table.md"))
    if source.experiment != BENCH:
        for path in sorted(filter(is_png, source.directory.glob("*.png"))):
            unknown = f"the figure {path.stem.replace('_', ' ')}, drawn from the table above"
            shows = _FIGURES.get(path.name, unknown)
            parts.append(figure(path, f"{source.label}: {shows}"))
    if source.experiment != COST:  # its notes have said so
        parts += [paragraph(line, class_="quiet") for line in _provenance(source)]
    return "\n".join(parts)


def _provenance(source: Source) -> list[str]:
    results = source.results
    words = [f"Commit {source.commit}", f"device {source.device}"]
    versions = results.get("versions")
    if isinstance(versions, dict):
        words.append("versions " + ", ".join(f"{name} {value}" for name, value in versions.items()))
    if source.rows:
        words.append(f"{len(source.rows)} finished runs")
    lines = [f"{'; '.join(words)}."]
    missing = results.get("missing")
    if missing:
        lines.append(f"Missing, planned but not finished ({len(missing)}): {', '.join(missing)}.")
    elif isinstance(missing, list):
        lines.append("No planned cell is missing.")
    return lines


def _of_file(path: Path) -> str:
    if not path.is_file():
        return paragraph(f"{path.name}: not there.", class_="absent")
    return from_markdown(path.read_text(), level=4)


def _others(paths: Sequence[Path]) -> str:
    if not paths:
        return ""
    parts = (from_markdown(path.read_text(), level=3) for path in paths)
    return tag("section", tag("h2", "Other measurements", id="others"), *parts)


def _method() -> str:
    meanings = (
        tag("dt", _badge(verdict)) + tag("dd", escape(text)) for verdict, text in _MEANINGS.items()
    )
    return tag(
        "section",
        tag("h2", "Definitions", id="method"),
        tag("dl", *meanings),
        *map(paragraph, _METHOD),
    )
