"""Images to entries: what each is by its content, whether it is enrolled already, its picture in small, its vector.

In: images of any kind with their labels, and an embedder. Out: blocks of new entries, batch by batch, with what was
known and what failed. While one batch goes through the network the next one is read and decoded.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from modelscope_reid.downloads import url_scheme
from modelscope_reid.embedder import Embedder
from modelscope_reid.embeddings import Failure
from modelscope_reid.errors import ImageError
from modelscope_reid.gallery.entries import Entry
from modelscope_reid.gallery.labels import name_of, seconds_of
from modelscope_reid.gallery.store import Block
from modelscope_reid.images import ImageLimits, describe_source, load_image
from modelscope_reid.ranking.similarity import normalize

THUMBNAIL_SIZE, THUMBNAIL_QUALITY = (64, 128), 80
"""The most pixels (width, height) of a thumbnail, and its JPEG quality: 2 KB for a crop."""

Labelled = tuple[Any, dict[str, Any]]
"""An image, and its person_ids, camera_ids and timestamps as they were given."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A batch before the network: new entries with their decoded images, how many were known, and what failed."""

    size: int
    entries: tuple[Entry, ...]
    images: tuple[Image.Image, ...]
    known: int
    failures: tuple[Failure, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"size": self.size, "entries": [entry.to_dict() for entry in self.entries], "known": self.known}


class Preparation:
    """Reads and decodes batches of labelled images, one batch ahead of whoever takes them.

    `known` says which keys are enrolled already: those images are not decoded.
    """

    def __init__(
        self, known: Callable[[Sequence[str]], set[str]], *, limits: ImageLimits, threads: int, thumbnails: bool
    ) -> None:
        self._known = known
        self._limits = limits
        self._threads = threads
        self._thumbnails = thumbnails

    def batches(self, images: Iterable[Labelled], size: int) -> Iterator[Prepared]:
        """Yield batches of up to `size` images, in order."""
        images, start = iter(images), 0
        with ThreadPoolExecutor(1) as ahead, ThreadPoolExecutor(self._threads) as pool:
            waiting: Future[Prepared] | None = None
            while batch := list(islice(images, size)):
                coming = ahead.submit(self._prepare, pool, batch, start)
                if waiting is not None:
                    yield waiting.result()
                waiting, start = coming, start + len(batch)
            if waiting is not None:
                yield waiting.result()

    def _prepare(self, pool: ThreadPoolExecutor, batch: list[Labelled], start: int) -> Prepared:
        read = list(pool.map(self._read, [source for source, _ in batch]))
        keys = [found[0] for found in read if not isinstance(found, ImageError)]
        known = self._known(keys)
        new = [None if isinstance(found, ImageError) or found[0] in known else found for found in read]
        decoded = list(pool.map(self._decode, [source for source, _ in batch], new))
        entries, images, failures = [], [], []
        for index, ((source, labels), found, image) in enumerate(zip(batch, read, decoded, strict=True), start=start):
            if isinstance(found, ImageError) or isinstance(image, ImageError):
                reason = found if isinstance(found, ImageError) else image
                failures.append(Failure(index=index, source=_address(source), reason=str(reason)))
            elif image is not None:
                entries.append(self._entry(found[0], source, labels, image))
                images.append(image)
        return Prepared(
            size=len(batch),
            entries=tuple(entries),
            images=tuple(images),
            known=len(batch) - len(entries) - len(failures),
            failures=tuple(failures),
        )

    def _read(self, source: Any) -> tuple[str, Image.Image | None] | ImageError:
        """Return an image's key, and the image itself where it had to be decoded for that."""
        try:
            content = file_content(source)
            if content is not None:
                return hashlib.sha256(content).hexdigest(), None
            image = load_image(source, limits=self._limits)
        except ImageError as error:
            return error
        return hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest(), image

    def _decode(self, source: Any, found: tuple[str, Image.Image | None] | None) -> Image.Image | ImageError | None:
        try:
            return None if found is None else found[1] or load_image(source, limits=self._limits)
        except ImageError as error:
            return error

    def _entry(self, key: str, source: Any, labels: dict[str, Any], image: Image.Image) -> Entry:
        return Entry(
            key=key,
            person_id=name_of(labels["person_ids"]),
            camera_id=name_of(labels["camera_ids"]),
            timestamp=seconds_of(labels["timestamps"]),
            source=_address(source),
            thumbnail=thumbnail(image) if self._thumbnails else None,
        )


def embedded(prepared: Prepared, embedder: Embedder) -> Block:
    """Return the new entries of a batch with their unit vectors."""
    vectors = np.empty((0, embedder.embedding_dim), np.float32)
    if prepared.images:
        vectors = normalize(embedder.embed(list(prepared.images)))
    return Block(entries=prepared.entries, vectors=vectors)


def file_content(source: Any) -> bytes | None:
    """Return the bytes of a file on this machine that `source` names or holds; None where it is of another kind.

    A file that cannot be read is of another kind too: `load_image` says what is wrong with it.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source)
    if isinstance(source, os.PathLike) or (isinstance(source, str) and not url_scheme(source)):
        try:
            return Path(source).read_bytes()
        except (OSError, ValueError):
            return None
    return None


def thumbnail(image: Image.Image) -> bytes:
    """Return a small JPEG file of an RGB image."""
    small = image.copy()
    small.thumbnail(THUMBNAIL_SIZE)
    target = io.BytesIO()
    small.save(target, "JPEG", quality=THUMBNAIL_QUALITY)
    return target.getvalue()


def _address(source: Any) -> str:
    """Name a source as whole as it can be found again: paths in full, URLs without secrets."""
    if isinstance(source, os.PathLike) or (isinstance(source, str) and not url_scheme(source)):
        return os.fspath(source) if isinstance(source, str) else os.fsdecode(source)
    return describe_source(source)
