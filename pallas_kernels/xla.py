"""The chunkwise gated delta rule in plain XLA, with a closed-form backward.

Everything that does not need the state is batched over chunks; a `lax.scan` over chunks carries the
state alone, and a window of one chunk needs no scan. The backward follows the adjoint of
`chunk_math`'s forward by hand (symbols there; a prefix d is a cotangent):

    dV'    = P^T dO + (r K) dS1
    Y      = T^T dV'                          so that dL = -strict_tril(Y V'^T): one product, not two
    dS0    = e_C dS1 + (e Q)^T dO - (beta e K)^T Y
    dV     = beta Y
    dQK    = M (dO V'^T)
    G      = M dL,   E_ij = beta_i G_ij
    dQ     = e (dO S0^T) + dQK K
    dK     = dQK^T Q + (E + E^T) K - beta e (Y S0^T) + r (V' dS1^T)
    dbeta  = <Y, W> + sum_j G_ij (k_i . k_j)
    dgamma = q.dq - k.dk + 2 (sum_j L_ij dL_ij - beta e k.(Y S0^T)),
             and e_C <S0, dS1> + sum_i k_i.(r_i V'_i dS1^T) to the last row
    dlog_decay = reverse cumulative sum of dgamma inside the chunk
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from pallas_kernels.chunk_math import Gates, decay_gates, matmul, transpose, unit_lower_inverse


class _Chunks(NamedTuple):
    """Inputs cut into chunks, head-major: q, k, v `[NC, B, H, C, D]`, gates `[NC, B, H, C]`."""

    q: jax.Array
    k: jax.Array
    v: jax.Array
    log_decay: jax.Array
    beta: jax.Array


class _Local(NamedTuple):
    """What a chunk computes without the state, `[NC, B, H, ...]`."""

    gates: Gates
    kk: jax.Array  # K K^T, below the diagonal
    P: jax.Array
    T: jax.Array


def _cut(x: jax.Array, chunk_size: int, dtype: jnp.dtype) -> jax.Array:
    """`[B, T, H, ...]` to `[NC, B, H, C, ...]`; a ragged tail is filled with zeros, the identity."""
    batch, length = x.shape[:2]
    tail = -length % chunk_size
    x = jnp.pad(x.astype(dtype), [(0, 0), (0, tail)] + [(0, 0)] * (x.ndim - 2))
    x = x.reshape(batch, -1, chunk_size, *x.shape[2:])
    return jnp.transpose(x, (1, 0, 3, 2, *range(4, x.ndim)))


def _join(x: jax.Array, length: int, dtype: jnp.dtype) -> jax.Array:
    """Inverse of `_cut`."""
    x = jnp.transpose(x, (1, 0, 3, 2, *range(4, x.ndim)))
    return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :length].astype(dtype)


def _local(c: _Chunks, precision: lax.PrecisionLike) -> _Local:
    gates = decay_gates(c.log_decay)
    kk = jnp.tril(matmul(c.k, transpose(c.k), precision), -1)
    T = unit_lower_inverse(c.beta[..., None] * kk * gates.M, precision)
    P = matmul(c.q, transpose(c.k), precision) * gates.M
    return _Local(gates, kk, P, T)


def _scan(step, carry, xs, reverse: bool = False):
    """`lax.scan`, without the loop where there is one chunk."""
    if jax.tree.leaves(xs)[0].shape[0] > 1:
        return lax.scan(step, carry, xs, reverse=reverse)
    carry, y = step(carry, jax.tree.map(lambda x: x[0], xs))
    return carry, jax.tree.map(lambda x: x[None], y)


def _forward(
    c: _Chunks, initial_state: jax.Array, precision: lax.PrecisionLike
) -> tuple[jax.Array, jax.Array, tuple[_Local, jax.Array, jax.Array]]:
    """Returns output chunks, final state, and (local, chunk-start states, V')."""
    local = _local(c, precision)

    def step(S0, inputs):
        q, k, v, beta, gates, P, T = inputs
        W = v - gates.e * matmul(k, S0, precision)
        V_ = matmul(T, beta[..., None] * W, precision)
        o = gates.e * matmul(q, S0, precision) + matmul(P, V_, precision)
        S1 = gates.e_C * S0 + matmul(transpose(gates.r * k), V_, precision)
        return S1, (o, S0, V_)

    xs = (c.q, c.k, c.v, c.beta, local.gates, local.P, local.T)
    final_state, (output, starts, V_) = _scan(step, initial_state, xs)
    return output, final_state, (local, starts, V_)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _chunked(c: _Chunks, initial_state: jax.Array, precision: lax.PrecisionLike):
    output, final_state, _ = _forward(c, initial_state, precision)
    return output, final_state


def _chunked_fwd(c, initial_state, precision):
    output, final_state, saved = _forward(c, initial_state, precision)
    return (output, final_state), (c, saved)


def _chunked_bwd(precision, residuals, cotangents):
    c, (local, S0, V_) = residuals
    dO, dS_final = cotangents
    gates, kk, P, T = local
    M, e, r, e_C = gates
    beta = c.beta[..., None]
    mm = functools.partial(matmul, precision=precision)

    dV_local = mm(transpose(P), dO)
    eq, rk, bek = e * c.q, r * c.k, beta * e * c.k

    def step(dS1, inputs):
        dV_local, dO, eq, rk, bek, T, e_C = inputs
        Y = mm(transpose(T), dV_local + mm(rk, dS1))
        dS0 = e_C * dS1 + mm(transpose(eq), dO) - mm(transpose(bek), Y)
        return dS0, (Y, dS1)

    xs = (dV_local, dO, eq, rk, bek, T, e_C)
    dS_initial, (Y, dS1) = _scan(step, dS_final, xs, reverse=True)

    W = c.v - e * mm(c.k, S0)
    YS = mm(Y, transpose(S0))
    VS = r * mm(V_, transpose(dS1))
    dQK = M * mm(dO, transpose(V_))
    G = -jnp.tril(M * mm(Y, transpose(V_)), -1)
    E = beta * G

    dq = e * mm(dO, transpose(S0)) + mm(dQK, c.k)
    dk = mm(transpose(dQK), c.q) + mm(E + transpose(E), c.k) - beta * e * YS + VS
    dv = beta * Y
    dbeta = jnp.sum(Y * W, -1) + jnp.sum(G * kk, -1)

    # A row of gamma enters M with both signs: as q.dq - k.dk, once the terms in which k_i stands on
    # the row side (L and e K S0) have been counted with their own sign.
    row_side = jnp.sum(E * kk, -1) - jnp.sum(beta * e * c.k * YS, -1)
    dgamma = jnp.sum(c.q * dq, -1) - jnp.sum(c.k * dk, -1) + 2.0 * row_side
    d_last = jnp.sum(e_C * S0 * dS1, (-2, -1)) + jnp.sum(c.k * VS, (-2, -1))
    dgamma = dgamma.at[..., -1].add(d_last)
    d_log_decay = jnp.flip(jnp.cumsum(jnp.flip(dgamma, -1), -1), -1)
    return _Chunks(dq, dk, dv, d_log_decay, dbeta), dS_initial


_chunked.defvjp(_chunked_fwd, _chunked_bwd)


def default_chunk_size(length: int) -> int:
    """One chunk for a short window (no loop, no padding), else 64."""
    return length if length <= 96 else 64


def gated_delta_rule_xla(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    log_decay: jax.Array,
    beta: jax.Array,
    initial_state: jax.Array,
    *,
    chunk_size: int | None = None,
    precision: lax.PrecisionLike = None,
) -> tuple[jax.Array, jax.Array]:
    """Chunkwise form of `oracle.gated_delta_rule_oracle`; same arguments, shapes and dtypes.

    Args:
      chunk_size: C, tokens a chunk; None chooses by `default_chunk_size`.
      precision: of the matrix products; None is `HIGHEST`.
    """
    length = q.shape[1]
    dtype = jnp.result_type(jnp.float32, *(x.dtype for x in (q, k, v, log_decay, beta)))
    precision = lax.Precision.HIGHEST if precision is None else precision
    size = min(chunk_size or default_chunk_size(length), length)
    chunks = _Chunks(*(_cut(x, size, dtype) for x in (q, k, v, log_decay, beta)))
    output, final_state = _chunked(chunks, initial_state.astype(dtype), precision)
    return _join(output, length, v.dtype), final_state
