"""The noun that embedding gives."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from modelscope_reid.embeddings import Embeddings, Failure, concatenate
from modelscope_reid.errors import InputError

FAILURE = Failure(index=1, source="b.jpg", reason="is empty.")
FIRST = Embeddings(vectors=np.array([[1.0, 2.0]], np.float32), indices=np.array([0]), failures=(FAILURE,))
SECOND = Embeddings(vectors=np.array([[3.0, 4.0], [5.0, 6.0]], np.float32), indices=np.array([2, 4]))


def test_length_and_json() -> None:
    assert (len(FIRST), len(SECOND)) == (1, 2)
    assert json.loads(json.dumps(FIRST.to_dict())) == {
        "vectors": [[1.0, 2.0]],
        "indices": [0],
        "failures": [{"index": 1, "source": "b.jpg", "reason": "is empty."}],
    }


def test_concatenate_keeps_order_types_and_failures() -> None:
    joined = concatenate(iter([FIRST, SECOND]), dim=2)
    assert joined.vectors.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert joined.indices.tolist() == [0, 2, 4]
    assert joined.failures == (FAILURE,)
    assert (joined.vectors.dtype, joined.indices.dtype) == (np.float32, np.int64)


def test_concatenate_nothing_still_has_a_width() -> None:
    nothing = concatenate([], dim=7)
    assert nothing.vectors.shape == (0, 7)
    assert (nothing.indices.shape, nothing.indices.dtype, nothing.failures) == ((0,), np.int64, ())


@pytest.mark.parametrize(("vectors", "indices"), [((2,), (2,)), ((2, 3), (3,)), ((2, 3), (2, 1)), ((1, 2, 3), (1,))])
def test_shapes_that_do_not_fit(vectors: tuple[int, ...], indices: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"do not fit; expected \(N, D\) and \(N,\)"):
        Embeddings(vectors=np.zeros(vectors, np.float32), indices=np.zeros(indices, np.int64))


def test_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        FIRST.indices = SECOND.indices  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        FAILURE.index = 3  # type: ignore[misc]
