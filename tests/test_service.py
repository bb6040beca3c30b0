"""One gallery for many callers: the answers are the gallery's own, whoever asks beside."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from gallery_models import tiny_embedder
from numpy.typing import NDArray
from PIL import Image
from serving import CROPS, drawn_gallery, huge_png

from modelscope_reid.app.service import ENROLMENTS, Service
from modelscope_reid.app.uploads import UploadLimits, read_upload
from modelscope_reid.datasets.synthetic import draw_sample_crops
from modelscope_reid.errors import BusyError, GalleryError, InputError, ReidError, TooLargeError
from modelscope_reid.gallery.entries import Filters
from modelscope_reid.gallery.gallery import Gallery

LIMITS = UploadLimits()


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gallery]:
    with drawn_gallery(tmp_path_factory.mktemp("service")) as opened:
        yield opened


@pytest.fixture
def service(gallery: Gallery) -> Iterator[Service]:
    made = Service(gallery)
    yield made
    made.close()


@pytest.fixture(scope="module")
def queries(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Other crops: eight people, four of them enrolled, seen by four cameras."""
    return draw_sample_crops(tmp_path_factory.mktemp("queries"), people=8, cameras=4)


def opened(paths: list[Path]) -> list[Image.Image]:
    return [read_upload(path.read_bytes(), name=path.name, limits=LIMITS) for path in paths]


def test_embed_is_the_embedders(service: Service, gallery: Gallery, queries: list[Path]) -> None:
    expected = gallery.embedder.embed(queries, normalize=True)
    assert np.abs(service.embed(opened(queries)) - expected).max() < 1e-5
    assert service.embed([]).shape == (0, expected.shape[1])
    assert service.batch_sizes() == {32: 1}


def test_one_image_alone_gives_the_very_same_digits(service: Service, gallery: Gallery, queries: list[Path]) -> None:
    (image,) = opened(queries[:1])
    assert np.array_equal(service.embed([image]), gallery.embedder.embed(queries[0], normalize=True))


def test_what_read_gives_is_embedded_as_the_whole_image_is(service: Service, queries: list[Path]) -> None:
    small = [service.read(path.read_bytes(), name="a") for path in queries[:4]]
    height, width = service.embedder.config.preprocessing.image_size
    assert {image.size for image in small} == {(width, height)}
    assert np.array_equal(service.embed(small), service.embed(opened(queries[:4])))
    with pytest.raises(TooLargeError, match="a has more than 40,000,000 pixels"):
        service.read(huge_png(), name="a")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"top": 3, "exclude_camera": "2"},
        {"rerank": True, "top": 5},
        {"filters": Filters(cameras=("1", "3"), persons=("person01", "person02"))},
        {"filters": Filters(since=3600.0, until=7200.0)},
    ],
)
def test_search_is_the_gallerys_to_the_digit(
    service: Service, gallery: Gallery, queries: list[Path], options: dict[str, object]
) -> None:
    assert service.search(opened(queries[:1]), **options) == gallery.search(queries[:1], **options)
    assert service.search(opened(queries[:5]), **options) == gallery.search(queries[:5], **options)


@pytest.mark.parametrize(
    "options", [{}, {"method": "vote", "neighbours": 3}, {"method": "centroid", "closed": True}, {"threshold": 0.99}]
)
def test_identify_is_the_gallerys_to_the_digit(
    service: Service, gallery: Gallery, queries: list[Path], options: dict[str, object]
) -> None:
    assert service.identify(opened(queries[:5]), **options) == gallery.identify(queries[:5], **options)


def test_compare(service: Service, gallery: Gallery) -> None:
    a, b = opened(CROPS[:2])
    similarity, judgement = service.compare(a, b)
    vectors = gallery.embedder.embed(CROPS[:2], normalize=True)
    assert similarity == pytest.approx(float(vectors[0] @ vectors[1]), abs=1e-6)
    assert judgement == gallery.embedder.verifier.judge(similarity)


def test_without_calibration_nothing_is_judged(tmp_path: Path) -> None:
    with Gallery.open(tmp_path / "g.db", tiny_embedder(verifier=None)) as opened_gallery:
        service = Service(opened_gallery)
        assert service.compare(*opened(CROPS[:2]))[1] is None
        service.close()


def test_32_callers_each_get_their_own_answer(service: Service, gallery: Gallery, queries: list[Path]) -> None:
    images = opened(queries)
    alone = [gallery.search([path])[0] for path in queries]
    with ThreadPoolExecutor(32) as callers:
        found = list(callers.map(lambda image: service.search([image])[0], images * 4))
    for expected, matches in zip(alone * 4, found, strict=True):
        assert [match.entry.key for match in matches] == [match.entry.key for match in expected]
        for match, other in zip(matches, expected, strict=True):
            assert match.similarity == pytest.approx(other.similarity, abs=1e-5)
    calls = service.batch_sizes()
    assert sum(size * count for size, count in calls.items()) == 128 and sum(calls.values()) < 100


class Held:
    """A runtime that waits until it is let."""

    def __init__(self, runtime: object) -> None:
        self.runtime = runtime
        self.begun, self.go = threading.Semaphore(0), threading.Event()
        self.fingerprint = runtime.fingerprint

    def run(self, images: NDArray[np.float32], camera_ids: object = None) -> NDArray[np.float32]:
        self.begun.release()
        assert self.go.wait(10)
        return self.runtime.run(images)


