"""The chunkwise rules in plain XLA, with the closed-form backward of `chunk_math`.

Everything that does not need the state is batched over chunks; a `lax.scan` over chunks carries the
state alone, and a window of one chunk needs no scan. On CPU the scan does all of a chunk's work,
and chunks are short: what one of them touches then stays in a core's cache.

Chunks of all sequences and heads share one leading axis, G = NC * N with N = B * Hv: on CPU, where
the arrays are small, XLA spends most of its time in index arithmetic if there are more.

A decay a channel goes through `channel_math` instead, in shorter chunks.
"""

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from pallas_kernels import channel_math, chunk_math
from pallas_kernels.chunk_math import Inputs, Local, Products, transpose, unit_lower_inverse

_TILE = 8  # the fastest of 8, 16, 32 at C = 12, 24 and 32; as fast as 16 at 64
# Up to how many tokens a window is one chunk, and the tokens of a chunk beyond, by whether channels
# decay and whether chunks go one by one.
_SIZES = {
    (False, False): (96, 64),
    (False, True): (32, 16),
    (True, False): (32, 16),
    (True, True): (12, 8),
}


class _Form(NamedTuple):
    """What decides the program beside the shapes."""

    rule: str
    channels: bool  # each channel of the key has a decay
    precision: lax.PrecisionLike
    one_by_one: bool  # all of a chunk's work before the next; else what needs no state at once

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
    """What the backward needs of the forward, over all chunks; T is None without key projection."""

    chunks: _Chunks
    S0: jax.Array
    W: jax.Array
    V_: jax.Array
    T: jax.Array | None


def _local(
    c: _Chunks, form: _Form, mm: Products, inverse: Callable[[jax.Array], Any]
) -> tuple[Inputs, Local]:
    """All that needs no state."""
    gates = form.maths.decay_gates(_cumulative(c.log_decay))
    inputs = Inputs(c.q, c.k, c.v, c.beta[..., None], gates)
    return inputs, form.maths.local(inputs, mm, inverse if form.rule == "delta" else None)


def _forward(state: jax.Array, c: _Chunks, form: _Form) -> tuple[jax.Array, Any]:
    """Returns the final state, and output, S0, W, V' and T of each chunk."""
    mm = _products(form.precision)
    inputs, here = _local(c, form, mm, functools.partial(_inverse, product=mm.nn))

    def step(S0, chunk):
        output, S1, W, V_ = form.maths.forward(*chunk, S0, mm)
        return S1, (output, S0, W, V_)

    state, per_chunk = _scan(step, state, (inputs, here))
    return state, (*per_chunk, here.T)


def _backward(dS: jax.Array, xs: tuple[_Saved, jax.Array], form: _Form) -> tuple[Any, _Chunks]:
    """Returns the cotangents of the initial state and of the chunks; xs has that of the output."""
    (c, S0, W, V_, T), dO = xs
    mm = _products(form.precision)
    # Cheaper made again than kept, but for the inverse.
    inputs, here = _local(c, form, mm, lambda _: T)
    scaled = chunk_math.scaled(inputs, here, dO, mm)

    def step(dS1, chunk):
        scaled, T, e_C, dO = chunk
        Y, dS0 = chunk_math.adjoint_state(scaled, T, e_C, dO, dS1, mm)
        return dS0, (Y, dS1)

    dS, (Y, dS1) = _scan(step, dS, (scaled, here.T, inputs.gates.e_C, dO), reverse=True)
    d = form.maths.adjoint_inputs(inputs, here, scaled, S0, W, V_, dO, dS1, Y, mm)
    d_log_decay = d.log_decay if form.channels else d.log_decay[..., 0, :]
    return dS, _Chunks(d.q, d.k, d.v, d_log_decay, d.beta[..., 0])


def _walk(step, state, xs, form: _Form, reverse: bool = False):
    """A step over all chunks, or as many over one each."""
    step = functools.partial(step, form=form)
    return _scan(step, state, xs, reverse) if form.one_by_one else step(state, xs)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _chunked(c: _Chunks, initial_state: jax.Array, form: _Form):
    """Returns output chunks and final state."""
    final_state, (output, *_) = _walk(_forward, initial_state, c, form)
    return output, final_state


def _chunked_fwd(c, initial_state, form):
    final_state, (output, *saved) = _walk(_forward, initial_state, c, form)
    return (output, final_state), _Saved(c, *saved)


def _chunked_bwd(form, saved, cotangents):
    dO, dS_final = cotangents
    dS_initial, d = _walk(_backward, dS_final, (saved, dO), form, reverse=True)
    return d, dS_initial


_chunked.defvjp(_chunked_fwd, _chunked_bwd)


def _rule(*arrays: jax.Array, form: _Form, size: int) -> tuple[jax.Array, jax.Array]:
    """The rule in chunks of that many tokens; arrays in the order of the public function."""
    *tokens, initial_state = arrays
    v = tokens[2]
    batch, length, heads = v.shape[:3]
    dtype = jnp.result_type(jnp.float32, *(x.dtype for x in tokens))
    chunks = _Chunks(*(_cut(x, size, dtype) for x in tokens))
    state = initial_state.astype(dtype).reshape(-1, *initial_state.shape[2:])
    output, final_state = _chunked(chunks, state, form)  # type: ignore[misc]
    return (
        _join(output, batch, heads, length, v.dtype),
        final_state.reshape(initial_state.shape),
    )


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
    one_by_one: bool | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Chunkwise form of `oracle.gated_delta_rule_oracle`; same arguments, shapes and dtypes.

    Args:
      rule: "delta" or "hebbian".
      chunk_size: C, tokens a chunk. None takes one chunk for a short window (no loop, no padding),
        else 64, or 16 one by one; where channels decay, 16 and 8.
      precision: of the matrix products; None is `HIGHEST`.
      one_by_one: whether all of a chunk's work is done before the next chunk's, or what needs no
        state for all of them at once; None is the former on CPU, the latter elsewhere.
    """
    arrays = (q, k, v, log_decay, beta, initial_state)
    length, channels = v.shape[1], log_decay.ndim == v.ndim
    precision = lax.Precision.HIGHEST if precision is None else precision

    def chunkwise(one_by_one: bool):
        longest, size = _SIZES[channels, one_by_one]
        size = min(chunk_size or (length if length <= longest else size), length)
        form = _Form(rule, channels, precision, one_by_one and size < length)
        return functools.partial(_rule, form=form, size=size)

    if one_by_one is not None:
        return chunkwise(one_by_one)(*arrays)
    cpu, default = chunkwise(True), chunkwise(False)
    if cpu.keywords == default.keywords:
        return default(*arrays)
    return lax.platform_dependent(*arrays, cpu=cpu, default=default)
