"""Statements that cannot matter, up to an exact number of tokens.

Filler has places and items of its own. It depends on the problem's quantities, or on the total of
one place of filler; no quantity of the problem depends on filler, so that answers do not change.
Its values are not looked at and may be negative, as in the original: to put the larger operand
first would tell something about the problem.
"""

import itertools
import random
from collections.abc import Callable, Iterator

from sleep_jax.tasks.gsm_infinite import graph
from sleep_jax.tasks.gsm_infinite.graph import Quantity
from sleep_jax.tasks.gsm_infinite.problem import Problem, Statement
from sleep_jax.tasks.gsm_infinite.themes import Theme

_HUB_PROBABILITY = 0.1  # That a statement depends on the total of the first place of filler.
_PER_PLACE = 48  # Statements about a place before there is another one.
# Statements have some 18 to 50 tokens; any sum in this range is easily made up of two of them.
_LAST_TWO = (55, 76)
_LAST_TRIES = 128  # Statements drawn to find them.


def draw_filler(
    rng: random.Random,
    theme: Theme,
    problem: Problem,
    encode: Callable[[Statement], list[int]],
    tokens: int,
) -> list[list[int]]:
    """Draws filler of exactly `tokens` tokens; where fewer than 55 are asked for, not always.

    Args:
        rng: the only source of chance.
        theme: its filler places and items are used.
        problem: what the filler may depend on.
        encode: the token ids of a statement.
        tokens: how many to fill, at least 0.

    Returns:
        The ids of statements about distinct quantities.
    """
    drawn = map(encode, _statements(rng, theme, problem))
    chosen: list[list[int]] = []
    fewest, most = _LAST_TWO
    while tokens > most:
        ids = next(drawn)
        if tokens - len(ids) >= fewest:
            chosen.append(ids)
            tokens -= len(ids)
    by_length: dict[int, list[int]] = {}
    while True:
        for ids in itertools.islice(drawn, _LAST_TRIES):
            if len(ids) == tokens:
                return [*chosen, ids]
            if tokens - len(ids) in by_length:
                return [*chosen, ids, by_length[tokens - len(ids)]]
            by_length.setdefault(len(ids), ids)
        # No two fit: take the shortest, and seek others for what is left.
        shortest = min(by_length)
        if shortest > tokens:
            return chosen
        chosen.append(by_length.pop(shortest))
        tokens -= shortest


def _statements(rng: random.Random, theme: Theme, problem: Problem) -> Iterator[Statement]:
    """Draws statements about quantities without repeating one, place by place; finitely many."""
    first_place, first_item = len(theme.own_places), len(theme.own_items)
    places = list(range(first_place, len(theme.places)))
    rng.shuffle(places)
    kinds = (graph.COUNT, graph.AVERAGE) if problem.hard else (graph.COUNT,)
    hub = Quantity(graph.TOTAL, places[0])
    # The hub comes first, so that its total is of something wherever it is used.
    for place in places:
        subjects = [
            Quantity(kind, place, item)
            for item in range(first_item, len(theme.items))
            for kind in kinds
        ]
        for subject in rng.sample(subjects, _PER_PLACE):
            if place != hub.place and rng.random() < _HUB_PROBABILITY:
                yield Statement(subject, (hub,))
                continue
            operands = tuple(rng.sample(problem.quantities, rng.randint(1, 2)))
            minus = len(operands) == 2 and rng.random() < 0.5
            yield Statement(subject, operands, minus=minus)
