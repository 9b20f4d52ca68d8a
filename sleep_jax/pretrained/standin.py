"""A tiny random Llama in the form of a GGUF file: what the tests and smoke presets load.

It is packed as SmolLM2's file is (4-bit matrices, an 8-bit embedding, tied), with a tokenizer of
the same kind that knows every word of GSM-Infinite as one token.
"""

import functools
import tempfile
from pathlib import Path

import numpy as np

from sleep_jax.tasks.gsm_infinite import text

BLOCKS, D_MODEL, MLP_HIDDEN = 2, 32, 64
HEADS, KV_HEADS, HEAD_DIM = 4, 2, 8
NORM_EPS, ROPE_THETA = 1e-5, 100_000.0
_CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def write(path: Path, *, tied: bool = True, architecture: str = "llama", seed: int = 0) -> None:
    """Writes the file, the same bytes for the same arguments.

    Args:
      tied: without an unembedding of its own.
      architecture: what the file says that it is.
    """
    import gguf

    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(BLOCKS)
    writer.add_embedding_length(D_MODEL)
    writer.add_feed_forward_length(MLP_HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(NORM_EPS)
    writer.add_rope_freq_base(ROPE_THETA)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_context_length(8192)

    tokens, merges = vocabulary()
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    kinds = [gguf.TokenType.NORMAL] * len(tokens)
    kinds[: len(_CONTROL)] = [gguf.TokenType.CONTROL] * len(_CONTROL)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)

    rng = np.random.default_rng(seed)
    types = gguf.GGMLQuantizationType

    def matrix(name: str, rows: int, columns: int, kind: gguf.GGMLQuantizationType) -> None:
        values = rng.normal(scale=columns**-0.5, size=(rows, columns)).astype(np.float32)
        packed = gguf.quants.quantize(values, kind)
        writer.add_tensor(f"{name}.weight", packed, raw_dtype=kind)

    def scale(name: str) -> None:
        values = rng.uniform(0.5, 1.5, D_MODEL).astype(np.float32)
        writer.add_tensor(f"{name}.weight", values)

    matrix("token_embd", len(tokens), D_MODEL, types.Q8_0)
    scale("output_norm")
    if not tied:
        matrix("output", len(tokens), D_MODEL, types.F16)
    for i in range(BLOCKS):
        scale(f"blk.{i}.attn_norm")
        scale(f"blk.{i}.ffn_norm")
        for name, rows, columns in (
            ("attn_q", HEADS * HEAD_DIM, D_MODEL),
            ("attn_k", KV_HEADS * HEAD_DIM, D_MODEL),
            ("attn_v", KV_HEADS * HEAD_DIM, D_MODEL),
            ("attn_output", D_MODEL, HEADS * HEAD_DIM),
            ("ffn_gate", MLP_HIDDEN, D_MODEL),
            ("ffn_up", MLP_HIDDEN, D_MODEL),
            ("ffn_down", D_MODEL, MLP_HIDDEN),
        ):
            matrix(f"blk.{i}.{name}", rows, columns, types.Q4_1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@functools.cache
def vocabulary() -> tuple[list[str], list[str]]:
    """Tokens, and merges that make each word letter by letter from its beginning."""
    from sleep_jax.pretrained.tokenizer import byte_of_letter

    space = "\u0120"  # as GPT-2 writes it
    words = {w for piece in text.all_pieces() for w in piece.replace(" ", f" {space}").split()}
    tokens = [*_CONTROL, *byte_of_letter()]
    known, merges = set(tokens), []
    # Words after a space come first, so that no letters inside them are merged before their space.
    for word in sorted(words, key=lambda word: (not word.startswith(space), word)):
        for end in range(2, len(word) + 1):
            if word[:end] not in known:
                known.add(word[:end])
                tokens.append(word[:end])
                merges.append(f"{word[: end - 1]} {word[end - 1]}")
    return tokens, merges


@functools.cache
def _directory() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="sleep_jax-standin-")


@functools.cache
def temporary() -> Path:
    """The file, in a directory that goes when this process ends."""
    path = Path(_directory().name) / "standin.gguf"
    write(path)
    return path
