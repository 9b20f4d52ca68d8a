"""AOT compilation for TPUs: what is read from compiled text, the roofline, the binary."""

import dataclasses
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.aot import cost, hlo, jobs
from experiments.aot.roofline import roofline
from sleep_jax.chips import CHIPS, Chip
from sleep_jax.model.decoder import count_parameters
from tests.from_outside import ends

ROOT = Path(__file__).parent.parent
FIXTURE = Path(__file__).parent / "fixtures" / "aot" / "nested_loops.hlo"
GIB = 2**30
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu, the TPU's compiler, not installed"
)


def aot(*arguments):
    """The binary, in its own process: it tells JAX to compile for TPUs before JAX is imported."""
    command = [sys.executable, "-m", "experiments.aot", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)


def compiled(directory, *arguments):
    result = aot(f"--workdir={directory}", *arguments)
    assert result.returncode == 0, result.stderr[-2000:]
    (path,) = directory.glob("*.json")
    return json.loads(path.read_text()), path.with_suffix(".md").read_text()


def test_a_text_counted_by_hand():
    """A loop of 7 - 2 trips around a loop of 3: see the fixture for the shapes."""
    counted = cost.count(hlo.parse(FIXTURE.read_text()))
    token = 8 * 64 * 4
    assert [dataclasses.astuple(c) for c in counted.collectives] == [
        ("all-gather", 4, 1, 0, 1024, 3 * 1024),
        ("all-reduce", 4, 15, 15, 15 * token, 2 * 3 / 4 * 15 * token),
        ("all-reduce", 8, 1, 0, token + 1024, 2 * 7 / 8 * (token + 1024)),
    ]
    assert counted.kernels == {"gated_delta_rule_forward": 1}
    assert counted.kernel_flops == 2 * 3 * 24 * 2 * 4 * 64 * 64
    assert counted.flops - counted.kernel_flops == counted.product_flops_once == 2 * 8 * 64 * 32
    # 64 lanes fill half a tile of 128, and what lies in on-chip memory, S(1), costs nothing.
    tile = 8 * 128 * 4
    outer = tile + 4 + tile + 8  # reads a slice of the stack, not all 5; two indices; a counter
    inner = 2 * tile + 8
    state = 2 * 4 * 64 * 128 * 4
    entry = 4 + tile // 2 + 2 * state + tile + tile // 2
    assert counted.hbm_bytes == 5 * outer + 15 * inner + entry
    assert counted.unknown_loops == ()


def test_a_loop_of_unknown_length_is_named():
    text = FIXTURE.read_text().replace("%less.1 = pred[]{:T(512)} compare", "%less.1 = pred[] and")
    counted = cost.count(hlo.parse(text))
    assert counted.unknown_loops == ("inner.4",)
    assert [c.times for c in counted.collectives] == [1, 5, 1]


def test_nothing_to_count_is_passed_over():
    """As when the all-gather was in a kind of call that we did not follow."""
    text = FIXTURE.read_text().replace(" call-start(", " new-call(")
    with pytest.raises(ValueError, match="gathered.5 is in sparse_core.1, which nothing seems to"):
        cost.count(hlo.parse(text))


TWO_DEVICES = """
import functools, jax, jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, PartitionSpec as P
mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))

@functools.partial(jax.shard_map, mesh=mesh, in_specs=P("data"), out_specs=P(), check_vma=False)
def run(x):
    def outer(x, _):
        x = lax.scan(lambda y, _: (lax.psum(jnp.tanh(y), "data"), None), x, length=3)[0]
        return jnp.sin(x), None
    x = lax.scan(outer, x, length=4)[0]
    return lax.all_gather(x, "data", tiled=True)

x = jax.ShapeDtypeStruct((16, 32), "float32")
print(jax.jit(run).lower(x).compile().as_text())
"""


def test_collectives_of_a_real_compilation_for_two_devices():
    environment = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    result = subprocess.run(
        [sys.executable, "-c", TWO_DEVICES], capture_output=True, text=True, env=environment
    )
    assert result.returncode == 0, result.stderr[-2000:]
    counted = cost.count(hlo.parse(result.stdout))
    shard = 8 * 32 * 4
    assert counted.unknown_loops == ()
    assert [(c.kind, c.devices, c.times, c.payload_bytes) for c in counted.collectives] == [
        ("all-gather", 2, 1, shard),
        ("all-reduce", 2, 12, 12 * shard),
    ]


