"""The chunkwise gated delta rule in plain XLA, with a closed-form backward.

Everything that does not need the state is batched over chunks; a `lax.scan` over chunks carries the
state alone, and a window of one chunk needs no scan. The backward follows the adjoint of
`chunk_math`'s forward by hand (symbols there; a prefix d is a cotangent):

    dV'    = P^T dO + (r K) dS1
    Y      = T^T dV'                so that dL = -strict_tril(Y V'^T): one product, not two
    dS0    = e_C dS1 + (e Q)^T dO - (beta e K)^T Y
    dV     = beta Y
    dQK    = M (dO V'^T)
    G      = M dL,   E_ij = beta_i G_ij
    dQ     = e (dO S0^T) + dQK K
    dK     = dQK^T Q + (E + E^T) K - beta e (Y S0^T) + r (V' dS1^T)
    dbeta  = <Y, W> + sum_j G_ij (k_i . k_j)
    dlog_decay_t = sum over i >= t > j of P_ij dP_ij + L_ij dL_ij
                 + sum over i >= t of e_i (q_i.(dO S0^T)_i - beta_i k_i.(Y S0^T)_i)
                 + sum over j < t of r_j k_j.(V' dS1^T)_j + e_C <S0, dS1>

The last counts, for each token, only what decays through it: every term that M, e, r and e_C hold
for it and no other. The shorter q.dq - k.dk, summed from the end, adds and takes away all the rest,
and loses a digit in float32.

Chunks of all sequences and heads share one leading axis, G = NC * N with N = B * Hv: on CPU, where
the arrays are small, XLA spends most of its time in index arithmetic if there are more.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from pallas_kernels.chunk_math import Gates, decay_gates, matmul, transpose, unit_lower_inverse


class _Chunks(NamedTuple):
    """Inputs cut into chunks, head-major: q, k, v `[G, C, D]`, log_decay and beta `[G, C]`."""

    q: jax.Array
    k: jax.Array
    v: jax.Array
    log_decay: jax.Array
    beta: jax.Array


class _Local(NamedTuple):
    """What a chunk computes without the state, `[G, ...]`."""

    gates: Gates
    kk: jax.Array  # K K^T, below the diagonal
    P: jax.Array
    T: jax.Array


def _cut(x: jax.Array, chunk_size: int, dtype: jnp.dtype) -> jax.Array:
    """`[B, T, H, ...]` to `[NC * B * H, C, ...]`; zeros, the identity, fill a ragged tail."""
    batch, length = x.shape[:2]
    tail = -length % chunk_size
    x = jnp.pad(x.astype(dtype), [(0, 0), (0, tail)] + [(0, 0)] * (x.ndim - 2))
    x = x.reshape(batch, -1, chunk_size, *x.shape[2:])
    x = jnp.transpose(x, (1, 0, 3, 2, *range(4, x.ndim)))
    return x.reshape(-1, *x.shape[3:])


def _join(x: jax.Array, batch: int, heads: int, length: int, dtype: jnp.dtype) -> jax.Array:
    """Inverse of `_cut`."""
    x = x.reshape(-1, batch, heads, *x.shape[1:])
    x = jnp.transpose(x, (1, 0, 3, 2, *range(4, x.ndim)))
    return x.reshape(batch, -1, *x.shape[3:])[:, :length].astype(dtype)


def _matmul_tn(a: jax.Array, b: jax.Array, precision: lax.PrecisionLike) -> jax.Array:
    """`a^T b`, with the transpose written out on CPU, where no fast product folds it in."""
    return lax.platform_dependent(
        a,
        b,
        cpu=lambda a, b: matmul(lax.optimization_barrier(transpose(a)), b, precision),
        default=lambda a, b: matmul(transpose(a), b, precision),
    )


def _inverse(L: jax.Array, precision: lax.PrecisionLike) -> jax.Array:
    """`(I + L)^-1`: forward substitution on CPU, block doubling elsewhere; as accurate."""

    def substitution(L):
        identity = jnp.broadcast_to(jnp.eye(L.shape[-1], dtype=L.dtype), L.shape)
        return lax.linalg.triangular_solve(
            L, identity, left_side=True, lower=True, unit_diagonal=True
        )

    return lax.platform_dependent(
        L, cpu=substitution, default=functools.partial(unit_lower_inverse, precision=precision)
    )


def _local(c: _Chunks, precision: lax.PrecisionLike) -> _Local:
    gates = decay_gates(c.log_decay)
    kk = jnp.tril(matmul(c.k, transpose(c.k), precision), -1)
    T = _inverse(c.beta[..., None] * kk * gates.M, precision)
    P = matmul(c.q, transpose(c.k), precision) * gates.M
    return _Local(gates, kk, P, T)


def _scan(step, state, xs, reverse: bool = False):
    """`lax.scan` over the NC chunks of xs `[NC * N, ...]`, without the loop where there is one."""
    sequences = state.shape[0]
    if jax.tree.leaves(xs)[0].shape[0] == sequences:
        return step(state, xs)
    split = lambda x: x.reshape(-1, sequences, *x.shape[1:])  # noqa: E731
    state, ys = lax.scan(step, state, jax.tree.map(split, xs), reverse=reverse)
    return state, jax.tree.map(lambda y: y.reshape(-1, *y.shape[2:]), ys)


def _forward(
    c: _Chunks, initial_state: jax.Array, precision: lax.PrecisionLike
) -> tuple[jax.Array, jax.Array, tuple[_Local, jax.Array, jax.Array, jax.Array]]:
    """Returns output chunks, final state, and (local, chunk-start states, W, V')."""
    local = _local(c, precision)

    def step(S0, inputs):
        q, k, v, beta, gates, P, T = inputs
        W = v - gates.e * matmul(k, S0, precision)
        V_ = matmul(T, beta[..., None] * W, precision)
        o = gates.e * matmul(q, S0, precision) + matmul(P, V_, precision)
        S1 = gates.e_C * S0 + _matmul_tn(gates.r * k, V_, precision)
        return S1, (o, S0, W, V_)

    xs = (c.q, c.k, c.v, c.beta, local.gates, local.P, local.T)
    final_state, (output, starts, W, V_) = _scan(step, initial_state, xs)
    return output, final_state, (local, starts, W, V_)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _chunked(c: _Chunks, initial_state: jax.Array, precision: lax.PrecisionLike):
    output, final_state, _ = _forward(c, initial_state, precision)
    return output, final_state


def _chunked_fwd(c, initial_state, precision):
    output, final_state, saved = _forward(c, initial_state, precision)
    return (output, final_state), (c, saved)


def _chunked_bwd(precision, residuals, cotangents):
    c, (local, S0, W, V_) = residuals
    dO, dS_final = cotangents
    gates, kk, P, T = local
    M, e, r, e_C = gates
    beta = c.beta[..., None]
    mm = functools.partial(matmul, precision=precision)
    mm_tn = functools.partial(_matmul_tn, precision=precision)

    dV_local = mm_tn(P, dO)
    eq, rk, bek = e * c.q, r * c.k, beta * e * c.k

    def step(dS1, inputs):
        dV_local, dO, eq, rk, bek, T, e_C = inputs
        Y = mm_tn(T, dV_local + mm(rk, dS1))
        dS0 = e_C * dS1 + mm_tn(eq, dO) - mm_tn(bek, Y)
        return dS0, (Y, dS1)

    xs = (dV_local, dO, eq, rk, bek, T, e_C)
    dS_initial, (Y, dS1) = _scan(step, dS_final, xs, reverse=True)

    dOS, YS, VS = mm(dO, transpose(S0)), mm(Y, transpose(S0)), mm(V_, transpose(dS1))
    dOV = mm(dO, transpose(V_))
    dQK = M * dOV
    G = -jnp.tril(M * mm(Y, transpose(V_)), -1)
    E = beta * G

    dq = e * dOS + mm(dQK, c.k)
    dk = mm_tn(dQK, c.q) + mm(E + transpose(E), c.k) - beta * e * YS + r * VS
    dv = beta * Y
    dbeta = jnp.sum(Y * W, -1) + jnp.sum(G * kk, -1)

    pairs = dOV * P + E * kk
    rows = jnp.sum(eq * dOS - bek * YS, -1, keepdims=True)
    columns = jnp.sum(rk * VS, -1)
    through = jnp.sum(e_C * S0 * dS1, (-2, -1))[:, None]
    lower = jnp.tril(jnp.ones(P.shape[-2:], P.dtype))
    before = functools.partial(matmul, b=1.0 - lower, precision=lax.Precision.HIGHEST)
    d_log_decay = jnp.sum(lower * (before(pairs) + rows), -2) + before(columns) + through
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
    batch, length, heads = v.shape[:3]
    dtype = jnp.result_type(jnp.float32, *(x.dtype for x in (q, k, v, log_decay, beta)))
    precision = lax.Precision.HIGHEST if precision is None else precision
    size = min(chunk_size or default_chunk_size(length), length)
    chunks = _Chunks(*(_cut(x, size, dtype) for x in (q, k, v, log_decay, beta)))
    state = initial_state.astype(dtype).reshape(-1, *initial_state.shape[2:])
    output, final_state = _chunked(chunks, state, precision)
    return (
        _join(output, batch, heads, length, v.dtype),
        final_state.reshape(initial_state.shape),
    )
