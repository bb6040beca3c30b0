"""An address to its store."""

from __future__ import annotations

from pathlib import Path

import pytest
from gallery_models import tiny_embedder
from gallery_places import INFO

from modelscope_reid.errors import InputError
from modelscope_reid.gallery.entries import GalleryInfo
from modelscope_reid.gallery.places import check_model, create_store, info_of, open_store


def test_a_path_is_a_file(tmp_path: Path) -> None:
    for path in (tmp_path / "a.db", str(tmp_path / "b: c.db")):
        assert open_store(path) is None
        create_store(path, INFO).close()
        store = open_store(path)
        assert store is not None and store.address == str(path)
        store.close()


def test_an_unknown_kind_of_address_is_refused_and_its_password_not_told() -> None:
    for attempt in (open_store, lambda address: create_store(address, INFO)):
        with pytest.raises(InputError, match="is no place for a gallery") as caught:
            attempt("redis://user:secret@host/1")
        assert "secret" not in str(caught.value)


def test_a_model_and_its_gallery(tmp_path: Path) -> None:
    embedder = tiny_embedder()
    info = info_of(embedder)
    assert info == GalleryInfo(fingerprint=embedder.fingerprint, dimension=20)
    store = create_store(tmp_path / "gallery.db", info)
    check_model(store, info)
    for other in (GalleryInfo(fingerprint="x", dimension=20), GalleryInfo(fingerprint=info.fingerprint, dimension=4)):
        with pytest.raises(InputError, match=r"was made with model \(unnamed\)"):
            check_model(store, other)
    store.close()
