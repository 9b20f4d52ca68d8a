"""The report of what each N takes to learn a depth: training FLOPs until the target was reached.

experiments/report/needed.py says how seeds are averaged and compared.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, NotRequired, TypedDict

from experiments.report.files import ReportError
from experiments.report.groups import short
from experiments.report.needed import (
    Need,
    Taken,
    bracketed,
    less,
    limit_sign,
    need,
    quote,
    ratio,
    taken,
)
from experiments.report.summary import Row, check_scores, group_rows, mean
from experiments.report.words import (
    PLAIN,
    TRAINED_ON,
    in_order,
    rule_name,
    scientific,
    series_name,
)

_KEY = ("update_rule", "match", "regime", "passes")
_SAME = ("budget_flops", "parameters", "blocks", "target_accuracy")
ON_TOKENS = ("tokens", "flops")  # the largest N, and those that may spend its FLOPs
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
_OPPOSITE = str.maketrans("<>", "><")
_SAME_BUDGET = 0.05  # matched runs end at a whole step, and have whole blocks
_USUAL_RULE = "gated_delta"
LATENTS, NOTHING = "latents", "none"  # in the place of a rule


class Task(NamedTuple):
    """Where the rows of a task have its depth and its size, and what they are called."""

    depth: str
    size: str
    at: str
    of_size: str
    axis: str


RULE_110 = Task("rollout_steps", "width", "t = {}", "W = {}", "rollout steps t")
DEPO = Task("max_hops", "nodes", "k = {}", "{} nodes", "hops k")


class Easier(Taken):
    """What the same runs took to answer an easier depth that they were asked besides."""

    depth: int
    at: str


class Fit(TypedDict):
    """Exact accuracy, mean over seeds, of the last batches trained on and of unseen sequences."""

    trained: float
    unseen: float


class DepthCost(Taken):
    """All seeds of one N at one depth.

    `at` and `size` say in words which depth of which setting it is, `cell` names the run of its
    first seed. `fit` is of the seeds that spent the budget in vain, where their runs recorded it.
    """

    cell: str
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
    tokens: list[int]
    tokens_before: list[int]
    needed_tokens: Need
    easier: list[Easier]
    fit: NotRequired[Fit]


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
    flops, tokens = ([row[count] for row in rows] for count in ("train_flops", "train_tokens"))
    flops_before, tokens_before = (
        [_before(row["curve"], row["reached"], row, count) for row in rows]
        for count in ("train_flops", "train_tokens")
    )
    group: DepthCost = {
        **taken(reached, flops, flops_before),
        "cell": first["cell"],
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
        "tokens": tokens,
        "tokens_before": tokens_before,
        "needed_tokens": need(tokens, tokens_before, reached),
        "easier": _easier(task, rows),
    }
    in_vain = [(row["curve"] or [{}])[-1] for row in rows if not row["reached"]]
    # Runs before November 2026 recorded nothing of the kind; others never came to this depth.
    if in_vain and all("trained_exact_accuracy" in point for point in in_vain):
        group["fit"] = {
            "trained": mean([point["trained_exact_accuracy"] for point in in_vain]),
            "unseen": mean([point["exact_accuracy"] for point in in_vain]),
        }
    return group


def _easier(task: Task, rows: Sequence[Row]) -> list[Easier]:
    """The depths below the greatest that every evaluation has a score of, as Depo's have."""
    first = rows[0]
    depths = sorted(map(int, first.get("by_depth", ())))
    return [
        {"depth": depth, "at": task.at.format(depth), **_until(depth, rows)}
        for depth in depths
        if depth < first[task.depth]
    ]


def _until(depth: int, rows: Sequence[Row]) -> Taken:
    reached, flops, flops_before = [], [], []
    for row in rows:
        scores = [point["by_depth"][str(depth)]["exact_accuracy"] for point in row["curve"]]
        solved = (i for i, score in enumerate(scores) if score >= row["target_accuracy"])
        at = next(solved, None)
        seen = row["curve"] if at is None else row["curve"][: at + 1]
        reached.append(at is not None)
        flops.append(seen[-1]["train_flops"])
        flops_before.append(_before(seen, at is not None, seen[0], "train_flops"))
    return taken(reached, flops, flops_before)


def _before(curve: Sequence[Row], reached: bool, row: Row, count: str) -> int:
    """What had been spent at the evaluation before the last one; 0 if the first one was enough."""
    if len(curve) > 1:
        return curve[-2][count]
    return 0 if curve and reached else row[count]


def _order(group: DepthCost) -> tuple[Any, ...]:
    return (
        group["depth"],
        group["size"],
        group["update_rule"],
        in_order(group["regime"]),
        0 if group["match"] in ON_TOKENS else list(TRAINED_ON).index(group["match"]),
        group["passes"],
    )


