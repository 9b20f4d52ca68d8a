"""Layers every block is made of. Dimension letters: B batch, L tokens of a window, D features."""

import functools
import itertools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from sleep_jax import distributed

Initializer = Callable[..., jax.Array]


def parameter(
    module: nn.Module,
    name: str,
    init: Initializer,
    axes: tuple[str, ...],
    shape: tuple[int, ...],
) -> jax.Array:
    """Declares a float32 parameter of `module` with logical axis names."""
    boxed = nn.with_logical_partitioning(init, axes)
    return module.param(name, boxed, shape, jnp.float32)  # type: ignore[return-value]


class RMSNorm(nn.Module):
    """`x / rms(x) * scale` over the last axis, in float32; returns the dtype of x.

    `axis` is the logical name of that axis: "norm" in the residual stream, "head" inside a head.
    """

    eps: float
    axis: str = "norm"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = parameter(self, "scale", nn.initializers.ones, (self.axis,), x.shape[-1:])
        return (normalise_rms(x, self.eps) * scale).astype(x.dtype)


def normalise_rms(x: jax.Array, eps: float) -> jax.Array:
    """`x / sqrt(mean(x^2) + eps)` over the last axis, float32."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + eps)


@jax.custom_vjp
def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`x [..., in] @ kernel [in, out]` in the dtype of x; the kernel's gradient keeps its own.

    Loops over windows and passes add up kernel gradients, so in bfloat16 each is left in float32.
    """
    return x @ kernel.astype(x.dtype)


def _product_fwd(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return product(x, kernel), (x, kernel)


def _product_bwd(saved: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    dx = dy @ kernel.astype(dy.dtype).T
    x, dy = (z.reshape(-1, z.shape[-1]) for z in (x, dy))
    total = functools.partial(jnp.matmul, preferred_element_type=kernel.dtype)
    d_kernel = jax.lax.platform_dependent(
        x,
        dy,
        # The CPU's fast product takes no transposed operand; half the time with the copy.
        cpu=lambda x, dy: total(jax.lax.optimization_barrier(x.T), dy),
        default=lambda x, dy: total(x.T, dy),
    )
    return dx, d_kernel


product.defvjp(_product_fwd, _product_bwd)


class Linear(nn.Module):
    """Products without bias of one input: `[..., in] -> [..., features]`, one output a name.

    `outputs` maps a name to (features, logical axes of the kernel). Each kernel is a parameter of
    its own, float32 `[in, features]`, but all are applied in one product: at the widths of small
    models several narrow products cost more than one wide one. Inside a mesh the kernels are one
    device's heads or columns: of the outputs if the names end so, else of the input.
    """

    outputs: tuple[tuple[str, int, tuple[str, str]], ...]
    kernel_init: Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: jax.Array) -> list[jax.Array]:
        kernels = [
            parameter(self, name, self.kernel_init, axes, (x.shape[-1], size))
            for name, size, axes in self.outputs
        ]
        columns = self.outputs[0][2][0] == "embed"
        x = distributed.enter(x) if columns else x
        y = product(x, jnp.concatenate(kernels, axis=1))
        y = y if columns else distributed.leave(y)
        sizes = [size for _, size, _ in self.outputs]
        return jnp.split(y, list(itertools.accumulate(sizes))[:-1], axis=-1)


class SwiGLU(nn.Module):
    """`down(silu(gate x) * up x)`, `[B, L, D] -> [B, L, D]`."""

    hidden: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        into, out = ("embed", "mlp"), ("mlp", "embed")
        gate, up = Linear((("gate", self.hidden, into), ("up", self.hidden, into)), name="in")(x)
        (y,) = Linear((("down", x.shape[-1], out),), name="out")(nn.silu(gate) * up)
        return y


def rotate(x: jax.Array, theta: float, positions: jax.Array | None = None) -> jax.Array:
    """RoPE on `[B, L, H, D]`; halves are paired as in Llama.

    Positions are `[L]`, by default 0..L-1 of this window. To turn twice is to add positions.
    """
    length, dim = x.shape[1], x.shape[-1]
    frequency = theta ** (-jnp.arange(0, dim, 2, dtype=jnp.float32) / dim)
    if positions is None:
        positions = jnp.arange(length, dtype=jnp.float32)
    angle = positions.astype(jnp.float32)[:, None] * frequency
    cos, sin = jnp.cos(angle)[:, None, :], jnp.sin(angle)[:, None, :]
    first, second = jnp.split(x, 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)
