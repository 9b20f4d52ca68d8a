"""Compiles the training step of an experiment for TPUs, on a machine without one.

    python -m experiments.aot --topology=v5e:16x16 --experiment=cellular_automata --preset=paper
        [--passes=1,4] [--batch=512] [--data=-1] [--fsdp=1] [--tensor=1]
        [--set=model.d_model=512] [--optimization_level=O0] [--workdir=runs/aot]

Needs libtpu (`pip install 'jax[tpu]'`). For each N it prints memory per device against the chip's,
operations, traffic, collectives and the roofline of a step; what does not fit is reported with the
largest batch that does. Writes `<workdir>/<experiment>-<preset>-<topology>.json` and `.md`.
"""

import importlib.util
import logging
import os
import sys
from pathlib import Path

from absl import flags

from experiments import cli
from experiments.aot import jobs
from sleep_jax.errors import UserError
from sleep_jax.overrides import override

log = logging.getLogger("sleep_jax")

# The flags of the sweeps have the same names, and their modules are imported for their presets.
FLAGS = flags.FlagValues()
_TOPOLOGY = flags.DEFINE_string(
    "topology", "v5e:16x16", "Chip and shape of the slice.", flag_values=FLAGS
)
_EXPERIMENT = flags.DEFINE_string(
    "experiment",
    "cellular_automata",
    f"One of {', '.join((*jobs.SWEPT, jobs.OURO_SHAPE))}.",
    flag_values=FLAGS,
)
_PRESET = flags.DEFINE_string(
    "preset", "paper", "Name of a preset; an unknown one lists them.", flag_values=FLAGS
)
_PASSES = flags.DEFINE_list(
    "passes", None, "N, passes a window; default: the preset's.", flag_values=FLAGS
)
_BATCH = flags.DEFINE_integer(
    "batch", None, "Global batch; default: the preset's.", flag_values=FLAGS
)
_DATA = flags.DEFINE_integer(
    "data", -1, "Shards of the batch alone; -1: the rest.", flag_values=FLAGS
)
_FSDP = flags.DEFINE_integer(
    "fsdp", 1, "Shards of batch, parameters and moments.", flag_values=FLAGS
)
_TENSOR = flags.DEFINE_integer("tensor", 1, "Shards of heads and columns.", flag_values=FLAGS)
_SET = flags.DEFINE_multi_string(
    "set", [], "path=value for any field of the config.", flag_values=FLAGS
)
_LEVEL = flags.DEFINE_enum(
    "optimization_level",
    None,
    ["O0", "O1", "O2", "O3"],
    "XLA's, in place of a run's own; O0 compiles faster, and places nothing in on-chip memory.",
    flag_values=FLAGS,
)
_WORKDIR = flags.DEFINE_string("workdir", "runs/aot", "Where the results go.", flag_values=FLAGS)


def main() -> int:
    """Compiles for every N, prints, writes."""
    job = jobs.named(_EXPERIMENT.value, _PRESET.value)
    passes = job.passes
    if _PASSES.value is not None:
        passes = cli.parse_numbers("passes", _PASSES.value, 1, "whole numbers N")
    if not passes:
        raise UserError("--passes= is empty; allowed: at least one number")
    config = override(job.config, _SET.value)
    if _BATCH.value is not None:
        config = jobs.with_batch(config, _BATCH.value)
    config.validate()
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("libtpu, the TPU's compiler, is not installed; pip install 'jax[tpu]'")
    # Before JAX is imported: compile for TPUs on this CPU. There is no metadata server to ask, and
    # no device whose lock would have to be held.
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"

    import jax

    from experiments.aot import compiling, report
    from sleep_jax.distributed import MeshConfig, require_batch_divides

    if _LEVEL.value:
        jax.config.update("jax_optimization_level", _LEVEL.value)
    devices, chip = compiling.topology_devices(_TOPOLOGY.value)
    mesh = compiling.topology_mesh(devices, MeshConfig(_DATA.value, _FSDP.value, _TENSOR.value))
    require_batch_divides(mesh, config.train.batch_size, config.train.accumulate)

    about = {
        "experiment": _EXPERIMENT.value,
        "preset": _PRESET.value,
        "topology": _TOPOLOGY.value,
        "level": _LEVEL.value,
        "notes": list(job.notes),
    }
    name = f"{_EXPERIMENT.value}-{_PRESET.value}-{_TOPOLOGY.value.replace(':', '-')}"
    rows, result, written = [], {}, []
    for n in passes:
        log.info("N = %d: compiling for %s", n, _TOPOLOGY.value)
        rows.append(report.row(jobs.with_passes(config, n), mesh, chip))
        result = report.result(about, config, mesh, chip, rows)
        # After each N: compiling takes minutes.
        written = report.write(result, Path(_WORKDIR.value), name)
    log.info("wrote %s", " and ".join(map(str, written)))
    print(report.table(result))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, sys.argv, FLAGS))
