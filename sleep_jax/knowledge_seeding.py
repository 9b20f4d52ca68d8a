"""Knowledge Seeding (Behrouz et al., arXiv 2606.03979): a fast memory teaches a slow one.

The paper's models are chains of MLPs that are written ever more seldom. When a fast one is about to
be overwritten, what it holds is distilled into the next slower one, which gets a new low-rank
expert for it: teacher is the model as it was, student the model with the expert and without what
the fast memory held; the expert alone is trained, on what the teacher says ("dreams"). Here the
fast memory is the fast weights, which a sleep over a window has written (sleep.py), and the slow
ones are the MLPs. After it the fast weights are empty, and the window is known without them.

An expert of an MLP is as many more hidden units of it, those of all experts being there from the
start; with an output of zero they add nothing. (The paper routes tokens to experts and does not say
how; here all tokens go through all of them.)

Dimension letters: M prompts, L tokens of a prompt, V vocabulary. Parameters are trees as
decoder.init makes them; everything here is a pure function, and `vmap` over parameters gives as
many models at once.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from sleep_jax import sleep
from sleep_jax.config import SleepConfig
from sleep_jax.model import decoder
from sleep_jax.model.config import ModelConfig, require
from sleep_jax.model.decoder import Parameters

_PROJECTIONS = (("in", "gate", 1), ("in", "up", 1), ("out", "down", 0))  # and the hidden axis


@dataclasses.dataclass(frozen=True)
class Seeding:
    """How one consolidation is done.

    Attributes:
      units: d_low, hidden units of an expert, in every MLP; 0: no expert, the MLPs' own weights are
        trained.
      steps: updates of Adam, its rate falling linearly to 0.
      batch: prompts in an update, drawn with replacement.
      learning_rate: of the first update.
      imitation: 1 - alp, the share of the reward for saying what the teacher says in the objective;
        the rest is the divergence of the student from the teacher.
    """

    units: int = 4
    steps: int = 100
    batch: int = 32
    learning_rate: float = 1e-2
    imitation: float = 0.0

    def validate(self) -> None:
        """Raises UserError naming the field, its value and what is allowed."""
        require(self.units >= 0, "seeding.units", self.units, ">= 0 (0: no expert)")
        require(self.steps >= 1, "seeding.steps", self.steps, ">= 1")
        require(self.batch >= 1, "seeding.batch", self.batch, ">= 1")
        require(self.learning_rate > 0, "seeding.learning_rate", self.learning_rate, "> 0")
        share = self.imitation
        require(0 <= share <= 1, "seeding.imitation", share, "a share, 0 to 1")


def with_room(
    config: ModelConfig, params: Parameters, units: int
) -> tuple[ModelConfig, Parameters]:
    """The same model with as many more hidden units in every MLP, all weights of which are zero.

    They add nothing and have no gradient, until `with_expert` gives them weights.
    """

    def widened(block: Parameters) -> Parameters:
        mlp = {part: dict(block["mlp"][part]) for part in ("in", "out")}
        for part, name, axis in _PROJECTIONS:
            room = [(0, units if axis == at else 0) for at in range(2)]
            mlp[part][name] = jnp.pad(mlp[part][name], room)
        return {**block, "mlp": mlp}

    wider = dataclasses.replace(config, mlp_hidden=config.mlp_hidden + units)
    return wider, {**params, **{name: widened(params[name]) for name in _mlps(params)}}


def new_expert(config: ModelConfig, units: int, key: jax.Array) -> Parameters:
    """Of every MLP the weights of so many hidden units, by block; their output is zero at first."""
    made = decoder.init(dataclasses.replace(config, mlp_hidden=units), key)
    experts = _mlps(made)
    return jax.tree_util.tree_map_with_path(
        lambda path, x: jnp.zeros_like(x) if path[-1].key == "down" else x, experts
    )


def with_expert(params: Parameters, expert: Parameters, at: jax.Array | int) -> Parameters:
    """The parameters with an expert's weights in the hidden units from `at` on."""
    blocks = dict(params)
    for name, new in expert.items():
        mlp = {part: dict(params[name]["mlp"][part]) for part in ("in", "out")}
        for part, projection, axis in _PROJECTIONS:
            mlp[part][projection] = jax.lax.dynamic_update_slice_in_dim(
                mlp[part][projection], new[part][projection], at, axis
            )
        blocks[name] = {**params[name], "mlp": mlp}
    return blocks


