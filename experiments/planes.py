"""What is measured of a model that has lost recall: how it comes back, and in which planes.

Recall is learned again, from where fine-tuning left the model (theta_d; before it theta*), or from
theta* with noise as long as fine-tuning's displacement. Then it is trained again in planes of k
directions through theta_d. Every k directions are:

    STATIC    the k top ones of gradients of recall at theta*, before it was lost
    LOCAL     the same at theta_d
    FINAL     the same where recovery ended, theta_T
    OTHER     of gradients, at theta_d, of what it was fine-tuned on
    PREFIX    the first k updates of recovery
    KRYLOV    g, Hg, ..., at theta_d
    BACK      theta* - theta_d alone, whatever k
    RANDOM    drawn
"""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.fine_tuned import RECALL
from experiments.report.planes import (
    ADAM,
    AFTER,
    ALL,
    BACK,
    FEW,
    FINAL,
    FINE_TUNING,
    KRYLOV,
    LOCAL,
    NAMES,
    NOISE,
    OTHER,
    PREFIX,
    RANDOM,
    SGD,
    STATIC,
)
from sleep_jax import flops, parts, recovery
from sleep_jax.config import RunConfig
from sleep_jax.recovery import Doubles, Vector
from sleep_jax.tasks.task import TRAIN
from sleep_jax.trained import Trained
from sleep_jax.training.evaluation import evaluation_sequences, in_batches
from sleep_jax.training.step import Batch

log = logging.getLogger("sleep_jax")

PARTS = {
    ALL: lambda path: True,
    "attention": parts.attention("query", "key", "value", "output"),
    "fast weights": parts.fast_weights,
    "gates of fast weights": parts.gates,
    "MLPs": parts.mlps,
    "embeddings": parts.embeddings,
}
DIMENSIONS = (1, 3, 10, 30)  # k of planes
TRAINED_IN = {
    1: (BACK,),
    FEW: (STATIC, LOCAL, FINAL, OTHER, PREFIX, KRYLOV, RANDOM),
    30: (STATIC, LOCAL, PREFIX, RANDOM),
}
_FROM = 10_000_000  # of the training sequences here, far behind those of training itself
_SETS = 1_000_000  # sequences between two sets of them


@dataclasses.dataclass(frozen=True)
class Measuring:
    """How it is measured.

    Attributes:
      steps: T, updates of a recovery; rates fall linearly to 0.
      gradients: n, batches whose gradients make a basis.
      adam_rate: Adam's; in a plane sqrt(D / k) times that, so that updates are as long.
      sgd_rate: of gradients that are clipped at norm 1.
    """

    steps: int = 300
    gradients: int = 64
    adam_rate: float = 3e-3
    sgd_rate: float = 0.3

    @property
    def marks(self) -> list[int]:
        """Updates behind which gradients are taken."""
        return sorted({t for t in (0, 10, 30, AFTER) if t < self.steps} | {self.steps})

    def optimizer(self, name: str, longer: float = 1.0) -> optax.GradientTransformation:
        """ADAM or SGD, its rate so many times what it is."""
        rate = {ADAM: self.adam_rate, SGD: self.sgd_rate}[name] * longer
        schedule = optax.linear_schedule(rate, 0.0, self.steps)
        if name == ADAM:
            return optax.adam(schedule)
        return optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(schedule))


