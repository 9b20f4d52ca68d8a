"""Solves a GSM-Infinite problem from its text alone; shares no code with the generator.

Grammar (tasks.md, section 3): a statement is `The <quantity> equals <expression>.` or, for the
unknown of a reverse problem, one that says that a quantity is greater than 0. A quantity is
`number of <item> in <place>`, `average number of <sub> per <item> in <place>` or
`total number of <noun> in <place>`. Totals are not written out: they follow from the statements
about their place.
"""

import dataclasses
import re

_DEFINITION = re.compile(r"The (.+?) equals (.+)")
_HIDDEN = re.compile(r"The (.+?)(?: is| exists,) .*greater than 0")
_AVERAGE = re.compile(r"average number of .+? per (.+) in (.+?)")
_COUNT = re.compile(r"number of (.+) in (.+?)")
_TOTAL = re.compile(r"total number of (.+) in (.+?)")
_SCALED = re.compile(r"(\d+) (plus|times) (.+)")


@dataclasses.dataclass(frozen=True)
class Expression:
    """`[constant scale] (sum or difference of) operands`; a bare constant has no operands."""

    constant: int | None
    scale: str | None  # "plus", "times" or None.
    minus: bool
    operands: tuple[str, ...]


def parse_expression(text: str) -> Expression:
    if text.isdigit():
        return Expression(int(text), None, False, ())
    constant, scale = None, None
    if scaled := _SCALED.fullmatch(text):
        constant, scale, text = int(scaled[1]), scaled[2], scaled[3]
    assert text.startswith("the "), text
    text = text.removeprefix("the ")
    minus = text.startswith("difference between the ")
    text = text.removeprefix("difference between the ").removeprefix("sum of the ")
    return Expression(constant, scale, minus, tuple(re.split(r", and the |, the | and the ", text)))


class Problem:
    """The statements of one problem, and the values that follow from them.

    `nouns` maps the noun of a total to "count" (the sum of the counts of its place) or "product"
    (the sum of average times count).
    """

    def __init__(self, statements: str, nouns: dict[str, str]):
        self.nouns = nouns
        self._parts: dict[str, list[tuple[str, ...]]] = {}
        self.definitions: dict[str, Expression] = {}
        self.given: dict[str, int] = {}  # Of a reverse problem: a derived value that is told.
        self.hidden: str | None = None
        self.statements = [s for s in re.split(r"\.(?:\s+|$)", statements.strip()) if s]
        for statement in self.statements:
            if hidden := _HIDDEN.fullmatch(statement):
                assert self.hidden in (None, hidden[1]), "two unknowns"
                self.hidden = hidden[1]
                continue
            match = _DEFINITION.fullmatch(statement)
            assert match, statement
            self._define(match[1], parse_expression(match[2]))

    def _define(self, name: str, expression: Expression) -> None:
        if _TOTAL.fullmatch(name):
            assert not expression.operands and expression.constant is not None
            assert name not in self.given, f"{name} is told twice"
            self.given[name] = expression.constant
        elif name not in self.definitions:
            self.definitions[name] = expression
        else:  # One derived quantity is both defined and told.
            one, other = self.definitions[name], expression
            if not one.operands:
                one, other = other, one
            assert one.operands and not other.operands and other.constant is not None, name
            assert name not in self.given
            self.definitions[name], self.given[name] = one, other.constant

    def parts(self, total: str) -> list[tuple[str, ...]]:
        """The terms of a total: tuples whose products are added."""
        if total not in self._parts:
            self._parts[total] = self._find_parts(total)
        return self._parts[total]

    def _find_parts(self, total: str) -> list[tuple[str, ...]]:
        match = _TOTAL.fullmatch(total)
        assert match, f"{total} is not defined"
        kind, place = self.nouns[match[1]], match[2]
        here = [n for n in (*self.definitions, self.hidden) if n and n.endswith(f" in {place}")]
        averages = {m[1]: n for n in here if (m := _AVERAGE.fullmatch(n))}
        counts = {
            m[1]: n for n in here if n not in averages.values() and (m := _COUNT.fullmatch(n))
        }
        assert counts, f"nothing is counted in {place}"
        if kind == "count":
            return [(name,) for name in counts.values()]
        return [(averages[item], name) for item, name in counts.items()]

    def value(self, name: str, unknown: int | None = None) -> int:
        """The value of a quantity when the hidden one is `unknown`. Cycles raise."""
        return self._value(name, unknown, {}, ())

    def _value(self, name: str, unknown: int | None, known: dict[str, int], path: tuple) -> int:
        assert name not in path, f"cycle through {name}"
        if name in known:
            return known[name]
        path = (*path, name)
        expression = self.definitions.get(name)
        if name == self.hidden:
            assert unknown is not None, f"{name} is unknown"
            result = unknown
        elif expression is None:
            result = 0
            for term in self.parts(name):
                product = 1
                for factor in term:
                    product *= self._value(factor, unknown, known, path)
                result += product
        elif not expression.operands:
            assert expression.constant is not None
            result = expression.constant
        else:
            values = [self._value(x, unknown, known, path) for x in expression.operands]
            result = values[0] - values[1] if expression.minus else sum(values)
            if expression.scale == "plus":
                result += expression.constant or 0
            elif expression.scale == "times":
                result *= expression.constant or 0
        known[name] = result
        return result

    def path(self, name: str, seen: set[str] | None = None) -> set[str]:
        """The quantities that one has to know to find `name`, itself among them."""
        seen = set() if seen is None else seen
        if name in seen:
            return seen
        seen.add(name)
        for other in self.incoming(name):
            self.path(other, seen)
        return seen

    def incoming(self, name: str) -> list[str]:
        if name == self.hidden:
            return []
        if name in self.definitions:
            return list(self.definitions[name].operands)
        return [factor for term in self.parts(name) for factor in term]

    def operations(self, name: str) -> int:
        """Incoming edges of everything on the path; a constant is an edge, as is the unknown."""
        total = 0
        for quantity in self.path(name):
            expression = self.definitions.get(quantity)
            constant = quantity == self.hidden or (expression and expression.constant is not None)
            total += len(self.incoming(quantity)) + bool(constant)
        return total


def asked(question: str) -> str:
    """The quantity that a question asks for."""
    if many := re.fullmatch(r"How many (.+) does (.+) have\?", question):
        return f"number of {many[1]} in {many[2]}"
    match = re.fullmatch(r"What is the (.+)\?", question)
    assert match, question
    return match[1]


def solve(question: str, problem: Problem, largest: int = 30) -> tuple[int, int]:
    """The answer and the number of operations; asserts that there is exactly one answer."""
    name = asked(question)
    if problem.hidden is None:
        assert not problem.given
        return problem.value(name), problem.operations(name)
    assert name == problem.hidden, "a reverse problem asks for the unknown"
    if not problem.given and name in problem.definitions:  # One operation: the unknown is told.
        expression = problem.definitions[name]
        assert not expression.operands and expression.constant is not None
        return expression.constant, 1
    ((derived, told),) = problem.given.items()
    fitting = [x for x in range(1, largest) if problem.value(derived, x) == told]
    assert len(fitting) == 1, f"{name}: {fitting} all fit"
    return fitting[0], problem.operations(derived)
