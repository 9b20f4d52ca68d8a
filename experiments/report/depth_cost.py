"""The report of what each N takes to learn a depth: training FLOPs until the target was reached.

FLOPs are compared as logarithms, so means are geometric. A run is only seen at its evaluations, so
an interval begins where it would if every seed had got there right after the evaluation before. A
run that spent its budget in vain took more than that: the budget stands in for it, the mean is then
a lower limit, and there is no interval.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypedDict

from experiments.report.files import ReportError
from experiments.report.groups import short
from experiments.report.summary import Row, check_scores, group_rows, mean, student_t_half
from experiments.report.words import PLAIN, TRAINED_ON, rule_name, scientific, series_name

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
INTERVALS = (
    "Student t over the logarithms of seeds, so means are geometric, and longer below by the way "
    "back to the evaluation before, at which the target was not reached; where a seed did not "
    "reach it at all, what it was allowed stands in for it, marked >, and there is no interval, "
    "nor is there one of one seed. Apart are two whose intervals do not overlap or, without them, "
    "all of whose seeds lie apart (exact rank test, .05)"
)
_COUNTS = ("train_flops", "train_tokens")
_SAME_BUDGET = 0.05  # matched runs end at a whole step, and have whole blocks
_USUAL_RULE = "gated_delta"


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
    """A geometric mean over seeds with its 95% interval; None where there is none."""

    mean: float
    ci95: list[float] | None


class DepthCost(TypedDict):
    """All seeds of one N at one depth. `flops` are by seed, until it was `reached` or spent.

    `flops_before` are those of the last evaluation before that. `at` and `size` say in words which
    depth of which setting it is, `cell` names the run of its first seed.
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
    reached: list[bool]
    flops: list[int]
    flops_before: list[int]
    tokens: list[int]
    tokens_before: list[int]
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
    flops, tokens = ([row[name] for row in rows] for name in _COUNTS)
    before = [_before(row) for row in rows]
    flops_before, tokens_before = ([one[name] for one in before] for name in _COUNTS)
    return {
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
        "reached": reached,
        "flops": flops,
        "flops_before": flops_before,
        "tokens": tokens,
        "tokens_before": tokens_before,
        "needed_flops": need(flops, flops_before, reached),
        "needed_tokens": need(tokens, tokens_before, reached),
    }


def _before(row: Row) -> Row:
    """The evaluation before the last one; if there is none, the run as a whole."""
    return row["curve"][-2] if len(row["curve"]) > 1 else row


def need(counts: Sequence[int], before: Sequence[int], reached: Sequence[bool]) -> Need:
    """Of what each seed took, and had taken at the evaluation before."""
    logs, least = ([math.log(count) for count in some] for some in (counts, before))
    ci95 = None
    if len(logs) > 1 and all(reached):
        low, high = mean(least) - student_t_half(least), mean(logs) + student_t_half(logs)
        ci95 = [math.exp(low), math.exp(high)]
    return {"mean": math.exp(mean(logs)), "ci95": ci95}


def less(first: DepthCost, second: DepthCost) -> bool:
    """Whether the first takes fewer FLOPs, the two apart.

    Their intervals do not overlap; or where one has none, because not every seed got there, every
    seed of the first took less than any of the second, which of so many seeds is not chance (the
    exact rank test, two-sided; a budget not enough is more than what was enough for another).
    """
    one, two = first["needed_flops"], second["needed_flops"]
    if one["ci95"] and two["ci95"]:
        return below(one, two)
    orders = math.comb(len(first["flops"]) + len(second["flops"]), len(first["flops"]))
    parted = all(first["reached"]) and max(first["flops"]) < min(second["flops"])
    return parted and 2 / orders < 0.05


def below(first: Need, second: Need) -> bool:
    """Whether both have intervals, and the first's lies below the second's."""
    if first["ci95"] is None or second["ci95"] is None:
        return False
    return first["ci95"][1] < second["ci95"][0]


