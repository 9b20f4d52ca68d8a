"""Sparse attention to a kept cache: every query reads the chunks that it is routed to.

DashAttention (arXiv 2605.18753). A key that stands for a chunk is made of the keys in
it; 1.5-entmax over the logits of the chunks gives some of them a weight and all others none, so
how many are read differs from query to query; softmax attention reads their tokens, and those of
the query's own chunk. Here all of it is dense and masked: it says what is read, and saves nothing.

Dimension letters: B batch, T tokens, C = T // b chunks, H query heads, R key-value heads (G = H / R
share a choice), Dh features of a head.
"""

import jax
import jax.numpy as jnp

from sleep_jax.model.config import RoutingConfig

_LEAST_WEIGHT = 1e-6  # below it the gradient of a logarithm would be all there is


@jax.custom_jvp
def entmax(z: jax.Array) -> jax.Array:
    """1.5-entmax over the last axis: `max(z / 2 - tau, 0)^2` with the tau that makes it sum to 1.

    By sorting (Peters et al., arXiv 1905.05702). -inf gets no weight; of a row of
    nothing else every weight is nan.
    """
    # What is 1 or more below the largest has no weight, so it may as well be 2 below.
    x = jnp.maximum((z - z.max(-1, keepdims=True)) / 2, -2.0)
    largest = -jnp.sort(-x, axis=-1)
    k = jnp.arange(1, z.shape[-1] + 1, dtype=z.dtype)
    mean, square = (jnp.cumsum(y, -1) / k for y in (largest, jnp.square(largest)))
    tau = mean - jnp.sqrt(jnp.maximum(1 / k - (square - jnp.square(mean)), 0))
    support = jnp.sum(tau <= largest, -1, keepdims=True)
    tau = jnp.take_along_axis(tau, jnp.maximum(support - 1, 0), -1)
    return jnp.square(jnp.maximum(x - tau, 0))


@entmax.defjvp
def _entmax_jvp(
    primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    (z,), (dz,) = primals, tangents
    p = entmax(z)
    root = jnp.sqrt(p)
    mean = jnp.sum(root * dz, -1, keepdims=True) / jnp.sum(root, -1, keepdims=True)
    return p, root * (dz - mean)


def chunk_keys(keys: jax.Array, query: jax.Array, chunk: int) -> jax.Array:
    """A key for each whole chunk: a mean of its keys, weighted by what `query` finds in them.

    Args:
      keys: `[B, T, R, Dh]`, rotated.
      query: `[R, Dh]`, learned; zeros give the plain mean. It is not rotated.

    Returns:
      `[B, C, R, Dh]` float32.
    """
    batch, _, heads, dim = keys.shape
    count = keys.shape[1] // chunk
    inside = keys[:, : count * chunk].reshape(batch, count, chunk, heads, dim)
    inside = inside.astype(jnp.promote_types(keys.dtype, jnp.float32))
    found = jnp.einsum("rd,bcjrd->bcjr", query, inside) / dim**0.5
    return jnp.einsum("bcjr,bcjrd->bcrd", jax.nn.softmax(found, axis=2), inside)


def routed(q: jax.Array, keys: jax.Array, config: RoutingConfig) -> tuple[jax.Array, jax.Array]:
    """Which whole chunks before its own each query reads, and what that adds to their logits.

    Args:
      q: `[B, T, H, Dh]`, rotated.
      keys: of chunks, `[B, C, R, Dh]`.

    Returns:
      bool and float32, `[B, R, T, C]` each; the second is 0 where the first is not.
    """
    batch, length, heads, dim = q.shape
    count, shared = keys.shape[1:3]
    if not count:
        none = jnp.zeros((batch, shared, length, 0), keys.dtype)
        return none.astype(bool), none
    grouped = q.reshape(batch, length, shared, heads // shared, dim).astype(keys.dtype)
    z = config.gamma * jnp.einsum("btrgd,bcrd->brgtc", grouped, keys) / dim**0.5
    before = jnp.arange(count) < jnp.arange(length)[:, None] // config.chunk
    # A row without chunks before it takes all of them, so that nothing in it is nan.
    z = jnp.where(before | ~before.any(-1, keepdims=True), z, -jnp.inf)
    if config.select == "top_k":
        weight = jnp.where(before, jax.nn.softmax(z, axis=-1).mean(2), -1.0)
        _, best = jax.lax.top_k(weight, min(config.top_k, count))
        chosen = jax.nn.one_hot(best, count, dtype=bool).any(-2) & before
        return chosen, jnp.zeros_like(weight)
    weight = entmax(z).mean(2)
    chosen = (weight > 0) & before
    if config.prior == "none":
        return chosen, jnp.zeros_like(weight)
    log_weight = jnp.log(jnp.where(chosen, jnp.maximum(weight, _LEAST_WEIGHT), 1.0))
    if config.prior == "straight_through":
        return chosen, log_weight - jax.lax.stop_gradient(log_weight)
    mean = log_weight.sum(-1, keepdims=True) / jnp.maximum(chosen.sum(-1, keepdims=True), 1)
    return chosen, jnp.where(chosen, log_weight - mean, 0.0) / config.sigma


def attend(
    q: jax.Array, k: jax.Array, v: jax.Array, query: jax.Array, config: RoutingConfig
) -> tuple[jax.Array, jax.Array]:
    """Causal attention of `[B, T, H, Dh]` to the chunks each is routed to, and to its own.

    Args:
      k: rotated keys, `[B, T, R, Dh]`, as v.
      query: of `chunk_keys`.

    Returns:
      `[B, T, H, Dh]`, and which chunks before their own were read, bool `[B, R, T, C]`.
    """
    length, chunk = q.shape[1], config.chunk
    chosen, prior = routed(q, chunk_keys(k, query, chunk), config)

    def by_token(x: jax.Array) -> jax.Array:
        # The last chunk may not be whole: it has no key of its own, and nobody before it.
        x = jnp.repeat(x, chunk, axis=-1)
        x = jnp.pad(x, ((0, 0),) * 3 + ((0, length - x.shape[-1]),))
        return jnp.repeat(x, q.shape[2] // k.shape[2], axis=1)

    at = jnp.arange(length)
    own = (at[:, None] // chunk == at // chunk) & (at <= at[:, None])
    visible = by_token(chosen) | own
    return jax.nn.dot_product_attention(q, k, v, bias=by_token(prior), mask=visible), chosen
