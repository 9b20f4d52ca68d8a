"""One program on eight devices: the same numbers, and only the collectives that are owed.

Needs eight devices, and so a process of its own: `make test-multidevice`.
"""

import dataclasses
import functools
import math
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, PartitionSpec

from experiments.aot import cost, hlo
from pallas_kernels import gated_delta_rule, tpu
from sleep_jax import consa, distributed, records, trained
from sleep_jax.config import ConsaConfig, SleepConfig
from sleep_jax.curriculum import Stage
from sleep_jax.distributed import MeshConfig
from sleep_jax.errors import UserError
from sleep_jax.model import decoder
from sleep_jax.model.config import (
    AttentionConfig,
    LatentsConfig,
    LocalConfig,
    PrimeMLPConfig,
    RoutingConfig,
)
from sleep_jax.model.decoder import count_parameters
from sleep_jax.tasks.task import TRAIN
from sleep_jax.training import deciding, evaluation, loop, step, warm_start
from sleep_jax.training.optimizer import optimizer
from sleep_jax.training.step import Program
from tests import marks, tiny

pytestmark = marks.needs_eight_devices
MESHES = [(8, 1, 1), (2, 4, 1), (2, 2, 2)]
STEPS = 5
CONFIG = dataclasses.replace(tiny.run_config(passes=2), model=tiny.TWO_SHARDS)
WEAK = dataclasses.replace(
    tiny.run_config(passes=1),
    model=dataclasses.replace(tiny.MODEL, pattern=("gated_delta_net",)),  # compiles sooner
)


@functools.cache
def mesh_of(sizes, axis_type=AxisType.Auto):
    return distributed.make_mesh(MeshConfig(*sizes), axis_type)


def batch(index, config=CONFIG):
    size = config.train.batch_size
    return config.task.sample(config.train.seed, TRAIN, index * size, size)


@functools.cache
def compiled(config, mesh):
    """The step under test."""
    program = Program.of(config, "cpu")
    rows = distributed.to_mesh(batch(0, config), mesh)
    placed = step.placed_state(program, mesh)
    lowered = step.make_train_step(program, mesh).lower(placed, rows, jnp.float32(1.0))
    return lowered.compile()


@functools.cache
def initial_state(config):
    """Of one device, in NumPy."""
    init = functools.partial(step.init_state, Program.of(config, "cpu"))
    return jax.tree.map(np.asarray, jax.jit(init)(0))


def test_moments_lie_like_their_parameter():
    placed = step.state_shardings(Program.of(CONFIG, "cpu"), mesh_of((2, 2, 2)))

    def specs(tree):
        found = jax.tree_util.tree_flatten_with_path(tree)[0]
        return {jax.tree_util.keystr(path): leaf.spec for path, leaf in found}

    params, moments = specs(placed.params), specs(placed.opt_state)
    assert {axis for spec in params.values() for axis in spec} >= {"fsdp", "tensor"}
    held = {path: [moments[name] for name in moments if name.endswith(path)] for path in params}
    assert all(held.values()) and sum(map(len, held.values())) > len(params)
    for path, spec in params.items():
        assert set(held[path]) == {spec}, path


def run(config, mesh):
    """Losses and parameters after the steps."""
    update, losses = compiled(config, mesh), []
    shardings = step.state_shardings(Program.of(config, "cpu"), mesh)
    state = jax.device_put(initial_state(config), shardings)
    for index in range(STEPS):
        rows = distributed.to_mesh(batch(index, config), mesh)
        state, metrics = update(state, rows, jnp.float32(1.0))
        losses.append(float(metrics["loss"]))
    return losses, jax.tree.map(np.asarray, state.params)


@functools.cache
def reference(config=CONFIG):
    """The same from the definition, on one device: no mesh, no shard_map, the mean loss itself."""
    program = Program.of(config, "cpu")
    transformation = optimizer(config.optimizer)

    def loss(params, rows):
        logits = step.predict(program.model, program.sleep, params, rows)
        return step.means(step.score(logits, rows))["loss"]

    @jax.jit
    def update(params, state, rows):
        value, gradient = jax.value_and_grad(loss)(params, rows)
        change, state = transformation.update(gradient, state, params)
        return optax.apply_updates(params, change), state, value

    params = initial_state(config).params
    state, losses = transformation.init(params), []
    for index in range(STEPS):
        params, state, value = update(params, state, batch(index, config))
        losses.append(float(value))
    return losses, jax.tree.map(np.asarray, params)


def assert_same(found, expected, tolerance):
    np.testing.assert_allclose(found[0], expected[0], rtol=tolerance)
    for (path, a), b in zip(
        jax.tree_util.tree_flatten_with_path(found[1])[0], jax.tree.leaves(expected[1]), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance, err_msg=str(path))


