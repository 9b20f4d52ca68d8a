"""The same loss and gradient in PyTorch eager, with the delta rule of `transformers`.

The peer at its best rather than as a library has it: products of one input are fused as ours are,
attention is `scaled_dot_product_attention`, and the rule is given the window as its chunk, because
its own default of 64 pads every window of 12 tokens to 64. What it keeps of `transformers` is what
a reader would use from there: `torch_chunk_gated_delta_rule` and the causal convolution.
"""

# torch and transformers are not among the suite's own packages.
# pyright: reportMissingImports=false

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import flax.traverse_util
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.models.qwen3_next import modeling_qwen3_next

from sleep_jax.model.config import AttentionConfig, GatedDeltaNetConfig, ModelConfig
from sleep_jax.model.decoder import block_name

Weights = dict[str, Tensor]
State = Tensor | None
# The functions of the reference without its switch to the kernels of fla and causal_conv1d.
_rule = inspect.unwrap(modeling_qwen3_next.torch_chunk_gated_delta_rule)
_convolution = inspect.unwrap(modeling_qwen3_next.causal_conv1d_fn)
# Kernels that are applied in one product, in the order of its columns.
_FUSED = {
    "mixer/in": ("query", "key", "value", "gate", "alpha", "beta"),
    "mixer/convolution": ("query", "key", "value"),
    "mlp/in": ("gate", "up"),
}
Blocks = Callable[[Tensor, list[State], list[Weights], Tensor], tuple[Tensor, list[State]]]


