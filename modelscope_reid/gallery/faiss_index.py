"""A graph over many vectors that finds the nearest of them without looking at all: FAISS's HNSW.

In: unit vectors (N, D), rows in order. Out: rows that are likely the nearest; who needs exact similarities computes
them. The vectors are kept in 8 bits per number. Once made, a graph is never added to: a longer one is made beside it,
so that it can be searched meanwhile. Knows nothing of entries.

Malkov and Yashunin, "Efficient and robust approximate nearest neighbor search using HNSW graphs" (TPAMI 2020); FAISS
(facebookresearch/faiss, MIT).
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelscope_reid.files import whole_file
from modelscope_reid.libraries import require_library
from modelscope_reid.runtimes.machine import usable_cores

LINKS, BUILD_REACH, SEARCH_REACH = 16, 64, 112
"""HNSW's M, efConstruction and efSearch."""
SCANNED = 16_000
"""Of N vectors, A may answer: comparing these takes less than following links where A * A / N is below this."""
STEP = 1024
"""How many vectors are added between two looks at whether to stop."""
TRAINING_ROWS = 20_000
"""From how many vectors the range of each number is taken that its 8 bits cover."""


class Graph:
    """A graph over the first `rows` vectors of a gallery. Safe to search from several threads."""

    def __init__(self, index: Any) -> None:
        self._index = index
        self._scanners = ThreadPoolExecutor(usable_cores(), thread_name_prefix="scan")

    @property
    def rows(self) -> int:
        """How many vectors it covers."""
        return int(self._index.ntotal)

    @classmethod
    def build(cls, vectors: NDArray[np.float32], stop: Callable[[], bool]) -> Graph | None:
        """Make a graph over vectors (N, D); None where `stop` told it to give up.

        Raises:
            InputError: FAISS is not installed.
        """
        faiss = require_library("faiss")
        index = faiss.IndexHNSWSQ(vectors.shape[1], faiss.ScalarQuantizer.QT_8bit, LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = BUILD_REACH
        index.train(vectors[:: max(1, len(vectors) // TRAINING_ROWS)])
        return cls(index)._grown(vectors, stop)

    def extended(self, vectors: NDArray[np.float32], stop: Callable[[], bool]) -> Graph | None:
        """Return a graph that also covers the further vectors (N, D); None where `stop` told it to give up."""
        faiss = require_library("faiss")
        return Graph(faiss.clone_index(self._index))._grown(vectors, stop)

    def _grown(self, vectors: NDArray[np.float32], stop: Callable[[], bool]) -> Graph | None:
        for start in range(0, len(vectors), STEP):
            if stop():
                return None
            self._index.add(np.ascontiguousarray(vectors[start : start + STEP]))
        return self

    def nearest(
        self, queries: NDArray[np.float32], count: int, *, passing: NDArray[np.bool_] | None = None
    ) -> NDArray[np.int64]:
        """Return at least `count` likely nearest rows for each query: (Q, K), -1 where there were none.

        `passing` (at least `rows`,) says which rows may answer, None that all may. Links are followed where most may;
        where few may, and following links past all the others would take longer, all that may are compared, in 8 bits.
        """
        faiss = require_library("faiss")
        reach, selector = SEARCH_REACH, None
        if passing is not None:
            allowed = int(np.count_nonzero(passing[: self.rows]))
            packed = np.packbits(passing[: self.rows], bitorder="little")
            if allowed**2 <= SCANNED * self.rows:
                return self._scanned(queries, count, packed)
            reach, selector = int(SEARCH_REACH * self.rows / allowed), faiss.IDSelectorBitmap(packed)
        options = faiss.SearchParametersHNSW(efSearch=min(max(reach, 2 * count), self.rows), sel=selector)
        rows: NDArray[np.int64] = self._index.search(queries, count, params=options)[1]
        return rows

    def _scanned(self, queries: NDArray[np.float32], count: int, packed: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Compare with every row whose bit is set; FAISS gives each query one core, so that one query is cut up."""
        faiss = require_library("faiss")
        storage = faiss.downcast_index(self._index.storage)
        cuts = np.linspace(0, len(packed), 1 + max(1, usable_cores() // len(queries))).astype(int)

        def scan(start: int, stop: int) -> NDArray[np.int64]:
            part = np.zeros_like(packed)
            part[start:stop] = packed[start:stop]
            options = faiss.SearchParameters(sel=faiss.IDSelectorBitmap(part))
            rows: NDArray[np.int64] = storage.search(queries, count, params=options)[1]
            return rows

        others = [self._scanners.submit(scan, start, stop) for start, stop in pairwise(cuts[1:])]
        first = scan(cuts[0], cuts[1])  # here, for waking a thread takes a good part of what a scan does
        return np.concatenate([first, *(other.result() for other in others)], axis=1)

    def erase(self, rows: NDArray[np.int64]) -> None:
        """Overwrite what is kept of the vectors at `rows` by zeros; the graph still passes through them."""
        faiss = require_library("faiss")
        storage = faiss.downcast_index(self._index.storage)
        codes = faiss.rev_swig_ptr(storage.codes.data(), self.rows * storage.code_size)
        codes.reshape(self.rows, storage.code_size)[rows[rows < self.rows]] = 0

    def to_array(self) -> NDArray[np.uint8]:
        """Return the graph as bytes (B,)."""
        content: NDArray[np.uint8] = require_library("faiss").serialize_index(self._index)
        return content

    @classmethod
    def from_array(cls, content: NDArray[np.uint8]) -> Graph:
        """Return the graph that `to_array` wrote.

        Raises:
            RuntimeError: those bytes are no graph.
        """
        return cls(require_library("faiss").deserialize_index(content))


@dataclass(frozen=True, kw_only=True, eq=False)
class SavedGraph:
    """A graph in a file, with what must be so in the gallery for it to be of use.

    `gallery` and `deletions`: which gallery, and how many deletions it had seen. `ids` (N,): the entries of the
    graph's rows, deleted ones included.
    """

    gallery: str
    deletions: int
    ids: NDArray[np.int64]
    graph: Graph

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            InputError: the folder cannot be written, or the disk is full.
        """
        with whole_file(path) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                gallery=np.array(self.gallery),
                deletions=np.array(self.deletions),
                ids=self.ids,
                graph=self.graph.to_array(),
            )

    @classmethod
    def load(cls, path: Path) -> SavedGraph | None:
        """Return what `save` wrote; None where there is none, or where it is damaged (a graph can be made again)."""
        try:
            with np.load(path, allow_pickle=False) as table:
                return cls(
                    gallery=str(table["gallery"]),
                    deletions=int(table["deletions"]),
                    ids=np.asarray(table["ids"], np.int64),
                    graph=Graph.from_array(table["graph"]),
                )
        except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile):
            return None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values of the labels."""
        return {"gallery": self.gallery, "deletions": self.deletions, "rows": len(self.ids)}
