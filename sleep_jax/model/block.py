"""One block of a decoder or an encoder: a mixer and an MLP, each added to the residual stream."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from sleep_jax.model.attention import Attention, KeyValues
from sleep_jax.model.config import ModelConfig
from sleep_jax.model.gated_delta_net import GatedDeltaNet, GatedDeltaNetState
from sleep_jax.model.layers import RMSNorm, SwiGLU
from sleep_jax.model.prime_mlp import Displacement, PrimeMLP

BlockState = jax.Array | Displacement | GatedDeltaNetState | KeyValues


class Block(nn.Module):
    """Mixer and SwiGLU, each behind an RMSNorm and added to the stream.

    Fast weights that were inserted into a trained stack come without the SwiGLU, and add nothing to
    the stream until their output projection has left zero (arXiv 2605.26099, for Ouro).
    """

    config: ModelConfig
    mixer: str

    @nn.compact
    def __call__(
        self, h: jax.Array, state: BlockState | None
    ) -> tuple[jax.Array, BlockState | None]:
        c = self.config
        x = RMSNorm(c.norm_eps, name="mixer_norm")(h)
        if self.mixer == "attention":
            assert state is None or isinstance(state, KeyValues)
            y, state = Attention(c.attention, c.norm_eps, name="mixer")(x, state)
        elif self.mixer == "prime_mlp":
            assert isinstance(state, dict), "fast weights are missing"
            y, state = PrimeMLP(c.prime_mlp, name="mixer")(x, state)
        else:
            assert isinstance(state, jax.Array | GatedDeltaNetState), "fast weights are missing"
            init = nn.initializers.zeros if c.inserted else nn.initializers.lecun_normal()
            y, state = GatedDeltaNet(c.gated_delta_net, c.norm_eps, init, name="mixer")(x, state)
        h = h + y
        if self.mixer == "gated_delta_net" and c.inserted:
            return h, state
        x = RMSNorm(c.norm_eps, name="mlp_norm")(h)
        return h + SwiGLU(c.mlp_hidden, name="mlp")(x), state


def block_name(index: int, mixer: str) -> str:
    """Name of a block in the parameter tree, e.g. `block_01_gated_delta_net`."""
    return f"block_{index:02d}_{mixer}"


def activation_dtype(config: ModelConfig) -> jnp.dtype:
    """Dtype of the residual stream. "auto" must have been resolved for a device before."""
    return jnp.dtype(config.activation_dtype)
