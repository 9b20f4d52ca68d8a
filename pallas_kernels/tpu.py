"""The chunked gated delta rule as a Pallas TPU kernel, forward and backward.

One grid cell holds one chunk of a block of sequences and heads in VMEM. The chunk axis is the last
of the grid and runs in order, so the state stays in scratch memory from chunk to chunk; where the
window is one chunk it does not even go there. The mathematics are `chunk_math`'s.

Tokens are read and written as `[B, T, H * D]`, which is how a projection makes them: the reshape to
`[B, T, H, D]` at the door costs nothing there, and no lane of a tile is padding. Nothing is saved
for the backward but the inputs and, where there is more than one chunk, the chunk-start states in
the dtype of the tokens (the state that is carried is float32).

Never run on a TPU by this project: proved in interpret mode, and compiled by the TPU's own compiler
(tests/test_kernels_tpu.py).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels import chunk_math, tile_products
from pallas_kernels.chunk_math import Inputs, Products

LONGEST_SINGLE_CHUNK = 96
LONGEST_CHUNK = 128
CHUNK = 64
# Of VMEM, for one grid cell; the smallest supported chip has 64 MiB of it.
VMEM_LIMIT_BYTES = 48 * 2**20
_BLOCK_BYTES = 10 * 2**20
_MOST_BYTES = 40 * 2**20  # of heads that cannot be parted; by `_bytes`, which is not exact
# (Sequence, head) pairs in a grid cell, where the block may be split: the compiler unrolls them.
_LARGEST_BLOCK = 16


def refuses(q: jax.Array, k: jax.Array, v: jax.Array, chunk_size: int | None) -> str:
    """Why these arguments are not for this kernel; empty if they are."""
    if reason := tile_products.refuses_dtypes(q, k, v):
        return reason
    key_dim, value_dim = q.shape[-1], v.shape[-1]
    if not (32 <= key_dim <= 256 and 32 <= value_dim <= 256 and not (key_dim | value_dim) % 32):
        return f"does not take Dk = {key_dim}, Dv = {value_dim}, only multiples of 32 up to 256"
    if chunk_size is not None and chunk_size < q.shape[1] and chunk_size % 16:
        return f"does not take chunk_size = {chunk_size}, only a multiple of 16 or T and above"
    if chunk_size is not None and min(chunk_size, q.shape[1]) > LONGEST_CHUNK:
        return f"does not take chunk_size = {chunk_size}, only {LONGEST_CHUNK} at most"
    plan = _plan(q, v, chunk_size, None)
    one = _bytes(plan.groups, key_dim, value_dim, plan.chunk)
    if plan.heads * one > _MOST_BYTES:
        return f"does not take {plan.value_heads} heads of {key_dim} x {value_dim} that go together"
    return ""


class _Plan(NamedTuple):
    """Static shape of a call. A block is `rows` sequences and `heads` key heads."""

    batch: int
    length: int
    key_heads: int
    groups: int  # value heads that share a key head
    key_dim: int
    value_dim: int
    chunk: int
    rows: int
    heads: int
    precision: lax.Precision

    @property
    def chunks(self) -> int:
        return pl.cdiv(self.length, self.chunk)

    @property
    def value_heads(self) -> int:
        return self.heads * self.groups

    @property
    def grid(self) -> tuple[int, int, int]:
        return self.batch // self.rows, self.key_heads // self.heads, self.chunks


def _plan(
    q: jax.Array, v: jax.Array, chunk_size: int | None, precision: lax.PrecisionLike
) -> _Plan:
    batch, length, key_heads, key_dim = q.shape
    groups, value_dim = v.shape[2] // key_heads, v.shape[3]
    chunk = chunk_size or (length if length <= LONGEST_SINGLE_CHUNK else CHUNK)
    chunk = min(chunk, length)
    one = _bytes(groups, key_dim, value_dim, chunk)
    room = max(1, min(_BLOCK_BYTES // one, _LARGEST_BLOCK // groups))
    heads = _block_of_heads(key_heads, groups, key_dim, value_dim, room)
    rows = max(d for d in range(1, batch + 1) if batch % d == 0 and d * heads <= max(room, heads))
    precision = tile_products.resolve(precision, q.dtype)
    return _Plan(
        batch, length, key_heads, groups, key_dim, value_dim, chunk, rows, heads, precision
    )


def _bytes(groups: int, key_dim: int, value_dim: int, chunk: int) -> int:
    """Of a key head in the backward, in float32: states, tokens, and what lies between tokens."""
    return 4 * groups * (8 * key_dim * value_dim + 24 * chunk * max(key_dim, value_dim, chunk))


def _block_of_heads(key_heads: int, groups: int, key_dim: int, value_dim: int, room: int) -> int:
    """Most key heads that fit `room` and leave blocks of whole tiles (or the whole axis)."""

    def tiles(heads: int) -> bool:
        lanes = heads * key_dim % 128 == 0 and heads * groups * value_dim % 128 == 0
        return lanes and heads * groups % 8 == 0

    allowed = [h for h in range(1, key_heads) if key_heads % h == 0 and tiles(h)] + [key_heads]
    fitting = [h for h in allowed if h <= room]
    return max(fitting) if fitting else min(allowed)


def _read_tokens(plan: _Plan, chunk: jax.Array, ref, dim: int, repeat: int) -> jax.Array:
    """Block `[rows, C, heads * dim]` as float32 `[rows * value heads, C, dim]`."""
    x = ref[...].astype(jnp.float32)
    if plan.length % plan.chunk:  # what lies beyond the array is undefined
        token = lax.broadcasted_iota(jnp.int32, x.shape, 1) + chunk * plan.chunk
        x = jnp.where(token < plan.length, x, 0.0)
    heads = [h // repeat for h in range(plan.value_heads)]
    x = jnp.stack([x[:, :, h * dim : (h + 1) * dim] for h in heads], axis=1)
    return x.reshape(-1, plan.chunk, dim)


def _write_tokens(plan: _Plan, ref, x: jax.Array, repeat: int) -> None:
    """Inverse of `_read_tokens`; heads that were repeated are summed."""
    dim = x.shape[-1]
    x = x.reshape(plan.rows, -1, repeat, plan.chunk, dim)
    x = jnp.sum(x, 2) if repeat > 1 else x[:, :, 0]
    for h in range(x.shape[1]):
        ref[:, :, h * dim : (h + 1) * dim] = x[:, h].astype(ref.dtype)


def _write_gates(plan: _Plan, ref, x: jax.Array) -> None:
    """`[rows * value heads, 1, C]` to the block `[rows, 1, value heads, C]`."""
    ref[:, 0] = x.reshape(plan.rows, plan.value_heads, plan.chunk)


def _flat(x: jax.Array) -> jax.Array:
    """Merges the two leading axes, sequences and heads."""
    return x.reshape(-1, *x.shape[2:])


def _read_inputs(plan: _Plan, chunk: jax.Array, q_ref, k_ref, v_ref, gamma_ref, beta_ref) -> Inputs:
    gates = chunk_math.decay_gates(gamma_ref[:, 0])
    return Inputs(
        q=_read_tokens(plan, chunk, q_ref, plan.key_dim, plan.groups),
        k=_read_tokens(plan, chunk, k_ref, plan.key_dim, plan.groups),
        v=_read_tokens(plan, chunk, v_ref, plan.value_dim, 1),
        beta=_flat(beta_ref[:, 0][..., None]),
        gates=chunk_math.Gates(*map(_flat, gates)),
    )


def _local(x: Inputs, mm: Products) -> chunk_math.Local:
    inverse = functools.partial(chunk_math.unit_lower_inverse, product=mm.nn)
    return chunk_math.local(x, mm, inverse)


def _forward_kernel(plan: _Plan, save_starts: bool, *refs) -> None:
    *inputs, initial_ref, output_ref, final_ref = refs[:8]
    rest = list(refs[8:])
    starts_ref = rest.pop(0) if save_starts else None
    mm = tile_products.products(plan.precision, batched=True)
    chunk = pl.program_id(2)

    def state_from(ref):
        return ref[...].reshape(-1, plan.key_dim, plan.value_dim)

    if plan.chunks > 1:
        (carry_ref,) = rest

        @pl.when(chunk == 0)
        def _():
            carry_ref[...] = state_from(initial_ref)

        S0 = carry_ref[...]
    else:
        S0 = state_from(initial_ref)
    x = _read_inputs(plan, chunk, *inputs)
    output, S1 = chunk_math.forward(x, _local(x, mm), S0, mm)[:2]
    _write_tokens(plan, output_ref, output, 1)
    if starts_ref is not None:
        starts_ref[...] = S0.reshape(starts_ref.shape).astype(starts_ref.dtype)
    if plan.chunks > 1:
        carry_ref[...] = S1

        @pl.when(chunk == plan.chunks - 1)
        def _():
            final_ref[...] = S1.reshape(final_ref.shape)
    else:
        final_ref[...] = S1.reshape(final_ref.shape)


def _backward_kernel(plan: _Plan, *refs) -> None:
    *inputs, S0_ref, dO_ref, d_final_ref = refs[:8]
    dq_ref, dk_ref, dv_ref, d_log_decay_ref, dbeta_ref, d_initial_ref = refs[8:14]
    mm = tile_products.products(plan.precision, batched=True)
    step = pl.program_id(2)
    chunk = plan.chunks - 1 - step  # backwards, as the index maps have it
    if plan.chunks > 1:
        (carry_ref,) = refs[14:]

        @pl.when(step == 0)
        def _():
            carry_ref[...] = d_final_ref[...].reshape(carry_ref.shape)

        dS1 = carry_ref[...]
    else:
        dS1 = d_final_ref[...].reshape(-1, plan.key_dim, plan.value_dim)
    S0 = S0_ref[...].astype(jnp.float32).reshape(-1, plan.key_dim, plan.value_dim)
    x = _read_inputs(plan, chunk, *inputs)
    dO = _read_tokens(plan, chunk, dO_ref, plan.value_dim, 1)

    here = _local(x, mm)
    W, V_ = chunk_math.forward(x, here, S0, mm)[2:]
    scaled = chunk_math.scaled(x, here, dO, mm)
    Y, dS0 = chunk_math.adjoint_state(scaled, here.T, x.gates.e_C, dO, dS1, mm)
    d = chunk_math.adjoint_inputs(x, here, scaled, S0, W, V_, dO, dS1, Y, mm)

    _write_tokens(plan, dq_ref, d.q, plan.groups)
    _write_tokens(plan, dk_ref, d.k, plan.groups)
    _write_tokens(plan, dv_ref, d.v, 1)
    _write_gates(plan, d_log_decay_ref, d.log_decay)
    # A column becomes a row through the diagonal, which every tile layout can do.
    diagonal = chunk_math.lower_triangle(plan.chunk, True) & ~chunk_math.lower_triangle(
        plan.chunk, False
    )
    _write_gates(plan, dbeta_ref, jnp.sum(jnp.where(diagonal, d.beta, 0.0), 1, keepdims=True))
    if plan.chunks > 1:
        carry_ref[...] = dS0

        @pl.when(step == plan.chunks - 1)
        def _():
            d_initial_ref[...] = dS0.reshape(d_initial_ref.shape)
    else:
        d_initial_ref[...] = dS0.reshape(d_initial_ref.shape)


class _Specs(NamedTuple):
    """Blocks of keys, values, gates, states and saved chunk-start states."""

    key: pl.BlockSpec
    value: pl.BlockSpec
    gate: pl.BlockSpec
    state: pl.BlockSpec
    starts: pl.BlockSpec


def _specs(plan: _Plan, backwards: bool) -> _Specs:
    last = plan.chunks - 1
    at = (lambda c: last - c) if backwards else (lambda c: c)
    rows, heads = plan.rows, plan.value_heads
    state = (plan.key_dim, plan.value_dim)
    return _Specs(
        key=pl.BlockSpec(
            (rows, plan.chunk, plan.heads * plan.key_dim), lambda i, j, c: (i, at(c), j)
        ),
        value=pl.BlockSpec(
            (rows, plan.chunk, heads * plan.value_dim), lambda i, j, c: (i, at(c), j)
        ),
        gate=pl.BlockSpec((rows, 1, heads, plan.chunk), lambda i, j, c: (i, at(c), j, 0)),
        state=pl.BlockSpec((rows, heads, *state), lambda i, j, c: (i, j, 0, 0)),
        starts=pl.BlockSpec((rows, 1, heads, *state), lambda i, j, c: (i, at(c), j, 0, 0)),
    )


def _call(plan: _Plan, kernel, name: str, in_specs, out_specs, out_shape, interpret):
    carry = (plan.rows * plan.value_heads, plan.key_dim, plan.value_dim)
    return pl.pallas_call(
        kernel,
        name=name,
        grid=plan.grid,
        in_specs=in_specs,
        out_specs=out_specs,
        out_shape=out_shape,
        scratch_shapes=[pltpu.VMEM(carry, jnp.float32)] if plan.chunks > 1 else [],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary"),
            vmem_limit_bytes=VMEM_LIMIT_BYTES,
        ),
        interpret=interpret,
    )


class _Call(NamedTuple):
    """The arrays as the kernels take them; see `_Specs`."""

    q: jax.Array
    k: jax.Array
    v: jax.Array
    gamma: jax.Array
    beta: jax.Array


def _cut_gates(plan: _Plan, x: jax.Array) -> jax.Array:
    """`[B, T, Hv]` to `[B, NC, Hv, C]`; zeros fill a ragged tail."""
    x = jnp.pad(x, ((0, 0), (0, plan.chunks * plan.chunk - plan.length), (0, 0)))
    return x.reshape(plan.batch, plan.chunks, plan.chunk, -1).swapaxes(2, 3)


def _join_gates(plan: _Plan, x: jax.Array) -> jax.Array:
    """Inverse of `_cut_gates`."""
    return x.swapaxes(2, 3).reshape(plan.batch, -1, x.shape[2])[:, : plan.length]


def _arrange(plan: _Plan, q, k, v, log_decay, beta) -> _Call:
    flat = lambda x: x.reshape(plan.batch, plan.length, -1)  # noqa: E731
    gamma = jnp.cumsum(_cut_gates(plan, log_decay.astype(jnp.float32)), axis=-1)
    return _Call(flat(q), flat(k), flat(v), gamma, _cut_gates(plan, beta.astype(jnp.float32)))


def _run_forward(plan: _Plan, interpret, call: _Call, initial_state, save_starts: bool):
    specs = _specs(plan, backwards=False)
    out_specs = [specs.value, specs.state]
    out_shape = [
        jax.ShapeDtypeStruct(call.v.shape, call.v.dtype),
        jax.ShapeDtypeStruct(initial_state.shape, jnp.float32),
    ]
    if save_starts:
        out_specs.append(specs.starts)
        starts = (plan.batch, plan.chunks, *initial_state.shape[1:])
        out_shape.append(jax.ShapeDtypeStruct(starts, call.v.dtype))
    return _call(
        plan,
        functools.partial(_forward_kernel, plan, save_starts),
        "gated_delta_rule_forward",
        [specs.key, specs.key, specs.value, specs.gate, specs.gate, specs.state],
        out_specs,
        out_shape,
        interpret,
    )(*call, initial_state)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _gated_delta_rule(plan: _Plan, interpret, q, k, v, log_decay, beta, initial_state):
    call = _arrange(plan, q, k, v, log_decay, beta)
    output, final_state = _run_forward(plan, interpret, call, initial_state, False)
    return output.reshape(v.shape), final_state


def _vjp_forward(plan, interpret, q, k, v, log_decay, beta, initial_state):
    call = _arrange(plan, q, k, v, log_decay, beta)
    output, final_state, *starts = _run_forward(
        plan, interpret, call, initial_state, save_starts=plan.chunks > 1
    )
    starts = starts[0] if starts else initial_state[:, None]
    return (output.reshape(v.shape), final_state), (q, k, v, log_decay, beta, starts)


def _vjp_backward(plan, interpret, saved, cotangents):
    q, k, v, log_decay, beta, starts = saved
    d_output, d_final = cotangents
    call = _arrange(plan, q, k, v, log_decay, beta)
    specs = _specs(plan, backwards=True)
    like = lambda x, dtype: jax.ShapeDtypeStruct(x.shape, dtype)  # noqa: E731
    dq, dk, dv, d_log_decay, dbeta, d_initial = _call(
        plan,
        functools.partial(_backward_kernel, plan),
        "gated_delta_rule_backward",
        [specs.key, specs.key, specs.value, specs.gate, specs.gate, specs.starts]
        + [specs.value, specs.state],
        [specs.key, specs.key, specs.value, specs.gate, specs.gate, specs.state],
        [like(call.q, q.dtype), like(call.k, k.dtype), like(call.v, v.dtype)]
        + [like(call.gamma, jnp.float32), like(call.beta, jnp.float32), like(d_final, jnp.float32)],
        interpret,
    )(*call, starts, d_output.reshape(call.v.shape), d_final)
    return (
        dq.reshape(q.shape),
        dk.reshape(k.shape),
        dv.reshape(v.shape),
        _join_gates(plan, d_log_decay).astype(log_decay.dtype),
        _join_gates(plan, dbeta).astype(beta.dtype),
        d_initial,
    )


_gated_delta_rule.defvjp(_vjp_forward, _vjp_backward)


@functools.partial(jax.jit, static_argnames=("chunk_size", "precision", "interpret"))
def gated_delta_rule_tpu(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    log_decay: jax.Array,
    beta: jax.Array,
    initial_state: jax.Array,
    *,
    chunk_size: int | None = None,
    precision: lax.PrecisionLike = None,
    interpret: bool | pltpu.InterpretParams = False,
) -> tuple[jax.Array, jax.Array]:
    """The rule of `oracle.gated_delta_rule_oracle`, with H key heads that divide Hv value heads.

    Args:
      q, k: `[B, T, H, Dk]`, float32 or bfloat16.
      v: `[B, T, Hv, Dv]`, of the same dtype.
      log_decay, beta: `[B, T, Hv]`.
      initial_state: `[B, Hv, Dk, Dv]`.
      chunk_size: C; None is T up to 96, else 64.
      precision: of the products; None is `HIGHEST` for float32 tokens and `HIGH` (three passes)
        for bfloat16.
      interpret: runs on any device, slowly; `pltpu.InterpretParams` imitates the TPU's memories.
    What it takes is what `refuses` does not refuse.
    """
    plan = _plan(q, v, chunk_size, precision)
    return _gated_delta_rule(
        plan, interpret, q, k, v, log_decay, beta, initial_state.astype(jnp.float32)
    )
