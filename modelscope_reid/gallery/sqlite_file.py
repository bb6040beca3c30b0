"""One SQLite file as the truth of a gallery: its tables, its connections, and what its errors mean.

In: a path and SQL. Out: rows, or one `GalleryError` that names the file. Every thread has a connection of its own.
A transaction that was committed stays, whatever happens to the process or the machine (write-ahead log, synchronous
FULL); one that was not leaves nothing. Deleted content is overwritten by zeros. Knows nothing of vectors.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modelscope_reid.errors import GalleryError

APPLICATION_ID = 0x52654964
"""What SQLite's header says of whose file it is: "ReId"."""
PAGE_BYTES = 32_768
"""Vectors of 512 numbers fill a page of this size to 95 %, and to 50 % one of SQLite's own 4,096 bytes."""
BUSY_SECONDS = 60.0

_SCHEMA = f"""
PRAGMA page_size = {PAGE_BYTES};
PRAGMA application_id = {APPLICATION_ID};
PRAGMA journal_mode = WAL;
BEGIN;
CREATE TABLE about (name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
CREATE TABLE entries (
    id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE,
    person_id TEXT, camera_id TEXT, timestamp REAL, source TEXT NOT NULL
);
CREATE INDEX entries_by_person ON entries (person_id);
CREATE TABLE vectors (id INTEGER PRIMARY KEY REFERENCES entries, vector BLOB NOT NULL);
CREATE TABLE thumbnails (id INTEGER PRIMARY KEY REFERENCES entries, jpeg BLOB NOT NULL);
COMMIT;
"""
_SETTINGS = """
PRAGMA synchronous = FULL;
PRAGMA secure_delete = ON;
PRAGMA cache_size = -65536;
PRAGMA temp_store = MEMORY;
"""
_ADVICE = {  # by what SQLite's message holds
    "full": "make room on the disk, then go on: what was acknowledged is there, and nothing of the last batch.",
    "disk I/O": "make room on the disk or look after it, then go on: what was acknowledged is there.",
    "locked": "another program holds it; try again when that has finished.",
    "readonly": "make the file and its folder writable.",
    "unable to open": "check the path and the rights of its folder.",
    "not a database": "it is no gallery; pass one that `enroll` wrote.",
    "malformed": "it is damaged; restore it from a copy, or enroll anew.",
    "no such": "it is no gallery; pass one that `enroll` wrote.",
}


class SqliteFile:
    """An open gallery file. Safe to use from several threads.

    Raises:
        GalleryError: no gallery, damaged, or not to be had.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._local = threading.local()
        self._connections: dict[threading.Thread, sqlite3.Connection] = {}
        self._lock = threading.Lock()
        self._closed = False
        with self.read() as connection:
            application = connection.execute("PRAGMA application_id").fetchone()[0]
        if application != APPLICATION_ID:
            self.close()
            raise GalleryError(f"{path} is no gallery, or an empty file; pass one that `enroll` wrote.")

    @classmethod
    def create(cls, path: Path, about: dict[str, Any]) -> SqliteFile:
        """Make an empty gallery that holds `about`; where one is there already, that one is opened."""
        try:
            handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.absolute().parent)
        except OSError as error:
            raise GalleryError(f"{path} cannot be made: {error.strerror}; choose another place.") from error
        os.close(handle)
        temporary = Path(name)
        try:
            connection = sqlite3.connect(temporary, isolation_level=None)
            with contextlib.closing(connection), _explained(path):
                connection.executescript(_SCHEMA)
                connection.executemany("INSERT INTO about VALUES (?, ?)", about.items())
            with contextlib.suppress(FileExistsError):
                os.link(temporary, path)  # unlike a rename, takes nobody else's place
        except OSError as error:
            raise GalleryError(f"{path} cannot be made: {error.strerror}; choose another place.") from error
        finally:
            temporary.unlink(missing_ok=True)
        return cls(path)

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """Give this thread's connection; SQLite's errors become a `GalleryError`."""
        with _explained(self.path):
            yield self._connection()

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """Give this thread's connection in a transaction: committed at the end, undone on any error."""
        with _explained(self.path):
            connection = self._connection()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):  # SQLite may have undone it already
                    connection.execute("ROLLBACK")
                raise

    def about(self, name: str) -> Any:
        """Return a value of the table about, or None."""
        with self.read() as connection:
            row = connection.execute("SELECT value FROM about WHERE name = ?", (name,)).fetchone()
        return row[0] if row else None

    def forget_deleted(self) -> None:
        """Empty the write-ahead log, in which what was deleted could still be read.

        Raises:
            GalleryError: another program reads the file all the time.
        """
        with self.read() as connection:
            busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if busy:
            raise GalleryError(
                f"{self.path}: the entries are deleted, but their bytes stay in {self.path.name}-wal while another "
                "program reads it; delete again when that has finished."
            )

    def stored_bytes(self) -> int:
        """Return the size of the file and of its log."""
        return sum(file.stat().st_size for file in self.files() if file.exists())

    def files(self) -> tuple[Path, ...]:
        """The file, its log, and the log's index."""
        return self.path, *(self.path.with_name(self.path.name + suffix) for suffix in ("-wal", "-shm"))

    def close(self) -> None:
        """Close the connections of all threads."""
        with self._lock:
            self._closed = True
            for connection in self._connections.values():
                connection.close()
            self._connections.clear()

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if self._closed:
            raise GalleryError(f"{self.path} was closed; open the gallery again.")
        if connection is None:
            uri = f"{self.path.absolute().as_uri()}?mode=rw"
            connection = sqlite3.connect(
                uri, uri=True, isolation_level=None, timeout=BUSY_SECONDS, check_same_thread=False
            )
            connection.executescript(_SETTINGS)
            with self._lock:
                for thread in [thread for thread in self._connections if not thread.is_alive()]:
                    self._connections.pop(thread).close()
                self._connections[threading.current_thread()] = connection
            self._local.connection = connection
        return connection


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into one that names the file and says what to do."""
    try:
        yield
    except sqlite3.Error as error:
        advice = next((text for part, text in _ADVICE.items() if part in str(error)), "look after the file.")
        raise GalleryError(f"{path} cannot be used ({error}): {advice}") from error
