"""The chunkwise gated delta rule in plain XLA, with the closed-form backward of `chunk_math`.

Everything that does not need the state is batched over chunks; a `lax.scan` over chunks carries the
state alone, and a window of one chunk needs no scan.

Chunks of all sequences and heads share one leading axis, G = NC * N with N = B * Hv: on CPU, where
the arrays are small, XLA spends most of its time in index arithmetic if there are more.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from pallas_kernels import chunk_math
from pallas_kernels.chunk_math import Inputs, Local, Products, transpose, unit_lower_inverse


class _Chunks(NamedTuple):
    """Inputs cut into chunks, head-major: q, k, v `[G, C, D]`, log_decay and beta `[G, C]`."""

    q: jax.Array
    k: jax.Array
    v: jax.Array
    log_decay: jax.Array
    beta: jax.Array


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


def _products(precision: lax.PrecisionLike) -> Products:
    matmul = functools.partial(jnp.matmul, precision=precision)

    def tn(a: jax.Array, b: jax.Array) -> jax.Array:
        # Written out on CPU, where no fast product folds the transpose in.
        return lax.platform_dependent(
            a,
            b,
            cpu=lambda a, b: matmul(lax.optimization_barrier(transpose(a)), b),
            default=lambda a, b: matmul(transpose(a), b),
        )

    return Products(nn=matmul, nt=lambda a, b: matmul(a, transpose(b)), tn=tn)


def _inverse(L: jax.Array, product: chunk_math.Product) -> jax.Array:
    """`(I + L)^-1`: forward substitution on CPU, block doubling elsewhere; as accurate."""

    def substitution(L):
        identity = jnp.broadcast_to(jnp.eye(L.shape[-1], dtype=L.dtype), L.shape)
        return lax.linalg.triangular_solve(
            L, identity, left_side=True, lower=True, unit_diagonal=True
        )

    return lax.platform_dependent(
        L, cpu=substitution, default=functools.partial(unit_lower_inverse, product=product)
    )


def _scan(step, state, xs, reverse: bool = False):
    """`lax.scan` over the NC chunks of xs `[NC * N, ...]`, without the loop where there is one."""
    sequences = state.shape[0]
    if jax.tree.leaves(xs)[0].shape[0] == sequences:
        return step(state, xs)
    split = lambda x: x.reshape(-1, sequences, *x.shape[1:])  # noqa: E731
    state, ys = lax.scan(step, state, jax.tree.map(split, xs), reverse=reverse)
    return state, jax.tree.map(lambda y: y.reshape(-1, *y.shape[2:]), ys)


class _Saved(NamedTuple):
    """What the backward needs of the forward, over all chunks."""

    inputs: Inputs
    here: Local
    S0: jax.Array
    W: jax.Array
    V_: jax.Array


def _forward(
    c: _Chunks, initial_state: jax.Array, precision: lax.PrecisionLike
) -> tuple[jax.Array, jax.Array, _Saved]:
    """Returns output chunks, final state, and what the backward needs."""
    mm = _products(precision)
    lower = chunk_math.lower_triangle(c.beta.shape[-1], diagonal=True)
    # The cumulative sum as a product with ones: one GEMM everywhere, always at full precision.
    gamma = jnp.matmul(
        c.log_decay, transpose(lower).astype(c.log_decay.dtype), precision=lax.Precision.HIGHEST
    )
    inputs = Inputs(c.q, c.k, c.v, c.beta[..., None], chunk_math.decay_gates(gamma))
    here = chunk_math.local(inputs, mm, functools.partial(_inverse, product=mm.nn))

    def step(S0, chunk):
        inputs, here = chunk
        output, S1, W, V_ = chunk_math.forward(inputs, here, S0, mm)
        return S1, (output, S0, W, V_)

    final_state, (output, S0, W, V_) = _scan(step, initial_state, (inputs, here))
    return output, final_state, _Saved(inputs, here, S0, W, V_)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _chunked(c: _Chunks, initial_state: jax.Array, precision: lax.PrecisionLike):
    output, final_state, _ = _forward(c, initial_state, precision)
    return output, final_state


def _chunked_fwd(c, initial_state, precision):
    output, final_state, saved = _forward(c, initial_state, precision)
    return (output, final_state), saved


def _chunked_bwd(precision, saved, cotangents):
    dO, dS_final = cotangents
    mm = _products(precision)
    scaled = chunk_math.scaled(saved.inputs, saved.here, dO, mm)

    def step(dS1, chunk):
        scaled, T, e_C, dO = chunk
        Y, dS0 = chunk_math.adjoint_state(scaled, T, e_C, dO, dS1, mm)
        return dS0, (Y, dS1)

    xs = (scaled, saved.here.T, saved.inputs.gates.e_C, dO)
    dS_initial, (Y, dS1) = _scan(step, dS_final, xs, reverse=True)
    d = chunk_math.adjoint_inputs(
        saved.inputs, saved.here, scaled, saved.S0, saved.W, saved.V_, dO, dS1, Y, mm
    )
    return _Chunks(d.q, d.k, d.v, d.log_decay[..., 0, :], d.beta[..., 0]), dS_initial


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
    output, final_state = _chunked(chunks, state, precision)  # type: ignore[misc]
    return (
        _join(output, batch, heads, length, v.dtype),
        final_state.reshape(initial_state.shape),
    )