@pytest.mark.parametrize(
    "sizes, axis_type", [*((m, AxisType.Auto) for m in MESHES), (MESHES[-1], AxisType.Explicit)]
)
def test_five_steps_equal_those_of_one_device(sizes, axis_type):
    assert_same(run(CONFIG, mesh_of(sizes, axis_type)), reference(), 1e-5)


@pytest.mark.parametrize("rule", ["kda", "jet"])
def test_features_that_all_heads_share_get_their_whole_gradient(rule):
    config = dataclasses.replace(CONFIG, model=tiny.with_rule(tiny.ONE_BLOCK, rule))
    assert_same(run(config, mesh_of((2, 2, 2))), reference(config), 1e-5)


@pytest.mark.parametrize(
    "fields, passes, named",
    [
        ({"pattern": ("attention", "prime_mlp"), "prime_mlp": PrimeMLPConfig(8)}, 2, "prime_mlp"),
        ({"pattern": ("attention",), "latents": LatentsConfig(1, 7)}, 1, "latents"),
    ],
)
def test_the_gradient_of_other_ways_to_end_a_window_is_that_of_one_device(fields, passes, named):
    """Gradient steps and latents: a device has those of its sequences, all weights gathered."""
    loop = dataclasses.replace(CONFIG.sleep, passes=passes)
    config = dataclasses.replace(
        CONFIG, model=dataclasses.replace(CONFIG.model, **fields), sleep=loop
    )
    config.validate()
    program, params = Program.of(config, "cpu"), initial_state(config).params

    def gradient_on(mesh):
        summed = jax.jit(step.gradient_sum(program, mesh))
        gradient, _ = summed(params, distributed.to_mesh(batch(0, config), mesh))
        return jax.tree.leaves(jax.tree.map(np.asarray, gradient))

    # Of one update: after five, Muon has made rounding larger than that.
    one = distributed.make_mesh(devices=jax.devices()[:1])
    for got, want in zip(gradient_on(mesh_of((2, 4, 1))), gradient_on(one), strict=True):
        assert np.linalg.norm(got - want) <= 1e-5 * np.linalg.norm(want)
    with pytest.raises(UserError, match=f"--tensor=2 is not possible with {named}"):
        compiled(config, mesh_of((2, 2, 2)))


def test_heads_choose_their_chunks_on_their_own_shard():
    """Routing over `tensor`: a shard has whole groups of heads, and their queries of chunks."""
    routing = RoutingConfig(4, gamma=4.0, sigma=1.0)
    attention = dataclasses.replace(CONFIG.model.attention, routing=routing)
    model = dataclasses.replace(CONFIG.model, pattern=("attention",), attention=attention)
    kept = dataclasses.replace(CONFIG.sleep, passes=1, cache="keep")
    config = dataclasses.replace(CONFIG, model=model, sleep=kept)
    config.validate()
    assert_same(run(config, mesh_of((2, 2, 2))), reference(config), 1e-5)


