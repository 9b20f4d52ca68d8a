"""Matrix products inside the Pallas kernels, by precision; shared by TPU and GPU."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from pallas_kernels.chunk_math import Product, Products


def refuses_dtypes(q: jax.Array, k: jax.Array, v: jax.Array) -> str:
    """Why the kernels do not take tokens of these dtypes; empty if they do."""
    dtypes = {x.dtype for x in (q, k, v)}
    if len(dtypes) > 1 or dtypes - {jnp.dtype(jnp.float32), jnp.dtype(jnp.bfloat16)}:
        return f"does not take q, k, v of {', '.join(sorted(map(str, dtypes)))}"
    return ""


def resolve(precision: lax.PrecisionLike, dtype: jnp.dtype) -> lax.Precision:
    """The given precision, or by the tokens' dtype `HIGHEST` (float32) or `HIGH` (bfloat16).

    Three passes for bfloat16: one leaves 4e-3 in the state where keys are correlated. Decays,
    inverse and carried state are float32 whatever this is; products that make them are not.
    """
    if precision is not None:
        return lax.Precision(precision)
    return lax.Precision.HIGH if dtype == jnp.bfloat16 else lax.Precision.HIGHEST


def products(precision: lax.Precision, batched: bool) -> Products:
    """nn, nt and tn on `[n, i, j]` operands if batched (b may lack n), else on `[i, j]`."""
    first = int(batched)
    batch = ((0,), (0,)) if batched else ((), ())
    axes = ((1, 0), (1, 1), (0, 0))
    return Products(*(_dot(((a + first,), (b + first,)), batch, precision) for a, b in axes))


def _dot(contract, batch, precision: lax.Precision) -> Product:
    """Product that contracts these axes, summed in float32."""
    dot = functools.partial(
        lax.dot_general,
        dimension_numbers=(contract, batch),
        preferred_element_type=jnp.float32,
    )

    def product(a: jax.Array, b: jax.Array) -> jax.Array:
        if b.ndim < a.ndim:
            b = jnp.broadcast_to(b, (a.shape[0], *b.shape))
        if precision == lax.Precision.HIGHEST:
            return dot(a, b, precision=lax.Precision.HIGHEST)
        a_high, b_high = a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)
        if precision == lax.Precision.DEFAULT:
            return dot(a_high, b_high)
        # Three passes by hand: HIGH does not lower for TPU before jax 0.11, and is tf32 on a GPU.
        a_low = (a - a_high.astype(jnp.float32)).astype(jnp.bfloat16)
        b_low = (b - b_high.astype(jnp.float32)).astype(jnp.bfloat16)
        return dot(a_high, b_high) + (dot(a_high, b_low) + dot(a_low, b_high))

    return product
