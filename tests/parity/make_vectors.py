"""Runs layers of `transformers` on random weights, forward and backward, on its torch-only path.

    python -m tests.parity.make_vectors OUT.npz

All in float32: the reference casts to it inside, so float64 would not be float64.
"""

# torch and transformers are not among the suite's own packages.
# pyright: reportMissingImports=false

import functools
import inspect
import json
import platform
import sys
from collections.abc import Callable

import numpy as np
import torch
import transformers
from torch import Tensor
from transformers.models.llama import modeling_llama
from transformers.models.qwen3 import modeling_qwen3
from transformers.models.qwen3_next import modeling_qwen3_next

from tests.parity import BATCH, CASES, D_MODEL, STEPS, VOCAB, WINDOWS, Case

Tensors = dict[str, Tensor]
Reference = tuple[Tensors, Tensors, Callable[[Tensors], Tensors]]

# The reference takes kernels of fla and causal_conv1d where these are installed; its own functions
# lie under that wrapper.
for _name in ("torch_chunk_gated_delta_rule", "causal_conv1d_fn"):
    setattr(modeling_qwen3_next, _name, inspect.unwrap(getattr(modeling_qwen3_next, _name)))


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator)


def _randomise(module: torch.nn.Module, generator: torch.Generator) -> Tensors:
    """Draws every parameter anew and returns them by name; nothing is left at 0 or 1."""
    weights = dict(module.named_parameters())
    with torch.no_grad():
        for name, weight in weights.items():
            x = _normal(generator, *weight.shape)
            if weight.dim() > 1:
                x = x * weight[0].numel() ** -0.5
            elif name == "dt_bias":
                x = x - 3.0  # slow decay, so that a state lives across chunks
            elif name != "A_log":
                x = 1.0 + 0.3 * x  # the scale of a norm
            weight.copy_(x)
    return weights


def _features(case: Case, generator: torch.Generator) -> Tensors:
    return {"x": case.scale * _normal(generator, BATCH, case.length, D_MODEL)}


def _gated_delta_net(case: Case, generator: torch.Generator) -> Reference:
    s = case.sizes
    config = transformers.Qwen3NextConfig(
        hidden_size=D_MODEL,
        num_hidden_layers=1,
        layer_types=["linear_attention"],
        linear_num_key_heads=s["key_heads"],
        linear_num_value_heads=s["value_heads"],
        linear_key_head_dim=s["key_dim"],
        linear_value_head_dim=s["value_dim"],
        linear_conv_kernel_dim=4,
        rms_norm_eps=case.norm_eps,
    )
    layer = modeling_qwen3_next.Qwen3NextGatedDeltaNet(config, layer_idx=0)
    weights = _randomise(layer, generator)
    return _features(case, generator), weights, lambda inputs: {"y": layer(inputs["x"])}


def _gated_delta_rule(case: Case, generator: torch.Generator) -> Reference:
    """The rule alone, from a state and to a state. q and k come in before their l2 norm."""
    s = case.sizes
    keys = (BATCH, case.length, s["key_heads"], s["key_dim"])
    gates = (BATCH, case.length, s["value_heads"])
    inputs = {
        "q": _normal(generator, *keys),
        "k": _normal(generator, *keys),
        "v": _normal(generator, *gates, s["value_dim"]),
        "log_decay": -0.2 * _normal(generator, *gates).exp(),
        "beta": _normal(generator, *gates).sigmoid(),
        "state": _normal(generator, BATCH, s["value_heads"], s["key_dim"], s["value_dim"]),
    }

    def forward(inputs: Tensors) -> Tensors:
        q, k, v, log_decay, beta, state = inputs.values()
        y, state = modeling_qwen3_next.torch_chunk_gated_delta_rule(
            q,
            k,
            v,
            log_decay,
            beta,
            initial_state=state,
            output_final_state=True,
            use_qk_l2norm_in_kernel=True,
        )
        return {"y": y, "state": state}

    return inputs, {}, forward


def _llama_arguments(case: Case) -> dict:
    s = case.sizes
    return dict(
        hidden_size=D_MODEL,
        intermediate_size=s.get("hidden", 1),
        num_hidden_layers=s.get("blocks", 1),
        num_attention_heads=s.get("heads", 1),
        num_key_value_heads=s.get("kv_heads", 1),
        head_dim=s.get("head_dim", 2),
        rope_parameters={"rope_type": "default", "rope_theta": s.get("rope_theta", 1.0)},
        rms_norm_eps=case.norm_eps,
        vocab_size=VOCAB,
        tie_word_embeddings=False,
        attn_implementation="eager",
    )


def _attention(case: Case, generator: torch.Generator) -> Reference:
    """Llama's attention, or with norms on queries and keys Qwen3's."""
    arguments = _llama_arguments(case)
    if case.sizes.get("qk_norm"):
        config = transformers.Qwen3Config(**arguments)
        layer = modeling_qwen3.Qwen3Attention(config, layer_idx=0)
    else:
        config = transformers.LlamaConfig(**arguments)
        layer = modeling_llama.LlamaAttention(config, layer_idx=0)
    rotary = modeling_llama.LlamaRotaryEmbedding(transformers.LlamaConfig(**arguments))
    mask = torch.full((1, 1, case.length, case.length), -torch.inf).triu(1)

    def forward(inputs: Tensors) -> Tensors:
        position = torch.arange(case.length)[None]
        return {"y": layer(inputs["x"], rotary(inputs["x"], position), mask)[0]}

    weights = _randomise(layer, generator)
    return _features(case, generator), weights, forward


