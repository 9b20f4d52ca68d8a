"""The maths of one chunk where every channel of the key decays at its own rate.

Kimi Delta Attention (Kimi Linear, arXiv 2510.26692, eq. 1). The functions, symbols and types are
those of `chunk_math`, with one decay a channel d: gamma, e and r are `[..., C, Dk]`, e_C is
`[..., Dk, 1]`, and M, `[..., C, C, Dk]`, stands inside the products between tokens instead of
before them:

    M_ijd = exp(gamma_id - gamma_jd) for i >= j, else 0
    A_ij  = sum_d k_id k_jd M_ijd for i > j, else 0
    L_ij  = beta_i A_ij
    P_ij  = sum_d q_id k_jd M_ijd

W, V', O, S1, the scaled arrays of the backward and the adjoint of the state are as there, with the
factors e and r inside too. Then

    dP    = tril(dO V'^T),   E_ij = beta_i dL_ij
    U_ijd = (dP_ij q_id + E_ij k_id) M_ijd
    dQ_id = e_id (dO S0^T)_id + sum_j dP_ij k_jd M_ijd
    dK_id = -beta_i e_id (Y S0^T)_id + r_id (V' dS1^T)_id + sum_j E_ij k_jd M_ijd + sum_j U_jid
    dlog_decay_td = sum over i >= t > j of U_ijd k_jd + what passes by the state, as there

M is written out, C times as large as the keys, so chunks have to be short. The quotient form
(e q)(k / e)^T would be one product, but k / e overflows at a decay of 88 nats in a chunk.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from pallas_kernels.chunk_math import (
    Cotangents,
    Gates,
    Inputs,
    Local,
    Products,
    Scaled,
    lower_triangle,
    transpose,
)


def decay_gates(gamma: jax.Array) -> Gates:
    """Decay factors from the cumulative sums `gamma [..., C, Dk]`."""
    lower = lower_triangle(gamma.shape[-2], diagonal=True)[..., None]
    difference = gamma[..., :, None, :] - gamma[..., None, :, :]
    # Masked before the exponential: above the diagonal the difference is positive and may overflow.
    M = jnp.where(lower, jnp.exp(jnp.where(lower, difference, 0.0)), 0.0)
    last = gamma[..., -1:, :]
    return Gates(M=M, e=jnp.exp(gamma), r=jnp.exp(last - gamma), e_C=transpose(jnp.exp(last)))


def local(x: Inputs, mm: Products, inverse: Callable[[jax.Array], jax.Array] | None) -> Local:
    """Everything between the tokens of the chunk; arguments as `chunk_math.local`."""
    kM = _decayed_keys(x)
    if inverse is None:
        return Local(kk=None, P=mm.nt(x.q[..., None, :], kM)[..., 0, :], T=None)
    # Rows q_i and k_i meet the same k_j M_ij: one product for the two.
    pairs = mm.nt(jnp.stack([x.q, x.k], axis=-2), kM)
    below = lower_triangle(x.k.shape[-2], diagonal=False)
    A = jnp.where(below, pairs[..., 1, :], 0.0)
    return Local(kk=A, P=pairs[..., 0, :], T=inverse(x.beta * A))


def forward(
    x: Inputs, here: Local, S0: jax.Array, mm: Products
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Returns O, S1, W, V'."""
    e, r, e_C = x.gates[1:]
    if here.T is None:
        W, V_ = x.v, x.beta * x.v
    else:
        W = x.v - mm.nn(e * x.k, S0)
        V_ = mm.nn(here.T, x.beta * W)
    output = mm.nn(e * x.q, S0) + mm.nn(here.P, V_)
    return output, e_C * S0 + mm.tn(r * x.k, V_), W, V_


def adjoint_inputs(
    x: Inputs,
    here: Local,
    s: Scaled,
    S0: jax.Array,
    W: jax.Array,
    V_: jax.Array,
    dO: jax.Array,
    dS1: jax.Array,
    Y: jax.Array,
    mm: Products,
) -> Cotangents:
    """The cotangents of the tokens; that of log_decay is `[..., C, Dk]`."""
    M, e, r, e_C = x.gates
    size = M.shape[-2]
    kM = _decayed_keys(x)
    dOS, VS = mm.nt(dO, S0), mm.nt(V_, dS1)
    dP = jnp.where(lower_triangle(size, True), mm.nt(dO, V_), 0.0)

    dk, dbeta = r * VS, jnp.sum(Y * W, -1, keepdims=True)
    from_state, U = s.eq * dOS, dP[..., None] * x.q[..., :, None, :]
    if here.kk is None or s.bek is None:
        dq = mm.nn(dP[..., None, :], kM)[..., 0, :]
    else:
        YS = mm.nt(Y, S0)
        dL = jnp.where(lower_triangle(size, False), -mm.nt(Y, V_), 0.0)
        E = x.beta * dL
        dq, dk_row = jnp.unstack(mm.nn(jnp.stack([dP, E], axis=-2), kM), axis=-2)
        dk = dk + dk_row - x.beta * e * YS
        dbeta = dbeta + jnp.sum(dL * here.kk, -1, keepdims=True)
        from_state, U = from_state - s.bek * YS, U + E[..., None] * x.k[..., :, None, :]
    U = U * M

    d_log_decay = _through(U * x.k[..., None, :, :], from_state, s.rk * VS, mm)
    d_log_decay = d_log_decay + transpose(jnp.sum(e_C * S0 * dS1, -1, keepdims=True))
    return Cotangents(e * dOS + dq, dk + jnp.sum(U, -3), x.beta * Y, d_log_decay, dbeta)


def _through(pairs: jax.Array, rows: jax.Array, columns: jax.Array, mm: Products) -> jax.Array:
    """For each token t what decays through it, `[..., C, Dk]`; as in `chunk_math`, nothing cancels.

    The sum over i >= t > j of pairs_ij, over i >= t of rows_i, and over j < t of columns_j.
    """
    size, channels = rows.shape[-2:]
    ones = lower_triangle(size, diagonal=True).astype(rows.dtype)
    later = jnp.broadcast_to(transpose(ones), (*rows.shape[:-1], size))
    from_t = mm.nn(later, pairs.reshape(*pairs.shape[:-2], size * channels)).reshape(pairs.shape)
    earlier = lower_triangle(size, diagonal=False)
    crossing = jnp.sum(jnp.where(earlier[..., None], from_t, 0.0), -2)
    before = jnp.broadcast_to(earlier.astype(rows.dtype), later.shape)
    return crossing + mm.nn(later, rows) + mm.nn(before, columns)


def _decayed_keys(x: Inputs) -> jax.Array:
    """`k_jd M_ijd`."""
    return x.k[..., None, :, :] * x.gates.M
