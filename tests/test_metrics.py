"""The ranking protocol: hand-made cases with the answer in the comment, slow twins, and the published numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from parity_recipe import reid_features
from reference import plain_figures, squared_distances, worst_ranks
from toy_embeddings import Image, embeddings, random_embeddings

from modelscope_reid.errors import InputError
from modelscope_reid.ranking.labelled import LabelledEmbeddings, Labels
from modelscope_reid.ranking.matches import ABSENT, NOBODY, ONE_CAMERA
from modelscope_reid.ranking.metrics import rank, rank_distances
from modelscope_reid.ranking.report import RankingReport

NUMBERS = json.loads((Path(__file__).parent / "data" / "numbers_salt0.json").read_text())
QUERY: Image = (0, 1, 1)
GALLERY: list[Image] = [(10, 1, 2), (20, 2, 1), (30, 1, 3), (40, 2, 2)]


def results(gallery: Sequence[Image], query: Image = QUERY, **settings: Any) -> tuple[float, float, int]:
    """AP, INP and first-match rank of one query."""
    report = rank(embeddings([query]), embeddings(gallery), **settings)
    return report.average_precisions[0], report.inverse_penalties[0], int(report.first_match_ranks[0])


def same(first: RankingReport, second: RankingReport) -> bool:
    return json.dumps(first.to_dict()) == json.dumps(second.to_dict())


def test_matches_at_ranks_one_and_three() -> None:
    # Right, wrong, right, wrong: precision 1/1 and 2/3, so AP = 5/6; two matches, the last at 3.
    assert results(GALLERY) == (pytest.approx(5 / 6), pytest.approx(2 / 3), 1)


def test_the_query_camera_is_removed() -> None:
    assert results([(5, 1, 1), *GALLERY]) == results(GALLERY)


def test_the_query_camera_is_kept_when_asked() -> None:
    # Now the matches are at 1, 2 and 4: AP = (1 + 1 + 3/4) / 3.
    assert results([(5, 1, 1), *GALLERY], same_camera="keep") == (pytest.approx(11 / 12), pytest.approx(3 / 4), 1)


def test_other_people_of_the_query_camera_stay() -> None:
    # (20, 2, 1) is of camera 1 and is what makes the second match third and not second.
    assert results(GALLERY)[1] == pytest.approx(2 / 3)
    assert results([image for image in GALLERY if image[2] != 1])[1] == 1.0


def test_junk_is_dropped() -> None:
    junk: list[Image] = [(1, -1, 2), (2, -1, 1), *GALLERY]
    assert results(junk) == results(GALLERY)
    assert rank(embeddings([QUERY]), embeddings(junk)).gallery == 4


def test_a_distractor_stays_and_is_wrong() -> None:
    # Wrong, right, wrong, right: AP = (1/2 + 2/4) / 2, the last match at 4.
    assert results([(5, 0, 1), *GALLERY]) == (pytest.approx(0.5), pytest.approx(0.5), 2)


def test_a_wrong_image_wins_a_tie() -> None:
    # +20 and -20 degrees are equally far. Wrong first: the match is at 2, whichever comes first in the gallery.
    assert results([(20, 1, 2), (-20, 2, 2)]) == results([(-20, 2, 2), (20, 1, 2)]) == (0.5, 0.5, 2)


def test_two_matches_tied_with_one_wrong_image() -> None:
    # Wrong, right, right: AP = (1/2 + 2/3) / 2 = 7/12, INP = 2/3.
    assert results([(20, 1, 2), (-20, 2, 2), (20, 1, 3)]) == (pytest.approx(7 / 12), pytest.approx(2 / 3), 2)


def test_ties_among_matches_or_among_wrong_images_cost_nothing() -> None:
    # Right twice at 20, wrong twice at 30: matches at 1 and 2.
    assert results([(20, 1, 2), (-20, 1, 3), (30, 2, 2), (-30, 3, 2)]) == (1.0, 1.0, 1)


def test_a_model_that_maps_everything_to_one_point_is_last() -> None:
    # 6 wrong images, 2 right ones: ranks 7 and 8, AP = (1/7 + 2/8) / 2.
    gallery: list[Image] = [(15, 1, 2), *[(15, person, 2) for person in range(2, 8)], (15, 1, 3)]
    assert results(gallery, (15, 1, 1)) == (pytest.approx((1 / 7 + 2 / 8) / 2), pytest.approx(2 / 8), 7)


def test_one_image() -> None:
    assert results([(90, 1, 2)]) == (1.0, 1.0, 1)


def test_queries_without_a_match_are_skipped_and_explained() -> None:
    query = embeddings([(0, 9, 1), (0, 1, 1), (0, 2, 5), (0, 0, 1), (0, -1, 1), (0, 3, 1)])
    gallery = embeddings([*GALLERY, (50, 3, 1), (60, 0, 2), (70, -1, 2)])
    report = rank(query, gallery)
    assert report.query_rows.tolist() == [1, 2] and report.queries == 2 and report.queries_skipped == 4
    assert [(skipped.row, skipped.reason) for skipped in report.skipped] == [
        (0, ABSENT),
        (3, NOBODY),
        (4, NOBODY),
        (5, ONE_CAMERA),
    ]
    assert rank(query, gallery, same_camera="keep").query_rows.tolist() == [1, 2, 5]


def test_nothing_to_rank_says_why() -> None:
    with pytest.raises(InputError, match=r"none of the 1 queries .*own camera.*same_camera=\"keep\""):
        rank(embeddings([QUERY]), embeddings([(3, 1, 1)]))
    with pytest.raises(InputError, match="not in the gallery"):
        rank(embeddings([QUERY]), embeddings([]))
    with pytest.raises(InputError, match="there is no query"):
        rank(embeddings([]), embeddings(GALLERY))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="query embeddings have 2 numbers, gallery 4"):
        rank(embeddings([QUERY]), random_embeddings(0, 5, people=2))
    with pytest.raises(InputError, match="same_camera is 'drop'"):
        rank(embeddings([QUERY]), embeddings(GALLERY), same_camera="drop")  # type: ignore[arg-type]


def test_the_length_of_vectors_does_not_matter() -> None:
    short = embeddings(GALLERY)
    scaled = LabelledEmbeddings(
        vectors=short.vectors * np.array([[8.0], [0.25], [64.0], [2.0]], np.float32),
        person_ids=short.person_ids,
        camera_ids=short.camera_ids,
    )
    assert same(rank(embeddings([QUERY]), scaled), rank(embeddings([QUERY]), short))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([None, 1, 5, 20]), st.sampled_from(["remove", "keep"]))
def test_neither_order_nor_block_size_changes_a_report(seed: int, distinct: int | None, same_camera: Any) -> None:
    query = random_embeddings(seed, 9, people=4, dim=33, distinct=distinct)
    gallery = random_embeddings(seed, 70, people=4, dim=33, distinct=distinct)  # shares its vectors with the queries
    order = np.random.default_rng(seed).permutation(len(gallery))
    assume((query.person_ids > 0).any())
    report = rank(query, gallery, same_camera=same_camera)
    assert same(report, rank(query, gallery.take(order), same_camera=same_camera))
    assert same(report, rank(query, gallery, same_camera=same_camera, block_values=150))


def test_near_ties_are_settled_by_the_vectors_alone() -> None:
    # 3,000 images within float32's error of one another: products in float32 order them by where they stand.
    stream = np.random.default_rng(5)
    vectors = (1.0 + 1e-4 * stream.standard_normal((3000, 256))).astype(np.float32)
    gallery = LabelledEmbeddings(vectors=vectors, person_ids=stream.integers(1, 30, 3000), camera_ids=np.full(3000, 2))
    query = LabelledEmbeddings(vectors=vectors[:40], person_ids=np.arange(40) % 29 + 1, camera_ids=np.full(40, 1))
    report = rank(query, gallery)
    assert same(report, rank(query, gallery.take(stream.permutation(3000))))
    exact = np.stack([((gallery.unit - vector) ** 2).sum(axis=1) for vector in query.unit.astype(np.float64)])
    twin = plain_figures(exact, (query.person_ids, query.camera_ids), (gallery.person_ids, gallery.camera_ids))
    assert report.mAP == pytest.approx(twin.mAP, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["remove", "keep"]))
def test_ties_like_the_slow_twin(seed: int, same_camera: Any) -> None:
    query, gallery = random_embeddings(seed, 8, people=3), random_embeddings(seed + 1, 25, people=3)
    distances = np.random.default_rng(seed).integers(0, 6, (8, 25)).astype(np.float32)  # most are equal
    expected = worst_ranks(
        distances,
        (query.person_ids, query.camera_ids),
        (gallery.person_ids, gallery.camera_ids),
        same_camera=same_camera,
    )
    rows = [row for row, ranks in enumerate(expected) if ranks]
    if not rows:
        with pytest.raises(InputError):
            rank_distances(distances, query, gallery, same_camera=same_camera)
        return
    report = rank_distances(distances, query, gallery, same_camera=same_camera)
    assert report.query_rows.tolist() == rows
    assert report.first_match_ranks.tolist() == [expected[row][0] for row in rows]
    assert report.inverse_penalties.tolist() == [len(expected[row]) / expected[row][-1] for row in rows]
    precisions = [np.mean([place / r for place, r in enumerate(expected[row], start=1)]) for row in rows]
    assert report.average_precisions == pytest.approx(precisions)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_without_ties_like_the_plain_evaluator(seed: int) -> None:
    (q, qp, qc), (g, gp, gc) = reid_features(
        12, 90, n_distractors=15, n_ids=6, dim=16, noise=1.5, camera_shift=0.6, salt=seed % 10_000
    )
    query = LabelledEmbeddings(vectors=q, person_ids=qp, camera_ids=qc)
    gallery = LabelledEmbeddings(vectors=g, person_ids=gp, camera_ids=gc)
    report = rank(query, gallery)
    exact = squared_distances(query.unit.astype(np.float64), gallery.unit.astype(np.float64))
    twin = plain_figures(exact, (qp, qc), (gp, gc))
    assert (report.mAP, report.mINP) == (pytest.approx(twin.mAP), pytest.approx(twin.mINP))
    assert report.cmc == pytest.approx(twin.cmc)
    ranks = np.zeros(12, int)
    ranks[report.query_rows] = report.first_match_ranks
    assert ranks.tolist() == twin.first_match_ranks


def test_distances_come_whole_or_in_blocks() -> None:
    query, gallery = random_embeddings(1, 8, people=3), random_embeddings(2, 25, people=3)
    distances = 1.0 - query.unit @ gallery.unit.T
    before = distances.copy()
    report = rank_distances(distances, query, gallery)
    assert same(report, rank(query, gallery))  # junk in both
    assert same(report, rank_distances((distances[start : start + 3] for start in (0, 3, 6)), query, gallery))
    assert (distances == before).all()


@pytest.mark.parametrize(
    ("distances", "message"),
    [
        (np.zeros((2, 3)), r"distances have shape \(2, 3\); expected one column per gallery image, 4"),
        (np.zeros((1, 4)), "distances of 1 queries were given; expected 2"),
        (np.zeros((3, 4)), "distances of 3 queries were given; expected 2"),
        (np.array([[0, 1, 2, 3], [0, 1, np.nan, 3]]), "distances of query 1 are not all finite"),
    ],
)
def test_distances_that_do_not_fit_are_refused(distances: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        rank_distances(distances, embeddings([QUERY, QUERY]), embeddings(GALLERY))


def parity_report(**settings: Any) -> RankingReport:
    (q, qp, qc), (g, gp, gc) = reid_features(**settings)
    query = LabelledEmbeddings(vectors=q, person_ids=qp, camera_ids=qc)
    return rank(query, LabelledEmbeddings(vectors=g, person_ids=gp, camera_ids=gc))


def test_published_numbers_small() -> None:
    report = parity_report(n_query=60, n_gallery=400, n_distractors=80, n_ids=20, dim=64, noise=1.5, camera_shift=0.6)
    numbers = NUMBERS["evaluation_small"]
    assert report.mAP == pytest.approx(numbers["mAP"], abs=1e-6)
    assert report.mINP == pytest.approx(numbers["mINP"], abs=1e-6)
    assert report.cmc[:20] == pytest.approx(numbers["cmc_1_to_20"], abs=1e-6)


@pytest.mark.slow
def test_published_numbers_at_market_size() -> None:
    figures = parity_report().figures()
    for name, number in NUMBERS["evaluation_market_size"].items():
        assert figures[name] == pytest.approx(number, abs=1e-6), name


def test_labels_without_embeddings_are_enough_for_distances() -> None:
    query = Labels(person_ids=np.array([1]), camera_ids=np.array([1]))
    gallery = Labels(person_ids=np.array([2, 1]), camera_ids=np.array([2, 2]))
    assert rank_distances(np.array([[0.1, 0.2]]), query, gallery).first_match_ranks.tolist() == [2]