@pytest.mark.parametrize(
    "groups, size",
    [
        ("{{0,1,2},{3,4,5}}", 3),
        ("[4,8]<=[32]", 8),
        ("[8,4]<=[4,8]T(1,0)", 4),
        ("mesh['a'=16,'b'=1,'c'=16], device_ids=([16,16]T(1,0)) {'a','b'}", 16),
        ("mesh['a'=16,'b'=2] {'a':(2)4,'b'}", 8),
    ],
)
def test_groups_of_devices(groups, size):
    line = f"x (p: f32[]) -> f32[] {{\n  ROOT %r = f32[] all-reduce(), replica_groups={groups}\n}}"
    assert hlo.group_size(hlo.parse(f"ENTRY %{line}\n").entry.root) == size


def test_roofline_by_hand():
    chip = Chip("test", 1, 16 * GIB, 15 * GIB, 100e12, 1e12, 50e9, "nowhere")
    bound = roofline(chip, flops=3e12, hbm_bytes=40e9, sent_bytes=1e9)
    assert bound.compute == pytest.approx(0.030)
    assert bound.memory == pytest.approx(0.040)
    assert bound.links == pytest.approx(0.020)
    assert (bound.bound, bound.overlapped) == ("memory", bound.memory)
    assert bound.one_by_one == pytest.approx(0.090)


def test_tpus_have_less_memory_for_a_program_than_documented_or_about_as_much():
    """libtpu gives a v5p program 0.8 % more than the documented 95 GiB."""
    for chip in (chip for kind, chip in CHIPS.items() if kind.startswith("TPU")):
        assert 0.95 < chip.program_bytes / chip.hbm_bytes < 1.01


def test_the_shape_of_ouro():
    """Parameters within 1 % of Ouro's 1,434,652,673 and six Jet layers of under 10 % more."""
    job = jobs.named("ouro_shape", "paper")
    job.config.validate()
    assert job.config.sequence_length == 12_000
    model = job.config.model

    def parameters(*pattern):
        return count_parameters(dataclasses.replace(model, pattern=pattern))

    both = parameters("attention", "gated_delta_net")
    attention, delta = both - parameters("gated_delta_net"), both - parameters("attention")
    ours = both - attention - delta
    ours += model.pattern.count("attention") * attention
    ours += model.pattern.count("gated_delta_net") * delta
    # q, k: 2048 x 1152; v, gate, out: 2048 x 3072; alpha, beta: 2048 x 12.
    jet = 2048 * (2 * 1152 + 3 * 3072 + 2 * 12)
    ouro = 1_434_652_673
    assert 6 * jet < 0.10 * ouro
    assert ours == pytest.approx(ouro + 6 * jet, rel=0.01)


@needs_libtpu
def test_a_training_step_for_v5e(tmp_path):
    """C = 4, N = 2: the kernel runs in 8 passes, in their backward, and in the wake pass."""
    result, text = compiled(
        tmp_path, "--topology=v5e:2x2", "--preset=cpu", "--passes=2", "--optimization_level=O0"
    )
    (row,) = result["rows"]
    assert (result["devices"], result["chip"]["name"]) == (4, "v5e")
    assert row["cost"]["kernels"] == {
        "gated_delta_rule_backward": 9,
        # Once more where a pass is rematerialised, but for the last over a window: of what that
        # pass reads nothing is used, and the backward of what it writes needs its inputs alone.
        "gated_delta_rule_forward": 8 + 1 + 4,
    }
    # Replicated parameters: one sum of all gradients and of two scalars, none in a loop.
    reduced = [c for c in row["cost"]["collectives"] if c["kind"] == "all-reduce"]
    assert reduced == row["cost"]["collectives"]
    payload = sum(c["payload_bytes"] for c in reduced)
    assert 0 <= payload - 4 * result["parameters"] < 64
    assert all(c["devices"] == 4 and c["in_loops"] == 0 for c in reduced)
    assert row["cost"]["unknown_loops"] == []
    # XLA counts elementwise work as well.
    once = row["cost"]["product_flops_once"]
    assert 0.9 < once / row["xla_flops_loops_once"] < 1
    assert row["cost"]["flops"] > 1.3 * row["model_flops"]
    assert row["fits"] and row["memory"]["needed"] < result["chip"]["program_bytes"]
    assert "gated_delta_rule_forward" in text and "Assumptions" in text


