"""What a gallery needs of the place where its entries are kept, and the search that looks at every one of them.

A `Store` keeps entries with their unit vectors. It knows nothing of images, models or what a similarity means.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from modelscope_reid.errors import InputError
from modelscope_reid.gallery.entries import Entry, Filters, Finding, GalleryInfo, GalleryStats

LAST_CHARACTER = "\U0010ffff"
"""Behind every other: a name that begins with some text lies from that text up to it with this behind it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """Entries with their unit vectors (N, D) float32.

    Raises:
        InputError: another number of vectors than of entries.
    """

    entries: tuple[Entry, ...]
    vectors: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or len(self.vectors) != len(self.entries):
            raise InputError(
                f"{len(self.entries)} entries and vectors {self.vectors.shape}; expected one row for each."
            )

    def __len__(self) -> int:
        return len(self.entries)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"entries": [entry.to_dict() for entry in self.entries], "vectors": self.vectors.tolist()}


@dataclass(frozen=True, kw_only=True)
class Hit:
    """An entry that a store found for a query, without its thumbnail, and their cosine similarity."""

    entry: Entry
    similarity: float


class Store(Protocol):
    """Where entries are kept. Safe to use from several threads.

    `address` is a path or URL, for messages. Every method raises `GalleryError` where the file is damaged, the disk
    full or the server gone.
    """

    address: str
    info: GalleryInfo

    def known(self, keys: Sequence[str]) -> set[str]:
        """Return those of `keys` that are enrolled."""
        ...

    def add(self, block: Block) -> int:
        """Keep those entries that are not there yet, all or none; once this returns they stay. Return how many."""
        ...

    def search(
        self, queries: NDArray[np.float32], *, top: int, filters: Sequence[Filters], exact: bool
    ) -> list[list[Hit]]:
        """Return up to `top` hits for each of the unit vectors (Q, D), the most similar first.

        `filters` has one for each query. A query has fewer hits only where fewer entries pass. `exact` compares with
        every one of them.
        """
        ...

    def vectors(self, keys: Sequence[str]) -> NDArray[np.float32]:
        """Return the unit vectors (N, D) of enrolled keys, in their order."""
        ...

    def blocks(self, filters: Filters = Filters.EVERYTHING, *, thumbnails: bool = False) -> Iterator[Block]:
        """Yield every entry that passes, in blocks of bounded size."""
        ...

    def page(self, filters: Filters = Filters.EVERYTHING, *, after: str = "", limit: int = 24) -> list[Entry]:
        """Return the next `limit` entries that pass, with thumbnails, in the order of `blocks`.

        `after` is the key of the last entry of the page before; empty, or no longer there, it is the first page.
        """
        ...

    def thumbnails(self, keys: Sequence[str]) -> dict[str, bytes]:
        """Return the thumbnails, by key, of those of `keys` that have one."""
        ...

    def people(self, *, beginning: str = "", limit: int = 50) -> list[tuple[str, int]]:
        """Return the first `limit` people in alphabetical order whose name begins so, each with how many entries."""
        ...

    def delete_person(self, person_id: str) -> int:
        """Remove every trace of a person; return how many entries that were."""
        ...

    def stats(self) -> GalleryStats:
        """Count."""
        ...

    def verify(self) -> list[Finding]:
        """Look at everything there is, and say what is right and what is not."""
        ...

    def close(self) -> None:
        """Let go of files and connections; a second time does nothing."""
        ...


def search_blocks(blocks: Iterable[Block], queries: NDArray[np.float32], top: int) -> list[list[Hit]]:
    """Return up to `top` hits for each query (Q, D), comparing it with every entry of `blocks`."""
    best: list[list[Hit]] = [[] for _ in queries]
    for block in blocks:
        similarities = queries @ block.vectors.T
        for found, row in zip(best, similarities, strict=True):
            new = [Hit(entry=block.entries[place], similarity=float(row[place])) for place in highest(row, top)]
            found[:] = sorted([*found, *new], key=lambda hit: -hit.similarity)[:top]
    return best


def highest(values: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Return the places of the `count` highest of values (N,), the highest first."""
    places = np.arange(len(values))
    if len(values) > count:
        places = np.argpartition(-values, count - 1)[:count]
    return places[np.argsort(-values[places], kind="stable")]
