"""Strict `path=value` overrides of the fields of a frozen configuration."""

import dataclasses
import typing
from collections.abc import Iterable
from typing import Any, TypeVar

from sleep_jax.errors import UserError

T = TypeVar("T")


def override(config: T, assignments: Iterable[str]) -> T:
    """Applies `path=value` strings such as `model.d_model=128`.

    Raises:
      UserError: a string without `=`, an unknown path, or a value not of the field's type.
    """
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise UserError(f"--set {assignment!r} is not possible; allowed: path=value")
        config = _replace(config, path.split("."), text, assignment)
    return config


def _replace(config: T, path: list[str], text: str, assignment: str) -> T:
    types = typing.get_type_hints(type(config))
    name, *rest = path
    fields = sorted(field.name for field in dataclasses.fields(config))  # type: ignore[arg-type]
    if name not in fields:
        raise UserError(
            f"--set {assignment!r}: no field {name!r} here; allowed: {', '.join(fields)}"
        )
    value = getattr(config, name)
    if dataclasses.is_dataclass(value) != bool(rest):
        inner = dataclasses.is_dataclass(value)
        allowed = f"{name}.<field>=value" if inner else f"{name}=value"
        raise UserError(f"--set {assignment!r} is not possible; allowed: {allowed}")
    new = _replace(value, rest, text, assignment) if rest else _parse(types[name], text, assignment)
    return dataclasses.replace(config, **{name: new})  # type: ignore[type-var]


def _parse(kind: Any, text: str, assignment: str) -> Any:
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        if typing.get_origin(kind) is tuple:
            item = typing.get_args(kind)[0]
            return tuple(item(part) for part in text.split(",") if part)
        if kind is int and not text.lstrip("-").isdigit():
            number = float(text)  # 5e9 reads better than 5000000000
            if number != int(number):
                raise ValueError
            return int(number)
        return kind(text)
    except (ValueError, KeyError, OverflowError):
        name = kind.__name__ if isinstance(kind, type) else str(kind)
        raise UserError(
            f"--set {assignment!r} is not possible; allowed: a value of {name}"
        ) from None
