"""Forward of the chunked gated delta rule on Mosaic GPU; the symbols are `chunk_math`'s."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels.mosaic_plan import WIDTH, Plan, call, place, read_chunk
from pallas_kernels.mosaic_tiles import ROWS, Gates, Operand


def forward(plan: Plan, save_starts: bool, *arrays: jax.Array) -> list[jax.Array]:
    """O, the final state, and where asked for each chunk's S0, shaped as in `plan`.

    Args:
      arrays: q, k, v, gamma, beta, the initial state, shaped as in `plan`.
    """
    out_type = [plan.values, plan.state] + [plan.starts] * save_starts
    # 106 KiB where Dk is 128 and C 64: two programs a multiprocessor, of which one computes while
    # the other waits for memory. That is why nothing here is double-buffered.
    scratch = dict(
        q=plan.tile(ROWS, plan.key_dim),
        k=plan.tile(ROWS, plan.key_dim),
        v=plan.tile(ROWS, WIDTH),
        gamma=plgpu.SMEM((ROWS,), jnp.float32),
        beta=plgpu.SMEM((ROWS,), jnp.float32),
        state=plan.halved(plan.key_dim, WIDTH),
        a=plan.halved(ROWS, plan.chunk),
        b=plan.halved(ROWS, WIDTH),
        barrier=plgpu.Barrier(num_arrivals=5),
    )

    def gated_delta_rule_forward(*refs, **scratch):
        _kernel(plan, refs[:6], refs[6:], **scratch)

    return call(plan, gated_delta_rule_forward, out_type, scratch)(*arrays)


def _kernel(plan: Plan, inputs, outputs, q, k, v, gamma, beta, state, a, b, barrier):
    q_ref, k_ref, v_ref, gamma_ref, beta_ref, initial_ref = inputs
    output_ref, final_ref, *starts_ref = outputs
    here, t = place(plan), plan.tiles
    product, stage, tokens = t.product, t.stage, t.tokens
    Q, K, S, A, B = Operand(q), Operand(k), Operand(*state), Operand(*a), Operand(*b)
    gates = Gates(t, gamma, beta)
    for tile in (q, k, v):  # TMA will write only the rows that a chunk has in memory
        t.clear(tile)
    plgpu.commit_smem()

    def step(chunk, S0):
        plgpu.wait_smem_to_gmem(0, wait_read_only=True)  # for the last chunk's O to have left v
        read_chunk(
            plan,
            here,
            chunk,
            barrier,
            keys=[(q_ref, q), (k_ref, k)],
            values=[(v_ref, v)],
            gates=[(gamma_ref, gamma), (beta_ref, beta)],
        )
        if starts_ref:
            starts_ref[0][here.head * plan.chunks + chunk, :, here.slice] = S0
        stage(S0, S)
        plgpu.barrier_wait(barrier)

        kk = jnp.where(t.below(), product((K, tokens(K).T)), 0.0)
        T = t.inverse(gates.b(plan.chunk) * kk * gates.M(), A, B)
        W = t.load(v) - gates.e(WIDTH) * product((K, S))
        V_ = product((stage(T, A), tokens(stage(gates.b(WIDTH) * W, B))))
        P = product((Q, tokens(K).T)) * gates.M()
        within = product((stage(P, A), tokens(stage(V_, B))))
        stage(gates.e(WIDTH) * product((Q, S)) + within, Operand(v))
        plgpu.copy_smem_to_gmem(
            v.at[pl.ds(0, plan.rows)],
            output_ref.at[here.sequence * plan.chunks + chunk, :, here.value],
        )
        # K^T (r V'), not (r K)^T V': K is exact in one half.
        return gates.e_C() * S0 + product((tokens(K).T, tokens(stage(gates.r(WIDTH) * V_, B))))

    own = here.head, slice(None), here.slice
    S0 = t.load_global(initial_ref.at[own])
    final_ref[own] = lax.fori_loop(np.int32(0), np.int32(plan.chunks), step, S0)
    plgpu.wait_smem_to_gmem(0)
