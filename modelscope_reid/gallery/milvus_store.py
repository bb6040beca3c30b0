"""The store for a cluster: a Milvus server by its address, through pymilvus.

A gallery is one collection: `http://host:19530/name` (the name is `gallery` where it is left out); user, password and
token stand in the address as pymilvus takes them. An entry's key is the primary key, so that an image is in there once
however often it is given. Vectors are of unit length under an HNSW index; every read sees all writes before it
(consistency Strong). Milvus writes a batch whole or not at all, and takes deleted bytes off its disks at its next
compaction, which is asked for at once.
"""

from __future__ import annotations

import base64
import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from modelscope_reid.downloads import public_url
from modelscope_reid.errors import GalleryError, InputError
from modelscope_reid.gallery.entries import Entry, Filters, Finding, GalleryInfo, GalleryStats
from modelscope_reid.gallery.store import LAST_CHARACTER, Block, Hit, search_blocks
from modelscope_reid.libraries import require_library

COLLECTION = "gallery"
TIMEOUT_SECONDS = 30.0
LINKS, BUILD_REACH, SEARCH_REACH = 32, 200, 128
"""HNSW's M, efConstruction and ef."""
READ_ROWS = 1000
"""How many entries are read or looked up at a time."""
MOST_HITS = 16_384
"""How many answers Milvus gives to a query."""
RECONNECTING = {
    "grpc.use_local_subchannel_pool": 1,
    "grpc.max_reconnect_backoff_ms": 1000,
    "grpc.keepalive_time_ms": 300_000,  # gRPC's own rule; a server may hang up on who asks more often
}
"""gRPC would otherwise refuse for up to two minutes to look whether a server that was gone is back; and pymilvus asks
every 10 seconds whether one is there."""
INFO_PROPERTY = "modelscope_reid.gallery"
NAMES, LONG_TEXT = 512, 65_535
"""The longest text of a name or key, and of a source or thumbnail, in bytes."""
NOT_LOADED = 101
"""Milvus's error code for a collection that lies on disk only, as after a restart of milvus-lite."""

_ADDRESS = re.compile(r"(?P<server>(?:https?|tcp)://[^/]+)(?:/(?P<name>[A-Za-z_]\w*)?)?/?")
_FIELDS = ["key", "person_id", "camera_id", "timestamp", "source"]

ResultT = TypeVar("ResultT")


