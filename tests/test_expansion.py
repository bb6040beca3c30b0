"""Fused embeddings at hand-chosen angles."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from toy_embeddings import embeddings, random_embeddings

from modelscope_reid.errors import InputError
from modelscope_reid.ranking.expansion import expand_queries, fuse_tracklets, fuse_views


def at(*degrees: float) -> np.ndarray:
    return embeddings([(angle, 1, 1) for angle in degrees]).vectors


def angles(vectors: np.ndarray) -> list[float]:
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)
    return np.rad2deg(np.arctan2(vectors[:, 1], vectors[:, 0])).tolist()


def test_the_average_of_two_directions_is_in_the_middle() -> None:
    assert angles(expand_queries(at(0) * 7, at(40, 90) * 3, neighbours=1)) == pytest.approx([20], abs=1e-4)


def test_neighbours_pull_equally_or_by_similarity() -> None:
    # 1 at 0 degrees, 1 at 60: 30 degrees. With alpha 1 the neighbour weighs cos 60 = 1/2:
    # (1 + 1/4, sqrt(3)/4): atan(0.3464) = 19.1066 degrees. With alpha 2, 1/4: (1 + 1/8, sqrt(3)/8): 10.8934.
    for alpha, expected in ((0.0, 30.0), (1.0, 19.1066), (2.0, 10.8934)):
        assert angles(expand_queries(at(0), at(60, 170), neighbours=1, alpha=alpha)) == pytest.approx(
            [expected], abs=1e-3
        )


def test_neighbours_behind_weigh_nothing_with_alpha() -> None:
    assert angles(expand_queries(at(0), at(120), neighbours=1, alpha=3.0)) == pytest.approx([0], abs=1e-4)
    assert angles(expand_queries(at(0), at(120), neighbours=1)) == pytest.approx([60], abs=1e-4)


def test_more_neighbours_than_images_and_none() -> None:
    assert angles(expand_queries(at(0), at(-30, 30), neighbours=9)) == pytest.approx([0], abs=1e-4)
    assert angles(expand_queries(at(50), at(-30, 30), neighbours=0)) == pytest.approx([50], abs=1e-4)
    assert angles(expand_queries(at(50), at(), neighbours=3)) == pytest.approx([50], abs=1e-4)


def test_the_order_of_the_gallery_does_not_count() -> None:
    query, gallery = (random_embeddings(seed, 40, people=3, dim=9).vectors for seed in (0, 1))
    order = np.random.default_rng(0).permutation(40)
    expanded = expand_queries(query, gallery, neighbours=5, alpha=3.0)
    np.testing.assert_allclose(expanded, expand_queries(query, gallery[order], neighbours=5, alpha=3.0), atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"neighbours": -1}, "neighbours is -1"),
        ({"alpha": -0.5}, "alpha -0.5"),
        ({"gallery": np.ones((2, 3))}, "queries have 2 numbers, gallery 3"),
        ({"gallery": np.zeros((2, 2))}, "embedding 0 is of length zero"),
    ],
)
def test_expansions_that_do_not_fit_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        expand_queries(**{"queries": at(0), "gallery": at(10), "neighbours": 1, **arguments})


def test_two_views_are_averaged_as_they_are() -> None:
    assert fuse_views([[1.0, 5.0]], [[3.0, 1.0]]).tolist() == [[2.0, 3.0]]
    with pytest.raises(InputError, match=r"shapes \(1, 2\) and \(2, 2\)"):
        fuse_views(np.ones((1, 2)), np.ones((2, 2)))


def test_the_mean_of_a_tracklet() -> None:
    fused = fuse_tracklets(at(10, 80, 30, 90), [7, 3, 7, 3])
    assert fused.tracklet_ids.tolist() == [3, 7] and fused.rows.tolist() == [1, 0]
    assert angles(fused.vectors) == pytest.approx([85, 20], abs=1e-4)
    assert json.loads(json.dumps(fused.to_dict()))["tracklet_ids"] == [3, 7]


def test_the_medoid_of_a_tracklet_is_one_of_its_images() -> None:
    # 0, 10 and 20 degrees and an odd crop at 100: 20 has the largest sum of cosines,
    # cos 20 + cos 10 + 1 + cos 80 = 3.098; 10 has 2 cos 10 + 1 + cos 90 = 2.970; 0 has 2.751. The mean is at 29.
    fused = fuse_tracklets(at(100, 0, 10, 20), [5] * 4, method="medoid")
    assert fused.rows.tolist() == [3] and angles(fused.vectors) == pytest.approx([20], abs=1e-4)


def test_equal_images_give_the_first_and_single_images_themselves() -> None:
    assert fuse_tracklets(at(10, 10, 50), [1, 1, 2], method="medoid").rows.tolist() == [0, 2]
    assert angles(fuse_tracklets(at(10, 50), [2, 1]).vectors) == pytest.approx([50, 10], abs=1e-4)
    assert len(fuse_tracklets(np.empty((0, 2)), []).vectors) == 0


def test_the_medoid_is_the_most_central_of_random_images() -> None:
    made = random_embeddings(0, 60, people=3, dim=5)
    tracklets = np.random.default_rng(0).integers(0, 8, 60)
    for tracklet, row in enumerate(fuse_tracklets(made.vectors, tracklets, method="medoid").rows):
        members = np.flatnonzero(tracklets == tracklet)
        sums = [float(sum(made.unit[a] @ made.unit[b] for b in members)) for a in members]
        assert row == members[int(np.argmax(sums))]


def test_tracklets_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="2 embeddings and tracklet_ids"):
        fuse_tracklets(at(0, 1), [1])
    with pytest.raises(InputError, match="2 embeddings and tracklet_ids"):
        fuse_tracklets(at(0, 1), [1.5, 2.5])
    with pytest.raises(InputError, match="method is 'median'"):
        fuse_tracklets(at(0), [1], method="median")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="embedding 0 is of length zero"):
        fuse_tracklets(np.array([[1.0, 0.0], [-1.0, 0.0]]), [1, 1])
