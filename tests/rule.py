"""One test body for every implementation of the rule: cases, the float64 oracle, comparison."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels import gated_delta_rule

NAMES = ("q", "k", "v", "log_decay", "beta", "initial_state")
KEYS = ("random", "correlated", "identical", "vocabulary")
Results = tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]


@dataclasses.dataclass(frozen=True)
class Case:
    """Inputs by what they are like; random initial state, random cotangents on both outputs."""

    T: int
    keys: str = "random"
    beta: float | None = None  # None draws from (0, 1)
    log_decay: float | None = None  # None draws from an exponential distribution
    H: int = 2
    Hv: int = 2
    Dk: int = 32
    Dv: int = 16
    B: int = 2
    rule: str = "delta"
    channels: bool = False  # a decay for each channel of the key
    dtype: str = "float64"  # tokens are rounded to it, for the oracle too

    def draw(self) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
        """float64 inputs of the rule and cotangents of its outputs."""
        rng = np.random.default_rng(self.T)
        shape, gates = (self.B, self.T, self.H), (self.B, self.T, self.Hv)
        decays = (*gates, self.Dk) if self.channels else gates
        k = {
            "random": lambda: rng.normal(size=(*shape, self.Dk)),
            "correlated": lambda: (
                rng.normal(size=self.Dk) + 0.1 * rng.normal(size=(*shape, self.Dk))
            ),
            "identical": lambda: np.broadcast_to(rng.normal(size=self.Dk), (*shape, self.Dk)),
            "vocabulary": lambda: rng.normal(size=(3, self.Dk))[rng.integers(3, size=shape)],
        }[self.keys]()
        inputs = (
            self._round(_unit(rng.normal(size=(*shape, self.Dk))) * self.Dk**-0.5),
            self._round(_unit(k)),
            self._round(rng.normal(size=(*gates, self.Dv))),
            -rng.exponential(0.2, size=decays)
            if self.log_decay is None
            else np.full(decays, self.log_decay),
            rng.uniform(size=gates) if self.beta is None else np.full(gates, self.beta),
            rng.normal(size=(self.B, self.Hv, self.Dk, self.Dv)),
        )
        output = self._round(rng.normal(size=(*gates, self.Dv)))
        return inputs, (output, rng.normal(size=inputs[5].shape))

    def _round(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(jnp.asarray(x, self.dtype), np.float64) if self.dtype != "float64" else x


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@functools.cache
def _compiled(rule: Callable[..., Any]) -> Callable[..., Any]:
    def run(inputs, cotangents):
        outputs, pullback = jax.vjp(rule, *inputs)
        return outputs, pullback(cotangents)

    return jax.jit(run)


@functools.cache
def oracle(rule: str = "delta") -> Callable[..., tuple[jax.Array, jax.Array]]:
    """The token-by-token definition."""
    return functools.partial(gated_delta_rule, implementation="oracle", rule=rule)


def evaluate(rule: Callable[..., Any], case: Case, dtype: str, gates: str) -> Results:
    """Outputs and the six gradients of `rule`, tokens in `dtype`, gates and states in `gates`.

    Cases of one shape share a program as long as `rule` is the same object.
    """
    with jax.enable_x64(True):
        inputs, cotangents = case.draw()
        dtypes = (dtype, dtype, dtype, gates, gates, gates)
        arrays = [jnp.asarray(x, d) for x, d in zip(inputs, dtypes, strict=True)]
        down = [jnp.asarray(x, d) for x, d in zip(cotangents, (dtype, gates), strict=True)]
        return jax.tree.map(np.asarray, _compiled(rule)(arrays, tuple(down)))


@functools.cache
def expected(case: Case) -> Results:
    """The oracle's answer in float64, which not every accelerator has."""
    with jax.default_device(jax.devices("cpu")[0]):
        return evaluate(oracle(case.rule), case, "float64", "float64")


def relative(actual: np.ndarray, wanted: np.ndarray) -> float:
    """Norm of the difference over the norm of what is wanted."""
    scale = np.linalg.norm(wanted)
    return float(np.linalg.norm(actual - wanted) / (scale if scale > 0 else 1.0))


def check(
    rule: Callable[..., Any],
    case: Case,
    dtype: str,
    values: float,
    gradients: float,
    gates: float | None = None,
) -> None:
    """Holds `rule` on `case` against the oracle, by relative norm of each array.

    Args:
      dtype: of the tokens; gates and states are float32, or float64 where the tokens are.
      values, gradients: tolerances; `gates`, if given, is that of log_decay's and beta's gradients.
    """
    wide = "float64" if dtype == "float64" else "float32"
    actual, wanted = evaluate(rule, case, dtype, wide), expected(case)
    assert actual[0][0].dtype == dtype and actual[0][1].dtype == wide
    for name, a, b in zip(("output", "final_state"), actual[0], wanted[0], strict=True):
        assert relative(a.astype(np.float64), b) <= values, name
    for name, a, b in zip(NAMES, actual[1], wanted[1], strict=True):
        tolerance = gates if gates and name in ("log_decay", "beta") else gradients
        # Nothing passes a decay of -50: there only noise is left to compare.
        if np.linalg.norm(b) < 1e-12:
            assert np.linalg.norm(a) < 1e-6, name
        else:
            assert relative(a.astype(np.float64), b) <= tolerance, name
    _check_decay_parameters(case, actual[1][3], wanted[1][3])


def _check_decay_parameters(case: Case, actual: np.ndarray, wanted: np.ndarray) -> None:
    """The summed gradients that A_log and dt_bias get keep their direction (cosine)."""
    log_decay = case.draw()[0][3]
    for weight in (log_decay, np.expm1(log_decay)):  # d log alpha / d A_log, and like / d dt_bias
        a, b = (np.sum(weight * g, (0, 1)) for g in (actual, wanted))
        if np.linalg.norm(b) > 1e-9:
            assert np.vdot(a, b) >= 0.9999 * np.linalg.norm(a) * np.linalg.norm(b)


def check_chained(rule: Callable[..., Any], dtype: str, tolerance: float) -> None:
    """Eight passes, the state handed on, against one scan over all their tokens."""
    passes, length = 8, 12
    inputs, _ = Case(T=passes * length).draw()
    with jax.enable_x64(True):
        with jax.default_device(jax.devices("cpu")[0]):
            whole = oracle()(*map(jnp.asarray, inputs))
        *tokens, state = (jnp.asarray(x, dtype) for x in inputs)
        step, outputs = jax.jit(rule), []
        for n in range(passes):
            output, state = step(*(x[:, n * length : (n + 1) * length] for x in tokens), state)
            outputs.append(output)
    assert relative(np.concatenate(outputs, 1), np.asarray(whole[0])) <= tolerance
    assert relative(np.asarray(state), np.asarray(whole[1])) <= tolerance
