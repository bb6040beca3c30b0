"""The index of an embedded gallery, kept equal to its SQLite file, and its graph saved beside it.

In: an open file. Out: a `GalleryIndex` that holds what the file holds, whoever wrote it. The saved graph is checked
before it is used; whatever does not fit is made anew, since the file is the truth.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from modelscope_reid.errors import InputError
from modelscope_reid.gallery.columns import Columns, Rows
from modelscope_reid.gallery.faiss_index import SavedGraph
from modelscope_reid.gallery.gallery_index import GalleryIndex
from modelscope_reid.gallery.sqlite_file import SqliteFile

logger = logging.getLogger(__name__)

READ_ROWS = 4096
"""How many entries are read at a time."""
MOST_DEAD = 0.25
"""The share of deleted rows from which a saved graph is not worth opening."""

_ROWS = (
    "SELECT id, vector, person_id, camera_id, timestamp FROM entries JOIN vectors USING (id)"
    f" WHERE id > ? ORDER BY id LIMIT {READ_ROWS}"
)
_CHANGES = (
    "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'entries'), 0),"
    " (SELECT value FROM about WHERE name = 'deletions')"
)


class SyncedIndex:
    """An index over the entries of `file`, whose vectors have `dimension` numbers. Safe to use from several threads.

    Raises:
        GalleryError: the file is damaged.
    """

    def __init__(self, file: SqliteFile, dimension: int) -> None:
        self._file = file
        self._dimension = dimension
        self._gallery = str(file.about("gallery"))
        self._cache = file.path.with_name(file.path.name + ".index")
        self._syncing = threading.Lock()
        self._seen = self._changes()
        self._index = self._opened()

    def current(self) -> GalleryIndex:
        """Return the index, with what this and other processes enrolled and deleted until now."""
        if self._changes() != self._seen:
            with self._syncing:
                self._catch_up()
        return self._index

    def _read(self, last: int) -> Rows:
        """Read up to READ_ROWS rows of ids above `last`."""
        with self._file.read() as connection:
            found = connection.execute(_ROWS, (last,)).fetchall()
        ids, vectors, persons, cameras, timestamps = zip(*found, strict=True) if found else ((), (), (), (), ())
        return Rows(
            ids=np.array(ids, np.int64),
            vectors=as_matrix(vectors, self._dimension),
            persons=persons,
            cameras=cameras,
            timestamps=np.array(timestamps, np.float64),  # None becomes NaN
        )

    def save(self) -> None:
        """Write the graph beside the file, for the next time; that it cannot be written is no error."""
        index = self.current()
        with self._syncing:  # so that no deletion comes between the graph and what is said of it
            if (graph := index.graph) is None:
                return
            ids = index.view.ids[: graph.rows]
            saved = SavedGraph(gallery=self._gallery, deletions=self._seen[1], ids=ids, graph=graph)
            try:
                saved.save(self._cache)
            except InputError as error:
                logger.warning("the graph is not kept, and will be made again: %s", error)

    def forget_saved(self) -> None:
        """Remove the saved graph."""
        self._cache.unlink(missing_ok=True)

    def stored_bytes(self) -> int:
        """Return the size of the saved graph."""
        return self._cache.stat().st_size if self._cache.exists() else 0

    def close(self) -> None:
        """Stop the index's thread."""
        self._index.close()

    def _changes(self) -> tuple[int, int]:
        """Return what tells two states of the file apart: the last id ever given, and how many deletions there were."""
        with self._file.read() as connection:
            last, deletions = connection.execute(_CHANGES).fetchone()
        return int(last), int(deletions)

    def _ids(self) -> NDArray[np.int64]:
        with self._file.read() as connection:
            return np.array(connection.execute("SELECT id FROM entries ORDER BY id").fetchall(), np.int64).reshape(-1)

    def rows(self, last: int = 0) -> Iterator[Rows]:
        """Read all rows of ids above `last`, in parts."""
        while len(rows := self._read(last)):
            yield rows
            last = int(rows.ids[-1])

    def _catch_up(self) -> None:
        now, (last, deletions) = self._changes(), self._seen
        for rows in self.rows(last):
            self._index.append(rows)
            last = int(rows.ids[-1])
        if now[1] != deletions:
            view = self._index.view
            self._index.erase(np.setdiff1d(view.ids[view.alive], self._ids()))
        self._seen = max(last, now[0]), now[1]

    def _opened(self) -> GalleryIndex:
        """Read all vectors, and the graph beside the file where it fits them."""
        ids = self._ids()
        saved = SavedGraph.load(self._cache)
        if saved is not None and not self._fits(saved, ids):
            logger.info("%s does not fit its gallery; it is made anew", self._cache)
            self.forget_saved()
            saved = None
        covered = saved.ids if saved is not None else np.empty(0, np.int64)
        columns = Columns(self._dimension, room=len(ids) + len(covered))
        columns.reserve(covered)
        for rows in self.rows():
            old = int(np.searchsorted(rows.ids, covered[-1], side="right")) if len(covered) else 0
            places = np.searchsorted(covered, rows.ids[:old])
            gapless = old > 0 and places[-1] - places[0] + 1 == old
            columns.put(slice(places[0], places[-1] + 1) if gapless else places, rows.part(0, old))
            columns.append(rows.part(old, len(rows)))
        return GalleryIndex(columns, saved.graph if saved is not None else None, on_graph=self.save)

    def _fits(self, saved: SavedGraph, ids: NDArray[np.int64]) -> bool:
        """Tell whether a saved graph is of this gallery, as it is but for later enrolments, and mostly alive."""
        if (saved.gallery, saved.deletions, len(saved.ids)) != (self._gallery, self._seen[1], saved.graph.rows):
            return False
        covered = ids[: np.searchsorted(ids, saved.ids[-1], side="right")]
        return bool(np.isin(covered, saved.ids).all()) and len(covered) >= (1.0 - MOST_DEAD) * len(saved.ids)


def as_matrix(blobs: Sequence[bytes], dimension: int) -> NDArray[np.float32]:
    """Return stored vectors as (N, `dimension`) float32."""
    return np.frombuffer(b"".join(blobs), "<f4").reshape(len(blobs), dimension).astype(np.float32, copy=False)
