"""A file is written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelscope_reid.errors import InputError
from modelscope_reid.files import whole_file


def test_the_file_appears_at_the_end_and_replaces_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    path.write_text("old")
    with whole_file(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == path.parent  # so that renaming cannot copy
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_what_was_there(error: type[BaseException], tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    path.write_text("old")
    with pytest.raises(error), whole_file(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_an_input_error(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match=r"out\.txt cannot be written: No space left on device"),
        whole_file(tmp_path / "out.txt"),
    ):
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "missing" / "out", tmp_path / "file" / "out", tmp_path / ("long" * 100)):
        with pytest.raises(InputError, match="cannot be written"), whole_file(path):
            pytest.fail("the block must not run")
    with (
        pytest.raises(InputError, match="cannot be written: Is a directory"),
        whole_file(tmp_path / "folder") as temporary,
    ):
        temporary.touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_relative_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with whole_file(Path("out.txt")) as temporary:
        temporary.write_text("x")
    assert (tmp_path / "out.txt").read_text() == "x"
