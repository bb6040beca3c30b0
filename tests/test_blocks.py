"""Blocks of rows cover every row once; ranges are put one after the other."""

from __future__ import annotations

import numpy as np
import pytest

from modelscope_reid.ranking.blocks import concatenated_ranges, row_blocks


@pytest.mark.parametrize(
    ("rows", "columns", "values", "sizes"),
    [
        (5, 3, 6, [2, 2, 1]),  # two rows of three cells fit in six
        (2, 10, 6, [1, 1]),  # a row that is too long still is a block
        (3, 0, 6, [3]),
        (0, 3, 6, []),
    ],
)
def test_blocks_cover_the_rows(rows: int, columns: int, values: int, sizes: list[int]) -> None:
    blocks = list(row_blocks(rows, columns, values=values))
    assert [block.stop - block.start for block in blocks] == sizes
    assert np.concatenate([np.empty(0, int), *(np.arange(rows)[block] for block in blocks)]).tolist() == list(
        range(rows)
    )


def test_ranges_are_concatenated() -> None:
    ranges = concatenated_ranges(np.array([7, 0, 3]), np.array([2, 0, 3]))
    assert ranges.tolist() == [7, 8, 3, 4, 5]
    assert concatenated_ranges(np.array([], np.int64), np.array([], np.int64)).tolist() == []
