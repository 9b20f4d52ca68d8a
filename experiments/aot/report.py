"""Rows of what was compiled, as JSON and as Markdown."""

import dataclasses
import json
import logging
from importlib import metadata
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from experiments.aot import compiling, cost, hlo, jobs, roofline
from experiments.aot.compiling import Compiled
from sleep_jax import flops, records
from sleep_jax.chips import Chip
from sleep_jax.config import RunConfig, to_dict
from sleep_jax.model.decoder import count_parameters

log = logging.getLogger("sleep_jax")
GIB = 2**30
Row = dict[str, Any]


def row(config: RunConfig, mesh: Mesh, chip: Chip) -> Row:
    """Compiles one run; of one that does not fit, reports the largest batch that does."""
    asked = config.train.batch_size
    first = compiling.compile_step(config, mesh)
    result: Row = {
        "passes": config.sleep.passes,
        "batch_asked": asked,
        "state_bytes": compiling.state_bytes(config, mesh),
        "fits": isinstance(first, Compiled),
        "compile_seconds": first.seconds,
    }
    if isinstance(first, Compiled):
        return {**result, **_of_compiled(config, mesh, chip, first)}
    log.info("out of memory at batch %d: %s of %s", asked, first.needed, first.available)
    batch, best = compiling.largest_batch(config, mesh)
    result |= {"needed": first.needed, "available": first.available, "batch": batch}
    if best is None:
        return result
    return {**result, **_of_compiled(jobs.with_batch(config, batch), mesh, chip, best)}


def _of_compiled(config: RunConfig, mesh: Mesh, chip: Chip, compiled: Compiled) -> Row:
    counted = cost.count(hlo.parse(compiled.text))
    model_flops = flops.training_flops_per_step(config) / mesh.size
    bound = roofline.roofline(chip, counted.flops, counted.hbm_bytes, counted.sent_bytes)
    return {
        "batch": config.train.batch_size,
        "memory": dataclasses.asdict(compiled.memory) | {"needed": compiled.memory.needed},
        "cost": dataclasses.asdict(counted),
        "xla_flops_loops_once": compiled.xla_flops,
        "model_flops": model_flops,
        "roofline": {
            **dataclasses.asdict(bound),
            "bound": bound.bound,
            "overlapped": bound.overlapped,
            "one_by_one": bound.one_by_one,
        },
        "tokens_per_second_per_device": config.tokens_per_step / mesh.size / bound.overlapped,
        "mfu_at_most": model_flops / bound.overlapped / chip.bf16_flops,
    }


def result(
    about: dict[str, Any], config: RunConfig, mesh: Mesh, chip: Chip, rows: list[Row]
) -> dict[str, Any]:
    """All of one run of the binary, ready for JSON."""
    return {
        **about,
        "commit": records.commit(),
        "versions": records.versions() | {"libtpu": metadata.version("libtpu")},
        "mesh": dict(mesh.shape),
        "devices": mesh.size,
        "chip": dataclasses.asdict(chip),
        "parameters": count_parameters(config.model),
        "tokens_of_a_sequence": config.sequence_length,
        "config": to_dict(config),
        "assumptions": list(roofline.ASSUMPTIONS),
        "rows": rows,
    }