def compared(summary: Iterable[DepthCost]) -> list[list[DepthCost]]:
    """What can be compared: the N of one setting and depth that spent one budget on tokens alone.

    Ascending, by setting, depth and budget.

    Raises:
      ReportError: an N is there twice.
    """
    chosen = [group for group in summary if group["match"] in ON_TOKENS]
    sets: list[list[DepthCost]] = []
    for group in sorted(chosen, key=lambda g: (*setting(g), g["depth"], g["budget_flops"])):
        if sets and _may_be_compared(sets[-1][0], group):
            sets[-1].append(group)
        else:
            sets.append([group])
    for groups in sets:
        groups.sort(key=lambda group: group["passes"])
        for one, other in zip(groups, groups[1:], strict=False):
            if one["passes"] == other["passes"]:
                raise ReportError(f"{name(one)} is there twice at {one['at']}, {one['size']}")
    return sets


def _may_be_compared(one: DepthCost, other: DepthCost) -> bool:
    """Whether setting, depth and budget are the same."""
    same = setting(one) == setting(other) and one["depth"] == other["depth"]
    return same and same_budget(one, other)


def same_budget(one: DepthCost, other: DepthCost) -> bool:
    """Whether both could spend the same FLOPs."""
    return abs(other["budget_flops"] / one["budget_flops"] - 1) <= _SAME_BUDGET


def same_but_for_rule(one: DepthCost, other: DepthCost) -> bool:
    """Whether the two differ in what writes the fast weights, and in nothing else."""
    keys = ("passes", "depth", "regime", "size", "blocks", "target_accuracy")
    return all(one[key] == other[key] for key in keys) and same_budget(one, other)


def setting(group: DepthCost) -> tuple[str, str, str]:
    """What stays as it is where only depth and N are compared."""
    return group["update_rule"], group["regime"], group["size"]


def name(group: DepthCost) -> str:
    """`N = 1`, what else it spent FLOPs on, and how it departs from the usual.

    Latents have no passes to name, but how many tokens each stands for; a transformer its cache.
    """
    if group["update_rule"] == LATENTS:
        return group["regime"]
    if group["update_rule"] == NOTHING:
        return ", ".join(["full cache"] + [group["regime"]] * (group["regime"] != PLAIN))
    usual = f"N = {group['passes']}" if group["match"] == "flops" else series_name(group)
    rule, regime = group["update_rule"], group["regime"]
    departs = [rule_name(rule)] * (rule != _USUAL_RULE) + [regime] * (regime != PLAIN)
    return ", ".join([usual, *departs])


def lines(summary: Sequence[DepthCost]) -> list[list[str]]:
    """The lines of the table under `HEADER`."""
    sets = compared(summary)
    return [_line(group, _one_pass(group, sets)) for group in sorted(summary, key=_order)]


def _one_pass(group: DepthCost, sets: Sequence[Sequence[DepthCost]]) -> DepthCost | None:
    """N = 1 of its setting and depth that had the same budget, or None.

    Of what has no fast weights it is N = 1 of what has some, all else being the same.
    """
    ones = (groups[0] for groups in sets if groups[0]["passes"] == 1)
    if group["update_rule"] not in (LATENTS, NOTHING):
        return next((one for one in ones if _may_be_compared(one, group)), None)
    of_latents = group["update_rule"] == LATENTS
    otherwise = group["regime"].rpartition("; ")[0] or PLAIN if of_latents else group["regime"]
    wanted = (otherwise, group["size"], group["depth"])
    return next(
        (
            one
            for one in ones
            if one["update_rule"] not in (LATENTS, NOTHING)
            and (one["regime"], one["size"], one["depth"]) == wanted
            and same_budget(one, group)
        ),
        None,
    )


def _line(group: DepthCost, one: DepthCost | None) -> list[str]:
    return [
        f"{group['at']}, {group['size']}",
        name(group).removeprefix("N = "),
        short(group["parameters"]),
        f"{sum(group['reached'])} of {len(group['seeds'])}",
        quote(group),
        " ".join(_seed(group, i) for i in range(len(group["seeds"]))),
        limit_sign(group) + short(round(group["needed_tokens"]["mean"])),
        _times(one, group),
        scientific(group["budget_flops"]),
        f"{group['floor']:.3f}",
        f"{group['wall_seconds']:.0f}",
    ]


def _seed(group: DepthCost, index: int) -> str:
    sign = "" if group["reached"][index] else ">"
    return f"{sign}{group['flops'][index] / 1e12:.2g}"


