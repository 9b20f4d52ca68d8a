"""The training state and the one jitted step."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import lax
from jax.sharding import Mesh

from sleep_jax import consa, distributed, sleep
from sleep_jax.config import OptimizerConfig, RunConfig, SleepConfig
from sleep_jax.curriculum import Stage
from sleep_jax.model import decoder
from sleep_jax.model.config import ModelConfig
from sleep_jax.stage_config import ConsaConfig
from sleep_jax.training.optimizer import (
    optimizer,
    without_frozen_gradients,
    without_frozen_updates,
)

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


class TrainState(struct.PyTreeNode):
    """Everything that a step reads and renews; master weights and moments are float32."""

    step: jax.Array  # int32, optimizer updates done
    params: decoder.Parameters
    opt_state: optax.OptState


@dataclasses.dataclass(frozen=True)
class Program:
    """What decides the compiled step; runs that differ in seed, depth or budget share it."""

    model: ModelConfig
    sleep: SleepConfig
    optimizer: OptimizerConfig
    accumulate: int = 1  # micro-batches, one after the other, whose gradients are summed
    # What this update changes, one of TRAINED; the moments are those of `optimizer.trained`.
    trained: str = "all"
    learns: ConsaConfig | None = None  # how log alpha is learned, where some updates learn it
    choosing: bool = False  # whether this one does

    @classmethod
    def of(cls, config: RunConfig, platform: str) -> "Program":
        """The program of a run on a platform, which resolves `activation_dtype="auto"`."""
        dtype = config.model.activation_dtype
        if dtype == "auto":
            dtype = "float32" if platform == "cpu" else "bfloat16"
        model = dataclasses.replace(config.model, activation_dtype=dtype)
        learns = config.consa if model.is_local and config.consa.by == "learned" else None
        return cls(
            model,
            config.sleep,
            config.optimizer,
            config.train.accumulate,
            config.optimizer.trained,
            learns,
        )

    def at(self, passes: int) -> "Program":
        """The same at another N."""
        return dataclasses.replace(self, sleep=dataclasses.replace(self.sleep, passes=passes))

    def in_stage(self, stage: Stage) -> "Program":
        """The same in a stage of the run's curriculum."""
        return dataclasses.replace(
            self,
            model=self.model.relaxed() if stage.choosing else self.model,
            sleep=dataclasses.replace(self.sleep, passes=stage.passes, cache=stage.cache),
            trained=stage.trained,
            choosing=stage.choosing,
        )


def predict(model: ModelConfig, loop: SleepConfig, params: Any, batch: Batch) -> jax.Array:
    """Logits `[B, P, L, V]` of the prediction windows, after sleeping over the context.

    Args:
      batch: `context [B, C, L]`, `tokens [B, P, L]`, int32; with `cache="keep"` the prediction is
        one pass over the whole sequence in one window (P = 1), nothing being evicted.
    """
    bound = sleep.bind(model, params)
    context, tokens = batch["context"], batch["tokens"]
    windows = (context.shape[-1], tokens.shape[-1])
    counts = (context.shape[1], tokens.shape[1])
    state = sleep.initial_state(model, loop, context.shape[0], windows, counts)
    if loop.cache == "keep":
        rows, windows, length = tokens.shape
        whole = jnp.concatenate([context.reshape(rows, -1), tokens.reshape(rows, -1)], axis=1)
        h, _ = bound.blocks(bound.embed(whole), state)
        logits = bound.unembed(h[:, -windows * length :])  # of the answers alone
        return logits.reshape(rows, windows, length, -1)
    state = sleep.read(bound, context, state, loop)
    logits, _ = sleep.wake(bound, tokens, state)
    return logits


def score(logits: jax.Array, batch: Batch) -> Metrics:
    """Sums over each answer's scored targets, `[B, Q]` each: `loss`, `right`, `labels`.

    `loss` is cross entropy in nats, `labels` counts targets. Labels are fed as inputs to the later
    ones. For whole answers that makes no difference: if all labels are right, greedy decoding
    would have fed the same ones.
    """
    targets = batch["targets"]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    right = _right(logits, batch)
    answers = jax.nn.one_hot(batch["answer"], batch["depth"].shape[1], dtype=losses.dtype)
    answers *= batch["mask"][..., None]

    def total(values: jax.Array) -> jax.Array:
        return jnp.einsum("bpl,bplq->bq", values.astype(losses.dtype), answers)

    return {"loss": total(losses), "right": total(right), "labels": total(jnp.ones_like(losses))}