def write(result: dict[str, Any], directory: Path, name: str) -> list[Path]:
    """Writes `<name>.json` and `<name>.md`."""
    records.check_writable(directory)
    data, text = directory / f"{name}.json", directory / f"{name}.md"
    data.write_text(json.dumps(result, indent=1) + "\n")
    text.write_text(table(result))
    return [data, text]


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    chip, rows = result["chip"], result["rows"]
    level = f", optimization level {result['level']}" if result["level"] else ""
    mesh = " x ".join(f"{name} {size}" for name, size in result["mesh"].items())
    lines = [
        f"# {result['experiment']}, {result['preset']}, {result['topology']}",
        "",
        f"{result['parameters'] / 1e6:,.1f}M parameters, T = {result['tokens_of_a_sequence']:,}; "
        f"{result['devices']} devices, mesh {mesh}{level}. Compiled on a CPU, run nowhere: commit "
        f"{result['commit']}, jax {result['versions']['jax']}, "
        f"libtpu {result['versions']['libtpu']}.",
        "",
        f"A device ({chip['name']}, {chip['devices_per_chip']} a chip): "
        f"{chip['hbm_bytes'] / GIB:.0f} GiB of HBM, of which a program gets "
        f"{chip['program_bytes'] / GIB:.2f}; {chip['bf16_flops'] / 1e12:.0f} TFLOP/s bfloat16; "
        f"{chip['hbm_bandwidth'] / 1e9:.0f} GB/s HBM; {chip['ici_bandwidth'] / 1e9:.0f} GB/s out "
        f"over its links ({chip['source']}).",
        "",
        "## Memory of a device, GiB",
        "",
        "| N | batch | a device | state | arguments | temporary | code | needed | fits |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|--|",
        *(line for row in rows for line in _memory_lines(result, row)),
        "",
        "## A step on a device",
        "",
        "| N | batch | TFLOP | of the model | HBM GB | sent MB | compute ms | HBM ms | links ms "
        "| step at least ms | one by one ms | tokens/s | MFU at most |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
        *(_step_line(row) for row in rows if "cost" in row),
        "",
        "## Collectives and kernels in a step",
        "",
        "| N | what | devices | times | in a loop | operands MB | sent MB |",
        "|--:|--|--:|--:|--:|--:|--:|",
        *(line for row in rows if "cost" in row for line in _collective_lines(row)),
        "",
    ]
    unknown = sorted(
        {name for row in rows for name in row.get("cost", {}).get("unknown_loops", ())}
    )
    if unknown:
        lines += [f"Loops of unknown length, counted once: {', '.join(unknown)}.", ""]
    if result["notes"]:
        lines += ["Where this is not the model it stands for:", ""]
        lines += [*(f"- {note}" for note in result["notes"]), ""]
    lines += [
        "TFLOP are counted in the compiled text, loops multiplied out, rematerialisation and "
        "optimizer included; `of the model` is sleep_jax/flops.py, without both. "
        + " ".join(_check(row) for row in rows if "cost" in row),
        "",
        "Assumptions:",
        "",
        *(f"- {line}" for line in result["assumptions"]),
        "",
    ]
    return "\n".join(lines)


def _memory_lines(result: dict[str, Any], row: Row) -> list[str]:
    shards = result["mesh"]["data"] * result["mesh"]["fsdp"]
    state = f"{row['state_bytes'] / GIB:.2f}"
    lines = []
    if not row["fits"]:
        asked = row["batch_asked"]
        found = f"largest that fits: {row['batch']}" if row["batch"] else "no batch fits"
        lines.append(
            f"| {row['passes']} | {asked} | {asked / shards:g} | {state} | | | | "
            f"{row['needed']} of {row['available']} | **out of memory**; {found} |"
        )
    if "memory" in row:
        memory = row["memory"]
        sizes = (memory[name] / GIB for name in ("argument", "temporary", "code", "needed"))
        cells = " | ".join(f"{size:.2f}" for size in sizes)
        batch = row["batch"]
        lines.append(
            f"| {row['passes']} | {batch} | {batch / shards:g} | {state} | {cells} | yes |"
        )
    return lines


def _step_line(row: Row) -> str:
    counted, bound = row["cost"], row["roofline"]
    sent = sum(c["sent_bytes"] for c in counted["collectives"])
    times = (bound[name] for name in ("compute", "memory", "links", "overlapped", "one_by_one"))
    cells = [
        f"{row['passes']}",
        f"{row['batch']}",
        f"{counted['flops'] / 1e12:.3g}",
        f"{row['model_flops'] / 1e12:.3g}",
        f"{counted['hbm_bytes'] / 1e9:.3g}",
        f"{sent / 1e6:.3g}",
        *(f"{1e3 * seconds:.3g}" for seconds in times),
        f"{row['tokens_per_second_per_device']:,.0f}",
        f"{row['mfu_at_most']:.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def _check(row: Row) -> str:
    ours, theirs = row["cost"]["product_flops_once"], row["xla_flops_loops_once"]
    return (
        f"N = {row['passes']}, loops counted once and without kernels: {ours / 1e12:.4g}, of XLA's "
        f"cost analysis {theirs / 1e12:.4g}, elementwise work included."
    )


def _collective_lines(row: Row) -> list[str]:
    lines = [
        f"| {row['passes']} | {c['kind']} | {c['devices']} | {c['times']} | {c['in_loops']} | "
        f"{c['payload_bytes'] / 1e6:.3g} | {c['sent_bytes'] / 1e6:.3g} |"
        for c in row["cost"]["collectives"]
    ]
    kernels = row["cost"]["kernels"].items()
    return lines + [f"| {row['passes']} | kernel {k} | | {times} | | | |" for k, times in kernels]
