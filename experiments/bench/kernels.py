"""Speed of the gated delta rule by implementation, beside PyTorch's and a plain token scan.

    python -m experiments.bench.kernels [--shapes=C1,C2] [--torch_compile]
        [--out=pallas_kernels/results]

Forward, and forward with backward (all six gradients, cotangents on both outputs), in one process;
what is compared takes turns. Every peer is first held against ours on the same arrays. Writes
`<out>/<device>.json` and a Markdown table beside it.
"""

# torch and transformers are not among the suite's own packages.
# pyright: reportMissingImports=false

import logging
import os
import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags

from experiments import cli
from pallas_kernels.shapes import SHAPES, Shape
from sleep_jax.errors import UserError

log = logging.getLogger("sleep_jax")

_SHAPES = flags.DEFINE_list("shapes", ["C1", "C2"], f"Of {', '.join(SHAPES)}.")
_OUT = flags.DEFINE_string("out", "pallas_kernels/results", "Directory of the results.")
_ROUNDS = flags.DEFINE_integer("rounds", 9, "Timed turns of each implementation.")
_TORCH_COMPILE = flags.DEFINE_boolean("torch_compile", False, "Also torch.compile of the peer.")

TOLERANCE = 1e-4
Call = Callable[[], Any]


def inputs_of(shape: Shape) -> tuple[list[Any], list[Any]]:
    """float32 NumPy inputs and cotangents; unit keys, decays of a trained model's size."""
    import numpy as np

    rng = np.random.default_rng(0)
    keys, gates = (shape.B, shape.T, shape.H, shape.Dk), (shape.B, shape.T, shape.Hv)
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)  # noqa: E731
    state = rng.normal(size=(shape.B, shape.Hv, shape.Dk, shape.Dv))
    inputs = [
        unit(rng.normal(size=keys)) * shape.Dk**-0.5,
        unit(rng.normal(size=keys)),
        rng.normal(size=(*gates, shape.Dv)),
        -rng.exponential(0.1, size=gates),
        rng.uniform(size=gates),
        state,
    ]
    cotangents = [rng.normal(size=(*gates, shape.Dv)), rng.normal(size=state.shape)]
    return [x.astype(np.float32) for x in inputs], [x.astype(np.float32) for x in cotangents]


def jax_calls(implementation: str, shape: Shape) -> dict[str, Call]:
    """Forward, and forward with backward, of one of ours."""
    import jax
    import jax.numpy as jnp

    from pallas_kernels import gated_delta_rule

    inputs, cotangents = jax.tree.map(jnp.asarray, inputs_of(shape))

    def rule(*arrays):
        return gated_delta_rule(*arrays, implementation=implementation)

    def both(arrays, down):
        outputs, pullback = jax.vjp(rule, *arrays)
        return outputs, pullback(tuple(down))

    forward, both = jax.jit(rule), jax.jit(both)
    return {
        "forward": lambda: jax.block_until_ready(forward(*inputs)),
        "both": lambda: jax.block_until_ready(both(inputs, cotangents)),
    }


def torch_calls(shape: Shape, compiled: bool) -> dict[str, Call]:
    """The same by the chunk function of transformers' Qwen3-Next, which wants equal head counts."""
    import torch

    from experiments.bench.torch_peer import chunk_rule

    inputs, cotangents = ([torch.from_numpy(x) for x in part] for part in inputs_of(shape))
    rule = torch.compile(chunk_rule, dynamic=False) if compiled else chunk_rule

    def forward():
        with torch.no_grad():
            return rule(*inputs)

    def both():
        leaves = [x.detach().requires_grad_() for x in inputs]
        outputs = rule(*leaves)
        gradients = torch.autograd.grad(outputs, leaves, cotangents)
        return [x.detach() for x in outputs], gradients

    return {"forward": forward, "both": both}


def spread(seconds: list[float]) -> dict[str, float]:
    """Median and range."""
    return {"median": statistics.median(seconds), "lowest": min(seconds), "highest": max(seconds)}


