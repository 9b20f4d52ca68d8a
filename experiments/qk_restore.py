"""What does fine-tuning on chains cost recall, and what of it comes back with old weights?

    python -m experiments.qk_restore --preset=cpu [--fine_tuned=chain,far_chain] [--pairs=16]
        [--fine_tuning_share=0.2] [--fine_tuning_rate=0.5] [--seeds=0,1] [--workdir=DIR] [--dry_run]

QK-Restore (arXiv 2606.11052) at the size of a laptop. A hybrid with its cache kept learns to recall
at every distance, and chains (sleep_jax/tasks/recall.py); it is then fine-tuned on chains of
another rule, of which every step follows from the last two tokens, and some of its weights are put
back as they were before: queries and keys of softmax attention, as the paper does, and others, for
comparison. Control: chains whose steps have to be looked up in the context, at any distance, so as
much of a chain without its locality. Nothing is trained after that; each is read on recall and on
what it was fine-tuned on.
"""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from experiments import binary, cells, cli, presets, until_learned
from experiments.cells import Cell
from experiments.fine_tuned import CHAINS, RECALL, on_chains
from experiments.presets import Preset
from experiments.readings import write_missing
from experiments.recall_pairs import PAIRS
from sleep_jax.config import RunConfig
from sleep_jax.model.config import GatedDeltaNetConfig
from sleep_jax.tasks.recall import SKILLS, RecallConfig

if TYPE_CHECKING:
    from sleep_jax.model.config import ModelConfig
    from sleep_jax.model.decoder import Parameters
    from sleep_jax.trained import Trained

_FINE_TUNED = flags.DEFINE_list("fine_tuned", list(CHAINS), f"On what: {', '.join(CHAINS)}.")
_STRENGTHS = (0.1, 1.0, 10.0)  # of QK-Pro


def cpu() -> Preset:
    """`make experiment EXP=qk_restore`: 16 pairs, 48 tokens, 36 thousand parameters, two seeds.

    4.1 minutes on two cores of an Intel Xeon (Emerald Rapids), installed.
    Learned on the validation split (one seed) with the first rate tried; fine-tuned at half of it,
    between a rate that cost a chain's recall nothing and one that cost all of it. Expected:
    experiments/results/qk_restore/cpu.
    """
    task = RecallConfig(SKILLS, pairs=16, keys=32, window=32)
    train = {"tokens": 6_400_000, "accumulate": 4}  # parts that a core's cache holds
    preset = presets.on_task(presets.cpu(), task, {task.pairs: (0, 1)}, **train)
    preset = until_learned.at_rate(preset, muon_learning_rate=5e-3)
    model = dataclasses.replace(
        preset.config.model,
        pattern=("gated_delta_net", "attention", "gated_delta_net"),
        d_model=32,
        mlp_hidden=64,
        # Too small a state to hold all pairs, so that attention has to find them.
        gated_delta_net=GatedDeltaNetConfig(key_heads=2, value_heads=2, key_dim=8, value_dim=8),
    )
    return dataclasses.replace(
        _one_pass(preset, model),
        flops_per_second=6e9,
        basis="6 GFLOP/s a core at this size, measured on an Intel Xeon beside other work",
    )


def smoke() -> Preset:
    """Every part of the real thing, too short to learn. Used by the tests."""
    task = RecallConfig(SKILLS, pairs=4, keys=6, values=4, questions=2, window=8)
    preset = presets.shrink(presets.cpu(), task)
    return _one_pass(dataclasses.replace(preset, depths={task.pairs: (0, 1)}), preset.config.model)


def _one_pass(preset: Preset, model: "ModelConfig") -> Preset:
    """The preset with its cache kept, and so nothing but runs of one pass."""
    loop = dataclasses.replace(preset.config.sleep, cache="keep")
    return dataclasses.replace(
        preset,
        config=dataclasses.replace(preset.config, model=model, sleep=loop),
        passes=(1,),
        match=(),
        evicted_seeds=(),
        full_cache_seeds=(),
    )


