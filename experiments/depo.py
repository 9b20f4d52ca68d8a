"""k-hop retrieval on a cycle after sleep: the paper's Fig. 3 (arXiv 2605.26099, Depo).

    python -m experiments.depo --preset=cpu [--passes=1,2,4] [--max_hops=4] [--seeds=0,1,2]
        [--match=flops] [--workdir=DIR] [--set=task.nodes=12] [--dry_run]

One model answers all hops; loss and whole-answer accuracy are reported by k. What is trained beside
it, and where results go, is as in experiments/cellular_automata.py.
"""

import dataclasses
import sys
from typing import Any

from absl import flags

from experiments import binary, cli, presets
from experiments.presets import Preset
from sleep_jax.model.config import AttentionConfig, GatedDeltaNetConfig
from sleep_jax.tasks.depo import DepoConfig

_MAX_HOPS = flags.DEFINE_list(
    "max_hops", None, "K, comma-separated: training asks 1 to K hops; the first is the headline."
)


def cpu() -> Preset:
    """`make experiment EXP=depo`: cycles of up to 6 nodes, 1 and 2 hops.

    Three seeds: 10.3 minutes on two cores of an AMD EPYC (Genoa). Expected, with five:
    experiments/results/depo/cpu.
    """
    task = DepoConfig(nodes=6, names_vocab=12, max_name_length=1, max_hops=2, pairs=4, window=4)
    return presets.on_task(presets.cpu(), task, {2: (0, 1, 2)}, tokens=2_000_000)


def smoke() -> Preset:
    """Every part of the real thing, too short to learn. Used by the tests."""
    task = DepoConfig(nodes=4, names_vocab=8, max_name_length=1, max_hops=2, pairs=2, window=4)
    small = presets.shrink(cpu(), task)
    return dataclasses.replace(small, match=("tokens",), depths={2: (0,)})


def paper() -> Preset:
    """The paper's setting: 75 nodes, 1 to 16 hops, ten blocks, d = 512, 100k steps of batch 128.

    Not stated there and chosen here: 8 heads of 64, SwiGLU hidden 1024, schedule, clipping. The
    paper: one to two H100 days. Starts and resumes here; nobody has finished it yet.
    """
    task = DepoConfig()
    preset = presets.on_task(
        presets.paper(), task, {16: (0,)}, batch_size=128, tokens=100_000 * 128 * 360
    )
    model = dataclasses.replace(
        preset.config.model,
        pattern=("attention", "gated_delta_net") * 5,
        d_model=512,
        mlp_hidden=1024,
        attention=AttentionConfig(heads=8, kv_heads=8, head_dim=64),
        gated_delta_net=GatedDeltaNetConfig(key_heads=8, value_heads=8, key_dim=64, value_dim=64),
    )
    config = dataclasses.replace(preset.config, model=model)
    return dataclasses.replace(preset, config=config, passes=(1, 2, 4))


def _about(task: Any) -> dict[str, Any]:
    return {"node_draw": task.node_draw}


EXPERIMENT = binary.Experiment(
    name="depo",
    presets={"cpu": cpu, "smoke": smoke, "paper": paper},
    depth_flag=_MAX_HOPS,
    lowest_depth=1,
    about=_about,
)


def main() -> int:
    """Plans, runs and reports."""
    return binary.main(EXPERIMENT)


if __name__ == "__main__":
    sys.exit(cli.run(main, sys.argv))
