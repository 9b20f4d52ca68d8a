"""The report of `EXP=cost_of_sleep`: verdict, tables and figure from what was measured."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from experiments.report import files, style
from experiments.report.tables import escape, latex_table, markdown_table

Row = dict[str, Any]
_MODELS = {
    "evict": "hybrid, hard eviction",
    "slide": "hybrid, sliding window",
    "transformer": "transformer, growing cache",
}
_SESSIONS = ("evict", "slide")
# Seen in the compiled program.
_ON_CPU = (
    " On CPU, XLA transposes all slots of a cache for the products of each token, which costs all "
    "three in proportion to their slots; a program without that would be overtaken later."
)
_LOOKS = {
    "evict": {"color": style.COLOURS[0], "marker": "o"},
    "slide": {"color": style.COLOURS[1], "marker": "s"},
    "transformer": {"color": style.GREY, "marker": "^"},
}


def write(results: dict[str, Any], directory: Path) -> list[Path]:
    """Adds the conclusion to the results and writes them, both tables and the figure."""
    results["conclusion"] = conclusion(results)
    paths = [
        directory / name for name in ("results.json", "table.md", "table.tex", "cost_of_sleep.png")
    ]
    files.write_text(paths[0], json.dumps(results, indent=1) + "\n")
    files.write_text(paths[1], markdown(results))
    files.write_text(paths[2], latex(results))
    files.replace(paths[3], lambda path: figure(results, path))
    return paths


def flatness(rows: Iterable[Row]) -> float:
    """Largest median over smallest."""
    seconds = [row["seconds"] for row in rows]
    return max(seconds) / min(seconds)


def overtaken(results: dict[str, Any], model: str) -> tuple[int | None, int | None]:
    """The last measured context at which the growing cache is no slower, and the next one.

    None stands for an end that was not measured: below the shortest, or beyond the longest.
    """
    rows = results["awake_by_context"]
    ours, theirs = (
        {row["context"]: row["seconds"] for row in rows if row["model"] == name}
        for name in (model, "transformer")
    )
    last, following = None, None
    for context in sorted(ours, reverse=True):
        if theirs[context] <= ours[context]:
            last = context
            break
        following = context
    return last, following


def conclusion(results: dict[str, Any]) -> str:
    """What the medians say, in plain sentences."""
    sentences = []
    longest = max(row["context"] for row in results["awake_by_context"])
    for model in _SESSIONS:
        contexts = [r for r in results["awake_by_context"] if r["model"] == model]
        passes = [r for r in results["awake_by_passes"] if r["model"] == model]
        last, following = overtaken(results, model)
        if following is None:
            when = f"The growing cache is no slower up to {longest:,} tokens."
        elif last is None:
            when = f"The growing cache is slower from the shortest, {following:,} tokens, on."
        else:
            when = f"The growing cache becomes slower between {last:,} and {following:,} tokens."
        sentences.append(
            f"{_MODELS[model].capitalize()}: medians of the wake latency differ by a factor of "
            f"{flatness(passes):.2f} over N and {flatness(contexts):.2f} over the context; its "
            f"state holds {_bytes(contexts[0]['state_bytes'])}, "
            f"{'the same' if len({r['state_bytes'] for r in contexts}) == 1 else 'NOT the same'} "
            f"at every length. {when}"
        )
    return " ".join(sentences)


def markdown(results: dict[str, Any]) -> str:
    """The report as Markdown."""
    parts = [f"# {results['experiment']}, preset {results['preset']}", results["conclusion"]]
    for title, header, cells in measured(results):
        parts += [f"{title}:", markdown_table(header, cells)]
    return "\n\n".join([*parts, *notes(results)]) + "\n"


def latex(results: dict[str, Any]) -> str:
    """The same as a fragment to \\input."""
    title = f"{results['experiment']}, preset {results['preset']}"
    parts = [rf"\textbf{{{escape(title)}}}\par", rf"{escape(results['conclusion'])}\par"]
    for title, header, cells in measured(results):
        parts += [rf"{escape(title)}:\par", latex_table(header, cells)]
    return "\n\n".join([*parts, *(rf"{escape(note)}\par" for note in notes(results))]) + "\n"


def measured(results: dict[str, Any]) -> list[tuple[str, Sequence[str], list[list[str]]]]:
    """Title, header and lines of both tables."""
    contexts = sorted({row["context"] for row in results["awake_by_context"]})
    by_context = [[f"{context:,}"] for context in contexts]
    for model in _MODELS:
        for line, context in zip(by_context, contexts, strict=True):
            row = _the(results["awake_by_context"], model=model, context=context)
            line += [_milliseconds(row), _bytes(row["state_bytes"])]
    by_passes = []
    for row in results["training"]:
        n = row["passes"]
        times = [
            _milliseconds(_the(results[kind], model=model, passes=n))
            for kind in ("awake_by_passes", "sleep")
            for model in _SESSIONS
        ]
        memory = f"{row['temporary_bytes'] / 2**20:.1f}"
        speed = f"{row['tokens_per_second']:,.0f}"
        by_passes.append([str(n), *times, _milliseconds(row), speed, memory])
    of_models = [f"{name}: {what}" for name in _MODELS.values() for what in ("ms", "state")]
    return [
        ("A token awake after so many tokens, N = 1", ["context", *of_models], by_context),
        (
            "By N",
            [
                "N",
                *(f"{kind} ms, {cache}" for kind in ("wake", "sleep") for cache in _SESSIONS),
                "training ms/step",
                "training tokens/s",
                "training temporary MiB",
            ],
            by_passes,
        ),
    ]


def notes(results: dict[str, Any]) -> list[str]:
    """How the numbers were made, a paragraph each."""
    config, model = results["config"], results["config"]["run"]["model"]
    device = results["device"]
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    return [
        f"Blocks {', '.join(model['pattern'])}; d = {model['d_model']}; windows of "
        f"{config['window']} tokens; one sequence. Medians of {config['rounds']} tokens fed one at "
        "a time, with quartiles in brackets, the hybrids in turns, each length gone to several "
        "times, and the transformer after them, so that its cache does not push theirs out of the "
        "processor's; a sleep is N passes over "
        "one full window. The sessions of the first table have read that many random tokens; the "
        "transformer is the same decoder with attention in every block, its cache allocated for "
        "that length, written in place and filled with random numbers instead of being computed. "
        "Models were not trained: latency depends on shapes alone. The state is all that a session "
        "keeps between tokens, its window included; for the transformer its cache."
        + (_ON_CPU if device["platform"] == "cpu" else ""),
        f"Training: batch {config['run']['train']['batch_size']}, "
        f"{config['run']['task']['strings']} windows of {config['run']['task']['window']} tokens, "
        f"remat {config['run']['sleep']['remat']}; temporary memory as the compiler planned it.",
        f"Commit {results['commit']}; device {device['platform']} {device['kind']}, host "
        f"{device['host']}, load {results['load_average_before']:.1f} before; versions {versions}.",
    ]


def figure(results: dict[str, Any], path: Path) -> None:
    """Latency and bytes over the context; wake, sleep and training over N."""
    with plt.rc_context(style.STYLE):
        drawn, axes = plt.subplots(2, 2, figsize=(style.COLUMN, 3.7))
        for model, name in _MODELS.items():
            rows = [row for row in results["awake_by_context"] if row["model"] == model]
            _draw(axes[0, 0], rows, "context", "seconds", 1e3, label=name, **_LOOKS[model])
            _draw(axes[0, 1], rows, "context", "state_bytes", 2**-20, **_LOOKS[model])
        for model in _SESSIONS:
            for kind, line in (("awake_by_passes", "-"), ("sleep", (0, (2.5, 1.2)))):
                rows = [row for row in results[kind] if row["model"] == model]
                look = {**_LOOKS[model], "linestyle": line}
                _draw(axes[1, 0], rows, "passes", "seconds", 1e3, **look)
        rows, first = results["training"], results["training"][0]
        for key, label, colour in (
            ("tokens_per_second", "tokens/s", style.COLOURS[2]),
            ("temporary_bytes", "memory", style.COLOURS[3]),
        ):
            look = {"color": colour, "marker": "D", "label": label}
            _draw(axes[1, 1], rows, "passes", key, 1 / first[key], **look)
        axes[1, 1].legend(loc="center right")
        # Powers of ten would leave one label on an axis that spans a factor of a few.
        axes[1, 1].set_yscale("log", base=2)
        axes[1, 1].yaxis.set_major_formatter(lambda ratio, _: f"{ratio:g}")
        for axis in axes[0]:
            axis.xaxis.set_major_formatter(lambda tokens, _: _short(tokens))
        axes[0, 0].set(title="a token awake", xlabel="tokens read", ylabel="ms")
        axes[0, 1].set(title="state", xlabel="tokens read", ylabel="MiB")
        axes[1, 0].set(title="awake (solid), a sleep (dashed)", xlabel="N", ylabel="ms")
        axes[1, 1].set(title="training", xlabel="N", ylabel=f"relative to N = {first['passes']}")
        for axis in axes[1]:
            passes = [row["passes"] for row in rows]
            axis.set_xticks(passes, [str(n) for n in passes])
            axis.minorticks_off()
        drawn.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
        style.save(drawn, path)


def _draw(axis: Axes, rows: list[Row], x: str, y: str, scale: float, **look: Any) -> None:
    """A line on logarithmic axes; for seconds with a band between the quartiles."""
    at = [row[x] for row in rows]
    axis.plot(at, [scale * row[y] for row in rows], markersize=3, **look)
    if y == "seconds":
        low, high = (
            [scale * row[end] for row in rows] for end in ("lower_quartile", "upper_quartile")
        )
        axis.fill_between(at, low, high, color=look["color"], alpha=0.2, linewidth=0)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")


def _the(rows: list[Row], **having: Any) -> Row:
    (row,) = (row for row in rows if all(row[key] == value for key, value in having.items()))
    return row


def _milliseconds(row: Row) -> str:
    median, low, high = (1e3 * row[key] for key in ("seconds", "lower_quartile", "upper_quartile"))
    return f"{median:.2f} [{low:.2f}, {high:.2f}]"


def _short(tokens: float) -> str:
    """`128K` for 131072."""
    return f"{tokens / 1024:g}K" if tokens >= 1024 else f"{tokens:g}"


def _bytes(count: int) -> str:
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"
