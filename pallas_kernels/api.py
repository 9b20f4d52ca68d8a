"""The one door to the gated delta rule."""

import jax
import jax.numpy as jnp
from jax import lax

from pallas_kernels.oracle import gated_delta_rule_oracle
from pallas_kernels.xla import gated_delta_rule_xla

IMPLEMENTATIONS = ("oracle", "xla")


def gated_delta_rule(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    log_decay: jax.Array,
    beta: jax.Array,
    initial_state: jax.Array,
    *,
    implementation: str | None = None,
    chunk_size: int | None = None,
    precision: lax.PrecisionLike = None,
) -> tuple[jax.Array, jax.Array]:
    """Gated delta rule over T tokens, from a state to a state; differentiable in all six arrays.

    The recurrence is in `pallas_kernels.oracle`; source: arXiv 2412.06464, eq. 10.

    Args:
      q, k: `[B, T, H, Dk]`, normalised and scaled by the caller; H divides Hv, and each key head
        serves Hv / H neighbouring value heads.
      v: `[B, T, Hv, Dv]`.
      log_decay: `[B, T, Hv]`, log alpha <= 0, natural logarithm.
      beta: `[B, T, Hv]`, write strength, in [0, 2).
      initial_state: `[B, Hv, Dk, Dv]`, the fast weights on entry.
      implementation: `"oracle"` (token by token), `"xla"` (chunkwise) or None (`"xla"`).
      chunk_size: tokens a chunk (`"xla"` only); None chooses it.
      precision: of the matrix products on accelerators; None is `HIGHEST`.

    Returns:
      output `[B, T, Hv, Dv]` in the dtype of v; final state `[B, Hv, Dk, Dv]`, float32 (float64 if
      an input is float64).

    Raises:
      ValueError: unknown implementation, shapes that do not fit together, or a chunk size < 1.
    """
    _check(q, k, v, log_decay, beta, initial_state, chunk_size)
    groups = v.shape[2] // q.shape[2]
    if groups > 1:
        q, k = (jnp.repeat(x, groups, axis=2) for x in (q, k))
    match implementation:
        case None | "xla":
            return gated_delta_rule_xla(
                q, k, v, log_decay, beta, initial_state, chunk_size=chunk_size, precision=precision
            )
        case "oracle":
            return gated_delta_rule_oracle(
                q, k, v, log_decay, beta, initial_state, precision=precision
            )
    raise ValueError(
        f"implementation={implementation!r} is unknown; allowed: {', '.join(IMPLEMENTATIONS)}, None"
    )


def _check(q, k, v, log_decay, beta, initial_state, chunk_size) -> None:
    B, T, H, Dk = q.shape
    Hv, Dv = v.shape[2:]
    expected = {
        "k": (k, (B, T, H, Dk)),
        "v": (v, (B, T, Hv, Dv)),
        "log_decay": (log_decay, (B, T, Hv)),
        "beta": (beta, (B, T, Hv)),
        "initial_state": (initial_state, (B, Hv, Dk, Dv)),
    }
    for name, (array, shape) in expected.items():
        if array.shape != shape:
            raise ValueError(f"{name} has shape {array.shape}, expected {shape} from q and v")
    if T < 1:
        raise ValueError("T must be at least 1")
    if Hv % H:
        raise ValueError(f"{H} key heads do not divide {Hv} value heads")
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size={chunk_size} must be at least 1")
