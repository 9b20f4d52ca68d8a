"""The quantities of a word problem, and which of them each one depends on.

The structure is that of GSM-Infinite (arXiv 2502.05252), which descends from iGSM (arXiv
2407.20311): two layers of nodes, places and items, joined by edges. An edge makes an *instance*,
the number of an item in a place; hard problems add to each the average number of something per
item. An *abstract* quantity is the total over a place: never stated, it follows from the
instances. A dependency graph over these is drawn backwards from the quantity that is asked for.
"""

import random
from typing import NamedTuple

COUNT = "count"  # Instance: number of an item in a place.
AVERAGE = "average"  # Instance, hard only: average number of something per item in a place.
TOTAL = "total"  # Abstract: sum of the counts of a place.
PRODUCT = "product"  # Abstract, hard only: sum of average times count of a place.

_LAYER = (2, 5)  # Fewest and most places, and items, of a problem.
_MOST_EDGES = 4  # Of an instance.
# Percent of instances that depend on 0 (a constant), 1, 2, 3, 4 quantities, and how often a drawn
# constant joins them: the shares in the original's samples.
_SOURCES = (38, 40, 12, 6, 4)
_CONSTANT_PROBABILITY = 0.4


class Quantity(NamedTuple):
    """A named number: kind is COUNT, AVERAGE, TOTAL or PRODUCT; totals have item -1."""

    kind: str
    place: int
    item: int = -1

    @property
    def is_abstract(self) -> bool:
        return self.item < 0


class Edges(NamedTuple):
    """What a quantity depends on: other quantities and, at most once, a drawn constant."""

    constant: bool
    sources: tuple[Quantity, ...]

    @property
    def count(self) -> int:
        """Operations that the quantity costs: a drawn constant counts as one edge."""
        return len(self.sources) + self.constant


class Structure:
    """Which items each place has: `items_of[place]`; `instances` and `totals` list quantities."""

    def __init__(self, items_of: dict[int, list[int]], hard: bool):
        self.items_of = items_of
        self.hard = hard
        kinds = (COUNT, AVERAGE) if hard else (COUNT,)
        self.instances = [
            Quantity(kind, place, item)
            for place, items in items_of.items()
            for item in items
            for kind in kinds
        ]
        kinds = (TOTAL, PRODUCT) if hard else (TOTAL,)
        self.totals = [Quantity(kind, place) for place in items_of for kind in kinds]

    def parts(self, total: Quantity) -> tuple[Quantity, ...]:
        """The instances that a total is made of; a PRODUCT's are average, count, average, ..."""
        kinds = (COUNT,) if total.kind == TOTAL else (AVERAGE, COUNT)
        return tuple(
            Quantity(kind, total.place, item)
            for item in self.items_of[total.place]
            for kind in kinds
        )


def draw_structure(rng: random.Random, hard: bool, places: int, items: int) -> Structure:
    """Draws 2..5 of `places` places, 2..5 of `items` items, and edges that leave none bare."""
    chosen_places = rng.sample(range(places), rng.randint(*_LAYER))
    chosen_items = rng.sample(range(items), rng.randint(*_LAYER))
    longest = max(len(chosen_places), len(chosen_items))
    edges = [
        (chosen_places[i % len(chosen_places)], chosen_items[i % len(chosen_items)])
        for i in range(longest)
    ]
    others = [(p, i) for p in chosen_places for i in chosen_items if (p, i) not in edges]
    edges += rng.sample(others, rng.randint(0, len(others)))
    return Structure({p: [i for q, i in edges if q == p] for p in chosen_places}, hard)


def draw_edges(rng: random.Random, candidates: list[Quantity]) -> Edges:
    """Draws what an instance depends on, among the candidates and a constant."""
    (wanted,) = rng.choices(range(len(_SOURCES)), _SOURCES)
    sources = rng.sample(candidates, min(wanted, len(candidates)))
    room = len(sources) < _MOST_EDGES
    constant = not sources or (room and rng.random() < _CONSTANT_PROBABILITY)
    return Edges(constant, tuple(sources))


def draw_path(
    rng: random.Random, structure: Structure, asked: Quantity, operations: int
) -> dict[Quantity, Edges] | None:
    """Draws the quantities needed for `asked`, with exactly `operations` edges in all.

    Quantities are taken one at a time, `asked` first, and depend only on quantities that are not
    yet taken: the order of the result is a topological order, backwards.

    Returns:
        The edges of each quantity on the solution path; None where the draw did not come out at
        the number of operations.
    """
    path: dict[Quantity, Edges] = {}
    waiting = [asked]
    left = operations
    while waiting:
        # A total must be taken before its parts, or they could come to depend on it.
        covered = {part for q in waiting if q.is_abstract for part in structure.parts(q)}
        quantity = rng.choice([q for q in waiting if q not in covered])
        waiting.remove(quantity)
        # Edges to spend beyond the one that this and every waiting quantity needs.
        slack = left - 1 - len(waiting)
        if quantity.is_abstract:
            edges = Edges(False, structure.parts(quantity))
        else:
            edges = draw_edges(rng, _not_taken(structure, path, quantity))
            while edges.sources and _extra(edges, waiting) > slack:
                edges = Edges(edges.constant or len(edges.sources) == 1, edges.sources[:-1])
        if _extra(edges, waiting) > slack:
            return None
        path[quantity] = edges
        left -= edges.count
        waiting += [source for source in edges.sources if source not in waiting]
    return path if left == 0 else None


def _extra(edges: Edges, waiting: list[Quantity]) -> int:
    """Edges beyond the first, with one for each quantity that is new."""
    return edges.count - 1 + sum(source not in waiting for source in edges.sources)


def _not_taken(
    structure: Structure, path: dict[Quantity, Edges], quantity: Quantity
) -> list[Quantity]:
    """What an instance about to be taken may depend on: no total of a part already taken."""
    instances = [q for q in structure.instances if q not in path and q != quantity]
    totals = [
        total
        for total in structure.totals
        if total not in path
        and not any(part in path or part == quantity for part in structure.parts(total))
    ]
    return instances + totals
