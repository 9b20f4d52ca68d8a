"""The chunked gated delta rule as a Pallas-Triton kernel for Hopper GPUs, forward and backward.

One program holds one sequence, one value head and one slice of the columns of its state, and walks
the chunks in a loop that carries the state slice in registers. The mathematics are `chunk_math`'s.
A slice stands alone: columns of the state never meet in the forward, and in the backward all that
is shared (dq, dk, the gates') is linear in the columns, so that slices, as the value heads of one
key head, are summed by XLA outside.

Tokens are read and written as they lie in `[B, T, H, D]`. Triton wants sizes that are powers of
two; loads and stores past the end of a ragged sequence are masked, so nobody pads. Nothing is saved
for the backward but the inputs and, where there is more than one chunk, the chunk-start states.

Never run on a GPU by this project: proved in interpret mode, and lowered for CUDA on a CPU
(tests/test_kernels_gpu.py). Compiled by Triton for sm_90, outside the tests, the backward spilled
kilobytes of registers a thread: NOTES.md has the table.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as pltriton

from pallas_kernels import chunk_math, tile_products
from pallas_kernels.chunk_math import Inputs, Products

CHUNKS = (16, 32, 64)  # 16 is the least a tensor core product takes
HEAD_DIMS = (32, 64, 128)
# Columns of the state in a program: two float32 [128, 64] take a quarter of the registers.
_WIDTH = 64


def refuses(q: jax.Array, k: jax.Array, v: jax.Array, chunk_size: int | None) -> str:
    """Why these arguments are not for this kernel; empty if they are."""
    if reason := tile_products.refuses_dtypes(q, k, v):
        return reason
    key_dim, value_dim = q.shape[-1], v.shape[-1]
    if key_dim not in HEAD_DIMS or value_dim not in HEAD_DIMS:
        return f"does not take Dk = {key_dim}, Dv = {value_dim}, only 32, 64 or 128"
    if chunk_size not in (None, *CHUNKS) and not q.shape[1] <= min(chunk_size, max(CHUNKS)):
        return f"does not take chunk_size = {chunk_size}, only 16, 32, 64, or T and above up to 64"
    return ""


class _Plan(NamedTuple):
    """Static shape of a call. A program takes `width` columns of the state of one value head."""

    batch: int
    length: int
    key_heads: int
    groups: int  # value heads that share a key head
    key_dim: int
    value_dim: int
    chunk: int
    width: int
    precision: lax.Precision

    @property
    def chunks(self) -> int:
        return pl.cdiv(self.length, self.chunk)

    @property
    def heads(self) -> int:
        return self.key_heads * self.groups

    @property
    def slices(self) -> int:
        return self.value_dim // self.width

    @property
    def grid(self) -> tuple[int, int, int]:
        # The first varies fastest: programs that read the same tokens run together.
        return self.slices, self.heads, self.batch


def _chunk(length: int) -> int:
    """One chunk up to 64 tokens; beyond, 64, but 32 where 64 pads more than an eighth (T = 75)."""
    for size in CHUNKS:
        if length <= size:
            return size
    return 64 if 8 * (-length % 64) <= length else 32


def _plan(
    q: jax.Array, v: jax.Array, chunk_size: int | None, precision: lax.PrecisionLike
) -> _Plan:
    batch, length, key_heads, key_dim = q.shape
    groups, value_dim = v.shape[2] // key_heads, v.shape[3]
    chunk = chunk_size if chunk_size and chunk_size < length else _chunk(length)
    precision = tile_products.resolve(precision, q.dtype)
    width = min(value_dim, _WIDTH)
    return _Plan(batch, length, key_heads, groups, key_dim, value_dim, chunk, width, precision)


def _block(plan: _Plan, ref, chunk: jax.Array) -> tuple:
    """The chunk's rows of `ref [T, ...]`, and the mask of those that exist, None if all do."""
    start = chunk * plan.chunk
    shape = (plan.chunk, *ref.shape[1:])
    mask = None
    if plan.length % plan.chunk:
        mask = lax.broadcasted_iota(jnp.int32, shape, 0) + start < plan.length
    return ref.at[pl.ds(start, plan.chunk)], mask


def _read(plan: _Plan, ref, chunk: jax.Array) -> jax.Array:
    """`[C, ...]` in float32, zero past the end."""
    view, mask = _block(plan, ref, chunk)
    x = pltriton.load(view, mask=mask, other=None if mask is None else 0.0)
    return x.astype(jnp.float32)


def _write(plan: _Plan, ref, chunk: jax.Array, x: jax.Array) -> None:
    view, mask = _block(plan, ref, chunk)
    pltriton.store(view, x.astype(ref.dtype), mask=mask)


