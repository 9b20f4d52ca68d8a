"""The run directory: every file of it is written and read here.

config.json       what decides the result; a directory belongs to one configuration for good
environment.json  versions, device, mesh, commit, flags; nothing else of the environment
parameters.json   path, shape, sharding and optimizer label of every parameter
metrics.jsonl     one JSON object a line: training records and evaluations
tensorboard/      the same as events
warm_start.json   what it began with, where that is another run: see training/warm_start.py
checkpoints/      see training/checkpoint.py
claims/           which launcher is at work on it: see claims.py
profile/          with --profile_steps, the XProf trace of a window of steps
evaluation/       with `make evaluate`, what the trained model scores elsewhere; it decides nothing
row.json          the result, written last: a directory that has it is finished
readings.json     of some experiments, what was measured on the finished run
"""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import uuid
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import jax

from sleep_jax import processes
from sleep_jax.config import flatten
from sleep_jax.errors import UserError

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def write_json(path: Path, value: Any) -> None:
    """Writes all or nothing: a killed process leaves the old file or the new one."""
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")  # launchers share plan.json
    temporary.write_text(json.dumps(value, indent=1) + "\n")
    os.replace(temporary, path)


def check_config(directory: Path, config: dict[str, Any], but: Collection[str] = ()) -> None:
    """Raises UserError if the directory holds a run of another configuration, naming a field.

    Args:
      but: fields that may differ.
    """
    path = directory / "config.json"
    if not path.exists():
        return
    try:
        saved = flatten(json.loads(path.read_text()))
    except (json.JSONDecodeError, AttributeError) as error:
        raise UserError(f"{path} is not a readable configuration ({error})") from error
    wanted = flatten(json.loads(json.dumps(config)))
    for field in sorted((saved.keys() | wanted.keys()) - set(but)):
        old, new = saved.get(field, "absent"), wanted.get(field, "absent")
        if old != new:
            raise UserError(
                f"--workdir: {directory} holds a run with {field}={old!r}, asked was {new!r}; "
                "allowed: the same configuration, or another --workdir"
            )


def check_writable(directory: Path, flag: str = "workdir") -> None:
    """Creates the directory; raises UserError if that or writing into it is not possible."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe = directory / f".probe-{uuid.uuid4().hex}"  # processes of a pod may share a number
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"--{flag}={str(directory)!r} cannot be written ({error.strerror}); "
            "allowed: a directory you may write to"
        ) from error


def check_shared(directory: Path) -> None:
    """Raises UserError, in every process, unless all of them see the directory of the first."""
    if jax.process_count() == 1:
        return
    nonce = processes.agree(uuid.uuid4().hex)
    path = directory / f".seen-{nonce}"
    if processes.is_first():
        path.touch()
    processes.agree("")  # the file is there now
    missing = "" if path.exists() else f"process {jax.process_index()}"
    missing = processes.agree(missing)
    path.unlink(missing_ok=True)
    if missing:
        raise UserError(
            f"--workdir: {missing} does not see what process 0 writes into {directory}; "
            "allowed: a directory that all processes share"
        )


def commit() -> str:
    """Commit of this checkout, `-dirty` if tracked files differ from it, or "unknown"."""
    root = Path(__file__).parent

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)

    try:
        head = git("rev-parse", "HEAD")
        if head.returncode:
            return "unknown"
        changed = git("status", "--porcelain", "--untracked-files=no").stdout.strip()
    except FileNotFoundError:
        return "unknown"
    return head.stdout.strip()[:12] + ("-dirty" if changed else "")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide numbers."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **found}


def device(mesh: jax.sharding.Mesh) -> dict[str, Any]:
    """What the run computes on."""
    first = mesh.devices.flat[0]
    return {
        "platform": first.platform,
        "kind": first.device_kind,
        "count": mesh.size,
        "host": f"{_processor()}, {os.cpu_count()} cores",
    }


def _processor() -> str:
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def environment(mesh: jax.sharding.Mesh, flags: dict[str, Any]) -> dict[str, Any]:
    """The content of environment.json."""
    return {
        "commit": commit(),
        "versions": versions(),
        "device": device(mesh),
        "mesh": dict(mesh.shape),
        "processes": jax.process_count(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "flags": flags,
        "program": Path(sys.argv[0]).name,
    }


class Metrics:
    """Appends to metrics.jsonl and to TensorBoard events, in one process of a run."""

    def __init__(self, directory: Path, first_step: int, writes: bool = True):
        """Drops records of steps after `first_step`: the run repeats them."""
        from tensorboardX import SummaryWriter  # slow to import, and only a run needs it

        self._path = directory / "metrics.jsonl"
        saved = read_metrics(directory)
        self.records = [r for r in saved if r["step"] <= first_step]
        self.dropped = [r for r in saved if r["step"] > first_step]
        self._writes = writes
        if not writes:
            return
        temporary = self._path.with_name("metrics.jsonl.tmp")
        temporary.write_text("".join(json.dumps(r) + "\n" for r in self.records))
        os.replace(temporary, self._path)
        self._file = open(self._path, "a")
        self._events = SummaryWriter(str(directory / "tensorboard"), purge_step=first_step + 1)

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Adds `{"kind": kind, "step": step, **values}`: "train", "evaluation" or "decision"."""
        record = {"kind": kind, "step": step, **values}
        self.records.append(record)
        if not self._writes:
            return
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        for name, value in flatten(values).items():
            if not isinstance(value, list):
                self._events.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        if self._writes:
            self._file.close()
            self._events.close()


def curve(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every evaluation among the records of a run, without its loss.

    `trained_exact_accuracy` is the mean over the training batches that were logged since the
    evaluation before, if any: by how much unseen sequences are answered worse than seen ones.
    """
    points, batches = [], []
    for record in records:
        if record["kind"] == "train":
            batches.append(record["exact_accuracy"])
        if record["kind"] != "evaluation":
            continue
        point = {name: record[name] for name in record if name not in ("kind", "loss")}
        if batches:
            point["trained_exact_accuracy"] = sum(batches) / len(batches)
        points.append(point)
        batches = []
    return points


def read_metrics(directory: Path) -> list[dict[str, Any]]:
    """Records of metrics.jsonl; a last line that a killed process left unfinished is dropped."""
    path = directory / "metrics.jsonl"
    if not path.exists():
        return []
    records = []
    for line in path.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records
