"""Backward of the chunked gated delta rule on Mosaic GPU: the adjoint that `chunk_math` derives.

A program walks the chunks from the last to the first. What several programs give to one gradient,
and what runs along all tokens of a chunk, is written in parts, and XLA sums it.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels.mosaic_plan import WIDTH, Plan, call, place, read_chunk
from pallas_kernels.mosaic_tiles import ROWS, Gates, Operand, shared


class Parts(NamedTuple):
    """What the kernel writes: arrays, in it their Refs. The last five are `Plan.per_program`.

    The gradient of log_decay at token t is, of its chunk, within_t, and the sums of rows from t on,
    of columns before t, and of e_C through.
    """

    dq: Any  # key_parts
    dk: Any  # key_parts
    dv: Any  # values
    d_initial: Any  # state
    dbeta: Any  # [ROWS]
    within: Any  # [ROWS], what decays from a token before t to t or one after it
    rows: Any  # [ROWS], what a token reads of S0
    columns: Any  # [ROWS], what a token leaves in S1
    through: Any  # [Dk], sums over the columns of S0 dS1


def backward(plan: Plan, *arrays: jax.Array) -> Parts:
    """The adjoint of `mosaic_forward.forward`.

    Args:
      arrays: q, k, v, gamma, beta, each chunk's S0, dO, dS of the final state, shaped as in `plan`.
    """
    out_type = [plan.key_parts, plan.key_parts, plan.values, plan.state]
    out_type += [plan.per_program(ROWS)] * 4 + [plan.per_program(plan.key_dim)]
    # 204 KiB where Dk is 128 and C 64, so one program a multiprocessor. A wgmma may have its left
    # operand in registers, which interpret mode cannot: that would spare a, and is the first thing
    # to measure.
    scratch = dict(
        q=plan.tile(ROWS, plan.key_dim),
        k=plan.tile(ROWS, plan.key_dim),
        v=plan.tile(ROWS, WIDTH),
        dO=plan.tile(ROWS, WIDTH),
        gamma=plgpu.SMEM((ROWS,), jnp.float32),
        beta=plgpu.SMEM((ROWS,), jnp.float32),
        state=plan.halved(plan.key_dim, WIDTH),
        d_state=plan.halved(plan.key_dim, WIDTH),
        ty=plan.halved(ROWS, WIDTH),
        v_=plan.halved(ROWS, WIDTH),
        a=plan.halved(ROWS, WIDTH),
        b=plan.halved(ROWS, WIDTH),
        earlier=plan.tile(ROWS, plan.chunk),
        part=shared(ROWS, WIDTH, plan.key_parts.dtype),
        barrier=plgpu.Barrier(num_arrivals=6),
    )

    def gated_delta_rule_backward(*refs, **scratch):
        _kernel(plan, refs[:8], Parts(*refs[8:]), **scratch)

    return Parts(*call(plan, gated_delta_rule_backward, out_type, scratch)(*arrays))


def _kernel(
    plan: Plan,
    inputs,
    out: Parts,
    q,
    k,
    v,
    dO,
    gamma,
    beta,
    state,
    d_state,
    ty,
    v_,
    a,
    b,
    earlier,
    part,
    barrier,
):
    q_ref, k_ref, v_ref, gamma_ref, beta_ref, starts_ref, dO_ref, d_final_ref = inputs
    here, t = place(plan), plan.tiles
    product, stage, tokens = t.product, t.stage, t.tokens
    Q, K, DO, S, DS = Operand(q), Operand(k), Operand(dO), Operand(*state), Operand(*d_state)
    TY, V_, A, B = Operand(*ty), Operand(*v_), Operand(*a), Operand(*b)
    gates, C = Gates(t, gamma, beta), plan.chunk
    own = here.head, slice(None), here.slice
    present, blocks = pl.ds(0, plan.rows), plan.key_dim // WIDTH
    # dS is carried in global memory, which stays in the cache: in registers it would spill.
    carry_ref = d_final_ref if plan.chunks == 1 else out.d_initial

    for tile in (q, k, v, dO):  # TMA will write only the rows that a chunk has in memory
        t.clear(tile)
    earlier[...] = jnp.where(t.below(), 1.0, 0.0).astype(earlier.dtype)
    plgpu.commit_smem()
    if plan.chunks > 1:
        carry_ref[own] = t.load_global(d_final_ref.at[own])

    def step(i, _):
        chunk = plan.chunks - 1 - i
        block = here.sequence * plan.chunks + chunk

        def write_part(x, ref, n):
            plgpu.wait_smem_to_gmem(0, wait_read_only=True)
            part[...] = x.astype(part.dtype)
            plgpu.commit_smem()
            to = ref.at[block, :, here.value * blocks + n]
            plgpu.copy_smem_to_gmem(part.at[present], to)

        read_chunk(
            plan,
            here,
            chunk,
            barrier,
            keys=[(q_ref, q), (k_ref, k)],
            values=[(v_ref, v), (dO_ref, dO)],
            gates=[(gamma_ref, gamma), (beta_ref, beta)],
        )
        S0 = t.load_global(starts_ref.at[here.head * plan.chunks + chunk, :, here.slice])
        dS1 = t.load_global(carry_ref.at[own])
        out.through[here.program, chunk] = jnp.sum(S0 * dS1, 1)
        stage(S0, S)
        stage(dS1, DS)
        plgpu.barrier_wait(barrier)

        def KK():
            return jnp.where(t.below(), product((K, tokens(K).T)), 0.0)

        # T and V', as in the forward.
        T = stage(t.inverse(gates.b(C) * KK() * gates.M(), A, B), TY)
        W = t.load(v) - gates.e(WIDTH) * product((K, S))
        stage(product((T, tokens(stage(gates.b(WIDTH) * W, B)))), V_)

        stage(product((Q, tokens(K).T)) * gates.M(), A)  # P
        dV_ = product((tokens(A).T, tokens(DO))) + gates.r(WIDTH) * product((K, DS))
        Y = product((tokens(TY).T, tokens(stage(dV_, B))))
        dbeta = jnp.sum(Y * W, 1)
        stage(Y, TY)
        v[...] = (gates.b(WIDTH) * Y).astype(v.dtype)
        plgpu.commit_smem()
        # It has left v long before the next chunk comes: every `write_part` waits for all before.
        plgpu.copy_smem_to_gmem(v.at[present], out.dv.at[block, :, here.value])
        stage(gates.e(WIDTH) * t.load(dO), A)
        stage(-gates.b(WIDTH) * gates.e(WIDTH) * Y, B)
        through = product((tokens(Q).T, tokens(A)), (tokens(K).T, tokens(B)))
        out.d_initial[own] = gates.e_C() * t.load_global(carry_ref.at[own]) + through

        G = jnp.where(t.below(), -gates.M() * product((TY, tokens(V_).T)), 0.0)
        kk = KK()
        out.dbeta[here.program, chunk] = dbeta + jnp.sum(G * kk, 1)
        E = gates.b(C) * G
        pairs = E * kk
        E = stage(E, B)
        dQK = gates.M() * product((DO, tokens(V_).T))
        pairs += dQK * product((Q, tokens(K).T))
        crossing = product((Operand(earlier), tokens(stage(pairs, A)).T))  # [t, i]: over j < t
        out.within[here.program, chunk] = jnp.sum(jnp.where(t.below(), 0.0, crossing), 1)
        dQK = stage(dQK, A)

        rows, columns = [], []
        for n in range(blocks):
            some = n * WIDTH, WIDTH
            Qn, Kn = Q.columns(*some), K.columns(*some)
            eOS = gates.e(WIDTH) * product((DO, S.rows(*some).T))
            rows.append(jnp.sum(t.load(Qn.high) * eOS, 1))
            write_part(eOS + product((dQK, tokens(Kn))), out.dq, n)
            rVS = gates.r(WIDTH) * product((V_, DS.rows(*some).T))
            columns.append(jnp.sum(t.load(Kn.high) * rVS, 1))
            beYS = gates.b(WIDTH) * gates.e(WIDTH) * product((TY, S.rows(*some).T))
            rows.append(-jnp.sum(t.load(Kn.high) * beYS, 1))
            dk = product((tokens(A).T, tokens(Qn)), (E, tokens(Kn)), (tokens(B).T, tokens(Kn)))
            write_part(rVS - beYS + dk, out.dk, n)
        out.rows[here.program, chunk] = sum(rows[1:], rows[0])
        out.columns[here.program, chunk] = sum(columns[1:], columns[0])
        return np.int32(0)

    lax.fori_loop(np.int32(0), np.int32(plan.chunks), step, np.int32(0))
    plgpu.wait_smem_to_gmem(0)
