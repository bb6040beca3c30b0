"""Names and times as people give them, and as a gallery keeps them.

In: numbers, texts, dates, one for all images or one for each. Out: text or None, seconds or None. Knows nothing of
images or stores.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from itertools import repeat
from typing import Any, TypeAlias, TypeVar

import numpy as np

from modelscope_reid.config import UNKNOWN_CAMERA
from modelscope_reid.errors import InputError

Name: TypeAlias = str | int | None
"""A person or a camera: text, or a number, of which -1 says that it is not known, as None does."""
Time: TypeAlias = datetime | str | float | None
"""A moment: seconds since 1970, a date, or one as ISO 8601 text; UTC where it does not say."""

T = TypeVar("T")
_END = object()


def name_of(value: Any) -> str | None:
    """Return a name as text.

    Raises:
        InputError: neither text nor a whole number.
    """
    if value is None or isinstance(value, str):
        return value or None
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return None if value == UNKNOWN_CAMERA else str(int(value))
    raise InputError(f"{value!r} names no person or camera; give text or a whole number, None where it is not known.")


def seconds_of(value: Any) -> float | None:
    """Return a moment as seconds since 1970.

    Raises:
        InputError: text that is no date, or another type.
    """
    if value is None or value == "":
        return None
    if isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            pass
        try:
            value = datetime.fromisoformat(value.replace("Z", "+00:00"))
        except ValueError as error:
            raise InputError(f"{value!r} is no time; write seconds since 1970, or 2026-01-31T12:00:00.") from error
    if not isinstance(value, datetime):
        raise InputError(f"{value!r} is no time; give a datetime, or seconds since 1970.")
    return (value if value.tzinfo else value.replace(tzinfo=timezone.utc)).timestamp()


def each(values: Any) -> Iterator[Any]:
    """Return the items of several, or one value for ever."""
    several = isinstance(values, Iterable) and not isinstance(values, str)
    return iter(values) if several else repeat(values)


def strictly(items: Iterable[T], **columns: Any) -> Iterator[tuple[T, dict[str, Any]]]:
    """Yield each item with its value of every column.

    Raises:
        InputError: a column of another length (it is named).
    """
    iterators = {name: each(values) for name, values in columns.items()}
    endless = {name for name, iterator in iterators.items() if isinstance(iterator, repeat)}
    for item in items:
        row = {}
        for name, iterator in iterators.items():
            try:
                row[name] = next(iterator)
            except StopIteration:
                raise InputError(f"{name} has fewer values than there are images; expected one for each.") from None
        yield item, row
    for name in iterators.keys() - endless:
        if next(iterators[name], _END) is not _END:
            raise InputError(f"{name} has more values than there are images; expected one for each.")
