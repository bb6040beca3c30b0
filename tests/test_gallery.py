"""The gallery as people use it: enroll, search, identify, move, delete; on both stores where they could differ."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest
from gallery_models import tiny_embedder, write_crops
from gallery_places import NewPlace, milvus, new_place, toward  # noqa: F401  # fixtures

from modelscope_reid.embedder import Embedder
from modelscope_reid.errors import GalleryError, InputError
from modelscope_reid.gallery.entries import Filters, GalleryInfo
from modelscope_reid.gallery.gallery import Gallery

TOY = GalleryInfo(fingerprint="toy", dimension=2)


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return tiny_embedder()


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_crops(tmp_path_factory.mktemp("crops"), 9)


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[Gallery]:
    """Ann at 0 and 10 degrees by camera 1, Bob at 40 and 50 by camera 2, somebody at 90."""
    with Gallery.create(tmp_path / "toy.db", TOY) as gallery:
        gallery.enroll_embeddings(
            3.0 * toward(0, 10, 40, 50, 90),
            keys="abcde",
            person_ids=["Ann", "Ann", "Bob", "Bob", None],
            camera_ids=[1, 1, 2, 2, -1],
        )
        yield gallery


def test_enroll_search_identify(new_place: NewPlace, embedder: Embedder, crops: list[Path]) -> None:  # noqa: F811
    noon = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)
    with Gallery.open(new_place(), embedder) as gallery:
        done = gallery.enroll(
            crops, person_ids=list(range(9)), camera_ids=[1, 2, 3] * 3, timestamps=[noon] * 9, batch=4
        )
        assert (done.added, done.known, done.failures) == (9, 0, ())
        assert gallery.enroll(crops).to_dict() == {"added": 0, "known": 9, "failures": []}
        found = gallery.search(crops[4], top=3)
        assert len(found) == 1 and len(found[0]) == 3
        best = found[0][0]
        assert (best.entry.person_id, best.entry.camera_id, best.entry.timestamp) == ("4", "2", noon.timestamp())
        assert best.similarity == pytest.approx(1.0, abs=1e-5) and best.entry.source == str(crops[4])
        assert best.decision == "same" and best.probability == pytest.approx(1 / (1 + np.exp(-5.0)), abs=1e-4)
        others = gallery.search(crops, top=2, exclude_camera=[1, 2, 3] * 3)
        assert all(match.entry.camera_id != "2" for match in others[4])
        assert [one.person_id for one in gallery.identify(crops)] == [str(number) for number in range(9)]


def test_the_same_gallery_moves_between_stores_without_embedding(
    new_place: NewPlace,  # noqa: F811
    embedder: Embedder,
    crops: list[Path],
    tmp_path: Path,
) -> None:
    away, back = new_place(), tmp_path / "back.db"
    with Gallery.open(tmp_path / "first.db", embedder) as gallery:
        gallery.enroll(crops, person_ids=[path.name[:7] for path in crops])
        first = gallery.search(crops, top=9)
        assert gallery.copy_to(away).to_dict() == {"added": 9, "known": 0, "failures": []}
        assert gallery.copy_to(away).known == 9
    with Gallery.open(away, embedder, create=False) as gallery:
        assert gallery.copy_to(back).added == 9
    with Gallery.open(back, embedder, create=False) as gallery:
        again = gallery.search(crops, top=9)
        thumbnails = [entry.thumbnail for block in gallery.store.blocks(thumbnails=True) for entry in block.entries]
    assert [[match.entry for match in matches] for matches in again] == [
        [m.entry for m in matches] for matches in first
    ]
    assert [match.similarity for match in again[0]] == pytest.approx([m.similarity for m in first[0]], abs=1e-6)
    assert all(thumbnail is not None and thumbnail.startswith(b"\xff\xd8\xff") for thumbnail in thumbnails)


def test_a_gallery_of_another_model_is_refused(new_place: NewPlace, embedder: Embedder) -> None:  # noqa: F811
    place, other = new_place(), tiny_embedder(seed=5)
    Gallery.open(place, embedder).close()
    with pytest.raises(InputError) as caught:
        Gallery.open(place, other)
    assert embedder.fingerprint[:12] in str(caught.value) and other.fingerprint[:12] in str(caught.value)
    with pytest.raises(InputError, match="do not compare"):
        Gallery.create(place, TOY)
    with Gallery.open(place) as gallery, pytest.raises(InputError, match=r"2 numbers.*20 numbers"):
        gallery.search_embeddings(toward(0.0))


def test_a_gallery_that_is_not_there(new_place: NewPlace, embedder: Embedder, tmp_path: Path) -> None:  # noqa: F811
    place = new_place()
    for options in ({"embedder": embedder, "create": False}, {}):
        with pytest.raises(InputError, match="there is no gallery"):
            Gallery.open(place, **options)
    with pytest.raises(InputError, match="is no place for a gallery"):
        Gallery.open("ftp://somewhere/gallery")
    with pytest.raises(GalleryError, match="cannot be made"):
        Gallery.open(tmp_path / "no folder" / "gallery.db", embedder)


def test_without_an_embedder_there_are_embeddings_only(toy: Gallery) -> None:
    for ask in (toy.search, toy.identify, toy.enroll):
        with pytest.raises(InputError, match="without an embedder"):
            ask("image.jpg")
    assert [match.entry.key for match in toy.search_embeddings(toward(12.0), top=2)[0]] == ["b", "a"]


def test_search_options_are_checked(toy: Gallery) -> None:
    with pytest.raises(InputError, match="top is 0"):
        toy.search_embeddings(toward(0.0), top=0)
    with pytest.raises(InputError, match="exclude_camera has fewer"):
        toy.search_embeddings(toward(0.0, 1.0), exclude_camera=["1"])
    with pytest.raises(InputError, match="2 queries and 1 filters"):
        toy.search_embeddings(toward(0.0, 1.0), filters=[Filters()])
    with pytest.raises(InputError, match="not finite"):
        toy.search_embeddings([[np.nan, 0.0]])


def test_cameras_and_filters_add_up(toy: Gallery) -> None:
    found = toy.search_embeddings(toward(0.0, 0.0), exclude_camera=[1, None], filters=Filters(labelled=True))
    assert ["".join(match.entry.key for match in matches) for matches in found] == ["cd", "abcd"]


def test_embeddings_are_known_by_their_bytes(tmp_path: Path) -> None:
    with Gallery.create(tmp_path / "gallery.db", TOY) as gallery:
        assert gallery.enroll_embeddings(toward(0, 1, 0)).to_dict() == {"added": 2, "known": 1, "failures": []}
        assert gallery.enroll_embeddings(toward(1, 2)).added == 1
        with pytest.raises(InputError, match="2 entries and vectors"):
            gallery.enroll_embeddings(toward(3, 4, 5), keys="xy")


def test_large_vectors_are_enrolled_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelscope_reid.gallery.gallery.BATCH_BYTES", 3 * 8)
    with Gallery.create(tmp_path / "gallery.db", TOY) as gallery:
        sizes = []
        add = gallery.store.add
        monkeypatch.setattr(gallery.store, "add", lambda block: sizes.append(len(block)) or add(block))
        assert gallery.enroll_embeddings(toward(*range(8))).added == 8
    assert sizes == [3, 3, 2]


def test_delete_person(toy: Gallery) -> None:
    assert toy.delete_person("Ann") == 2
    for name in ("Ann", None):
        with pytest.raises(InputError, match="has nobody called"):
            toy.delete_person(name)
    assert [match.entry.key for match in toy.search_embeddings(toward(0.0))[0]] == ["c", "d", "e"]


def test_clusters_and_export(toy: Gallery, tmp_path: Path) -> None:
    groups = toy.cluster(threshold=0.95)  # within 18 degrees
    assert [[entry.key for entry in group.entries] for group in groups] == [["a", "b"], ["c", "d"], ["e"]]
    with pytest.raises(InputError, match="not calibrated"):
        toy.cluster()
    assert toy.export(tmp_path / "all.npz") == 5
    assert toy.export(tmp_path / "ann.npz", filters=Filters(persons=("Ann",))) == 2
    with np.load(tmp_path / "all.npz") as table:
        np.testing.assert_allclose(table["embeddings"], toward(0, 10, 40, 50, 90), atol=1e-6)


KILLED = """
    import sys, time
    import numpy as np
    from modelscope_reid.gallery.entries import GalleryInfo
    from modelscope_reid.gallery.gallery import Gallery

    vectors = np.random.default_rng(0).standard_normal((6000, 64)).astype(np.float32)
    with Gallery.create(sys.argv[1], GalleryInfo(fingerprint="k", dimension=64)) as gallery:
        print("open", flush=True)
        for start in range(0, 6000, 60):
            part = range(start, start + 60)
            people = [str(row % 7) for row in part]
            gallery.enroll_embeddings(vectors[part], keys=map(str, part), person_ids=people)
            print(start + 60, flush=True)
