"""The ranking protocol of person re-identification: from embeddings or distances to a `RankingReport`.

In: labelled embeddings of queries and gallery, or distances between them, block by block. Out: mAP, CMC and mINP with
the result of every query. Knows nothing of images, datasets or files.

The protocol, as Market-1501 (Zheng et al., ICCV 2015) states it and published code runs it: unit length, squared
Euclidean distance; gallery images of the query's identity and camera are removed; a query with no true match left is
skipped and reported; average precision over the full list; means over the other queries. mINP: Ye et al., TPAMI 2021.

Ties: a wrong image that is exactly as close as a true match is ranked before it. So no order of the gallery can
flatter a model, one that maps everything to one point gets the worst figures, and where no distances are equal the
figures are the published ones. Float32 products differ in their last bits with the place of a row in the matrix, so
`rank` settles every close call in float64, by the two vectors alone: its report does not depend on the order of the
gallery, on the size of the blocks or on the number of threads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from modelscope_reid.errors import InputError
from modelscope_reid.ranking.blocks import BLOCK_VALUES, row_blocks
from modelscope_reid.ranking.labelled import JUNK_ID, LabelledEmbeddings, Labels
from modelscope_reid.ranking.matches import DistanceBlock, MatchRanks, Truth, exact_distances, match_ranks
from modelscope_reid.ranking.report import RankingReport, SameCamera


def rank(
    query: LabelledEmbeddings,
    gallery: LabelledEmbeddings,
    *,
    same_camera: SameCamera = "remove",
    max_rank: int = 50,
    block_values: int = BLOCK_VALUES,
) -> RankingReport:
    """Rank the gallery for every query by the distance of their unit vectors.

    `block_values` is how many distances are held at a time; it changes speed and memory, never the report.

    Raises:
        InputError: embeddings of different size, an unknown `same_camera`, or no query with a true match.
    """
    gallery = without_junk(gallery)
    truth = Truth(query, gallery, same_camera)
    ranks = match_ranks(distance_blocks(query, gallery, block_values=block_values), truth)
    return _report(ranks, truth, max_rank)


def rank_distances(
    distances: NDArray[np.floating] | Iterable[NDArray[np.floating]],
    query: Labels,
    gallery: Labels,
    *,
    same_camera: SameCamera = "remove",
    max_rank: int = 50,
) -> RankingReport:
    """Rank the gallery by given distances (Q, G), smaller = closer: one array, or consecutive blocks of its rows.

    Distances are compared as they are; equal ones are ties. Junk in the gallery is dropped.

    Raises:
        InputError: distances that do not fit the labels or are not finite, or no query with a true match.
    """
    keep = gallery.person_ids != JUNK_ID
    truth = Truth(query, Labels(person_ids=gallery.person_ids[keep], camera_ids=gallery.camera_ids[keep]), same_camera)
    blocks = [distances] if isinstance(distances, np.ndarray) else distances
    return _report(match_ranks(_checked(blocks, len(query), keep), truth), truth, max_rank)


def without_junk(gallery: LabelledEmbeddings) -> LabelledEmbeddings:
    """Return the gallery without its junk images; itself where there are none."""
    keep = gallery.person_ids != JUNK_ID
    return gallery if keep.all() else gallery.take(keep)


def distance_blocks(
    query: LabelledEmbeddings, gallery: LabelledEmbeddings, *, block_values: int = BLOCK_VALUES
) -> Iterator[DistanceBlock]:
    """Yield minus the cosines of consecutive queries with the gallery: in the order of squared Euclidean distances.

    A block lies in the memory of the one before.

    Raises:
        InputError: embeddings of different size.
    """
    sizes = query.vectors.shape[1], gallery.vectors.shape[1]
    if sizes[0] != sizes[1]:
        raise InputError(f"query embeddings have {sizes[0]} numbers, gallery {sizes[1]}; use one model for both.")
    images, memory = gallery.unit, np.empty((0, 0), np.float32)
    for rows in row_blocks(len(query), len(gallery), values=block_values):
        vectors = query.unit[rows]
        if len(memory) < len(vectors):
            memory = np.empty((len(vectors), len(images)), np.float32)
        distances = np.matmul(-vectors, images.T, out=memory[: len(vectors)])
        yield DistanceBlock(distances=distances, exact=partial(_exact, vectors, images))


def _exact(
    vectors: NDArray[np.float32], images: NDArray[np.float32], row: int, columns: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the float64 squared distances of the vector at `row` to the images at `columns`."""
    return exact_distances(vectors[row], images[columns])


def _checked(blocks: Iterable[NDArray[np.floating]], queries: int, keep: NDArray[np.bool_]) -> Iterator[DistanceBlock]:
    """Yield copies of `blocks` without the columns that are not kept, in parts of bounded size."""
    done = 0
    for block in blocks:
        if block.ndim != 2 or block.shape[1] != len(keep):
            raise InputError(f"distances have shape {block.shape}; expected one column per gallery image, {len(keep)}.")
        for part in row_blocks(*block.shape):
            values = block[part].copy() if keep.all() else block[part][:, keep]
            finite = np.isfinite(values).all(axis=1)
            if not finite.all():
                raise InputError(f"distances of query {done + np.argmin(finite)} are not all finite; expected numbers.")
            done += len(values)
            if done <= queries:
                yield DistanceBlock(distances=values)
    if done != queries:
        raise InputError(f"distances of {done} queries were given; expected {queries}.")


@dataclass(frozen=True, kw_only=True, eq=False)
class PerQuery:
    """One result for each query with a true match, (V,) each, as `RankingReport` explains them."""

    query_rows: NDArray[np.int64]
    average_precisions: NDArray[np.float64]
    inverse_penalties: NDArray[np.float64]
    first_match_ranks: NDArray[np.int64]


def per_query(matches: MatchRanks) -> PerQuery:
    """Return the results of each query from the ranks of its true matches."""
    rows, starts, counts = np.unique(matches.query_rows, return_index=True, return_counts=True)
    places = np.arange(len(matches.ranks)) - np.repeat(starts, counts) + 1
    precisions = places / matches.ranks
    sums = np.add.reduceat(precisions, starts) if len(starts) else np.empty(0, np.float64)
    return PerQuery(
        query_rows=rows,
        average_precisions=sums / counts,
        inverse_penalties=precisions[starts + counts - 1],
        first_match_ranks=matches.ranks[starts],
    )


def _report(matches: MatchRanks, truth: Truth, max_rank: int) -> RankingReport:
    results = per_query(matches)
    return RankingReport(
        query_rows=results.query_rows,
        average_precisions=results.average_precisions,
        inverse_penalties=results.inverse_penalties,
        first_match_ranks=results.first_match_ranks,
        skipped=truth.skipped(results.query_rows),
        gallery=len(truth.gallery),
        same_camera=truth.same_camera,
        max_rank=max_rank,
    )
