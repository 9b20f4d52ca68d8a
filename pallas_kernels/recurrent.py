"""The rule for a few tokens, as in wake decoding: update by update, no chunk machinery."""

import jax
import jax.numpy as jnp
from jax import lax

LONGEST = 2


def gated_delta_rule_recurrent(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    log_decay: jax.Array,
    beta: jax.Array,
    initial_state: jax.Array,
    *,
    rule: str = "delta",
    precision: lax.PrecisionLike = None,
) -> tuple[jax.Array, jax.Array]:
    """Unrolled over T, so for T of a few tokens only; arguments as `api.gated_delta_rule`.

    Reads the state once a token and writes it once: both products with the old state are taken
    together, `q S' = q (alpha S) + (q . k) u` where u is what the token writes.
    """
    dtype = jnp.result_type(jnp.float32, *(x.dtype for x in (q, k, v, log_decay, beta)))
    precision = lax.Precision.HIGHEST if precision is None else precision
    groups = v.shape[2] // q.shape[2]
    q, k = (jnp.repeat(x.astype(dtype), groups, axis=2) for x in (q, k))
    log_decay = log_decay[..., None] if log_decay.ndim == beta.ndim else log_decay
    alpha, state = jnp.exp(log_decay.astype(dtype)), initial_state.astype(dtype)
    outputs = []
    for t in range(v.shape[1]):
        both = alpha[:, t, :, None] * jnp.stack([k[:, t], q[:, t]], axis=2)
        kS, qS = jnp.unstack(jnp.matmul(both, state, precision=precision), axis=2)
        written = beta[:, t, :, None] * (v[:, t] - kS if rule == "delta" else v[:, t])
        state = alpha[:, t, ..., None] * state + k[:, t, :, :, None] * written[:, :, None]
        outputs.append(qS + jnp.sum(q[:, t] * k[:, t], -1, keepdims=True) * written)
    return jnp.stack(outputs, axis=1).astype(v.dtype), state
