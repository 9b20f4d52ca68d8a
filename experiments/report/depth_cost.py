"""The report of what each N takes to learn a depth: training FLOPs until the target was reached.

FLOPs are compared as logarithms, so means are geometric. A run that spent its budget in vain took
more than that: the budget stands in for it, the mean is then a lower limit and the interval open
above.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from experiments.report.groups import short
from experiments.report.style import MARKERS, STYLE, colours, save
from experiments.report.summary import Row, check_scores, group_rows, mean, student_t_half
from experiments.report.words import TRAINED_ON, scientific, series_name

_KEY = ("update_rule", "match", "regime", "passes")
_SAME = ("budget_flops", "parameters", "blocks", "target_accuracy")
_ON_TOKENS = ("tokens", "flops")  # the largest N, and those that may spend its FLOPs
HEADER = (
    "depth",
    "N",
    "parameters",
    "reached",
    "FLOPs to the target [95%]",
    "by seed, 1e12",
    "tokens to it",
    "N = 1 takes, times",
    "FLOPs at most",
    "floor",
    "seconds per run",
)
INTERVALS = (
    "Student t over the logarithms of seeds, so means are geometric; where a seed did not reach "
    "the target, what it was allowed stands in for it, marked >, and the interval is open above; "
    "there is none of one seed"
)
_WIDTH = 7.0  # inches, both columns


class Task(NamedTuple):
    """Where the rows of a task have its depth and its size, and what they are called."""

    depth: str
    size: str
    at: str
    of_size: str
    axis: str


RULE_110 = Task("rollout_steps", "width", "t = {}", "W = {}", "rollout steps t")
DEPO = Task("max_hops", "nodes", "k = {}", "{} nodes", "hops k")


class Need(TypedDict):
    """A geometric mean over seeds with its 95% interval; None where that is open."""

    mean: float
    ci95: list[float | None]


class DepthCost(TypedDict):
    """All seeds of one N at one depth. `flops` are by seed, until it was `reached` or spent.

    `at` and `size` say in words which depth of which setting it is.
    """

    model: str
    update_rule: str
    passes: int
    depth: int
    at: str
    size: str
    match: str
    regime: str
    blocks: int
    parameters: int
    target_accuracy: float
    budget_flops: int
    floor: float
    wall_seconds: float
    seeds: list[int]
    reached: list[bool]
    flops: list[int]
    tokens: list[int]
    needed_flops: Need
    needed_tokens: Need


def summarise(task: Task, rows: Iterable[Row]) -> list[DepthCost]:
    """One group an N and depth, over its seeds."""
    rows = list(rows)
    for row in rows:
        check_scores(row)
    found = group_rows(rows, (task.depth, task.size, *_KEY), same=_SAME)
    return sorted((_group(task, group) for group in found), key=_order)


def _group(task: Task, rows: list[Row]) -> DepthCost:
    first = rows[0]
    reached = [row["reached"] for row in rows]
    flops, tokens = ([row[name] for row in rows] for name in ("train_flops", "train_tokens"))
    return {
        "model": first["model"],
        "update_rule": first["update_rule"],
        "passes": first["passes"],
        "depth": first[task.depth],
        "at": task.at.format(first[task.depth]),
        "size": task.of_size.format(first[task.size]),
        "match": first["match"],
        "regime": first["regime"],
        "blocks": first["blocks"],
        "parameters": first["parameters"],
        "target_accuracy": first["target_accuracy"],
        "budget_flops": first["budget_flops"],
        "floor": mean([row["floor"] for row in rows]),
        "wall_seconds": mean([row["wall_seconds"] for row in rows]),
        "seeds": [row["seed"] for row in rows],
        "reached": reached,
        "flops": flops,
        "tokens": tokens,
        "needed_flops": need(flops, reached),
        "needed_tokens": need(tokens, reached),
    }


def need(counts: Sequence[int], reached: Sequence[bool]) -> Need:
    """Of what each seed took."""
    logs = [math.log(count) for count in counts]
    centre = mean(logs)
    ci95: list[float | None] = [None, None]
    if len(logs) > 1:
        half = student_t_half(logs)
        ci95 = [math.exp(centre - half), math.exp(centre + half) if all(reached) else None]
    return {"mean": math.exp(centre), "ci95": ci95}


def less(first: Need, second: Need) -> bool:
    """Whether the first is less, intervals apart."""
    (_, high), (low, _) = first["ci95"], second["ci95"]
    return high is not None and low is not None and high < low


def ratio(first: DepthCost, second: DepthCost) -> Need:
    """FLOPs of the first over those of the second, the interval made of both (MOVER, of logs)."""
    one, two = first["needed_flops"], second["needed_flops"]
    centre = one["mean"] / two["mean"]
    return {
        "mean": centre,
        "ci95": [
            _limit(centre, (one["mean"], one["ci95"][0]), (two["mean"], two["ci95"][1]), -1),
            _limit(centre, (one["mean"], one["ci95"][1]), (two["mean"], two["ci95"][0]), 1),
        ],
    }


def _limit(
    centre: float, one: tuple[float, float | None], two: tuple[float, float | None], sign: int
) -> float | None:
    if one[1] is None or two[1] is None:
        return None
    away = math.hypot(math.log(one[0] / one[1]), math.log(two[0] / two[1]))
    return centre * math.exp(sign * away)


def _order(group: DepthCost) -> tuple[Any, ...]:
    return (
        group["depth"],
        group["size"],
        group["update_rule"],
        group["regime"],
        0 if group["match"] in _ON_TOKENS else list(TRAINED_ON).index(group["match"]),
        group["passes"],
    )


def by_depth(summary: Iterable[DepthCost]) -> dict[int, list[DepthCost]]:
    """The N of each depth that spent on tokens alone, ascending."""
    found: dict[int, list[DepthCost]] = {}
    for group in summary:
        if group["match"] in _ON_TOKENS:
            found.setdefault(group["depth"], []).append(group)
    return {
        depth: sorted(found[depth], key=lambda group: group["passes"]) for depth in sorted(found)
    }


def name(group: DepthCost) -> str:
    """`N = 1`, and what else it spent FLOPs on."""
    return f"N = {group['passes']}" if group["match"] == "flops" else series_name(group)


def lines(summary: Sequence[DepthCost]) -> list[list[str]]:
    """The lines of the table under `HEADER`."""
    one = {depth: at[0] for depth, at in by_depth(summary).items() if at[0]["passes"] == 1}
    return [_line(group, one.get(group["depth"])) for group in sorted(summary, key=_order)]


def _line(group: DepthCost, one: DepthCost | None) -> list[str]:
    return [
        f"{group['at']}, {group['size']}",
        name(group).removeprefix("N = "),
        short(group["parameters"]),
        f"{sum(group['reached'])} of {len(group['seeds'])}",
        quote(group),
        " ".join(_seed(group, i) for i in range(len(group["seeds"]))),
        _limit_sign(group) + short(round(group["needed_tokens"]["mean"])),
        _times(one, group),
        scientific(group["budget_flops"]),
        f"{group['floor']:.3f}",
        f"{group['wall_seconds']:.0f}",
    ]


def _limit_sign(group: DepthCost) -> str:
    return "" if all(group["reached"]) else "> "


def _seed(group: DepthCost, index: int) -> str:
    sign = "" if group["reached"][index] else ">"
    return f"{sign}{group['flops'][index] / 1e12:.2g}"


def quote(group: DepthCost, text: Callable[[float], str] = scientific) -> str:
    """Its FLOPs: `1.20e12 [8.00e11, 1.80e12]`, or as `text` has a number."""
    return _limit_sign(group) + _bracketed(group["needed_flops"], text)


def _times(one: DepthCost | None, group: DepthCost) -> str:
    """The ratio to N = 1, marked where one of the two is but a lower limit."""
    if one is None:
        return "not run"
    if one is group:
        return "1"
    solved = all(one["reached"]), all(group["reached"])
    sign = {(True, False): "< ", (False, True): "> "}.get(solved, "")
    return sign + _bracketed(ratio(one, group), lambda value: f"{value:.2f}")


def _bracketed(needed: Need, text: Callable[[float], str]) -> str:
    low, high = needed["ci95"]
    if low is None and high is None:
        return text(needed["mean"])
    limits = "-" if low is None else text(low), "open" if high is None else text(high)
    return f"{text(needed['mean'])} [{', '.join(limits)}]"


def conclude(summary: Sequence[DepthCost]) -> str:
    """What each N took at each depth, which took least, and how that grows."""
    depths = by_depth(summary)
    if not depths:
        return "Nothing can be compared yet: no run has finished."
    target = summary[0]["target_accuracy"]
    said = [f"at {groups[0]['at']} {_at(groups)}" for groups in depths.values()]
    grown = [_growth(depths, n) for n in sorted({g["passes"] for g in summary})]
    text = f"To an exact accuracy of {target:g}, in training FLOPs: {'; '.join(said)}."
    if any(grown):
        text += f" From one depth to the next they grow, {'; '.join(filter(None, grown))}."
    return text + (
        " It may not be concluded that what is inside the intervals is the same, that each N had "
        "its best rate, nor anything about greater depths."
    )


def _at(groups: Sequence[DepthCost]) -> str:
    taken = ", ".join(f"{name(group)} {quote(group)}" for group in groups)
    one, others = groups[0], groups[1:]
    if one["passes"] != 1 or not others:
        return taken
    fewer = [name(g) for g in others if less(g["needed_flops"], one["needed_flops"])]
    more = [name(g) for g in others if less(one["needed_flops"], g["needed_flops"])]
    words = [f"{' and '.join(fewer)} less than N = 1"] * bool(fewer)
    words += [f"{' and '.join(more)} more than N = 1"] * bool(more)
    return f"{taken} ({', '.join(words) + ', intervals apart' if words else 'nothing apart'})"


def _growth(depths: dict[int, list[DepthCost]], passes: int) -> str:
    """`N = 1 3.1, 2.5 times`: of an N at all depths where every seed reached the target."""
    here = [g for groups in depths.values() for g in groups if g["passes"] == passes]
    solved = [group["needed_flops"]["mean"] for group in here if all(group["reached"])]
    if len(solved) < 2:
        return ""
    factors = ", ".join(f"{b / a:.1f}" for a, b in zip(solved, solved[1:], strict=False))
    return f"N = {passes} {factors} times"


def draw(task: Task, results: dict[str, Any], path: Path) -> None:
    """FLOPs and tokens to the target over depth, a colour an N, every seed and the mean."""
    summary: list[DepthCost] = results["summary"]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(_WIDTH, 2.7))
        columns = (("flops", "training FLOPs"), ("tokens", "training tokens"))
        for axis, (key, label) in zip(axes, columns, strict=True):
            axis.set(xlabel=task.axis, ylabel=f"{label} to the target", yscale="log")
            _panel(axis, summary, key)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=max(len(labels), 1))
        figure.supxlabel(_caption(summary), fontsize=6)
        save(figure, path)


def _panel(axis: Axes, summary: Sequence[DepthCost], key: str) -> None:
    if summary:
        depths = sorted({group["depth"] for group in summary})
        axis.set_xticks(depths, [str(depth) for depth in depths])
        counts = [count for group in summary for count in group[key]]
        axis.set_xlim(depths[0] - 0.5, depths[-1] + 0.5)
        axis.set_ylim(min(counts) / 1.3, max(counts) * 1.3)
    colour = colours(group["passes"] for group in summary)
    series = sorted({(g["match"] not in _ON_TOKENS, g["passes"], name(g)) for g in summary})
    for place, (deeper, passes, label) in enumerate(series):
        here = [group for group in summary if name(group) == label]
        shift = 0.08 * (place - (len(series) - 1) / 2)
        x = [group["depth"] + shift for group in here]
        means = [group[f"needed_{key}"]["mean"] for group in here]
        marker = MARKERS[place % len(MARKERS)]
        style = f"{marker}{':' if deeper else '-'}"
        axis.plot(x, means, style, color=colour[passes], label=label, markersize=4)
        for at, group in zip(x, here, strict=True):
            for count, reached in zip(group[key], group["reached"], strict=True):
                mark: Any = {"marker": "o" if reached else "^", "markersize": 2.5, "alpha": 0.5}
                axis.plot(at, count, color=colour[passes], **mark)


def _caption(summary: Sequence[DepthCost]) -> str:
    if not summary:
        return "no finished cell"
    counts = sorted({len(group["seeds"]) for group in summary})
    seeds = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
    return (
        f"{summary[0]['size']}, target {summary[0]['target_accuracy']:g}; small: each of "
        f"{seeds} seeds, joined: their geometric mean; triangles: not reached for that much"
    )
