"""The smoke preset of every swept experiment but the first, from outside."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    "name, depths, picture",
    [("depo", ["1", "2"], "by_depth.png"), ("gsm_infinite", ["1", "2"], "by_depth.png")],
)
def test_smoke_preset_writes_results_by_depth(tmp_path, name, depths, picture):
    result = subprocess.run(
        [sys.executable, "-m", "experiments", name, "--preset=smoke", f"--workdir={tmp_path}"],
        cwd=ROOT,
        env={**os.environ, "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    directory = tmp_path / name / "smoke"
    results = json.loads((directory / "results.json").read_text())
    assert results["missing"] == [] and len(results["rows"]) == 5
    for row in results["rows"]:
        assert sorted(row["by_depth"]) == depths
        counts = [at["answers"] for at in row["by_depth"].values()]
        overall = sum(
            at["answers"] * at["exact_accuracy"] for at in row["by_depth"].values()
        ) / sum(counts)
        assert row["exact_accuracy"] == pytest.approx(overall, abs=1e-6)
    assert (directory / picture).read_bytes().startswith(b"\x89PNG")
    assert (directory / "table.md").read_text() in result.stdout
