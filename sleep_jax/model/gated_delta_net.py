"""Gated DeltaNet and its relatives: the mixer whose state are the fast weights.

As defined by Yang, Kautz, Hatamizadeh (arXiv 2412.06464) and implemented for Qwen3-Next in
`transformers`; held against the latter in tests/parity. `update_rule` changes one thing in it:

- "gated_delta": nothing.
- "delta": alpha = 1, so no projection for it (Yang et al., arXiv 2406.06484).
- "hebbian": the value is written as it is, S <- alpha S + beta k v^T (arXiv 2605.26099, eq. 3, "the
  Mamba-2 form"; Mamba-2 itself, arXiv 2405.21060, ties beta to alpha).
- "gated_delta_negative": beta in (0, 2), so that a write may flip what a key reads (Grazzi et al.,
  arXiv 2411.12537).
- "kda": alpha is a vector over the channels of the key, from a product of rank Dv (Kimi Linear,
  arXiv 2510.26692). The gate of its output stays ours.
- "jet": values pass a convolution whose kernel each token makes, queries and keys none
  (Jet-Nemotron, arXiv 2508.15884).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from pallas_kernels import gated_delta_rule
from sleep_jax.model.config import GatedDeltaNetConfig
from sleep_jax.model.layers import Initializer, Linear, normalise_rms, parameter, rotate

L2_EPS = 1e-6


class GatedDeltaNetState(struct.PyTreeNode):
    """What a block needs to go on in the middle of a text: more than its fast weights.

    `fast` is `[B, Hv, Dk, Dv]` float32, `tails` the last width - 1 inputs of the convolutions, each
    `[B, width - 1, features]` as in `convolved`.
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
    output_init: Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(
        self, x: jax.Array, state: jax.Array | GatedDeltaNetState
    ) -> tuple[jax.Array, jax.Array | GatedDeltaNetState]:
        c = self.config
        if isinstance(state, GatedDeltaNetState):
            fast, tails = state.fast, state.tails
        else:
            fast, tails = state, None
        projections = _projections(c)
        outputs = Linear(projections, name="in")(x)
        features = {name: y for (name, *_), y in zip(projections, outputs, strict=True)}
        inputs = {name: features[name] for name in convolved(c)}
        before = dict(zip(inputs, tails, strict=True)) if tails else {}
        q, k, v = (
            nn.silu(self._convolution(name, features, before.get(name)))
            for name in ("query", "key", "value")
        )
        q, k = (y.reshape(*x.shape[:-1], c.key_heads, c.key_dim) for y in (q, k))
        v = v.reshape(*x.shape[:-1], c.value_heads, c.value_dim)
        q, k = l2_normalise(q) * c.key_dim**-0.5, l2_normalise(k)

        beta = jax.nn.sigmoid(_float32(features["beta"]))
        beta = 2.0 * beta if c.update_rule == "gated_delta_negative" else beta
        rule = "hebbian" if c.update_rule == "hebbian" else "delta"
        log_decay = self._log_decay(features, beta)
        y, fast = gated_delta_rule(q, k, v, log_decay, beta, fast, rule=rule)

        scale = parameter(self, "norm_scale", nn.initializers.ones, ("head",), (c.value_dim,))
        gate = features["gate"].reshape(v.shape)
        y = normalise_rms(y, self.norm_eps) * scale * nn.silu(_float32(gate))
        y = y.astype(x.dtype).reshape(*x.shape[:-1], c.value_heads * c.value_dim)
        output = ("output", x.shape[-1], ("heads", "embed"))
        (y,) = Linear((output,), self.output_init, name="out")(y)
        if tails is None:
            return y, fast
        joined = (jnp.concatenate([before[name], inputs[name]], axis=1) for name in inputs)
        return y, GatedDeltaNetState(fast, tuple(z[:, x.shape[1] :] for z in joined))

    def _convolution(
        self, name: str, features: dict[str, jax.Array], before: jax.Array | None
    ) -> jax.Array:
        c, y = self.config, features[name]
        if name not in convolved(c):
            return y
        if c.update_rule == "jet":
            hidden = nn.silu(features["generator"])
            return DynamicConvolution(c.conv_width, name=f"{name}_convolution")(y, hidden, before)
        return ShortConvolution(c.conv_width, name=f"{name}_convolution")(y, before)

    def _log_decay(self, features: dict[str, jax.Array], beta: jax.Array) -> jax.Array:
        c = self.config
        match c.update_rule:
            case "delta":
                return jnp.zeros_like(beta)
            case "kda":
                low = features["decay"]
                return ChannelDecay(c.value_heads, c.key_dim, name="decay")(low)
        return Decay(name="decay")(features["alpha"])


def convolved(c: GatedDeltaNetConfig) -> dict[str, int]:
    """Features of each input that is convolved with those before it, by name."""
    key_size, value_size = c.key_heads * c.key_dim, c.value_heads * c.value_dim
    if c.update_rule == "jet":
        return {"value": value_size}
    return {"query": key_size, "key": key_size, "value": value_size}


