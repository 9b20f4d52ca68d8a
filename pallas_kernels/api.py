"""The one door to the local rules: the gated delta rule and its relatives."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from pallas_kernels import recurrent, tpu
from pallas_kernels.oracle import gated_delta_rule_oracle
from pallas_kernels.xla import gated_delta_rule_xla

IMPLEMENTATIONS = ("oracle", "recurrent", "xla", "tpu", "gpu", "mosaic")
RULES = ("delta", "hebbian")
# exp(-100) of a state is nothing beside anything, float64 included. The chunkwise forms take
# differences of sums of decays, which must stay small to be exact, and finite.
LEAST_LOG_DECAY = -100.0


def gated_delta_rule(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    log_decay: jax.Array,
    beta: jax.Array,
    initial_state: jax.Array,
    *,
    rule: str = "delta",
    implementation: str | None = None,
    chunk_size: int | None = None,
    precision: lax.PrecisionLike = None,
) -> tuple[jax.Array, jax.Array]:
    """A local rule over T tokens, from a state to a state; differentiable in all six arrays.

    The recurrence is in `pallas_kernels.oracle`. Sources: gated delta, arXiv 2412.06464, eq. 10,
    and delta with a log_decay of zeros; Hebbian, as in Mamba-2, arXiv 2605.26099, eq. 3; a decay a
    channel (KDA), arXiv 2510.26692, eq. 1.

    Args:
      q, k: `[B, T, H, Dk]`, normalised and scaled by the caller; H divides Hv, and each key head
        serves Hv / H neighbouring value heads.
      v: `[B, T, Hv, Dv]`.
      log_decay: `[B, T, Hv]`, log alpha <= 0, natural logarithm, -inf to forget; or `[B, T, Hv,
        Dk]`, one for each channel of the key.
      beta: `[B, T, Hv]`, write strength, in [0, 2).
      initial_state: `[B, Hv, Dk, Dv]`, the fast weights on entry.
      rule: `"delta"` takes what the state already says of a key out of the value that is written;
        `"hebbian"` writes the value as it is.
      implementation: `"oracle"` (token by token, in a loop), `"recurrent"` (token by token,
        unrolled), `"xla"` (chunkwise), `"tpu"`, `"gpu"` and `"mosaic"` (chunkwise, Pallas; the last
        on Mosaic GPU, for Hopper). None takes `"recurrent"` for T <= 2, else by the platform that
        is being compiled for: `"tpu"` there if it takes the arguments, `"xla"` elsewhere. `"gpu"`
        and `"mosaic"` were never timed, so only who asks for them gets them.
      chunk_size: tokens a chunk, of the chunkwise ones; None chooses it. With a decay a channel
        the memory grows with it.
      precision: of the matrix products on accelerators; None is `HIGHEST`, but `HIGH` in the
        Pallas kernels where the tokens are bfloat16.

    Returns:
      output `[B, T, Hv, Dv]` in the dtype of v; final state `[B, Hv, Dk, Dv]`, float32 (float64 if
      a token or a gate is float64).

    Raises:
      ValueError: unknown rule or implementation, shapes that do not fit together or that the
        implementation does not take, or a chunk size < 1.
    """
    arrays = (q, k, v, log_decay, beta, initial_state)
    if rule not in RULES:
        raise ValueError(f"rule={rule!r} is unknown; allowed: {', '.join(RULES)}")
    _check(*arrays, chunk_size)
    chunkwise = dict(chunk_size=chunk_size, precision=precision)
    not_in_kernels = _not_in_kernels(rule, *arrays, precision)
    in_chunks = (q, k, v, jnp.maximum(log_decay, LEAST_LOG_DECAY), beta, initial_state)
    match implementation:
        case "oracle":
            return gated_delta_rule_oracle(*_share_keys(*arrays), rule=rule, precision=precision)
        case "recurrent":
            return recurrent.gated_delta_rule_recurrent(*arrays, rule=rule, precision=precision)
        case "xla":
            return _xla(*in_chunks, rule=rule, **chunkwise)
        case "tpu":
            _refuse(implementation, not_in_kernels or tpu.refuses(q, k, v, chunk_size))
            return tpu.gated_delta_rule_tpu(*in_chunks, **chunkwise)
        case "gpu":
            from pallas_kernels import gpu  # Pallas-Triton is deprecated: nobody else needs it

            _refuse(implementation, not_in_kernels or gpu.refuses(q, k, v, chunk_size))
            return gpu.gated_delta_rule_gpu(*in_chunks, **chunkwise)
        case "mosaic":
            from pallas_kernels import mosaic  # its API is experimental: nobody else needs it

            _refuse(
                implementation, not_in_kernels or mosaic.refuses(q, k, v, chunk_size, precision)
            )
            return mosaic.gated_delta_rule_mosaic(*in_chunks, **chunkwise)
        case None:
            if v.shape[1] <= recurrent.LONGEST:
                return recurrent.gated_delta_rule_recurrent(*arrays, rule=rule, precision=precision)
            if not_in_kernels or tpu.refuses(q, k, v, chunk_size):
                return _xla(*in_chunks, rule=rule, **chunkwise)
            return lax.platform_dependent(
                *in_chunks,
                tpu=functools.partial(tpu.gated_delta_rule_tpu, **chunkwise),
                default=functools.partial(_xla, rule=rule, **chunkwise),
            )
    raise ValueError(
        f"implementation={implementation!r} is unknown; allowed: {', '.join(IMPLEMENTATIONS)}, None"
    )


def _not_in_kernels(rule: str, q, k, v, log_decay, beta, initial_state, precision) -> str:
    """Why no Pallas kernel takes these arguments; empty if one may."""
    if rule != "delta":
        return f"does not take rule={rule!r}"
    if log_decay.ndim == 4:
        return "does not take a decay a channel"
    wide = {str(x.dtype) for x in (log_decay, beta, initial_state)} - {"float32", "bfloat16"}
    if wide:
        return f"does not take gates or a state of {', '.join(sorted(wide))}"
    if not isinstance(precision, str | lax.Precision | None):
        return f"does not take precision={precision!r}, only one for both operands"
    if isinstance(precision, str) and precision.upper() not in lax.Precision.__members__:
        return f"does not take precision={precision!r}"
    return ""


def _refuse(implementation: str, reason: str) -> None:
    if reason:
        raise ValueError(f"implementation={implementation!r} {reason}; implementation='xla' does")


def _share_keys(q, k, v, *rest):
    """Repeats each key head for the value heads that share it."""
    groups = v.shape[2] // q.shape[2]
    return *(jnp.repeat(x, groups, axis=2) if groups > 1 else x for x in (q, k)), v, *rest


def _xla(*arrays, **options):
    return gated_delta_rule_xla(*_share_keys(*arrays), **options)


def _check(q, k, v, log_decay, beta, initial_state, chunk_size) -> None:
    for name, array in (("q", q), ("v", v)):
        if array.ndim != 4:
            raise ValueError(f"{name} has shape {array.shape}, expected four axes, B, T, H, D")
    B, T, H, Dk = q.shape
    Hv, Dv = v.shape[2:]
    decay = (B, T, Hv, Dk) if log_decay.ndim == 4 else (B, T, Hv)
    expected = {
        "k": (k, (B, T, H, Dk)),
        "v": (v, (B, T, Hv, Dv)),
        "log_decay": (log_decay, decay),
        "beta": (beta, (B, T, Hv)),
        "initial_state": (initial_state, (B, Hv, Dk, Dv)),
    }
    for name, (array, shape) in expected.items():
        if array.shape != shape:
            raise ValueError(f"{name} has shape {array.shape}, expected {shape} from q and v")
    if B < 1 or T < 1:
        raise ValueError(f"B = {B} and T = {T} must be at least 1")
    if H < 1 or Hv % H:
        raise ValueError(f"{H} key heads do not divide {Hv} value heads")
    if chunk_size is not None and (not isinstance(chunk_size, int) or chunk_size < 1):
        raise ValueError(f"chunk_size={chunk_size} must be a whole number of at least 1")
