"""The graph beside the file: used where it fits, made anew where it does not, never wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from modelscope_reid.gallery import gallery_index
from modelscope_reid.gallery.entries import Entry, Filters, GalleryInfo
from modelscope_reid.gallery.faiss_index import Graph, SavedGraph
from modelscope_reid.gallery.sqlite_store import SqliteStore, create_sqlite_store, open_sqlite_store
from modelscope_reid.gallery.store import Block
from modelscope_reid.gallery.synced_index import as_matrix

pytest.importorskip("faiss")
INFO = GalleryInfo(fingerprint="x", dimension=16)


def part(start: int, count: int) -> Block:
    vectors = np.random.default_rng(start).standard_normal((count, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    entries = tuple(Entry(key=str(row), person_id=str(row % 50)) for row in range(start, start + count))
    return Block(entries=entries, vectors=vectors)


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("EXACT_ROWS", 300), ("EXACT_PASSING", 20), ("TAIL", 200)):
        monkeypatch.setattr(gallery_index, name, value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A gallery of 1000 entries with a graph beside it."""
    store = create_sqlite_store(tmp_path / "gallery.db", INFO)
    store.add(part(0, 1000))
    store.wait()
    store.close()
    assert (tmp_path / "gallery.db.index").exists()
    return tmp_path / "gallery.db"


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the graphs that are made from nothing."""
    sizes: list[int] = []
    build = Graph.build
    monkeypatch.setattr(Graph, "build", lambda vectors, stop: sizes.append(len(vectors)) or build(vectors, stop))
    return sizes


def opened(path: Path) -> SqliteStore:
    store = open_sqlite_store(path)
    assert store is not None
    store.wait()
    return store


def check(store: SqliteStore, present: range | list[int]) -> None:
    """Every entry finds itself, and nothing else is there."""
    rows = list(present)
    vectors = store.vectors([str(row) for row in rows])
    found = store.search(vectors, top=1, filters=[Filters()] * len(rows))
    assert [hits[0].entry.key for hits in found] == [str(row) for row in rows]
    assert store.stats().entries == len(rows)
    assert all(finding.passed for finding in store.verify())


def test_the_graph_is_used_again_and_later_entries_are_found(path: Path, builds: list[int]) -> None:
    store = opened(path)
    store.add(part(1000, 150))
    check(store, range(1150))
    store.close()
    store = opened(path)
    assert store.stats().index == "HNSW graph over 1000 of 1150 rows"
    check(store, range(1150))
    store.close()
    assert builds == []


@pytest.mark.parametrize("damage", ["gone", "cut", "another gallery's", "more rows", "deletion unseen"])
def test_what_does_not_fit_is_made_anew(path: Path, builds: list[int], damage: str, tmp_path: Path) -> None:
    cache = path.with_name("gallery.db.index")
    saved = SavedGraph.load(cache)
    assert saved is not None
    if damage == "gone":
        cache.unlink()
    elif damage == "cut":
        cache.write_bytes(cache.read_bytes()[:5000])
    else:
        fields = {"gallery": saved.gallery, "deletions": 0, "ids": saved.ids, "graph": saved.graph}
        changes = {
            "another gallery's": {"gallery": "other"},
            "more rows": {"ids": saved.ids[:-1]},
            "deletion unseen": {"deletions": 3},
        }
        SavedGraph(**{**fields, **changes[damage]}).save(cache)
    store = opened(path)
    check(store, range(1000))
    store.close()
    assert builds == [1000] and SavedGraph.load(cache) is not None


def test_deleted_rows_stay_gaps_in_the_saved_graph(path: Path, builds: list[int]) -> None:
    store = opened(path)
    present = list(range(1000))
    for person in (0, 7, 49):
        assert store.delete_person(str(person)) == 20
        present = [row for row in present if row % 50 != person]
        check(store, present)
    store.close()
    store = opened(path)
    assert store.stats().index == "HNSW graph over 1000 of 1000 rows"
    check(store, present)
    store.add(part(1000, 10))
    check(store, [*present, *range(1000, 1010)])
    store.close()
    assert builds == []


def test_a_graph_that_is_mostly_deleted_is_made_anew(path: Path, builds: list[int]) -> None:
    store = opened(path)
    for person in range(13):  # 26 of 100
        store.delete_person(str(person))
    store.close()
    store = opened(path)
    check(store, [row for row in range(1000) if row % 50 > 12])
    store.close()
    assert builds == [740]


def test_as_matrix() -> None:
    rows = np.arange(6, dtype="<f4").reshape(2, 3)
    assert np.array_equal(as_matrix([row.tobytes() for row in rows], 3), rows)
    assert as_matrix([], 3).shape == (0, 3)
