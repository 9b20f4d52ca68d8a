"""What experiments on the task of recall share: a flag, and the presets of those beside sleep."""

import dataclasses

from absl import flags

from experiments import presets, until_learned
from experiments.presets import Preset
from sleep_jax.config import RunConfig
from sleep_jax.model.config import AttentionConfig
from sleep_jax.tasks.recall import RecallConfig

# Defined once: absl knows a flag by one definition alone.
PAIRS = flags.DEFINE_list("pairs", None, "P, pairs in the context, or of a day; comma-separated.")


def cpu() -> Preset:
    """16 pairs and a question about each, 64 tokens, two blocks; a hybrid has 31 thousand weights.

    One rate for all, the first that was tried (validation split, one seed).
    """
    task = RecallConfig(pairs=16, keys=32, questions=16, window=16)
    train = {"batch_size": 32, "tokens": 3_200_000, "accumulate": 2, "evaluations": 24}
    preset = presets.on_task(presets.cpu(), task, {task.pairs: (0,)}, **train)
    preset = until_learned.at_rate(preset, muon_learning_rate=5e-3)
    optimizer = dataclasses.replace(preset.config.optimizer, decay_fraction=0.0)
    model = dataclasses.replace(
        preset.config.model,
        pattern=("attention", "gated_delta_net"),
        d_model=32,
        mlp_hidden=64,
        attention=AttentionConfig(head_dim=16),
    )
    config = dataclasses.replace(preset.config, model=model, optimizer=optimizer)
    return dataclasses.replace(
        _hybrids_alone(dataclasses.replace(preset, config=config)),
        passes=(1, 2),
        flops_per_second=6e9,
        basis="6 GFLOP/s a core at this size, measured on an Intel Xeon beside other work",
    )


def smoke(preset: Preset) -> Preset:
    """The preset too short to learn, with all its parts."""
    task = RecallConfig(pairs=8, keys=10, values=4, questions=4, window=8)
    small = presets.shrink(preset, task)
    return _hybrids_alone(dataclasses.replace(small, depths={task.pairs: (0,)}))


def _hybrids_alone(preset: Preset) -> Preset:
    """Smaller N with the FLOPs of the largest as well; transformers are planned by other means."""
    none = {"evicted_seeds": (), "full_cache_seeds": ()}
    return dataclasses.replace(preset, match=("tokens",), **none)  # type: ignore[arg-type]


def every_pair_once(config: RunConfig) -> RunConfig:
    """With another P twice as many keys, and a question about every pair."""
    task = config.task
    assert isinstance(task, RecallConfig)
    changed = dataclasses.replace(task, keys=2 * task.pairs, questions=task.pairs)
    return dataclasses.replace(config, task=changed)