def _right(logits: jax.Array, batch: Batch) -> jax.Array:
    return jnp.argmax(logits, -1) == batch["targets"]


def means(sums: Metrics) -> Metrics:
    """`loss` in nats a label, `label_accuracy`, and `exact_accuracy`, the share of whole answers.

    Args:
      sums: of `score`, arrays of any one shape; NumPy's as well as JAX's.
    """
    labels = sums["labels"].sum()
    exact = (sums["labels"] > 0) & (sums["right"] == sums["labels"])
    return {
        "loss": sums["loss"].sum() / labels,
        "label_accuracy": sums["right"].sum() / labels,
        "exact_accuracy": exact.sum() / (sums["labels"] > 0).sum(),
    }


def init_state(program: Program, seed: jax.Array | int) -> TrainState:
    """State of step 0; parameters are drawn from `fold_in(key(seed), 0)`."""
    key = jax.random.fold_in(jax.random.key(seed), 0)
    params = decoder.init(program.model, key)
    transformation = optimizer(program.optimizer, learns=program.learns)
    return TrainState(jnp.zeros((), jnp.int32), params, transformation.init(params))


def abstract_state(program: Program) -> TrainState:
    """Shape and dtype of every array of the state; touches no device."""
    return _abstract_state(_whatever_passes(program))


@functools.cache
def _abstract_state(program: Program) -> TrainState:
    return jax.eval_shape(functools.partial(init_state, program), 0)


def _whatever_passes(program: Program) -> Program:
    # The state is that of the model and its optimizer: one for every N and stage.
    return Program(program.model, SleepConfig(), program.optimizer, learns=program.learns)


def state_shardings(program: Program, mesh: Mesh) -> TrainState:
    """Sharding of every array of the state; moments lie like the parameter they belong to.

    Raises:
      UserError: a parameter cannot be split over the mesh.
    """
    axes = decoder.logical_axes(program.model)
    by_path = {
        _names(path): distributed.sharding(mesh, spec)
        for path, spec in jax.tree_util.tree_flatten_with_path(
            axes, is_leaf=lambda x: isinstance(x, jax.sharding.PartitionSpec)
        )[0]
    }

    def place(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.sharding.NamedSharding:
        names = _names(path)
        for start in range(len(names)):  # a moment's path ends in its parameter's path
            if names[start:] in by_path:
                distributed.require_divides(by_path[names[start:]], "/".join(names), leaf.shape)
                return by_path[names[start:]]
        return distributed.replicated(mesh)

    return jax.tree_util.tree_map_with_path(place, abstract_state(program))


def placed_state(program: Program, mesh: Mesh) -> TrainState:
    """`abstract_state` with the sharding of every array, as a checkpoint is restored to.

    Raises:
      UserError: as `state_shardings`.
    """
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        abstract_state(program),
        state_shardings(program, mesh),
    )


