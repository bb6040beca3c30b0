"""The graph: what it finds, filters, growth beside the old one, erased bytes, and its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from modelscope_reid.gallery.faiss_index import STEP, Graph, SavedGraph

pytest.importorskip("faiss")


def unit_vectors(count: int, seed: int = 0) -> NDArray[np.float32]:
    vectors = np.random.default_rng(seed).standard_normal((count, 16)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def never() -> bool:
    return False


@pytest.fixture(scope="module")
def vectors() -> NDArray[np.float32]:
    return unit_vectors(3000)


@pytest.fixture(scope="module")
def graph(vectors: NDArray[np.float32]) -> Graph:
    made = Graph.build(vectors, never)
    assert made is not None
    return made


def recall(found: NDArray[np.int64], similarities: NDArray[np.float32]) -> float:
    true = np.argsort(-similarities, axis=1)[:, : found.shape[1]]
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found.tolist(), true.tolist(), strict=True)]))


def test_it_finds_nearly_all_nearest(graph: Graph, vectors: NDArray[np.float32]) -> None:
    queries = unit_vectors(50, seed=1)
    assert graph.rows == 3000
    assert recall(graph.nearest(queries, 10), queries @ vectors.T) > 0.95


@pytest.mark.parametrize("share", [0.9, 0.3, 0.01])
@pytest.mark.parametrize("scanned", [0, 16_000], ids=["by links", "one by one"])
def test_it_finds_rows_that_pass_only(
    graph: Graph, vectors: NDArray[np.float32], share: float, scanned: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modelscope_reid.gallery.faiss_index.SCANNED", scanned)
    passing = np.random.default_rng(2).random(3000) < share
    queries = unit_vectors(50, seed=1)
    found = graph.nearest(queries, 10, passing=passing)
    assert passing[found[found >= 0]].all()
    assert recall(found, np.where(passing, queries @ vectors.T, -2.0)) > (0.95 if scanned or share > 0.1 else 0.5)


def test_more_rows_than_there_are_is_minus_one(vectors: NDArray[np.float32]) -> None:
    few = Graph.build(vectors[:5], never)
    assert few is not None
    found = few.nearest(vectors[:1], 8)
    assert sorted(found[0].tolist()) == [-1, -1, -1, 0, 1, 2, 3, 4]


def test_a_longer_graph_is_another_one(graph: Graph, vectors: NDArray[np.float32]) -> None:
    more = unit_vectors(100, seed=3)
    longer = graph.extended(more, never)
    assert longer is not None and (graph.rows, longer.rows) == (3000, 3100)
    assert longer.nearest(more[:20], 1)[:, 0].tolist() == list(range(3000, 3020))


def test_building_stops_when_told(vectors: NDArray[np.float32]) -> None:
    looks = iter([False, True])
    assert 2 * STEP < 3000
    assert Graph.build(vectors, lambda: next(looks)) is None


def test_erased_rows_leave_no_code(vectors: NDArray[np.float32]) -> None:
    import faiss

    graph = Graph.build(vectors[:200], never)
    assert graph is not None
    graph.erase(np.array([3, 7, 900]))  # 900 is not in the graph
    codes = faiss.vector_to_array(faiss.downcast_index(graph._index.storage).codes).reshape(200, -1)
    assert not codes[[3, 7]].any() and codes[[2, 4]].any(axis=1).all()


def test_it_is_kept_in_a_file(graph: Graph, vectors: NDArray[np.float32], tmp_path: Path) -> None:
    path = tmp_path / "graph"
    SavedGraph(gallery="g", deletions=2, ids=np.arange(3000), graph=graph).save(path)
    again = SavedGraph.load(path)
    assert again is not None and (again.gallery, again.deletions, len(again.ids)) == ("g", 2, 3000)
    assert np.array_equal(again.graph.nearest(vectors[:9], 5), graph.nearest(vectors[:9], 5))
    content = path.read_bytes()
    changed = bytearray(content)
    changed[len(content) // 2] ^= 1
    for damaged in (b"", content[:1000], content[:-100], bytes(changed)):
        path.write_bytes(damaged)
        assert SavedGraph.load(path) is None
    assert SavedGraph.load(tmp_path / "nothing") is None
