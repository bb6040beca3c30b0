"""Figures from per-query results, worked out by hand."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from modelscope_reid.errors import InputError
from modelscope_reid.ranking.report import RankingReport, SkippedQuery, bootstrap_interval, confidence_intervals


def report(**change: Any) -> RankingReport:
    """Four queries of which row 2 was skipped."""
    values: dict[str, Any] = {
        "query_rows": np.array([0, 1, 3]),
        "average_precisions": np.array([1.0, 0.5, 0.3]),
        "inverse_penalties": np.array([1.0, 0.4, 0.1]),
        "first_match_ranks": np.array([1, 2, 60]),
        "skipped": (SkippedQuery(row=2, reason="nobody"),),
        "gallery": 100,
    }
    return RankingReport(**{**values, **change})


def test_means_over_the_counted_queries() -> None:
    made = report()
    assert made.mAP == pytest.approx(0.6)  # (1 + 0.5 + 0.3) / 3
    assert made.mINP == pytest.approx(0.5)  # (1 + 0.4 + 0.1) / 3
    assert (made.queries, made.queries_skipped, made.skipped_rows.tolist()) == (3, 1, [2])


def test_ranks_and_the_curve() -> None:
    made = report()
    # First matches at 1, 2 and 60: a third at Rank-1, two thirds up to Rank-59, all from Rank-60.
    assert [made.rank(k) for k in (1, 2, 59, 60)] == pytest.approx([1 / 3, 2 / 3, 2 / 3, 1.0])
    assert made.cmc.shape == (50,)  # cut at 50: the match at rank 60 is beyond it
    assert made.cmc.tolist() == pytest.approx([1 / 3] + [2 / 3] * 49)
    assert report(max_rank=60).cmc[-1] == 1.0
    with pytest.raises(InputError, match="rank 0"):
        made.rank(0)


def test_to_dict_is_json() -> None:
    values = json.loads(json.dumps(report().to_dict()))
    assert values["rank1"] == pytest.approx(1 / 3) and values["queries_skipped"] == 1 and values["gallery"] == 100
    assert values["skipped"] == [{"row": 2, "reason": "nobody"}]
    assert set(report().figures()) == {
        "mAP", "rank1", "rank5", "rank10", "rank20", "mINP", "queries", "queries_skipped", "gallery",
    }  # fmt: skip


def test_lengths_must_fit_and_a_query_must_be_there() -> None:
    with pytest.raises(InputError, match="per-query results"):
        report(average_precisions=np.array([1.0]))
    nothing = {name: np.array([]) for name in ("average_precisions", "inverse_penalties")}
    nothing |= {name: np.array([], int) for name in ("query_rows", "first_match_ranks")}
    with pytest.raises(InputError, match=r"none of the 1 queries .*1: nobody.*same_camera"):
        report(**nothing)
    with pytest.raises(InputError, match="there is no query"):
        report(**nothing, skipped=())
    with pytest.raises(InputError, match="rank 0"):
        report(max_rank=0)


def test_the_interval_of_equal_values_is_a_point() -> None:
    interval = bootstrap_interval([0.25] * 7)
    assert interval.to_dict() == {"estimate": 0.25, "low": 0.25, "high": 0.25, "confidence": 0.95}


def test_the_interval_is_seeded_and_as_wide_as_statistics_say() -> None:
    values = np.random.default_rng(1).random(400)
    interval = bootstrap_interval(values, seed=3)
    assert interval == bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)
    half = 1.96 * values.std() / np.sqrt(400)  # the normal approximation
    assert interval.high - interval.estimate == pytest.approx(half, rel=0.15)
    assert interval.estimate - interval.low == pytest.approx(half, rel=0.15)
    narrow = bootstrap_interval(values, confidence=0.5)
    assert interval.low < narrow.low < narrow.high < interval.high


@pytest.mark.parametrize("change", [{"values": []}, {"confidence": 1.0}, {"resamples": 0}])
def test_a_bootstrap_of_nothing_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="bootstrap of values"):
        bootstrap_interval(**{"values": [1.0, 0.0], **change})


def test_every_figure_has_an_interval_around_it() -> None:
    intervals = confidence_intervals(report(), resamples=200)
    figures = report().figures()
    assert set(intervals) == {"mAP", "rank1", "rank5", "rank10", "mINP"}
    for name, interval in intervals.items():
        assert interval.estimate == pytest.approx(figures[name])
        assert interval.low <= interval.estimate <= interval.high
