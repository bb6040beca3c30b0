"""Folders by path or URL: what is listed, read and written, on this machine's disks and in fsspec's memory."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import fsspec
import pytest

from modelscope_reid.distributed.storage import Storage, StoredFile, open_storage
from modelscope_reid.errors import InputError, ReidError


@pytest.fixture(params=["path", "file", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "memory":
        fsspec.filesystem("memory").rm("/", recursive=True)
        return Storage("memory://bucket/prefix")
    return Storage(str(tmp_path / "prefix") if request.param == "path" else f"file://{tmp_path}/prefix")


def test_images_are_found_to_the_bottom_in_order_with_their_sizes(storage: Storage) -> None:
    for name, content in {"b.jpg": b"12", "a/c.PNG": b"123", "a/notes.txt": b"1", "a.jpg": b""}.items():
        storage.write(name, content)
    found = storage.images()
    assert [(file.path.removeprefix(storage.address), file.size) for file in found] == [
        ("/a.jpg", 0),
        ("/a/c.PNG", 3),
        ("/b.jpg", 2),
    ]
    assert storage.read(found[1].path) == storage.read("a/c.PNG") == b"123"


def test_what_is_written_is_there_whole_and_replaced_whole(storage: Storage) -> None:
    assert storage.names("parts") == set()
    storage.write("parts/1", b"first")
    storage.write("parts/1", b"second")
    storage.write("parts/deeper/2", b"")
    assert storage.names("parts") == {"1"}  # no temporary name is left
    with storage.open("parts/1") as file:
        assert file.read() == b"second"
    storage.remove("parts/1")
    storage.remove("parts/1")
    with pytest.raises(FileNotFoundError):
        storage.read("parts/1")


def test_a_storage_goes_to_other_processes_as_its_address(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    storage.write("a", b"1")
    assert pickle.loads(pickle.dumps(storage)).read("a") == b"1"


def test_local_addresses_are_plain_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "crops").mkdir()
    (tmp_path / "crops" / "a.jpg").write_bytes(b"12345")
    monkeypatch.chdir(tmp_path)
    expected = StoredFile(str(tmp_path / "crops" / "a.jpg"), 5)
    for url in ("crops", "./crops/", f"file://{tmp_path}/crops"):
        assert Storage(url).images() == [expected]
        assert Storage(url).address == str(tmp_path / "crops")


def test_a_path_holds_in_processes_that_work_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    storage = open_storage("out")
    monkeypatch.chdir("/")
    assert storage.address == str(tmp_path / "out")
    assert open_storage("s3://bucket/prefix") == Storage("s3://bucket/prefix")


def test_each_mistake_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="holds no image"):
        Storage(str(tmp_path / "nowhere")).images()
    with pytest.raises(InputError, match="no address that fsspec knows"):
        Storage("s4://bucket").images()
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(InputError, match="Install s3fs"):
        Storage("s3://bucket/prefix").images()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match=r"file/below cannot be written .*choose another place"):
        Storage(str(tmp_path / "file" / "below")).write("a", b"1")
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(InputError, match=r"modelscope-reid\[distributed\]"):
        Storage(str(tmp_path)).images()


def test_a_name_that_parquet_cannot_hold_is_refused(tmp_path: Path) -> None:
    (Path(tmp_path) / "b\udcff.jpg").write_bytes(b"1")
    with pytest.raises(InputError, match="not UTF-8"):
        Storage(str(tmp_path)).images()


def test_a_storage_that_fails_is_not_an_image_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(str(tmp_path))

    def broken(*arguments: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(type(storage._opened[0]), "cat_file", broken)
    with pytest.raises(ReidError, match=r"storage of .*a.jpg failed .*Input/output error.*start again"):
        storage.read("a.jpg")
