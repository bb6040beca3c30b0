"""k-reciprocal re-ranking against whole matrices and against the published code's numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_recipe import reid_features
from reference import plain_rerank
from toy_embeddings import embeddings, random_embeddings

from modelscope_reid.errors import InputError
from modelscope_reid.ranking import reranking
from modelscope_reid.ranking.blocks import row_blocks
from modelscope_reid.ranking.labelled import Labels
from modelscope_reid.ranking.metrics import rank_distances
from modelscope_reid.ranking.reranking import rerank

NUMBERS = json.loads((Path(__file__).parent / "data" / "numbers_salt0.json").read_text())
SMALL: dict[str, Any] = {
    "n_query": 60, "n_gallery": 400, "n_distractors": 80, "n_ids": 20, "dim": 64, "noise": 1.5, "camera_shift": 0.6
}  # fmt: skip


def check_published(name: str, *, k1: int, k2: int, **settings: Any) -> None:
    """Compare distances and figures with the entry `name` of the published code's numbers."""
    (q, qp, qc), (g, gp, gc) = reid_features(**settings)
    reranked = rerank(q, g, k1=k1, k2=k2)
    expected = NUMBERS[name].pop("distance_first_3_queries_first_8_gallery")
    np.testing.assert_allclose(next(reranked.blocks())[:3, :8], expected, atol=1e-6)
    labels = Labels(person_ids=qp, camera_ids=qc), Labels(person_ids=gp, camera_ids=gc)
    figures = rank_distances(reranked.blocks(), *labels).figures()
    for figure, number in NUMBERS[name].items():
        assert figures[figure] == pytest.approx(number, abs=1e-6), figure


@pytest.mark.parametrize(("k1", "k2"), [(20, 6), (50, 15)])
def test_published_numbers_small(k1: int, k2: int) -> None:
    check_published(f"rerank_small_k1_{k1}_k2_{k2}_lambda_0.3", k1=k1, k2=k2, **SMALL)


@pytest.mark.slow
def test_published_numbers_at_market_size() -> None:
    check_published("rerank_market_size_k1_20_k2_6_lambda_0.3", k1=20, k2=6)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 9999),
    st.integers(1, 30),
    st.integers(1, 9),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.tuples(st.integers(1, 8), st.integers(1, 40)),
)
def test_like_whole_matrices(seed: int, k1: int, k2: int, lambda_value: float, sizes: tuple[int, int]) -> None:
    query = random_embeddings(seed, sizes[0], people=4, dim=8).vectors
    gallery = random_embeddings(seed + 1, sizes[1], people=4, dim=8).vectors
    ours = rerank(query, gallery, k1=k1, k2=k2, lambda_value=lambda_value).dense()
    # One half-precision step of one Jaccard distance below 1 is 2**-11; a float32 weight that falls on the other side
    # of a step moves a few of them by one. No more may differ.
    twin = plain_rerank(query, gallery, k1=k1, k2=k2, lambda_value=lambda_value)
    assert np.abs(ours - twin).max() < 2**-10
    assert (np.abs(ours - twin) > 1e-6).mean() < 0.1


def test_lambda_one_is_the_original_distance_by_its_largest() -> None:
    # Squared distances from 0 to 60, 90 and 180 degrees: 1, 2, 4; the largest is 4.
    gallery = embeddings([(60, 1, 1), (90, 1, 1), (180, 1, 1)]).vectors
    distances = rerank(embeddings([(0, 1, 1)]).vectors, gallery, lambda_value=1.0).dense()
    assert distances.tolist() == [pytest.approx([1 / 4, 2 / 4, 1.0])]


def test_lambda_zero_is_the_jaccard_distance_alone() -> None:
    # Two tight groups of three, one of them the query's: k1 = 2 makes each its own neighbourhood. Within a group the
    # encodings are nearly equal (Jaccard near 0), across they share nothing (1).
    angles = [(0, 1, 1), (1, 1, 1), (2, 1, 1), (120, 1, 1), (121, 1, 1), (122, 1, 1)]
    distances = rerank(embeddings(angles[:1]).vectors, embeddings(angles[1:]).vectors, k1=2, k2=1, lambda_value=0.0)
    values = distances.dense()[0]
    assert values[:2] == pytest.approx(0.0, abs=2e-3) and (values[2:] == 1.0).all()


def test_blocks_are_the_dense_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    reranked = rerank(random_embeddings(0, 9, people=3).vectors, random_embeddings(1, 50, people=3).vectors)
    dense = reranked.dense()
    assert dense.shape == reranked.shape == (9, 50) and dense.dtype == np.float32
    monkeypatch.setattr(reranking, "row_blocks", lambda rows, columns: row_blocks(rows, columns, values=100))
    blocks = list(reranked.blocks())
    assert [len(block) for block in blocks] == [2, 2, 2, 2, 1]
    np.testing.assert_allclose(np.concatenate(blocks), dense, atol=1e-6)


def test_one_image_and_equal_images() -> None:
    one = np.array([[1.0, 0.0]])
    assert rerank(one, one).dense() == pytest.approx(np.array([[0.0]]), abs=2e-3)
    same = rerank(np.ones((3, 4)), np.ones((30, 4))).dense()
    assert (np.abs(same) < 5e-3).all()  # 0 but for half precision, in which 21 times 1/21 is a little more than 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k1": 0}, "k1 is 0"),
        ({"k2": 0}, "k2 0"),
        ({"lambda_value": 1.5}, "lambda_value 1.5"),
        ({"gallery": np.ones((2, 3))}, r"queries \(1, 2\) and gallery \(2, 3\)"),
        ({"gallery": np.empty((0, 2))}, r"gallery \(0, 2\) do not fit"),
        ({"gallery": np.array([[1.0, np.nan]])}, "embedding 0 is not finite"),
    ],
)
def test_what_does_not_fit_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        rerank(**{"queries": np.ones((1, 2)), "gallery": np.ones((2, 2)), **arguments})
