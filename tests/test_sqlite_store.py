"""What only the embedded store has: a file that can be damaged, deleted from, filled up, and shared by processes."""

from __future__ import annotations

import resource
import shutil
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from gallery_places import INFO, block, toward

from modelscope_reid.errors import GalleryError
from modelscope_reid.gallery.entries import Entry, Filters, GalleryInfo
from modelscope_reid.gallery.sqlite_store import SqliteStore, create_sqlite_store, open_sqlite_store
from modelscope_reid.gallery.store import Block

WIDE = GalleryInfo(fingerprint="wide", dimension=512)


def found(store: SqliteStore, angle: float) -> list[str]:
    hits = store.search(toward(angle), top=10, filters=[Filters()])[0]
    return [hit.entry.key for hit in hits]


def wide_block(start: int, count: int) -> Block:
    vectors = np.random.default_rng(start).standard_normal((count, 512)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Block(entries=tuple(Entry(key=str(start + row)) for row in range(count)), vectors=vectors)


def test_nothing_at_a_path_is_no_store(tmp_path: Path) -> None:
    assert open_sqlite_store(tmp_path / "gallery.db") is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"no database " * 1000], ids=["empty", "text"])
def test_a_foreign_file_is_refused_and_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "gallery.db"
    path.write_bytes(content)
    for attempt in (open_sqlite_store, lambda path: create_sqlite_store(path, INFO)):
        with pytest.raises(GalleryError, match=r"gallery\.db.*is no gallery"):
            attempt(path)
    assert path.read_bytes() == content


def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE notes (text)")
    connection.close()
    with pytest.raises(GalleryError, match="is no gallery"):
        open_sqlite_store(path)


@pytest.mark.parametrize("kept", [0.01, 0.3, 0.9])
def test_a_truncated_file_is_one_clear_error(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "gallery.db"
    store = create_sqlite_store(path, WIDE)
    store.add(wide_block(0, 500))
    store.close()
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(GalleryError) as caught:
        open_sqlite_store(path)
    assert str(path) in str(caught.value) and "damaged; restore it" in str(caught.value)


def test_a_damaged_page_is_found(tmp_path: Path) -> None:
    path = tmp_path / "gallery.db"
    store = create_sqlite_store(path, WIDE)
    store.add(wide_block(0, 500))
    store.close()
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 40_000] = bytes(40_000)
    path.write_bytes(content)
    try:
        again = open_sqlite_store(path)
    except GalleryError as error:
        assert "damaged" in str(error)
    else:
        assert again is not None and not all(finding.passed for finding in again.verify())
        again.close()


def test_a_gallery_of_a_later_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "gallery.db"
    create_sqlite_store(path, INFO).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE about SET value = replace(value, '\"format_version\": 1', '\"format_version\": 2')")
    connection.close()
    with pytest.raises(GalleryError, match="its format is 2, and this version reads up to 1"):
        open_sqlite_store(path)


def test_no_byte_of_a_deleted_person_is_left(tmp_path: Path) -> None:
    path, random = tmp_path / "gallery.db", np.random.default_rng(0)
    store = create_sqlite_store(path, WIDE)
    traces: list[bytes] = []
    for number in range(40):
        part = wide_block(10 * number, 10)
        person, pictures = f"person number {number:03d}", [random.bytes(3000) for _ in range(10)]
        entries = tuple(
            Entry(key=f"{person} key {row}", person_id=person, source=f"/{person}/{row}.jpg", thumbnail=picture)
            for row, picture in enumerate(pictures)
        )
        store.add(Block(entries=entries, vectors=part.vectors))
        if number in (0, 17, 39):
            traces += [person.encode(), *(p[500:540] for p in pictures), *(v.tobytes()[:40] for v in part.vectors)]

    def left() -> int:
        contents = [file.read_bytes() for file in tmp_path.iterdir()]
        return sum(trace in content for trace in traces for content in contents)

    assert left() >= len(traces)  # the search finds what is there
    for number in (0, 17, 39):
        assert store.delete_person(f"person number {number:03d}") == 10
    assert left() == 0
    store.close()
    assert left() == 0


FILLED = """
    import resource, sys
    from pathlib import Path
    sys.path.insert(0, sys.argv[2])
    from test_sqlite_store import WIDE, wide_block
    from modelscope_reid.errors import GalleryError
    from modelscope_reid.gallery.sqlite_store import create_sqlite_store

    store = create_sqlite_store(Path(sys.argv[1]), WIDE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000_000, 4_000_000))
    try:
        for start in range(0, 100_000, 200):
            store.add(wide_block(start, 200))
            print(start + 200, flush=True)
    except GalleryError as error:
        print(error, file=sys.stderr)
"""


def test_a_full_disk_is_one_error_and_every_acknowledged_batch_stays(tmp_path: Path) -> None:
    """A file may have 4 MB: some batches of 0.4 MB fit."""
    script, path = tmp_path / "fill.py", tmp_path / "gallery.db"
    script.write_text(textwrap.dedent(FILLED))
    command = [sys.executable, str(script), str(path), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    acknowledged = int(done.stdout.split()[-1])
    assert 400 <= acknowledged < 4000
    assert done.stderr.count("\n") == 1 and "make room" in done.stderr and str(path) in done.stderr
    store = open_sqlite_store(path)
    assert store is not None and store.stats().entries == acknowledged
    assert all(finding.passed for finding in store.verify())
    assert store.add(wide_block(acknowledged, 200)) == 200  # with room, it goes on
    store.close()
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 4_000_000


def test_two_programs_see_what_each_other_does(tmp_path: Path) -> None:
    path = tmp_path / "gallery.db"
    first = create_sqlite_store(path, INFO)
    first.add(block(("a", 0.0), person_id="Ann"))
    second = open_sqlite_store(path)
    assert second is not None
    first.add(block(("b", 10.0)))
    assert found(second, 0.0) == ["a", "b"]
    second.add(block(("c", 5.0)))
    assert found(first, 0.0) == ["a", "c", "b"]
    assert first.delete_person("Ann") == 1
    assert found(second, 0.0) == ["c", "b"]
    first.close()
    second.close()
    with pytest.raises(GalleryError, match="was closed"):
        first.known(["a"])


def test_a_copy_of_the_file_alone_is_a_gallery(tmp_path: Path) -> None:
    store = create_sqlite_store(tmp_path / "gallery.db", INFO)
    store.add(block(("a", 0.0)))
    store.close()
    shutil.copy(tmp_path / "gallery.db", tmp_path / "copy.db")
    copy = open_sqlite_store(tmp_path / "copy.db")
    assert copy is not None and found(copy, 0.0) == ["a"]
    copy.close()
