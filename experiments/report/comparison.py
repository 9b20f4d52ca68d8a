"""Ours beside theirs: every figure and table of the paper, a column a source, no cell blank."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from experiments.report import depths, published
from experiments.report.groups import (
    Group,
    all_depths,
    equal_compute,
    equal_tokens,
    headline,
    is_equal_compute,
    short,
)
from experiments.report.sources import BENCH, COST, Source, of
from experiments.report.verdicts import quote
from experiments.report.words import scientific

NOT_RUN = "not run"
_NO_NUMBER = "no number known to us"


class Comparison(NamedTuple):
    """One table: the paper's cells first, then one column a source, then how ours were made."""

    key: str
    title: str
    note: str
    header: list[str]
    lines: list[list[str]]


class Column(NamedTuple):
    """One source: its values by cell, and what a reader must know of them."""

    title: str
    values: Mapping[Any, str]
    facts: Mapping[str, str]


def comparisons(sources: Sequence[Source]) -> list[Comparison]:
    """All of them, also where nothing was run."""
    rule_110, gsm = of(sources, ["cellular_automata"]), of(sources, ["gsm_infinite"])
    return [
        _fig_2a(rule_110),
        _fig_2b(rule_110),
        _fig_2_baselines(rule_110),
        _fig_3(of(sources, ["depo"])),
        _gsm(gsm, "gsm-jet", published.JET, "evict"),
        _gsm(gsm, "gsm-ouro", published.OURO, "evict"),
        _gsm(gsm, "gsm-ouro-sliding", published.OURO_SLIDING, "slide"),
        _fig_6(of(sources, [COST, BENCH])),
    ]


def _table(
    key: str,
    title: str,
    note: str,
    cells: Sequence[tuple[Any, str, str]],
    columns: Sequence[Column],
    missing: str,
    known: Mapping[str, str],
) -> Comparison:
    """`cells` are (key of the value, what the cell is called, what the paper says).

    `known` says how the paper's own column was made.
    """
    if not columns:
        columns = [Column(f"ours: {NOT_RUN} ({missing})", {}, {})]
    header = ["", "paper", *(column.title for column in columns)]
    lines = [
        [name, theirs, *(column.values.get(cell, f"{NOT_RUN}: {name}") for column in columns)]
        for cell, name, theirs in cells
    ]
    facts = dict.fromkeys(fact for column in columns for fact in column.facts)
    for fact in facts or {"setting": None}:
        ours = (column.facts.get(fact, NOT_RUN) for column in columns)
        lines.append([fact, known.get(fact, published.NOT_GIVEN), *ours])
    return Comparison(key, title, note, header, lines)


def _facts(source: Source, groups: Sequence[Mapping[str, Any]], setting: str) -> dict[str, str]:
    """How the numbers of a column were made."""
    if not groups:
        return {"setting": NOT_RUN, "device": source.device, "commit": source.commit}
    row = source.row_of(groups[0])
    size = f"{short(groups[0]['parameters'])} parameters"
    if "blocks" in row:
        size = f"{row['blocks']} blocks, d = {row['d_model']}, {size}"
    cost = (f"N = {g['passes']}: {scientific(g['train_flops'])}" for g in groups)
    return {
        "setting": setting,
        "model": size,
        "training tokens": short(groups[0]["train_tokens"]),
        "training FLOPs": ", ".join(dict.fromkeys(cost)),
        "device": source.device,
        "commit": source.commit,
    }


def _theirs(passes: int, steps: int) -> str:
    """What the paper says of N at t."""
    found = {(number["passes"], number["depth"]): number["value"] for number in published.RULE_110}
    return found.get((passes, steps), _NO_NUMBER)


def _at_headline(source: Source) -> list[Group]:
    at = headline(source.summary)
    return [] if at is None else equal_tokens(source.summary, at)


