"""Camera pairs and the single shot, worked out by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from toy_embeddings import embeddings, random_embeddings

from modelscope_reid.errors import InputError
from modelscope_reid.ranking.metrics import rank
from modelscope_reid.ranking.protocols import camera_pairs, single_shot

QUERY = embeddings([(0, 1, 1), (0, 2, 1), (0, 1, 2)])
GALLERY = embeddings([(10, 1, 2), (20, 2, 2), (30, 1, 3), (5, 0, 3), (1, -1, 2), (3, 1, 1)])


def test_map_of_each_pair_of_cameras() -> None:
    pairs = camera_pairs(QUERY, GALLERY)
    assert pairs.query_cameras.tolist() == [1, 2] and pairs.gallery_cameras.tolist() == [1, 2, 3]
    # Camera 1 in 1: person 1 is removed, 2 is absent. In 2: person 1 is first, person 2 second: (1 + 1/2) / 2.
    # In 3: person 1 behind the distractor, 1/2; person 2 is absent. Camera 2 in 1: alone, 1; in 2: removed; in 3: 1/2.
    assert pairs.queries.tolist() == [[0, 2, 1], [1, 0, 1]]
    np.testing.assert_allclose(pairs.mean_average_precisions, [[np.nan, 0.75, 0.5], [1.0, np.nan, 0.5]])
    assert json.loads(json.dumps(pairs.to_dict()))["mAP"] == [[None, 0.75, 0.5], [1.0, None, 0.5]]


def test_keeping_the_camera_fills_the_diagonal() -> None:
    assert camera_pairs(QUERY, GALLERY, same_camera="keep").queries.tolist() == [[1, 2, 1], [1, 1, 1]]


def test_one_gallery_camera_is_the_whole_protocol() -> None:
    query, gallery = random_embeddings(0, 30, people=5, cameras=1), random_embeddings(1, 60, people=5, cameras=1)
    pairs = camera_pairs(query, gallery, same_camera="keep")
    assert pairs.mean_average_precisions == pytest.approx(rank(query, gallery, same_camera="keep").mAP)


def test_one_image_of_each_person_is_left() -> None:
    # Person 1 is at 10 or at 50 degrees, person 2 at 20 or at 60, a distractor at 5 always stays.
    query = embeddings([(0, 1, 1)])
    gallery = embeddings([(10, 1, 2), (50, 1, 2), (20, 2, 2), (60, 2, 2), (5, 0, 2), (1, -1, 2)])
    report = single_shot(query, gallery, repeats=400)
    ranks, counts = np.unique(report.match_ranks, return_counts=True)
    # 10 is behind the distractor only, rank 2; 50 is so too where person 2 is at 60, else rank 3: 3/4 and 1/4.
    assert ranks.tolist() == [2, 3]
    assert counts[1] / 400 == pytest.approx(1 / 4, abs=0.07)
    assert report.rank(1) == 0.0 and report.rank(3) == 1.0 and report.cmc[1] == pytest.approx(report.rank(2))


def test_the_image_of_the_query_camera_is_never_the_shot() -> None:
    # Person 1 is at 5 degrees in the query's camera: removed, so the shot is always at 30, behind person 2 at 20.
    report = single_shot(embeddings([(0, 1, 1), (0, 7, 1)]), embeddings([(5, 1, 1), (30, 1, 2), (20, 2, 1)]))
    assert report.match_ranks.tolist() == [[2]] * 10
    assert report.query_rows.tolist() == [0] and [skipped.row for skipped in report.skipped] == [1]


def test_a_gallery_of_single_images_is_the_usual_protocol() -> None:
    query = random_embeddings(3, 20, people=9)
    gallery = random_embeddings(4, 400, people=9)
    single = gallery.take(np.unique(gallery.person_ids, return_index=True)[1])
    shots, report = single_shot(query, single, same_camera="keep"), rank(query, single, same_camera="keep")
    assert (shots.match_ranks == report.first_match_ranks).all() and (shots.cmc == report.cmc).all()


def test_repeats_are_seeded() -> None:
    query, gallery = random_embeddings(3, 20, people=9), random_embeddings(4, 200, people=9)
    first, again, other = (single_shot(query, gallery, seed=seed) for seed in (0, 0, 1))
    assert (first.match_ranks == again.match_ranks).all() and (first.match_ranks != other.match_ranks).any()
    values = json.loads(json.dumps(first.to_dict()))
    assert values["repeats"] == 10 and np.mean(values["rank1_of_each_repeat"]) == pytest.approx(first.rank(1))


def test_ties_are_lost() -> None:
    report = single_shot(embeddings([(0, 1, 1)]), embeddings([(20, 1, 2), (-20, 2, 2)]), repeats=3)
    assert report.match_ranks.tolist() == [[2]] * 3


def test_nothing_to_repeat() -> None:
    with pytest.raises(InputError, match="repeats is 0"):
        single_shot(QUERY, GALLERY, repeats=0)
    with pytest.raises(InputError, match="none of the 1 queries"):
        single_shot(embeddings([(0, 5, 1)]), GALLERY)
