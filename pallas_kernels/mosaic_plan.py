"""What both Mosaic GPU kernels know before they run: the shapes of a call, and who does what."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels.mosaic_tiles import ROWS, Ref, Tiles, shared

WIDTH = 64  # columns of the state in a program: float32 [128, 64] are 64 registers a thread


class Plan(NamedTuple):
    """Static shape of a call, and the arrays of both kernels.

    A program, one warpgroup, takes `WIDTH` columns of the state of one value head through all
    chunks. Tokens lie as `[B chunks, rows, heads, D]`, which is `[B, T, heads, D]` where T is whole
    chunks: nothing is transposed in memory. Blocks are picked by integers, as interpret mode knows
    no dynamic slices.
    """

    batch: int
    chunks: int
    rows: int  # tokens of a chunk, a multiple of 8
    key_heads: int
    groups: int  # value heads that share a key head
    key_dim: int
    value_dim: int
    halves: int  # bfloat16 tiles that a float32 matrix is staged in: 2, or 1 for one pass
    interpret: Any  # InterpretGPUParams, or None

    @property
    def chunk(self) -> int:
        """C in the kernel, where the rows from `rows` on are zero."""
        return 32 if self.rows <= 32 else 64

    @property
    def tiles(self) -> Tiles:
        plain = self.interpret is not None and jax.__version_info__ < (0, 11)
        return Tiles(self.chunk, plain)

    @property
    def heads(self) -> int:
        return self.key_heads * self.groups

    @property
    def slices(self) -> int:
        return self.value_dim // WIDTH

    @property
    def parts(self) -> int:
        """Programs that share a key head, whose dq and dk are summed outside."""
        return self.groups * self.slices

    @property
    def programs(self) -> int:
        return self.batch * self.heads * self.slices

    @property
    def keys(self) -> jax.ShapeDtypeStruct:
        return self._tokens(self.key_heads, self.key_dim, jnp.bfloat16)

    @property
    def values(self) -> jax.ShapeDtypeStruct:
        return self._tokens(self.heads * self.slices, WIDTH, jnp.bfloat16)

    @property
    def key_parts(self) -> jax.ShapeDtypeStruct:
        """dq or dk of each program, `WIDTH` columns at a time."""
        blocks = self.key_heads * self.parts * (self.key_dim // WIDTH)
        return self._tokens(blocks, WIDTH, jnp.bfloat16 if self.parts == 1 else jnp.float32)

    @property
    def gates(self) -> jax.ShapeDtypeStruct:
        """A float32 a token and value head, `ROWS` a chunk: TMA takes no strided ones."""
        shape = (self.batch * self.heads, self.chunks, ROWS)
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    @property
    def state(self) -> jax.ShapeDtypeStruct:
        return self._states(1)

    @property
    def starts(self) -> jax.ShapeDtypeStruct:
        """Every chunk's S0."""
        return self._states(self.chunks)

    def per_program(self, size: int) -> jax.ShapeDtypeStruct:
        """float32 of each chunk of each program."""
        return jax.ShapeDtypeStruct((self.programs, self.chunks, size), jnp.float32)

    def _tokens(self, blocks: int, dim: int, dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((self.batch * self.chunks, self.rows, blocks, dim), dtype)

    def _states(self, each: int) -> jax.ShapeDtypeStruct:
        shape = (self.batch * self.heads * each, self.key_dim, self.slices, WIDTH)
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    def tile(self, rows: int, columns: int) -> Any:
        """A bfloat16 tile. Its swizzle spans C columns, so that the first C can be cut out."""
        return shared(rows, columns, swizzle=2 * self.chunk)

    def halved(self, rows: int, columns: int) -> list[Any]:
        return [self.tile(rows, columns)] * self.halves


class Place(NamedTuple):
    """What a program works on: indices of blocks in the arrays of `Plan`."""

    program: jax.Array
    sequence: jax.Array
    head: jax.Array  # of all sequences
    key: jax.Array
    value: jax.Array
    slice: jax.Array


def place(plan: Plan) -> Place:
    """Neighbouring programs read the same tokens."""
    program = lax.axis_index("program")
    slices, heads, groups = (np.int32(n) for n in (plan.slices, plan.heads, plan.groups))
    head, column = lax.div(program, slices), lax.rem(program, slices)
    own = lax.rem(head, heads)
    return Place(
        program=program,
        sequence=lax.div(head, heads),
        head=head,
        key=lax.div(own, groups),
        value=own * slices + column,
        slice=column,
    )


def read_chunk(plan: Plan, here: Place, chunk: jax.Array, barrier: Ref, **pairs: list) -> None:
    """Starts the copies of a chunk; `barrier` counts them.

    Args:
      pairs: of `keys`, `values` and `gates`: (array in global memory, tile) each.
    """
    block, rows = here.sequence * plan.chunks + chunk, pl.ds(0, plan.rows)
    for array, tile in pairs["keys"]:
        plgpu.copy_gmem_to_smem(array.at[block, :, here.key], tile.at[rows], barrier)
    for array, tile in pairs["values"]:
        plgpu.copy_gmem_to_smem(array.at[block, :, here.value], tile.at[rows], barrier)
    for array, tile in pairs["gates"]:
        plgpu.copy_gmem_to_smem(array.at[here.head, chunk], tile, barrier)


def call(plan: Plan, body: Callable[..., None], out_type: Any, scratch: dict[str, Any]) -> Any:
    """The kernel: a grid of one-warpgroup programs."""
    return plgpu.kernel(
        body,
        out_type=out_type,
        scratch_types=scratch,
        grid=(plan.programs,),  # one axis, as only the first may have more than 65535 blocks
        grid_names=("program",),
        # Lane: a layout is said where a value is made, so that nothing is left to inference.
        compiler_params=plgpu.CompilerParams(lowering_semantics=plgpu.LoweringSemantics.Lane),
        interpret=plan.interpret,
    )