def _disagreement(ours: Any, theirs: Any) -> float:
    """Largest relative norm of a difference, over outputs and gradients."""
    import jax
    import numpy as np

    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    return max(
        float(np.linalg.norm(np.asarray(a) - np.asarray(b)) / np.linalg.norm(np.asarray(a)))
        for a, b in pairs
    )


def bench(name: str, rounds: int, compiled: bool) -> dict[str, Any]:
    """All implementations on one shape."""
    from experiments.bench import measure

    shape = SHAPES[name]
    peers = {"xla": jax_calls("xla", shape), "token scan": jax_calls("oracle", shape)}
    skipped = {}
    if missing := measure.missing_peers():
        skipped["transformers"] = f"not installed: {', '.join(missing)}"
    else:
        peers["transformers, eager"] = torch_calls(shape, False)
        if compiled:
            peers["transformers, torch.compile"] = torch_calls(shape, True)
    log.info("%s %s: %s", name, tuple(shape), ", ".join(peers))
    wanted = peers["xla"]["both"]()
    apart = {}
    for peer, calls in peers.items():
        apart[peer] = _disagreement(wanted, calls["both"]())
        if apart[peer] > TOLERANCE:
            raise RuntimeError(f"{peer} computes something else on {name}: {apart[peer]:.1e}")
    result: dict[str, Any] = {"shape": shape._asdict(), "apart": apart, "skipped": skipped}
    for direction in ("forward", "both"):
        seconds = measure.turns({peer: calls[direction] for peer, calls in peers.items()}, rounds)
        times = {peer: spread(values) for peer, values in seconds.items()}
        first = times["xla"]["median"]
        for row in times.values():
            row["times_xla"] = row["median"] / first
        result[direction] = times
    return result


def _device_name(result: dict[str, Any]) -> str:
    device = result["device"]
    if device["platform"] != "cpu":
        return device["kind"]
    return f"{device['host']}, {result['cores_used']} used"


def table(result: dict[str, Any]) -> str:
    """Markdown of all shapes."""
    lines = [
        f"{_device_name(result)}, load {result['load_average_before']:.1f} before; "
        f"float32; median of {result['rounds']} turns in one process (lowest to highest).",
        "",
        "| shape | | forward ms | times xla | forward + backward ms | times xla |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for name, row in result["shapes"].items():
        for peer in row["forward"]:
            cells = []
            for direction in ("forward", "both"):
                t = row[direction][peer]
                cells.append(
                    f"{1e3 * t['median']:.2f} ({1e3 * t['lowest']:.2f} to "
                    f"{1e3 * t['highest']:.2f}) | {t['times_xla']:.1f}"
                )
            lines.append(f"| {name} | {peer} | {' | '.join(cells)} |")
    shapes = (
        f"{name}: {', '.join(f'{k} {v}' for k, v in row['shape'].items())}"
        for name, row in result["shapes"].items()
    )
    return "\n".join([*lines, "", "; ".join(shapes) + ".", ""])


def main() -> int:
    """Measures, prints, writes."""
    unknown = [name for name in _SHAPES.value if name not in SHAPES]
    if unknown or not _SHAPES.value:
        raise UserError(f"--shapes={','.join(_SHAPES.value)}: allowed: {', '.join(SHAPES)}")
    if _ROUNDS.value < 1:
        raise UserError(f"--rounds={_ROUNDS.value} is not possible; allowed: whole numbers >= 1")

    from sleep_jax import distributed, records

    result = {
        **records.environment(distributed.make_mesh(), {"shapes": _SHAPES.value}),
        "load_average_before": os.getloadavg()[0],
        "rounds": _ROUNDS.value,
        "cores_used": cli.usable_cores(),
        "shapes": {
            name: bench(name, _ROUNDS.value, _TORCH_COMPILE.value) for name in _SHAPES.value
        },
    }
    text = table(result)
    print(text)
    out = Path(_OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    file = out / (re.sub(r"\W+", "-", _device_name(result).lower()) + ".json")
    records.write_json(file, result)
    file.with_suffix(".md").write_text(text)
    log.info("wrote %s", file)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, sys.argv))
