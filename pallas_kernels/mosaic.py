"""The chunked gated delta rule as a Mosaic GPU kernel for Hopper, forward and backward.

One warpgroup holds one sequence, one value head and 64 columns of its state, which is float32, and
walks the chunks; what it does there is in `mosaic_forward` and `mosaic_backward`, after
`chunk_math`. Columns of the state never meet in the forward, and in the
backward all that they share is linear in them and summed here. TMA brings the tokens, wgmma
multiplies them. Nothing is saved for the backward but the inputs and, where there is more than one
chunk, the chunk-start states.

Never run on a GPU by this project: proved in interpret mode, and lowered for CUDA on a CPU
(tests/test_kernels_mosaic.py). NOTES.md says what the compiler made of it.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from pallas_kernels import tile_products
from pallas_kernels.mosaic_backward import backward
from pallas_kernels.mosaic_forward import forward
from pallas_kernels.mosaic_plan import Plan
from pallas_kernels.mosaic_tiles import ROWS

CHUNKS = (32, 64)
HEAD_DIMS = (64, 128)


def refuses(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    chunk_size: int | None,
    precision: lax.PrecisionLike = None,
) -> str:
    """Why these arguments are not for this kernel; empty if they are."""
    length, key_dim, value_dim = q.shape[1], q.shape[-1], v.shape[-1]
    dtypes = {str(x.dtype) for x in (q, k, v)}
    if dtypes != {"bfloat16"}:
        return f"does not take q, k, v of {', '.join(sorted(dtypes))}, only bfloat16"
    if key_dim not in HEAD_DIMS or value_dim not in HEAD_DIMS:
        return f"does not take Dk = {key_dim}, Dv = {value_dim}, only 64 or 128"
    if chunk_size not in (None, *CHUNKS) and not length <= min(chunk_size, max(CHUNKS)):
        return f"does not take chunk_size = {chunk_size}, only 32, 64, or T and above up to 64"
    if tile_products.resolve(precision, q.dtype) == lax.Precision.HIGHEST:
        return "does not take precision HIGHEST, only HIGH and DEFAULT"
    return ""


def _plan(
    q: jax.Array,
    v: jax.Array,
    chunk_size: int | None,
    precision: lax.PrecisionLike,
    interpret: Any,
) -> Plan:
    """Chunks of one size, up to 64 tokens: T = 75 is two of 40, with five rows of padding."""
    batch, length, key_heads, key_dim = q.shape
    chunks = pl.cdiv(length, chunk_size if chunk_size in CHUNKS else max(CHUNKS))
    return Plan(
        batch=batch,
        chunks=chunks,
        rows=8 * pl.cdiv(pl.cdiv(length, chunks), 8),
        key_heads=key_heads,
        groups=v.shape[2] // key_heads,
        key_dim=key_dim,
        value_dim=v.shape[3],
        halves=1 + (tile_products.resolve(precision, q.dtype) == lax.Precision.HIGH),
        interpret=interpret,
    )


def _to_chunks(plan: Plan, x: jax.Array, like: jax.ShapeDtypeStruct) -> jax.Array:
    """`[B, T, heads, D]` as the kernels take it, with zeros to the end of the last chunk."""
    padding = plan.chunks * plan.rows - x.shape[1]
    return jnp.pad(x, ((0, 0), (0, padding), (0, 0), (0, 0))).reshape(like.shape)


def _from_chunks(plan: Plan, x: jax.Array, like: jax.Array) -> jax.Array:
    return x.reshape(plan.batch, -1, *like.shape[2:])[:, : like.shape[1]]


def _to_gates(plan: Plan, x: jax.Array) -> jax.Array:
    """`[B, T, Hv]` as `plan.gates`, with zeros in the rows that no token has."""
    padding = plan.chunks * plan.rows - x.shape[1]
    x = jnp.pad(x.astype(jnp.float32), ((0, 0), (0, padding), (0, 0)))
    x = jnp.moveaxis(x.reshape(plan.batch, plan.chunks, plan.rows, plan.heads), 3, 1)
    x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, ROWS - plan.rows)))
    return x.reshape(plan.gates.shape)


def _from_gates(plan: Plan, x: jax.Array, like: jax.Array) -> jax.Array:
    """`[B Hv, chunks, rows]` as `[B, T, Hv]`."""
    x = x.reshape(plan.batch, plan.heads, plan.chunks, plan.rows)
    x = jnp.moveaxis(x, 1, 3).reshape(plan.batch, -1, plan.heads)
    return x[:, : like.shape[1]].astype(like.dtype)


def _inputs(plan: Plan, q, k, v, log_decay, beta) -> tuple[jax.Array, ...]:
    """q, k, v, gamma, beta, shaped as in `plan`."""
    return (
        _to_chunks(plan, q, plan.keys),
        _to_chunks(plan, k, plan.keys),
        _to_chunks(plan, v, plan.values),
        jnp.cumsum(_to_gates(plan, log_decay), -1),
        _to_gates(plan, beta),
    )


def _run_forward(plan: Plan, save_starts: bool, *arrays):
    *inputs, initial_state = arrays
    state = initial_state.reshape(plan.state.shape)
    output, final, *starts = forward(plan, save_starts, *_inputs(plan, *inputs), state)
    outputs = _from_chunks(plan, output, arrays[2]), final.reshape(initial_state.shape)
    return outputs, starts[0] if starts else state


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gated_delta_rule(plan: Plan, *arrays):
    return _run_forward(plan, False, *arrays)[0]


def _vjp_forward(plan: Plan, *arrays):
    outputs, starts = _run_forward(plan, plan.chunks > 1, *arrays)
    return outputs, (*arrays[:5], starts)


def _vjp_backward(plan: Plan, saved, cotangents):
    *inputs, starts = saved
    q, k, v, log_decay, beta = inputs
    chunked = _inputs(plan, *inputs)
    dO = _to_chunks(plan, cotangents[0], plan.values)
    d = backward(plan, *chunked, starts, dO, cotangents[1].reshape(plan.state.shape))

    def over_programs(x):
        """Sums over the programs of a key head."""
        x = x.reshape(plan.batch, -1, plan.key_heads, plan.parts, plan.key_dim)[:, : q.shape[1]]
        return (x[:, :, :, 0] if plan.parts == 1 else jnp.sum(x, 3)).astype(q.dtype)

    def over_slices(x):
        return jnp.sum(x.reshape(-1, plan.slices, *x.shape[1:]), 1)

    # What stands in the rows that no token has is anything, so they go before the sums.
    parts = (d.dbeta, d.within, d.rows, d.columns)
    dbeta, within, rows, columns = (over_slices(x)[..., : plan.rows] for x in parts)
    through = jnp.exp(chunked[3][..., -1]) * jnp.sum(over_slices(d.through), -1)
    d_log_decay = within + lax.cumsum(rows, 2, reverse=True)
    d_log_decay += jnp.cumsum(columns, -1) - columns + through[..., None]
    return (
        over_programs(d.dq),
        over_programs(d.dk),
        _from_chunks(plan, d.dv, v),
        _from_gates(plan, d_log_decay, log_decay),
        _from_gates(plan, dbeta, beta),
        d.d_initial.reshape(cotangents[1].shape),
    )


_gated_delta_rule.defvjp(_vjp_forward, _vjp_backward)


@functools.partial(jax.jit, static_argnames=("chunk_size", "precision", "interpret"))
def gated_delta_rule_mosaic(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    log_decay: jax.Array,
    beta: jax.Array,
    initial_state: jax.Array,
    *,
    chunk_size: int | None = None,
    precision: lax.PrecisionLike = None,
    interpret: Any = None,
) -> tuple[jax.Array, jax.Array]:
    """The rule of `oracle.gated_delta_rule_oracle`, with H key heads that divide Hv value heads.

    Args:
      q, k: `[B, T, H, Dk]`, bfloat16; Dk is 64 or 128.
      v: `[B, T, Hv, Dv]`, bfloat16; Dv is 64 or 128.
      log_decay, beta: `[B, T, Hv]`.
      initial_state: `[B, Hv, Dk, Dv]`.
      chunk_size: most tokens a chunk, 32 or 64; None is 64.
      precision: of the products; None is `HIGH`, three passes; `DEFAULT` is one.
      interpret: an `InterpretGPUParams` runs on a CPU, slowly.

    Returns:
      output `[B, T, Hv, Dv]`, bfloat16; final state `[B, Hv, Dk, Dv]`, float32.
    What it takes is what `refuses` does not refuse.
    """
    plan = _plan(q, v, chunk_size, precision, interpret)
    return _gated_delta_rule(plan, q, k, v, log_decay, beta, initial_state.astype(jnp.float32))
