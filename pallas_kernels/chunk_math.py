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

Only differences of gamma are exponentiated, and masked before, so nothing overflows whatever the
decays are (exp(-gamma) would, at 88).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


class Gates(NamedTuple):
    """Decay factors of a chunk: M `[..., C, C]`, e and r `[..., C, 1]`, e_C `[..., 1, 1]`."""

    M: jax.Array
    e: jax.Array
    r: jax.Array
    e_C: jax.Array


def matmul(a: jax.Array, b: jax.Array, precision: lax.PrecisionLike) -> jax.Array:
    """`a @ b` over the last two axes."""
    return jnp.matmul(a, b, precision=precision)


def transpose(a: jax.Array) -> jax.Array:
    """Swaps the last two axes."""
    return jnp.swapaxes(a, -1, -2)


def decay_gates(log_decay: jax.Array) -> Gates:
    """Decay factors from `log_decay [..., C]`."""
    size = log_decay.shape[-1]
    lower = jnp.tril(jnp.ones((size, size), bool))
    # The cumulative sum as a product with ones: one GEMM everywhere, always at full precision.
    gamma = matmul(log_decay, transpose(lower).astype(log_decay.dtype), lax.Precision.HIGHEST)
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


def unit_lower_inverse(L: jax.Array, precision: lax.PrecisionLike) -> jax.Array:
    """Inverse of `I + L` for strictly lower triangular `L [..., C, C]`, by block doubling.

    X holds the inverse of the block-diagonal part with blocks of size b; one step doubles b:
    `X <- X - X L_off X`, where L_off is the lower left block of each 2b block. Stable for
    correlated keys, where products of powers of L (Neumann squaring) lose every digit from
    C = 32 on.
    """
    size = L.shape[-1]
    row = lax.broadcasted_iota(jnp.int32, (size, size), 0)
    column = lax.broadcasted_iota(jnp.int32, (size, size), 1)
    X = jnp.broadcast_to(jnp.eye(size, dtype=L.dtype), L.shape)
    shift = 0
    while 1 << shift < size:
        same_pair = (row >> (shift + 1)) == (column >> (shift + 1))
        L_off = jnp.where(same_pair & ((row >> shift) > (column >> shift)), L, 0.0)
        if shift == 0:
            X = X - L_off
        else:
            X = X - matmul(matmul(X, L_off, precision), X, precision)
        shift += 1
    return X