def _decay_gates(log_decay: jax.Array) -> chunk_math.Gates:
    """`chunk_math.decay_gates` of the cumulative sum of `log_decay [C]`.

    Triton takes no slice of a value, not even of its last element; and a masked sum is exact in
    float32, where a product with ones would be rounded to what the tensor cores take.
    """
    lower = chunk_math.lower_triangle(log_decay.shape[0], diagonal=True)
    gamma = jnp.sum(jnp.where(lower, log_decay[None, :], 0.0), 1, keepdims=True)
    last = jnp.sum(log_decay[None, :], 1, keepdims=True)
    difference = jnp.where(lower, gamma - chunk_math.transpose(gamma), 0.0)
    M = jnp.where(lower, jnp.exp(difference), 0.0)
    return chunk_math.Gates(M=M, e=jnp.exp(gamma), r=jnp.exp(last - gamma), e_C=jnp.exp(last))


def _read_inputs(plan: _Plan, chunk: jax.Array, q_ref, k_ref, v_ref, g_ref, beta_ref) -> Inputs:
    return Inputs(
        q=_read(plan, q_ref, chunk),
        k=_read(plan, k_ref, chunk),
        v=_read(plan, v_ref, chunk),
        beta=_read(plan, beta_ref, chunk)[:, None],
        gates=_decay_gates(_read(plan, g_ref, chunk)),
    )


def _local(x: Inputs, mm: Products, dtype: jnp.dtype) -> chunk_math.Local:
    inverse = functools.partial(chunk_math.unit_lower_inverse, product=mm.nn)
    if dtype == jnp.bfloat16:  # K K^T and Q K^T of tokens are exact in one pass
        mm = mm._replace(nt=tile_products.products(lax.Precision.DEFAULT, batched=False).nt)
    return chunk_math.local(x, mm, inverse)


def _forward_kernel(plan: _Plan, *refs) -> None:
    *inputs, initial_ref, output_ref, final_ref = refs[:8]
    starts_ref = refs[8] if refs[8:] else None
    dtype = inputs[0].dtype
    mm = tile_products.products(plan.precision, batched=False)

    def step(chunk, S0):
        if starts_ref is not None:
            starts_ref[chunk] = S0
        x = _read_inputs(plan, chunk, *inputs)
        output, S1 = chunk_math.forward(x, _local(x, mm, dtype), S0, mm)[:2]
        _write(plan, output_ref, chunk, output)
        return S1

    final_ref[...] = lax.fori_loop(0, plan.chunks, step, initial_ref[...])


def _backward_kernel(plan: _Plan, *refs) -> None:
    *inputs, starts_ref, dO_ref, d_final_ref = refs[:8]
    dq_ref, dk_ref, dv_ref, d_log_decay_ref, dbeta_ref, d_initial_ref = refs[8:]
    dtype = inputs[0].dtype
    mm = tile_products.products(plan.precision, batched=False)

    def step(i, dS1):
        chunk = plan.chunks - 1 - i
        x = _read_inputs(plan, chunk, *inputs)
        S0, dO = starts_ref[chunk], _read(plan, dO_ref, chunk)
        here = _local(x, mm, dtype)
        W, V_ = chunk_math.forward(x, here, S0, mm)[2:]
        scaled = chunk_math.scaled(x, here, dO, mm)
        Y, dS0 = chunk_math.adjoint_state(scaled, here.T, x.gates.e_C, dO, dS1, mm)
        d = chunk_math.adjoint_inputs(x, here, scaled, S0, W, V_, dO, dS1, Y, mm)
        _write(plan, dq_ref, chunk, d.q)
        _write(plan, dk_ref, chunk, d.k)
        _write(plan, dv_ref, chunk, d.v)
        _write(plan, d_log_decay_ref, chunk, d.log_decay.reshape(plan.chunk))
        _write(plan, dbeta_ref, chunk, d.beta.reshape(plan.chunk))
        return dS0

    d_initial_ref[...] = lax.fori_loop(0, plan.chunks, step, d_final_ref[...])


class _Specs(NamedTuple):
    """Blocks of keys, values, gates, states, chunk-start states, and what is summed outside."""

    key: pl.BlockSpec
    value: pl.BlockSpec
    gate: pl.BlockSpec
    state: pl.BlockSpec
    starts: pl.BlockSpec
    key_part: pl.BlockSpec
    gate_part: pl.BlockSpec


