"""Runs our layers on the reference's weights, under the names of `tests.parity`.

The way from the reference's weights to ours only slices, transposes and renames, so it carries
gradients across as well, and every comparison is name by name in our names.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels import gated_delta_rule
from sleep_jax import sleep
from sleep_jax.config import SleepConfig
from sleep_jax.model import decoder
from sleep_jax.model.attention import Attention
from sleep_jax.model.config import AttentionConfig, GatedDeltaNetConfig, ModelConfig, PrimeMLPConfig
from sleep_jax.model.gated_delta_net import GatedDeltaNet, l2_normalise
from sleep_jax.model.layers import RMSNorm, SwiGLU
from tests.parity import BATCH, D_MODEL, STEPS, VOCAB, Case

Arrays = dict[str, np.ndarray]


def _gated_delta_net_weights(case: Case, theirs: Arrays) -> Arrays:
    """Their in_proj rows lie key head by key head: [q, k, v.., z..] and [b.., a..] of each."""
    s = case.sizes
    heads, groups = s["key_heads"], s["value_heads"] // s["key_heads"]
    key, value = s["key_dim"], groups * s["value_dim"]

    def split(matrix: np.ndarray, sizes: list[int]) -> list[np.ndarray]:
        rows = matrix.reshape(heads, sum(sizes), D_MODEL)
        parts = np.split(rows, np.cumsum(sizes)[:-1], axis=1)
        return [part.reshape(-1, D_MODEL).T for part in parts]

    q, k, v, gate = split(theirs["in_proj_qkvz.weight"], [key, key, value, value])
    beta, alpha = split(theirs["in_proj_ba.weight"], [groups, groups])
    # The channels of the convolution are not interleaved: all of q, all of k, all of v.
    cuts = [heads * key, 2 * heads * key]
    conv_q, conv_k, conv_v = np.split(theirs["conv1d.weight"][:, 0].T, cuts, axis=1)
    return {
        "in/query": q,
        "in/key": k,
        "in/value": v,
        "in/gate": gate,
        "in/alpha": alpha,
        "in/beta": beta,
        "query_convolution/kernel": conv_q,
        "key_convolution/kernel": conv_k,
        "value_convolution/kernel": conv_v,
        "decay/A_log": theirs["A_log"],
        "decay/dt_bias": theirs["dt_bias"],
        "norm_scale": theirs["norm.weight"],
        "out/output": theirs["out_proj.weight"].T,
    }


def _renamed(names: dict[str, str], theirs: Arrays) -> Arrays:
    """Renames by the given pieces; a kernel of theirs is `[out, in]`, of ours `[in, out]`."""
    ours = {}
    for name, x in theirs.items():
        keep = x.ndim == 1 or name.endswith("embed_tokens.weight")
        path = name.removesuffix(".weight")
        for piece, new in names.items():
            path = path.replace(piece, new)
        ours[path] = x if keep else x.T
    return ours


_ATTENTION = {
    "q_proj": "in/query",
    "k_proj": "in/key",
    "v_proj": "in/value",
    "o_proj": "out/output",
    "q_norm": "query_norm/scale",
    "k_norm": "key_norm/scale",
}
_SWIGLU = {"gate_proj": "in/gate", "up_proj": "in/up", "down_proj": "out/down"}
_DECODER = {
    **_ATTENTION,
    **_SWIGLU,
    **{f"model.layers.{i}.": f"block_{i:02d}_attention/" for i in range(2)},
    "self_attn.": "mixer/",
    "mlp.": "mlp/",
    "post_attention_layernorm": "mlp_norm/scale",
    "input_layernorm": "mixer_norm/scale",
    "model.embed_tokens": "embedding",
    "model.norm": "final_norm/scale",
    "lm_head": "unembedding",
}


_PRIMED = {
    "mixer.gate_proj": "mixer/gate",
    "mixer.up_proj": "mixer/up",
    "mixer.down_proj": "mixer/down",
    "prime.": "block_01_prime_mlp/",
    "layer.": "block_00_attention/",
    "final_norm": "final_norm/scale",
    "embed_tokens": "embedding",
    **{name: new for name, new in _DECODER.items() if not name.startswith("model.")},
}


def our_weights(case: Case, theirs: Arrays) -> Arrays:
    """Their weights, or gradients of these, under our names and in our layout."""
    match case.layer:
        case "gated_delta_net":
            return _gated_delta_net_weights(case, theirs)
        case "attention":
            return _renamed(_ATTENTION, theirs)
        case "swiglu":
            return _renamed(_SWIGLU, theirs)
        case "rms_norm":
            return {"scale": theirs["weight"]}
        case "decoder":
            return _renamed(_DECODER, theirs)
        case "gradient_steps":
            return _renamed(_PRIMED, theirs)
    return theirs


def _rule(q, k, v, log_decay, beta, state):
    q = l2_normalise(q) * q.shape[-1] ** -0.5
    return gated_delta_rule(q, l2_normalise(k), v, log_decay, beta, state)


def _model(pattern: tuple[str, ...], sizes: dict[str, Any], eps: float) -> ModelConfig:
    """`sizes` are those of attention, and `hidden` of every MLP."""
    hidden = sizes.pop("hidden")
    return ModelConfig(
        pattern=pattern,
        d_model=D_MODEL,
        mlp_hidden=hidden,
        vocab_size=VOCAB,
        norm_eps=eps,
        activation_dtype="float32",
        attention=AttentionConfig(**sizes),
        prime_mlp=PrimeMLPConfig(hidden=hidden),
    )


def _forward(case: Case) -> Callable[[dict, dict], dict[str, Any]]:
    """`(parameter tree, inputs) -> outputs` of our layer."""
    sizes, eps = dict(case.sizes), case.norm_eps

    def of(layer: nn.Module) -> Callable[[dict, dict], dict[str, Any]]:
        return lambda params, inputs: {"y": layer.apply({"params": params}, inputs["x"])}

    match case.layer:
        case "gated_delta_net":
            config = GatedDeltaNetConfig(**sizes)
            shape = (BATCH, config.value_heads, config.key_dim, config.value_dim)
            layer = GatedDeltaNet(config, eps)
            return lambda params, inputs: {
                "y": layer.apply({"params": params}, inputs["x"], jnp.zeros(shape))[0]
            }
        case "gated_delta_rule":
            return lambda _, inputs: dict(zip(("y", "state"), _rule(**inputs), strict=True))
        case "attention":
            layer = Attention(AttentionConfig(**sizes), eps)
            return lambda params, inputs: {"y": layer.apply({"params": params}, inputs["x"])[0]}
        case "swiglu":
            return of(SwiGLU(**sizes))
        case "rms_norm":
            return of(RMSNorm(eps))
        case "gradient_steps":
            config = _model(("attention", "prime_mlp"), sizes, eps)

            def stepped(params, inputs):
                model, tokens = sleep.bind(config, params), inputs["tokens"]
                fast = decoder.initial_fast_weights(config, len(tokens))
                fast = sleep.read(model, tokens[:, :-1], fast, SleepConfig(passes=STEPS))
                return {"y": sleep.wake(model, tokens[:, -1:], fast)[0][:, 0]}

            return stepped
        case "decoder":
            config = _model(("attention",) * sizes.pop("blocks"), sizes, eps)

            def whole(params, inputs):
                h = decoder.embed(config, params, inputs["tokens"])
                h, _ = decoder.blocks(config, params, h, {})
                return {"y": decoder.unembed(config, params, h)}

            return whole
    raise ValueError(f"layer={case.layer!r} is unknown")


def group(vectors: Arrays, prefix: str) -> Arrays:
    """Those whose names begin with the prefix, without it."""
    return {k.removeprefix(prefix): x for k, x in vectors.items() if k.startswith(prefix)}


def expected(case: Case, vectors: Arrays) -> Arrays:
    """Their outputs and gradients, `output/..` and `gradient/..`, in our names and layout."""
    weights = our_weights(case, group(vectors, "gradient/weight/"))
    return {
        **{f"output/{k}": x for k, x in group(vectors, "output/").items()},
        **{f"gradient/input/{k}": x for k, x in group(vectors, "gradient/input/").items()},
        **{f"gradient/weight/{k}": x for k, x in weights.items()},
    }


def actual(case: Case, vectors: Arrays) -> Arrays:
    """Our outputs and gradients from their inputs, weights and cotangents; named as `expected`."""
    forward = _forward(case)
    inputs = group(vectors, "input/")
    integer = {k: x for k, x in inputs.items() if not np.issubdtype(x.dtype, np.floating)}
    real = {k: x for k, x in inputs.items() if k not in integer}
    weights = our_weights(case, group(vectors, "weight/"))
    tree = flax.traverse_util.unflatten_dict(weights, sep="/")

    @jax.jit
    def run(tree, real, cotangents):
        outputs, pullback = jax.vjp(lambda t, r: forward(t, {**integer, **r}), tree, real)
        return outputs, *pullback(cotangents)

    outputs, d_tree, d_real = run(tree, real, group(vectors, "cotangent/"))
    named = {
        "output": outputs,
        "gradient": {"input": d_real, "weight": d_tree},
    }
    return jax.tree.map(np.asarray, flax.traverse_util.flatten_dict(named, sep="/"))
