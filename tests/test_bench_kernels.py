"""The benchmark of the rule: what it compares, counts and prints. Nothing here is a speed."""

import json
import time

import jax
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from experiments.bench import kernels, roofline, rules
from experiments.bench.roofline import Roofline
from pallas_kernels.shapes import Shape
from tests import from_outside

TINY = Shape(B=2, T=5, H=1, Hv=1, Dk=64, Dv=64)
SLOW = Roofline(bytes_per_second=1e6, flops_per_second=1e12)  # memory binds


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(kernels.SHAPES, "tiny", TINY)
    return "tiny"


def test_what_no_algorithm_avoids_is_counted_by_hand():
    assert TINY.flops(backward=False) == 3 * (2 * 64 * 64) * 10
    assert TINY.flops(backward=True) == 2 * TINY.flops(backward=False)
    assert SLOW.seconds(TINY, 2, False) == pytest.approx(TINY.bytes_moved(2, False) / 1e6)
    products = Roofline(bytes_per_second=1e12, flops_per_second=1e6)
    assert products.seconds(TINY, 2, True) == pytest.approx(TINY.flops(True) / 1e6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_all_that_can_run_here_is_compared(tiny, dtype, monkeypatch):
    monkeypatch.setitem(rules.OURS, "cpu", ("xla", "gpu", "mosaic", "oracle"))
    result = kernels.bench(tiny, dtype, 1, False, SLOW)
    assert {"xla", "token scan"} <= set(result["forward"])
    assert set(result["forward"]) == set(result["both"])
    for name in ("gpu", "mosaic"):  # no CPU runs them, and that ends nothing
        assert name not in result["forward"] and result["skipped"][name]
    assert result["skipped"]["FLA"] == "not for cpu"
    assert max(result["apart"].values()) < rules.TOLERANCE[dtype]
    row = result["both"]["token scan"]
    size = 2 if dtype == "bfloat16" else 4
    moved = TINY.bytes_moved(size, False) + TINY.bytes_moved(size, True)
    assert row["bytes_per_second"] * row["median"] == pytest.approx(moved)
    assert row["times_roofline"] == pytest.approx(row["median"] / (moved / 1e6))
    assert row["times_xla"] == pytest.approx(row["median"] / result["both"]["xla"]["median"])


def test_who_computes_something_else_is_not_timed(tiny, monkeypatch):
    honest = rules.reference(TINY, "float32")
    for i in range(8):  # two outputs, six gradients
        wrong = [x * (1 + 1e-3 * (j == i)) for j, x in enumerate(honest)]
        monkeypatch.setattr(rules, "reference", lambda *_, wrong=wrong: wrong)
        with pytest.raises(RuntimeError, match=r"tiny: xla is wrong, \S+ apart from xla in float"):
            kernels.bench(tiny, "float32", 1, False, SLOW)


def test_a_wrong_one_does_not_end_the_others(tiny, monkeypatch):
    right = rules.ours

    def wrong(implementation, *arguments):
        peer = right(implementation, *arguments)
        if implementation == "xla":
            return peer
        return peer._replace(numpy=lambda x: 1.01 * peer.numpy(x))

    monkeypatch.setattr(rules, "ours", wrong)
    result = kernels.bench(tiny, "float32", 1, False, SLOW)
    assert result["wrong"] == ["token scan"] and "xla" in result["both"]
    assert result["skipped"]["token scan"] == "wrong, 1.0e-02 apart from xla in float32"
    assert "token scan" not in result["forward"]


def test_a_wrong_one_is_in_the_exit_code(tmp_path, monkeypatch):
    monkeypatch.setattr(roofline, "measured", lambda dtype: SLOW)
    monkeypatch.setattr(kernels, "table", lambda result: "")
    with flagsaver.flagsaver():
        flags.FLAGS(["test", f"--out={tmp_path}", "--shapes=C1"])
        for wrong, code in (([], 0), (["token scan"], 1)):
            monkeypatch.setattr(kernels, "bench", lambda *_, wrong=wrong: {"wrong": wrong})
            assert kernels.main() == code
            assert len([*tmp_path.glob("*.json")]) == 1  # written whatever was found


def test_a_scan_that_would_keep_too_much_is_timed_forward_alone(tiny, monkeypatch):
    monkeypatch.setattr(rules, "_SCAN_BYTES", 1000)
    result = kernels.bench(tiny, "float32", 1, False, SLOW)
    assert "token scan" in result["forward"] and "token scan" not in result["both"]
    assert result["remarks"] == {"token scan": "backward keeps 0 GiB of states"}


def test_a_turn_on_an_accelerator_is_long_enough_to_time(monkeypatch):
    seconds = iter([0.1, 0.002])  # the first call compiles

    def call(repeats):
        time.sleep(next(seconds))

    assert kernels._repeats(call) == 1  # a CPU: not even called
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert 2 <= kernels._repeats(call) <= 10


def test_arrays_of_small_shapes_are_copied_out_of_an_accelerators_cache(monkeypatch):
    assert rules._copies(TINY, "float32") == 1
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    size = TINY.bytes_moved(4, False)
    assert (rules._copies(TINY, "float32") - 1) * size < 2**27
    assert rules._copies(TINY, "float32") * size >= 2**27


def test_wrong_gradients_are_left_out_of_the_comparison():
    wanted = rules.reference(TINY, "float32")
    spoiled = [*wanted[:2], *(np.zeros_like(x) for x in wanted[2:])]
    peer = rules.Peer(lambda _: spoiled[:2], lambda _: spoiled, np.asarray, 1e-4)
    assert kernels._disagreement(peer, wanted) == pytest.approx(1)
    assert kernels._disagreement(peer._replace(gradients_hold=False), wanted) == 0


def test_the_table(tiny):
    time = {"median": 0.002, "lowest": 0.001, "highest": 0.003, "times_xla": 1.0}
    time |= {"times_roofline": 2.5, "bytes_per_second": 3e9, "flops_per_second": 4e9}
    fla = {**time, "times_xla": 0.5, "times_fla": 1.0}
    row = {
        "shape": TINY._asdict(),
        "skipped": {"transformers": "not installed: torch"},
        "remarks": {"FLA": "timing alone"},
        "forward": {"xla": {**time, "times_fla": 2.0}, "FLA": fla, "token scan": time},
        "both": {"xla": {**time, "times_fla": 2.0}, "FLA": fla},
    }
    result = {
        "device": {"platform": "gpu", "kind": "Some GPU", "host": "h"},
        "load_average_before": 0.5,
        "dtype": "bfloat16",
        "rounds": 3,
        "cores_used": 2,
        "roofline": SLOW._asdict(),
        "shapes": {"tiny": row},
    }
    text = kernels.table(result)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert lines[0].count("|") == lines[2].count("|") == 15
    numbers = "2.00 (1.00 to 3.00) | 3.0 | 4.0 | 2.5"
    assert lines[2] == f"| tiny | xla | {numbers} | 1.0 | 2.00 | {numbers} | 1.0 | 2.00 |"
    assert lines[3] == f"| tiny | FLA | {numbers} | 0.5 | 1.00 | {numbers} | 0.5 | 1.00 |"
    assert lines[4] == f"| tiny | token scan | {numbers} | 1.0 | - | not run | - | - | - | - | - |"
    assert text.startswith("Some GPU, load 0.5 before; bfloat16 tokens; median of 3 turns")
    assert "tiny, FLA: timing alone." in text and "tiny, transformers: not installed" in text


def test_the_program(tmp_path):
    flags = (f"--out={tmp_path}", "--rounds=1", "--shapes=C1", "--dtype=bfloat16")
    result = from_outside.run("experiments.bench.kernels", *flags)
    assert result.returncode == 0, result.stderr
    (file,) = tmp_path.glob("*-bfloat16.json")
    saved = json.loads(file.read_text())
    assert saved["dtype"] == "bfloat16" and saved["versions"]["jax"] == jax.__version__
    assert file.with_suffix(".md").read_text() in result.stdout


@pytest.mark.parametrize(
    "flag, said",
    [
        ("--shapes=C1,Z9", "--shapes=C1,Z9: allowed: S1, S2"),
        ("--shapes=", "--shapes=: allowed: S1, S2"),
        ("--dtype=float16", "--dtype=float16"),
        ("--rounds=0", "--rounds=0 is not possible; allowed: whole numbers >= 1"),
    ],
)
def test_bad_flags(flag, said):
    refused = from_outside.ends("experiments.bench.kernels", flag)
    assert refused.returncode == 2 and said in refused.stderr, refused.stderr
    assert len(refused.stderr.splitlines()) == 1