def _specs(plan: _Plan) -> _Specs:
    length, key_dim, width = plan.length, plan.key_dim, plan.width
    return _Specs(
        key=pl.BlockSpec(
            (None, length, None, key_dim), lambda s, h, b: (b, 0, h // plan.groups, 0)
        ),
        value=pl.BlockSpec((None, length, None, width), lambda s, h, b: (b, 0, h, s)),
        gate=pl.BlockSpec((None, length, None), lambda s, h, b: (b, 0, h)),
        state=pl.BlockSpec((None, None, key_dim, width), lambda s, h, b: (b, h, 0, s)),
        starts=pl.BlockSpec(
            (None, plan.chunks, None, key_dim, width), lambda s, h, b: (b, 0, h, 0, s)
        ),
        key_part=pl.BlockSpec((None, length, None, None, key_dim), lambda s, h, b: (b, 0, h, s, 0)),
        gate_part=pl.BlockSpec((None, length, None, None), lambda s, h, b: (b, 0, h, s)),
    )


def _call(plan: _Plan, kernel, name: str, in_specs, out_specs, out_shape, interpret: bool):
    return pl.pallas_call(
        functools.partial(kernel, plan),
        name=name,
        grid=plan.grid,
        in_specs=in_specs,
        out_specs=out_specs,
        out_shape=out_shape,
        # Always given: it is what makes both JAX 0.10 and 0.11 choose Triton.
        compiler_params=pltriton.CompilerParams(
            num_warps=4 if plan.key_dim * plan.width <= 64 * 64 else 8, num_stages=1
        ),
        interpret=interpret,
    )


def _run_forward(plan: _Plan, interpret: bool, arrays: tuple, save_starts: bool):
    specs = _specs(plan)
    v, initial_state = arrays[2], arrays[5]
    out_specs = [specs.value, specs.state]
    out_shape = [
        jax.ShapeDtypeStruct(v.shape, v.dtype),
        jax.ShapeDtypeStruct(initial_state.shape, jnp.float32),
    ]
    if save_starts:
        out_specs.append(specs.starts)
        starts = (plan.batch, plan.chunks, *initial_state.shape[1:])
        out_shape.append(jax.ShapeDtypeStruct(starts, jnp.float32))
    return _call(
        plan,
        _forward_kernel,
        "gated_delta_rule_forward",
        [specs.key, specs.key, specs.value, specs.gate, specs.gate, specs.state],
        out_specs,
        out_shape,
        interpret,
    )(*arrays)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _gated_delta_rule(plan: _Plan, interpret: bool, *arrays):
    return tuple(_run_forward(plan, interpret, arrays, save_starts=False))


def _vjp_forward(plan, interpret, *arrays):
    output, final_state, *starts = _run_forward(plan, interpret, arrays, plan.chunks > 1)
    return (output, final_state), (*arrays[:5], starts[0] if starts else arrays[5][:, None])


def _vjp_backward(plan, interpret, saved, cotangents):
    q, k, v, log_decay, beta, _ = saved
    specs = _specs(plan)
    shared = plan.groups * plan.slices
    parts = (plan.batch, plan.length, plan.heads, plan.slices)
    like = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype)  # noqa: E731
    key_dtype = q.dtype if shared == 1 else jnp.float32
    key_part = jax.ShapeDtypeStruct((*parts, plan.key_dim), key_dtype)
    gate_part = jax.ShapeDtypeStruct(parts, jnp.float32)
    dq, dk, dv, d_log_decay, dbeta, d_initial = _call(
        plan,
        _backward_kernel,
        "gated_delta_rule_backward",
        [specs.key, specs.key, specs.value, specs.gate, specs.gate, specs.starts]
        + [specs.value, specs.state],
        [specs.key_part, specs.key_part, specs.value, specs.gate_part, specs.gate_part]
        + [specs.state],
        [key_part, key_part, like(v), gate_part, gate_part, like(cotangents[1])],
        interpret,
    )(*saved, *cotangents)

    def total(x, to):
        """Sums over the slices and over the value heads of a key head, where there are several."""
        x = x.reshape(*to.shape[:3], -1, *to.shape[3:])
        return (x[:, :, :, 0] if x.shape[3] == 1 else jnp.sum(x, 3)).astype(to.dtype)

    d_gates = total(d_log_decay, log_decay), total(dbeta, beta)
    return total(dq, q), total(dk, k), dv, *d_gates, d_initial


_gated_delta_rule.defvjp(_vjp_forward, _vjp_backward)


@functools.partial(jax.jit, static_argnames=("chunk_size", "precision", "interpret"))
def gated_delta_rule_gpu(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    log_decay: jax.Array,
    beta: jax.Array,
    initial_state: jax.Array,
    *,
    chunk_size: int | None = None,
    precision: lax.PrecisionLike = None,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """The rule of `oracle.gated_delta_rule_oracle`, with H key heads that divide Hv value heads.

    Args:
      q, k: `[B, T, H, Dk]`, float32 or bfloat16.
      v: `[B, T, Hv, Dv]`, of the same dtype.
      log_decay, beta: `[B, T, Hv]`.
      initial_state: `[B, Hv, Dk, Dv]`.
      chunk_size: C; None is the least of 16, 32 and 64 that holds T, beyond 64 by `_chunk`.
      precision: of the products; None is `HIGHEST` for float32 tokens and `HIGH` (three passes)
        for bfloat16.
      interpret: runs on any device, slowly.

    Returns:
      output `[B, T, Hv, Dv]` in the dtype of v; final state `[B, Hv, Dk, Dv]`, float32.
    What it takes is what `refuses` does not refuse.
    """
    plan = _plan(q, v, chunk_size, precision)
    return _gated_delta_rule(
        plan, interpret, q, k, v, log_decay, beta, initial_state.astype(jnp.float32)
    )
