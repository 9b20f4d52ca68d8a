"""Softmax attention: within one window, or on from the keys and values that are still kept."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from sleep_jax.model import local, routing
from sleep_jax.model.config import AttentionConfig
from sleep_jax.model.layers import Linear, RMSNorm, parameter, rotate


class KeyValues(struct.PyTreeNode):
    """A cache of S slots, of which `start <= slot < end` are filled.

    A key is rotated (RoPE) to the position of its slot: only differences of positions count, so
    they need not grow with the text.

    `keys` and `values` are `[B, S, Hkv, Dh]`, `start` and `end` int32 scalars. A token attends to
    the newest `span` tokens, itself included.
    """

    keys: jax.Array
    values: jax.Array
    start: jax.Array
    end: jax.Array
    span: int = struct.field(pytree_node=False)

    def written(self, keys: jax.Array, values: jax.Array) -> "KeyValues":
        """The cache with the next tokens' keys, rotated, and values `[B, L, Hkv, Dh]`.

        The caller sees to it that slots are left: the last ones would be overwritten.
        """
        slots, length = self.keys.shape[1], keys.shape[1]
        if length > slots:
            raise ValueError(f"{length} tokens do not fit into a cache of {slots}")
        return self.replace(
            keys=lax.dynamic_update_slice_in_dim(self.keys, keys, self.end, axis=1),
            values=lax.dynamic_update_slice_in_dim(self.values, values, self.end, axis=1),
            end=self.end + length,
        )

    def visible(self, length: int) -> jax.Array:
        """Which slots the newest `length` tokens attend to: bool `[length, S]`."""
        key = jnp.arange(self.keys.shape[1])
        query = self.end - length + jnp.arange(length)[:, None]
        return (key <= query) & (key > query - self.span) & (key >= self.start)

    def newest(self, count: int, theta: float) -> "KeyValues":
        """The newest `count` tokens, or as many as there are, in the first `count` slots.

        Each key is rotated back by the slots it moves. Rotated keys are rounded once more, at most
        once in a row of full windows.
        """
        moved, free = self.end - count, self.keys.shape[1] - count
        keys, values = (
            lax.dynamic_slice_in_dim(x, moved, count, axis=1) for x in (self.keys, self.values)
        )
        keys = rotate(keys, theta, jnp.broadcast_to(-moved, (count,)))
        pad = ((0, 0), (0, free), (0, 0), (0, 0))
        return self.replace(
            keys=jnp.pad(keys, pad),
            values=jnp.pad(values, pad),
            start=jnp.maximum(self.start - moved, 0),
            end=jnp.full((), count, jnp.int32),
        )


class Attention(nn.Module):
    """Causal grouped-query attention with RoPE, `(x [B, L, D], cache) -> (y [B, L, D], cache)`.

    Without a cache, positions start at 0 and nothing is kept: hard eviction is the absence of an
    argument, not a mask. Softmax and its logits are float32.

    With `config.routing` a query reads chosen chunks alone; which, is sown into the collection
    "routing" as `chunks`, bool `[B, Hkv, L, C]`.
    """

    config: AttentionConfig
    norm_eps: float

    @nn.compact
    def __call__(
        self, x: jax.Array, cache: KeyValues | None = None
    ) -> tuple[jax.Array, KeyValues | None]:
        c = self.config

        axes = ("embed", "heads")
        q, k, v = Linear(
            (
                ("query", c.heads * c.head_dim, axes),
                ("key", c.kv_heads * c.head_dim, axes),
                ("value", c.kv_heads * c.head_dim, axes),
            ),
            name="in",
        )(x)
        q, k, v = (y.reshape(*x.shape[:-1], -1, c.head_dim) for y in (q, k, v))
        if c.qk_norm:
            q = RMSNorm(self.norm_eps, "head", name="query_norm")(q)
            k = RMSNorm(self.norm_eps, "head", name="key_norm")(k)
        if cache is None:
            q, k = rotate(q, c.rope_theta), rotate(k, c.rope_theta)
            if c.routing.chunk:
                size = c.kv_heads * c.head_dim
                zeros = nn.initializers.zeros
                query = parameter(self, "chunk_query", zeros, ("heads",), (size,))
                query = query.reshape(c.kv_heads, c.head_dim)
                y, chunks = routing.attend(q, k, v, query, c.routing)
                self.sow("routing", "chunks", chunks)
            elif c.local.window:
                # All shards of `tensor` share the choice of a layer, and each has own heads'.
                axes = ("heads",) if c.local.unit == "head" else ("head",)
                init = nn.initializers.constant(local.LIMIT)
                log_alpha = parameter(self, "log_alpha", init, axes, (c.units,))
                y = local.attend(q, k, v, log_alpha, c.local)
            elif c.sink:
                y = _with_sink(q, k, v, jnp.tri(x.shape[1], dtype=bool))
            else:
                y = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        else:
            assert not c.routing.chunk, "routing wants the whole sequence in one window"
            assert not c.local.window, "local heads want the whole sequence in one window"
            positions = cache.end + jnp.arange(x.shape[1])
            q, k = (rotate(y, c.rope_theta, positions) for y in (q, k))
            cache = cache.written(k, v)
            attend = _with_sink if c.sink else _masked
            y = attend(q, cache.keys, cache.values, cache.visible(x.shape[1]))
        y = y.reshape(*x.shape[:-1], c.heads * c.head_dim)
        (y,) = Linear((("output", x.shape[-1], ("heads", "embed")),), name="out")(y)
        return y, cache


def _masked(q: jax.Array, k: jax.Array, v: jax.Array, visible: jax.Array) -> jax.Array:
    """Attention of q `[B, L, H, Dh]` to what is visible, bool `[L, S]`, of S keys and values."""
    return jax.nn.dot_product_attention(q, k, v, mask=visible[None, None])


def _with_sink(q: jax.Array, k: jax.Array, v: jax.Array, visible: jax.Array) -> jax.Array:
    """The same with one more in the denominator: a key and a value of zeros, seen by all."""
    front = ((0, 0), (1, 0), (0, 0), (0, 0))
    visible = jnp.pad(visible, ((0, 0), (1, 0)), constant_values=True)
    return _masked(q, jnp.pad(k, front), jnp.pad(v, front), visible)
