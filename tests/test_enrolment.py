"""From images to entries: keys by content, failures, labels, thumbnails, and going on after an interruption."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from gallery_models import tiny_embedder, write_crops
from PIL import Image

from modelscope_reid.embedder import Embedder
from modelscope_reid.errors import InputError
from modelscope_reid.gallery.enrolment import THUMBNAIL_SIZE, file_content, thumbnail
from modelscope_reid.gallery.gallery import Gallery
from modelscope_reid.ranking.similarity import normalize


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return tiny_embedder()


@pytest.fixture
def gallery(tmp_path: Path, embedder: Embedder) -> Iterator[Gallery]:
    with Gallery.open(tmp_path / "gallery.db", embedder) as opened:
        yield opened


@pytest.fixture
def crops(tmp_path: Path) -> list[Path]:
    return write_crops(tmp_path / "crops", 7)


def test_vectors_are_those_of_the_embedder(gallery: Gallery, embedder: Embedder, crops: list[Path]) -> None:
    gallery.enroll(crops, batch=3)
    block = next(gallery.store.blocks())
    assert [entry.source for entry in block.entries] == [str(path) for path in crops]
    np.testing.assert_allclose(block.vectors, normalize(embedder.embed(crops)), atol=1e-5)


def test_the_same_picture_is_known_however_it_is_given(gallery: Gallery, crops: list[Path]) -> None:
    path = crops[0]
    assert gallery.enroll([path, str(path), path.read_bytes(), bytearray(path.read_bytes())]).to_dict() == {
        "added": 1,
        "known": 3,
        "failures": [],
    }
    image = Image.open(path).convert("RGB")
    pixels = [image, np.asarray(image), io.BytesIO(path.read_bytes())]
    assert gallery.enroll(pixels).added == 1  # decoded pixels are another content than the file, and one another's
    assert gallery.enroll([crops[1]], person_ids="Ann").added == 1
    assert gallery.enroll([crops[1]], person_ids="Bob").known == 1
    assert gallery.stats().people == 1


def test_bad_images_are_listed_with_their_place_and_the_others_enter(gallery: Gallery, crops: list[Path]) -> None:
    crops[1].write_bytes(crops[1].read_bytes()[:300])
    crops[5].write_bytes(b"")
    done = gallery.enroll([*crops, "no such file.jpg", 3], batch=4, person_ids=[*"abcdefghi"])
    assert done.added == 5 and [failure.index for failure in done.failures] == [1, 5, 7, 8]
    assert [failure.source for failure in done.failures][:3] == [str(crops[1]), str(crops[5]), "no such file.jpg"]
    assert crops[1].name in done.failures[0].reason
    assert [entry.person_id for block in gallery.store.blocks() for entry in block.entries] == [*"acdeg"]


def test_batches_are_acknowledged_one_by_one_and_the_rest_later(
    gallery: Gallery, crops: list[Path], embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded: list[int] = []
    embed = Embedder.embed
    monkeypatch.setattr(Embedder, "embed", lambda self, images: embedded.append(len(images)) or embed(self, images))
    batches = gallery.enroll_batches(iter(crops), batch=3)
    assert next(batches).added == 3 and gallery.stats().entries == 3
    assert next(batches).added == 3
    batches.close()  # an interruption
    done = gallery.enroll(crops, batch=3)
    assert (done.added, done.known) == (1, 6) and embedded == [3, 3, 1]


def test_one_image_without_a_list(gallery: Gallery, crops: list[Path]) -> None:
    assert gallery.enroll(str(crops[0]), person_ids=4, camera_ids="door").added == 1
    entry = next(gallery.store.blocks()).entries[0]
    assert (entry.person_id, entry.camera_id, entry.timestamp) == ("4", "door", None)


def test_labels_that_do_not_fit_keep_what_was_acknowledged(gallery: Gallery, crops: list[Path]) -> None:
    with pytest.raises(InputError, match="person_ids has fewer values"):
        gallery.enroll(crops, person_ids=[1, 2, 3, 4], batch=2)
    assert gallery.stats().entries in (2, 4)
    with pytest.raises(InputError, match="batch is 0"):
        gallery.enroll(crops, batch=0)


def test_thumbnails_are_small_and_can_be_left_out(gallery: Gallery, crops: list[Path]) -> None:
    gallery.enroll(crops[:1])
    gallery.enroll(crops[1:2], thumbnails=False)
    kept = [entry.thumbnail for block in gallery.store.blocks(thumbnails=True) for entry in block.entries]
    assert kept[0] is not None and kept[1] is None
    large = Image.open(io.BytesIO(thumbnail(Image.new("RGB", (900, 600), "red"))))
    assert large.size == (64, 43) and large.size[0] <= THUMBNAIL_SIZE[0]
    assert Image.open(io.BytesIO(kept[0])).size == (32, 64)


def test_file_content(crops: list[Path]) -> None:
    assert file_content(crops[0]) == file_content(str(crops[0])) == crops[0].read_bytes()
    for other in (
        "https://example.org/a.jpg",
        "data:image/png;base64,AA==",
        "no such file",
        "a\0b",
        3,
        crops[0].parent,
    ):
        assert file_content(other) is None
