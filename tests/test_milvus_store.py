"""What only the Milvus store has: a server that can be away, and addresses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from gallery_places import INFO, block, milvus, toward  # noqa: F401  # a fixture
from milvus_server import MilvusServer, milvus_server

from modelscope_reid.errors import GalleryError, InputError
from modelscope_reid.gallery.entries import Entry, Filters
from modelscope_reid.gallery.milvus_store import create_milvus_store, open_milvus_store
from modelscope_reid.gallery.store import Block


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[MilvusServer]:
    pytest.importorskip("milvus_lite")
    with milvus_server(tmp_path) as server:
        yield server


@pytest.mark.slow
def test_the_server_goes_and_comes_back(own_server: MilvusServer, capfd: pytest.CaptureFixture[str]) -> None:
    address = own_server.address("people")
    store = create_milvus_store(address, INFO)
    assert store.add(block(("a", 0.0), ("b", 20.0))) == 2
    own_server.kill()
    attempts = (
        lambda: store.search(toward(0.0), top=1, filters=[Filters()]),
        lambda: store.add(block(("c", 10.0))),
        lambda: open_milvus_store(address),
    )
    for attempt in attempts:
        with pytest.raises(GalleryError, match=f"Milvus server of {address} did not do as asked") as caught:
            attempt()
        assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""  # pymilvus prints its errors where nobody asked
    own_server.start()
    assert store.add(block(("a", 0.0), ("c", 10.0))) == 1  # what was acknowledged is there, and it goes on
    hits = store.search(toward(0.0), top=3, filters=[Filters()])[0]
    assert [hit.entry.key for hit in hits] == ["a", "c", "b"]
    store.close()


def test_addresses(milvus: MilvusServer) -> None:  # noqa: F811
    assert open_milvus_store(milvus.address("nothing_here")) is None
    for wrong in ("http://127.0.0.1:1/a/b", "http://127.0.0.1:1/no-name", "http:///x"):
        with pytest.raises(InputError, match="no address of a Milvus gallery"):
            open_milvus_store(wrong)
    with pytest.raises(GalleryError, match="did not do as asked"):
        open_milvus_store("http://user:secret@127.0.0.1:1/people")


def test_a_foreign_collection_is_refused(milvus: MilvusServer) -> None:  # noqa: F811
    from pymilvus import MilvusClient

    client = MilvusClient(uri=f"http://127.0.0.1:{milvus.port}")
    client.create_collection("foreign", dimension=4)
    with pytest.raises(GalleryError, match="is no gallery that can be opened"):
        open_milvus_store(milvus.address("foreign"))
    client.close()


def test_what_milvus_cannot_hold_is_refused(milvus: MilvusServer) -> None:  # noqa: F811
    store = create_milvus_store(milvus.address("long_names"), INFO)
    with pytest.raises(InputError, match=r"person_id of 'x\.jpg' is longer than 512 bytes"):
        store.add(Block(entries=(Entry(key="x", person_id="é" * 300, source="x.jpg"),), vectors=toward(0.0)))
    with pytest.raises(InputError, match=r"16,384 entries at most"):
        store.search(toward(0.0), top=20_000, filters=[Filters()])
    store.close()
