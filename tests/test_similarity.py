"""Cosine similarity at hand-chosen angles."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from modelscope_reid.errors import InputError
from modelscope_reid.ranking.similarity import cosine_similarity, normalize


def at(*degrees: float, length: float = 1.0) -> np.ndarray:
    return np.array([[length * math.cos(math.radians(a)), length * math.sin(math.radians(a))] for a in degrees])


def test_angles() -> None:
    # Between 0 and 0, 60, 90, 180 degrees: cosines 1, 1/2, 0, -1; between 60 and those: 1/2, 1, cos 30, -1/2.
    given_ = cosine_similarity(at(0, 60, length=3), at(0, 60, 90, 180, length=0.01))
    np.testing.assert_allclose(given_, [[1, 0.5, 0, -1], [0.5, 1, math.sqrt(3) / 2, -0.5]], atol=1e-6)
    assert given_.dtype == np.float32


def test_length_does_not_count_and_3_4_5() -> None:
    assert normalize([[3, 4], [-6, 8], [0, 1e-30]]).tolist() == pytest.approx(
        np.array([[0.6, 0.8], [-0.6, 0.8], [0, 1]])
    )


vectors = hnp.arrays(np.float32, st.tuples(st.integers(1, 6), st.just(3)), elements=st.floats(-1000, 1000, width=32))


@given(a=vectors, b=vectors)
def test_equal_to_a_loop_and_never_beyond_one(a: np.ndarray, b: np.ndarray) -> None:
    a, b = (x[np.abs(x).max(axis=1) > 1e-3] for x in (a, b))
    similarities = cosine_similarity(a, b)
    assert similarities.shape == (len(a), len(b))
    assert np.abs(similarities).max(initial=0.0) <= 1.0
    for i, left in enumerate(a.astype(np.float64)):
        for j, right in enumerate(b.astype(np.float64)):
            dot = sum(x * y for x, y in zip(left, right, strict=True))
            expected = dot / math.sqrt(sum(x * x for x in left)) / math.sqrt(sum(y * y for y in right))
            assert similarities[i, j] == pytest.approx(expected, abs=1e-5)


def test_nothing_against_something() -> None:
    assert cosine_similarity(np.empty((0, 4)), np.ones((3, 4))).shape == (0, 3)


@pytest.mark.parametrize(
    ("embeddings", "message"),
    [
        ([1.0, 2.0], r"shape \(2,\); expected \(N, D\)"),
        ([[[1.0]]], r"shape \(1, 1, 1\)"),
        ([[1.0, 0.0], [0.0, 0.0]], "embedding 1 is of length zero"),
        ([[1.0, 0.0], [1.0, 2.0], [math.nan, 1.0]], "embedding 2 is not finite"),
        ([[math.inf, 0.0]], "embedding 0 is not finite"),
    ],
)
def test_rows_without_a_direction(embeddings: list, message: str) -> None:
    with pytest.raises(InputError, match=message):
        normalize(embeddings)
    with pytest.raises(InputError, match=message):
        cosine_similarity([[1.0, 0.0]], embeddings)


def test_widths_that_do_not_fit() -> None:
    with pytest.raises(InputError, match="embeddings of 2 and 3 numbers cannot be compared"):
        cosine_similarity(np.ones((1, 2)), np.ones((1, 3)))


def test_large_embeddings_do_not_overflow() -> None:
    # Squares of 1e30 are beyond float32, so lengths must be taken in float64.
    np.testing.assert_allclose(cosine_similarity([[1e30, 0]], [[1e30, 1e30]]), [[math.sqrt(0.5)]], rtol=1e-6)


def test_rounding_never_gives_more_than_one() -> None:
    embeddings = np.random.RandomState(0).standard_normal((200, 1536))
    unit = normalize(embeddings)
    assert (unit @ unit.T).max() > 1.0, "no rounding error, so this test shows nothing"
    assert cosine_similarity(embeddings, embeddings).max() == 1.0