def chunk_rule(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """The rule with our arguments; theirs scales q itself and works in chunks of 64."""
    return _rule(
        q * q.shape[-1] ** 0.5,
        k,
        v,
        log_decay,
        beta,
        initial_state=state,
        output_final_state=True,
        use_qk_l2norm_in_kernel=False,
    )


class Peer:
    """Our model in PyTorch. `leaves` are the weights by our names, in our layout."""

    def __init__(self, config: ModelConfig, params: Any, chunk_size: int | None, compiled: bool):
        """Copies the weights.

        Args:
          config: with a resolved activation dtype of float32.
          params: our parameter tree.
          chunk_size: of the delta rule; None takes the window as one chunk.
          compiled: one pass of all blocks through `torch.compile`.

        Raises:
          ValueError: fast weights with another rule than the gated delta rule.
        """
        rule = config.gated_delta_net.update_rule
        if rule != "gated_delta":
            raise ValueError(f"update_rule={rule!r} is not in the peer; allowed: 'gated_delta'")
        self.config = config
        self.leaves = {
            name: torch.tensor(np.asarray(x)).requires_grad_()
            for name, x in flax.traverse_util.flatten_dict(params, sep="/").items()
        }

        def blocks(
            h: Tensor, fast: list[State], weights: list[Weights], turn: Tensor
        ) -> tuple[Tensor, list[State]]:
            states = []
            for mixer, w, state in zip(config.pattern, weights, fast, strict=True):
                h, state = _block(config, mixer, w, h, state, turn, chunk_size or h.shape[1])
                states.append(state)
            return h, states

        self.blocks: Blocks = torch.compile(blocks, dynamic=False) if compiled else blocks

    def loss(self, batch: dict[str, Tensor], passes: int) -> Tensor:
        """Mean masked cross entropy of the prediction windows after N passes a context window.

        Args:
          batch: `context [B, C, L]`, `tokens`, `targets`, `mask` `[B, P, L]`; int64, mask float32.
        """
        weights = [
            _fused(self.leaves, block_name(i, mixer)) for i, mixer in enumerate(self.config.pattern)
        ]
        fast = self._zero_state(len(batch["tokens"]))
        for tokens in batch["context"].unbind(1):
            h, turn = self._embed(tokens)
            for _ in range(passes):
                h, fast = self.blocks(h, fast, weights, turn)
        logits = []
        for tokens in batch["tokens"].unbind(1):
            h, turn = self._embed(tokens)
            h, fast = self.blocks(h, fast, weights, turn)
            h = _norm(h, self.leaves["final_norm/scale"], self.config.norm_eps)
            logits.append(h @ self.leaves["unembedding"])
        losses = F.cross_entropy(
            torch.stack(logits, 1).flatten(0, 2), batch["targets"].flatten(), reduction="none"
        )
        mask = batch["mask"].flatten()
        return (losses * mask).sum() / mask.sum()

    def loss_and_gradient(
        self, batch: dict[str, Tensor], passes: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and its gradient by our parameter names."""
        loss = self.loss(batch, passes)
        gradient = torch.autograd.grad(loss, list(self.leaves.values()))
        return loss.detach(), dict(zip(self.leaves, gradient, strict=True))

    def _embed(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Features `[B, L, D]` and the turns of RoPE, cos and sin `[2, L, head_dim / 2]`."""
        c = self.config.attention
        exponent = torch.arange(0, c.head_dim, 2) / c.head_dim
        angle = torch.arange(tokens.shape[1])[:, None] * c.rope_theta**-exponent
        turn = torch.stack([angle.cos(), angle.sin()])
        return F.embedding(tokens, self.leaves["embedding"]), turn

    def _zero_state(self, rows: int) -> list[State]:
        c = self.config.gated_delta_net
        shape = (rows, c.value_heads, c.key_dim, c.value_dim)
        return [torch.zeros(shape) if m == "gated_delta_net" else None for m in self.config.pattern]


def torch_batch(batch: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """Our batch as tensors; integers become int64."""
    tensors = {name: torch.from_numpy(x) for name, x in batch.items()}
    return {n: x if x.is_floating_point() else x.long() for n, x in tensors.items()}


def _fused(leaves: Weights, block: str) -> Weights:
    """Weights of one block without its prefix, and those of `_FUSED` joined."""
    weights = {k.removeprefix(f"{block}/"): w for k, w in leaves.items() if k.startswith(block)}
    for name, parts in _FUSED.items():
        suffix = "_convolution/kernel" if name.endswith("convolution") else ""
        stem = "mixer/" if suffix else f"{name}/"
        keys = [key for part in parts if (key := f"{stem}{part}{suffix}") in weights]
        if keys:
            weights[name] = torch.cat([weights.pop(key) for key in keys], 1)
    return weights


def _block(
    config: ModelConfig,
    mixer: str,
    w: Weights,
    h: Tensor,
    state: State,
    turn: Tensor,
    chunk_size: int,
) -> tuple[Tensor, State]:
    eps = config.norm_eps
    x = _norm(h, w["mixer_norm/scale"], eps)
    if mixer == "attention":
        y = _attention(config.attention, eps, w, x, turn)
    else:
        y, state = _gated_delta_net(config.gated_delta_net, eps, w, x, state, chunk_size)
    h = h + y
    gate, up = (_norm(h, w["mlp_norm/scale"], eps) @ w["mlp/in"]).chunk(2, -1)
    return h + (F.silu(gate) * up) @ w["mlp/out/down"], state


def _norm(x: Tensor, scale: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x, scale.shape, scale, eps)


def _rotate(x: Tensor, turn: Tensor) -> Tensor:
    """RoPE on `[B, H, L, D]`."""
    cos, sin = turn
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def _attention(c: AttentionConfig, eps: float, w: Weights, x: Tensor, turn: Tensor) -> Tensor:
    heads = (x @ w["mixer/in"]).unflatten(-1, (-1, c.head_dim)).transpose(1, 2)
    q, k, v = heads.split([c.heads, c.kv_heads, c.kv_heads], 1)
    if c.qk_norm:
        q = _norm(q, w["mixer/query_norm/scale"], eps)
        k = _norm(k, w["mixer/key_norm/scale"], eps)
    y = F.scaled_dot_product_attention(
        _rotate(q, turn),
        _rotate(k, turn),
        v,
        is_causal=True,
        enable_gqa=c.heads != c.kv_heads,
    )
    return y.transpose(1, 2).flatten(2) @ w["mixer/out/output"]


def _gated_delta_net(
    c: GatedDeltaNetConfig, eps: float, w: Weights, x: Tensor, state: State, chunk_size: int
) -> tuple[Tensor, State]:
    key, value = c.key_heads * c.key_dim, c.value_heads * c.value_dim
    y = x @ w["mixer/in"]
    qkv, gate, a, b = y.split([2 * key + value, value, c.value_heads, c.value_heads], -1)
    qkv = _convolution(qkv.transpose(1, 2), w["mixer/convolution"].T, activation="silu")
    q, k, v = qkv.transpose(1, 2).split([key, key, value], -1)
    log_decay = -w["mixer/decay/A_log"].exp() * F.softplus(a + w["mixer/decay/dt_bias"])
    y, state = _rule(
        q.unflatten(-1, (-1, c.key_dim)),
        k.unflatten(-1, (-1, c.key_dim)),
        v.unflatten(-1, (-1, c.value_dim)),
        log_decay,
        b.sigmoid(),
        chunk_size=chunk_size,
        initial_state=state,
        output_final_state=True,
        use_qk_l2norm_in_kernel=True,
    )
    y = _norm(y, w["mixer/norm_scale"], eps) * F.silu(gate.unflatten(-1, (-1, c.value_dim)))
    return y.flatten(2) @ w["mixer/out/output"], state


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Distance of the peer from ours: of the loss, and of the worst gradient, relative norms."""

    loss: float
    gradient: float
    worst: str


def agreement(ours: tuple[Any, Any], theirs: tuple[Tensor, dict[str, Tensor]]) -> Agreement:
    """Compares (loss, gradient tree) with the peer's (loss, gradients by name)."""
    gradients = flax.traverse_util.flatten_dict(ours[1], sep="/")
    errors = {}
    for name, x in theirs[1].items():
        expected = np.asarray(gradients[name])
        errors[name] = float(np.linalg.norm(x.numpy() - expected) / np.linalg.norm(expected))
    worst = max(errors, key=errors.__getitem__)
    loss = float(ours[0])
    return Agreement(abs(float(theirs[0]) - loss) / abs(loss), errors[worst], worst)