"""


@pytest.mark.slow
def test_killed_at_twenty_moments_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    """Each process goes on where the last one was killed; the last runs to its end."""
    script, place = tmp_path / "enroll.py", tmp_path / "gallery.db"
    script.write_text(textwrap.dedent(KILLED))
    random = np.random.default_rng(0)
    acknowledged = kills = 0
    for _ in range(20):
        process = subprocess.Popen([sys.executable, str(script), str(place)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        line, wanted = "", acknowledged + random.integers(1, 5) * 60
        for line in process.stdout:
            if line.strip().isdigit() and int(line) >= wanted:
                break
        process.kill()  # wherever the next batch is now
        rest = process.stdout.read().split()
        kills += process.wait() == -9
        acknowledged = max(acknowledged, *(int(said) for said in [line.strip(), *rest, "0"] if said.isdigit()))
        with Gallery.open(place) as gallery:
            keys = [entry.key for block in gallery.store.blocks() for entry in block.entries]
            assert len(keys) == len(set(keys)) >= acknowledged and len(keys) % 60 == 0
            assert set(keys) == {str(row) for row in range(len(keys))}
            assert all(finding.passed for finding in gallery.verify())
    assert kills == 20
    subprocess.run([sys.executable, str(script), str(place)], check=True, capture_output=True)
    with Gallery.open(place) as gallery:
        assert gallery.stats().entries == 6000 and gallery.stats().people == 7
