"""Two further ways to rank the same embeddings: camera by camera, and CUHK03's single shot.

In: labelled embeddings. Out: mAP per pair of cameras; CMC over repeated galleries of one image per person. Knows
nothing of datasets or files. Distances, removal, ties and skipped queries are those of metrics.py.

Single shot: Li et al., "DeepReID" (CVPR 2014), as torchreid (MIT) repeats it for every query.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelscope_reid.errors import InputError
from modelscope_reid.ranking.labelled import DISTRACTOR_ID, LabelledEmbeddings
from modelscope_reid.ranking.matches import DistanceBlock, Truth, match_ranks, take_own, wrong_ahead
from modelscope_reid.ranking.metrics import distance_blocks, per_query, without_junk
from modelscope_reid.ranking.report import SameCamera, SkippedQuery, cumulative_matches, no_query_message


@dataclass(frozen=True, kw_only=True, eq=False)
class CameraPairs:
    """mAP of the queries of one camera in the gallery of one camera.

    `mean_average_precisions` (A, B): rows follow `query_cameras`, columns `gallery_cameras`; NaN where `queries`
    (A, B), the number of queries with a true match there, is 0.
    """

    query_cameras: NDArray[np.int64]
    gallery_cameras: NDArray[np.int64]
    mean_average_precisions: NDArray[np.float64]
    queries: NDArray[np.int64]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; None where there is no query."""
        return {
            "query_cameras": self.query_cameras.tolist(),
            "gallery_cameras": self.gallery_cameras.tolist(),
            "mAP": [
                [value if count else None for value, count in zip(*row, strict=True)]
                for row in zip(self.mean_average_precisions.tolist(), self.queries.tolist(), strict=True)
            ],
            "queries": self.queries.tolist(),
        }


def camera_pairs(
    query: LabelledEmbeddings, gallery: LabelledEmbeddings, *, same_camera: SameCamera = "remove"
) -> CameraPairs:
    """Return mAP for every pair of a query camera and a gallery camera, distractors of that camera included."""
    gallery = without_junk(gallery)
    rows, query_index = np.unique(query.camera_ids, return_inverse=True)
    columns = np.unique(gallery.camera_ids)
    sums, counts = np.zeros((len(rows), len(columns))), np.zeros((len(rows), len(columns)), np.int64)
    for column, camera in enumerate(columns):
        seen = gallery.take(gallery.camera_ids == camera)
        results = per_query(match_ranks(distance_blocks(query, seen), Truth(query, seen, same_camera)))
        of_camera = query_index[results.query_rows]
        counts[:, column] = np.bincount(of_camera, minlength=len(rows))
        sums[:, column] = np.bincount(of_camera, weights=results.average_precisions, minlength=len(rows))
    means = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
    return CameraPairs(query_cameras=rows, gallery_cameras=columns, mean_average_precisions=means, queries=counts)


@dataclass(frozen=True, kw_only=True, eq=False)
class SingleShotReport:
    """The rank of the one true match, for every repeat and counted query: `match_ranks` (R, V) from 1.

    `query_rows` (V,): which queries they are.
    """

    query_rows: NDArray[np.int64]
    match_ranks: NDArray[np.int64]
    skipped: tuple[SkippedQuery, ...]
    max_rank: int = 50

    def __post_init__(self) -> None:
        if not len(self.query_rows):
            raise InputError(no_query_message(self.skipped))

    @property
    def cmc(self) -> NDArray[np.float64]:
        """The mean curve (max_rank,) over the repeats."""
        return cumulative_matches(self.match_ranks.ravel(), self.max_rank)

    def rank(self, k: int) -> float:
        """Return Rank-k, 0..1, the mean over repeats."""
        return float((self.match_ranks <= k).mean())

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values: Rank-1 of every repeat with the mean curve and the counts."""
        return {
            "cmc": self.cmc.tolist(),
            "rank1_of_each_repeat": (self.match_ranks <= 1).mean(axis=1).tolist(),
            "repeats": len(self.match_ranks),
            "queries": len(self.query_rows),
            "queries_skipped": len(self.skipped),
            "skipped": [query.to_dict() for query in self.skipped],
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class _Matches:
    """The true matches in one block: their rows (M,) ascending, gallery columns (M,) and distances (M,)."""

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    distances: NDArray[np.floating]


def _shot(
    block: DistanceBlock, matches: _Matches, person_ids: NDArray[np.int64], *, order: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the rank (V,) of the one true match of each query, where the first image of a person in `order` stays."""
    places = np.argsort(order)
    by_place = np.lexsort((places[matches.columns], matches.rows))
    kept = by_place[np.flatnonzero(np.diff(matches.rows[by_place], prepend=-1))]
    people, first = np.unique(person_ids[order], return_index=True)
    wrong = np.concatenate([order[first[people != DISTRACTOR_ID]], np.flatnonzero(person_ids == DISTRACTOR_ID)])
    exact, images = block.exact, np.concatenate([wrong, matches.columns[kept]])
    shown = DistanceBlock(
        distances=block.distances[:, wrong],
        exact=None if exact is None else lambda row, columns: exact(row, images[columns]),
    )
    return 1 + wrong_ahead(
        shown,
        matches.rows[kept],
        distances=matches.distances[kept],
        columns=len(wrong) + np.arange(len(kept), dtype=np.int64),
    )


def single_shot(
    query: LabelledEmbeddings,
    gallery: LabelledEmbeddings,
    *,
    repeats: int = 10,
    seed: int = 0,
    same_camera: SameCamera = "remove",
    max_rank: int = 50,
) -> SingleShotReport:
    """Rank galleries of one random image per person, drawn `repeats` times; distractors all stay.

    For a query the image of its own person is drawn among those that are not removed for their camera, as torchreid
    draws it.

    Raises:
        InputError: embeddings of different size, no repeats, or no query with a true match.
    """
    if repeats < 1:
        raise InputError(f"repeats is {repeats}; expected 1 or more.")
    gallery = without_junk(gallery)
    truth, generator = Truth(query, gallery, same_camera), np.random.default_rng(seed)
    orders = [generator.permutation(len(gallery)) for _ in range(repeats)]
    rows, ranks, start = [np.empty(0, np.int64)], [np.empty((repeats, 0), np.int64)], 0
    for block in distance_blocks(query, gallery):
        own = truth.own_images(slice(start, start + len(block.distances)))
        matches = _Matches(
            rows=own.rows[own.matches], columns=own.columns[own.matches], distances=take_own(block.distances, own)
        )
        ranks.append(np.stack([_shot(block, matches, gallery.person_ids, order=order) for order in orders]))
        rows.append(np.unique(matches.rows) + start)
        start += len(block.distances)
    counted = np.concatenate(rows)
    return SingleShotReport(
        query_rows=counted,
        match_ranks=np.concatenate(ranks, axis=1),
        skipped=truth.skipped(counted),
        max_rank=max_rank,
    )