class MilvusStore:
    """A gallery on a Milvus server; see `Store`."""

    def __init__(self, client: Any, address: str, collection: str) -> None:
        self.address = public_url(address)
        self._client = client
        self._collection = collection
        about = self._call(lambda: client.describe_collection(collection, timeout=TIMEOUT_SECONDS))
        text = about.get("properties", {}).get(INFO_PROPERTY) or about.get("description")
        self.info = GalleryInfo.from_json(text, where=self.address)

    def known(self, keys: Sequence[str]) -> set[str]:
        """Return those of `keys` that are enrolled."""
        return {row["key"] for row in self._by_key(keys, ["key"])}

    def add(self, block: Block) -> int:
        """Keep those entries that are not there yet, all or none; once this returns they stay. Return how many."""
        if block.vectors.shape[1] != self.info.dimension:
            raise InputError(f"vectors have {block.vectors.shape[1]} numbers, {self.address} {self.info.dimension}.")
        there = self.known([entry.key for entry in block.entries])
        new = {entry.key: place for place, entry in reversed(list(enumerate(block.entries))) if entry.key not in there}
        rows = [_row(block.entries[place], block.vectors[place]) for place in sorted(new.values())]
        if rows:
            self._call(lambda: self._client.upsert(self._collection, rows, timeout=TIMEOUT_SECONDS))
        return len(rows)

    def search(
        self, queries: NDArray[np.float32], *, top: int, filters: Sequence[Filters], exact: bool = False
    ) -> list[list[Hit]]:
        """Return up to `top` hits for each of the unit vectors (Q, D); `exact` fetches every vector. See `Store`."""
        found: dict[int, list[Hit]] = {}
        for wanted in dict.fromkeys(filters):
            places = [place for place, one in enumerate(filters) if one == wanted]
            chosen = queries[places]
            answers = search_blocks(self.blocks(wanted), chosen, top) if exact else self._nearest(chosen, top, wanted)
            found.update(zip(places, answers, strict=True))
        return [found[place] for place in range(len(filters))]

    def _nearest(self, queries: NDArray[np.float32], top: int, filters: Filters) -> list[list[Hit]]:
        if top > MOST_HITS:
            raise InputError(f"top is {top}; Milvus answers with {MOST_HITS:,} entries at most.")
        answers = self._call(
            lambda: self._client.search(
                self._collection,
                data=queries,
                limit=top,
                filter=_expression(filters),
                output_fields=_FIELDS,
                search_params={"params": {"ef": max(SEARCH_REACH, 2 * top)}},
                timeout=TIMEOUT_SECONDS,
            )
        )
        return [
            [Hit(entry=_entry(hit["entity"]), similarity=float(hit["distance"])) for hit in answer]
            for answer in answers
        ]

    def vectors(self, keys: Sequence[str]) -> NDArray[np.float32]:
        """Return the unit vectors (N, D) of enrolled keys, in their order."""
        rows = {row["key"]: row["vector"] for row in self._by_key(keys, ["key", "vector"])}
        missing = [key for key in keys if key not in rows]
        if missing:
            raise InputError(f"{self.address} has no entry {missing[0]!r}; pass keys of enrolled images.")
        return np.array([rows[key] for key in keys], np.float32).reshape(len(keys), self.info.dimension)

    def blocks(self, filters: Filters = Filters.EVERYTHING, *, thumbnails: bool = False) -> Iterator[Block]:
        """Yield every entry that passes, in the order of their keys."""
        fields = [*_FIELDS, "vector", *(["thumbnail"] if thumbnails else [])]
        for rows in self._pages(_expression(filters), fields):
            vectors = np.array([row["vector"] for row in rows], np.float32)
            yield Block(entries=tuple(_entry(row) for row in rows), vectors=vectors)

    def page(self, filters: Filters = Filters.EVERYTHING, *, after: str = "", limit: int = 24) -> list[Entry]:
        """Return the next `limit` entries that pass, with thumbnails, in the order of their keys; see `Store`."""
        condition = " and ".join(part for part in (_expression(filters), after and f"key > {_text(after)}") if part)
        return [_entry(row) for row in self._page(condition, [*_FIELDS, "thumbnail"], limit=limit)]

    def thumbnails(self, keys: Sequence[str]) -> dict[str, bytes]:
        """Return the thumbnails, by key, of those of `keys` that have one."""
        rows = self._by_key(keys, ["key", "thumbnail"])
        return {row["key"]: base64.b64decode(row["thumbnail"]) for row in rows if row["thumbnail"]}

    def people(self, *, beginning: str = "", limit: int = 50) -> list[tuple[str, int]]:
        """Return the first `limit` people whose name begins so, by reading the names of all of these; see `Store`."""
        condition = "person_id is not null"
        if beginning:
            last = _text(beginning + LAST_CHARACTER)
            condition += f" and person_id >= {_text(beginning)} and person_id < {last}"
        names = Counter(row["person_id"] for rows in self._pages(condition, ["key", "person_id"]) for row in rows)
        return sorted(names.items())[:limit]

    def delete_person(self, person_id: str) -> int:
        """Remove a person's entries, and ask Milvus to take their bytes off its disks."""
        wanted = f"person_id == {_text(person_id)}"
        found = self._count(wanted)
        if found:
            self._call(lambda: self._client.delete(self._collection, filter=wanted, timeout=TIMEOUT_SECONDS))
            self._call(lambda: self._client.flush(self._collection, timeout=TIMEOUT_SECONDS))
            self._call(lambda: self._client.compact(self._collection, timeout=TIMEOUT_SECONDS))
        return found

    def stats(self) -> GalleryStats:
        """Count, by reading the labels of every entry."""
        fields = ["key", "person_id", "camera_id"]
        labels = [(row["person_id"], row["camera_id"]) for rows in self._pages("", fields) for row in rows]
        people, cameras = ({label[place] for label in labels} - {None} for place in (0, 1))
        return GalleryStats(
            entries=len(labels),
            people=len(people),
            cameras=len(cameras),
            unlabelled=sum(person is None for person, _ in labels),
            bytes_stored=None,
            index="Milvus HNSW",
        )

    def verify(self) -> list[Finding]:
        """Check that every entry can be read, has a vector of unit length, and that Milvus counts as many."""
        read = odd = 0
        keys: set[str] = set()
        for block in self.blocks():
            read += len(block)
            keys |= {entry.key for entry in block.entries}
            odd += int((np.abs(np.linalg.norm(block.vectors, axis=1) - 1.0) > 1e-3).sum())
        counted = self._count("")
        return [
            Finding(passed=counted == read, sentence=f"Milvus counts {counted} entries, and {read} can be read."),
            Finding(passed=len(keys) == read, sentence=f"{read} entries have {len(keys)} keys."),
            Finding(passed=not odd, sentence=f"{read - odd} of {read} vectors are of unit length."),
        ]

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _by_key(self, keys: Sequence[str], fields: list[str]) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for start in range(0, len(keys), READ_ROWS):
            wanted = list(keys[start : start + READ_ROWS])
            rows += self._query(f"key in {_text(wanted)}", fields)
        return rows

    def _query(self, condition: str, fields: list[str]) -> list[dict[str, Any]]:
        wanted = {"filter": condition, "output_fields": fields, "timeout": TIMEOUT_SECONDS}
        return list(self._call(lambda: self._client.query(self._collection, **wanted)))

    def _pages(self, condition: str, fields: list[str]) -> Iterator[list[dict[str, Any]]]:
        last = ""
        while rows := self._page(" and ".join(filter(None, [condition, last])), fields):
            yield rows
            last = f"key > {_text(rows[-1]['key'])}"

    def _page(self, condition: str, fields: list[str], *, limit: int = READ_ROWS) -> list[dict[str, Any]]:
        """Return the next rows in the order of their keys: Milvus sorts for iterators only."""

        def first_page() -> list[dict[str, Any]]:
            pages = self._client.query_iterator(
                self._collection,
                batch_size=limit,
                limit=limit,
                filter=condition,
                output_fields=fields,
                timeout=TIMEOUT_SECONDS,
            )
            try:
                return list(pages.next())
            finally:
                pages.close()

        return self._call(first_page)

    def _count(self, condition: str) -> int:
        return int(self._query(condition, ["count(*)"])[0]["count(*)"])

    def _call(self, request: Callable[[], ResultT]) -> ResultT:
        """Run a request; once more where the collection had to be loaded first."""
        pymilvus = require_library("pymilvus")

        def loaded() -> ResultT:
            try:
                return request()
            except pymilvus.MilvusException as error:
                if error.code != NOT_LOADED:
                    raise
            self._client.load_collection(self._collection, timeout=TIMEOUT_SECONDS)
            return request()

        return _translated(self.address, loaded)