ATTENTION_ONLY = (
    "--experiment=ouro_shape",
    "--passes=1",
    "--optimization_level=O0",
    "--set=model.pattern=attention",
    "--set=model.d_model=64",
    "--set=model.mlp_hidden=64",
    "--set=model.vocab_size=64",
    "--set=task.vocab_size=64",
    "--set=model.attention.head_dim=32",
)


@needs_libtpu
def test_out_of_memory_is_reported_with_the_largest_batch_that_fits(tmp_path):
    """Attention over one window of 9,600: 16 heads' logits, and what else is kept, are 9 GB."""
    result, text = compiled(
        tmp_path,
        "--topology=v5e:2x2",
        "--batch=8",
        "--set=task.answer_length=9600",
        *ATTENTION_ONLY,
    )
    (row,) = result["rows"]
    assert not row["fits"]
    assert row["available"] == "15.75G" and float(row["needed"].rstrip("G")) > 15.75
    assert row["batch"] == 4
    assert row["memory"]["needed"] < result["chip"]["program_bytes"]
    assert "**out of memory**; largest that fits: 4" in text


@needs_libtpu
def test_parameters_split_over_64_devices(tmp_path):
    """The shape of an 8x8 slice; every split parameter is gathered once, outside of loops."""
    result, _ = compiled(
        tmp_path,
        "--topology=v5e:8x8",
        "--fsdp=8",
        "--batch=64",
        "--set=task.answer_length=64",
        *ATTENTION_ONLY,
    )
    (row,) = result["rows"]
    assert (result["devices"], result["mesh"]) == (64, {"data": 8, "fsdp": 8, "tensor": 1})
    kinds = {(c["kind"], c["devices"]) for c in row["cost"]["collectives"]}
    assert {("all-gather", 8), ("reduce-scatter", 8)} <= kinds
    assert all(c["in_loops"] == 0 for c in row["cost"]["collectives"])
    gathered = sum(
        c["payload_bytes"] for c in row["cost"]["collectives"] if c["kind"] == "all-gather"
    )
    assert gathered == pytest.approx(4 * result["parameters"] / 8, rel=0.01)


@pytest.mark.parametrize(
    "argument, message",
    [
        ("--preset=papr", "--preset=papr is unknown; allowed: cpu, narrow, smoke, h100, paper"),
        ("--experiment=x", "--experiment=x is unknown; allowed: cellular_automata, depo"),
        ("--passes=0", "--passes=0 is not possible; allowed: whole numbers N >= 1"),
        ("--batch=0", "train.batch_size=0 is not possible; allowed: >= 1"),
        ("--topolgy=v5e:2x2", "Unknown command line flag 'topolgy'"),
        ("--optimization_level=O9", "flag --optimization_level=O9: value should be one of <O0|O1"),
    ],
)
def test_bad_input_is_one_line(argument, message):
    result = ends("experiments.aot", argument)
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: {message}") and result.stderr.count("\n") == 1


@needs_libtpu
@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--topology=v9:2x2"], "--topology=v9:2x2 is not possible (INVALID_ARGUMENT: "),
        (["--topology=v4:2x2x1"], "--topology=v4:2x2x1 is of TPU v4; allowed: v5e, v5p, v6e"),
        (["--topology=v5e:2x2", "--batch=6"], "train.batch_size=6 is not possible; allowed: a"),
        (["--topology=v5e:2x2", "--fsdp=3"], "--data=-1 --fsdp=3 --tensor=1 does not fit 4"),
    ],
)
def test_bad_topologies_and_meshes_are_one_line(arguments, message):
    """libtpu has logged to stderr by then; the last line is ours."""
    result = aot(*arguments)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith(f"error: {message}")
    assert "Traceback" not in result.stderr