def _fig_2a(sources: Sequence[Source]) -> Comparison:
    columns = []
    for source in sources:
        groups = _at_headline(source)
        facts = {"setting": NOT_RUN}
        if groups:
            first = groups[0]
            setting = f"W = {first['width']}, t = {first['rollout_steps']}"
            facts = _facts(source, groups, setting)
            facts = {"floor": f"{first['floor']:.3f} (best constant answer)"} | facts
        values = {group["passes"]: quote(group["exact_accuracy"]) for group in groups}
        columns.append(Column(source.label, values, facts))
    passes = _union(published.RULE_110_PASSES, (n for column in columns for n in column.values))
    return _table(
        "fig-2a",
        "Rule 110 experiment, Fig. 2a: exact accuracy by N on equal tokens",
        "The paper's numbers are read from the figure, at t = 32. Ours are at the depth with most "
        "seeds in each sweep.",
        [(n, f"N = {n}", _theirs(n, 32)) for n in passes],
        columns,
        "EXP=cellular_automata",
        published.RULE_110_FACTS,
    )


def _fig_2b(sources: Sequence[Source]) -> Comparison:
    columns = []
    for source in sources:
        at = headline(source.summary)
        groups = [] if at is None else all_depths(source.summary, at)
        ends = [g for g in groups if g["passes"] in (1, max(g["passes"] for g in groups))]
        values = {
            (g["passes"], g["rollout_steps"]): f"{quote(g['exact_accuracy'])}, floor "
            f"{g['floor']:.3f}"
            for g in ends
        }
        setting = f"W = {groups[0]['width']}" if groups else NOT_RUN
        columns.append(Column(source.label, values, _facts(source, ends, setting)))
    found = [cell for column in columns for cell in column.values]
    largest = published.RULE_110_PASSES[-1]
    passes = _union((1, largest), (n for n, _ in found))
    steps = _union(published.RULE_110_STEPS, (t for _, t in found))
    return _table(
        "fig-2b",
        "Rule 110 experiment, Fig. 2b: exact accuracy by rollout steps t",
        "The paper: N = 1 collapses from t = 4 to t = 16 at a fixed length (read from the figure); "
        "of its single cells we know t = 32.",
        [((n, t), f"N = {n}, t = {t}", _theirs(n, t)) for n in passes for t in steps],
        columns,
        "EXP=cellular_automata at several t",
        published.RULE_110_FACTS,
    )


def _fig_2_baselines(sources: Sequence[Source]) -> Comparison:
    known = {
        ("transformer_evicted", 1, "tokens"): (
            "transformer, evicted cache",
            "does not beat chance (t not recorded)",
        ),
        ("transformer_full_cache", 1, "tokens"): ("transformer, full cache", "not in the paper"),
        ("hybrid", 1, "flops"): ("N = 1, equal FLOPs on more tokens", "not in the paper"),
        ("hybrid", 2, "flops"): ("N = 2, equal FLOPs on more tokens", "not in the paper"),
        ("hybrid", 1, "flops_blocks"): ("N = 1, equal FLOPs on more blocks", "not in the paper"),
        ("hybrid", 1, "flops_width"): ("N = 1, equal FLOPs on more width", "not in the paper"),
    }
    columns = []
    for source in sources:
        at, most = headline(source.summary), _at_headline(source)[-1:]
        matched = [] if at is None else equal_compute(source.summary, at)
        groups = [group for group in matched if is_equal_compute(group, most[0])]
        groups += [
            group
            for group in source.summary
            if group["model"].startswith("transformer")
            and all(
                group[key] == one[key]
                for one in most
                for key in ("rollout_steps", "width", "train_tokens")
            )
        ]
        values = {(g["model"], g["passes"], g["match"]): quote(g["exact_accuracy"]) for g in groups}
        facts = {"setting": NOT_RUN}
        for largest in most:
            setting = (
                f"W = {largest['width']}, t = {largest['rollout_steps']}; beside "
                f"N = {largest['passes']}: {quote(largest['exact_accuracy'])}"
            )
            facts = {"floor": f"{largest['floor']:.3f}"} | _facts(source, most, setting)
        columns.append(Column(source.label, values, facts))
    return _table(
        "fig-2-baselines",
        "Rule 110 experiment, Fig. 2: baselines, and what the paper never ran",
        "Exact accuracy. Equal FLOPs means those of the largest N of the sweep.",
        [(key, name, theirs) for key, (name, theirs) in known.items()],
        columns,
        "EXP=cellular_automata",
        published.RULE_110_FACTS,
    )


