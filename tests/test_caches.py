"""The cache folder: what is remembered comes back, what is damaged does not, and it does not grow without end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from modelscope_reid.runtimes.caches import CACHE_VARIABLE, KEPT_FILES, cache_folder, key_of, recall, remember


def test_the_folder_is_the_users_choice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.setenv(CACHE_VARIABLE, "")
    assert cache_folder() is None
    monkeypatch.delenv(CACHE_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "modelscope_reid"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "modelscope_reid"


def test_what_is_remembered_comes_back_unless_it_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.blob"
    assert recall(path) is None
    remember(path, b"numbers")
    assert recall(path) == b"numbers"
    for damaged in (path.read_bytes()[:-1], b"", b"x" * 50):
        path.write_bytes(damaged)
        assert recall(path) is None
    remember(path, b"")
    assert recall(path) == b""


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    remember(tmp_path / "file" / "a.blob", b"numbers")
    assert recall(tmp_path / "file" / "a.blob") is None


def test_the_oldest_files_make_room(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.blob" for number in range(KEPT_FILES + 2)]
    for age, path in enumerate(paths[:-1]):
        remember(path, b"x")
        os.utime(path, (1_000_000 + age, 1_000_000 + age))
    assert recall(paths[0]) == b"x" or not paths[0].exists()  # used, and so the youngest
    (tmp_path / "other.json").write_text("another kind")
    remember(paths[-1], b"x")
    assert len(list(tmp_path.glob("*.blob"))) == KEPT_FILES
    assert paths[-1].exists() and not paths[1].exists() and (tmp_path / "other.json").exists()


def test_keys_differ_where_the_parts_do() -> None:
    assert key_of("a", 1) == key_of("a", 1)
    assert len({key_of("a", 1), key_of("a", "1"), key_of("a1"), key_of("a", 1, None)}) == 4
