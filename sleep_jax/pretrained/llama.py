"""A Llama-shaped GGUF model as our decoder: its configuration, and its weights as our parameters.

What GGUF calls "llama" is what our attention blocks compute: grouped-query attention with RoPE,
SwiGLU, RMSNorm, no biases, embeddings tied where there is no `output.weight`. Names and the order
of rows are those of llama.cpp; tests/test_pretrained.py holds logits against `transformers`.
"""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sleep_jax.config import RunConfig
from sleep_jax.errors import UserError
from sleep_jax.model.config import AttentionConfig, ModelConfig
from sleep_jax.model.decoder import block_name
from sleep_jax.pretrained import gguf_file
from sleep_jax.pretrained.gguf_file import GgufFile

FIELD = "train.pretrained"


def model_config(file: GgufFile) -> ModelConfig:
    """The file's model: attention blocks only.

    Raises:
      UserError: another architecture than Llama, or a Llama that our blocks do not compute.
    """
    architecture = file.value("general.architecture", str)
    if architecture != "llama":
        raise UserError(f"{file.origin} is a model of type {architecture}; allowed: llama")
    for key in file.metadata:
        if key.startswith(("llama.rope.scaling", "llama.expert")):
            raise UserError(f"{file.origin} has {key}; allowed: plain Llama, without it")

    def size(key: str) -> int:
        return file.value(f"llama.{key}", int)

    width, heads = size("embedding_length"), size("attention.head_count")
    head_dim = file.metadata.get("llama.attention.key_length", width // heads)
    rotated = file.metadata.get("llama.rope.dimension_count", head_dim)
    if rotated != head_dim:
        raise UserError(f"{file.origin} rotates {rotated} of {head_dim} features; allowed: all")
    return ModelConfig(
        pattern=("attention",) * size("block_count"),
        d_model=width,
        mlp_hidden=size("feed_forward_length"),
        vocab_size=len(file.value("tokenizer.ggml.tokens", list)),
        # A float32 of 1e-5 is meant to be 1e-5.
        norm_eps=_short(file.value("llama.attention.layer_norm_rms_epsilon", float)),
        tied_embeddings="output.weight" not in file.tensors,
        attention=AttentionConfig(
            heads=heads,
            kv_heads=size("attention.head_count_kv"),
            head_dim=head_dim,
            rope_theta=_short(file.metadata.get("llama.rope.freq_base", 10_000.0)),
        ),
    )


def _short(value: float) -> float:
    return float(str(np.float32(value)))


def with_fast_weights(base: ModelConfig, model: ModelConfig) -> ModelConfig:
    """`base` with the inserted fast-weight blocks and the activations' dtype of `model`."""
    return dataclasses.replace(
        base,
        pattern=model.pattern,
        inserted=model.inserted,
        looped=model.looped,
        activation_dtype=model.activation_dtype,
        gated_delta_net=model.gated_delta_net,
    )


def check(config: RunConfig) -> None:
    """Checks the model of a run against the file that it starts from, if there is one.

    Raises:
      UserError: the file cannot be used, or a field of the model is not what it holds.
    """
    name, model = config.train.pretrained, config.model
    if not name:
        return
    file = gguf_file.read(name, FIELD)
    base = model_config(file)
    check_tensors(file, base)
    blocks, held = model.pattern.count("attention"), len(base.pattern)
    if blocks != held:
        raise UserError(
            f"model.pattern has {blocks} attention blocks; allowed: {held}, with {FIELD}={name!r}"
        )
    expected = with_fast_weights(base, model)
    for part in ("", "attention."):
        ours, theirs = (getattr(c, part[:-1]) if part else c for c in (model, expected))
        for field in dataclasses.fields(ours):
            value, right = getattr(ours, field.name), getattr(theirs, field.name)
            if value != right and not dataclasses.is_dataclass(value):
                raise UserError(
                    f"model.{part}{field.name}={value!r} is not possible; allowed: {right!r}, with "
                    f"{FIELD}={name!r}"
                )


def tensors(model: ModelConfig) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name and shape in the file, matrices `[out, in]`, of each of our parameters, by its path.

    Paths are as in `block_00_attention/mixer/in/query`; inserted blocks have none.
    """
    d, c = model.d_model, model.attention
    query, key = c.heads * c.head_dim, c.kv_heads * c.head_dim
    of_block = {
        "mixer_norm/scale": ("attn_norm", (d,)),
        "mixer/in/query": ("attn_q", (query, d)),
        "mixer/in/key": ("attn_k", (key, d)),
        "mixer/in/value": ("attn_v", (key, d)),
        "mixer/out/output": ("attn_output", (d, query)),
        "mlp_norm/scale": ("ffn_norm", (d,)),
        "mlp/in/gate": ("ffn_gate", (model.mlp_hidden, d)),
        "mlp/in/up": ("ffn_up", (model.mlp_hidden, d)),
        "mlp/out/down": ("ffn_down", (d, model.mlp_hidden)),
    }
    found = {
        "embedding": ("token_embd.weight", (model.vocab_size, d)),
        "final_norm/scale": ("output_norm.weight", (d,)),
    }
    if not model.tied_embeddings:
        found["unembedding"] = ("output.weight", (model.vocab_size, d))
    ours = [block_name(i, mixer) for i, mixer in enumerate(model.pattern) if mixer == "attention"]
    for i, block in enumerate(ours):
        for path, (name, shape) in of_block.items():
            found[f"{block}/{path}"] = (f"blk.{i}.{name}.weight", shape)
    return found


def check_tensors(file: GgufFile, model: ModelConfig) -> None:
    """Raises UserError unless the file has the tensors of the model, and no others."""
    needed = {name for name, _ in tensors(model).values()}
    for name in sorted(needed ^ file.tensors.keys()):
        has = "has no" if name in needed else "has a"
        raise UserError(f"{file.origin} {has} tensor {name}; allowed: a whole, plain Llama")


def parameters(name: str, model: ModelConfig) -> dict[str, NDArray[np.float32]]:
    """The file's weights by the paths of our parameters; matrices are `[in, out]`.

    Raises:
      UserError: the file cannot be used, or its weights do not fit the model.
    """
    file, found = gguf_file.read(name, FIELD), {}
    check_tensors(file, model)
    for path, (theirs, shape) in tensors(model).items():
        array = file.tensor(theirs, shape)
        if theirs.endswith(("attn_q.weight", "attn_k.weight")):
            array = halves_first(array, model.attention.head_dim)
        found[path] = array if path == "embedding" else array.T
    return found


def halves_first(matrix: NDArray[Any], head_dim: int) -> NDArray[Any]:
    """Rows `[H * Dh, in]` of queries or keys in the order that `layers.rotate` turns.

    llama.cpp turns neighbours (0, 1), (2, 3), ..., so its files hold the two halves of a head,
    which Llama's own weights have one after the other, interleaved.
    """
    pairs = matrix.reshape(-1, head_dim // 2, 2, matrix.shape[1])
    return pairs.swapaxes(1, 2).reshape(matrix.shape)
