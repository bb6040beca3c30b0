"""The embedded store: one SQLite file is the truth, an index in memory over it answers searches.

Beside the file `gallery.db` lies `gallery.db.index`, the index's graph, which saves making it again: it is checked when
the gallery is opened and made anew where it does not fit. Several processes may use a gallery at once; each takes in
what the others enrolled or deleted before it searches.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelscope_reid.errors import InputError
from modelscope_reid.gallery.columns import View
from modelscope_reid.gallery.entries import Entry, Filters, Finding, GalleryInfo, GalleryStats
from modelscope_reid.gallery.sqlite_file import SqliteFile
from modelscope_reid.gallery.store import LAST_CHARACTER, Block, Hit
from modelscope_reid.gallery.synced_index import READ_ROWS, SyncedIndex, as_matrix

UNIT_TOLERANCE = 1e-3
"""How far from 1 the length of a stored vector may be."""

SAMPLE, FOUND_AGAIN = 200, 0.95
"""How many entries `verify` searches for, and the share of them that an index finds at least."""

_AMONG = "IN (SELECT value FROM json_each(?))"
_ENTRY = "key, person_id, camera_id, timestamp, source"


class SqliteStore:
    """A gallery in a file on this machine; see `Store`."""

    def __init__(self, path: Path, file: SqliteFile) -> None:
        self.address = str(path)
        self.info = GalleryInfo.from_json(file.about("info"), where=str(path))
        self._file = file
        self._synced = SyncedIndex(file, self.info.dimension)

    def known(self, keys: Sequence[str]) -> set[str]:
        """Return those of `keys` that are enrolled."""
        with self._file.read() as connection:
            rows = connection.execute(f"SELECT key FROM entries WHERE key {_AMONG}", (json.dumps(list(keys)),))
            return {key for (key,) in rows}

    def add(self, block: Block) -> int:
        """Keep those entries that are not there yet, all or none; once this returns they stay. Return how many."""
        if block.vectors.shape[1] != self.info.dimension:
            raise InputError(f"vectors have {block.vectors.shape[1]} numbers, {self.address} {self.info.dimension}.")
        vectors = np.ascontiguousarray(block.vectors, "<f4")
        with self._file.write() as connection:
            there = self.known([entry.key for entry in block.entries])
            new = {entry.key: place for place, entry in reversed(list(enumerate(block.entries)))}
            places = sorted(place for key, place in new.items() if key not in there)
            last = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'entries'").fetchone()
            rows = list(enumerate((block.entries[place] for place in places), start=(last[0] if last else 0) + 1))
            connection.executemany(
                f"INSERT INTO entries (id, {_ENTRY}) VALUES (?, ?, ?, ?, ?, ?)",
                ((id, item.key, item.person_id, item.camera_id, item.timestamp, item.source) for id, item in rows),
            )
            connection.executemany(
                "INSERT INTO vectors VALUES (?, ?)",
                ((id, vectors[place].data) for (id, _), place in zip(rows, places, strict=True)),
            )
            connection.executemany(
                "INSERT INTO thumbnails VALUES (?, ?)", ((id, item.thumbnail) for id, item in rows if item.thumbnail)
            )
        return len(rows)

    def search(
        self, queries: NDArray[np.float32], *, top: int, filters: Sequence[Filters], exact: bool = False
    ) -> list[list[Hit]]:
        """Return up to `top` hits for each of the unit vectors (Q, D), the most similar first; see `Store`."""
        found = self._synced.current().search(queries, top=top, filters=filters, exact=exact)
        wanted = sorted({id for one in found for id in one.ids.tolist()})
        with self._file.read() as connection:
            rows = connection.execute(f"SELECT id, {_ENTRY} FROM entries WHERE id {_AMONG}", (json.dumps(wanted),))
            entries = {id: _entry(values) for id, *values in rows}
        return [
            [
                Hit(entry=entries[id], similarity=similarity)
                for id, similarity in zip(one.ids.tolist(), one.similarities.tolist(), strict=True)
                if id in entries  # deleted by another thread meanwhile
            ]
            for one in found
        ]

    def vectors(self, keys: Sequence[str]) -> NDArray[np.float32]:
        """Return the unit vectors (N, D) of enrolled keys, in their order."""
        with self._file.read() as connection:
            query = f"SELECT key, vector FROM entries JOIN vectors USING (id) WHERE key {_AMONG}"
            rows = dict(connection.execute(query, (json.dumps(list(keys)),)).fetchall())
        missing = [key for key in keys if key not in rows]
        if missing:
            raise InputError(f"{self.address} has no entry {missing[0]!r}; pass keys of enrolled images.")
        return self._matrix([rows[key] for key in keys])

    def blocks(self, filters: Filters = Filters.EVERYTHING, *, thumbnails: bool = False) -> Iterator[Block]:
        """Yield every entry that passes, in the order of enrolment."""
        jpeg, joined = ("jpeg", "LEFT JOIN thumbnails USING (id)") if thumbnails else ("NULL", "")
        query = f"SELECT id, vector, {jpeg}, {_ENTRY} FROM entries JOIN vectors USING (id) {joined} WHERE id > ? "
        condition, values = _condition(filters)
        last = 0
        while True:
            with self._file.read() as connection:
                rows = connection.execute(
                    f"{query} {condition} ORDER BY id LIMIT {READ_ROWS}", (last, *values)
                ).fetchall()
            if not rows:
                return
            last = rows[-1][0]
            entries = tuple(_entry(row[3:], thumbnail=row[2]) for row in rows)
            yield Block(entries=entries, vectors=self._matrix([row[1] for row in rows]))

    def page(self, filters: Filters = Filters.EVERYTHING, *, after: str = "", limit: int = 24) -> list[Entry]:
        """Return the next `limit` entries that pass, with thumbnails, in the order of enrolment; see `Store`."""
        condition, values = _condition(filters)
        query = (
            f"SELECT {_ENTRY}, jpeg FROM entries LEFT JOIN thumbnails USING (id) "
            f"WHERE id > coalesce((SELECT id FROM entries WHERE key = ?), 0) {condition} ORDER BY id LIMIT ?"
        )
        with self._file.read() as connection:
            rows = connection.execute(query, (after, *values, limit)).fetchall()
        return [_entry(row[:-1], thumbnail=row[-1]) for row in rows]

    def thumbnails(self, keys: Sequence[str]) -> dict[str, bytes]:
        """Return the thumbnails, by key, of those of `keys` that have one."""
        query = f"SELECT key, jpeg FROM entries JOIN thumbnails USING (id) WHERE key {_AMONG}"
        with self._file.read() as connection:
            return dict(connection.execute(query, (json.dumps(list(keys)),)).fetchall())

    def people(self, *, beginning: str = "", limit: int = 50) -> list[tuple[str, int]]:
        """Return the first `limit` people whose name begins so, with their numbers of entries; see `Store`."""
        query = (
            "SELECT person_id, count(*) FROM entries WHERE person_id >= ? AND person_id < ? "
            "GROUP BY person_id ORDER BY person_id LIMIT ?"
        )
        with self._file.read() as connection:
            return connection.execute(query, (beginning, beginning + LAST_CHARACTER, limit)).fetchall()

    def delete_person(self, person_id: str) -> int:
        """Remove every trace of a person: rows, vectors, thumbnails, the log, and the index in memory and on disk."""
        self._synced.forget_saved()
        with self._file.write() as connection:
            found = connection.execute("SELECT id FROM entries WHERE person_id = ?", (person_id,)).fetchall()
            for table in ("thumbnails", "vectors", "entries"):
                connection.executemany(f"DELETE FROM {table} WHERE id = ?", found)
            connection.execute("UPDATE about SET value = value + 1 WHERE name = 'deletions'")
        self._file.forget_deleted()
        self._synced.save()
        return len(found)

    def stats(self) -> GalleryStats:
        """Count."""
        with self._file.read() as connection:
            query = "SELECT count(*), count(DISTINCT person_id), count(DISTINCT camera_id), count(*) - count(person_id)"
            entries, people, cameras, unlabelled = connection.execute(f"{query} FROM entries").fetchone()
        return GalleryStats(
            entries=entries,
            people=people,
            cameras=cameras,
            unlabelled=unlabelled,
            bytes_stored=self._file.stored_bytes() + self._synced.stored_bytes(),
            index=self._synced.current().describe(),
        )

    def verify(self) -> list[Finding]:
        """Check the database, its vectors, and the index against them."""
        with self._file.read() as connection:
            said = connection.execute("PRAGMA integrity_check").fetchone()[0]
            parts = ("entries", "vectors", "entries JOIN vectors USING (id)")
            counts = [connection.execute(f"SELECT count(*) FROM {part}").fetchone()[0] for part in parts]
        checked = odd = missed = 0
        view = self._synced.current().view
        for rows in self._synced.rows():
            places = np.searchsorted(view.ids, rows.ids)
            places = np.minimum(places, len(view) - 1)
            odd += int((np.abs(np.linalg.norm(rows.vectors, axis=1) - 1.0) > UNIT_TOLERANCE).sum())
            same = view.alive[places] & (view.vectors[places] == rows.vectors).all(axis=1)
            missed += int((~(same & (view.ids[places] == rows.ids))).sum())
            checked += len(rows)
        return [
            Finding(passed=said == "ok", sentence=f"SQLite finds its file {'intact' if said == 'ok' else said}."),
            Finding(
                passed=len(set(counts)) == 1, sentence=f"There are {counts[0]} entries and {counts[2]} have a vector."
            ),
            Finding(passed=not odd, sentence=f"{checked - odd} of {checked} vectors are of unit length."),
            Finding(
                passed=not missed and checked == counts[0],
                sentence=f"The index holds {checked - missed} of {counts[0]} entries as the file has them.",
            ),
            self._found_again(view),
        ]

    def _found_again(self, view: View) -> Finding:
        """Search for a few entries by their own vectors."""
        rows = np.flatnonzero(view.alive)
        rows = rows[:: max(1, len(rows) // SAMPLE)]
        hits = self.search(view.vectors[rows], top=1, filters=[Filters.EVERYTHING] * len(rows))
        found = sum(bool(one) and one[0].similarity > 1.0 - UNIT_TOLERANCE for one in hits)
        return Finding(
            passed=found >= FOUND_AGAIN * len(rows),
            sentence=f"Of {len(rows)} entries searched for by their own vectors, {found} are found.",
        )

    def close(self) -> None:
        """Stop the index and close the file; a second time does nothing."""
        self._synced.close()
        self._file.close()

    def wait(self) -> None:
        """Return once the index covers what it should; for tests and measurements."""
        self._synced.current().wait()

    def _matrix(self, blobs: Sequence[bytes]) -> NDArray[np.float32]:
        return as_matrix(blobs, self.info.dimension)


def open_sqlite_store(path: Path) -> SqliteStore | None:
    """Open the gallery at a path, None where there is nothing.

    Raises:
        GalleryError: no gallery, damaged, or not to be had.
    """
    return SqliteStore(path, SqliteFile(path)) if path.exists() else None


def create_sqlite_store(path: Path, info: GalleryInfo) -> SqliteStore:
    """Make an empty gallery at a path, or open the one that is there; raises as `open_sqlite_store` does."""
    about = {"info": json.dumps(info.to_dict()), "gallery": uuid.uuid4().hex, "deletions": 0}
    return SqliteStore(path, SqliteFile(path) if path.exists() else SqliteFile.create(path, about))


def _entry(values: Sequence[Any], *, thumbnail: bytes | None = None) -> Entry:
    key, person_id, camera_id, timestamp, source = values
    return Entry(
        key=key, person_id=person_id, camera_id=camera_id, timestamp=timestamp, source=source, thumbnail=thumbnail
    )


def _condition(filters: Filters) -> tuple[str, list[Any]]:
    """Return filters as SQL, " AND …", and its values."""
    wanted: dict[str, tuple[bool, list[Any]]] = {
        f"(camera_id IS NULL OR camera_id NOT {_AMONG})": (
            bool(filters.exclude_cameras),
            [json.dumps(filters.exclude_cameras)],
        ),
        f"camera_id {_AMONG}": (bool(filters.cameras), [json.dumps(filters.cameras)]),
        f"person_id {_AMONG}": (bool(filters.persons), [json.dumps(filters.persons)]),
        "person_id IS NOT NULL": (filters.labelled, []),
        "timestamp >= ?": (filters.since is not None, [filters.since]),
        "timestamp < ?": (filters.until is not None, [filters.until]),
    }
    used = {sql: values for sql, (given, values) in wanted.items() if given}
    return "".join(f" AND {sql}" for sql in used), [value for values in used.values() for value in values]
