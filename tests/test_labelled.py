"""Labelled embeddings: what they refuse, and by which name."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from modelscope_reid.errors import InputError
from modelscope_reid.ranking.labelled import LabelledEmbeddings, Labels

VECTORS = np.array([[3.0, 4.0], [0.0, 2.0], [1.0, 0.0]])


def labelled(vectors: Any = VECTORS, persons: Any = (1, 2, 0), cameras: Any = (1, 1, 2)) -> LabelledEmbeddings:
    return LabelledEmbeddings(vectors=vectors, person_ids=persons, camera_ids=cameras)


def test_arrays_are_converted_and_scaled() -> None:
    embeddings = labelled()
    assert len(embeddings) == 3
    assert embeddings.vectors.dtype == np.float32 and embeddings.person_ids.dtype == np.int64
    assert embeddings.vectors.tolist() == VECTORS.tolist()  # as given
    np.testing.assert_allclose(embeddings.unit, [[0.6, 0.8], [0.0, 1.0], [1.0, 0.0]], rtol=1e-7)


def test_take_picks_rows_by_index_and_by_mask() -> None:
    assert labelled().take([2, 0]).person_ids.tolist() == [0, 1]
    assert labelled().take(np.array([False, True, True])).vectors.tolist() == [[0.0, 2.0], [1.0, 0.0]]


def test_no_rows_are_fine() -> None:
    assert len(labelled(np.empty((0, 2)), [], [])) == 0


def test_it_is_frozen_and_becomes_json() -> None:
    with pytest.raises(AttributeError):
        labelled().person_ids = np.zeros(3, np.int64)  # type: ignore[misc]
    values = json.loads(json.dumps(labelled().to_dict()))
    assert values == {"vectors": VECTORS.tolist(), "person_ids": [1, 2, 0], "camera_ids": [1, 1, 2]}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_vector_that_is_not_finite_is_named(value: float) -> None:
    vectors = VECTORS.copy()
    vectors[1, 0] = value
    with pytest.raises(InputError, match="embedding 1 is not finite"):
        labelled(vectors)


def test_a_zero_vector_is_named_however_far_down_it_is() -> None:
    vectors = np.ones((70_000, 2), np.float32)  # more than one block
    vectors[69_999] = 0.0
    with pytest.raises(InputError, match="embedding 69999 is of length zero"):
        labelled(vectors, np.ones(70_000, int), np.ones(70_000, int))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vectors": VECTORS[0]}, r"vectors have shape \(2,\)"),
        ({"vectors": VECTORS[:2]}, r"vectors have shape \(2, 2\) beside 3 person_ids"),
        ({"persons": (1, 2)}, "2 person_ids and 3 camera_ids"),
        ({"persons": (1, 2, -2)}, "person id of row 2 is -2"),
        ({"persons": (1.0, 2.0, 3.0)}, "person_ids have shape .* float64"),
        ({"cameras": ((1, 1, 2),)}, r"camera_ids have shape \(1, 3\)"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        labelled(**change)


def test_labels_alone() -> None:
    labels = Labels(person_ids=[1, -1], camera_ids=[4, 5])  # type: ignore[arg-type]  # lists are converted
    assert len(labels) == 2 and labels.to_dict() == {"person_ids": [1, -1], "camera_ids": [4, 5]}
