"""Dataclasses whose fields are checked when they are made, and built from plain values.

In: a dataclass instance, or a mapping of plain values as JSON and YAML have them. Out: nothing, or the dataclass; what
does not fit its annotation is one `ConfigError`. Knows nothing of what the fields mean, or of files.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from modelscope_reid.errors import ConfigError, InputError

FieldsT = TypeVar("FieldsT")

_EXPECTED: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    NoneType: "null",
}
_WORDS: dict[str, bool | None] = {"true": True, "false": False, "null": None}


def require(condition: bool, message: str) -> None:
    """Raise `ConfigError` with `message` where `condition` is false."""
    if not condition:
        raise ConfigError(message)


def require_share(name: str, value: float) -> None:
    """Raise `ConfigError` where `value` is no share: not within 0..1."""
    require(0.0 <= value <= 1.0, f"{name} is {value}; expected 0 to 1.")


_hints: Callable[[Any], dict[str, Any]] = functools.cache(get_type_hints)
"""Return the annotated types of a class; reading them takes longer than checking values."""


def check_fields(config: object) -> None:
    """Raise `ConfigError` where a field is not of its annotated type: a choice, a number, text, several of them."""
    for name, hint in _hints(type(config)).items():
        if hasattr(config, name):
            value = getattr(config, name)
            require(_fits(value, hint), f"{name} is {value!r}; expected {_expected(hint)}.")


def check_input(instance: object, *, lowest: Mapping[str, float]) -> None:
    """Raise `InputError` where a field is of a wrong type, or a number below its `lowest`."""
    try:
        check_fields(instance)
    except ConfigError as error:
        raise InputError(f"{type(instance).__name__}.{error}") from error
    for name, low in lowest.items():
        if getattr(instance, name) < low:
            raise InputError(
                f"{type(instance).__name__}.{name} is {getattr(instance, name)}; expected {low:g} or more."
            )


def nearest(name: str, known: Sequence[str]) -> str:
    """Return ``; did you mean 'x'?`` for the known name nearest to `name`, or an empty string."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def dataclass_from_dict(kind: type[FieldsT], values: Mapping[str, Any], *, where: str) -> FieldsT:
    """Build the dataclass `kind` from plain values: lists become tuples, nested dicts nested dataclasses.

    Raises:
        ConfigError: an unknown key (names the nearest known one) or a value of a wrong type.
    """
    hints = _hints(kind)
    known = [item.name for item in dataclasses.fields(kind)]  # type: ignore[arg-type]
    arguments: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise ConfigError(f"{where} has an unknown field {name!r}{nearest(str(name), known) or '.'}")
        arguments[name] = _from_plain(value, hints[name], where=f"{where}.{name}")
    missing = [
        item.name
        for item in dataclasses.fields(kind)  # type: ignore[arg-type]
        if item.name not in arguments
        and item.default is dataclasses.MISSING
        and item.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{where} lacks {', '.join(missing)}; a value is needed.")
    try:
        return kind(**arguments)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def parse_value(text: str, hint: Any) -> Any:
    """Return what `text`, as a command line has it, means for a field annotated `hint`; several values have commas.

    Raises:
        ConfigError: it is none of what the field may be.
    """
    kinds = members(hint)
    if text in _WORDS and type(_WORDS[text]) in kinds:
        return _WORDS[text]
    value: Any = text
    if str not in kinds and not any(get_origin(kind) is Literal for kind in kinds):
        try:
            value = _as_tuples(ast.literal_eval(text))
        except (ValueError, SyntaxError, TypeError):  # TypeError: {[]: 1}
            value = text
        if not _fits(value, hint) and _fits((value,), hint):  # one of several
            value = (value,)
    require(_fits(value, hint), f"{text!r} was given; expected {_expected(hint)}.")
    return value


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, (list, tuple)) else value


def members(hint: Any) -> tuple[Any, ...]:
    """Return what a union is made of, or the hint itself."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _from_plain(value: Any, hint: Any, *, where: str) -> Any:
    if isinstance(value, Mapping):
        for member in members(hint):
            if dataclasses.is_dataclass(member):
                return dataclass_from_dict(member, value, where=where)  # type: ignore[arg-type]
    if isinstance(value, list):
        hints = _item_hints(hint, len(value))
        pairs = enumerate(zip(value, hints, strict=True))
        return tuple(_from_plain(item, inner, where=f"{where}[{number}]") for number, (item, inner) in pairs)
    if isinstance(value, str) and float in members(hint):  # YAML 1.1 reads 1e-4 as text
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _item_hints(hint: Any, count: int) -> tuple[Any, ...]:
    """Return what each of `count` values is to be; `object` where the hint is no tuple, or one of another length."""
    for member in members(hint):
        arguments = get_args(member) if get_origin(member) is tuple else ()
        if arguments[1:] == (Ellipsis,):
            return arguments[:1] * count
        if arguments and len(arguments) == count:
            return arguments
    return (object,) * count


def _fits(value: object, hint: Any) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return value in arguments
    if origin in (Union, UnionType):
        return any(_fits(value, member) for member in arguments)
    if hint is int or hint is float:
        return not isinstance(value, bool) and (isinstance(value, int) or (hint is float and _is_finite(value)))
    if hint in _EXPECTED:
        return isinstance(value, hint)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return all(_fits(item, arguments[0]) for item in value)
        return len(value) == len(arguments) and all(map(_fits, value, arguments))
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return isinstance(value, hint)
    return True


def _is_finite(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def _expected(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return f"one of {', '.join(map(repr, arguments))}"
    if origin in (Union, UnionType):
        return " or ".join(_expected(member) for member in arguments)
    if origin is tuple:
        count = "values" if arguments[1:] == (Ellipsis,) else f"{len(arguments)} values"
        return f"{count}, each {_expected(arguments[0])}"
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return f"a {hint.__qualname__}"
    return _EXPECTED.get(hint, str(hint))
