"""Where galleries are, and whose: an address to its store, and a model to what a gallery keeps of it.

In: a path, or the address of a Milvus server. Out: the store there. Knows nothing of images.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from modelscope_reid.downloads import public_url, url_scheme
from modelscope_reid.embedder import Embedder
from modelscope_reid.errors import InputError
from modelscope_reid.gallery.entries import GalleryInfo
from modelscope_reid.gallery.milvus_store import create_milvus_store, open_milvus_store
from modelscope_reid.gallery.sqlite_store import create_sqlite_store, open_sqlite_store
from modelscope_reid.gallery.store import Store

Address = str | os.PathLike[str]

OPENERS: dict[str, Callable[[str], Store | None]] = {
    "": lambda path: open_sqlite_store(Path(path)),
    **dict.fromkeys(("http", "https", "tcp"), open_milvus_store),
}
"""How the store of each scheme is opened; no scheme is a path."""
MAKERS: dict[str, Callable[[str, GalleryInfo], Store]] = {
    "": lambda path, info: create_sqlite_store(Path(path), info),
    **dict.fromkeys(("http", "https", "tcp"), create_milvus_store),
}


def open_store(address: Address) -> Store | None:
    """Return the store at an address, None where there is none.

    Raises:
        InputError: an address of an unknown kind.
        GalleryError: no gallery, damaged, or the server does not answer.
    """
    return OPENERS[_scheme(address)](os.fspath(address))


def create_store(address: Address, info: GalleryInfo) -> Store:
    """Make an empty store at an address, or open the one that is there; raises as `open_store` does."""
    return MAKERS[_scheme(address)](os.fspath(address), info)


def info_of(embedder: Embedder) -> GalleryInfo:
    """Return what a gallery keeps of the model that it belongs to."""
    source = Path(embedder.report.source).name if embedder.report is not None else ""
    return GalleryInfo(fingerprint=embedder.fingerprint, dimension=embedder.embedding_dim, model=source)


def describe_model(info: GalleryInfo) -> str:
    """Name a model in a message."""
    return f"model {info.model or '(unnamed)'} ({info.fingerprint[:12]}, {info.dimension} numbers)"


def check_model(store: Store, info: GalleryInfo) -> None:
    """Raise `InputError`, naming both, where a store is of another model."""
    if (info.fingerprint, info.dimension) != (store.info.fingerprint, store.info.dimension):
        raise InputError(
            f"{store.address} was made with {describe_model(store.info)}, and this is {describe_model(info)}: their "
            "embeddings do not compare; use its own model, or another gallery."
        )


def _scheme(address: Address) -> str:
    scheme = url_scheme(os.fspath(address))
    if scheme not in OPENERS:
        where = public_url(os.fspath(address))
        raise InputError(f"{where!r} is no place for a gallery; give a path, or http://host:19530/name.")
    return scheme
