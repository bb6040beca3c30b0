"""Search over the entries of an embedded gallery: exact where that is fast, through a graph beyond.

In: rows as they are enrolled, unit queries. Out: the ids of the nearest entries that pass a filter, with exact
similarities. The graph is made and lengthened by a thread in the background; what it does not cover yet is compared
one by one, so that every entry is found as soon as it is there. Where a filter lets few entries pass, or the graph
finds fewer than there are, each of them is compared. Knows nothing of databases.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelscope_reid.errors import InputError
from modelscope_reid.gallery.columns import Columns, Rows, View
from modelscope_reid.gallery.entries import Filters
from modelscope_reid.gallery.faiss_index import Graph
from modelscope_reid.gallery.store import highest
from modelscope_reid.ranking.blocks import row_blocks

logger = logging.getLogger(__name__)

_ONE_PRODUCT = threading.Lock()
"""A matrix product takes all cores; two at once hinder each other so much that both take many times as long."""
EXACT_ROWS = 10_000
"""Up to so many vectors are compared one by one: 1.0 ms for a query of 512 numbers on the machine of RESULTS.md."""
EXACT_PASSING = 4_000
"""Up to so many vectors that pass a filter are compared one by one beside a graph."""
MOST_SKIPPED = 4
"""Up to so many times as many vectors are compared as pass a filter, rather than copied out."""
SPARE = 10
"""How many candidates more than asked for are taken from the graph, or settled in float64."""
TAIL = 10_000
"""So many rows, or 1 in 20, may wait for the graph before it is lengthened."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """The nearest entries of one query: `ids` (K,) and `similarities` (K,) float64, the highest first."""

    ids: NDArray[np.int64]
    similarities: NDArray[np.float64]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"ids": self.ids.tolist(), "similarities": self.similarities.tolist()}


class GalleryIndex:
    """Columns, a graph over most of them, and the thread that keeps the graph up.

    `on_graph` is called in that thread after each change of the graph.
    """

    def __init__(
        self, columns: Columns, graph: Graph | None = None, *, on_graph: Callable[[], None] | None = None
    ) -> None:
        self._columns = columns
        self._state: tuple[View, Graph | None] = (columns.view(), graph)
        self._change = threading.RLock()
        self._wake, self._closing = threading.Event(), threading.Event()
        self._on_graph = on_graph
        self._worker: threading.Thread | None = None
        self._wanted()

    @property
    def view(self) -> View:
        """The columns as they stand."""
        return self._state[0]

    @property
    def graph(self) -> Graph | None:
        """The graph as it stands."""
        return self._state[1]

    def describe(self) -> str:
        """Say how searches are answered now."""
        view, graph = self._state
        if graph is None:
            return "exact" if self._settled() else "exact; a graph is being made"
        return f"HNSW graph over {graph.rows} of {len(view)} rows"

    def append(self, rows: Rows) -> None:
        """Take in entries that were enrolled; they are found from now on."""
        with self._change:
            self._columns.append(rows)
            self._state = (self._columns.view(), self.graph)
        self._wanted()

    def erase(self, ids: NDArray[np.int64]) -> None:
        """Forget entries, vectors included."""
        with self._change:
            view, graph = self._state
            rows = np.flatnonzero(np.isin(view.ids, ids))
            self._columns.erase(rows)
            if graph is not None:
                graph.erase(rows)

    def search(
        self, queries: NDArray[np.float32], *, top: int, filters: Sequence[Filters], exact: bool = False
    ) -> list[Found]:
        """Return the `top` entries that pass each query's filters, fewer only where fewer pass."""
        view, graph = self._state
        found: dict[int, Found] = {}
        for wanted in dict.fromkeys(filters):
            places = [place for place, one in enumerate(filters) if one == wanted]
            everything = wanted == Filters.EVERYTHING and bool(view.alive.all())
            mask = None if everything else view.passing(wanted)
            answers = _nearest(view, None if exact else graph, queries[places], top, mask)
            found.update(zip(places, answers, strict=True))
        return [found[place] for place in range(len(filters))]

    def wait(self) -> None:
        """Return once the graph covers what it should; for tests and measurements."""
        worker = self._worker
        if worker is not None:
            worker.join()

    def close(self) -> None:
        """Stop the background thread; what it was making is given up."""
        self._closing.set()
        self.wait()

    def _settled(self) -> bool:
        """Tell whether the graph, or that there is none, is as it should be."""
        view, graph = self._state
        covered = graph.rows if graph is not None else 0
        return len(view) - covered <= max(EXACT_ROWS if graph is None else TAIL, covered // 20)

    def _wanted(self) -> None:
        """Start the background thread where there is work and none is running."""
        with self._change:
            idle = self._worker is None or not self._worker.is_alive()
            if idle and not self._settled() and not self._closing.is_set():
                self._worker = threading.Thread(target=self._keep_up, name="gallery-index", daemon=True)
                self._worker.start()

    def _keep_up(self) -> None:
        while not self._settled() and not self._closing.is_set():
            view, graph = self._state
            try:
                made = _graph_over(view, graph, self._closing.is_set)
            except InputError as error:  # FAISS is not installed
                logger.warning("%d vectors are searched one by one, which is slow: %s", len(view), error)
                return
            if made is None:
                return
            with self._change:
                made.erase(np.flatnonzero(~self.view.alive[: made.rows]))
                self._state = (self._columns.view(), made)
            if self._on_graph is not None:
                self._on_graph()


def _graph_over(view: View, graph: Graph | None, stop: Callable[[], bool]) -> Graph | None:
    if graph is None:
        return Graph.build(view.vectors, stop)
    return graph.extended(view.vectors[graph.rows :], stop)


def _nearest(
    view: View, graph: Graph | None, queries: NDArray[np.float32], top: int, mask: NDArray[np.bool_] | None
) -> list[Found]:
    """Return the nearest rows that pass `mask` (None: all) for each query."""
    allowed = len(view) if mask is None else int(np.count_nonzero(mask))
    count = min(top, allowed)
    settle = partial(_settle, view, count=count)
    if graph is None or allowed <= EXACT_PASSING:
        rows = None if mask is None else np.flatnonzero(mask)
        return [
            settle(query, found) for query, found in zip(queries, _compare(view, queries, count, rows), strict=True)
        ]
    tail = np.arange(graph.rows, len(view)) if mask is None else graph.rows + np.flatnonzero(mask[graph.rows :])
    near = graph.nearest(queries, count + SPARE, passing=mask)
    answers = []
    for query, some, others in zip(queries, near, _compare(view, queries, count, tail), strict=True):
        found = np.concatenate([some[some >= 0], others])
        if len(found) < count:
            every = np.flatnonzero(mask) if mask is not None else None
            found = _compare(view, query[None], count, every)[0]
        answers.append(settle(query, found))
    return answers


def _compare(
    view: View, queries: NDArray[np.float32], count: int, rows: NDArray[np.int64] | None
) -> list[NDArray[np.int64]]:
    """Return the nearest of `rows` (None: all) for each query, and a few more, by comparing with each of them."""
    found: list[NDArray[np.int64]] = [np.empty(0, np.int64) for _ in queries]
    best: list[NDArray[np.float32]] = [np.empty(0, np.float32) for _ in queries]
    for places, similarities in _similarities(view, queries, rows):
        for number, line in enumerate(similarities):
            every = np.concatenate([best[number], line])
            keep = highest(every, count + SPARE)
            best[number], found[number] = every[keep], np.concatenate([found[number], places])[keep]
    return found


def _similarities(
    view: View, queries: NDArray[np.float32], rows: NDArray[np.int64] | None
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Yield `rows` (None: all) in blocks, with their similarities (Q, B) to the queries (Q, D)."""
    columns = max(len(queries), view.vectors.shape[1])
    if rows is not None and MOST_SKIPPED * len(rows) < len(view):
        for block in row_blocks(len(rows), columns):
            yield rows[block], _products(queries, view.vectors[rows[block]])
        return
    for block in row_blocks(len(view), columns):  # multiplying all and choosing is faster than copying most
        similarities = _products(queries, view.vectors[block])
        if rows is None:
            yield np.arange(block.start, block.stop), similarities
        else:
            places = rows[np.searchsorted(rows, block.start) : np.searchsorted(rows, block.stop)]
            yield places, similarities[:, places - block.start]


def _products(queries: NDArray[np.float32], vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return similarities (Q, N); BLAS reads the vectors once for one query by this order, and copies none."""
    with _ONE_PRODUCT:
        return (vectors @ queries[0])[None] if len(queries) == 1 else queries @ vectors.T


def _settle(view: View, query: NDArray[np.float32], rows: NDArray[np.int64], *, count: int) -> Found:
    """Put candidate rows in order by their similarity in float64, and keep `count`; of equal ones the older."""
    rows = np.sort(rows)
    similarities = np.clip(view.vectors[rows].astype(np.float64) @ query.astype(np.float64), -1.0, 1.0)
    order = np.argsort(-similarities, kind="stable")[:count]
    return Found(ids=view.ids[rows[order]], similarities=similarities[order])
