"""The local rules, one token at a time: the definition that everything else is held against.

For every sequence and value head, with row vectors q_t, k_t [Dk], v_t [Dv] and the fast weights
S [Dk, Dv] (Yang, Kautz, Hatamizadeh, arXiv 2412.06464, eq. 10, transposed; the sleep paper,
arXiv 2605.26099, section on fast weights):

    S   <- exp(log_decay_t) S
    S   <- S + k_t^T (beta_t (v_t - k_t S))          rule "delta"
    S   <- S + k_t^T (beta_t v_t)                    rule "hebbian": keys are not projected out
    o_t  = q_t S

A log_decay of [Dk] instead of a scalar decays each row of S, each channel of the key, at its own
rate (KDA; Kimi Linear, arXiv 2510.26692, eq. 1).
"""

import jax
import jax.numpy as jnp
from jax import lax


def gated_delta_rule_oracle(
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
    """Runs the recurrence above with a `lax.scan` over tokens, in float64 when it is given float64.

    Args:
      q, k: `[B, T, Hv, Dk]`.
      v: `[B, T, Hv, Dv]`.
      log_decay: `[B, T, Hv]`, or `[B, T, Hv, Dk]`.
      beta: `[B, T, Hv]`.
      initial_state: `[B, Hv, Dk, Dv]`.
      rule: "delta" or "hebbian".
      precision: of the products on accelerators; None is `HIGHEST`.

    Returns:
      output `[B, T, Hv, Dv]` in the dtype of v, final state `[B, Hv, Dk, Dv]` in the compute dtype
      (float32, or float64 if an input is float64).
    """
    dtype = jnp.result_type(jnp.float32, *(x.dtype for x in (q, k, v, log_decay, beta)))
    precision = lax.Precision.HIGHEST if precision is None else precision

    def read(vector: jax.Array, state: jax.Array) -> jax.Array:
        return jnp.einsum("bhk,bhkv->bhv", vector, state, precision=precision)

    def token(state: jax.Array, inputs: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        q_t, k_t, v_t, log_decay_t, beta_t = inputs
        state = state * jnp.exp(log_decay_t)[..., None]
        error = v_t - read(k_t, state) if rule == "delta" else v_t
        state = state + k_t[..., :, None] * (beta_t[..., None] * error)[..., None, :]
        return state, read(q_t, state)

    log_decay = log_decay[..., None] if log_decay.ndim == beta.ndim else log_decay
    inputs = tuple(jnp.moveaxis(x.astype(dtype), 1, 0) for x in (q, k, v, log_decay, beta))
    final_state, output = lax.scan(token, initial_state.astype(dtype), inputs)
    return jnp.moveaxis(output, 0, 1).astype(v.dtype), final_state