class _Model:
    """A run and the one it began with: theta_d and theta*, gradients, scores, sequences."""

    def __init__(self, before: Trained, after: Trained, measuring: Measuring):
        self.run, self.measuring = after, measuring
        task = dataclasses.replace(before.config.task, skills=(RECALL,))
        self.config = dataclasses.replace(after.config, task=task)
        self.theta, self.back, self.paths = recovery.flat(after.params)
        self.star = recovery.flat(before.params).theta
        self.gradient = recovery.gradient_of(after.program, after.mesh, self.back)
        self.held_out = evaluation_sequences(self.config, self.config.train.evaluation_sequences)
        self.lessons = self.batches(0, measuring.steps)
        self.random = jax.random.split(jax.random.key(after.config.train.seed), 2)
        self.before = self.scores(self.star)
        self.static = self.gradients(self.star, 3)

    def scores(self, theta: Vector) -> dict[str, float]:
        """On the run's evaluation sequences of recall."""
        train = self.config.train
        run = dataclasses.replace(self.run, params=self.back(theta))
        # As many at a time as a gradient has, for which a core's cache has room.
        found = run.evaluate(self.held_out, batch_size=train.batch_size // train.accumulate)
        return {name: found[name] for name in ("loss", "label_accuracy", "exact_accuracy")}

    def batches(self, number: int, count: int, config: RunConfig | None = None) -> list[Batch]:
        """A set of batches; another number, other sequences."""
        config = config or self.config
        size = config.train.batch_size
        start = _FROM + number * _SETS
        sequences = config.task.sample(config.train.seed, TRAIN, start, count * size)
        return in_batches(sequences, size, self.run.mesh)

    def gradients(
        self, theta: Vector | Doubles, number: int, config: RunConfig | None = None
    ) -> Doubles:
        """`[n, D]`, of one set of batches."""
        batches = self.batches(number, self.measuring.gradients, config)
        return recovery.samples(self.gradient, jnp.asarray(theta, jnp.float32), batches)

    def recover(self, theta: Vector, optimizer: str, plane: Doubles | None = None) -> Doubles:
        """The path of recovery, `[T + 1, D]`, always on the same batches."""
        longer = 1.0 if plane is None else float(np.sqrt(plane.shape[0] / plane.shape[1]))
        by = self.measuring.optimizer(optimizer, longer)
        return recovery.train(self.gradient, by, theta, self.lessons, plane).astype(np.float64)


class _Start(NamedTuple):
    """Where recovery begins, and what it needs none of: the same whichever way it then goes.

    Attributes:
      scores: on recall there.
      gradients: of recall, from two sets of batches.
      planes: all but those of the path, PREFIX and FINAL.
    """

    lost_by: str
    theta: Vector
    scores: dict[str, float]
    gradients: tuple[Doubles, Doubles]
    planes: dict[str, Doubles]


def measured(before: Trained, after: Trained, measuring: Measuring) -> list[dict[str, Any]]:
    """Three recoveries of a run that began with another: see `_recovery` for what each holds.

    From fine-tuning by Adam, with training in planes, and by SGD; from noise by Adam.
    """
    model = _Model(before, after, measuring)
    moved = jnp.linalg.norm(model.theta - model.star)
    noise = jax.random.normal(model.random[0], model.star.shape)
    noisy = model.star + noise * (moved / jnp.linalg.norm(noise))
    fine_tuned = _start(model, FINE_TUNING, model.theta)
    return [
        _recovery(model, fine_tuned, ADAM, TRAINED_IN),
        _recovery(model, fine_tuned, SGD),
        _recovery(model, _start(model, NOISE, noisy), ADAM),
    ]


def _start(model: _Model, lost_by: str, theta: Vector) -> _Start:
    one, other = (model.gradients(theta, number) for number in (1, 2))
    most = max(DIMENSIONS)
    drawn = np.asarray(jax.random.normal(model.random[1], (theta.size, most)), np.float64)
    planes = {
        STATIC: recovery.top(model.static, most),
        LOCAL: recovery.top(one, most),
        OTHER: recovery.top(model.gradients(theta, 3, model.run.config), most),
        KRYLOV: recovery.krylov(model.gradient, theta, model.batches(4, 16), FEW),
        BACK: recovery.orthonormal(np.asarray(model.star - theta, np.float64)[:, None]),
        RANDOM: recovery.orthonormal(drawn),
    }
    return _Start(lost_by, theta, model.scores(theta), (one, other), planes)


def _recovery(
    model: _Model,
    start: _Start,
    optimizer: str,
    trained_in: Mapping[int, Sequence[str]] = MappingProxyType({}),
) -> dict[str, Any]:
    """One recovery, and training in planes by their k and name.

    Returns:
      `before`, `lost` and `found`: scores on recall at theta*, at the start and at the end.
      `captured` and `held_out`, by plane and k: of the displacement, and of that behind the first k
      updates. `within`, by plane and k: scores where training in it ended. `displacement`: its
      length; `of_first`, by k, that of the first k updates. `back`: cosine of the displacement with
      theta* - theta. `spectrum`: of gradients at the start, as they are and less their mean.
      `parts`: see `_of_part`. `tokens` and `flops` of one recovery.
    """
    log.info("recovery from %s by %s", start.lost_by, optimizer)
    path = model.recover(start.theta, optimizer)
    end, delta = jnp.asarray(path[-1], jnp.float32), path[-1] - path[0]
    later = model.measuring.marks[1:]
    at = {0: start.gradients} | {
        t: tuple(model.gradients(path[t], number) for number in (1, 2)) for t in later
    }
    here, most = start.gradients[0], max(DIMENSIONS)
    planes = start.planes | {
        FINAL: recovery.top(at[model.measuring.steps][0], most),
        PREFIX: recovery.orthonormal((path[1 : most + 1] - path[:most]).T),
    }
    chosen = {
        name: {k: planes[name][:, :k] for k in DIMENSIONS if k <= planes[name].shape[1]}
        for name in NAMES
    }
    within: dict[str, dict[int, Any]] = {}
    for k, names in trained_in.items():
        for name in names:
            log.info("recovery from %s in %d directions: %s", start.lost_by, k, name)
            ended = model.recover(start.theta, optimizer, chosen[name][k])[-1]
            scores = model.scores(jnp.asarray(ended, jnp.float32))
            within.setdefault(name, {})[k] = scores
    masks = {name: np.array([is_in(path) for path in model.paths]) for name, is_in in PARTS.items()}
    back, config = np.asarray(model.star - start.theta, np.float64), model.config
    return {
        "lost_by": start.lost_by,
        "optimizer": optimizer,
        "before": model.before,
        "lost": start.scores,
        "found": model.scores(end),
        "captured": _by_plane(chosen, lambda k: delta),
        "held_out": _by_plane(chosen, lambda k: path[-1] - path[k]),
        "within": within,
        "displacement": float(np.linalg.norm(delta)),
        "of_first": {k: float(np.linalg.norm(path[k] - path[0])) for k in DIMENSIONS},
        "back": float(np.sum(back * delta) / np.linalg.norm(back) / np.linalg.norm(delta)),
        "spectrum": {
            "as they are": recovery.spectrum(here, FEW)._asdict(),
            "less their mean": recovery.spectrum(here - here.mean(0), FEW)._asdict(),
        },
        "marks": model.measuring.marks,
        "parts": {
            name: _of_part(mask, delta, path, at, {STATIC: model.static, LOCAL: here})
            for name, mask in masks.items()
            if mask.any()
        },
        "tokens": model.measuring.steps * config.tokens_per_step,
        "flops": model.measuring.steps * flops.training_flops_per_step(config),
    }


def _by_plane(chosen: Mapping[str, Mapping[int, Doubles]], displacement: Any) -> dict[str, Any]:
    return {
        name: {k: recovery.captured(plane, displacement(k)) for k, plane in by_dimension.items()}
        for name, by_dimension in chosen.items()
    }


def _of_part(
    mask: np.ndarray,
    delta: Doubles,
    path: Doubles,
    at: Mapping[int, Sequence[Doubles]],
    gradients: Mapping[str, Doubles],
) -> dict[str, Any]:
    """Of some of the parameters alone.

    Returns:
      `dimensions`, how many there are; `share` of the squared displacement; `captured` of theirs by
      STATIC, LOCAL and PREFIX planes of their own, of FEW directions; `overlap`, by k, of the
      planes at mark i, from one set of gradients, with those at mark j, from another: on the
      diagonal what sampling leaves of the same plane.
    """
    k = FEW
    mine = delta[mask]
    planes = {name: recovery.top(gradients[name][:, mask], k) for name in (STATIC, LOCAL)}
    planes[PREFIX] = recovery.orthonormal((path[1 : k + 1] - path[:k])[:, mask].T)
    of = [[recovery.top(found[:, mask], k) for found in sets] for sets in at.values()]
    return {
        "dimensions": int(mask.sum()),
        "share": float(np.sum(mine**2) / np.sum(delta**2)),
        "captured": {name: recovery.captured(plane, mine) for name, plane in planes.items()},
        "overlap": {
            few: [[recovery.overlap(a[:, :few], b[:, :few]) for _, b in of] for a, _ in of]
            for few in (1, k)
        },
    }