def _swiglu(case: Case, generator: torch.Generator) -> Reference:
    layer = modeling_llama.LlamaMLP(transformers.LlamaConfig(**_llama_arguments(case)))
    weights = _randomise(layer, generator)
    return _features(case, generator), weights, lambda inputs: {"y": layer(inputs["x"])}


def _rms_norm(case: Case, generator: torch.Generator) -> Reference:
    layer = modeling_qwen3.Qwen3RMSNorm(D_MODEL, eps=case.norm_eps)
    weights = _randomise(layer, generator)
    return _features(case, generator), weights, lambda inputs: {"y": layer(inputs["x"])}


def _decoder(case: Case, generator: torch.Generator) -> Reference:
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**_llama_arguments(case)))
    weights = _randomise(model, generator)
    tokens = torch.randint(VOCAB, (BATCH, case.length), generator=generator)
    return {"tokens": tokens}, weights, lambda inputs: {"y": model(inputs["tokens"]).logits}


class _Primed(torch.nn.Module):
    """Llama's block, and one whose first half is a second MLP; `mixer` is what a sequence moves."""

    def __init__(self, config: transformers.LlamaConfig):
        super().__init__()
        self.embed_tokens = torch.nn.Embedding(VOCAB, D_MODEL)
        self.layer = modeling_llama.LlamaDecoderLayer(config, layer_idx=0)
        self.rotary = modeling_llama.LlamaRotaryEmbedding(config)
        norm = functools.partial(modeling_llama.LlamaRMSNorm, D_MODEL, config.rms_norm_eps)
        self.prime = torch.nn.ModuleDict(
            {
                "input_layernorm": norm(),
                "mixer": modeling_llama.LlamaMLP(config),
                "post_attention_layernorm": norm(),
                "mlp": modeling_llama.LlamaMLP(config),
            }
        )
        self.final_norm = norm()
        self.lm_head = torch.nn.Linear(D_MODEL, VOCAB, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.embed_tokens(tokens)
        length = tokens.shape[1]
        turns = self.rotary(h, torch.arange(length)[None])
        mask = torch.full((1, 1, length, length), -torch.inf).triu(1)
        h = self.layer(h, attention_mask=mask, position_embeddings=turns)
        for norm, inside in (("input_layernorm", "mixer"), ("post_attention_layernorm", "mlp")):
            h = h + self.prime[inside](self.prime[norm](h))
        return self.lm_head(self.final_norm(h))


def _gradient_steps(case: Case, generator: torch.Generator) -> Reference:
    """TTT-E2E by autograd: each sequence takes steps on two windows and predicts a third."""
    model = _Primed(transformers.LlamaConfig(**_llama_arguments(case)))
    weights = _randomise(model, generator)
    shape = (BATCH, WINDOWS + 1, case.length)
    tokens = torch.randint(VOCAB, shape, generator=generator)

    def predicted(mine: Tensors, window: Tensor) -> Tensor:
        return torch.func.functional_call(model, {**weights, **mine}, window[None])[0]

    def forward(inputs: Tensors) -> Tensors:
        logits = []
        for *windows, last in inputs["tokens"]:
            mine = {name: x for name, x in weights.items() if name.startswith("prime.mixer.")}
            for window in windows:
                for _ in range(STEPS):
                    scores = predicted(mine, window)[:-1]
                    loss = torch.nn.functional.cross_entropy(scores, window[1:])
                    gradient = torch.autograd.grad(loss, list(mine.values()), create_graph=True)
                    shrink = (1.0 / torch.cat([g.flatten() for g in gradient]).norm()).clamp(max=1)
                    mine = {
                        name: x - shrink * g
                        for (name, x), g in zip(mine.items(), gradient, strict=True)
                    }
            logits.append(predicted(mine, last))
        return {"y": torch.stack(logits)}

    return {"tokens": tokens}, weights, forward


REFERENCES = {
    "gated_delta_net": _gated_delta_net,
    "gated_delta_rule": _gated_delta_rule,
    "attention": _attention,
    "swiglu": _swiglu,
    "rms_norm": _rms_norm,
    "decoder": _decoder,
    "gradient_steps": _gradient_steps,
}


def make(case: Case) -> dict[str, np.ndarray]:
    """Inputs, weights, cotangents, outputs and gradients of a case; names as in `tests.parity`."""
    generator = torch.Generator().manual_seed(0)
    inputs, weights, forward = REFERENCES[case.layer](case, generator)
    leaves = {f"weight/{name}": x for name, x in weights.items()}
    for name, x in inputs.items():
        if x.is_floating_point():
            leaves[f"input/{name}"] = x.requires_grad_()
    outputs = forward(inputs)
    cotangents = {name: _normal(generator, *y.shape) for name, y in outputs.items()}
    loss = sum((y * cotangents[name]).sum() for name, y in outputs.items())
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    groups = {
        "input": inputs,
        "weight": weights,
        "cotangent": cotangents,
        "output": outputs,
        "gradient": dict(zip(leaves, gradients, strict=True)),
    }
    return {
        f"{group}/{name}": x.detach().numpy()
        for group, tensors in groups.items()
        for name, x in tensors.items()
    }


def versions() -> dict[str, str]:
    """What the vectors are made with."""
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


def main(path: str) -> None:
    arrays = {f"{name}/{k}": x for name, case in CASES.items() for k, x in make(case).items()}
    arrays["versions"] = np.array(json.dumps(versions()))
    np.savez_compressed(path, allow_pickle=False, **arrays)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tests.parity.make_vectors OUT.npz")
    main(sys.argv[1])
