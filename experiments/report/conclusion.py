"""Two sentences under the table, computed: what a reader may conclude, and what not.

The words follow the intervals, whichever way they point: the same code says that passes help, that
they hurt, or that nothing is shown.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.report.groups import (
    SPENT_ON,
    Group,
    equal_compute,
    equal_tokens,
    headline,
    is_equal_compute,
    short,
)
from experiments.report.published import RULE_110_SETTING

Scored = Mapping[str, Any]  # whatever has "exact_accuracy", an Interval, and "floor"

_TUNED = "one pass reaches if tuned for that budget"


def conclude(summary: Sequence[Group]) -> str:
    """Exactly two sentences about the headline setting of `summary`."""
    at = headline(summary)
    if at is None:
        return (
            "No hybrid trained on equal tokens has finished, so nothing can be concluded about "
            "sleep. No number above should be read as evidence for or against it."
        )
    groups = equal_tokens(summary, at)
    matched = equal_compute(summary, at)
    few = [group for group in matched if group["passes"] == 1]
    one = next((group for group in groups if group["passes"] == 1), None)
    most = groups[-1] if groups[-1]["passes"] > 1 else None
    where = (
        f"At t = {at.rollout_steps}, W = {at.width} and {short(at.train_tokens)} training tokens"
    )
    if most is None:
        may = f"{where}, no run with N > 1 has finished, so the worth of more passes is unknown."
    else:
        may = f"{where}, {_at_equal_tokens(one, most)}; {_at_equal_compute(few, most)}"
        may += "".join(_between(group, few) for group in matched if group["passes"] > 1) + "."
    return f"{may} {_caveats(one, most, matched)}"


def _at_equal_tokens(one: Group | None, most: Group) -> str:
    name = f"N = {most['passes']}"
    if one is None:
        return f"{name} reaches {_quote(most)}, but N = 1 is missing at equal tokens"
    verdict = _verdict(most, one, better="the passes helped", worse="the passes hurt")
    return (
        f"{name} reaches an exact accuracy of {_quote(most)} and N = 1 reaches {_quote(one)}, "
        f"a difference of {_difference(most, one):+.3f} where the best constant answer scores "
        f"{most['floor']:.3f}: {verdict}"
    )


def _at_equal_compute(matched: Sequence[Group], most: Group) -> str:
    name = f"N = {most['passes']}"
    if not matched:
        return f"N = 1 with the training FLOPs of {name} is missing"
    return "; ".join(_against(group, most) for group in matched)


def _against(matched: Group, most: Group) -> str:
    name = f"N = {most['passes']}"
    ratio = matched["train_flops"] / most["train_flops"]
    return (
        f"N = 1 given {ratio:.2f} times the training FLOPs of {name}, "
        f"spent on {SPENT_ON[matched['match']]} ({short(matched['train_tokens'])} tokens, "
        f"{short(matched['parameters'])} parameters), reaches {_quote(matched)}, from which {name} "
        f"differs by {_difference(most, matched):+.3f}: {_flops_verdict(most, matched)}"
    )


def _between(group: Group, few: Sequence[Group]) -> str:
    """An N between, with the FLOPs of the largest, against N = 1 that spent them the same way."""
    one = next((other for other in few if other["match"] == group["match"]), None)
    name = f"N = {group['passes']}"
    said = f"; {name} that spends them on {SPENT_ON[group['match']]} reaches {_quote(group)}"
    if one is None:
        return said
    gain = f"{_difference(group, one):+.3f} from N = 1 so spent"
    return f"{said}, {gain}: {_flops_verdict(group, one)}"


def _flops_verdict(group: Group, one: Group) -> str:
    if not is_equal_compute(one, group):
        return "these are not equal compute, and no verdict is drawn"
    name = f"N = {group['passes']}"
    return _verdict(group, one, better=f"{name} is better", worse=f"{name} is worse")


def _verdict(first: Group, second: Group, better: str, worse: str) -> str:
    if not (is_learned(first) or is_learned(second)):
        return "neither is clear of the constant answer and nothing is established"
    return {
        1: f"the intervals do not overlap and {better}",
        0: "the intervals overlap and no difference is established",
        -1: f"the intervals do not overlap and {worse}",
    }[order(first, second)]


def _caveats(one: Group | None, most: Group | None, matched: Sequence[Group]) -> str:
    """The sentence that says what the numbers do not show."""
    few = [group for group in matched if group["passes"] == 1]
    shown = [group for group in (one, most, *matched) if group is not None]
    points = []
    if most is not None:
        points.append(_about_compute(most, few))
        better = [group for group in matched if _is_better_spent(group, few)]
        points += [f"that the gain of {_name(group)} is more than {_TUNED}" for group in better]
    unlearned = [group for group in shown if not is_learned(group)]
    if unlearned:
        names = _join([_name(group) for group in unlearned])
        points.append(f"that {names} learned anything of the task (not clear of the constant)")
    points.append(_about_seeds(shown))
    width, tokens = shown[0]["width"], short(shown[0]["train_tokens"])
    points.append(
        f"that the same holds at other widths, depths, model sizes or budgets than W = {width} "
        f"and {tokens} tokens, the paper's ({RULE_110_SETTING}) among them"
    )
    return f"It may not be concluded {'; nor '.join(points)}."


def _is_better_spent(group: Group, few: Sequence[Group]) -> bool:
    """Whether an N between is above N = 1 that spent the same FLOPs in the same way."""
    return group["passes"] > 1 and any(
        group["match"] == one["match"] and is_equal_compute(group, one) and order(group, one) > 0
        for one in few
    )


def _about_compute(most: Group, matched: Sequence[Group]) -> str:
    name = f"N = {most['passes']}"
    if not matched:
        return f"that {name} is worth its training compute, for which the matched run is missing"
    equal = [group for group in matched if is_equal_compute(group, most)]
    if not equal:
        return f"that {name} is worth its training compute, for which no run is matched"
    best = max(equal, key=lambda group: group["exact_accuracy"]["mean"])
    score = f"{best['exact_accuracy']['mean']:.3f}"
    spent = SPENT_ON[best["match"]]
    return {
        1: f"that the gain of {name} at equal compute is more than {_TUNED}",
        0: f"that {name} saves training compute, as N = 1 reaches {score} with the same FLOPs "
        f"spent on {spent}",
        -1: f"that {name} saves training compute, as the same FLOPs take N = 1 further "
        f"({score}) when spent on {spent}",
    }[order(most, best)]


def _about_seeds(shown: Sequence[Group]) -> str:
    seeds = min(group["exact_accuracy"]["n"] for group in shown)
    if seeds == 1:
        return (
            "that another seed would agree, as some interval is over the evaluation sequences "
            "of one seed"
        )
    return f"that differences inside the intervals of {seeds} seeds are absent"


def order(first: Scored, second: Scored) -> int:
    """1 if the first is better with intervals apart, -1 if worse, 0 if the intervals overlap."""
    a, b = first["exact_accuracy"]["ci95"], second["exact_accuracy"]["ci95"]
    return int(a[0] > b[1]) - int(a[1] < b[0])


def is_learned(group: Scored) -> bool:
    """Whether the whole interval lies above what the best constant answer scores."""
    return group["exact_accuracy"]["ci95"][0] > group["floor"]


def _difference(first: Group, second: Group) -> float:
    return first["exact_accuracy"]["mean"] - second["exact_accuracy"]["mean"]


def _quote(group: Group) -> str:
    score = group["exact_accuracy"]
    low, high = score["ci95"]
    return f"{score['mean']:.3f} [{low:.3f}, {high:.3f}] (n = {score['n']})"


def _name(group: Group) -> str:
    spent = SPENT_ON.get(group["match"])
    return f"N = {group['passes']}" + (f" at equal compute ({spent})" if spent else "")


def _join(names: list[str]) -> str:
    return " or ".join([", ".join(names[:-1])] * (len(names) > 1) + names[-1:])
