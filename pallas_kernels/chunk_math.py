"""The maths of one chunk, on values `[..., C, D]`: shared by every chunkwise implementation.

Symbols (a chunk of C tokens, row vectors; S0 is the state that enters, S1 the one that leaves):

    gamma    = inclusive cumulative sum of log_decay inside the chunk
    M_ij     = exp(gamma_i - gamma_j) for i >= j, else 0
    e_i, r_i = exp(gamma_i), exp(gamma_C - gamma_i)
    L        = strict_tril(beta_i (k_i . k_j) M_ij)
    T        = (I + L)^-1
    P        = (Q K^T) * M
    W        = V - e (K S0)
    V'       = T (beta W)                     the values that are really written
    O        = e (Q S0) + P V'
    S1       = e_C S0 + (r K)^T V'

The backward is the adjoint of this by hand (a prefix d is a cotangent):

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

Where keys are not projected out (the Hebbian rule) there is no L: T = 1, W = V, Y = dV', and every
term that comes from k S0 is gone. That is what a `Local` without T stands for.

Only differences of gamma are exponentiated, and masked before, so nothing overflows whatever the
decays are (exp(-gamma) would, at 88). Rows past the end of a sequence are made the identity by
q = k = v = 0, beta = 0 and log_decay = 0.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

Product = Callable[[jax.Array, jax.Array], jax.Array]


class Products(NamedTuple):
    """Matrix products over the last two axes, each of them as the backend does it best.

    Leading axes are a batch; the second operand of nn may be without.
    """

    nn: Product  # a b
    nt: Product  # a b^T
    tn: Product  # a^T b


class Gates(NamedTuple):
    """Decay factors of a chunk: M `[..., C, C]`, e and r `[..., C, 1]`, e_C `[..., 1, 1]`."""

    M: jax.Array
    e: jax.Array
    r: jax.Array
    e_C: jax.Array


class Inputs(NamedTuple):
    """A chunk: q, k `[..., C, Dk]`, v `[..., C, Dv]`, beta `[..., C, 1]`, and its decay factors."""

    q: jax.Array
    k: jax.Array
    v: jax.Array
    beta: jax.Array
    gates: Gates


class Local(NamedTuple):
    """What a chunk computes without the state, `[..., C, C]`; kk is K K^T below the diagonal.

    kk and T are None where keys are not projected out.
    """

    kk: jax.Array | None
    P: jax.Array
    T: jax.Array | None


class Scaled(NamedTuple):
    """What the backward computes without the state: P^T dO, e Q, r K, beta e K, `[..., C, D]`.

    bek is None where keys are not projected out.
    """

    PdO: jax.Array
    eq: jax.Array
    rk: jax.Array
    bek: jax.Array | None


class Cotangents(NamedTuple):
    """`[..., C, D]` of q, k, v; log_decay `[..., 1, C]`; beta `[..., C, 1]`."""

    q: jax.Array
    k: jax.Array
    v: jax.Array
    log_decay: jax.Array
    beta: jax.Array


def transpose(a: jax.Array) -> jax.Array:
    """Swaps the last two axes."""
    return jnp.swapaxes(a, -1, -2)


def lower_triangle(size: int, diagonal: bool) -> jax.Array:
    """Mask `[C, C]`, true below the diagonal, and on it if asked."""
    row = lax.broadcasted_iota(jnp.int32, (size, size), 0)
    column = lax.broadcasted_iota(jnp.int32, (size, size), 1)
    return row >= column if diagonal else row > column


def decay_gates(gamma: jax.Array) -> Gates:
    """Decay factors from the cumulative sums `gamma [..., C]`."""
    lower = lower_triangle(gamma.shape[-1], diagonal=True)
    difference = gamma[..., :, None] - gamma[..., None, :]
    # Masked before the exponential: above the diagonal the difference is positive and may overflow.
    M = jnp.where(lower, jnp.exp(jnp.where(lower, difference, 0.0)), 0.0)
    last = gamma[..., -1:]
    return Gates(
        M=M,
        e=jnp.exp(gamma)[..., None],
        r=jnp.exp(last - gamma)[..., None],
        e_C=jnp.exp(last)[..., None],
    )


def local(x: Inputs, mm: Products, inverse: Callable[[jax.Array], jax.Array] | None) -> Local:
    """Everything between the tokens of the chunk.

    Args:
      inverse: takes L and gives `(I + L)^-1`; None where keys are not projected out.
    """
    P = mm.nt(x.q, x.k) * x.gates.M
    if inverse is None:
        return Local(kk=None, P=P, T=None)
    below = lower_triangle(x.k.shape[-2], diagonal=False)
    kk = jnp.where(below, mm.nt(x.k, x.k), 0.0)
    return Local(kk=kk, P=P, T=inverse(x.beta * kk * x.gates.M))


def forward(
    x: Inputs, here: Local, S0: jax.Array, mm: Products
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Returns O, S1, W, V'."""
    if here.T is None:
        W, V_ = x.v, x.beta * x.v
    else:
        W = x.v - x.gates.e * mm.nn(x.k, S0)
        V_ = mm.nn(here.T, x.beta * W)
    output = x.gates.e * mm.nn(x.q, S0) + mm.nn(here.P, V_)
    S1 = x.gates.e_C * S0 + mm.tn(x.gates.r * x.k, V_)
    return output, S1, W, V_


