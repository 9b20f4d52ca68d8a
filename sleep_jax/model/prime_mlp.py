"""The prime MLP of TTT-E2E (Tandon et al., arXiv 2512.23675): fast weights that a gradient writes.

A SwiGLU whose matrices are W0 + S: W0 are parameters, shared by all sequences and learned as any
others; S, the state, is what a sequence has changed of them, zero before its first token. A forward
pass only reads S. What writes it is a step of gradient descent on the tokens of a window
(sleep_jax/ttt_e2e.py).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from sleep_jax.model.config import PrimeMLPConfig
from sleep_jax.model.layers import parameter

Displacement = dict[str, jax.Array]  # float32: gate and up `[B, D, H]`, down `[B, H, D]`
_INTO, _OUT = ("embed", "mlp"), ("mlp", "embed")


class PrimeMLP(nn.Module):
    """`(x [B, L, D], S) -> (down(silu(gate x) * up x) [B, L, D], S)`, each matrix W0 + S."""

    config: PrimeMLPConfig

    @nn.compact
    def __call__(self, x: jax.Array, state: Displacement) -> tuple[jax.Array, Displacement]:
        def weights(name: str) -> jax.Array:
            shape = state[name].shape[1:]
            axes = _OUT if name == "down" else _INTO
            start = parameter(self, name, nn.initializers.lecun_normal(), axes, shape)
            return (start + state[name]).astype(x.dtype)

        hidden = nn.silu(x @ weights("gate")) * (x @ weights("up"))
        return hidden @ weights("down"), state


def initial_displacement(config: PrimeMLPConfig, d_model: int, batch: int) -> Displacement:
    """S = 0 for each of `batch` sequences."""
    into = jnp.zeros((batch, d_model, config.hidden), jnp.float32)
    return {"gate": into, "up": into, "down": into.swapaxes(1, 2)}
