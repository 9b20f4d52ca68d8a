"""In what the model of a source differs from that of most presets, in words."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.report.depth_cost import DepthCost, name
from experiments.report.sources import Source

D_MODEL = 64
CLIMB_AT = 0.95  # of the batches right, where t climbs
_STATES = 2, 32, 32  # of a block: heads, keys, values


def departures(source: Source, row: Mapping[str, Any]) -> list[str]:
    """`["d = 16", "MLPs of 8", "1 state of 8 x 8"]` of a run of the source."""
    config = {**source.results.get("config", {}), **row.get("config", {})}
    d_model = row.get("d_model", D_MODEL)
    hidden = config.get("model.mlp_hidden", 2 * d_model)
    fields = ("value_heads", "key_dim", "value_dim")
    climbs = config.get("curriculum.climb_at") or CLIMB_AT
    names = [f"model.gated_delta_net.{field}" for field in fields]
    states = tuple(config.get(name, usual) for name, usual in zip(names, _STATES, strict=True))
    heads, keys, values = states
    written = _written(config.get("model.pattern", ()))
    found = {
        f"d = {d_model}": d_model != D_MODEL,
        f"at {climbs:g}": climbs != CLIMB_AT,
        f"MLPs of {hidden}": hidden != 2 * d_model,
        f"fast weights in {written}": bool(written),
        f"{heads} state{'s' * (heads > 1)} of {keys} x {values}": states != _STATES,
    }
    return [words for words, differs in found.items() if differs]


def setting_in_words(task: str, source: Source, group: DepthCost) -> str:
    """`Rule 110, W = 12, strings marked, MLPs of 2`."""
    other = name(group).partition(", ")[2]  # rule or regime
    parts = (task, group["size"], other, *departures(source, source.row_of(group)))
    return ", ".join(filter(None, parts))


def _written(pattern: Sequence[str]) -> str:
    """The blocks with fast weights, where they are not every second one; "" where there is none."""
    found = [i for i, mixer in enumerate(pattern, start=1) if mixer != "attention"]
    if not found or found == list(range(2, len(pattern) + 1, 2)):
        return ""
    return f"block{'s' * (len(found) > 1)} {', '.join(map(str, found))} of {len(pattern)}"
