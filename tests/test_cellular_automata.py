"""The binary from outside: a whole sweep, kills, and bad input."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import orbax.checkpoint as ocp
import pytest
from chex import assert_trees_all_equal

from sleep_jax.claims import Held, claimed
from tests.from_outside import CACHE, ROOT, Started, ends

ENVIRONMENT = {**os.environ, **CACHE}


def arguments(workdir, *flags):
    return ["experiments", "cellular_automata", "--preset=smoke", f"--workdir={workdir}", *flags]


def command(workdir, *flags):
    return [sys.executable, "-m", *arguments(workdir, *flags)]


def run(workdir, *flags):
    """As a user starts it."""
    return subprocess.run(
        command(workdir, *flags),
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=900,
    )  # fmt: skip


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("sweep")
    result = run(workdir)
    assert result.returncode == 0, result.stderr
    return workdir, result, workdir / "cellular_automata" / "smoke"


def test_a_sweep_writes_everything_that_it_promises(sweep):
    _, result, directory = sweep
    for name in ("results.json", "table.md", "table.tex", "rule110.png",
                 "accuracy_against_tokens.png", "accuracy_against_depth.png"):  # fmt: skip
        assert (directory / name).stat().st_size > 500, name
        assert str(directory / name) in result.stdout
    results = json.loads((directory / "results.json").read_text())
    assert set(results) >= {"experiment", "preset", "commit", "device", "versions",
                            "wall_seconds", "rows", "summary", "published"}  # fmt: skip
    assert results["missing"] == []
    goodput = results["goodput"]["seconds"]
    assert sum(goodput.values()) == pytest.approx(results["wall_seconds"])
    assert results["goodput"]["share"] == goodput["training"] / results["wall_seconds"]
    models = {(row["model"], row["passes"], row["match"]) for row in results["rows"]}
    assert models == {
        ("hybrid", 1, "tokens"), ("hybrid", 2, "tokens"), ("hybrid", 1, "flops"),
        ("hybrid", 1, "flops_blocks"), ("hybrid", 1, "flops_width"),
        ("transformer_evicted", 1, "tokens"), ("transformer_full_cache", 1, "tokens"),
    }  # fmt: skip
    by_name = {row["cell"]: row for row in results["rows"]}
    dear, matched = by_name["hybrid-N2-t1-W7-s0"], by_name["hybrid-N1-t1-W7-s0-flops"]
    assert abs(matched["train_flops"] / dear["train_flops"] - 1) < 0.05
    assert matched["train_tokens"] > dear["train_tokens"]
    cell = directory / "cells" / "hybrid-N2-t1-W7-s0"
    for name in ("config.json", "environment.json", "parameters.json", "metrics.jsonl"):
        assert (cell / name).stat().st_size > 100, name
    environment = json.loads((cell / "environment.json").read_text())
    assert "HOME" not in json.dumps(environment) and environment["flags"]["preset"] == "smoke"
    assert not [name for name in environment["flags"] if name.startswith(("grain", "orbax"))]


def test_a_finished_sweep_is_not_run_again(sweep):
    workdir, first, directory = sweep
    rows = {p: p.stat().st_mtime_ns for p in directory.glob("cells/*/row.json")}
    again = run(workdir)
    assert again.returncode == 0 and "9 of 9 runs are finished already" in again.stdout
    assert {p: p.stat().st_mtime_ns for p in rows} == rows
    assert (directory / "table.md").read_text() in first.stdout + again.stdout


def test_another_configuration_in_the_same_place_is_refused(sweep):
    workdir, _, directory = sweep
    before = (directory / "results.json").read_bytes()
    result = ends(*arguments(workdir, "--set=optimizer.muon_learning_rate=0.5"))
    assert result.returncode == 2
    assert "optimizer.muon_learning_rate=0.01, asked was 0.5" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert (directory / "results.json").read_bytes() == before


ONE_BLOCK = "--set=model.pattern=gated_delta_net"  # what is stopped and shared need not be more
LONG = ("--passes=2", "--match=tokens", "--seeds=3", "--jobs=1", "--set=train.tokens=9216",
        "--set=train.keep_checkpoints=30", ONE_BLOCK)  # fmt: skip
CELL = "cellular_automata/smoke/cells/hybrid-N1-t1-W7-s3-flops"  # the longest, so the first one


def start_and_stop(workdir, until, how):
    """Starts the sweep, and sends it a signal once the file `until` of the cell is there."""
    process = Started(*arguments(workdir, *LONG))
    deadline = time.monotonic() + 400
    while not (workdir / CELL / until).exists():
        assert process.poll() is None, process.finish(0)
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(how)
    ended = process.finish(60)
    assert ended.returncode == (-9 if how == signal.SIGKILL else 143), ended.stderr
    return ended.stdout


def final_state(workdir):
    checkpoints = workdir / CELL / "checkpoints"
    last = max(int(path.name) for path in checkpoints.iterdir() if path.name.isdigit())
    assert last > 60
    return ocp.StandardCheckpointer().restore((checkpoints / str(last) / "state").absolute())


def test_a_killed_run_goes_on_and_ends_with_the_same_bits(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    start_and_stop(whole, "row.json", signal.SIGTERM)
    start_and_stop(cut, "checkpoints/10", signal.SIGKILL)
    out = start_and_stop(cut, "checkpoints/30", signal.SIGTERM)
    assert "resuming at step" in out and "which is saved" in out
    assert not (cut / CELL / "row.json").exists()
    out = start_and_stop(cut, "row.json", signal.SIGTERM)
    assert "resuming at step" in out
    assert_trees_all_equal(final_state(cut), final_state(whole))
    rows = [json.loads((w / CELL / "row.json").read_text()) for w in (cut, whole)]
    assert rows[0]["curve"] == rows[1]["curve"]


def test_workers_of_a_killed_sweep_let_go(tmp_path):
    """SIGKILL to the parent: its orphans stop at their next step and free their directories."""
    flags = ("--seeds=0,1", "--jobs=2", "--set=train.tokens=1e8", ONE_BLOCK)
    process = subprocess.Popen(
        command(tmp_path, *flags),
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    cells = tmp_path / "cellular_automata" / "smoke" / "cells"
    deadline = time.monotonic() + 400
    while sum(path.stat().st_size > 0 for path in cells.glob("*/metrics.jsonl")) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait()
    claims = list(cells.glob("*/claims"))
    assert len(claims) == 2
    for path in claims:
        assert _free(path.parent, deadline)


def _free(directory, deadline):
    while time.monotonic() < deadline:
        try:
            with claimed(directory):
                return True
        except Held:
            time.sleep(0.2)
    return False


def test_two_launchers_share_a_sweep_and_run_no_cell_twice(tmp_path):
    """Four cells; what one has begun the other leaves to it, and neither fails for it."""
    flags = ("--jobs=1", "--match=", "--baselines=", "--set=train.evaluations=1", ONE_BLOCK)
    launchers = [
        subprocess.Popen(
            command(tmp_path, *flags), cwd=ROOT, env=ENVIRONMENT,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    written = [launcher.communicate(timeout=400) for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == [0, 0], written
    ran = [re.findall(r"\[([\w-]+)\] finished: exact", out) for out, _ in written]
    directory = tmp_path / "cellular_automata" / "smoke"
    planned = json.loads((directory / "plan.json").read_text())["cells"]
    assert len(planned) == 4 and sorted(ran[0] + ran[1]) == sorted(planned)
    assert ran[0] and ran[1]
    assert "left to another launcher, process" in written[0][0] + written[1][0]
    results = json.loads((directory / "results.json").read_text())
    assert results["missing"] == []


def test_what_others_still_hold_is_said_at_the_end(sweep, tmp_path):
    """A finished sweep but for one cell, which this test holds."""
    _, _, finished = sweep
    directory = tmp_path / "cellular_automata" / "smoke"
    shutil.copytree(finished, directory)
    cell = directory / "cells" / "hybrid-N2-t1-W7-s0"
    (cell / "row.json").unlink()
    with claimed(cell):
        result = run(tmp_path)
    assert result.returncode == 0, result.stderr
    assert f"left to other launchers, which are at work on them: {cell.name}" in result.stdout
    assert not (cell / "row.json").exists()
    assert f"Missing, planned but not finished (1): `{cell.name}`" in result.stdout


BAD = [
    (["--preset=huge"], "--preset=huge is unknown; allowed: cpu, narrow, smoke, h100, paper"),
    (["--nope=1"], "Unknown command line flag 'nope'; allowed: --data, --fsdp, --tensor,"),
    (["--coordinator=here"], "--coordinator=here is not possible; allowed: host:port, or auto"),
    (["--process_id=1"], "--process_id=1 needs --coordinator=host:port"),
    (["--passes=0"], "--passes=0 is not possible; allowed: whole numbers N >= 1"),
    (["--passes=1,x"], "--passes=x is not possible"),
    (["--passes=²"], "--passes=² is not possible"),  # a digit that is no number
    (["--seeds=3000000000"], "train.seed=3000000000 is not possible; allowed: 0 to 2^31"),
    (["--rollout_steps=-1"], "--rollout_steps=-1 is not possible"),
    (
        ["--match=luck"],
        "--match=luck is not possible; allowed: flops, some of tokens, blocks, width, or",
    ),
    (["--match=flops", "--passes=1"], "needs a larger N to match; allowed: an N > 1 in --passes"),
    (
        ["--baselines=full,none"],
        "--baselines=full,none is not possible; allowed: evicted, full",
    ),
    (["--seeds=0,0"], "--seeds=0,0 names a value twice"),
    (["--jobs=0"], "--jobs=0 is not possible"),
    (["--profile_steps=5"], "--profile_steps=5 is not possible; allowed: FIRST,LAST with 1 <= F"),
    (["--profile_steps=9,8"], "--profile_steps=9,8 is not possible"),
    (["--profile_steps=2,1000"], "--profile_steps=2,1000 is not possible"),
    (["--compilation_cache=/proc/no"], "--compilation_cache='/proc/no' cannot be written"),
    (["--set=task.width=9"], "task.window=7: must equal task.width=9"),
    (["--set=task.boundary=zero"], "'zero': degenerate, always answering 1 gets 0.75"),
    (["--set=model.depth=9"], "no field 'depth' here; allowed: activation_dtype"),
    (["--set=model.d_model=wide"], "allowed: a value of int"),
    (["--set=model.pattern=attention,mamba"], "allowed: a list of attention, gated_delta_net"),
    (["--set=sleep.passes=3"], "is set by the sweep; allowed: --passes=..."),
    (["--set=sleep.cache=keep"], "allowed: sleep.cache=evict, sleep.cache=slide"),
    (["--set=train.tokens=10"], "train.tokens=10 is not possible"),
    (["--workdir=/proc/nowhere"], "--workdir='/proc/nowhere/cellular_automata/smoke' cannot be"),
    (["extra"], "argument 'extra' is not understood"),
]


@pytest.mark.parametrize("flags, message", BAD, ids=[" ".join(flags) for flags, _ in BAD])
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, flags, message):
    result = ends(*arguments(tmp_path, *flags))
    assert result.returncode == 2
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and message in lines[0], result.stderr
    assert not list(tmp_path.rglob("*.json"))


def test_where_no_cluster_is_it_says_so(tmp_path):
    """In a process of its own: JAX, asked for a cluster, ends it in its own way."""
    result = run(tmp_path, "--coordinator=auto")
    assert result.returncode == 2
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: --coordinator=auto finds no cluster")


def test_an_unknown_experiment_lists_the_known_ones():
    result = ends("experiments", "dreams")
    assert result.returncode == 2
    allowed = "cellular_automata, depo, gsm_infinite, smollm2_gsm, local_rules, "
    allowed += "local_rules_depo, elastic_sleep, rollout_curriculum, rollout_ladder, "
    allowed += "cost_of_depth, cost_of_depth_depo, ttt_e2e, lclm, lclm_depo, "
    allowed += "dash_attention, consa, qk_restore, recovery, knowledge_seeding, cost_of_sleep"
    assert result.stderr == f"error: EXP=dreams is unknown; allowed: {allowed}\n"


def test_a_dry_run_prints_the_plan_and_writes_nothing(tmp_path):
    result = ends(*arguments(tmp_path, "--dry_run"))
    assert result.returncode == 0
    assert "9 runs" in result.stdout and "hybrid-N1-t1-W7-s0-flops" in result.stdout
    assert not list(tmp_path.iterdir())


def test_a_plan_whose_reader_leaves_ends_without_a_word(tmp_path):
    process = subprocess.Popen(
        command(tmp_path, "--dry_run"),
        cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.close()
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (128 + signal.SIGPIPE, "")


@pytest.mark.parametrize(
    "flag, models",
    [
        ("--baselines=", []),
        ("--baselines=full", ["transformer-full-cache"]),
        ("--baselines=evicted", ["transformer-evicted"]),
        ("--seeds=0", ["transformer-evicted", "transformer-full-cache"]),
    ],
)
def test_baselines_are_those_that_are_asked_for(tmp_path, flag, models):
    result = ends(*arguments(tmp_path, "--dry_run", flag))
    assert re.findall(r"^(transformer.*)-N1-", result.stdout, re.MULTILINE) == models
