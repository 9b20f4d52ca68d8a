"""What the comparisons of local rules share: the flag, the variants, what a preset leaves out."""

import dataclasses
from typing import Any

from absl import flags

from experiments import cli
from experiments.binary import Experiment
from experiments.presets import Preset
from sleep_jax.config import RunConfig
from sleep_jax.model.config import UPDATE_RULES, require

_UPDATE_RULES = flags.DEFINE_list(
    "update_rules", list(UPDATE_RULES), "Local rules of the fast weights, comma-separated."
)


def comparison(base: Experiment, name: str, presets: Any) -> Experiment:
    """The experiment that trains the hybrid of `base`, on its task, with each local rule."""
    return dataclasses.replace(
        base,
        name=name,
        presets=presets,
        variants=variants,
        swept={"model.gated_delta_net.update_rule": _UPDATE_RULES.name},
    )


def variants(config: RunConfig) -> list[RunConfig]:
    """The run with each of the rules that --update_rules names.

    Raises:
      UserError: a rule that does not exist or is named twice, or none at all; or no block has one.
    """
    names = cli.parse_names(_UPDATE_RULES.name, _UPDATE_RULES.value, UPDATE_RULES)
    pattern = config.model.pattern
    allowed = "one with gated_delta_net, whose rules are compared"
    require("gated_delta_net" in pattern, "model.pattern", ",".join(pattern), allowed)
    return [_with(config, update_rule=name) for name in names]


def among_rules(
    preset: Preset, passes: tuple[int, ...], depths: dict[int, tuple[int, ...]]
) -> Preset:
    """The preset without what has no rule, the transformers, and without matched runs.

    The generator of a Jet block is as wide as Jet-Nemotron's: an eighth of the value features.
    """
    rule = preset.config.model.gated_delta_net
    eighth = max(1, rule.value_heads * rule.value_dim // 8)
    return dataclasses.replace(
        preset,
        config=_with(preset.config, generator_hidden=eighth),
        passes=passes,
        depths=depths,
        match=(),
        matched_rates={},
        matched_seeds=next(iter(depths.values())),
        evicted_seeds=(),
        full_cache_seeds=(),
    )


def _with(config: RunConfig, **fields: Any) -> RunConfig:
    rule = dataclasses.replace(config.model.gated_delta_net, **fields)
    return dataclasses.replace(
        config, model=dataclasses.replace(config.model, gated_delta_net=rule)
    )
