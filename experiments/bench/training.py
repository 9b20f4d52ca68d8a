"""Speed of the training step by N, and beside the same computation in PyTorch.

    python -m experiments.bench.training [--preset=cpu] [--passes=1,2,4,8]
        [--out=runs/bench/training.json] [--torch_compile]

Prints a Markdown table and writes it beside the JSON file. Everything runs in one process on the
same cores, each library with its own default threads; what is compared takes turns.
"""

# torch and transformers are not among the suite's own packages.
# pyright: reportMissingImports=false

import logging
import os
import sys
from pathlib import Path
from typing import Any

from absl import flags

from experiments import cli, presets
from experiments.bench import timing
from sleep_jax.config import RunConfig, to_dict
from sleep_jax.errors import UserError

log = logging.getLogger("sleep_jax")

_PRESET = flags.DEFINE_string("preset", "cpu", f"One of {', '.join(presets.PRESETS)}.")
_PASSES = flags.DEFINE_list("passes", ["1", "2", "4", "8"], "N, passes a window.")
_OUT = flags.DEFINE_string("out", "runs/bench/training.json", "Where the JSON file goes.")
_TORCH_COMPILE = flags.DEFINE_boolean(
    "torch_compile", False, "Beside eager also torch.compile, which needs minutes to compile."
)

PEER_PASSES = (1, 4)
PEER_ROUNDS = 5
# The peer must compute the same thing before it is timed.
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-4, 1e-3


def beside_torch(config: RunConfig) -> dict[str, Any]:
    """Our loss and gradient against the peer's in turns; says why where it cannot be done."""
    if missing := timing.not_installed("torch", "transformers"):
        return {"skipped": f"not installed: {', '.join(missing)}"}
    import jax

    if jax.devices()[0].platform != "cpu":
        return {"skipped": f"the peer runs on cpu, JAX on {jax.devices()[0].platform}"}
    import torch
    import transformers

    rows = [_beside_torch(config, passes) for passes in PEER_PASSES]
    threads = torch.get_num_threads()
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return {"versions": versions, "torch_threads": threads, "rows": rows}