def _fig_3(sources: Sequence[Source]) -> Comparison:
    said = {n["passes"]: (n["depth"], n["value"]) for n in published.DEPO}

    def theirs(passes: int, hops: int) -> str:
        first, value = said.get(passes, (None, ""))
        return value if first is not None and hops >= first else _NO_NUMBER

    columns = _depth_columns(sources)
    found = [cell for column in columns for cell in column.values]
    passes = _union(published.DEPO_PASSES, (n for n, _ in found))
    hops = _union(published.DEPO_HOPS, (k for _, k in found))
    return _table(
        "fig-3",
        "Depo experiment, Fig. 3: by hops k and N",
        "The paper shows the test loss, read from the figure; ours are whole answers right, and "
        "the loss in nats a scored token.",
        [((n, k), f"N = {n}, k = {k}", theirs(n, k)) for n in passes for k in hops],
        columns,
        "EXP=depo",
        published.DEPO_FACTS,
    )


def _depth_columns(sources: Iterable[Source]) -> list[Column]:
    columns = []
    for source in sources:
        groups = [g for g in depths.headline(source.summary) if g["match"] == "tokens"]
        values = {
            (group["passes"], int(depth)): f"{quote(at['exact_accuracy'])}, loss {at['loss']:.3f}, "
            f"floor {at['floor']:.3f}"
            for group in groups
            for depth, at in group["by_depth"].items()
        }
        setting = groups[0]["label"] if groups else NOT_RUN
        columns.append(Column(source.label, values, _facts(source, groups, setting)))
    return columns


def _gsm(sources: Sequence[Source], key: str, setting: str, cache: str) -> Comparison:
    """One of the paper's models, beside our runs with the same eviction."""
    cells = []
    for number in published.GSM_INFINITE:
        if number["setting"] == setting:
            n = "any N" if number["passes"] is None else f"N = {number['passes']}"
            # Where the paper gives one range for all N, ours is that of N = 1.
            cell = (number["passes"] or 1, number["depth"])
            cells.append((cell, f"{number['depth']} operations, {n}", number["value"]))
    ours = [s for s in sources if {row.get("cache", "evict") for row in s.rows} & {cache}]
    return _table(
        key,
        f"GSM-Infinite experiment, results table: {setting}",
        "Accuracy by operations. The paper fine-tunes pretrained models; ours are trained from "
        "scratch on problems of our own generator. N = 1 of ours stands beside its ranges over "
        "all N.",
        cells,
        _depth_columns(ours),
        "EXP=gsm_infinite" + (' ARGS="--set=sleep.cache=slide"' if cache == "slide" else ""),
        published.GSM_FACTS,
    )


def _fig_6(sources: Sequence[Source]) -> Comparison:
    columns = []
    for source in sources:
        rows = {row["passes"]: row for row in source.results["training"]}
        one = rows.get(1, {}).get("tokens_per_second")
        values = {
            n: f"{row['tokens_per_second']:,.0f} tokens/s"
            + (f", {row['tokens_per_second'] / one:.3f} of N = 1" if one else "")
            for n, row in rows.items()
        }
        config = source.results.get("config", {})
        model = (config.get("run") or config).get("model", {})
        facts = {
            "setting": f"preset {source.results['preset']}",
            "model": f"{len(model['pattern'])} blocks, d = {model['d_model']}"
            if model
            else "not recorded",
            "device": source.device,
            "commit": source.commit,
        }
        columns.append(Column(source.label, values, facts))
    passes = _union((1, 2, 4), (n for column in columns for n in column.values))
    return _table(
        "fig-6",
        "Training cost, Fig. 6: throughput against N",
        f"The paper: {published.COST[0]['value']}; {published.COST[1]['value']} (not measured "
        "here). Both read from the figure.",
        [(n, f"N = {n}", f"about 1/{n} of N = 1" if n > 1 else "1") for n in passes],
        columns,
        "EXP=cost_of_sleep",
        published.COST_FACTS,
    )


def _union(first: Iterable[int], second: Iterable[int]) -> list[int]:
    return sorted({*first, *second})
