"""From what a person types to a list of images."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelscope_reid.datasets.image_files import IMAGE_SUFFIXES, find_images
from modelscope_reid.errors import InputError


def test_folders_are_searched_to_the_bottom_and_sorted(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.PNG", "deep/er/c.webp", "notes.txt", "deep/.DS_Store", "d.jpg.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.jpg").mkdir()
    expected = [str(tmp_path / name) for name in ("a.PNG", "b.jpg", "deep/er/c.webp")]
    assert find_images([str(tmp_path)]) == expected


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_every_suffix_counts(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"x{suffix.upper()}").touch()
    assert find_images([str(tmp_path)]) == [str(tmp_path / f"x{suffix.upper()}")]


def test_everything_else_is_passed_on_in_order(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").touch()
    given = ["https://example.org/a.jpg", "missing.jpg", "data:image/png;base64," + "A" * 9000, "\0", str(tmp_path)]
    assert find_images(iter(given)) == [*given[:4], str(tmp_path / "x.jpg")]
    assert find_images(["a.jpg", "a.jpg"]) == ["a.jpg", "a.jpg"]


def test_nothing_to_do_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match=rf"folder '{tmp_path}' holds no image \(\.jpg"):
        find_images(["a.jpg", str(tmp_path)])
    with pytest.raises(InputError, match="no images were given"):
        find_images([])