@pytest.mark.parametrize("unit, budget", [("head", "all"), ("layer", "all"), ("head", "each")])
def test_a_choice_of_heads_is_learned_and_decided_as_on_one_device(unit, budget):
    """Log alpha of heads is split over `tensor`, that of a layer is on every shard."""
    attention = AttentionConfig(heads=4, kv_heads=2, head_dim=8, local=LocalConfig(3, unit))
    model = dataclasses.replace(CONFIG.model, pattern=("attention",) * 2, attention=attention)
    config = dataclasses.replace(
        CONFIG,
        model=model,
        sleep=SleepConfig(cache="keep"),
        consa=ConsaConfig(budget=budget, end=0.9),
    )
    config.validate()
    program = Program.of(config, "cpu").in_stage(Stage(1, "keep", "all", choosing=True))
    found = []
    for mesh in (distributed.make_mesh(devices=jax.devices()[:1]), mesh_of((2, 2, 2))):
        update = step.make_train_step(program, mesh)
        state = jax.device_put(initial_state(config), step.state_shardings(program, mesh))
        for index in range(STEPS):
            rows = distributed.to_mesh(batch(index, config), mesh)
            state, _ = update(state, rows, jnp.float32(1.0), consa.choice(config, index))
        params, record = deciding.decide(config, Program.of(config, "cpu"), mesh, state.params)
        assert consa.gates(params)["block_00_attention"].sharding.is_equivalent_to(
            consa.gates(state.params)["block_00_attention"].sharding, 1
        )
        found.append((jax.tree.map(np.asarray, state), jax.tree.map(np.asarray, params), record))
    (one, one_decided, told), (many, many_decided, told_there) = found
    gates = np.concatenate(list(consa.gates(one.params).values()))
    assert (gates < consa.LIMIT).any() and len(np.unique(gates)) > 1
    chex.assert_trees_all_close(one, many, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(one_decided, many_decided, rtol=1e-4, atol=1e-5)
    assert told["full"] == told_there["full"]


def test_micro_batches_make_the_same_update():
    train = dataclasses.replace(CONFIG.train, accumulate=2)
    parts = run(dataclasses.replace(CONFIG, train=train), mesh_of((2, 2, 2)))
    assert_same(parts, reference(), 1e-6)


@pytest.mark.parametrize("threshold", [None, 0.45])
def test_evaluation_is_that_of_one_device(threshold):
    program = Program.of(CONFIG, "cpu")
    sequences = evaluation.evaluation_sequences(CONFIG, 20)
    one_device = distributed.make_mesh(devices=jax.devices()[:1])
    found = []
    for mesh in (one_device, mesh_of((2, 2, 2))):
        shardings = step.state_shardings(program, mesh).params
        params = jax.device_put(initial_state(CONFIG).params, shardings)
        found.append(evaluation.evaluate(program, mesh, params, sequences, 8, 3, threshold))
    assert found[0].keys() == found[1].keys()
    np.testing.assert_allclose(found[1]["loss"], found[0]["loss"], rtol=1e-5)
    assert found[1]["exact_accuracy"] == found[0]["exact_accuracy"]
    assert found[1].get("mean_passes") == found[0].get("mean_passes")


@dataclasses.dataclass(frozen=True)
class Collective:
    kind: str
    in_loop: bool
    groups: str
    bytes: int


def collectives(text: str) -> list[Collective]:
    """Of a compiled module, with whether they are inside a loop, or in what a loop calls."""
    bodies: dict[str, str] = {}
    for block in re.split(r"\n\n", text):
        if header := re.match(r"(?:ENTRY )?%?([\w.\-]+) \(", block.strip()):
            bodies[header[1]] = block
    called = {
        name: set(re.findall(r"(?:calls|to_apply|body|condition)=%?([\w.\-]+)", body))
        | {
            inner.strip().lstrip("%")
            for group in re.findall(r"branch_computations=\{([^}]*)\}", body)
            for inner in group.split(",")
        }
        for name, body in bodies.items()
    }
    loops = {n for body in bodies.values() for n in re.findall(r"body=%?([\w.\-]+)", body)}
    assert loops, "no loop found: the text is not understood"
    reached, todo = set(), list(loops)
    while todo:
        name = todo.pop()
        if name not in reached:
            reached.add(name)
            todo += called.get(name, ())
    kinds = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
    found = []
    for name, body in bodies.items():
        for line in body.splitlines():
            match = re.search(rf"= (.*?) ({kinds})(?:-start)?\(", line)
            if match:
                groups = re.search(r"replica_groups=(.*?), [a-z_]+=", line)
                assert groups, line
                size = sum(
                    int(bits) // 8 * math.prod(int(n) for n in shape.split(",") if n)
                    for bits, shape in re.findall(r"[a-z](\d+)\[([\d,]*)\]", match[1])
                )
                found.append(Collective(match[2], name in reached, groups[1], size))
    return found


@pytest.mark.parametrize("sizes", MESHES)
def test_the_loops_hold_only_what_tensor_parallelism_owes(sizes):
    found = collectives(compiled(CONFIG, mesh_of(sizes)).as_text())
    inside = [c for c in found if c.in_loop]
    assert len(inside) < len(found)
    if sizes[2] == 1:
        assert inside == []
        return
    neighbours = [{2 * i, 2 * i + 1} for i in range(4)]  # `tensor` is the innermost axis
    for c in inside:
        assert c.kind == "all-reduce", c
        groups = [set(map(int, g.split(","))) for g in re.findall(r"\{(\d[\d,]*)\}", c.groups)]
        short = c.groups.startswith("[4,2]<=[8]") or c.groups.endswith("] {'tensor'}")  # jax 0.11
        assert groups == neighbours or short, c


@functools.cache
def weak(sizes):
    """Cost to one of as many devices as the mesh has, each with one sequence."""
    number = math.prod(sizes)
    train = dataclasses.replace(WEAK.train, batch_size=number)
    devices = jax.devices()[:number]
    mesh = distributed.make_mesh(MeshConfig(*sizes), devices=devices)
    text = compiled(dataclasses.replace(WEAK, train=train), mesh).as_text()
    return cost.count(hlo.parse(text))


def sent(counted, kind):
    return sum(c.sent_bytes for c in counted.collectives if c.kind == kind)


@pytest.mark.parametrize("number", [2, 8])
def test_weak_scaling_over_data(number):
    """From the compiled program: the same work a device, and one sum of the gradients."""
    one, many = weak((1, 1, 1)), weak((number, 1, 1))
    assert one.collectives == () and many.flops == pytest.approx(one.flops, rel=1e-3)
    share = (number - 1) / number
    gradients = 4 * count_parameters(WEAK.model)
    assert {c.kind for c in many.collectives} == {"all-reduce"}
    assert many.sent_bytes == pytest.approx(2 * share * gradients, rel=0.02)


@pytest.mark.parametrize("number", [2, 8])
def test_weak_scaling_over_fsdp(number):
    """Parameters fetched once and gradients given back once; Muon's work is divided."""
    one, many = weak((1, 1, 1)), weak((1, number, 1))
    assert many.flops < one.flops
    share = (number - 1) / number
    shapes = jax.eval_shape(functools.partial(step.init_state, Program.of(WEAK, "cpu")), 0).params
    axes = jax.tree.leaves(decoder.logical_axes(WEAK.model))
    shapes = jax.tree.leaves(shapes)
    split = 4 * sum(x.size for x, names in zip(shapes, axes, strict=True) if "embed" in names)
    assert sent(many, "all-gather") == pytest.approx(share * split)
    assert sent(many, "reduce-scatter") == pytest.approx(share * split)
    assert many.sent_bytes < 4.5 * split


BAD = [
    ((3, 1, 1), "--data=3 --fsdp=1 --tensor=1 does not fit 8 devices"),
    ((-1, 3, 1), "--data=-1 --fsdp=3 --tensor=1 does not fit 8 devices"),
    ((-1, -1, 1), "--data=-1 --fsdp=-1 is not possible; allowed: -1 for one axis"),
    ((1, 1, 0), "--tensor=0 is not possible"),
    ((1, 1, 8), "--tensor=8 does not divide model.attention.kv_heads=2"),
]


@pytest.mark.parametrize("sizes, message", BAD, ids=[str(sizes) for sizes, _ in BAD])
def test_a_mesh_that_does_not_fit_is_refused(sizes, message):
    with pytest.raises(UserError, match=re.escape(message)):
        step.make_train_step(Program.of(CONFIG, "cpu"), mesh_of(sizes))


def test_a_parameter_that_does_not_fit_is_refused():
    odd = dataclasses.replace(CONFIG, model=dataclasses.replace(tiny.TWO_SHARDS, d_model=18))
    with pytest.raises(UserError, match=r"--fsdp=4 does not divide 18 of .*; allowed: a divisor"):
        step.state_shardings(Program.of(odd, "cpu"), mesh_of((2, 4, 1)))


def test_the_pallas_kernel_runs_under_the_mesh():
    """Interpreted, forward and backward, each device with its rows and heads."""
    keys = jax.random.split(jax.random.key(0), 6)
    q, k = (jax.random.normal(key, (8, 5, 2, 32)) / 6 for key in keys[:2])
    v = jax.random.normal(keys[2], (8, 5, 4, 32))
    log_decay = -jax.random.uniform(keys[3], (8, 5, 4))
    beta = jax.random.uniform(keys[4], (8, 5, 4))
    state = jax.random.normal(keys[5], (8, 4, 32, 32))
    arguments, shapes = (q, k, v, log_decay, beta, state), []

    def kernel(q, *rest):
        shapes.append((q.shape[0], q.shape[2]))
        return tpu.gated_delta_rule_tpu(q, *rest, interpret=True)

    def scalar(function, arguments):
        output, final = function(*arguments)
        return jnp.sum(output**2) + jnp.sum(final**2)

    mesh = mesh_of((2, 2, 2))
    heads = distributed.spec(mesh, PartitionSpec("batch", None, "heads"))
    fast = distributed.spec(mesh, PartitionSpec("batch", "heads"))
    mapped = jax.shard_map(
        kernel,
        mesh=mesh,
        in_specs=(heads,) * 5 + (fast,),
        out_specs=(heads, fast),
        check_vma=False,
    )
    found = jax.jit(jax.value_and_grad(functools.partial(scalar, mapped)))(arguments)
    oracle = functools.partial(gated_delta_rule, implementation="oracle")
    expected = jax.jit(jax.value_and_grad(functools.partial(scalar, oracle)))(arguments)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    assert set(shapes) == {(2, 1)}  # of 8 rows and 2 key heads


def test_a_warm_start_lies_like_any_parameter(tmp_path):
    config = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, tokens=512))
    source = tmp_path / "source"
    result = loop.train(config, source, mesh_of((8, 1, 1)))
    records.write_json(source / "row.json", {"commit": "abc", **result})
    begun = dataclasses.replace(config.train, warm_start=str(source))
    mesh = mesh_of((2, 2, 2))
    found = warm_start.parameters(dataclasses.replace(config, train=begun), tmp_path, mesh)
    placed = step.state_shardings(Program.of(config, "cpu"), mesh).params
    chex.assert_trees_all_equal(found, trained.load(source).params)
    assert jax.tree.map(lambda x: x.sharding, found) == placed
