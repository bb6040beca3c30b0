"""One gallery and its model for many callers at once: what the page and the HTTP API are faces of.

In: decoded images, or the bytes of uploads to enroll. Out: the nouns of the gallery. Images that callers of several
threads bring at the same time go through the model together. Knows nothing of HTTP or of pages.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from modelscope_reid.app.micro_batching import MicroBatcher
from modelscope_reid.app.uploads import UploadLimits, explained, read_upload
from modelscope_reid.downloads import one_line
from modelscope_reid.embedder import Embedder
from modelscope_reid.embeddings import Failure
from modelscope_reid.errors import BusyError, InputError, ReidError
from modelscope_reid.explanation import Explanation, explain
from modelscope_reid.gallery.entries import Enrolment, Filters, GalleryStats, Identity, Match
from modelscope_reid.gallery.gallery import Gallery
from modelscope_reid.gallery.labels import Name, Time
from modelscope_reid.preprocess import resize, to_batch
from modelscope_reid.ranking.calibration import Judgement
from modelscope_reid.ranking.similarity import cosine_similarity, normalize

DECODING = 4
"""How many uploads are decoded at once: one of 40 million pixels takes 120 MB until it is resized."""
ENROLLING = 4
"""How many images of an enrolment are decoded at once, for the same reason."""
ENROLMENTS = 8
"""How many enrolments may wait for one another."""
SEARCHING = 4
"""How many threads look into the gallery: each of them has a connection to it, with memory of its own."""
STATS_SECONDS = 5.0
"""How old a count of the gallery may be that `stats` gives: counting a million entries takes a while."""

DEFAULT_LIMITS = UploadLimits()

T = TypeVar("T")


class Service:
    """One gallery and its model for many callers at once. Blocking methods, safe from several threads.

    Up to `waiting` images wait for the model; beyond, `BusyError`. `read_only` refuses to enroll and to delete. The
    gallery stays the caller's, to be closed after the service. `explainer` opens the same model in PyTorch, where its
    own runtime does not show where it looks.

    Raises:
        InputError: a gallery without an embedder.
    """

    def __init__(
        self,
        gallery: Gallery,
        *,
        limits: UploadLimits = DEFAULT_LIMITS,
        waiting: int = 256,
        read_only: bool = False,
        explainer: Callable[[], Embedder] | None = None,
    ) -> None:
        if gallery.embedder is None:
            raise InputError("the gallery was opened without an embedder; open it with one.")
        self.embedder = _limited(gallery.embedder, limits)
        self.gallery = Gallery(gallery.store, self.embedder)
        self.limits = limits
        self.read_only = read_only
        self._explainer = explainer
        self._explaining = threading.Lock()
        self._explained: Embedder | None = None
        self._batcher: MicroBatcher[NDArray[np.uint8]] = MicroBatcher(
            self._run, most=self.embedder.batch_size, waiting=waiting
        )
        self._searching = ThreadPoolExecutor(SEARCHING, thread_name_prefix="gallery")
        self._decoding = threading.BoundedSemaphore(DECODING)
        self._enrolling = threading.Lock()
        self._enrolments = threading.BoundedSemaphore(ENROLMENTS)
        self._stats: tuple[float, GalleryStats] | None = None

    @property
    def waiting(self) -> int:
        """Images that wait for the model."""
        return self._batcher.waiting

    @property
    def most_waiting(self) -> int:
        """Images that may wait for the model."""
        return self._batcher.bound

    def batch_sizes(self) -> dict[int, int]:
        """Return how many calls of the model had how many images, since the start."""
        return self._batcher.sizes()

    def check_room(self, count: int) -> None:
        """Raise `BusyError` where `count` more images would be too many: to be asked before they are decoded."""
        self._batcher.check_room(count)

    def read(self, content: bytes, *, name: str) -> Image.Image:
        """Decode an upload and bring it to the model's size; a few at a time, so that large ones do not add up.

        Embedding it gives the same as embedding what `read_upload` gives.

        Raises:
            TooLargeError: more bytes or pixels than the limits allow.
            ImageError: it is no image, or a damaged one.
        """
        with self._decoding:
            return Image.fromarray(self._resized(read_upload(content, name=name, limits=self.limits)))

    def embed(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Return the embeddings (N, D) of RGB images, each of unit length.

        Raises:
            BusyError: too many images wait.
        """
        return normalize(self._vectors(images))

    def search(
        self,
        images: Sequence[Image.Image],
        *,
        top: int = 10,
        exclude_camera: Name = None,
        filters: Filters = Filters.EVERYTHING,
        rerank: bool = False,
    ) -> list[list[Match]]:
        """Return the `top` most similar entries for each image; see `Gallery.search_embeddings`.

        Raises:
            BusyError: too many images wait.
            InputError: options that do not fit.
            GalleryError: the gallery cannot be read.
        """
        options: dict[str, Any] = {"top": top, "filters": filters, "rerank": rerank, "exclude_camera": exclude_camera}
        return self.search_embeddings(self._vectors(images), **options)

    def search_embeddings(self, embeddings: NDArray[np.float32], **options: Any) -> list[list[Match]]:
        """Search for what `embed` gave, (Q, D); see `Gallery.search_embeddings`."""
        return self._in_gallery(lambda: self.gallery.search_embeddings(embeddings, **options))

    def identify(self, images: Sequence[Image.Image], **options: Any) -> list[Identity]:
        """Say who is on each image; options as `Gallery.identify_embeddings` has them, and raises as it does.

        Raises:
            BusyError: too many images wait.
        """
        return self.identify_embeddings(self._vectors(images), **options)

    def identify_embeddings(self, embeddings: NDArray[np.float32], **options: Any) -> list[Identity]:
        """Say who is on what `embed` gave, (Q, D); see `Gallery.identify_embeddings`."""
        return self._in_gallery(lambda: self.gallery.identify_embeddings(embeddings, **options))

    def compare(self, a: Image.Image, b: Image.Image) -> tuple[float, Judgement | None]:
        """Return the cosine similarity of two images, and what a calibrated model makes of it.

        Raises:
            BusyError: too many images wait.
        """
        vectors = self._vectors([a, b])
        similarity = float(cosine_similarity(vectors[:1], vectors[1:])[0, 0])
        verifier = self.embedder.verifier
        return similarity, verifier.judge(similarity) if verifier is not None else None

    def explain(self, a: Image.Image, b: Image.Image) -> Explanation:
        """Show which regions of two images agree; one call at a time.

        Raises:
            InputError: the model does not run in PyTorch.
        """
        with self._explaining:
            if self._explained is None:
                self._explained = self._explainer() if self._explainer is not None else self.embedder
            return explain(self._explained, a, b)

    def enroll(
        self,
        uploads: Sequence[bytes],
        *,
        names: Sequence[str] | None = None,
        person_id: Name = None,
        camera_id: Name = None,
        timestamp: Time = None,
    ) -> Enrolment:
        """Keep the images of files in the gallery, with one label for all; those that cannot be read are listed.

        `names` is what messages call each file. One enrolment runs at a time.

        Raises:
            BusyError: too many enrolments wait.
            TooLargeError: too many images at once.
            InputError: the service is read only, or a label does not fit.
            GalleryError: the gallery cannot be written.
        """
        self._check_writable()
        self.limits.check_count(len(uploads))
        called = [one_line(name) for name in names] if names is not None else _places(len(uploads))
        with self._one_at_a_time():
            done = self._in_gallery(
                lambda: self.gallery.enroll(
                    list(uploads), person_ids=person_id, camera_ids=camera_id, timestamps=timestamp, batch=ENROLLING
                )
            )
        self._stats = None
        return replace(done, failures=tuple(self._named(failure, uploads, called) for failure in done.failures))

    def delete_person(self, person_id: str) -> int:
        """Remove every trace of a person; return how many entries that were.

        Raises:
            InputError: the service is read only, or nobody has that name.
            GalleryError: the gallery cannot be written.
        """
        self._check_writable()
        with self._one_at_a_time():
            deleted = self._in_gallery(lambda: self.gallery.store.delete_person(person_id) if person_id else 0)
        self._stats = None
        if not deleted:
            raise InputError(f"the gallery has nobody called {one_line(person_id)!r}; check the spelling.")
        return deleted

    def stats(self) -> GalleryStats:
        """Count entries, people and cameras; what others wrote may be missing for some seconds.

        Raises:
            GalleryError: the gallery cannot be read.
        """
        known, now = self._stats, time.monotonic()
        if known is None or now - known[0] > STATS_SECONDS:
            self._stats = known = now, self._in_gallery(self.gallery.stats)
        return known[1]

    def close(self) -> None:
        """End the threads; callers that wait for the model get an error."""
        self._batcher.close()
        self._searching.shutdown()

    def _vectors(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Return embeddings (N, D) as the model gives them, computed together with other callers'."""
        self.check_room(len(images))
        answers = self._batcher.submit([self._resized(image) for image in images])
        rows = [answer.result() for answer in answers]
        return np.concatenate([np.empty((0, self.embedder.embedding_dim), np.float32), *rows])

    def _in_gallery(self, work: Callable[[], T]) -> T:
        """Do something with the gallery in one of the threads that have a connection to it."""
        return self._searching.submit(work).result()

    def _run(self, crops: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Run the model once on crops (H, W, 3) uint8 of its own size -> (N, D)."""
        vectors = self.embedder.runtime.run(to_batch(crops, self.embedder.config.preprocessing))
        if not np.isfinite(vectors).all():
            raise ReidError("the model gave NaN or infinite numbers; its weights are damaged: load another copy.")
        return vectors

    def _resized(self, image: Image.Image) -> NDArray[np.uint8]:
        return resize(image, self.embedder.config.preprocessing)

    def _check_writable(self) -> None:
        if self.read_only:
            raise InputError("this gallery is read only here; ask whoever runs the server to enroll and to delete.")

    @contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        """Wait for other writers, unless too many wait already."""
        if not self._enrolments.acquire(blocking=False):
            raise BusyError(f"{ENROLMENTS} enrolments wait already; try again in a few seconds.")
        try:
            with self._enrolling:
                yield
        finally:
            self._enrolments.release()

    def _named(self, failure: Failure, uploads: Sequence[bytes], names: Sequence[str]) -> Failure:
        """Return a failure that calls the upload by its name."""
        content, name = uploads[failure.index], names[failure.index]
        if len(content) > self.limits.max_bytes:
            reason = f"{name} has {len(content):,} bytes, more than {self.limits.max_bytes:,}; send a smaller file."
        else:
            reason = str(explained(failure.reason, content, name=name, limits=self.limits))
        return Failure(index=failure.index, source=name, reason=reason)


def _limited(embedder: Embedder, limits: UploadLimits) -> Embedder:
    """Return an embedder of the same model that takes no larger images than `limits` allow."""
    return Embedder(
        embedder.runtime,
        embedder.config,
        report=embedder.report,
        verifier=embedder.verifier,
        batch_size=embedder.batch_size,
        decode_threads=embedder.decode_threads,
        limits=limits.of_one_image(),
    )


def _places(count: int) -> list[str]:
    return [f"image {place}" for place in range(count)]
