"""Speed of the gated delta rule by implementation, beside PyTorch's, FLA's and a plain token scan.

    python -m experiments.bench.kernels [--shapes=C1,C2] [--dtype=float32] [--torch_compile]
        [--out=pallas_kernels/results]

Forward, and forward with backward (all six gradients, cotangents on both outputs), in one process
and on one device; what is compared takes turns. Every implementation is first held against "xla" in
float32 on the same arrays. Times stand beside the least that the device's own copy and product,
measured in the same process, leave. Writes `<out>/<device>.json` and a Markdown table beside it.
Exit code 1 says that one of them computes something else; the table names it.

On a GPU without network: `pip install fla-core` into a folder, carry it, name it in PYTHONPATH.
"""

import logging
import math
import os
import re
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from absl import flags

from experiments import cli
from pallas_kernels.shapes import SHAPES
from sleep_jax.errors import UserError

log = logging.getLogger("sleep_jax")

_DTYPES = ("float32", "bfloat16")
_SHAPES = flags.DEFINE_list(
    "shapes", None, f"Of {', '.join(SHAPES)}; by default C1, C2 on a CPU, else S1 to S4."
)
_DTYPE = flags.DEFINE_enum(
    "dtype", None, _DTYPES, "Of the tokens; by default float32 on a CPU, else bfloat16."
)
_OUT = flags.DEFINE_string("out", "pallas_kernels/results", "Directory of the results.")
_ROUNDS = flags.DEFINE_integer("rounds", 9, "Timed turns of each implementation.")
_TORCH_COMPILE = flags.DEFINE_boolean("torch_compile", False, "Also torch.compile of the peer.")

_TURN_SECONDS = 0.02  # of a turn on an accelerator, so that starting kernels is not what is timed
DIRECTIONS = {"forward": "forward", "both": "forward + backward"}


def spread(seconds: list[float]) -> dict[str, float]:
    """Median and range."""
    return {"median": statistics.median(seconds), "lowest": min(seconds), "highest": max(seconds)}


def _repeats(call: Any) -> int:
    """Runs a turn: one on a CPU, on an accelerator as many as fill `_TURN_SECONDS`."""
    import jax

    if jax.default_backend() == "cpu":
        return 1
    call(1)  # compiles
    start = time.perf_counter()
    call(1)
    return max(1, min(200, math.ceil(_TURN_SECONDS / (time.perf_counter() - start))))


def _disagreement(peer: Any, wanted: list[Any]) -> float:
    """Largest relative norm of a difference, over outputs and those gradients that hold."""
    import jax
    import numpy as np

    result = peer.both(1) if peer.both else peer.forward(1)
    got = [peer.numpy(x) for x in jax.tree.leaves(result)]
    if not peer.gradients_hold:
        got = got[:2]
    norm = np.linalg.norm
    return max(float(norm(a - b) / norm(a)) for a, b in zip(wanted, got, strict=False))


def bench(name: str, dtype: str, rounds: int, compiled: bool, roofline: Any) -> dict[str, Any]:
    """All implementations on one shape; those that compute something else are named, not timed.

    Raises:
      RuntimeError: "xla" itself does.
    """
    import jax.numpy as jnp

    from experiments.bench import rules, timing

    shape = SHAPES[name]
    available, skipped = rules.peers(shape, dtype, compiled)
    wanted = rules.reference(shape, dtype)
    made, apart, remarks, wrong = {}, {}, {}, []
    for peer_name, make in available.items():
        try:
            peer = make()
            apart[peer_name] = _disagreement(peer, wanted)
        # Refused at the door, by Pallas, by the compiler of a device nobody has tried it on, or
        # for want of memory (a RuntimeError of JAX or PyTorch).
        except (ValueError, RuntimeError) as error:
            skipped[peer_name] = (str(error).splitlines() or [type(error).__name__])[0]
            continue
        if not apart[peer_name] <= peer.tolerance:
            skipped[peer_name] = f"wrong, {apart[peer_name]:.1e} apart from xla in float32"
            wrong.append(peer_name)
            continue
        made[peer_name] = peer
        if peer.remark:
            remarks[peer_name] = peer.remark
    if "xla" not in made:
        raise RuntimeError(f"{name}: xla is {skipped['xla']}")
    log.info("%s %s %s: %s", name, tuple(shape), dtype, ", ".join(made))
    for peer_name, why in skipped.items():
        log.info("%s without %s: %s", name, peer_name, why)
    token_bytes = jnp.dtype(dtype).itemsize
    result: dict[str, Any] = {
        "shape": shape._asdict(),
        "apart": apart,
        "skipped": skipped,
        "remarks": remarks,
        "wrong": wrong,
    }
    for direction in DIRECTIONS:
        parts = (False,) if direction == "forward" else (False, True)
        least = sum(roofline.seconds(shape, token_bytes, backward) for backward in parts)
        calls = {p: call for p, peer in made.items() if (call := getattr(peer, direction))}
        repeats = {p: _repeats(call) for p, call in calls.items()}
        timed = {p: lambda c=call, n=repeats[p]: c(n) for p, call in calls.items()}
        seconds = timing.turns(timed, rounds)
        times = {p: spread([x / repeats[p] for x in values]) for p, values in seconds.items()}
        for row in times.values():
            median = row["median"]
            row["times_xla"] = median / times["xla"]["median"]
            if "FLA" in times:
                row["times_fla"] = median / times["FLA"]["median"]
            row["times_roofline"] = median / least
            row["bytes_per_second"] = sum(shape.bytes_moved(token_bytes, b) for b in parts) / median
            row["flops_per_second"] = sum(map(shape.flops, parts)) / median
        result[direction] = times
    return result