class Dreams(NamedTuple):
    """What a student is to say.

    Attributes:
      prompts: `[M, L]` int32.
      said: log-probabilities `[M, V]` of the token after each, as a teacher says it: see `say`.
      windows: `[M, C, L']` int32, which the student sleeps over before each, its fast weights being
        empty at first; None: it has nothing but the prompt.
    """

    prompts: jax.Array
    said: jax.Array
    windows: jax.Array | None = None


def say(
    config: ModelConfig,
    loop: SleepConfig,
    params: Parameters,
    prompts: jax.Array,
    windows: jax.Array | None = None,
) -> jax.Array:
    """Log-probabilities `[M, V]` of the token after each prompt, in one pass.

    Args:
      prompts: `[M, L]` int32.
      windows: `[M, C, L']` int32, slept over before it; None: fast weights are empty.
    """
    model = sleep.bind(config, params)
    state = decoder.initial_fast_weights(config, len(prompts))
    if windows is not None:
        state = sleep.read(model, windows, state, loop)
    logits, _ = sleep.wake(model, prompts[:, None], state)
    return jax.nn.log_softmax(logits[:, 0, -1])


def for_sure(answers: jax.Array, vocab_size: int) -> jax.Array:
    """The same `[M, V]` of somebody who knows the token `[M]` that follows: 0 for it, else -inf."""
    return jnp.log(jax.nn.one_hot(answers, vocab_size))


@functools.partial(jax.jit, static_argnames=("config", "loop", "method"))
def seed(
    config: ModelConfig,
    loop: SleepConfig,
    method: Seeding,
    params: Parameters,
    dreams: Sequence[Dreams],
    at: jax.Array | int,
    key: jax.Array,
) -> tuple[Parameters, jax.Array]:
    """Trains an expert until the model says what it is to say.

    A prompt is answered by one token. So what the paper's on-policy share decides, who wrote the
    tokens before, makes no difference, its edit distance is 0 or 1, and its reward, 1 if student
    and teacher say the same, can be averaged over all that both might say. The objective, of which
    the mean over dreams is minimised, p being the teacher and q the student, is

        (1 - imitation) KL(p || q) - imitation sum_v p_v q_v.

    Args:
      config: of `params`, with room for the expert.
      loop: how windows are read.
      dreams: of each kind as many are drawn for an update, with replacement.
      at: the expert's first hidden unit; unused where there is none.
      key: draws the expert and the dreams of every update.

    Returns:
      The parameters with what was learned, and the objective `[steps]` before each update.

    Raises:
      UserError: the method is impossible.
    """
    method.validate()
    for_expert, for_dreams = jax.random.split(key)
    part = new_expert(config, method.units, for_expert) if method.units else _mlps(params)
    optimizer = optax.adam(optax.linear_schedule(method.learning_rate, 0.0, method.steps))

    def student(part: Parameters) -> Parameters:
        return with_expert(params, part, at if method.units else 0)

    def objective(part: Parameters, drawn: Sequence[Dreams]) -> jax.Array:
        share, values = method.imitation, []
        for prompts, taught, windows in drawn:
            said = say(config, loop, student(part), prompts, windows)
            divergence = optax.losses.kl_divergence(said, jnp.exp(taught))
            reward = jnp.sum(jnp.exp(taught + said), axis=-1)
            values.append(jnp.mean((1 - share) * divergence - share * reward))
        return jnp.mean(jnp.stack(values))

    def update(carry: tuple[Parameters, optax.OptState], key: jax.Array):
        part, moments = carry
        drawn = [
            _drawn(some, method.batch, jax.random.fold_in(key, i)) for i, some in enumerate(dreams)
        ]
        value, gradient = jax.value_and_grad(objective)(part, drawn)
        change, moments = optimizer.update(gradient, moments)
        return (optax.apply_updates(part, change), moments), value

    start = (part, optimizer.init(part))
    keys = jax.random.split(for_dreams, method.steps)
    (part, _), values = jax.lax.scan(update, start, keys)
    return student(part), values


def _drawn(dreams: Dreams, count: int, key: jax.Array) -> Dreams:
    chosen = jax.random.randint(key, (count,), 0, len(dreams.prompts))
    return jax.tree.map(lambda x: x[chosen], dreams)


def _mlps(params: Parameters) -> Parameters:
    return {
        name: block["mlp"]
        for name, block in params.items()
        if isinstance(block, dict) and "mlp" in block
    }
