"""The nearest images of every image, without the matrix of all pairs.

In: unit vectors. Out: for each row the nearest others, nearest first, and how far the farthest is. Knows nothing of
identities, cameras or re-ranking.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelscope_reid.ranking.blocks import row_blocks

BLOCK_VALUES = 2**25
"""How many similarities are held at a time: 128 MiB of float32."""

PART_VALUES = 2**21
"""How many similarities one selection looks through: it makes as many int64 indices."""

SELECTION_THREADS = 2
"""How many selections run side by side while no product does."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Neighbours:
    """`indices` (N, K) int64 and `similarities` (N, K) float32 of the nearest images of each row, nearest first.

    Equally near ones by ascending index. `lowest` (N,) float32: the similarity of the farthest image of all.
    """

    indices: NDArray[np.int64]
    similarities: NDArray[np.float32]
    lowest: NDArray[np.float32]


class _Nearest:
    """The nearest images seen so far, unordered."""

    def __init__(self, rows: int, count: int) -> None:
        self.count = count
        self.indices = np.full((rows, count), -1, dtype=np.int64)
        self.similarities = np.full((rows, count), -np.inf, dtype=np.float32)
        self.lowest = np.full(rows, np.inf, dtype=np.float32)

    def see(self, first_row: int, similarities: NDArray[np.float32], *, first_column: int) -> None:
        """Take in the similarities (R, C) of the rows from `first_row` to the images from `first_column`."""
        if not similarities.size:
            return

        def see_part(block: slice) -> None:
            part = np.ascontiguousarray(similarities[block])
            self._merge(slice(first_row + block.start, first_row + block.stop), part, first_column=first_column)

        with ThreadPoolExecutor(SELECTION_THREADS) as pool:  # NumPy lets go of the interpreter while it selects
            list(pool.map(see_part, row_blocks(*similarities.shape, values=PART_VALUES)))

    def _merge(self, rows: slice, similarities: NDArray[np.float32], *, first_column: int) -> None:
        """Keep the nearest of what `rows` have and of these similarities."""
        self.lowest[rows] = np.minimum(self.lowest[rows], similarities.min(axis=1))
        chosen = _largest(similarities, self.count)
        seen = np.take_along_axis(similarities, chosen, axis=1)
        values = np.concatenate([self.similarities[rows], seen], axis=1)
        indices = np.concatenate([self.indices[rows], chosen + first_column], axis=1)
        best = _largest(values, self.count)
        self.similarities[rows] = np.take_along_axis(values, best, axis=1)
        self.indices[rows] = np.take_along_axis(indices, best, axis=1)

    def ordered(self) -> Neighbours:
        """Return what was seen, nearest first."""
        order = np.lexsort((self.indices, -self.similarities), axis=1)
        return Neighbours(
            indices=np.take_along_axis(self.indices, order, axis=1),
            similarities=np.take_along_axis(self.similarities, order, axis=1),
            lowest=self.lowest,
        )


def _largest(values: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Return the columns (R, count or fewer) of the largest values of each row, unordered."""
    columns = values.shape[1]
    if columns <= count:
        return np.broadcast_to(np.arange(columns), values.shape)
    return np.argpartition(values, columns - count, axis=1)[:, columns - count :].astype(np.int64, copy=False)


def nearest_in(queries: NDArray[np.float32], gallery: NDArray[np.float32], count: int) -> Neighbours:
    """Return the `count` nearest gallery images (fewer where there are fewer) of each query; unit vectors both."""
    nearest = _Nearest(len(queries), min(count, len(gallery)))
    for block in row_blocks(len(queries), len(gallery), values=BLOCK_VALUES):
        nearest.see(block.start, queries[block] @ gallery.T, first_column=0)
    return nearest.ordered()


def nearest_among(unit: NDArray[np.float32], count: int) -> Neighbours:
    """Return the `count` nearest of all images, itself among them, of each image; each pair is multiplied once."""
    nearest = _Nearest(len(unit), min(count, len(unit)))
    for block in row_blocks(len(unit), len(unit), values=BLOCK_VALUES):
        similarities = unit[block] @ unit[block.start :].T
        nearest.see(block.start, similarities, first_column=block.start)
        nearest.see(block.stop, similarities[:, block.stop - block.start :].T, first_column=block.start)
    return nearest.ordered()
