"""The chunkwise rules in plain XLA, with the closed-form backward of `chunk_math`.

Everything that does not need the state is batched over chunks; a `lax.scan` over chunks carries the
state alone, and a window of one chunk needs no scan.

Chunks of all sequences and heads share one leading axis, G = NC * N with N = B * Hv: on CPU, where
the arrays are small, XLA spends most of its time in index arithmetic if there are more.

A decay a channel goes through `channel_math` instead, in shorter chunks.
"""

import functools
from types import ModuleType
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from pallas_kernels import channel_math, chunk_math
from pallas_kernels.chunk_math import Inputs, Local, Products, transpose, unit_lower_inverse

_TILE = 8  # the fastest of 8, 16, 32 at C = 12, 24 and 32; as fast as 16 at 64


class _Form(NamedTuple):
    """What decides the program beside the shapes."""

    rule: str
    channels: bool  # each channel of the key has a decay
    precision: lax.PrecisionLike

    @property
    def maths(self) -> ModuleType:
        return channel_math if self.channels else chunk_math


class _Chunks(NamedTuple):
    """Inputs cut into chunks, head-major: q, k, v `[G, C, D]`, log_decay and beta `[G, C]`.

    log_decay is `[G, C, Dk]` where it has channels.
    """

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
    """`(I + L)^-1` by block doubling; on CPU without the products that meet zeros."""
    return lax.platform_dependent(
        L,
        cpu=functools.partial(_inverse_by_tiles, product=product),
        default=functools.partial(unit_lower_inverse, product=product),
    )


def _inverse_by_tiles(L: jax.Array, product: chunk_math.Product) -> jax.Array:
    """`(I + L)^-1` for `L [G, C, C]`: tiles on the diagonal, then pairs of them into larger ones.

    As fast as LAPACK's triangular solve at C = 12, and it cannot hang: in jaxlib 0.10 that solve
    waits inside a thread of XLA's pool for work that it gives to the same pool, so as many solves
    at a time as there are threads wait for ever (BUILD_NOTES.md).
    """
    size = L.shape[-1]
    edge = width = min(size, _TILE)
    while width < size:
        width *= 2
    L = jnp.pad(L, ((0, 0), *((0, width - size),) * 2))

    def cut(edge: int, row: int, column: int, step: int) -> jax.Array:
        """Tiles `(row + i step, column + i step)`, each `[edge, edge]`: `[G, n, edge, edge]`."""
        corners = (((row + i) * edge, (column + i) * edge) for i in range(0, width // edge, step))
        return jnp.stack([L[:, r : r + edge, c : c + edge] for r, c in corners], axis=1)

    X = unit_lower_inverse(cut(edge, 0, 0, 1), product)
    while edge < width:
        first, second = X[:, 0::2], X[:, 1::2]
        below = -product(product(second, cut(edge, 1, 0, 2)), first)
        upper = jnp.concatenate([first, jnp.zeros_like(first)], axis=-1)
        X = jnp.concatenate([upper, jnp.concatenate([below, second], axis=-1)], axis=-2)
        edge *= 2
    return X[:, 0, :size, :size]


def _cumulative(log_decay: jax.Array) -> jax.Array:
    """Inclusive sums over tokens of `[G, C]` or `[G, C, Dk]`."""
    # As a product with ones: one GEMM everywhere, always at full precision.
    ones = chunk_math.lower_triangle(log_decay.shape[1], diagonal=True).astype(log_decay.dtype)
    if log_decay.ndim == 2:
        return jnp.matmul(log_decay, transpose(ones), precision=lax.Precision.HIGHEST)
    ones = jnp.broadcast_to(ones, (log_decay.shape[0], *ones.shape))
    return jnp.matmul(ones, log_decay, precision=lax.Precision.HIGHEST)


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
    c: _Chunks, initial_state: jax.Array, form: _Form
) -> tuple[jax.Array, jax.Array, _Saved]:
    """Returns output chunks, final state, and what the backward needs."""
    mm = _products(form.precision)
    gates = form.maths.decay_gates(_cumulative(c.log_decay))
    inputs = Inputs(c.q, c.k, c.v, c.beta[..., None], gates)
    inverse = functools.partial(_inverse, product=mm.nn) if form.rule == "delta" else None
    here = form.maths.local(inputs, mm, inverse)

    def step(S0, chunk):
        inputs, here = chunk
        output, S1, W, V_ = form.maths.forward(inputs, here, S0, mm)
        return S1, (output, S0, W, V_)

    final_state, (output, S0, W, V_) = _scan(step, initial_state, (inputs, here))
    return output, final_state, _Saved(inputs, here, S0, W, V_)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _chunked(c: _Chunks, initial_state: jax.Array, form: _Form):
    output, final_state, _ = _forward(c, initial_state, form)
    return output, final_state


def _chunked_fwd(c, initial_state, form):
    output, final_state, saved = _forward(c, initial_state, form)
    return (output, final_state), saved


def _chunked_bwd(form, saved, cotangents):
    dO, dS_final = cotangents
    mm = _products(form.precision)
    scaled = chunk_math.scaled(saved.inputs, saved.here, dO, mm)

    def step(dS1, chunk):
        scaled, T, e_C, dO = chunk
        Y, dS0 = chunk_math.adjoint_state(scaled, T, e_C, dO, dS1, mm)
        return dS0, (Y, dS1)

    xs = (scaled, saved.here.T, saved.inputs.gates.e_C, dO)
    dS_initial, (Y, dS1) = _scan(step, dS_final, xs, reverse=True)
    d = form.maths.adjoint_inputs(
        saved.inputs, saved.here, scaled, saved.S0, saved.W, saved.V_, dO, dS1, Y, mm
    )
    d_log_decay = d.log_decay if form.channels else d.log_decay[..., 0, :]
    return _Chunks(d.q, d.k, d.v, d_log_decay, d.beta[..., 0]), dS_initial


_chunked.defvjp(_chunked_fwd, _chunked_bwd)


def default_chunk_size(length: int, channels: bool = False) -> int:
    """One chunk for a short window (no loop, no padding), else 64; 16 where channels decay."""
    longest, size = (32, 16) if channels else (96, 64)
    return length if length <= longest else size


def gated_delta_rule_xla(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    log_decay: jax.Array,
    beta: jax.Array,
    initial_state: jax.Array,
    *,
    rule: str = "delta",
    chunk_size: int | None = None,
    precision: lax.PrecisionLike = None,
) -> tuple[jax.Array, jax.Array]:
    """Chunkwise form of `oracle.gated_delta_rule_oracle`; same arguments, shapes and dtypes.

    Args:
      rule: "delta" or "hebbian".
      chunk_size: C, tokens a chunk; None chooses by `default_chunk_size`.
      precision: of the matrix products; None is `HIGHEST`.
    """
    batch, length, heads = v.shape[:3]
    dtype = jnp.result_type(jnp.float32, *(x.dtype for x in (q, k, v, log_decay, beta)))
    precision = lax.Precision.HIGHEST if precision is None else precision
    form = _Form(rule, log_decay.ndim == v.ndim, precision)
    size = min(chunk_size or default_chunk_size(length, form.channels), length)
    chunks = _Chunks(*(_cut(x, size, dtype) for x in (q, k, v, log_decay, beta)))
    state = initial_state.astype(dtype).reshape(-1, *initial_state.shape[2:])
    output, final_state = _chunked(chunks, state, form)  # type: ignore[misc]
    return (
        _join(output, batch, heads, length, v.dtype),
        final_state.reshape(initial_state.shape),
    )
