"""Gated DeltaNet: the mixer whose state are the fast weights.

As defined by Yang, Kautz, Hatamizadeh (arXiv 2412.06464) and implemented for Qwen3-Next in
`transformers`; held against the latter in tests/parity.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from pallas_kernels import gated_delta_rule
from sleep_jax.config import GatedDeltaNetConfig
from sleep_jax.model.layers import Linear, normalise_rms, parameter

L2_EPS = 1e-6


class GatedDeltaNetState(struct.PyTreeNode):
    """What a block needs to go on in the middle of a text: more than its fast weights.

    `fast` is `[B, Hv, Dk, Dv]` float32, `tails` the last width - 1 inputs of the convolutions of
    query, key and value, each `[B, width - 1, features]`.
    """

    fast: jax.Array
    tails: tuple[jax.Array, ...]


class GatedDeltaNet(nn.Module):
    """`(x [B, L, D], state) -> (y [B, L, D], state)`.

    The state is the fast weights alone, `[B, Hv, Dk, Dv]` float32, and the short convolution starts
    from zeros: nothing else crosses into this window. With a `GatedDeltaNetState` it goes on.
    """

    config: GatedDeltaNetConfig
    norm_eps: float

    @nn.compact
    def __call__(
        self, x: jax.Array, state: jax.Array | GatedDeltaNetState
    ) -> tuple[jax.Array, jax.Array | GatedDeltaNetState]:
        c = self.config
        if isinstance(state, GatedDeltaNetState):
            fast, tails = state.fast, state.tails
        else:
            fast, tails = state, None
        key_size, value_size = c.key_heads * c.key_dim, c.value_heads * c.value_dim

        heads, gates = ("embed", "heads"), ("embed", "gates")
        q, k, v, gate, a, b = Linear(
            (
                ("query", key_size, heads),
                ("key", key_size, heads),
                ("value", value_size, heads),
                ("gate", value_size, heads),
                ("alpha", c.value_heads, gates),
                ("beta", c.value_heads, gates),
            ),
            name="in",
        )(x)
        inputs = (q, k, v)
        q, k, v = (
            nn.silu(ShortConvolution(c.conv_width, name=f"{name}_convolution")(y, tail))
            for name, y, tail in zip(
                ("query", "key", "value"), inputs, tails or (None,) * 3, strict=True
            )
        )
        q, k = (y.reshape(*x.shape[:-1], c.key_heads, c.key_dim) for y in (q, k))
        v = v.reshape(*x.shape[:-1], c.value_heads, c.value_dim)
        q, k = l2_normalise(q) * c.key_dim**-0.5, l2_normalise(k)

        beta = jax.nn.sigmoid(_float32(b))
        beta = 2.0 * beta if c.negative_eigenvalues else beta
        y, fast = gated_delta_rule(q, k, v, Decay(name="decay")(a), beta, fast)

        scale = parameter(self, "norm_scale", nn.initializers.ones, ("head",), (c.value_dim,))
        y = normalise_rms(y, self.norm_eps) * scale * nn.silu(_float32(gate.reshape(v.shape)))
        y = y.astype(x.dtype).reshape(*x.shape[:-1], value_size)
        (y,) = Linear((("output", x.shape[-1], ("heads", "embed")),), name="out")(y)
        if tails is None:
            return y, fast
        joined = (jnp.concatenate(pair, axis=1) for pair in zip(tails, inputs, strict=True))
        return y, GatedDeltaNetState(fast, tuple(z[:, x.shape[1] :] for z in joined))


class ShortConvolution(nn.Module):
    """Causal depthwise convolution, `[B, L, D] -> [B, L, D]`; kernel `[width, D]`, last is now.

    `before`, `[B, width - 1, D]`, are the inputs ahead of x; zeros without it.
    """

    width: int

    @nn.compact
    def __call__(self, x: jax.Array, before: jax.Array | None = None) -> jax.Array:
        bound = self.width**-0.5  # PyTorch's Conv1d default, which Yang et al. use
        kernel = parameter(
            self, "kernel", _uniform(-bound, bound), ("conv", "heads"), (self.width, x.shape[-1])
        ).astype(x.dtype)
        if before is None:
            padded = jnp.pad(x, ((0, 0), (self.width - 1, 0), (0, 0)))
        else:
            padded = jnp.concatenate([before, x], axis=1)
        taps = (padded[:, i : i + x.shape[1]] * kernel[i] for i in range(self.width))
        return sum(taps, start=jnp.zeros_like(x))


class Decay(nn.Module):
    """`log alpha = -exp(A_log) * softplus(a + dt_bias)`, `[B, L, Hv] -> [B, L, Hv]`, float32.

    Initial values are Mamba-2's, as in Yang et al.: A uniform in (0, 16), softplus(dt_bias)
    log-uniform in (0.001, 0.1).
    """

    @nn.compact
    def __call__(self, a: jax.Array) -> jax.Array:
        shape, axes = (a.shape[-1],), ("gates",)
        A_log = parameter(self, "A_log", _init_A_log, axes, shape)
        dt_bias = parameter(self, "dt_bias", _init_dt_bias, axes, shape)
        return -jnp.exp(A_log) * jax.nn.softplus(_float32(a) + dt_bias)


def l2_normalise(x: jax.Array) -> jax.Array:
    """`x / sqrt(sum x^2 + 1e-6)` over the last axis; eps inside the root, so zeros stay zeros."""
    return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), -1, keepdims=True) + L2_EPS)


def _float32(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _uniform(low: float, high: float):
    def init(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, low, high)

    return init


def _init_A_log(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    return jnp.log(jax.random.uniform(key, shape, dtype, 1e-4, 16.0))


def _init_dt_bias(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    dt = jnp.exp(jax.random.uniform(key, shape, dtype, jnp.log(1e-3), jnp.log(1e-1)))
    return dt + jnp.log(-jnp.expm1(-dt))  # inverse softplus