def open_milvus_store(address: str) -> MilvusStore | None:
    """Open the gallery at an address, None where the server has none of that name.

    Raises:
        GalleryError: the server does not answer, or the collection is no gallery.
        InputError: an address of another form, or pymilvus is not installed.
    """
    client, collection = _connect(address)
    return MilvusStore(client, address, collection) if _is_there(client, address, collection) else None


def create_milvus_store(address: str, info: GalleryInfo) -> MilvusStore:
    """Make an empty gallery at an address, or open the one that is there; raises as `open_milvus_store` does."""
    client, collection = _connect(address)
    if not _is_there(client, address, collection):
        _translated(public_url(address), lambda: _create(client, collection, info))
    return MilvusStore(client, address, collection)


def _is_there(client: Any, address: str, collection: str) -> bool:
    wanted = {"collection_name": collection, "timeout": TIMEOUT_SECONDS}
    return bool(_translated(public_url(address), lambda: client.has_collection(**wanted)))


def _connect(address: str) -> tuple[Any, str]:
    """Return a client and the name of the collection."""
    parts = _ADDRESS.fullmatch(address)
    if parts is None:
        raise InputError(f"{public_url(address)!r} is no address of a Milvus gallery; write http://host:19530/name.")
    pymilvus = require_library("pymilvus")
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL + 1)  # it prints each error, with traces, and raises it
    server = parts["server"]
    return (
        _translated(
            public_url(address),
            lambda: pymilvus.MilvusClient(uri=server, timeout=TIMEOUT_SECONDS, grpc_options=RECONNECTING),
        ),
        parts["name"] or COLLECTION,
    )


