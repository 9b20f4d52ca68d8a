"""What the Mosaic GPU kernels do with one tile: operands in shared memory, products, gates.

A `wgmma` multiplies bfloat16 tiles that lie in shared memory, and sums in float32. Tokens are such
tiles as they come. A float32 matrix is staged as a high and a low bfloat16 half; a product takes a
pass for each pair of halves but low times low, so two with tokens, which have no low half, and else
three.

A wgmma makes 64 rows or 128, so every tile of tokens has `ROWS` of them, and the chunk's C may be
less: what stands in the rows from C on never gets into the others, because whoever sums over tokens
or makes a column of each takes the first C rows only.

Interpret mode of jax 0.10 takes neither layouts nor transposed operands. There a layout, which only
says which thread holds what, is left away, and a transposed operand is a copy; from 0.11 on the
kernel is interpreted as it is.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels import chunk_math

ROWS = 64  # least M of a wgmma
Ref = Any  # jax has no public name for what a kernel gets


def shared(rows: int, columns: int, dtype: Any = jnp.bfloat16, swizzle: int = 128) -> Any:
    """A tile in shared memory, laid out as TMA and wgmma take it."""
    minor = swizzle // jnp.dtype(dtype).itemsize
    transforms = (plgpu.TilingTransform((8, minor)), plgpu.SwizzleTransform(swizzle))
    return plgpu.SMEM((rows, columns), dtype, transforms=transforms)


class Operand(NamedTuple):
    """A matrix in shared memory: the sum of its tiles, or of their transposes."""

    high: Ref
    low: Ref | None = None
    transposed: bool = False

    @property
    def T(self) -> "Operand":
        return self._replace(transposed=not self.transposed)

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.high.shape
        return (columns, rows) if self.transposed else (rows, columns)

    def rows(self, start: int, size: int) -> "Operand":
        return self._cut(pl.ds(start, size), slice(None))

    def columns(self, start: int, size: int) -> "Operand":
        return self._cut(slice(None), pl.ds(start, size))

    def _cut(self, *where: Any) -> "Operand":
        assert not self.transposed
        low = None if self.low is None else self.low.at[where]
        return self._replace(high=self.high.at[where], low=low)


class Tiles(NamedTuple):
    """Operations on tiles, for chunks of `chunk` tokens, 32 or 64."""

    chunk: int
    plain: bool  # without layouts and transposed operands: see above

    def cast(self, x: jax.Array, layout: Any) -> jax.Array:
        return x if self.plain else plgpu.layout_cast(x, layout)

    def load(self, ref: Ref) -> jax.Array:
        """A tile in registers, as float32."""
        return self.cast(ref[...], plgpu.Layout.WGMMA).astype(jnp.float32)

    def load_global(self, ref: Ref) -> jax.Array:
        """A float32 matrix from global memory: four threads read 32 bytes of a row."""
        if self.plain:
            return ref[...]
        index = ((),) if jax.__version_info__ < (0, 11) else ()  # gone in 0.12
        return plgpu.load(ref, *index, layout=plgpu.Layout.WGMMA, optimized=False)

    def clear(self, ref: Ref) -> None:
        ref[...] = self.cast(jnp.zeros(ref.shape, ref.dtype), plgpu.Layout.WGMMA)

    def iota(self, dtype: Any, shape: tuple[int, ...], axis: int) -> jax.Array:
        return self.cast(lax.broadcasted_iota(dtype, shape, axis), plgpu.Layout.WGMMA)

    def below(self) -> jax.Array:
        """`[ROWS, C]`, true below the diagonal."""
        row, column = (self.iota(jnp.int32, (ROWS, self.chunk), axis) for axis in (0, 1))
        return row > column

    def per_row(self, ref: Ref, columns: int) -> jax.Array:
        """`ref [ROWS]` as `[ROWS, columns]`."""
        x = self.cast(ref[...], plgpu.Layout.WGMMA.reduce(1))
        return lax.broadcast_in_dim(x, (ROWS, columns), (0,))

    def per_column(self, ref: Ref) -> jax.Array:
        """The first C of `ref [ROWS]` as `[ROWS, C]`."""
        x = self.cast(ref[pl.ds(0, self.chunk)], plgpu.Layout.WGMMA.reduce(0))
        return lax.broadcast_in_dim(x, (ROWS, self.chunk), (1,))

    def stage(self, x: jax.Array, to: Operand) -> Operand:
        """Writes x into the first columns of `to`, in halves; gives those columns back."""
        to = to.columns(0, x.shape[1])
        high = x.astype(jnp.bfloat16)
        to.high[...] = high
        if to.low is not None:
            to.low[...] = (x - high.astype(jnp.float32)).astype(jnp.bfloat16)
        plgpu.commit_smem()
        return to

    def tokens(self, x: Operand) -> Operand:
        """The rows of a chunk."""
        return x.rows(0, self.chunk)

    def product(self, *terms: tuple[Operand, Operand]) -> jax.Array:
        """Sum of the products `a b`, float32 in registers."""
        shape = terms[0][0].shape[0], terms[0][1].shape[1]

        def run(accumulator):
            for a, b in terms:
                self._multiply(accumulator, a, b)
                if b.low is not None:
                    self._multiply(accumulator, a, b._replace(high=b.low))
                if a.low is not None:
                    self._multiply(accumulator, a._replace(high=a.low), b)
            return accumulator[...]

        return pl.run_scoped(run, plgpu.WGMMAAccumulatorRef(shape))

    def _multiply(self, accumulator: Ref, a: Operand, b: Operand) -> None:
        self._oriented(a, lambda a: self._oriented(b, lambda b: plgpu.wgmma(accumulator, a, b)))

    def _oriented(self, x: Operand, use: Callable[[Ref], None]) -> None:
        if not x.transposed:
            use(x.high)
        elif not self.plain:
            use(x.high.T)
        else:

            def with_copy(copy):
                copy[...] = x.high[...].T
                use(copy)

            pl.run_scoped(with_copy, plgpu.SMEM(x.shape, x.high.dtype))

    def inverse(self, L: jax.Array, a: Operand, b: Operand) -> jax.Array:
        """`(I + L)^-1` of `[ROWS, C]`; a and b are scratch."""

        def product(x, y):
            return self.product((self.stage(x, a), self.tokens(self.stage(y, b))))

        return chunk_math.unit_lower_inverse(L, product, self.iota)


class Gates(NamedTuple):
    """The factors of `chunk_math.Gates`, and beta, each made anew where it is used.

    gamma and beta `[ROWS]` lie in shared memory: registers are what these kernels lack.
    """

    tiles: Tiles
    gamma: Ref
    beta: Ref

    def M(self) -> jax.Array:
        t = self.tiles
        row, column = (t.iota(jnp.int32, (ROWS, t.chunk), axis) for axis in (0, 1))
        difference = t.per_row(self.gamma, t.chunk) - t.per_column(self.gamma)
        # Masked before the exponential, as everywhere: above the diagonal it may overflow.
        return jnp.where(row >= column, jnp.exp(jnp.where(row >= column, difference, 0.0)), 0.0)

    def e(self, columns: int) -> jax.Array:
        return jnp.exp(self.tiles.per_row(self.gamma, columns))

    def r(self, columns: int) -> jax.Array:
        return jnp.exp(self.gamma[ROWS - 1] - self.tiles.per_row(self.gamma, columns))

    def e_C(self) -> jax.Array:
        return jnp.exp(self.gamma[ROWS - 1])

    def b(self, columns: int) -> jax.Array:
        return self.tiles.per_row(self.beta, columns)
