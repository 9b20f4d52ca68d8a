"""The report of a comparison of local rules: its order, its conclusion and its figure.

The groups are those of Rule 110 or of Depo. A panel is one depth: all rules at every N, trained on
equal tokens, and N = 1 with the FLOPs of the largest N spent on more tokens, where that was run.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from experiments.report import conclusion
from experiments.report.groups import short
from experiments.report.style import (
    COLOURS,
    COLUMN,
    FLOOR,
    MARKERS,
    STYLE,
    draw_intervals,
    legend,
    save,
)
from experiments.report.words import TRAINED_ON, quote
from sleep_jax.model.config import UPDATE_RULES

# What one rule scores with one N at one depth: `exact_accuracy`, `floor` and the group's fields.
Score = Mapping[str, Any]
Panels = dict[str, list[Score]]


def order(group: Mapping[str, Any]) -> tuple[Any, ...]:
    """Lines of the table: by depth and what was matched, then all rules at one N together."""
    return (
        group.get("rollout_steps", 0),
        group["model"] != "hybrid",
        list(TRAINED_ON).index(group["match"]),
        group["passes"],
        _place(group),
    )


def by_rollout(summary: Sequence[Mapping[str, Any]]) -> Panels:
    """Panels of Rule 110, by rollout steps."""
    panels: Panels = {}
    for group in sorted(_compared(summary), key=lambda group: group["rollout_steps"]):
        name = f"t = {group['rollout_steps']}, W = {group['width']}"
        panels.setdefault(name, []).append(group)
    return panels


def by_depth(summary: Sequence[Mapping[str, Any]]) -> Panels:
    """Panels of a task with several depths in one run, by depth."""
    panels: Panels = {}
    for group in _compared(summary):
        for depth, at in sorted(group["by_depth"].items(), key=lambda item: int(item[0])):
            panels.setdefault(f"{group['label']}, depth {depth}", []).append({**group, **at})
    return panels


def _compared(summary: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The hybrids on equal tokens, and N = 1 that spent the FLOPs of the largest N on tokens."""
    hybrids = [group for group in summary if group["model"] == "hybrid"]
    return [
        g for g in hybrids if (g["match"], g["passes"]) == ("flops", 1) or g["match"] == "tokens"
    ]


def _split(scores: Sequence[Score]) -> tuple[list[Score], list[Score]]:
    """Those on equal tokens, and N = 1 at equal compute."""
    equal = [score for score in scores if score["match"] == "tokens"]
    return equal, [score for score in scores if score["match"] == "flops"]


def conclude(panels: Panels) -> str:
    """Exactly two sentences, about the deepest panel in which anything was learned."""
    panels = {name: scores for name, scores in panels.items() if _split(scores)[0]}
    if not panels:
        return (
            "No run on equal tokens has finished, so nothing can be concluded about the rules. No "
            "number above should be read as evidence for or against one."
        )
    learned = [name for name in panels if any(map(conclusion.is_learned, panels[name]))]
    name = (learned or list(panels))[-1]
    scores, cheap = _split(panels[name])
    largest = max(score["passes"] for score in scores)
    most = _ranked(scores, largest)
    found = ", ".join(f"{quote(score['exact_accuracy'])} for {_name(score)}" for score in most)
    one = {score["update_rule"]: score for score in _ranked(scores, 1)} if largest > 1 else {}
    tokens = " or ".join(sorted({short(score["train_tokens"]) for score in most}))
    effects = [_effect_of_passes(most, one, "N = 1")]
    if cheap:
        matched = {score["update_rule"]: score for score in cheap}
        effects.append(_effect_of_passes(most, matched, "N = 1 with the same FLOPs"))
    return (
        f"At {name} and {tokens} training tokens, the exact accuracy with N = {largest} is "
        f"{found}, where the floor is {most[0]['floor']:.3f}: {_apart(most)}; "
        f"{'; '.join(effects)}. {_caveats([*most, *one.values()], most)}"
    )


def _ranked(scores: Sequence[Score], passes: int) -> list[Score]:
    found = [score for score in scores if score["passes"] == passes]
    return sorted(found, key=lambda score: score["exact_accuracy"]["mean"], reverse=True)


def _apart(ranked: Sequence[Score]) -> str:
    """Which rules are better than which, by intervals that do not overlap."""
    said = []
    for score in ranked:
        below = [_name(other) for other in ranked if conclusion.order(score, other) == 1]
        if below and conclusion.is_learned(score):
            said.append(f"{_name(score)} lies above {_join(below)}")
    if not said:
        return "no two rules have intervals apart, so no rule is shown to be better"
    return f"with intervals apart, {'; '.join(said)}"


