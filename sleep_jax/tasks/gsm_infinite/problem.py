"""A word problem without words: statements, a question and its answer, from an rng alone."""

import dataclasses
import random
from typing import NamedTuple

from sleep_jax.tasks.gsm_infinite import graph
from sleep_jax.tasks.gsm_infinite.graph import Edges, Quantity, Structure

LARGEST_VALUE = 1000
# The kind of quantity that a solution leads to, drawn uniformly where several are possible.
_ASKED = (graph.COUNT, graph.TOTAL, graph.TOTAL, graph.TOTAL)
_ASKED_HARD = (graph.COUNT, graph.AVERAGE, graph.TOTAL, graph.TOTAL, graph.TOTAL, graph.PRODUCT)


class Statement(NamedTuple):
    """`quantity = [constant plus or times] sum or difference of operands`.

    Without operands it is `quantity = constant`. Without a constant either, all it says is that
    the quantity, the unknown of a reverse problem, is greater than 0.
    """

    quantity: Quantity
    operands: tuple[Quantity, ...] = ()
    constant: int | None = None
    times: bool = False
    minus: bool = False


@dataclasses.dataclass(frozen=True)
class Problem:
    """A problem before filler is added.

    Attributes:
        asked: the quantity in question.
        answer: its value, 1..1000; for a reverse problem a drawn constant.
        operations: edges of the dependency graph on the solution path.
        reverse: the asked quantity is unknown, and a quantity that follows from it is told.
        hard: there are averages besides counts.
        statements: those of the solution path first, then unnecessary facts.
        quantities: every quantity that has a value, totals included.
    """

    asked: Quantity
    answer: int
    operations: int
    reverse: bool
    hard: bool
    statements: tuple[Statement, ...]
    quantities: tuple[Quantity, ...]


def draw_problem(
    rng: random.Random,
    *,
    hard: bool,
    reverse: bool,
    operations: int,
    number_range: int,
    places: int,
    items: int,
) -> Problem:
    """Draws structures and dependencies until one has so many operations and good values.

    Args:
        rng: the only source of chance.
        hard: add averages, and totals that multiply.
        reverse: hide a constant, tell what it leads to, ask for the constant.
        operations: edges on the solution path, at least 1.
        number_range: constants are in 1..number_range-1, at least 3.
        places: number of places to choose from, at least 5.
        items: number of items to choose from, at least 5.
    """
    while True:
        structure = graph.draw_structure(rng, hard, places, items)
        goal = _draw_goal(rng, structure, operations)
        path = graph.draw_path(rng, structure, goal, operations)
        if path is None:
            continue
        problem = _state(rng, structure, path, goal, reverse, number_range)
        if problem is not None:
            return problem


def _draw_goal(rng: random.Random, structure: Structure, operations: int) -> Quantity:
    """Draws what the solution leads to; one operation can only be a constant."""
    kind = rng.choice(_ASKED_HARD if structure.hard else _ASKED)
    if operations == 1 and kind in (graph.TOTAL, graph.PRODUCT):
        kind = graph.AVERAGE if structure.hard else graph.COUNT
    return rng.choice([q for q in structure.instances + structure.totals if q.kind == kind])


def _state(
    rng: random.Random,
    structure: Structure,
    path: dict[Quantity, Edges],
    goal: Quantity,
    reverse: bool,
    number_range: int,
) -> Problem | None:
    """Gives every quantity a statement and a value; None where a value is not allowed."""
    hidden = None
    if reverse:
        hidden = rng.choice([quantity for quantity, edges in path.items() if not edges.sources])
    statements: list[Statement] = []
    values: dict[Quantity, int] = {}
    # d value / d hidden: a reverse problem has one solution because its equation is linear.
    slopes: dict[Quantity, int] = {}
    for quantity, edges in reversed(path.items()):
        if quantity.is_abstract:
            values[quantity] = _total(quantity, edges.sources, values)
            slope = _total_slope(quantity, edges.sources, values, slopes)
            if slope is None:
                return None
            slopes[quantity] = slope
        else:
            statement = _draw_statement(rng, quantity, edges, number_range)
            values[quantity] = _evaluate(statement, values)
            slopes[quantity] = 1 if quantity == hidden else _slope(statement, slopes)
            statements.append(Statement(quantity) if quantity == hidden else statement)
        if not 0 < values[quantity] <= LARGEST_VALUE:
            return None
    if hidden is not None:
        if slopes[goal] == 0:
            return None
        statements.append(Statement(goal, constant=values[goal]))
    _add_unnecessary(rng, structure, statements, values, number_range)
    asked = goal if hidden is None else hidden
    return Problem(
        asked=asked,
        answer=values[asked],
        operations=sum(edges.count for edges in path.values()),
        reverse=reverse,
        hard=structure.hard,
        statements=tuple(statements),
        quantities=(*structure.instances, *structure.totals),
    )


def _draw_statement(
    rng: random.Random, quantity: Quantity, edges: Edges, number_range: int
) -> Statement:
    minus = len(edges.sources) == 2 and rng.random() < 0.5
    if not edges.constant:
        return Statement(quantity, edges.sources, minus=minus)
    times = bool(edges.sources) and rng.random() < 0.5
    constant = rng.randrange(2 if times else 1, number_range)
    return Statement(quantity, edges.sources, constant, times, minus)


def _evaluate(statement: Statement, values: dict[Quantity, int]) -> int:
    constant = statement.constant or 0
    if not statement.operands:
        return constant
    result = _combine(statement, values)
    if statement.times:
        return constant * result
    return constant + result


def _slope(statement: Statement, slopes: dict[Quantity, int]) -> int:
    if not statement.operands:
        return 0
    result = _combine(statement, slopes)
    return (statement.constant or 0) * result if statement.times else result


def _combine(statement: Statement, numbers: dict[Quantity, int]) -> int:
    terms = [numbers[operand] for operand in statement.operands]
    return terms[0] - terms[1] if statement.minus else sum(terms)


def _total(total: Quantity, parts: tuple[Quantity, ...], values: dict[Quantity, int]) -> int:
    numbers = [values[part] for part in parts]
    if total.kind == graph.TOTAL:
        return sum(numbers)
    return sum(a * c for a, c in zip(numbers[::2], numbers[1::2], strict=True))


def _total_slope(
    total: Quantity,
    parts: tuple[Quantity, ...],
    values: dict[Quantity, int],
    slopes: dict[Quantity, int],
) -> int | None:
    """The slope of a total; None where it is not linear in the hidden number."""
    if total.kind == graph.TOTAL:
        return sum(slopes[part] for part in parts)
    slope = 0
    for average, count in zip(parts[::2], parts[1::2], strict=True):
        if slopes[average] and slopes[count]:
            return None
        slope += slopes[average] * values[count] + values[average] * slopes[count]
    return slope


def _add_unnecessary(
    rng: random.Random,
    structure: Structure,
    statements: list[Statement],
    values: dict[Quantity, int],
    number_range: int,
) -> None:
    """States every instance that is not on the path, in terms of what already has a value."""
    for total in structure.totals:
        parts = structure.parts(total)
        if total not in values and all(part in values for part in parts):
            values[total] = _total(total, parts, values)
    rest = [quantity for quantity in structure.instances if quantity not in values]
    rng.shuffle(rest)
    for quantity in rest:
        value = 0
        while not 0 < value <= LARGEST_VALUE:
            edges = graph.draw_edges(rng, list(values))
            statement = _draw_statement(rng, quantity, edges, number_range)
            value = _evaluate(statement, values)
        statements.append(statement)
        values[quantity] = value
