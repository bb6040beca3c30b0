"""Who is it, worked out by hand: directions in the plane, and who stands where."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from gallery_places import toward

from modelscope_reid.errors import InputError
from modelscope_reid.gallery.entries import Filters, GalleryInfo, Identity
from modelscope_reid.gallery.gallery import Gallery
from modelscope_reid.gallery.identification import Rule, fuse
from modelscope_reid.ranking.reranking import rerank as rerank_distances


@pytest.fixture
def gallery(tmp_path: Path) -> Iterator[Gallery]:
    """Ann at 0 degrees; Bob at 8, 10 and 32; nobody at 5; Cid at 90, by camera 2."""
    with Gallery.create(tmp_path / "gallery.db", GalleryInfo(fingerprint="toy", dimension=2)) as opened:
        opened.enroll_embeddings(
            toward(0, 8, 10, 32, 5, 90),
            keys="abcdef",
            person_ids=["Ann", "Bob", "Bob", "Bob", None, "Cid"],
            camera_ids=[1, 1, 1, 1, 1, 2],
        )
        yield opened


def one(gallery: Gallery, angle: float, **options: object) -> Identity:
    return gallery.identify_embeddings(toward(angle), **{"closed": True, **options})[0]  # type: ignore[arg-type]


def test_each_method(gallery: Gallery) -> None:
    assert one(gallery, 3.0).person_id == "Ann"  # 3 degrees away, Bob's nearest is 5; nobody's image has no say
    assert one(gallery, 3.0).similarity == pytest.approx(np.cos(np.deg2rad(3)))
    assert one(gallery, 3.0, method="vote", neighbours=3).person_id == "Bob"  # two of three
    assert one(gallery, 3.0, method="vote", neighbours=3).similarity == pytest.approx(np.cos(np.deg2rad(5)))
    assert one(gallery, 3.0, method="vote", neighbours=1).person_id == "Ann"
    bob = toward(8, 10, 32).mean(axis=0)
    found = one(gallery, 9.0, method="centroid", neighbours=3)  # Ann is 9 away, the middle of Bob's 7.6
    assert found.person_id == "Bob"
    assert found.similarity == pytest.approx(float(toward(9.0)[0] @ bob / np.linalg.norm(bob)), abs=1e-6)
    assert (
        one(gallery, 5.0, method="centroid", neighbours=3).person_id == "Ann"
    )  # 5 against 11.6, though Bob's are near


def test_one_close_image_outvotes_two_far_ones(gallery: Gallery) -> None:
    assert (
        one(gallery, -40.0, method="vote", neighbours=4).person_id == "Ann"
    )  # 20 * (cos 40 - cos 48) is 1.9, e^1.9 > 3


def test_who_is_not_similar_enough_is_unknown(gallery: Gallery) -> None:
    found = one(gallery, 60.0, closed=False, threshold=0.9)  # 28 and 30 degrees: 0.88 and 0.87
    assert (found.person_id, found.probability) == (None, None)
    assert found.similarity == pytest.approx(np.cos(np.deg2rad(28)))
    assert found.matches[0].entry.person_id == "Bob"
    assert one(gallery, 60.0, closed=False, threshold=0.88).person_id == "Bob"
    with pytest.raises(InputError, match="the model is not calibrated"):
        one(gallery, 60.0, closed=False)


def test_filters_and_cameras(gallery: Gallery) -> None:
    assert one(gallery, 85.0, exclude_camera=2).person_id == "Bob"
    assert one(gallery, 0.0, filters=Filters(persons=("Cid",))).person_id == "Cid"
    nobody = one(gallery, 0.0, filters=Filters(persons=("Dan",)))
    assert (nobody.person_id, nobody.similarity, nobody.matches) == (None, None, ())
    for method in ("vote", "centroid"):
        assert one(gallery, 0.0, method=method, filters=Filters(persons=("Dan",))).similarity is None


def test_queries_of_one_track_are_answered_once(gallery: Gallery) -> None:
    found = gallery.identify_embeddings(toward(70, 0, 100, 2), tracks=["x", "y", "x", "y"], closed=True)
    assert [identity.person_id for identity in found] == ["Cid", "Ann"]  # 85 and 1 degrees
    assert found[0].similarity == pytest.approx(np.cos(np.deg2rad(5)))
    cameras = gallery.identify_embeddings(toward(85, 85), tracks=[0, 0], exclude_camera=[2, None], closed=True)
    assert [identity.person_id for identity in cameras] == ["Bob"]
    with pytest.raises(InputError, match="2 queries and 1 tracks"):
        gallery.identify_embeddings(toward(0, 1), tracks=["x"], closed=True)
    with pytest.raises(InputError, match="filters that differ"):
        fuse(toward(0, 1), [Filters(), Filters(since=1.0)], [0, 0])


def test_reranking_is_that_of_the_candidates(tmp_path: Path) -> None:
    """Of 45 entries all are candidates: the order is that of `rerank` on the whole gallery, and not the plain one."""
    random = np.random.default_rng(0)
    vectors = random.standard_normal((46, 8)).astype(np.float32)
    with Gallery.create(tmp_path / "random.db", GalleryInfo(fingerprint="toy", dimension=8)) as gallery:
        gallery.enroll_embeddings(vectors[:45], keys=map(str, range(45)), person_ids=list(range(45)))
        plain, again = (gallery.search_embeddings(vectors[45:], top=45, rerank=rerank)[0] for rerank in (False, True))
        order = np.argsort(rerank_distances(vectors[45:], vectors[:45]).dense()[0]).tolist()
        assert [match.entry.key for match in again[:10]] == [
            str(row) for row in order[:10]
        ]  # later ones tie in float16
        assert [match.entry.key for match in plain] != [match.entry.key for match in again]
        best = gallery.identify_embeddings(vectors[45:], closed=True, rerank=True)[0]
        assert best.person_id == str(order[0]) and best.similarity == again[0].similarity
        single = gallery.search_embeddings(vectors[45:], filters=Filters(persons=("7",)), rerank=True)[0]
        assert [match.entry.key for match in single] == ["7"]


def test_rules_are_checked() -> None:
    with pytest.raises(InputError, match="method is 'best'"):
        Rule(method="best")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="neighbours is 0"):
        Rule(neighbours=0)
