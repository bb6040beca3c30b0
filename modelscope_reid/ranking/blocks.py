"""Work cut into blocks of rows, so that no matrix of every pair is ever held whole.

In: sizes. Out: slices, index arrays. Knows nothing of embeddings, identities or distances.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

BLOCK_VALUES = 2**24
"""How many values a block of pairs holds unless told otherwise: 64 MiB of float32."""


def row_blocks(rows: int, columns: int, *, values: int = BLOCK_VALUES) -> Iterator[slice]:
    """Yield consecutive slices of `rows` rows, each of at most `values` cells and at least one row."""
    step = max(1, values // max(1, columns))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def concatenated_ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return [s, s + 1, … s + n - 1] of every start s and length n, one after the other."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    ranges: NDArray[np.int64] = np.arange(total, dtype=np.int64) + np.repeat(starts - (ends - lengths), lengths)
    return ranges