def _projections(c: GatedDeltaNetConfig) -> tuple[tuple[str, int, tuple[str, str]], ...]:
    """Outputs of the one product that the block's input goes through, for `Linear`."""
    key_size, value_size = c.key_heads * c.key_dim, c.value_heads * c.value_dim
    heads, gates, shared = ("embed", "heads"), ("embed", "gates"), ("embed", "head")
    outputs = [
        ("query", key_size, heads),
        ("key", key_size, heads),
        ("value", value_size, heads),
        ("gate", value_size, heads),
    ]
    if c.update_rule == "kda":
        outputs.append(("decay", c.value_dim, shared))
    elif c.update_rule != "delta":
        outputs.append(("alpha", c.value_heads, gates))
    outputs.append(("beta", c.value_heads, gates))
    if c.update_rule == "jet":
        outputs.append(("generator", c.generator_hidden, shared))
    return tuple(outputs)


class ShortConvolution(nn.Module):
    """Causal depthwise convolution, `[B, L, D] -> [B, L, D]`; kernel `[width, D]`, last is now.

    `before`, `[B, width - 1, D]`, are the inputs ahead of x; zeros without it.
    """

    width: int

    @nn.compact
    def __call__(self, x: jax.Array, before: jax.Array | None = None) -> jax.Array:
        kernel = parameter(
            self, "kernel", _init_taps(self.width), ("conv", "heads"), (self.width, x.shape[-1])
        ).astype(x.dtype)
        return _convolve(x, before, kernel)


class DynamicConvolution(nn.Module):
    """Causal depthwise convolution whose kernel is made at each output: `[B, L, D] -> [B, L, D]`.

    Kernels are `hidden [B, L, R] @ kernels + bias`, channel by channel with the last tap, now,
    last, as in Jet-Nemotron (arXiv 2508.15884). `before` is as in `ShortConvolution`, whose kernel
    it starts from: `kernels` is zero, and learns at once because `hidden` is not. (Jet-Nemotron's
    code means to start both matrices of its generator from zero, where neither could learn, and
    then draws both anew.)
    """

    width: int

    @nn.compact
    def __call__(
        self, x: jax.Array, hidden: jax.Array, before: jax.Array | None = None
    ) -> jax.Array:
        size = x.shape[-1] * self.width
        shape = (hidden.shape[-1], size)
        kernels = parameter(self, "kernels", nn.initializers.zeros, ("rank", "heads"), shape)
        bias = parameter(self, "bias", _init_taps(self.width), ("heads",), (size,))
        taps = hidden @ kernels.astype(x.dtype) + bias.astype(x.dtype)
        taps = taps.reshape(*x.shape, self.width)
        return _convolve(x, before, jnp.moveaxis(taps, -1, 0))


def _convolve(x: jax.Array, before: jax.Array | None, taps: jax.Array) -> jax.Array:
    """`taps[i]`, `[D]` or `[B, L, D]`, weighs the input width - 1 - i tokens back."""
    width = taps.shape[0]
    if before is None:
        padded = jnp.pad(x, ((0, 0), (width - 1, 0), (0, 0)))
    else:
        padded = jnp.concatenate([before, x], axis=1)
    weighed = (padded[:, i : i + x.shape[1]] * taps[i] for i in range(width))
    return sum(weighed, start=jnp.zeros_like(x))


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


class ChannelDecay(nn.Module):
    """`log alpha = -exp(A_log) * softplus(low up + dt_bias)`, `[B, L, R] -> [B, L, Hv, Dk]`.

    Returns float32: a decay a channel of the key (Kimi Linear, arXiv 2510.26692). A_log is one a
    head, dt_bias one a channel. Initial values are those of `Decay`.
    """

    heads: int
    key_dim: int

    @nn.compact
    def __call__(self, low: jax.Array) -> jax.Array:
        size = self.heads * self.key_dim
        init = nn.initializers.lecun_normal()
        up = parameter(self, "up", init, ("rank", "heads"), (low.shape[-1], size))
        A_log = parameter(self, "A_log", _init_A_log, ("gates",), (self.heads,))
        dt_bias = parameter(self, "dt_bias", _init_dt_bias, ("heads",), (size,))
        rate = jax.nn.softplus(_float32(low @ up.astype(low.dtype)) + dt_bias)
        rate = rate.reshape(*low.shape[:-1], self.heads, self.key_dim)
        return -jnp.exp(A_log)[:, None] * rate


def turned(fast: jax.Array, theta: float) -> jax.Array:
    """Fast weights `[B, Hv, Dk, Dv]`, their keys turned by one position of RoPE."""
    keys_last = fast.swapaxes(2, 3)
    return rotate(keys_last, theta, jnp.ones(fast.shape[1])).swapaxes(2, 3)


def l2_normalise(x: jax.Array) -> jax.Array:
    """`x / sqrt(sum x^2 + 1e-6)` over the last axis; eps inside the root, so zeros stay zeros."""
    return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), -1, keepdims=True) + L2_EPS)


def _float32(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _uniform(low: float, high: float):
    def init(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, low, high)

    return init


def _init_taps(width: int):
    return _uniform(-(width**-0.5), width**-0.5)  # PyTorch's Conv1d default, which Yang et al. use


def _init_A_log(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    return jnp.log(jax.random.uniform(key, shape, dtype, 1e-4, 16.0))


def _init_dt_bias(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    dt = jnp.exp(jax.random.uniform(key, shape, dtype, jnp.log(1e-3), jnp.log(1e-1)))
    return dt + jnp.log(-jnp.expm1(-dt))  # inverse softplus
