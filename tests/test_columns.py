"""The columns in memory: filters by hand, growth, gaps, and what is erased."""

from __future__ import annotations

import numpy as np
import pytest

from modelscope_reid.gallery.columns import Columns, Rows
from modelscope_reid.gallery.entries import Filters


def rows(start: int, persons: str, cameras: str, times: list[float]) -> Rows:
    """Rows from an id on; a dash is a name that is not known, and vectors are (id, 1)."""
    ids = np.arange(start, start + len(persons), dtype=np.int64)
    return Rows(
        ids=ids,
        vectors=np.stack([ids, np.ones_like(ids)], axis=1).astype(np.float32),
        persons=tuple(None if name == "-" else name for name in persons),
        cameras=tuple(None if name == "-" else name for name in cameras),
        timestamps=np.array(times),
    )


@pytest.fixture
def columns() -> Columns:
    made = Columns(2)
    made.append(rows(1, "AAB-", "xyy-", [1.0, 2.0, 3.0, np.nan]))
    return made


@pytest.mark.parametrize(
    ("filters", "passing"),
    [
        (Filters(), [1, 2, 3, 4]),
        (Filters(exclude_cameras=("y",)), [1, 4]),
        (Filters(exclude_cameras=("x", "z")), [2, 3, 4]),
        (Filters(cameras=("x", "y", "z")), [1, 2, 3]),
        (Filters(cameras=("z",)), []),
        (Filters(persons=("A",)), [1, 2]),
        (Filters(persons=("A", "B")), [1, 2, 3]),
        (Filters(labelled=True), [1, 2, 3]),
        (Filters(since=2.0), [2, 3]),
        (Filters(until=2.0), [1]),
    ],
)
def test_passing(columns: Columns, filters: Filters, passing: list[int]) -> None:
    view = columns.view()
    assert view.ids[view.passing(filters)].tolist() == passing


def test_a_view_stays_as_it_was_while_rows_are_appended(columns: Columns) -> None:
    view = columns.view()
    for start in range(5, 5000, 100):
        columns.append(rows(start, "C" * 100, "y" * 100, [0.0] * 100))
    assert len(view) == 4 and view.ids.tolist() == [1, 2, 3, 4]
    grown = columns.view()
    assert len(grown) == 5004 and np.array_equal(grown.vectors[:, 0], grown.ids.astype(np.float32))
    assert grown.passing(Filters(persons=("C",))).sum() == 5000


def test_reserved_rows_are_gone_until_they_are_filled() -> None:
    columns = Columns(2, room=3)
    columns.reserve(np.array([1, 2, 3]))
    columns.put(np.array([0, 2]), rows(1, "AC", "xy", [0.0, 0.0]))
    view = columns.view()
    assert view.alive.tolist() == [True, False, True]
    assert view.passing(Filters()).tolist() == [True, False, True]
    assert not view.vectors[1].any()


def test_erased_rows_hold_nothing_and_pass_nothing(columns: Columns) -> None:
    columns.erase(np.array([0, 2]))
    view = columns.view()
    assert view.ids[view.passing(Filters())].tolist() == [2, 4]
    assert not view.vectors[[0, 2]].any() and view.persons[0] == view.cameras[2] == -1
    assert not view.passing(Filters(since=0.0))[2]