def ratio(first: DepthCost, second: DepthCost) -> Need:
    """FLOPs of the first over those of the second, the interval made of both (MOVER, of logs)."""
    one, two = first["needed_flops"], second["needed_flops"]
    centre, ci95 = one["mean"] / two["mean"], None
    if one["ci95"] and two["ci95"]:
        (down, up), (other_down, other_up) = (
            [abs(math.log(limit / need["mean"])) for limit in need["ci95"] or ()]
            for need in (one, two)
        )
        low, high = math.hypot(down, other_up), math.hypot(up, other_down)
        ci95 = [centre * math.exp(-low), centre * math.exp(high)]
    return {"mean": centre, "ci95": ci95}


def _order(group: DepthCost) -> tuple[Any, ...]:
    return (
        group["depth"],
        group["size"],
        group["update_rule"],
        group["regime"],
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
    return same and _same_budget(one, other)


def _same_budget(one: DepthCost, other: DepthCost) -> bool:
    return abs(other["budget_flops"] / one["budget_flops"] - 1) <= _SAME_BUDGET


def same_but_for_rule(one: DepthCost, other: DepthCost) -> bool:
    """Whether the two differ in what writes the fast weights, and in nothing else."""
    keys = ("passes", "depth", "regime", "size", "blocks", "target_accuracy")
    return all(one[key] == other[key] for key in keys) and _same_budget(one, other)


def setting(group: DepthCost) -> tuple[str, str, str]:
    """What stays as it is where only depth and N are compared."""
    return group["update_rule"], group["regime"], group["size"]


def name(group: DepthCost) -> str:
    """`N = 1`, what else it spent FLOPs on, and how it departs from the usual."""
    usual = f"N = {group['passes']}" if group["match"] == "flops" else series_name(group)
    rule, regime = group["update_rule"], group["regime"]
    departs = [rule_name(rule)] * (rule != _USUAL_RULE) + [regime] * (regime != PLAIN)
    return ", ".join([usual, *departs])


def lines(summary: Sequence[DepthCost]) -> list[list[str]]:
    """The lines of the table under `HEADER`."""
    sets = compared(summary)
    return [_line(group, _one_pass(group, sets)) for group in sorted(summary, key=_order)]


def _one_pass(group: DepthCost, sets: Sequence[Sequence[DepthCost]]) -> DepthCost | None:
    """N = 1 of its setting and depth that had the same budget, or None."""
    ones = (groups[0] for groups in sets if groups[0]["passes"] == 1)
    return next((one for one in ones if _may_be_compared(one, group)), None)


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
    return _limit_sign(group) + bracketed(group["needed_flops"], text)


def _times(one: DepthCost | None, group: DepthCost) -> str:
    """The ratio to N = 1, marked where one of the two is but a lower limit."""
    if one is None:
        return "not run"
    if one is group:
        return "1"
    solved = all(one["reached"]), all(group["reached"])
    if solved == (False, False):
        return "not known"
    sign = {(True, False): "< ", (False, True): "> "}.get(solved, "")
    return sign + bracketed(ratio(one, group), lambda value: f"{value:.2f}")


def bracketed(needed: Need, text: Callable[[float], str]) -> str:
    """The mean with its interval, where there is one, as `text` has a number."""
    if needed["ci95"] is None:
        return text(needed["mean"])
    return f"{text(needed['mean'])} [{', '.join(map(text, needed['ci95']))}]"


def conclude(summary: Sequence[DepthCost], further: Sequence[str] = ()) -> str:
    """What each N took at each depth, which took least, how that grows, and `further` sentences."""
    sets = compared(summary)
    if not sets:
        return "Nothing can be compared yet: no run has finished."
    target = summary[0]["target_accuracy"]
    said = [f"at {where} {_at(groups)}" for where, groups in zip(_places(sets), sets, strict=True)]
    grown = filter(None, map(_growth, _series(sets)))
    text = f"To an exact accuracy of {target:g}, in training FLOPs: {'; '.join(said)}."
    if told := "; ".join(grown):
        text += f" From one depth to the next they grow, {told}."
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


def _growth(series: Sequence[DepthCost]) -> str:
    """`N = 1 3.1, 2.5 times`, or nothing where there are no two depths."""
    depths = [group["depth"] for group in series]
    if len(series) < 2 or len(set(depths)) < len(depths):
        return ""
    solved = [group["needed_flops"]["mean"] for group in series]
    factors = ", ".join(f"{b / a:.1f}" for a, b in zip(solved, solved[1:], strict=False))
    return f"{name(series[0])} {factors} times"
