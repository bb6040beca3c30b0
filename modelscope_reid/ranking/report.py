"""What ranking gives: one result per query, and the published figures as their means.

In: per-query results. Out: mAP, CMC, mINP, intervals. Knows nothing of embeddings or distances.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from modelscope_reid.errors import InputError

SameCamera: TypeAlias = Literal["remove", "keep"]
"""Whether gallery images of the query's identity and camera are removed, as the papers do, or kept."""

RANKS = (1, 5, 10, 20)
"""The ranks that figures name."""


def _require_rank(k: int) -> None:
    if k < 1:
        raise InputError(f"rank {k} was asked for; expected 1 or more.")


@dataclass(frozen=True, kw_only=True)
class SkippedQuery:
    """A query that has no true match to find: its row, and why, in one sentence."""

    row: int
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"row": self.row, "reason": self.reason}


@dataclass(frozen=True, kw_only=True, eq=False)
class RankingReport:
    """The results of the queries that have a true match; every array is (V,), one entry per such query.

    `query_rows`: which queries they are, ascending. `average_precisions`: over the full list, 0..1.
    `inverse_penalties`: true matches / rank of the last one, 0..1. `first_match_ranks`: from 1. `gallery`: how many
    images were ranked against, junk left out. The mean figures are over these queries alone.

    Raises:
        InputError: lengths that differ, no query at all, or a `max_rank` below 1.
    """

    query_rows: NDArray[np.int64]
    average_precisions: NDArray[np.float64]
    inverse_penalties: NDArray[np.float64]
    first_match_ranks: NDArray[np.int64]
    skipped: tuple[SkippedQuery, ...]
    gallery: int
    same_camera: SameCamera = "remove"
    max_rank: int = 50

    def __post_init__(self) -> None:
        _require_rank(self.max_rank)
        arrays = (self.query_rows, self.average_precisions, self.inverse_penalties, self.first_match_ranks)
        shapes = {array.shape for array in arrays}
        if len(shapes) != 1 or len(next(iter(shapes))) != 1:
            raise InputError(f"per-query results have shapes {[array.shape for array in arrays]}; expected (V,) each.")
        if not self.queries:
            raise InputError(no_query_message(self.skipped))

    @property
    def queries(self) -> int:
        """How many queries were counted."""
        return len(self.query_rows)

    @property
    def queries_skipped(self) -> int:
        """How many queries have no true match and were left out of every mean."""
        return len(self.skipped)

    @property
    def skipped_rows(self) -> NDArray[np.int64]:
        """The rows of the skipped queries."""
        return np.array([query.row for query in self.skipped], dtype=np.int64)

    @property
    def mAP(self) -> float:  # noqa: N802  # the papers' name
        """Mean average precision, 0..1."""
        return float(self.average_precisions.mean())

    @property
    def mINP(self) -> float:  # noqa: N802  # the papers' name
        """Mean inverse negative penalty, 0..1."""
        return float(self.inverse_penalties.mean())

    @cached_property
    def cmc(self) -> NDArray[np.float64]:
        """The cumulative matching curve (max_rank,): entry k - 1 is Rank-k."""
        return cumulative_matches(self.first_match_ranks, self.max_rank)

    def rank(self, k: int) -> float:
        """Return Rank-k: the share of queries with a true match among the first k, 0..1; any k from 1."""
        _require_rank(k)
        return float((self.first_match_ranks <= k).mean())

    def figures(self) -> dict[str, float | int]:
        """Return the figures that papers print, by name; fractions, and counts."""
        return {
            "mAP": self.mAP,
            **{f"rank{k}": self.rank(k) for k in RANKS},
            "mINP": self.mINP,
            "queries": self.queries,
            "queries_skipped": self.queries_skipped,
            "gallery": self.gallery,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values: the figures, the curve, the skipped queries and the per-query results."""
        return {
            **self.figures(),
            "same_camera": self.same_camera,
            "cmc": self.cmc.tolist(),
            "skipped": [query.to_dict() for query in self.skipped],
            "query_rows": self.query_rows.tolist(),
            "average_precisions": self.average_precisions.tolist(),
            "inverse_penalties": self.inverse_penalties.tolist(),
            "first_match_ranks": self.first_match_ranks.tolist(),
        }


def no_query_message(skipped: tuple[SkippedQuery, ...]) -> str:
    """Return why nothing can be measured when every query was skipped, in one line."""
    if not skipped:
        return "there is no query; expected at least one."
    reasons = [query.reason for query in skipped]
    counts = ", ".join(f"{reasons.count(reason)}: {reason}" for reason in dict.fromkeys(reasons))
    return (
        f"none of the {len(skipped)} queries has a true match in the gallery ({counts}); check the identities, or rank "
        'with same_camera="keep" where there is one camera only.'
    )


def cumulative_matches(first_match_ranks: NDArray[np.int64], max_rank: int) -> NDArray[np.float64]:
    """Return the CMC curve (max_rank,) of first-match ranks (V,)."""
    within = first_match_ranks[first_match_ranks <= max_rank]
    curve: NDArray[np.float64] = np.cumsum(np.bincount(within, minlength=max_rank + 1)[1:]) / len(first_match_ranks)
    return curve


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate and the interval that holds it with probability `confidence`."""

    estimate: float
    low: float
    high: float
    confidence: float

    def to_dict(self) -> dict[str, float]:
        """Return plain JSON values."""
        return {"estimate": self.estimate, "low": self.low, "high": self.high, "confidence": self.confidence}


def bootstrap_interval(
    values: ArrayLike, *, confidence: float = 0.95, resamples: int = 1000, seed: int = 0
) -> Interval:
    """Return the percentile bootstrap interval of the mean of per-query `values` (V,): queries redrawn with repeats.

    Raises:
        InputError: no values, a confidence outside 0..1, or no resamples.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not array.size or not 0.0 < confidence < 1.0 or resamples < 1:
        raise InputError(
            f"bootstrap of values {array.shape}, confidence {confidence}, resamples {resamples}; expected (V,) with "
            "at least one value, a confidence between 0 and 1, and at least one resample."
        )
    generator = np.random.default_rng(seed)
    means = [array[generator.integers(0, len(array), len(array))].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [(1.0 - confidence) / 2.0, (1.0 + confidence) / 2.0])
    return Interval(estimate=float(array.mean()), low=float(low), high=float(high), confidence=confidence)


FIGURES: dict[str, Callable[[RankingReport], NDArray[np.float64]]] = {
    "mAP": lambda report: report.average_precisions,
    "rank1": lambda report: (report.first_match_ranks <= 1).astype(np.float64),
    "rank5": lambda report: (report.first_match_ranks <= 5).astype(np.float64),
    "rank10": lambda report: (report.first_match_ranks <= 10).astype(np.float64),
    "mINP": lambda report: report.inverse_penalties,
}
"""The per-query values whose mean is each figure."""


def confidence_intervals(
    report: RankingReport, *, confidence: float = 0.95, resamples: int = 1000, seed: int = 0
) -> dict[str, Interval]:
    """Return the bootstrap interval of each of `FIGURES`, on the same redrawn queries."""
    return {
        name: bootstrap_interval(values(report), confidence=confidence, resamples=resamples, seed=seed)
        for name, values in FIGURES.items()
    }
