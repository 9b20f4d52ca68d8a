"""The one product that all projections are."""

import jax
import jax.numpy as jnp
import numpy as np

from sleep_jax.model.layers import product


def test_a_kernel_gradient_is_not_rounded_to_the_activations():
    rng = np.random.default_rng(0)
    x, dy = (jnp.asarray(rng.normal(size=(2, 9, size)), jnp.bfloat16) for size in (8, 5))
    kernel = jnp.asarray(rng.normal(size=(8, 5)), jnp.float32)
    y, pullback = jax.vjp(product, x, kernel)
    dx, d_kernel = pullback(dy)
    assert (y.dtype, dx.dtype, d_kernel.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)
    exact = np.einsum("bli,blo->io", *(np.asarray(z, np.float64) for z in (x, dy)))
    np.testing.assert_allclose(d_kernel, exact, rtol=1e-5, atol=1e-5)  # bfloat16 is off by 4e-3
    wanted = np.asarray(dy, np.float64) @ np.asarray(kernel.astype(jnp.bfloat16), np.float64).T
    np.testing.assert_allclose(np.asarray(dx, np.float64), wanted, rtol=1e-2, atol=1e-2)