def _device_name(result: dict[str, Any]) -> str:
    device = result["device"]
    if device["platform"] != "cpu":
        return device["kind"]
    return f"{device['host']}, {result['cores_used']} used"


def table(result: dict[str, Any]) -> str:
    """Markdown of all shapes."""
    roofline = result["roofline"]
    has_fla = any("FLA" in row["forward"] for row in result["shapes"].values())
    columns = ["ms", "GB/s", "GFLOP/s", "times roofline", "times xla", *["times FLA"] * has_fla]
    header = ["shape", "", *(f"{said} {name}" if i == 0 else name
              for said in DIRECTIONS.values() for i, name in enumerate(columns))]  # fmt: skip
    lines = [
        f"{_device_name(result)}, load {result['load_average_before']:.1f} before; "
        f"{result['dtype']} tokens; median of {result['rounds']} turns in one process (lowest to "
        f"highest). Here a copy moves {roofline['bytes_per_second'] / 1e9:.0f} GB/s and a product "
        f"makes {roofline['flops_per_second'] / 1e9:.0f} GFLOP/s. GB/s and GFLOP/s count what no "
        "algorithm avoids: every array once, and the recurrence's own products.",
        "",
        "| " + " | ".join(header) + " |",
        "|---|---|" + "--:|" * (len(header) - 2),
    ]
    for name, row in result["shapes"].items():
        for peer in row["forward"]:
            cells = [name, peer]
            for direction in DIRECTIONS:
                cells += _cells(row[direction].get(peer), has_fla)
            lines.append("| " + " | ".join(cells) + " |")
    shapes = (
        f"{name}: {', '.join(f'{k} {v}' for k, v in row['shape'].items())}"
        for name, row in result["shapes"].items()
    )
    notes = [
        f"{name}, {peer}: {what}."
        for name, row in result["shapes"].items()
        for peer, what in {**row["skipped"], **row["remarks"]}.items()
    ]
    return "\n\n".join(["\n".join(lines), "; ".join(shapes) + ".", *notes]) + "\n"


def _cells(t: dict[str, float] | None, has_fla: bool) -> list[str]:
    if t is None:
        return ["not run"] + ["-"] * (4 + has_fla)
    return [
        f"{1e3 * t['median']:.2f} ({1e3 * t['lowest']:.2f} to {1e3 * t['highest']:.2f})",
        f"{t['bytes_per_second'] / 1e9:.1f}",
        f"{t['flops_per_second'] / 1e9:.1f}",
        f"{t['times_roofline']:.1f}",
        f"{t['times_xla']:.1f}",
        *([f"{t['times_fla']:.2f}" if "times_fla" in t else "-"] if has_fla else []),
    ]


def main() -> int:
    """Measures, prints, writes."""
    asked = _SHAPES.value
    if asked is not None and not (asked and set(asked) <= set(SHAPES)):
        raise UserError(f"--shapes={','.join(asked)}: allowed: {', '.join(SHAPES)}")
    if _ROUNDS.value < 1:
        raise UserError(f"--rounds={_ROUNDS.value} is not possible; allowed: whole numbers >= 1")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch wants memory too

    import jax

    from experiments.bench import roofline
    from sleep_jax import distributed, records

    on_cpu = jax.default_backend() == "cpu"
    shapes = asked or (["C1", "C2"] if on_cpu else ["S1", "S2", "S3", "S4"])
    dtype = _DTYPE.value or ("float32" if on_cpu else "bfloat16")
    load = os.getloadavg()[0]
    limits = roofline.measured(dtype)
    result = {
        **records.environment(distributed.make_mesh(), {"shapes": shapes, "dtype": dtype}),
        "load_average_before": load,
        "rounds": _ROUNDS.value,
        "cores_used": cli.usable_cores(),
        "dtype": dtype,
        "roofline": limits._asdict(),
        "shapes": {
            name: bench(name, dtype, _ROUNDS.value, _TORCH_COMPILE.value, limits) for name in shapes
        },
    }
    text = table(result)
    print(text)
    out = Path(_OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    stem = _device_name(result).lower() + (f"-{dtype}" if dtype != _DTYPES[0] else "")
    file = out / (re.sub(r"\W+", "-", stem) + ".json")
    records.write_json(file, result)
    file.with_suffix(".md").write_text(text)
    log.info("wrote %s", file)
    return int(any(row["wrong"] for row in result["shapes"].values()))


if __name__ == "__main__":
    sys.exit(cli.run(main, sys.argv))