def _translated(address: str, request: Callable[[], ResultT]) -> ResultT:
    """Run a request; pymilvus's errors become a `GalleryError` that names the server."""
    pymilvus = require_library("pymilvus")
    try:
        return request()
    except pymilvus.MilvusException as error:
        raise GalleryError(
            f"the Milvus server of {address} did not do as asked ({error.message}); see that it runs and is "
            "reached from here, then try again: what was acknowledged is there."
        ) from error


def _create(client: Any, collection: str, info: GalleryInfo) -> None:
    kinds = require_library("pymilvus").DataType
    about = json.dumps(info.to_dict())
    schema = client.create_schema(auto_id=False, enable_dynamic_field=False, description=about)
    schema.add_field("key", kinds.VARCHAR, max_length=NAMES, is_primary=True)
    for name in ("person_id", "camera_id"):
        schema.add_field(name, kinds.VARCHAR, max_length=NAMES, nullable=True)
    schema.add_field("timestamp", kinds.DOUBLE, nullable=True)
    for name in ("source", "thumbnail"):
        schema.add_field(name, kinds.VARCHAR, max_length=LONG_TEXT)
    schema.add_field("vector", kinds.FLOAT_VECTOR, dim=info.dimension)
    indexes = client.prepare_index_params()
    indexes.add_index("vector", index_type="HNSW", metric_type="IP", params={"M": LINKS, "efConstruction": BUILD_REACH})
    client.create_collection(
        collection,
        schema=schema,
        index_params=indexes,
        consistency_level="Strong",
        properties={INFO_PROPERTY: about},  # milvus-lite keeps no description
        timeout=TIMEOUT_SECONDS,
    )


def _row(entry: Entry, vector: NDArray[np.float32]) -> dict[str, Any]:
    thumbnail = base64.b64encode(entry.thumbnail).decode() if entry.thumbnail else ""
    row = {**entry.to_dict(), "thumbnail": thumbnail, "vector": vector}
    for name, most in (("key", NAMES), ("person_id", NAMES), ("camera_id", NAMES), ("source", LONG_TEXT)):
        if len((row[name] or "").encode()) > most:
            raise InputError(f"{name} of {entry.source[:80]!r} is longer than {most} bytes, Milvus's most; shorten it.")
    return row


def _entry(row: dict[str, Any]) -> Entry:
    thumbnail = row.get("thumbnail") or ""
    return Entry(
        key=row["key"],
        person_id=row.get("person_id"),
        camera_id=row.get("camera_id"),
        timestamp=row.get("timestamp"),
        source=row["source"],
        thumbnail=base64.b64decode(thumbnail) if thumbnail else None,
    )


def _text(value: str | Sequence[str]) -> str:
    """Return a text, or a list of them, as Milvus's expressions write it."""
    return json.dumps(value, ensure_ascii=False)


def _expression(filters: Filters) -> str:
    """Return filters as an expression of Milvus."""
    parts = {
        f"(camera_id is null or camera_id not in {_text(filters.exclude_cameras)})": bool(filters.exclude_cameras),
        f"camera_id in {_text(filters.cameras)}": bool(filters.cameras),
        f"person_id in {_text(filters.persons)}": bool(filters.persons),
        "person_id is not null": filters.labelled,
        f"timestamp >= {filters.since!r}": filters.since is not None,
        f"timestamp < {filters.until!r}": filters.until is not None,
    }
    return " and ".join(part for part, given in parts.items() if given)