def scaled(x: Inputs, here: Local, dO: jax.Array, mm: Products) -> Scaled:
    """The part of the backward that needs no state."""
    e, r = x.gates.e, x.gates.r
    bek = None if here.T is None else x.beta * e * x.k
    return Scaled(PdO=mm.tn(here.P, dO), eq=e * x.q, rk=r * x.k, bek=bek)


def adjoint_state(
    s: Scaled,
    T: jax.Array | None,
    e_C: jax.Array,
    dO: jax.Array,
    dS1: jax.Array,
    mm: Products,
) -> tuple[jax.Array, jax.Array]:
    """Returns Y and dS0."""
    dV_ = s.PdO + mm.nn(s.rk, dS1)
    dS0 = e_C * dS1 + mm.tn(s.eq, dO)
    if T is None or s.bek is None:
        return dV_, dS0
    Y = mm.tn(T, dV_)
    return Y, dS0 - mm.tn(s.bek, Y)


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
    """The cotangents of the tokens, once Y and both states are known."""
    M, e, r, e_C = x.gates
    size = M.shape[-1]
    below = lower_triangle(size, diagonal=False)
    dOS, VS = mm.nt(dO, S0), mm.nt(V_, dS1)
    dOV = mm.nt(dO, V_)
    dQK = M * dOV

    dq = e * dOS + mm.nn(dQK, x.k)
    dk = mm.tn(dQK, x.q) + r * VS
    dbeta = jnp.sum(Y * W, -1, keepdims=True)
    pairs, from_state = dOV * here.P, s.eq * dOS
    if here.kk is not None and s.bek is not None:
        YS = mm.nt(Y, S0)
        G = jnp.where(below, -M * mm.nt(Y, V_), 0.0)
        E = x.beta * G
        dk = dk + mm.nn(E + transpose(E), x.k) - x.beta * e * YS
        dbeta = dbeta + jnp.sum(G * here.kk, -1, keepdims=True)
        pairs, from_state = pairs + E * here.kk, from_state - s.bek * YS
    rows = jnp.sum(from_state, -1, keepdims=True)
    columns = jnp.sum(s.rk * VS, -1, keepdims=True)
    through = jnp.sum(jnp.sum(e_C * S0 * dS1, -1, keepdims=True), -2, keepdims=True)
    earlier = transpose(below).astype(pairs.dtype)
    crossing = jnp.where(lower_triangle(size, True), mm.nn(pairs, earlier) + rows, columns)
    d_log_decay = jnp.sum(crossing, -2, keepdims=True) + through
    return Cotangents(dq, dk, x.beta * Y, d_log_decay, dbeta)


def unit_lower_inverse(
    L: jax.Array, product: Product, iota: Callable[..., jax.Array] = lax.broadcasted_iota
) -> jax.Array:
    """Inverse of `I + L` for strictly lower triangular `L [..., C, C]`, by block doubling.

    X holds the inverse of the block-diagonal part with blocks of size b; one step doubles b:
    `X <- X - X L_off X`, where L_off is the lower left block of each 2b block. Stable for
    correlated keys, where products of powers of L (Neumann squaring) lose every digit from
    C = 32 on.
    """
    row, column = (iota(jnp.int32, L.shape[-2:], axis) for axis in (0, 1))
    X = jnp.broadcast_to((row == column).astype(L.dtype), L.shape)
    shift = 0
    while 1 << shift < L.shape[-1]:
        same_pair = (row >> (shift + 1)) == (column >> (shift + 1))
        L_off = jnp.where(same_pair & ((row >> shift) > (column >> shift)), L, 0.0)
        X = X - (L_off if shift == 0 else product(product(X, L_off), X))
        shift += 1
    return X
