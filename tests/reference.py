"""Slow plain twins of `ranking/`: what the fast paths are tested and measured against.

Written from the papers and from compatibility.md, with loops and whole matrices, not from the fast paths.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Floats = NDArray[np.floating]


@dataclass(frozen=True)
class PlainFigures:
    """mAP, mINP, the CMC curve, and the first-match rank of every query (0: skipped)."""

    mAP: float  # noqa: N815
    mINP: float  # noqa: N815
    cmc: NDArray[np.float64]
    first_match_ranks: list[int]


def unit_rows(vectors: Floats) -> NDArray[np.float32]:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def squared_distances(query: Floats, gallery: Floats) -> Floats:
    """The whole matrix (Q, G) of squared Euclidean distances."""
    squares = (query**2).sum(axis=1)[:, None] + (gallery**2).sum(axis=1)[None]
    return squares - 2 * query @ gallery.T


def plain_figures(
    distances: Floats,
    query: tuple[Ids, Ids],
    gallery: tuple[Ids, Ids],
    *,
    kind: str = "stable",
    max_rank: int = 50,
) -> PlainFigures:
    """The evaluator of the published code: sort every row, drop same person and camera, go down the list.

    `query` and `gallery` are (person_ids, camera_ids). No ties, no junk: it ranks equal distances by gallery order.
    """
    orders = np.argsort(distances, axis=1, kind=kind)
    precisions, penalties, curves, first_ranks = [], [], [], []
    for row, order in enumerate(orders):
        person, camera = query[0][row], query[1][row]
        keep = ~((gallery[0][order] == person) & (gallery[1][order] == camera))
        matches = (gallery[0][order] == person)[keep] & (person > 0)
        ranks = np.flatnonzero(matches) + 1
        if not len(ranks):
            first_ranks.append(0)
            continue
        precisions.append((matches.cumsum()[ranks - 1] / ranks).mean())
        penalties.append(len(ranks) / ranks[-1])
        curves.append(np.arange(1, max_rank + 1) >= ranks[0])
        first_ranks.append(int(ranks[0]))
    cmc = np.mean(curves, axis=0)
    return PlainFigures(float(np.mean(precisions)), float(np.mean(penalties)), cmc, first_ranks)


def worst_ranks(
    distances: Floats, query: tuple[Ids, Ids], gallery: tuple[Ids, Ids], *, same_camera: str
) -> list[list[int]]:
    """The ranks of each query's true matches where wrong images win every tie: one pair after the other."""
    ranks = []
    for row in range(len(distances)):
        wrong, right = [], []
        for column in range(len(gallery[0])):
            same = gallery[0][column] == query[0][row] and query[0][row] > 0
            if gallery[0][column] == -1 or (same and same_camera == "remove" and gallery[1][column] == query[1][row]):
                continue
            (right if same else wrong).append(float(distances[row, column]))
        ranks.append([sum(w <= d for w in wrong) + place for place, d in enumerate(sorted(right), start=1)])
    return ranks


def plain_rerank(query: Floats, gallery: Floats, *, k1: int, k2: int, lambda_value: float) -> Floats:
    """k-reciprocal re-ranking on whole matrices, half precision where the published code has it."""
    unit = unit_rows(np.concatenate([query, gallery]))
    distances = squared_distances(unit, unit).astype(np.float32)
    distances = (distances / distances.max(axis=0)).T
    order = np.argsort(distances, axis=1, kind="stable")
    encodings = np.zeros(distances.shape, np.float16)
    for row in range(len(unit)):
        mutual = _mutual(order, row, k1)
        members = set(mutual)
        for friend in mutual:
            theirs = _mutual(order, friend, int(np.around(k1 / 2)))
            if len(set(theirs) & set(mutual)) > 2 / 3 * len(theirs):
                members |= set(theirs)
        columns = sorted(members)
        weights = np.exp(-distances[row, columns])
        encodings[row, columns] = weights / weights.sum()
    if k2 > 1:
        encodings = np.stack([encodings[order[row, :k2]].mean(axis=0) for row in range(len(unit))])
    jaccard = np.zeros((len(query), len(unit)), np.float16)
    for row in range(len(query)):
        overlap = np.zeros(len(unit), np.float16)
        for column in np.flatnonzero(encodings[row]):
            overlap += np.minimum(encodings[row, column], encodings[:, column])
        jaccard[row] = 1 - overlap / (2 - overlap)
    return (jaccard * (1 - lambda_value) + distances[: len(query)] * lambda_value)[:, len(query) :]


def _mutual(order: Ids, row: int, reach: int) -> list[int]:
    return [int(other) for other in order[row, : reach + 1] if row in order[other, : reach + 1]]


def plain_roc(similarities: list[float], same: list[bool], threshold: float) -> tuple[float, float]:
    """(FAR, TAR) of accepting pairs whose similarity is at least `threshold`."""
    accepted = [kind for value, kind in zip(similarities, same, strict=True) if value >= threshold]
    return (len(accepted) - sum(accepted)) / (len(same) - sum(same)), sum(accepted) / sum(same)


def plain_isotonic(values: list[float], weights: list[float]) -> list[float]:
    """The never-falling least-squares fit, by its min-max formula."""

    def mean(start: int, stop: int) -> float:
        return float(np.average(values[start : stop + 1], weights=weights[start : stop + 1]))

    count = len(values)
    return [max(min(mean(a, b) for b in range(i, count)) for a in range(i + 1)) for i in range(count)]