def _times(one: DepthCost | None, group: DepthCost) -> str:
    """The ratio to N = 1, marked where one of the two is but a limit."""
    if one is None:
        return "not run"
    if one is group:
        return "1"
    signs = {limit_sign(one), limit_sign(group).translate(_OPPOSITE)} - {""}
    if len(signs) > 1 or "~ " in signs:
        return "not known"
    return "".join(signs) + bracketed(ratio(one, group), lambda value: f"{value:.2f}")


def _growth(series: Sequence[DepthCost]) -> str:
    """`N = 1 3.1, 2.5 times`, or nothing where there are no two depths."""
    depths = [group["depth"] for group in series]
    if len(series) < 2 or len(set(depths)) < len(depths):
        return ""
    solved = [group["needed_flops"]["mean"] for group in series]
    factors = ", ".join(f"{b / a:.1f}" for a, b in zip(solved, solved[1:], strict=False))
    return f"{name(series[0])} {factors} times"


def conclude(
    summary: Sequence[DepthCost],
    further: Sequence[str] = (),
    growth: Callable[[Sequence[DepthCost]], str] = _growth,
) -> str:
    """What each N took at each depth, which took least, how that grows, and `further` sentences.

    Args:
      growth: of one N over its depths, in words.
    """
    sets = compared(summary)
    if not sets:
        return "Nothing can be compared yet: no run has finished."
    target = summary[0]["target_accuracy"]
    said = [f"at {where} {_at(groups)}" for where, groups in zip(_places(sets), sets, strict=True)]
    grown = filter(None, map(growth, _series(sets)))
    text = f"To an exact accuracy of {target:g}, in training FLOPs: {'; '.join(said)}."
    if told := "; ".join(grown):
        text += f" From one depth to the next they grow, {told}."
    if told := "; ".join(filter(None, map(_on_the_way, sets))):
        text += f" On the way, {told}."
    if told := "; ".join(filter(None, (_in_vain(g) for groups in sets for g in groups))):
        text += f" What spent its budget in vain ended with an exact accuracy, {told}."
    return " ".join([text, *further]) + (
        " It may not be concluded that what is inside the intervals is the same, that each N had "
        "its best rate, nor anything about greater depths."
    )


def _places(sets: Sequence[Sequence[DepthCost]]) -> list[str]:
    """`t = 2`, and of what else there are several."""
    firsts = [groups[0] for groups in sets]
    sizes = len({first["size"] for first in firsts}) > 1
    places = [first["at"] + f", {first['size']}" * sizes for first in firsts]
    budgets = [setting(first) + (first["depth"],) for first in firsts]
    return [
        place + f", at most {scientific(first['budget_flops'])}" * (budgets.count(budget) > 1)
        for place, first, budget in zip(places, firsts, budgets, strict=True)
    ]


def _series(sets: Sequence[Sequence[DepthCost]]) -> list[list[DepthCost]]:
    """Each N of each setting over its depths, where every seed reached the target."""
    found: dict[tuple[Any, ...], list[DepthCost]] = {}
    for groups in sets:
        for group in groups:
            if all(group["reached"]):
                found.setdefault((setting(group), group["passes"]), []).append(group)
    return [found[key] for key in sorted(found)]


def _at(groups: Sequence[DepthCost]) -> str:
    taken = ", ".join(f"{name(group)} {quote(group)}" for group in groups)
    one, others = groups[0], groups[1:]
    if one["passes"] != 1 or not others:
        return taken
    fewer = [name(g) for g in others if less(g, one)]
    more = [name(g) for g in others if less(one, g)]
    words = [f"{' and '.join(fewer)} less than N = 1"] * bool(fewer)
    words += [f"{' and '.join(more)} more than N = 1"] * bool(more)
    return f"{taken} ({', '.join(words) + ', apart' if words else 'nothing apart'})"


def _on_the_way(groups: Sequence[DepthCost]) -> str:
    """`at k = 1 N = 1 5.1e11 [4.0e11, 6.6e11], N = 2 ...`, for each easier depth."""
    said = []
    for easier in zip(*(group["easier"] for group in groups), strict=True):
        each = (f"{name(group)} {quote(one)}" for group, one in zip(groups, easier, strict=True))
        said.append(f"at {easier[0]['at']} {', '.join(each)}")
    return "; ".join(said)


def _in_vain(group: DepthCost) -> str:
    """`at t = 5 N = 1, of 0.97 on what it trained on and 0.86 on what it did not`, or nothing."""
    if "fit" not in group:
        return ""
    trained, unseen = f"{group['fit']['trained']:.2f}", f"{group['fit']['unseen']:.2f}"
    who = f"at {group['at']} {name(group)}"
    return f"{who}, of {trained} on what it trained on and {unseen} on what it did not"