def _all_in_one_window(config: RunConfig) -> RunConfig:
    """With another P the window that holds the whole context."""
    task = config.task
    assert isinstance(task, RecallConfig)
    return dataclasses.replace(config, task=dataclasses.replace(task, window=2 * task.pairs))


def _learning_to_recall(at: Mapping[int, RunConfig], preset: Preset) -> list[Cell]:
    return [
        cells.hybrid(config, passes, seed)
        for pairs, config in at.items()
        for passes in preset.passes
        for seed in preset.depths[pairs]
    ]


def _fine_tuned(first: Sequence[Cell], directory: Path) -> list[Cell]:
    """What each of the first goes on to learn, with all its parameters free."""
    skills = cli.parse_names(_FINE_TUNED.name, _FINE_TUNED.value, CHAINS)
    return [on_chains(cell, skill, directory) for cell in first for skill in skills]


def arms(
    model: "ModelConfig", before: "Parameters", after: "Parameters"
) -> dict[str, "Parameters"]:
    """The parameters with what is put back, by its name in tables."""
    from sleep_jax import parts, qk_restore
    from sleep_jax.parts import attention, fast_weight_routing

    routing = attention("query", "key")
    chosen = {
        "query": attention("query"),
        "key": attention("key"),
        "value": attention("value"),
        "output": attention("output"),
        "value, output": attention("value", "output"),
        "query, key of fast weights": fast_weight_routing,
        "query, key of both": lambda path: routing(path) or fast_weight_routing(path),
        "fast weights": parts.fast_weights,
        "MLPs": parts.mlps,
        "embeddings": parts.embeddings,
        "all but query, key": lambda path: not routing(path),
    }
    found = {"nothing": after, "query, key": qk_restore.qk_restore(before, after)}
    found |= {name: qk_restore.restored(before, after, part) for name, part in chosen.items()}
    for strength in _STRENGTHS:
        pro = qk_restore.qk_pro(model.attention, before, after, strength)
        found[f"key, query by QK-Pro, c = {strength:g}"] = pro
    return found


def _read(planned: Sequence[Cell], directory: Path) -> None:
    write_missing(planned, directory, lambda cell, run: {"readings": readings(run)})


def readings(run: Path) -> list[dict[str, Any]]:
    """What a run scores on recall and on its chains; a fine-tuned one with each of `arms` put back.

    Of what was not fine-tuned, `put_back` is "".
    """
    from sleep_jax import trained

    after = trained.load(run)
    train, task = after.config.train, after.config.task
    assert isinstance(task, RecallConfig)
    params = {"": after.params}
    if train.warm_start:
        before = trained.load(train.warm_start_of_seed).params
        params = arms(after.config.model, before, after.params)
    return [
        {"put_back": name, "skill": skill, **_scores(after, skill, put_back)}
        for skill in dict.fromkeys([RECALL, *task.skills])
        for name, put_back in params.items()
    ]


def _scores(run: "Trained", skill: str, params: "Parameters") -> dict[str, Any]:
    """On the evaluation sequences of one skill of the run's task."""
    from sleep_jax.training.evaluation import evaluation_sequences

    config = run.config
    config = dataclasses.replace(config, task=dataclasses.replace(config.task, skills=(skill,)))
    sequences = evaluation_sequences(config, config.train.evaluation_sequences)
    return dataclasses.replace(run, params=params).evaluate(sequences)


EXPERIMENT = binary.Experiment(
    name="qk_restore",
    presets={"cpu": cpu, "smoke": smoke},
    depth_flag=PAIRS,
    lowest_depth=4,
    about=lambda task: {},
    adapt=_all_in_one_window,
    planned=_learning_to_recall,
    then=_fine_tuned,
    read=_read,
)


def main() -> int:
    """Plans, runs, reads and reports."""
    return binary.main(EXPERIMENT)


if __name__ == "__main__":
    sys.exit(cli.run(main, sys.argv))
