"""Who is who, and how many wrong images stand before each true match: all that the ranking figures need.

In: labels, and distances (rows of queries, columns of gallery images) block by block. Out: ranks of true matches.
No row is ranked as a whole: a true match's rank is the number of wrong images before it, plus its place among the
true matches. Knows nothing of where distances come from, nor of means over queries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from modelscope_reid.errors import InputError
from modelscope_reid.ranking.blocks import concatenated_ranges, row_blocks
from modelscope_reid.ranking.labelled import DISTRACTOR_ID, Labels
from modelscope_reid.ranking.report import SameCamera, SkippedQuery

CLOSE_CALL = 2e-6
"""Products of unit vectors nearer than this are settled in float64, by the squared distance.

More than twice what a float32 product errs by: at most 7.3e-7 was seen, on vectors that are nearly all alike."""

EXACT_VALUES = 2**16
"""How many float64 differences are made at a time: what fits in a core's cache."""

NOBODY = "is junk or a distractor, which has no true match"
ABSENT = "its person is not in the gallery"
ONE_CAMERA = "its person is in the gallery only as seen by the query's own camera"

ExactDistances: TypeAlias = Callable[[int, NDArray[np.int64]], NDArray[np.float64]]
"""The float64 squared distances (C,) from the query at a row of the block to gallery columns (C,)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DistanceBlock:
    """Distances (B, G) of consecutive queries, the block's to overwrite; `exact` settles close calls where given."""

    distances: NDArray[np.floating]
    exact: ExactDistances | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class OwnImages:
    """The gallery images of each query's own person, one entry per pair, by ascending row of the block.

    `matches` is False where the image is removed for its camera.
    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    matches: NDArray[np.bool_]


class Truth:
    """Who is who: finds each query's own images in the gallery, and says why a query has none."""

    def __init__(self, query: Labels, gallery: Labels, same_camera: SameCamera) -> None:
        if same_camera not in ("remove", "keep"):
            raise InputError(f"same_camera is {same_camera!r}; expected 'remove' or 'keep'.")
        self.query, self.gallery, self.same_camera = query, gallery, same_camera
        self._order = np.argsort(gallery.person_ids, kind="stable").astype(np.int64)
        ordered = gallery.person_ids[self._order]
        self._starts = np.searchsorted(ordered, query.person_ids, side="left")
        self._counts = np.searchsorted(ordered, query.person_ids, side="right") - self._starts
        self._counts[query.person_ids <= DISTRACTOR_ID] = 0

    def own_images(self, block: slice) -> OwnImages:
        """Return the own images of the queries of `block`."""
        counts = self._counts[block]
        rows = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
        columns = self._order[concatenated_ranges(self._starts[block], counts)]
        matches = np.ones(len(rows), dtype=np.bool_)
        if self.same_camera == "remove":
            matches = self.query.camera_ids[block][rows] != self.gallery.camera_ids[columns]
        return OwnImages(rows=rows, columns=columns, matches=matches)

    def skipped(self, counted: NDArray[np.int64]) -> tuple[SkippedQuery, ...]:
        """Return every query that is not among the rows `counted`, with the reason."""
        without = np.setdiff1d(np.arange(len(self.query)), counted)
        return tuple(SkippedQuery(row=int(row), reason=self._reason(int(row))) for row in without)

    def _reason(self, row: int) -> str:
        if self.query.person_ids[row] <= DISTRACTOR_ID:
            return NOBODY
        return ONE_CAMERA if self._counts[row] else ABSENT


@dataclass(frozen=True, kw_only=True, eq=False)
class MatchRanks:
    """The ranks of all true matches: `query_rows` (M,) ascending, `ranks` (M,) from 1, ascending within a query."""

    query_rows: NDArray[np.int64]
    ranks: NDArray[np.int64]


def match_ranks(blocks: Iterable[DistanceBlock], truth: Truth) -> MatchRanks:
    """Return the rank of every true match; a wrong image exactly as close as a true match is ranked before it."""
    rows, ahead, start = [np.empty(0, np.int64)], [np.empty(0, np.int64)], 0
    for block in blocks:
        own = truth.own_images(slice(start, start + len(block.distances)))
        columns = own.columns[own.matches]
        distances = take_own(block.distances, own)
        rows.append(own.rows[own.matches] + start)
        ahead.append(wrong_ahead(block, own.rows[own.matches], distances=distances, columns=columns))
        start += len(block.distances)
    query_rows, wrong = np.concatenate(rows), np.concatenate(ahead)
    order = np.lexsort((wrong, query_rows))
    places = np.arange(len(query_rows)) - np.searchsorted(query_rows, query_rows)
    return MatchRanks(query_rows=query_rows, ranks=wrong[order] + places + 1)


def take_own(distances: NDArray[np.floating], own: OwnImages) -> NDArray[np.floating]:
    """Return the distances of the true matches, and put all own images of every query out of reach in place."""
    taken = distances[own.rows, own.columns][own.matches]
    distances[own.rows, own.columns] = np.inf
    return taken


def wrong_ahead(
    block: DistanceBlock, rows: NDArray[np.int64], *, distances: NDArray[np.floating], columns: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return how many of the block's images are at least as close as each true match (M,).

    The matches are given by their rows in the block (ascending), their distances, and their columns, which only the
    block's `exact` reads; they are not in the block's distances themselves.
    """
    margin = 0.0 if block.exact is None else CLOSE_CALL
    nearest, farthest = distances - margin, distances + margin
    ahead = np.empty(len(rows), np.int64)
    for row, part in _runs(rows):
        line = block.distances[row]
        ordered = np.sort(line)
        ahead[part] = at_most = ordered.searchsorted(farthest[part], side="right")
        if block.exact is not None:
            surely = ordered.searchsorted(nearest[part], side="left")
            calls = part.start + np.flatnonzero(at_most > surely)
            near = [np.flatnonzero((line >= nearest[call]) & (line <= farthest[call])) for call in calls]
            ahead[calls] = surely[calls - part.start] + _settled(partial(block.exact, row), columns[calls], near)
    return ahead


def _settled(
    exact: Callable[[NDArray[np.int64]], NDArray[np.float64]], matches: NDArray[np.int64], near: list[NDArray[np.int64]]
) -> NDArray[np.int64]:
    """Return how many of the images `near` each match (columns, both) are at least as close, by exact distances."""
    if not near:
        return np.empty(0, np.int64)
    caller = np.repeat(np.arange(len(near)), [len(found) for found in near])
    images, where = np.unique(np.concatenate(near), return_inverse=True)
    closer = exact(images)[where] <= exact(matches)[caller]
    return np.bincount(caller[closer], minlength=len(near))


def _runs(rows: NDArray[np.int64]) -> Iterable[tuple[int, slice]]:
    """Yield each value of ascending `rows` with the slice it fills."""
    starts = np.flatnonzero(np.diff(rows, prepend=-1)).tolist()
    for start, stop in pairwise([*starts, len(rows)]):
        yield int(rows[start]), slice(start, stop)


def exact_distances(vector: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return squared distances (C,) float64 from a vector (D,) to others (C, D), the same wherever a row stands."""
    result = np.empty(len(others), np.float64)
    exact = vector.astype(np.float64)
    for block in row_blocks(*others.shape, values=EXACT_VALUES):
        differences = others[block] - exact
        differences *= differences
        result[block] = differences.sum(axis=1)
    return result
