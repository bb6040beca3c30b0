"""Fixtures and drawn entries that the tests of the gallery share."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from milvus_server import MilvusServer, milvus_server
from numpy.typing import NDArray

from modelscope_reid.gallery.entries import Entry, GalleryInfo
from modelscope_reid.gallery.store import Block

INFO = GalleryInfo(fingerprint="f" * 64, dimension=2, model="toy")

NewPlace = Callable[[], str]
"""Returns the address of a gallery that is not there yet."""

_numbers = itertools.count()


@pytest.fixture(scope="session")
def milvus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusServer]:
    pytest.importorskip("milvus_lite")
    with milvus_server(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(params=["sqlite", "milvus"])
def new_place(request: pytest.FixtureRequest, tmp_path: Path) -> NewPlace:
    """Places of both stores, one after the other: the same tests run on each."""
    if request.param == "sqlite":
        return lambda: str(tmp_path / f"gallery{next(_numbers)}.db")
    server: MilvusServer = request.getfixturevalue("milvus")
    return lambda: server.address(f"gallery{next(_numbers)}")


def toward(*degrees: float) -> NDArray[np.float32]:
    """Unit vectors (N, 2) in these directions: the cosine of an angle is a similarity."""
    angles = np.deg2rad(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def block(*entries: tuple[str, float], **labels: str | float | bytes | None) -> Block:
    """Entries by key and direction, all with the same labels."""
    return Block(
        entries=tuple(Entry(key=key, source=f"{key}.jpg", **labels) for key, _ in entries),
        vectors=toward(*(angle for _, angle in entries)).reshape(-1, 2),
    )