def _beside_torch(config: RunConfig, passes: int) -> dict[str, Any]:
    import torch

    from experiments.bench import measure
    from experiments.bench.torch_peer import Peer, agreement, torch_batch
    from sleep_jax.training.step import Program

    config = measure.at(config, passes)
    model = Program.of(config, "cpu").model
    params, ours = measure.loss_and_gradient(config)
    expected = ours()
    batch = torch_batch(measure.batch_of(config))
    row: dict[str, Any] = {"passes": passes, "agreement": {}, "failed": {}}
    calls: dict[str, Any] = {"ours": ours}
    peers = {
        "eager": Peer(model, params, chunk_size=None, compiled=False),
        "eager, the rule's own chunk of 64": Peer(model, params, chunk_size=64, compiled=False),
    }
    if _TORCH_COMPILE.value:
        peers["torch.compile"] = Peer(model, params, chunk_size=None, compiled=True)
    for name, peer in peers.items():
        log.info("N = %d beside PyTorch, %s", passes, name)
        try:
            result = peer.loss_and_gradient(batch, passes)
        except torch._dynamo.exc.TorchDynamoException as error:  # no compiler, unsupported, ...
            row["failed"][name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            continue
        close = agreement(expected, result)
        row["agreement"][name] = {"loss": close.loss, "gradient": close.gradient}
        if not (close.loss <= LOSS_TOLERANCE and close.gradient <= GRADIENT_TOLERANCE):
            raise RuntimeError(f"{name} at N = {passes} computes something else: {close}")
        calls[name] = lambda peer=peer: peer.loss_and_gradient(batch, passes)
    row["seconds"] = timing.interleaved(calls, PEER_ROUNDS)
    row["times_ours"] = {k: s / row["seconds"]["ours"] for k, s in row["seconds"].items()}
    return row


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    where, slope, peer = result["environment"], result["slope"], result["peer"]
    lines = [
        f"Preset {result['preset']}: batch {result['batch_size']}, {where['device']['host']}, "
        f"{result['cores_used']} used, load {result['load_average_before']:.1f} before; "
        f"commit {where['commit']}.",
        "",
        "| N | tokens/s | ms/step | to first N | GFLOP/s | compile s | temporary MiB | wake ms |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in result["training"]:
        lines.append(
            f"| {row['passes']} | {row['tokens_per_second']:,.0f} | "
            f"{1e3 * row['step_seconds']:.1f} | {row['relative_to_first']:.2f} | "
            f"{row['flops_per_second'] / 1e9:.1f} | {row['compile_seconds']:.1f} | "
            f"{row['temporary_bytes'] / 2**20:.1f} | "
            f"{1e3 * result['wake_seconds'][row['passes']]:.2f} |"
        )
    memory = ", ".join(f"{k} {b / 2**20:.1f}" for k, b in result["remat_temporary_bytes"].items())
    lines += ["", f"Temporary MiB at N = {max(result['wake_seconds'])} by remat: {memory}."]
    lines += ["", f"Input pipeline alone: {result['pipeline_tokens_per_second']:,.0f} tokens/s."]
    if slope is not None:
        lines.append(
            f"A step takes {1e3 * slope['fixed_seconds']:.1f} ms + "
            f"{1e3 * slope['seconds_per_pass']:.1f} ms a pass (R² {slope['explained']:.4f})."
        )
    if "skipped" in peer:
        return "\n".join([*lines, f"Beside PyTorch: skipped, {peer['skipped']}.", ""])
    lines += [
        "",
        f"Loss and gradient as trained (remat {result['remat']}); "
        f"PyTorch {peer['versions']['torch']} with {peer['torch_threads']} threads, "
        f"transformers {peer['versions']['transformers']}.",
        "",
        "| N | | ms | times ours | worst gradient apart |",
        "|--:|--|--:|--:|--:|",
    ]
    for row in peer["rows"]:
        for name, seconds in row["seconds"].items():
            close = row["agreement"].get(name)
            apart = f"{close['gradient']:.0e}" if close else ""
            lines.append(
                f"| {row['passes']} | {name} | {1e3 * seconds:.1f} | "
                f"{row['times_ours'][name]:.2f} | {apart} |"
            )
        lines += [f"| {row['passes']} | {n} | failed: {w} | | |" for n, w in row["failed"].items()]
    return "\n".join([*lines, ""])


def main() -> int:
    """Measures, prints, writes."""
    preset = presets.named(_PRESET.value)
    passes = cli.parse_numbers("passes", _PASSES.value, 1, "whole numbers N")
    if not passes:
        raise UserError("--passes= is empty; allowed: at least one number")
    preset.set_environment()

    # Imports JAX, so only once the environment says how it is to run.
    from experiments.bench import measure
    from sleep_jax import distributed, records

    config = preset.config
    config.validate()
    log.info("training steps at N = %s", ",".join(map(str, passes)))
    mesh = distributed.make_mesh()
    result: dict[str, Any] = {
        "preset": _PRESET.value,
        "batch_size": config.train.batch_size,
        "config": to_dict(config),
        "environment": records.environment(mesh, {"passes": list(passes)}),
        "cores_used": cli.usable_cores(),
        "load_average_before": os.getloadavg()[0],  # tells whether something else ran beside it
        "pipeline_tokens_per_second": measure.pipeline_tokens_per_second(config),
        "wake_seconds": measure.wake_seconds(config, mesh, passes),
        "training": (rows := measure.training_steps(config, mesh, passes)),
        "remat": config.sleep.remat,
        "remat_temporary_bytes": measure.remat_memory(config, mesh, rows),
        "slope": measure.slope(rows),
        "peer": beside_torch(config),
    }
    text = table(result)
    print(text)
    out = Path(_OUT.value)
    out.parent.mkdir(parents=True, exist_ok=True)
    records.write_json(out, result)
    out.with_suffix(".md").write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, sys.argv))
