"""What the device at hand can do at most, measured: memory traffic and matrix products."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from experiments.bench import timing
from pallas_kernels.shapes import Shape

# Bytes that are copied, and the edge of the matrices, by whether the device is a CPU: beyond its
# caches, and some milliseconds of work.
_SIZES = {True: (2**26, 1024), False: (2**30, 8192)}


class Roofline(NamedTuple):
    """Rates of one device, and the least time that they leave a rule."""

    bytes_per_second: float  # read and written
    flops_per_second: float  # products of the dtype, float32 at full precision

    def seconds(self, shape: Shape, token_bytes: int, backward: bool) -> float:
        """Least time of forward, or of the backward alone."""
        return max(
            shape.bytes_moved(token_bytes, backward) / self.bytes_per_second,
            shape.flops(backward) / self.flops_per_second,
        )


def measured(dtype: str) -> Roofline:
    """Median of some turns on the default device, in a process that does nothing else."""
    size, edge = _SIZES[jax.default_backend() == "cpu"]
    x = jnp.zeros(size // 4, jnp.float32)
    a = jax.random.normal(jax.random.key(0), (edge, edge), dtype)
    # In place: pages that are new each time would be what is timed.
    add_one = jax.jit(lambda x: x + 1, donate_argnums=0)
    square = jax.jit(lambda a: jnp.matmul(a, a, precision=lax.Precision.HIGHEST))

    def copy():
        nonlocal x
        x = jax.block_until_ready(add_one(x))

    product = lambda: jax.block_until_ready(square(a))  # noqa: E731
    seconds = timing.interleaved({"copy": copy, "product": product})
    return Roofline(2 * size / seconds["copy"], 2 * edge**3 / seconds["product"])
