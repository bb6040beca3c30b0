"""The gallery: enroll images of people, then ask who is on a new one, or where else somebody was seen.

In: images of any kind that images.py takes, or embeddings. Out: matches and identities. A path opens the embedded store
(one file), an address such as ``http://milvus:19530/people`` the same gallery on a Milvus cluster. A gallery belongs to
one model: embeddings of another one are refused.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from modelscope_reid.embedder import Embedder
from modelscope_reid.errors import InputError
from modelscope_reid.gallery import identification
from modelscope_reid.gallery.clustering import Cluster, cluster_vectors
from modelscope_reid.gallery.enrolment import Preparation, embedded
from modelscope_reid.gallery.entries import (
    Enrolment,
    Entry,
    Filters,
    Finding,
    GalleryInfo,
    GalleryStats,
    Identity,
    Match,
)
from modelscope_reid.gallery.gallery_tables import write_entries
from modelscope_reid.gallery.identification import Method, Rule, fuse, judged
from modelscope_reid.gallery.labels import Name, Time, name_of, seconds_of, strictly
from modelscope_reid.gallery.places import check_model, create_store, describe_model, info_of, open_store
from modelscope_reid.gallery.store import Block, Store
from modelscope_reid.images import ImageSource, is_single_image
from modelscope_reid.ranking.similarity import normalize

BATCH_BYTES = 2**24
"""How many bytes of vectors are enrolled or copied at once: 8,192 vectors of 512 numbers."""

Images = ImageSource | Iterable[ImageSource]
Names = Name | Iterable[Name]
Times = Time | Iterable[Time]


class Gallery:
    """Enrolled images of people, and the model that they were embedded with. Safe to use from several threads.

    Without an `embedder` it takes and compares embeddings only. A context manager: leaving it closes it.

    Raises:
        InputError: the gallery was made with another model than `embedder` (it names both).
    """

    def __init__(self, store: Store, embedder: Embedder | None = None) -> None:
        self.store = store
        self.embedder = embedder
        if embedder is not None:
            check_model(store, info_of(embedder))

    @classmethod
    def open(cls, address: str | os.PathLike[str], embedder: Embedder | None = None, *, create: bool = True) -> Gallery:
        """Open the gallery at a path or an address; with an embedder and `create`, one that is not there is made.

        Raises:
            InputError: no gallery is there and none is to be made, or it was made with another model.
            GalleryError: it is damaged or no gallery, or the server does not answer.
        """
        store = open_store(address)
        if store is None and embedder is not None and create:
            store = create_store(address, info_of(embedder))
        if store is None:
            raise InputError(f"there is no gallery {address}; enroll images into it first, or check the spelling.")
        try:
            return cls(store, embedder)
        except InputError:
            store.close()
            raise

    @classmethod
    def create(cls, address: str | os.PathLike[str], info: GalleryInfo) -> Gallery:
        """Make an empty gallery for embeddings of the model that `info` tells of, or open the one that is there.

        Raises:
            InputError: the one that is there is another model's.
            GalleryError: it cannot be made.
        """
        store = create_store(address, info)
        try:
            check_model(store, info)
        except InputError:
            store.close()
            raise
        return cls(store)

    def enroll(
        self,
        images: Images,
        *,
        person_ids: Names = None,
        camera_ids: Names = None,
        timestamps: Times = None,
        thumbnails: bool = True,
        batch: int = 256,
        progress: bool = False,
    ) -> Enrolment:
        """Embed and keep images that are not there yet; labels are one for all, or one for each image.

        An image is known again by its content: enrolling it twice changes nothing, its labels included. After an
        interruption the same call goes on where it was. A camera-aware model is told of no camera, as for queries.

        Raises:
            InputError: no embedder, or labels that do not fit.
            GalleryError: the gallery cannot be written; batches before stay.
        """
        parts = self.enroll_batches(
            images,
            person_ids=person_ids,
            camera_ids=camera_ids,
            timestamps=timestamps,
            thumbnails=thumbnails,
            batch=batch,
            progress=progress,
        )
        return _summed(parts)

    def enroll_batches(
        self,
        images: Images,
        *,
        person_ids: Names = None,
        camera_ids: Names = None,
        timestamps: Times = None,
        thumbnails: bool = True,
        batch: int = 256,
        progress: bool = False,
    ) -> Iterator[Enrolment]:
        """Enroll as `enroll` does, and yield after each batch of images, once it is kept for good."""
        embedder = self._embedder()
        if batch < 1:
            raise InputError(f"batch is {batch}; expected 1 or more images.")
        sources: Any = [images] if is_single_image(images) else images
        total = len(sources) if hasattr(sources, "__len__") else None
        labelled = strictly(sources, person_ids=person_ids, camera_ids=camera_ids, timestamps=timestamps)
        preparation = Preparation(
            self.store.known, limits=embedder.limits, threads=embedder.decode_threads, thumbnails=thumbnails
        )
        with tqdm(total=total, unit="image", disable=not progress) as bar:
            for prepared in preparation.batches(labelled, batch):
                added = self.store.add(embedded(prepared, embedder))
                known = prepared.size - added - len(prepared.failures)
                yield Enrolment(added=added, known=known, failures=prepared.failures)
                bar.update(prepared.size)

    def enroll_embeddings(
        self,
        embeddings: ArrayLike,
        *,
        keys: Iterable[str] | None = None,
        person_ids: Names = None,
        camera_ids: Names = None,
        timestamps: Times = None,
        sources: str | Iterable[str] = "",
    ) -> Enrolment:
        """Keep embeddings (N, D) that were computed before, of any length; without `keys` the bytes are the key.

        Raises:
            InputError: another model's dimension, a vector that is zero or not finite, or labels that do not fit.
            GalleryError: the gallery cannot be written; batches before stay.
        """
        vectors = self._unit(embeddings)
        given = strictly(
            (hashlib.sha256(row.tobytes()).hexdigest() for row in vectors) if keys is None else keys,
            person_ids=person_ids,
            camera_ids=camera_ids,
            timestamps=timestamps,
            sources=sources,
        )
        entries = tuple(
            Entry(
                key=key,
                person_id=name_of(row["person_ids"]),
                camera_id=name_of(row["camera_ids"]),
                timestamp=seconds_of(row["timestamps"]),
                source=row["sources"],
            )
            for key, row in given
        )
        added = sum(self.store.add(part) for part in _parts(Block(entries=entries, vectors=vectors)))
        return Enrolment(added=added, known=len(entries) - added)

    def search(self, queries: Images, **options: Any) -> list[list[Match]]:
        """Embed the queries and search; options as `search_embeddings` has them."""
        return self.search_embeddings(self._embedder().embed(queries), **options)

    def search_embeddings(
        self,
        queries: ArrayLike,
        *,
        top: int = 10,
        exclude_camera: Names = None,
        filters: Filters | Sequence[Filters] = Filters.EVERYTHING,
        exact: bool = False,
        rerank: bool = False,
    ) -> list[list[Match]]:
        """Return the `top` most similar entries of each query (Q, D), fewer only where fewer pass the filters.

        `exclude_camera` leaves out entries of one camera, or of each query's own. `filters` is one for all or one for
        each. `exact` compares with every entry. `rerank` puts the nearest 50 in order by k-reciprocal neighbours.

        Raises:
            InputError: queries of another dimension, or options that do not fit.
            GalleryError: the gallery cannot be read.
        """
        if top < 1:
            raise InputError(f"top is {top}; expected 1 or more.")
        unit = self._unit(queries)
        wanted = _filters(len(unit), filters, exclude_camera)
        hits = identification.search(self.store, unit, top=top, filters=wanted, exact=exact, rerank=rerank)
        verifier = self.embedder.verifier if self.embedder is not None else None
        return [[judged(hit, verifier) for hit in found] for found in hits]

    def identify(self, queries: Images, **options: Any) -> list[Identity]:
        """Embed the queries and say who is on each; options as `identify_embeddings` has them."""
        return self.identify_embeddings(self._embedder().embed(queries), **options)

    def identify_embeddings(
        self,
        queries: ArrayLike,
        *,
        method: Method = "nearest",
        neighbours: int = 10,
        tracks: Sequence[Any] | None = None,
        threshold: float | None = None,
        closed: bool = False,
        exclude_camera: Names = None,
        filters: Filters | Sequence[Filters] = Filters.EVERYTHING,
        rerank: bool = False,
    ) -> list[Identity]:
        """Return who each query (Q, D) is, or with `tracks`, one label for each query, who each track is.

        Queries of one track are of one person, and answered once, in the order in which tracks first come. `method`,
        `neighbours`, `threshold`, `closed` and `rerank` are those of `identification.Rule`.

        Raises:
            InputError: queries or options that do not fit, or no threshold and no calibrated model.
            GalleryError: the gallery cannot be read.
        """
        rule = Rule(method=method, neighbours=neighbours, threshold=threshold, closed=closed, rerank=rerank)
        unit = self._unit(queries)
        wanted = _filters(len(unit), filters, exclude_camera)
        if tracks is not None:
            unit, wanted = fuse(unit, wanted, tracks)
        verifier = self.embedder.verifier if self.embedder is not None else None
        return identification.identify(self.store, unit, filters=wanted, rule=rule, verifier=verifier)

    def cluster(
        self, *, threshold: float | None = None, filters: Filters = Filters.EVERYTHING, thumbnails: bool = False
    ) -> list[Cluster]:
        """Group entries into people by average linkage, the largest group first; see `clustering`.

        `threshold` None is the similarity from which the calibrated model calls two images the same person.
        `thumbnails` reads them too, for a contact sheet.

        Raises:
            InputError: no threshold and no calibrated model, or so low a one that too many images hang together.
        """
        verifier = self.embedder.verifier if self.embedder is not None else None
        if threshold is None and verifier is None:
            raise InputError("the model is not calibrated; pass threshold=, a cosine similarity.")
        least = verifier.thresholds.same_from if threshold is None and verifier is not None else threshold
        blocks = list(self.store.blocks(filters, thumbnails=thumbnails))
        entries = [entry for block in blocks for entry in block.entries]
        vectors = [np.empty((0, self.store.info.dimension), np.float32), *(block.vectors for block in blocks)]
        groups = cluster_vectors(np.concatenate(vectors), threshold=float(least if least is not None else 0.0))
        members: list[list[Entry]] = [[] for _ in range(int(groups.max(initial=-1)) + 1)]
        for entry, group in zip(entries, groups.tolist(), strict=True):
            members[group].append(entry)
        return [Cluster(entries=tuple(group)) for group in members]

    def delete_person(self, person_id: Name) -> int:
        """Remove every trace of a person; return how many entries that were.

        Raises:
            InputError: nobody of that name is there.
        """
        name = name_of(person_id)
        deleted = self.store.delete_person(name) if name is not None else 0
        if not deleted:
            raise InputError(f"{self.store.address} has nobody called {person_id!r}; check the spelling.")
        return deleted

    def people(self, *, beginning: str = "", limit: int = 50) -> list[tuple[str, int]]:
        """Return the first `limit` people in alphabetical order whose name begins so, each with how many entries."""
        return self.store.people(beginning=beginning, limit=limit)

    def page(self, filters: Filters = Filters.EVERYTHING, *, after: str = "", limit: int = 24) -> list[Entry]:
        """Return `limit` entries that pass, with thumbnails, from the one behind the key `after` on; see `Store`."""
        return self.store.page(filters, after=after, limit=limit)

    def thumbnails(self, matches: Iterable[Match]) -> dict[str, bytes]:
        """Return the thumbnails of matches by the keys of their entries, for those that have one."""
        return self.store.thumbnails([match.entry.key for match in matches])

    def export(self, output: str | Path, *, filters: Filters = Filters.EVERYTHING) -> int:
        """Write entries and unit vectors to .npz, .parquet or .jsonl; return how many."""
        return write_entries(output, self.store.blocks(filters), dimension=self.store.info.dimension)

    def copy_to(self, address: str | os.PathLike[str]) -> Enrolment:
        """Add every entry to the gallery at another path or address, made where there is none; embeds nothing.

        Raises:
            InputError: the gallery there was made with another model.
            GalleryError: either cannot be read or written; copying again goes on where it was.
        """
        with Gallery.create(address, self.store.info) as other:
            added = total = 0
            for block in self.store.blocks(thumbnails=True):
                total += len(block)
                added += sum(other.store.add(part) for part in _parts(block))
        return Enrolment(added=added, known=total - added)

    def verify(self) -> list[Finding]:
        """Look at everything, and say in a sentence each what is right and what is not."""
        return self.store.verify()

    def stats(self) -> GalleryStats:
        """Count entries, people and cameras."""
        return self.store.stats()

    def close(self) -> None:
        """Let go of files and connections."""
        self.store.close()

    def __enter__(self) -> Gallery:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _embedder(self) -> Embedder:
        if self.embedder is None:
            raise InputError("the gallery was opened without an embedder; open it with one, or pass embeddings.")
        return self.embedder

    def _unit(self, embeddings: ArrayLike) -> NDArray[np.float32]:
        """Return embeddings (N, D) at unit length, checked against the gallery's dimension."""
        unit = normalize(embeddings)
        if unit.shape[1] != self.store.info.dimension:
            raise InputError(
                f"embeddings have {unit.shape[1]} numbers, and {self.store.address} holds those of "
                f"{describe_model(self.store.info)}; use the same model."
            )
        return unit


def _filters(count: int, filters: Filters | Sequence[Filters], exclude_camera: Any) -> list[Filters]:
    """Return one filter for each of `count` queries."""
    given = [filters] * count if isinstance(filters, Filters) else list(filters)
    if len(given) != count:
        raise InputError(f"{count} queries and {len(given)} filters; expected one for all, or one for each.")
    wanted = []
    for one, row in strictly(given, exclude_camera=exclude_camera):
        camera = name_of(row["exclude_camera"])
        extra = () if camera is None else (camera,)
        wanted.append(replace(one, exclude_cameras=one.exclude_cameras + extra) if extra else one)
    return wanted


def _parts(block: Block) -> Iterator[Block]:
    """Yield a block in parts of at most BATCH_BYTES of vectors."""
    step = max(1, BATCH_BYTES // (4 * block.vectors.shape[1]))
    for start in range(0, len(block), step):
        rows = slice(start, start + step)
        yield Block(entries=block.entries[rows], vectors=block.vectors[rows])


def _summed(parts: Iterable[Enrolment]) -> Enrolment:
    every = list(parts)
    return Enrolment(
        added=sum(part.added for part in every),
        known=sum(part.known for part in every),
        failures=tuple(failure for part in every for failure in part.failures),
    )