def _names(path: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(str(entry.key) for entry in path if isinstance(entry, jax.tree_util.DictKey))


def make_init(program: Program, mesh: Mesh) -> Callable[[int], TrainState]:
    """Jitted `seed -> TrainState`; arrays are born with their sharding."""
    return _make_init(_whatever_passes(program), mesh)


@functools.cache
def _make_init(program: Program, mesh: Mesh) -> Callable[[int], TrainState]:
    init = functools.partial(init_state, program)
    return jax.jit(init, out_shardings=state_shardings(program, mesh))


@functools.cache
def make_train_step(program: Program, mesh: Mesh) -> Callable[..., tuple[TrainState, Metrics]]:
    """Jitted `(state, batch, rate) -> (state, metrics)`; the state is donated.

    `rate`, float32 scalar, is the schedule's share of the full learning rates. A step that is
    `choosing` has a fourth argument, a `consa.Choice`. Metrics are `means` of the batch and the
    norm of the gradient before clipping.
    """
    total_gradient = gradient_sum(program, mesh)
    shardings = state_shardings(program, mesh)
    transformation = optimizer(program.optimizer, shardings.params, program.learns)

    def train_step(
        state: TrainState, batch: Batch, rate: jax.Array, choice: consa.Choice | None = None
    ):
        params = consa.noisy(state.params, choice.key) if choice else state.params
        gradient, sums = total_gradient(params, batch)
        labels = jnp.sum(sums["labels"])
        gradient = jax.tree.map(lambda g: g / labels, gradient)
        share = choice.share if choice else None
        updates, opt_state = transformation.update(
            gradient, state.opt_state, state.params, share=share
        )
        if program.trained != program.optimizer.trained:
            updates = without_frozen_updates(updates, program.trained)
        params = jax.tree.map(lambda p, u: p + rate * u, state.params, updates)
        metrics = {**means(sums), "gradient_norm": optax.tree.norm(gradient)}
        return TrainState(state.step + 1, params, opt_state), metrics

    whole = distributed.replicated(mesh)
    inputs = (shardings, distributed.batch_sharding(mesh), whole)
    return jax.jit(
        train_step,
        in_shardings=(*inputs, whole) if program.choosing else inputs,
        out_shardings=(shardings, whole),
        donate_argnums=0,
    )


def gradient_sum(program: Program, mesh: Mesh) -> Callable[[Any, Batch], tuple[Any, Metrics]]:
    """`(params, batch) -> (gradient of the summed loss, score)`, over all of the mesh."""
    axes = decoder.logical_axes(program.model)
    model = decoder.shard(program.model, mesh.shape["tensor"])
    specs = jax.tree.map(functools.partial(distributed.spec, mesh), axes)
    rows = distributed.batch_sharding(mesh).spec

    def loss_sum(params: Any, batch: Batch) -> tuple[jax.Array, Metrics]:
        params = without_frozen_gradients(params, program.trained)
        sums = score(predict(model, program.sleep, params, batch), batch)
        return jnp.sum(sums["loss"]), sums

    def on_one_device(shards: Any, batch: Batch) -> tuple[Any, Metrics]:
        gradient_of = jax.grad(loss_sum, has_aux=True)
        params = distributed.gather(shards, specs)
        if program.accumulate == 1:
            gradient, sums = gradient_of(params, batch)
            return distributed.sum_gradients(gradient, specs, axes), sums

        def one_part(total: Any, part: Batch) -> tuple[Any, Metrics]:
            gradient, sums = gradient_of(params, part)
            return jax.tree.map(jnp.add, total, gradient), sums

        parts = jax.tree.map(lambda x: x.reshape(program.accumulate, -1, *x.shape[1:]), batch)
        gradient, sums = lax.scan(one_part, jax.tree.map(jnp.zeros_like, params), parts)
        sums = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), sums)
        return distributed.sum_gradients(gradient, specs, axes), sums

    return jax.shard_map(
        on_one_device,
        mesh=mesh,
        in_specs=(specs, rows),
        out_specs=(specs, rows),
        check_vma=False,  # see distributed.enter
    )


@functools.cache
def make_evaluation_step(
    program: Program, mesh: Mesh, threshold: float | None = None
) -> Callable[[decoder.Parameters, Batch], Metrics]:
    """Jitted `(params, batch) -> score`; N is the program's, whatever N was trained.

    Beside the score `hits`, `[B, P, L]`: 1 where a scored target was right. With a `threshold`
    sleep halts (`sleep.sleep_until`), N is the most passes, and `passes` are those taken in each
    context window, `[B, C]`.
    """
    axes = decoder.logical_axes(program.model)
    model = decoder.shard(program.model, mesh.shape["tensor"])
    specs = jax.tree.map(functools.partial(distributed.spec, mesh), axes)
    rows = distributed.batch_sharding(mesh).spec

    def with_hits(logits: jax.Array, batch: Batch) -> Metrics:
        return {**score(logits, batch), "hits": _right(logits, batch) * batch["mask"]}

    def on_one_device(shards: Any, batch: Batch) -> Metrics:
        params = distributed.gather(shards, specs)
        if threshold is None:
            return with_hits(predict(model, program.sleep, params, batch), batch)
        bound = sleep.bind(model, params)
        state = decoder.initial_fast_weights(model, len(batch["context"]))
        state, passes = sleep.read_until(
            bound, batch["context"], state, program.sleep.passes, threshold
        )
        logits, _ = sleep.wake(bound, batch["tokens"], state)
        return {**with_hits(logits, batch), "passes": passes}

    mapped = jax.shard_map(
        on_one_device,
        mesh=mesh,
        in_specs=(specs, rows),
        out_specs=rows,
        check_vma=False,
    )
    return jax.jit(mapped, out_shardings=distributed.replicated(mesh))


@functools.cache
def make_wake_step(
    program: Program,
) -> Callable[[decoder.Parameters, jax.Array, decoder.FastWeights], Any]:
    """Jitted `(params, tokens [B, P, L], fast) -> (logits, fast)`: all that prediction runs.

    The number of passes is not in it: a test compares its program at N = 1 and N = 6.
    """

    def wake_step(params: Any, tokens: jax.Array, fast: decoder.FastWeights):
        return sleep.wake(sleep.bind(program.model, params), tokens, fast)

    return jax.jit(wake_step)
