"""The file itself: made whole, transactions, errors in one sentence, and what is overwritten."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from modelscope_reid.errors import GalleryError
from modelscope_reid.gallery import sqlite_file
from modelscope_reid.gallery.sqlite_file import SqliteFile


@pytest.fixture
def file(tmp_path: Path) -> SqliteFile:
    return SqliteFile.create(tmp_path / "gallery.db", {"info": "text", "deletions": 0})


def insert(connection: sqlite3.Connection, key: str) -> None:
    connection.execute("INSERT INTO entries (key, source) VALUES (?, '')", (key,))


def keys(file: SqliteFile) -> list[str]:
    with file.read() as connection:
        return [key for (key,) in connection.execute("SELECT key FROM entries ORDER BY id")]


def test_it_is_made_whole_and_keeps_what_it_is_told(file: SqliteFile, tmp_path: Path) -> None:
    assert (file.about("info"), file.about("deletions"), file.about("nothing")) == ("text", 0, None)
    with file.read() as connection:
        modes = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
        assert modes == ["wal", 2] and connection.execute("PRAGMA page_size").fetchone()[0] == 32768
    file.close()
    assert [path.name for path in tmp_path.iterdir()] == ["gallery.db"]
    again = SqliteFile.create(tmp_path / "gallery.db", {"info": "other"})  # the one that is there stays
    assert again.about("info") == "text" and again.stored_bytes() > 32768
    again.close()


def test_a_transaction_is_whole_or_not_there(file: SqliteFile) -> None:
    with file.write() as connection:
        insert(connection, "a")
    with pytest.raises(ZeroDivisionError), file.write() as connection:
        insert(connection, "b")
        _ = 1 / 0
    with pytest.raises(GalleryError, match="UNIQUE"), file.write() as connection:
        insert(connection, "c")
        insert(connection, "a")
    with file.write() as connection:
        insert(connection, "d")
    assert keys(file) == ["a", "d"]
    file.close()


def test_every_thread_has_its_own_connection(file: SqliteFile) -> None:
    found: list[list[str]] = []
    with file.write() as connection:
        insert(connection, "a")
        thread = threading.Thread(target=lambda: found.append(keys(file)))
        thread.start()
        thread.join()
    assert found == [[]] and keys(file) == ["a"]
    file.close()
    with pytest.raises(GalleryError, match="was closed; open the gallery again"):
        keys(file)
    file.close()


def test_a_file_that_another_program_writes_to_is_said(file: SqliteFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_file, "BUSY_SECONDS", 0.1)
    other = SqliteFile(file.path)
    with file.write(), pytest.raises(GalleryError, match="another program holds it; try again"), other.write():
        pass
    other.close()
    file.close()


def test_bytes_that_somebody_still_reads_are_told(file: SqliteFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_file, "BUSY_SECONDS", 0.1)
    with file.write() as connection:
        insert(connection, "a")
    reader = sqlite3.connect(file.path)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM entries").fetchall()
    other = SqliteFile(file.path)
    with other.write() as connection:
        connection.execute("DELETE FROM entries")
    with pytest.raises(GalleryError, match=r"bytes stay in gallery\.db-wal while another program reads it"):
        other.forget_deleted()
    reader.close()
    other.forget_deleted()
    assert file.path.with_name("gallery.db-wal").stat().st_size == 0
    other.close()
    file.close()


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(GalleryError, match="cannot be made: No such file or directory; choose another place"):
        SqliteFile.create(tmp_path / "nowhere" / "gallery.db", {})
    with pytest.raises(GalleryError, match="unable to open"):
        SqliteFile(tmp_path / "gallery.db")


def test_connections_of_threads_that_ended_are_closed(file: SqliteFile) -> None:
    for _ in range(20):
        thread = threading.Thread(target=lambda: keys(file))
        thread.start()
        thread.join()
    assert len(file._connections) <= 2  # this thread's, and the last one's
    file.close()
