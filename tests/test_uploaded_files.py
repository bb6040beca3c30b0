"""Uploads on the disk: read once more or gone, swept after a while, and not left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from modelscope_reid.app.uploaded_files import FOLDER_VARIABLE, sweep, uploaded, uploads_folder
from modelscope_reid.errors import ImageError


def test_what_a_field_holds(tmp_path: Path) -> None:
    paths = [str(tmp_path / "a.jpg"), str(tmp_path / "b.jpg")]
    assert uploaded(None) == [] and uploaded([]) == []
    assert [file.name for file in uploaded(paths)] == ["a.jpg", "b.jpg"]
    assert [file.path for file in uploaded(paths[0])] == [tmp_path / "a.jpg"]


def test_a_file_that_was_swept_away_is_an_error_without_its_path(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"a")
    file = uploaded(str(tmp_path / "a.jpg"))[0]
    assert file.read() == b"a"
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(ImageError, match=r"^a\.jpg was uploaded too long ago; upload it again\.$"):
        file.read()


def test_old_files_are_swept_away_and_the_others_counted(tmp_path: Path) -> None:
    for name, size in (("old/a", 10), ("old/b", 20), ("new/c", 5), ("d", 7)):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(size))
        if name.startswith("old"):
            os.utime(path, (0, 0))
    assert sweep(tmp_path, older_than=60.0) == 12
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["c", "d"]
    assert sweep(tmp_path / "nowhere") == 0


@pytest.mark.parametrize("given", [False, True])
def test_the_folder_ends_with_its_process_and_no_other_file_is_in_it(tmp_path: Path, given: bool) -> None:
    place = tmp_path / "not" / "there yet"
    code = "from modelscope_reid.app.uploaded_files import uploads_folder; f = uploads_folder(); "
    code += "(f / 'a').write_bytes(b'a'); assert f == uploads_folder(); print(f)"
    environment = {name: value for name, value in os.environ.items() if name != FOLDER_VARIABLE}
    environment |= {"TMPDIR": str(tmp_path)} | ({FOLDER_VARIABLE: str(place)} if given else {})
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    folder = Path(done.stdout.strip())
    assert folder.parent == (place if given else tmp_path).resolve()
    assert not folder.exists() and folder.parent.exists()


def test_this_process_has_one() -> None:
    assert uploads_folder().is_dir() and uploads_folder().is_absolute()
