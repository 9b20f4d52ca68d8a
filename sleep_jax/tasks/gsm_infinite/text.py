"""Statements and questions as text, in pieces that a tokenizer may encode one by one.

Every piece starts with a space or is a punctuation mark, so it begins a word of its own: joined
pieces are the text, and joined ids of the pieces are the ids of the text.
"""

from collections.abc import Iterator

from sleep_jax.tasks.gsm_infinite import graph
from sleep_jax.tasks.gsm_infinite.graph import Quantity
from sleep_jax.tasks.gsm_infinite.problem import Statement
from sleep_jax.tasks.gsm_infinite.themes import THEMES, Theme

# Stands in every reverse problem and in no forward one.
UNKNOWN = " unknown"
_IS_UNKNOWN = (" is", UNKNOWN, " but", " greater", " than", " 0")
ANSWER_PROMPT = "Answer: "


def quantity(theme: Theme, q: Quantity) -> str:
    """The name of a quantity, e.g. ` number of river barge in Winter Cove`."""
    place = theme.places[q.place]
    if q.kind == graph.TOTAL:
        return f" total number of {theme.total} in {place}"
    if q.kind == graph.PRODUCT:
        return f" total number of {theme.product} in {place}"
    item = theme.items[q.item]
    if q.kind == graph.AVERAGE:
        return f" average number of {theme.per_item} per {item} in {place}"
    return f" number of {item} in {place}"


def statement(theme: Theme, s: Statement) -> list[str]:
    """The pieces of a sentence, e.g. ` The`, ..., ` equals`, ` 3`, `.`."""
    pieces = [" The", quantity(theme, s.quantity)]
    if s.constant is None and not s.operands:
        return [*pieces, *_IS_UNKNOWN, "."]
    pieces.append(" equals")
    if s.constant is not None:
        pieces.append(f" {s.constant}")
        if s.operands:
            pieces.append(" times" if s.times else " plus")
    if len(s.operands) > 1:
        pieces.append(" the difference between" if s.minus else " the sum of")
    last = len(s.operands) - 1
    for i, operand in enumerate(s.operands):
        if i and last > 1:
            pieces.append(",")
        if i and i == last:
            pieces.append(" and")
        pieces += (" the", quantity(theme, operand))
    pieces.append(".")
    return pieces


def question(theme: Theme, q: Quantity) -> list[str]:
    """The pieces of the question; the first starts a text, without a space."""
    if q.kind == graph.COUNT:
        item, place = theme.items[q.item], theme.places[q.place]
        return ["How", f" many {item} does {place} have", "?"]
    return ["What", " is the", quantity(theme, q), "?"]


def all_pieces() -> Iterator[str]:
    """Pieces that hold every word and sign that a problem can be written with."""
    yield from "How What ? . , 0 1 2 3 4 5 6 7 8 9".split()
    yield ANSWER_PROMPT
    yield from _IS_UNKNOWN
    yield from (
        " The",
        " the",
        " is the",
        " equals",
        " plus",
        " times",
        " the difference between",
        " the sum of",
        " and",
        " many does have",
        " average total number of per in",
    )
    for theme in THEMES:
        for name in (theme.total, theme.per_item, theme.product, *theme.places, *theme.items):
            yield f" {name}"
