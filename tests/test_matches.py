"""Who is who, and how many wrong images are ahead."""

from __future__ import annotations

import numpy as np
import pytest
from toy_embeddings import embeddings, random_embeddings

from modelscope_reid.errors import InputError
from modelscope_reid.ranking.matches import DistanceBlock, Truth, exact_distances, match_ranks, wrong_ahead

QUERY = embeddings([(0, 1, 1), (0, 2, 2), (0, 0, 1)])
GALLERY = embeddings([(0, 2, 1), (0, 1, 1), (0, 1, 2), (0, 0, 3)])


def test_own_images_and_which_of_them_count() -> None:
    own = Truth(QUERY, GALLERY, "remove").own_images(slice(0, 3))
    # Query 0 (person 1, camera 1) owns images 1, of its camera, and 2; query 1 owns image 0; a distractor owns none.
    assert list(zip(own.rows, own.columns, own.matches, strict=True)) == [(0, 1, False), (0, 2, True), (1, 0, True)]
    assert Truth(QUERY, GALLERY, "keep").own_images(slice(0, 3)).matches.all()
    assert Truth(QUERY, GALLERY, "remove").own_images(slice(1, 3)).rows.tolist() == [
        0
    ]  # counted from the block's first
    with pytest.raises(InputError, match="same_camera is 'no'"):
        Truth(QUERY, GALLERY, "no")  # type: ignore[arg-type]


def test_ranks_of_matches() -> None:
    # Query 0: image 0 (wrong) 0.1, image 1 removed, image 2 (right) 0.3, image 3 (wrong) 0.2: rank 3.
    # Query 1: image 0 (right) 0.2, image 1 (wrong) 0.1, image 2 (wrong) 0.2: a tie, so rank 3; image 3 is beyond.
    distances = np.array([[0.1, 0.0, 0.3, 0.2], [0.2, 0.1, 0.2, 0.9], [0.0, 0.0, 0.0, 0.0]])
    ranks = match_ranks([DistanceBlock(distances=distances)], Truth(QUERY, GALLERY, "remove"))
    assert ranks.query_rows.tolist() == [0, 1] and ranks.ranks.tolist() == [3, 3]


def test_close_calls_are_asked_for_and_others_are_not() -> None:
    line = np.array([[0.5, 0.50000003, 0.6, 0.4]], np.float32)
    truth = {0: 0.5, 1: 0.50000002, 2: 0.6, 3: 0.4, 9: 0.50000001}
    asked: list[int] = []

    def exact(row: int, columns: np.ndarray) -> np.ndarray:
        asked.extend(columns.tolist())
        return np.array([truth[int(column)] for column in columns])

    ahead = wrong_ahead(
        DistanceBlock(distances=line, exact=exact),
        np.array([0]),
        distances=np.array([0.50000003], np.float32),
        columns=np.array([9]),
    )
    assert ahead.tolist() == [2]  # 0.4 for sure, and 0.5; image 1 is a hair farther
    assert sorted(asked) == [0, 1, 9]


def test_exact_distances_do_not_depend_on_where_a_row_stands() -> None:
    unit = random_embeddings(0, 5000, people=2, dim=700).unit
    order = np.random.default_rng(0).permutation(5000)
    assert (exact_distances(unit[7], unit[order]) == exact_distances(unit[7], unit)[order]).all()
    assert exact_distances(unit[7], unit[[7]]).tolist() == [0.0]