def test_busy_before_anything_is_decoded(tmp_path: Path) -> None:
    embedder = tiny_embedder()
    with Gallery.open(tmp_path / "g.db", embedder) as opened_gallery, ThreadPoolExecutor(4) as callers:
        embedder.runtime = held = Held(embedder.runtime)
        service = Service(opened_gallery, waiting=2)
        images = opened(CROPS[:2])
        running = callers.submit(service.embed, images)
        assert held.begun.acquire(timeout=10)
        waiting = callers.submit(service.embed, images)
        while service.waiting < 2:
            time.sleep(0.001)
        with pytest.raises(BusyError, match="2 images wait already, of 2 at most"):
            service.check_room(1)
        with pytest.raises(BusyError, match="2 images wait already, of 2 at most"):
            service.search([None])  # not looked at
        held.go.set()
        assert len(running.result(10)) == len(waiting.result(10)) == 2
        service.close()


def test_numbers_that_are_none_are_an_error_and_the_next_caller_is_answered(tmp_path: Path) -> None:
    class Damaged:
        def __init__(self, runtime: object) -> None:
            self.runtime, self.fingerprint, self.broken = runtime, runtime.fingerprint, True

        def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
            return self.runtime.run(images) * (np.nan if self.broken else 1.0)

    embedder = tiny_embedder()
    with Gallery.open(tmp_path / "g.db", embedder) as opened_gallery:
        embedder.runtime = damaged = Damaged(embedder.runtime)
        service = Service(opened_gallery)
        with pytest.raises(ReidError, match="gave NaN or infinite numbers"):
            service.embed(opened(CROPS[:1]))
        damaged.broken = False
        assert service.embed(opened(CROPS[:1])).shape == (1, 20)
        service.close()


def test_enroll_lists_what_it_cannot_read_and_is_known_again(tmp_path: Path) -> None:
    with Gallery.open(tmp_path / "g.db", tiny_embedder()) as opened_gallery:
        service = Service(opened_gallery, limits=UploadLimits(max_bytes=60_000, max_images=4))
        contents = [CROPS[0].read_bytes(), b"/etc/passwd", huge_png(7000, 6000), bytes(60_001)]
        done = service.enroll(contents, names=["a", "b\n", "c", "d"], person_id="p", camera_id="1", timestamp="60")
        assert (done.added, done.known) == (1, 0)
        assert [(failure.index, failure.source) for failure in done.failures] == [(1, "b\\n"), (2, "c"), (3, "d")]
        assert done.failures[0].reason.startswith("b\\n is no image of a known type")
        assert done.failures[1].reason == "c has more than 40,000,000 pixels; send a smaller image."
        assert done.failures[2].reason == "d has 60,001 bytes, more than 60,000; send a smaller file."
        again = service.enroll(contents[:2])
        assert (again.added, again.known, again.failures[0].source) == (0, 1, "image 1")
        (entry,) = next(opened_gallery.store.blocks()).entries
        assert (entry.person_id, entry.camera_id, entry.timestamp) == ("p", "1", 60.0)
        with pytest.raises(TooLargeError, match="5 images were sent at once, more than 4"):
            service.enroll(contents[:1] * 5)
        service.close()


def test_enrolments_wait_for_one_another_up_to_a_bound(tmp_path: Path) -> None:
    embedder = tiny_embedder()
    with Gallery.open(tmp_path / "g.db", embedder) as opened_gallery, ThreadPoolExecutor(ENROLMENTS) as callers:
        embedder.runtime = held = Held(embedder.runtime)
        service = Service(opened_gallery)
        running = [callers.submit(service.enroll, [crop.read_bytes()]) for crop in CROPS[:ENROLMENTS]]
        assert held.begun.acquire(timeout=10)
        while True:
            try:
                service.enroll([b"x"])
            except BusyError as error:
                assert f"{ENROLMENTS} enrolments wait already" in str(error)
                break
        assert not held.begun.acquire(timeout=0.05)  # one at a time
        held.go.set()
        assert sum(one.result(10).added for one in running) == ENROLMENTS
        service.close()


def test_stats_know_at_once_what_was_enrolled_and_deleted_here(tmp_path: Path) -> None:
    with Gallery.open(tmp_path / "g.db", tiny_embedder()) as opened_gallery:
        service = Service(opened_gallery)
        assert service.stats().entries == 0
        service.enroll([crop.read_bytes() for crop in CROPS[:3]], person_id="p")
        assert (service.stats().entries, service.stats().people) == (3, 1)
        assert service.delete_person("p") == 3
        assert service.stats().entries == 0
        with pytest.raises(InputError, match=r"^the gallery has nobody called 'p'; check the spelling\.$"):
            service.delete_person("p")
        with pytest.raises(InputError, match="nobody called ''"):
            service.delete_person("")
        service.close()


def test_read_only(gallery: Gallery) -> None:
    service = Service(gallery, read_only=True)
    for write in (lambda: service.enroll([CROPS[0].read_bytes()]), lambda: service.delete_person("person01")):
        with pytest.raises(InputError, match="read only"):
            write()
    assert service.stats().people == 4
    service.close()


def test_without_an_embedder_there_is_no_service(gallery: Gallery) -> None:
    with pytest.raises(InputError, match="without an embedder"):
        Service(Gallery(gallery.store))


def test_closed(gallery: Gallery) -> None:
    service = Service(gallery)
    service.close()
    with pytest.raises(GalleryError, match="is being closed"):
        service.embed(opened(CROPS[:1]))
    assert gallery.stats().entries == len(CROPS)  # the gallery is the caller's