def _effect_of_passes(most: Sequence[Score], one: Mapping[str, Score], which: str) -> str:
    if not one:
        return "the effect of more passes is unknown, as only one N has finished"
    said: dict[str, list[str]] = {}
    for score in most:
        other = one.get(score["update_rule"])
        if other is None:
            verdict = f"{which} is missing for"
        elif not (conclusion.is_learned(score) or conclusion.is_learned(other)):
            verdict = "neither N is clear of the floor for"
        else:
            verdict = {
                1: f"N = {score['passes']} is above {which} for",
                0: f"N = {score['passes']} is not shown to differ from {which} for",
                -1: f"N = {score['passes']} is below {which} for",
            }[conclusion.order(score, other)]
        said.setdefault(verdict, []).append(_name(score))
    return ", ".join(f"{verdict} {_join(names)}" for verdict, names in said.items())


def _caveats(shown: Sequence[Score], most: Sequence[Score]) -> str:
    seeds = min(len(score["seeds"]) for score in shown)
    over = f"n = {seeds} seeds" if seeds > 1 else "of the answers of one seed"
    points = [f"that rules whose intervals overlap ({over}) are equal"]
    unlearned = [
        f"{_name(score)} with N = {score['passes']}"
        for score in shown
        if not conclusion.is_learned(score)
    ]
    if unlearned:
        points.append(f"that {_join(unlearned)} learned anything (not clear of the floor)")
    flops = [score["train_flops"] for score in most]
    points.append(
        "that the order is the same at other sizes, budgets or rates, as the rates were chosen "
        "with the gated delta rule and the dearest rule took "
        f"{max(flops) / min(flops):.2f} times the training FLOPs of the cheapest"
    )
    return f"It may not be concluded {'; nor '.join(points)}."


def draw(panels_of: Callable[[Any], Panels], results: dict[str, Any], path: Path) -> None:
    """Exact accuracy by rule, with intervals, a mark for each series and a panel for each depth."""
    panels = panels_of(results["summary"])
    with plt.rc_context(STYLE):
        count = max(1, len(panels))
        figure, axes = plt.subplots(
            1, count, figsize=(COLUMN * min(2, count), 2.6), sharey=True, squeeze=False
        )
        for axis, (name, scores) in zip(axes[0], panels.items(), strict=False):
            _draw_panel(axis, scores)
            axis.set_title(name)
        if panels:
            last = next(reversed(panels.values()))
            legend(figure, axes[0, -1], columns=len(_series(last)) + 1, floor="floor")
            equal, cheap = _split(last)
            tokens = " or ".join(sorted({short(score["train_tokens"]) for score in equal}))
            more = ", but where N = 1 has the FLOPs of the largest N" if cheap else ""
            caption = f"{tokens} training tokens each{more}; bars: 95% intervals"
        else:
            caption = "no finished cell"
        figure.supxlabel(caption, fontsize=6)
        axes[0, 0].set(ylabel="exact accuracy", ylim=(0, 1.02))
        save(figure, path)


def _series(scores: Sequence[Score]) -> dict[str, list[Score]]:
    """The scores by their name in the legend."""
    equal, cheap = _split(scores)
    numbers = sorted({score["passes"] for score in equal})
    series = {f"N = {n}": [s for s in equal if s["passes"] == n] for n in numbers}
    return series | ({"N = 1, same FLOPs": cheap} if cheap else {})


def _draw_panel(axis: Axes, scores: Sequence[Score]) -> None:
    rules = [name for name in UPDATE_RULES if name in {s["update_rule"] for s in scores}]
    series = _series(scores)
    for place, (label, found) in enumerate(series.items()):
        shift = 0.18 * (place - (len(series) - 1) / 2)
        x = [rules.index(score["update_rule"]) + shift for score in found]
        draw_intervals(
            axis,
            x,
            [score["exact_accuracy"] for score in found],
            label=label,
            linestyle="none",
            marker=MARKERS[place % len(MARKERS)],
            color=COLOURS[place % len(COLOURS)],
            markersize=4,
            elinewidth=0.8,
            capsize=1.5,
        )
    axis.axhline(scores[0]["floor"], **FLOOR)
    names = [name.replace("_", " ") for name in rules]
    axis.set_xticks(range(len(rules)), names, rotation=30, ha="right")
    axis.set_xlim(-0.5, len(rules) - 0.5)


def _place(score: Mapping[str, Any]) -> int:
    rule = score["update_rule"]
    return UPDATE_RULES.index(rule) if rule in UPDATE_RULES else len(UPDATE_RULES)


def _name(score: Score) -> str:
    return score["update_rule"].replace("_", " ")


def _join(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1])] * (len(names) > 1) + [names[-1]])
