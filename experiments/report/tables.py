"""The results as one Markdown and one LaTeX table, from the same cells of text."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.report.groups import SPENT_ON
from experiments.report.kinds import kind_of
from experiments.report.words import rule_name, series_name

_PUBLISHED_HEADER = ("claim", "setting", "value", "source")
_BAR = r"\|"  # a bare one would end the cell
_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
    }
    | {sign: f"\\{sign}" for sign in "&%$#_"}
)


def markdown(results: dict[str, Any]) -> str:
    """The report as Markdown: table, conclusion, provenance, the paper's numbers, missing cells."""
    parts = [
        f"# {results['experiment']}, preset {results['preset']}",
        markdown_table(*_table(results)),
        *_also(results, str, markdown_table),
        *_notes(results),
        *_beside(results, str, markdown_table),
        _missing(results, lambda cell: f"`{cell}`"),
    ]
    return "\n\n".join(parts) + "\n"


def latex(results: dict[str, Any]) -> str:
    """The same as a fragment to \\input: it needs no package, and the width of a page (table*)."""
    parts = [
        rf"\textbf{{{escape(results['experiment'])}, preset {escape(results['preset'])}}}\par",
        latex_table(*_table(results)),
        *_also(results, _paragraph, latex_table),
        *map(_paragraph, _notes(results)),
        *_beside(results, _paragraph, latex_table),
        _paragraph(_missing(results, str)),
    ]
    return "\n\n".join(parts) + "\n"


def _paragraph(text: str) -> str:
    return rf"{escape(text)}\par"


def _table(results: dict[str, Any]) -> tuple[Sequence[str], list[list[str]]]:
    kind, summary = kind_of(results["experiment"]), results["summary"]
    return kind.header(summary), kind.lines(summary)


def _also(
    results: dict[str, Any],
    title: Callable[[str], str],
    table: Callable[[Sequence[str], list[list[str]]], str],
) -> list[str]:
    """The tables that stand under the main one, each under its title."""
    more = kind_of(results["experiment"]).also(results["summary"])
    return [part for name, head, lines in more for part in (title(f"{name}:"), table(head, lines))]


def _beside(
    results: dict[str, Any],
    title: Callable[[str], str],
    table: Callable[[Sequence[str], list[list[str]]], str],
) -> list[str]:
    """The paper's numbers under their title; nothing where the paper has none."""
    if not results["published"]:
        return []
    cells = _published_cells(results)
    return [title(f"{_published_title(results)}:"), table(_PUBLISHED_HEADER, cells)]


def _published_title(results: dict[str, Any]) -> str:
    setting = kind_of(results["experiment"]).paper_setting
    read = all(number["approximate"] for number in results["published"])
    return (
        f"For comparison, the paper's own numbers, in the paper's setting ({setting})"
        f"{', read from figures and so approximate' if read else ''}"
    )


def _published_cells(results: dict[str, Any]) -> list[list[str]]:
    return [
        [
            number["claim"],
            number["setting"],
            number["value"],
            number["section"] + (", read from figure" if number["approximate"] else ""),
        ]
        for number in results["published"]
    ]


def _notes(results: dict[str, Any]) -> list[str]:
    """The conclusion, then how the numbers were made, in plain text."""
    rows, kind = results["rows"], kind_of(results["experiment"])
    sequences = sorted({f"{row['evaluation_sequences']} {row['evaluation_split']}" for row in rows})
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    definitions = (
        f"Brackets are 95% intervals: {kind.intervals}. The floor is {kind.floor} on the same "
        f"{' or '.join(sequences) or 'no'} sequences."
    )
    if any(row.get("match") in SPENT_ON for row in rows):
        definitions += (
            " Equal compute is a smaller N given as many training FLOPs as the largest, spent on "
            "what the line says."
        )
    definitions += _rates(rows) + _begun(rows)
    provenance = (
        f"Commit {results['commit']}; device {results['device']}; versions {versions or 'none'}; "
        f"{len(rows)} finished runs, {results['wall_seconds']:.0f} s in all."
    )
    return [results["conclusion"], definitions, provenance]


def _rates(rows: Sequence[Mapping[str, Any]]) -> str:
    """Muon's, where they differ between runs."""
    names: dict[float, list[str]] = {}
    several = len({row["update_rule"] for row in rows if row["model"] == "hybrid"}) > 1
    for row in rows:
        rate = row.get("config", {}).get("optimizer.muon_learning_rate")
        if rate is not None:
            name = series_name(row) if row["model"] == "hybrid" else "transformers"
            name += ", begun from another" * ("warm_start" in row)
            rule = f", {rule_name(row['update_rule'])}" * several
            names.setdefault(rate, []).append(name + rule)
    said = (f"{rate:g} for {'; '.join(dict.fromkeys(names[rate]))}" for rate in sorted(names))
    return f" Muon's rate is {', and '.join(said)}." if names else ""


def _begun(rows: Sequence[Mapping[str, Any]]) -> str:
    """What the runs had learned before they began, which is in none of the numbers."""
    flops = sorted(row["warm_start"]["total_flops"] for row in rows if "warm_start" in row)
    if not flops:
        return ""
    spent = f"{flops[0]:.3g}" + f" to {flops[-1]:.3g}" * (flops[0] != flops[-1])
    return (
        f" {len(flops)} of the {len(rows)} runs begin with the parameters of another, as their "
        f"lines say; the {spent} FLOPs that it had taken are not in the table."
    )


def _missing(results: dict[str, Any], quote: Callable[[str], str]) -> str:
    missing = results["missing"]
    if not missing:
        return "No planned cell is missing."
    return f"Missing, planned but not finished ({len(missing)}): {', '.join(map(quote, missing))}."


def markdown_table(header: Sequence[str], cells: list[list[str]]) -> str:
    """Markdown, a line for each line of cells."""
    lines = [header, ["---"] * len(header), *cells]
    safe = [[cell.replace("|", _BAR) for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in safe)


def latex_table(header: Sequence[str], cells: list[list[str]]) -> str:
    """LaTeX without any package, in small print."""
    by_column = zip(*cells, strict=True) if cells else [()] * len(header)
    columns = "".join("r" if _is_number(column) else "l" for column in by_column)
    # Names of two words go on two lines: the widest columns are then those of the numbers.
    top, bottom = zip(*((name.split(maxsplit=1) + [""])[:2] for name in header), strict=True)
    lines = [rf"{' & '.join(map(escape, line))} \\" for line in (top, bottom, *cells)]
    body = [r"\hline", *lines[:2], r"\hline", *lines[2:], r"\hline"]
    return "\n".join(
        [
            r"{\scriptsize\setlength{\tabcolsep}{2.5pt}%",
            rf"\begin{{tabular}}{{{columns}}}",
            *body,
            r"\end{tabular}}\par",
        ]
    )


def _is_number(column: Sequence[str]) -> bool:
    """Numbers stand to the right, unless an interval in brackets follows them."""
    return all(text[:1].isdigit() and not text.endswith("]") for text in column)


def escape(text: str) -> str:
    """Text for LaTeX."""
    return text.translate(_LATEX)
