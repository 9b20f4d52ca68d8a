"""The results as one Markdown and one LaTeX table, from the same cells of text."""

from collections.abc import Callable, Sequence
from typing import Any

from experiments.report.groups import SPENT_ON, Group, short
from experiments.report.published import PAPER_SETTING

_HEADER = (
    "model",
    "N",
    "t",
    "W",
    "trained on",
    "parameters",
    "training tokens",
    "training FLOPs",
    "seeds n",
    "exact accuracy [95%]",
    "label accuracy",
    "floor, exact / label",
    "seconds per run",
)
_PUBLISHED_HEADER = ("claim", "setting", "value", "source")
_PUBLISHED_TITLE = (
    f"For comparison, the paper's own numbers, in the paper's setting ({PAPER_SETTING}), "
    "read from figures and so approximate"
)
_MODELS = {
    "hybrid": "hybrid",
    "transformer_evicted": "transformer, evicted cache",
    "transformer_full_cache": "transformer, full cache",
}
_BAR = r"\|"  # a bare one would end the cell
_TRAINED_ON = {"tokens": "equal tokens"} | {
    match: f"equal compute, {spent}" for match, spent in SPENT_ON.items()
}
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
        _markdown_table(_HEADER, _cells(results)),
        *_notes(results),
        f"{_PUBLISHED_TITLE}:",
        _markdown_table(_PUBLISHED_HEADER, _published_cells(results)),
        _missing(results, lambda cell: f"`{cell}`"),
    ]
    return "\n\n".join(parts) + "\n"


def latex(results: dict[str, Any]) -> str:
    """The same as a fragment to \\input: it needs no package, and the width of a page (table*)."""
    parts = [
        rf"\textbf{{{_escape(results['experiment'])}, preset {_escape(results['preset'])}}}\par",
        _latex_table("lrrrlrrrrlrrr", _HEADER, _cells(results)),
        *(rf"{_escape(note)}\par" for note in _notes(results)),
        rf"{_escape(_PUBLISHED_TITLE)}:\par",
        _latex_table("llll", _PUBLISHED_HEADER, _published_cells(results)),
        rf"{_escape(_missing(results, str))}\par",
    ]
    return "\n\n".join(parts) + "\n"


def model_name(group: Group) -> str:
    """The model as tables and figures call it."""
    name = _MODELS.get(group["model"], group["model"])
    if group["update_rule"] == "none":
        return name
    return f"{name}, {group['update_rule'].replace('_', ' ')}"


def _order(group: Group) -> tuple[Any, ...]:
    """By depth; inside it hybrids on equal tokens, hybrids on equal compute, baselines."""
    block = 2 if group["model"] != "hybrid" else int(group["match"] in SPENT_ON)
    return (
        group["rollout_steps"],
        group["width"],
        block,
        group["model"],
        group["update_rule"],
        list(_TRAINED_ON).index(group["match"]),
        group["train_tokens"],
        group["passes"],
    )


def _cells(results: dict[str, Any]) -> list[list[str]]:
    return [_line(group) for group in sorted(results["summary"], key=_order)]


def _line(group: Group) -> list[str]:
    score = group["exact_accuracy"]
    low, high = score["ci95"]
    return [
        model_name(group),
        str(group["passes"]),
        str(group["rollout_steps"]),
        str(group["width"]),
        _TRAINED_ON[group["match"]],
        short(group["parameters"]),
        short(group["train_tokens"]),
        f"{group['train_flops']:.2e}".replace("e+", "e"),
        str(score["n"]),
        f"{score['mean']:.3f} [{low:.3f}, {high:.3f}]",
        f"{group['label_accuracy']:.3f}",
        f"{group['floor']:.3f} / {group['label_floor']:.3f}",
        f"{group['wall_seconds']:.0f}",
    ]


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
    rows = results["rows"]
    sequences = sorted({f"{row['evaluation_sequences']} {row['evaluation_split']}" for row in rows})
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    definitions = (
        "Brackets are 95% intervals: Student t over seeds where n is 2 or more (seeds vary the "
        "training, not the evaluation sequences), Wilson over the evaluation sequences where n "
        "is 1. The floor is the accuracy of the best constant answer on the same "
        f"{' or '.join(sequences) or 'no'} sequences. Equal compute is the N = 1 run given as many "
        "training FLOPs as the largest N."
    )
    provenance = (
        f"Commit {results['commit']}; device {results['device']}; versions {versions or 'none'}; "
        f"{len(rows)} finished runs, {results['wall_seconds']:.0f} s in all."
    )
    return [results["conclusion"], definitions, provenance]


def _missing(results: dict[str, Any], quote: Callable[[str], str]) -> str:
    missing = results["missing"]
    if not missing:
        return "No planned cell is missing."
    return f"Missing, planned but not finished ({len(missing)}): {', '.join(map(quote, missing))}."


def _markdown_table(header: Sequence[str], cells: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *cells]
    safe = [[cell.replace("|", _BAR) for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in safe)


def _latex_table(columns: str, header: Sequence[str], cells: list[list[str]]) -> str:
    # Names of two words go on two lines: the widest columns are then those of the numbers.
    top, bottom = zip(*((name.split(maxsplit=1) + [""])[:2] for name in header), strict=True)
    lines = [rf"{' & '.join(map(_escape, line))} \\" for line in (top, bottom, *cells)]
    body = [r"\hline", *lines[:2], r"\hline", *lines[2:], r"\hline"]
    return "\n".join(
        [
            r"{\scriptsize\setlength{\tabcolsep}{2.5pt}%",
            rf"\begin{{tabular}}{{{columns}}}",
            *body,
            r"\end{tabular}}\par",
        ]
    )


def _escape(text: str) -> str:
    return text.translate(_LATEX)
