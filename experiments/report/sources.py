"""Where numbers come from: run directories and committed results, each on its own.

A source is one results.json. Groups over seeds are made afresh from its rows, so a page never shows
a mean that the rows do not give. Results of both kinds are never pooled: they may be of different
commits and machines.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from experiments.report import build, checking
from experiments.report.files import ReportError, read_object
from experiments.report.kinds import kind_of
from experiments.report.words import PLAIN

COMMITTED, RUN = "committed", "run"
COST = "cost_of_sleep"
BENCH = "bench"
_DEVICE = ("platform", "kind", "host")


@dataclasses.dataclass(frozen=True)
class Source:
    """One results file.

    Attributes:
      origin: COMMITTED or RUN.
      name: its directory, from the root that it was found under, e.g. `cellular_automata/cpu`.
      experiment: as in the file; BENCH for the benchmark of the training step.
      directory: where its figures lie.
      results: the file.
      summary: groups over seeds; empty for measurements without rows.
    """

    origin: str
    name: str
    experiment: str
    directory: Path
    results: Mapping[str, Any]
    summary: list[Any]

    @property
    def label(self) -> str:
        """How a reader finds it."""
        return f"{self.origin}: {self.name}"

    @property
    def shown(self) -> str:
        """As a line of a table has it: where nothing is said, it is committed."""
        return self.name if self.origin == COMMITTED else self.label

    @property
    def as_is(self) -> bool:
        """Whether it is a preset as it comes, by its directory."""
        return self.name.rpartition("/")[2] == self.results["preset"]

    @property
    def anchor(self) -> str:
        """Its id in the page."""
        return "source-" + re.sub(r"[^a-z0-9]+", "-", self.label.lower()).strip("-")

    @property
    def is_smoke(self) -> bool:
        """Whether it is too short to have learned anything, by its preset's own word."""
        return self.results["preset"] == "smoke"

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One a finished run."""
        return self.results.get("rows", [])

    @property
    def device(self) -> str:
        """What it was computed on."""
        device = self.results.get("device", "not recorded")
        if isinstance(device, dict):
            return ", ".join(dict.fromkeys(str(device[key]) for key in _DEVICE if key in device))
        return device

    @property
    def commit(self) -> str:
        """Of the code that made it."""
        return self.results.get("commit", "not recorded")

    def row_of(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """A row of the group: for what rows hold and groups do not."""
        for row in self.rows:
            shared = (key for key in group if isinstance(group[key], int | str) and key in row)
            if all(row[key] == group[key] for key in shared):
                return row
        return {}


def load(path: Path, origin: str, name: str) -> Source:
    """Reads and checks a results.json; ReportError names it."""
    results = read_object(path)
    checking.fields(results, checking.RESULT_FIELDS, str(path))
    experiment = results["experiment"]
    kind = kind_of(experiment)
    rows = results.get("rows", [])
    if not isinstance(results.get("missing", []), list):
        raise ReportError(f"{path}: missing is {results['missing']!r}")
    if experiment == COST:
        checking.cost(results, str(path))
    elif not isinstance(rows, list) or ("rows" not in results and kind.drawings):
        raise ReportError(f"{path} lacks rows")
    if isinstance(rows, list) and rows:
        rows = [_with_regime(row) for row in rows]
        results = {**results, "rows": rows}
    checking.rows(rows, kind.fields, str(path), kind.in_curve)
    try:
        summary = kind.summarise(rows)
    except ReportError as error:
        raise ReportError(f"{path}: {error}") from error
    return Source(origin, name, experiment, path.parent, results, summary)


def _with_regime(row: Any) -> Any:
    """Rows of before there were regimes are of the only one that there was."""
    return {"regime": PLAIN, **row} if isinstance(row, dict) and "match" in row else row


def committed(root: Path) -> list[Source]:
    """What is under experiments/results, which is only read."""
    found = [
        load(path, COMMITTED, path.parent.relative_to(root).as_posix())
        for path in sorted(root.rglob("results.json"))
    ]
    return found + [_bench(path, root) for path in sorted(root.glob(f"{BENCH}/*.json"))]


def _bench(path: Path, root: Path) -> Source:
    """A benchmark of the training step: the same `training` as cost_of_sleep, without quartiles."""
    results = read_object(path)
    training = results.get("training")
    if not isinstance(training, list) or not all(isinstance(row, dict) for row in training):
        raise ReportError(f"{path}: training is {training!r}")
    checking.fields(results, {"preset": str}, str(path))
    for row in training:
        checking.fields(row, {"passes": int, "tokens_per_second": (int, float)}, str(path))
    environment = results.get("environment", {})  # in files of newer code
    device = environment.get("device")
    if device is None:
        machine = results.get("machine", {})
        device = f"{machine.get('device', 'not recorded')}, cores: {machine.get('cores', '?')}"
    words = {"device": device, "commit": environment.get("commit", "not recorded")}
    name = path.relative_to(root).with_suffix("").as_posix()
    return Source(COMMITTED, name, BENCH, path.parent, {**results, **words}, [])


def runs(workdir: Path) -> list[Source]:
    """Rebuilds every sweep under `workdir` (EXPERIMENT/PRESET) and reads what came out."""
    found = []
    for directory in sorted(path for path in workdir.glob("*/*") if path.is_dir()):
        plan, results = directory / "plan.json", directory / "results.json"
        if plan.is_file() or (directory / "cells").is_dir() or _is_cost(results):
            build.rebuild(directory)
        if results.is_file():
            found.append(load(results, RUN, directory.relative_to(workdir).as_posix()))
    return found


def _is_cost(results: Path) -> bool:
    return results.is_file() and read_object(results).get("experiment") == COST


def of(sources: Iterable[Source], experiments: Iterable[str]) -> list[Source]:
    """The sources of some experiments."""
    wanted = set(experiments)
    return [source for source in sources if source.experiment in wanted]
