"""Exact and through a graph: the same answers, while rows come, go, and the graph is made in the background."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from numpy.typing import NDArray

from modelscope_reid.errors import InputError
from modelscope_reid.gallery import gallery_index
from modelscope_reid.gallery.columns import Columns, Rows
from modelscope_reid.gallery.entries import Filters
from modelscope_reid.gallery.faiss_index import Graph
from modelscope_reid.gallery.gallery_index import GalleryIndex

COUNT = 2000


def made_rows(start: int, count: int) -> Rows:
    """Ids from 1; camera "0" to "9" in turn; person "rare" every 500th."""
    random = np.random.default_rng(start)
    vectors = random.standard_normal((count, 16)).astype(np.float32)
    ids = np.arange(start + 1, start + count + 1)
    return Rows(
        ids=ids,
        vectors=vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
        persons=tuple("rare" if row % 500 == 0 else "often" for row in ids.tolist()),
        cameras=tuple(str(row % 10) for row in ids.tolist()),
        timestamps=ids.astype(np.float64),
    )


def queries() -> NDArray[np.float32]:
    return made_rows(99_999, 30).vectors


def truth(index: GalleryIndex, filters: Filters, top: int) -> list[list[int]]:
    view = index.view
    similarities = np.where(view.passing(filters), queries() @ view.vectors.T, -2.0)
    order = np.argsort(-similarities, axis=1)[:, : min(top, int(view.passing(filters).sum()))]
    return [view.ids[row].tolist() for row in order]


def recall(found: list[gallery_index.Found], true: list[list[int]]) -> float:
    shares = [len(set(one.ids.tolist()) & set(ids)) / len(ids) for one, ids in zip(found, true, strict=True)]
    assert all(len(one.ids) == len(ids) for one, ids in zip(found, true, strict=True))
    return float(np.mean(shares))


def search(index: GalleryIndex, filters: Filters, *, top: int = 10, exact: bool = False) -> list[gallery_index.Found]:
    return index.search(queries(), top=top, filters=[filters] * 30, exact=exact)


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph from 500 rows on, lengthened every 200."""
    pytest.importorskip("faiss")
    for name, value in (("EXACT_ROWS", 500), ("EXACT_PASSING", 50), ("TAIL", 200)):
        monkeypatch.setattr(gallery_index, name, value)


FILTERS = [
    Filters(),
    Filters(exclude_cameras=("3",)),
    Filters(cameras=("3",)),
    Filters(persons=("rare",)),
    Filters(since=100.0, until=104.0),
]


@pytest.mark.parametrize("filters", FILTERS)
def test_exact_search_is_a_product_of_all_pairs(filters: Filters) -> None:
    columns = Columns(16)
    columns.append(made_rows(0, COUNT))
    index = GalleryIndex(columns)
    true = truth(index, filters, 10)
    assert [one.ids.tolist() for one in search(index, filters)] == true
    one_by_one = [index.search(query[None], top=10, filters=[filters])[0] for query in queries()]
    assert [one.ids.tolist() for one in one_by_one] == true
    found = one_by_one[0]
    np.testing.assert_allclose(found.similarities, index.view.vectors[found.ids - 1] @ queries()[0], atol=1e-6)
    assert index.describe() == "exact"


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize("filters", FILTERS)
def test_the_graph_gives_the_same_and_never_too_few(filters: Filters) -> None:
    index = GalleryIndex(Columns(16))
    index.append(made_rows(0, COUNT))
    index.wait()
    index.append(made_rows(COUNT, 100))  # less than what the graph is lengthened for
    assert index.graph is not None and index.graph.rows == COUNT
    assert index.describe() == f"HNSW graph over {COUNT} of {COUNT + 100} rows"
    assert recall(search(index, filters), truth(index, filters, 10)) > 0.97
    assert recall(search(index, filters, exact=True), truth(index, filters, 10)) == 1.0
    newest = index.search(made_rows(COUNT, 100).vectors, top=1, filters=[Filters()] * 100)
    assert [one.ids.tolist() for one in newest] == [[row] for row in range(COUNT + 1, COUNT + 101)]
    index.close()


@pytest.mark.usefixtures("small_limits")
def test_where_the_graph_finds_too_few_all_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    index = GalleryIndex(Columns(16))
    index.append(made_rows(0, COUNT))
    index.wait()
    monkeypatch.setattr(Graph, "nearest", lambda self, found, count, **_: np.full((len(found), count), -1))
    for filters in FILTERS[:3]:
        assert recall(search(index, filters), truth(index, filters, 10)) == 1.0
    index.close()


@pytest.mark.usefixtures("small_limits")
def test_it_is_lengthened_in_the_background_and_says_so() -> None:
    changes: list[int] = []
    index = GalleryIndex(Columns(16), on_graph=lambda: changes.append(index.graph.rows if index.graph else 0))
    for start in range(0, COUNT, 250):
        index.append(made_rows(start, 250))
        assert recall(search(index, Filters()), truth(index, Filters(), 10)) > 0.97
    index.wait()
    assert index.graph is not None and len(index.view) - index.graph.rows <= 200
    assert changes == sorted(changes) and changes[-1] == index.graph.rows
    index.close()


@pytest.mark.usefixtures("small_limits")
def test_erased_rows_are_not_found_also_when_erased_while_the_graph_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    built, go_on = threading.Event(), threading.Event()
    build = Graph.build.__func__  # type: ignore[attr-defined]

    def slow_build(kind: type[Graph], *arguments: object) -> Graph | None:
        made: Graph | None = build(kind, *arguments)
        built.set()
        assert go_on.wait(30)
        return made

    monkeypatch.setattr(Graph, "build", classmethod(slow_build))
    index = GalleryIndex(Columns(16))
    index.append(made_rows(0, COUNT))
    assert built.wait(30) and index.graph is None
    nearest = np.array(truth(index, Filters(), 3))
    gone = np.unique(nearest)
    index.erase(gone)
    go_on.set()
    index.wait()
    assert index.graph is not None
    for exact in (False, True):
        found = search(index, Filters(), exact=exact)
        assert not set(gone.tolist()) & {id for one in found for id in one.ids.tolist()}
    assert recall(search(index, Filters()), truth(index, Filters(), 10)) > 0.97
    index.close()


@pytest.mark.usefixtures("small_limits")
def test_without_faiss_it_stays_exact(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def missing(*_: object) -> None:
        raise InputError("faiss is not installed; install it.")

    monkeypatch.setattr(Graph, "build", missing)
    index = GalleryIndex(Columns(16))
    index.append(made_rows(0, COUNT))
    index.wait()
    assert [one.ids.tolist() for one in search(index, Filters())] == truth(index, Filters(), 10)
    assert "2000 vectors are searched one by one, which is slow: faiss is not installed" in caplog.text
    index.close()


@pytest.mark.usefixtures("small_limits")
def test_many_threads_search_while_rows_are_appended() -> None:
    index, wrong = GalleryIndex(Columns(16)), []
    index.append(made_rows(0, 600))
    target = made_rows(0, 600).vectors[:30]
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            found = index.search(target, top=1, filters=[Filters()] * 30)
            wrong.extend(one for row, one in enumerate(found, start=1) if one.ids.tolist() != [row])

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for start in range(600, 3000, 100):
        index.append(made_rows(start, 100))
    index.wait()
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    index.close()
