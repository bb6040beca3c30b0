"""Names and times in every form that people give them."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import numpy as np
import pytest

from modelscope_reid.errors import InputError
from modelscope_reid.gallery.labels import name_of, seconds_of, strictly


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (None, None),
        ("", None),
        (-1, None),
        (np.int64(-1), None),
        ("Ann", "Ann"),
        (7, "7"),
        (np.int32(7), "7"),
        (0, "0"),
    ],
)
def test_names(given: object, name: str | None) -> None:
    assert name_of(given) == name


@pytest.mark.parametrize("wrong", [1.5, True, b"Ann", ["Ann"]])
def test_what_names_nobody(wrong: object) -> None:
    with pytest.raises(InputError, match="names no person or camera"):
        name_of(wrong)


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (None, None),
        ("", None),
        (12.5, 12.5),
        (np.int64(12), 12.0),
        ("12.5", 12.5),
        ("1970-01-02", 86400.0),
        ("1970-01-02T00:00:01Z", 86401.0),
        ("1970-01-02T02:00:00+02:00", 86400.0),
        (datetime(1970, 1, 2), 86400.0),
        (datetime(1970, 1, 2, 1, tzinfo=timezone(timedelta(hours=1))), 86400.0),
    ],
)
def test_times(given: object, seconds: float | None) -> None:
    assert seconds_of(given) == seconds


@pytest.mark.parametrize("wrong", ["yesterday", True, b"12"])
def test_what_is_no_time(wrong: object) -> None:
    with pytest.raises(InputError, match="is no time"):
        seconds_of(wrong)


def test_one_value_for_all_or_one_for_each() -> None:
    rows = list(strictly("ab", person="Ann", camera=[1, None], time=iter([3, 4])))
    assert rows == [
        ("a", {"person": "Ann", "camera": 1, "time": 3}),
        ("b", {"person": "Ann", "camera": None, "time": 4}),
    ]


@pytest.mark.parametrize(("values", "said"), [([1], "fewer"), ([1, 2, 3], "more"), ([1, 2, None], "more")])
def test_another_number_of_values_is_named(values: list[int | None], said: str) -> None:
    with pytest.raises(InputError, match=f"camera_ids has {said} values than there are images"):
        list(strictly("ab", person_ids=None, camera_ids=values))
