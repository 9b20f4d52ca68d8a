"""Which report an experiment gets: how its rows are grouped, concluded from, tabled and drawn."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from experiments.report import (
    checking,
    choices,
    depth_cost,
    depth_cost_figure,
    depth_figures,
    depths,
    elastic,
    figures,
    generic,
    ladder,
    latents,
    needed,
    planes,
    planes_figure,
    published,
    regimes,
    restored,
    routed,
    rule110,
    rules,
    seeded,
    writers,
)
from experiments.report.conclusion import conclude

Results = dict[str, Any]


class Kind(NamedTuple):
    """The parts of a report that differ between experiments."""

    summarise: Callable[[list[dict[str, Any]]], list[Any]]
    conclude: Callable[[Sequence[Any]], str]
    header: Callable[[Sequence[Any]], Sequence[str]]
    lines: Callable[[Sequence[Any]], list[list[str]]]
    floor: str  # what the floor is, in words
    paper_setting: str
    published: list[published.PublishedNumber]
    drawings: dict[str, Callable[[Results, Path], None]]
    intervals: str = (
        "Student t over seeds where n is 2 or more (seeds vary the training, not the evaluation "
        "sequences), Wilson over the answers scored where n is 1"
    )
    fields: Mapping[str, Any] = checking.ANY_FIELDS  # of every row
    in_curve: Mapping[str, Any] = MappingProxyType({})  # of every point of its curve
    reads: str = ""  # a finished run counts once it has this field, of its readings.json
    # Tables under the main one: title, header, lines.
    also: Callable[[Sequence[Any]], list[tuple[str, Sequence[str], list[list[str]]]]] = (
        lambda summary: []
    )


def _diagram(results: Results, path: Path) -> None:
    figures.space_time_diagram(np.array(results["diagram"], np.uint8), path)


RULE_110 = Kind(
    summarise=rule110.summarise,
    conclude=conclude,
    header=lambda summary: rule110.HEADER,
    lines=rule110.lines,
    floor="the accuracy of the best constant answer",
    paper_setting=published.RULE_110_SETTING,
    published=published.RULE_110,
    drawings={
        "accuracy_against_tokens.png": figures.accuracy_against_tokens,
        "accuracy_against_depth.png": figures.accuracy_against_depth,
        "rule110.png": _diagram,
    },
    fields=checking.RULE_110_FIELDS,
    also=rule110.by_string,
)
DEPO = Kind(
    summarise=depths.summarise,
    conclude=depths.conclude,
    header=depths.header,
    lines=depths.lines,
    floor="the chance of a guess among the nodes of the graph",
    paper_setting=published.DEPO_SETTING,
    published=published.DEPO,
    drawings={"by_depth.png": depth_figures.by_depth},
    fields=checking.DEPTH_FIELDS,
)
GSM_INFINITE = DEPO._replace(
    floor="the most that a constant answer for each number of operations and mode can score",
    paper_setting=published.GSM_SETTING,
    published=published.GSM_INFINITE,
)
ROLLOUT_CURRICULUM = RULE_110._replace(
    conclude=regimes.conclude, drawings={"curves.png": regimes.curves}
)
ELASTIC_SLEEP = RULE_110._replace(
    fields=checking.ELASTIC_FIELDS,
    summarise=elastic.summarise,
    conclude=elastic.conclude,
    header=elastic.header,
    lines=elastic.lines,
    published=[],
    drawings={"by_passes.png": elastic.by_passes},
)
LOCAL_RULES = RULE_110._replace(
    conclude=lambda summary: rules.conclude(rules.by_rollout(summary)),
    lines=lambda summary: rule110.lines(summary, rules.order),
    also=lambda summary: rule110.by_string(summary, rules.order),
    drawings={"rules.png": lambda results, path: rules.draw(rules.by_rollout, results, path)},
)
LOCAL_RULES_DEPO = DEPO._replace(
    conclude=lambda summary: rules.conclude(rules.by_depth(summary)),
    lines=lambda summary: depths.lines(summary, rules.order),
    drawings={"rules.png": lambda results, path: rules.draw(rules.by_depth, results, path)},
)


def _cost_of_depth(kind: Kind, task: depth_cost.Task) -> Kind:
    return kind._replace(
        fields={**checking.DEPTH_COST_FIELDS, task.depth: int, task.size: int},
        summarise=partial(depth_cost.summarise, task),
        conclude=depth_cost.conclude,
        header=lambda summary: depth_cost.HEADER,
        lines=depth_cost.lines,
        published=[],
        drawings={"needs_by_depth.png": partial(depth_cost_figure.draw, task)},
        intervals=needed.INTERVALS,
    )


COST_OF_DEPTH = _cost_of_depth(RULE_110, depth_cost.RULE_110)
ROLLOUT_LADDER = COST_OF_DEPTH._replace(
    in_curve=checking.ON_LADDER,
    summarise=ladder.summarise,
    conclude=ladder.conclude,
    drawings={"ladder.png": ladder.draw},
)
GENERIC = Kind(
    summarise=generic.summarise,
    conclude=generic.conclude,
    header=generic.header,
    lines=generic.lines,
    floor="what the rows call floor,",
    paper_setting="not compared",
    published=[],
    drawings={},
)
RECALL = GENERIC._replace(floor="the chance of a guess among the values", reads="readings")
QK_RESTORE = RECALL._replace(
    summarise=restored.summarise,
    conclude=restored.conclude,
    header=lambda summary: restored.HEADER,
    lines=restored.lines,
    drawings={"restored.png": restored.draw},
)
KNOWLEDGE_SEEDING = RECALL._replace(
    summarise=seeded.summarise,
    conclude=seeded.conclude,
    header=lambda summary: seeded.HEADER,
    lines=seeded.lines,
    drawings={"seeded.png": seeded.draw},
)
DASH_ATTENTION = RECALL._replace(
    summarise=routed.summarise,
    conclude=routed.conclude,
    header=lambda summary: routed.HEADER,
    lines=routed.lines,
    also=routed.read_otherwise,
    drawings={"routed.png": routed.draw},
)
CONSA = RECALL._replace(
    summarise=choices.summarise,
    conclude=choices.conclude,
    header=lambda summary: choices.HEADER,
    lines=choices.lines,
    also=choices.decided,
    drawings={"choices.png": choices.draw},
    reads="state_bytes",
)
RECOVERY = RECALL._replace(
    summarise=planes.summarise,
    conclude=planes.conclude,
    header=lambda summary: planes.HEADER,
    lines=planes.lines,
    also=planes.also,
    drawings={"planes.png": planes_figure.draw, "by_loss.png": planes_figure.draw_by_loss},
    reads="recoveries",
)
KINDS = {
    "cellular_automata": RULE_110,
    "depo": DEPO,
    "gsm_infinite": GSM_INFINITE,
    "smollm2_gsm": GSM_INFINITE,
    "local_rules": LOCAL_RULES,
    "local_rules_depo": LOCAL_RULES_DEPO,
    "elastic_sleep": ELASTIC_SLEEP,
    "rollout_curriculum": ROLLOUT_CURRICULUM,
    "rollout_ladder": ROLLOUT_LADDER,
    "cost_of_depth": COST_OF_DEPTH,
    "cost_of_depth_depo": _cost_of_depth(DEPO, depth_cost.DEPO),
    "consa": CONSA,
    "dash_attention": DASH_ATTENTION,
    "qk_restore": QK_RESTORE,
    "recovery": RECOVERY,
    "knowledge_seeding": KNOWLEDGE_SEEDING,
    "lclm": COST_OF_DEPTH._replace(conclude=latents.conclude),
    "lclm_depo": _cost_of_depth(DEPO, depth_cost.DEPO)._replace(conclude=latents.conclude),
    "ttt_e2e": _cost_of_depth(DEPO, depth_cost.DEPO)._replace(conclude=writers.conclude),
}


def kind_of(experiment: str) -> Kind:
    """The report of an experiment; a generic one if nobody wrote its own."""
    return KINDS.get(experiment, GENERIC)
