"""What may be wrong or odd in a dataset on disk, in sentences that help."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelscope_reid.datasets.checks import check_root, find_oddities, image_names, refuse, repeated, subfolders
from modelscope_reid.datasets.records import Record
from modelscope_reid.errors import InputError


def holds_mark(folder: Path) -> bool:
    return (folder / "mark").is_dir()


def check(root: Path) -> None:
    check_root(root, holds_mark, dataset="Marked", expected="a folder mark")


def record(name: str, person: int, camera: int) -> Record:
    return Record(Path(name), person, camera)


def test_the_right_folder_passes(tmp_path: Path) -> None:
    (tmp_path / "mark").mkdir()
    check(tmp_path)


@pytest.mark.parametrize("depth", [1, 2])
def test_a_folder_too_deep_names_the_one_above(tmp_path: Path, depth: int) -> None:
    inside = tmp_path.joinpath(*["mark", "deeper"][:depth])
    inside.mkdir(parents=True)
    with pytest.raises(InputError, match=f"lies inside the folder of .*; pass {tmp_path} instead"):
        check(inside)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_folder_too_high_names_the_one_below(tmp_path: Path, depth: int) -> None:
    right = tmp_path.joinpath(*"abc"[:depth])
    (right / "mark").mkdir(parents=True)
    (tmp_path / "0").mkdir()
    with pytest.raises(InputError, match=f"only contains the folder of Marked; pass {right} instead"):
        check(tmp_path)


def test_a_relative_root_is_looked_above_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mark").mkdir()
    monkeypatch.chdir(tmp_path / "mark")
    with pytest.raises(InputError, match=f"pass {tmp_path} instead"):
        check(Path())


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "Market-1501").mkdir()
    with pytest.raises(InputError, match=r"folder .*market-1502 does not exist; did you mean 'market-1501'\?"):
        check(tmp_path / "market-1502")
    with pytest.raises(InputError, match=r"does not exist; check the spelling"):
        check(tmp_path / "zzz" / "yyy")
    (tmp_path / "data.zip").write_bytes(b"PK")
    with pytest.raises(
        InputError, match=r"data.zip is a file; unpack it, and pass the folder that holds a folder mark"
    ):
        check(tmp_path / "data.zip")


def test_another_folder_says_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not the folder of Marked: expected a folder mark, found an empty folder"):
        check(tmp_path)
    for number in range(8):
        (tmp_path / f"file{number}").touch()
    with pytest.raises(InputError, match="found file0, file1, file2, file3, file4, file5, …; pass another folder"):
        check(tmp_path)


def test_hidden_files_and_other_files_are_no_images(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "._b.jpg", "Thumbs.db", "readme.txt"):
        (tmp_path / name).touch()
    (tmp_path / "folder.jpg").mkdir()
    assert image_names(tmp_path) == ["a.png", "b.JPG"]


def test_subfolders_by_small_names(tmp_path: Path) -> None:
    for name in ("Labeled", "detected", ".git"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").touch()
    assert subfolders(tmp_path) == {"labeled": tmp_path / "Labeled", "detected": tmp_path / "detected"}
    assert subfolders(tmp_path / "missing") == {}


def test_refuse_counts_and_gives_an_example() -> None:
    refuse([], 5, what="are bad", advice="mend them.")
    with pytest.raises(InputError, match=r"^2 of 1,000 names are bad, such as a; mend them\.$"):
        refuse(["a", "b"], 1000, what="names are bad", advice="mend them.")


def test_repeated_gives_each_repetition_once() -> None:
    assert repeated("abcabca") == ["a", "b", "c", "a"]
    assert repeated("abc") == []


def test_one_camera_is_noted_with_the_way_out() -> None:
    records = {"query": (record("a", 1, 3),), "gallery": (record("b", 1, 3),)}
    (note,) = find_oddities(records)
    assert "of one camera (3)" in note and "--same-camera keep" in note
    (note,) = find_oddities({"query": (record("a", 1, -1),), "gallery": (record("b", 1, -1),)})
    assert "of an unknown camera" in note and "--same-camera keep" in note


def test_two_cameras_are_nothing_odd() -> None:
    assert find_oddities({"query": (record("a", 1, 3),), "gallery": (record("b", 1, 4),)}) == []


def test_some_unknown_cameras_are_counted() -> None:
    (note,) = find_oddities({"query": (record("a", 1, 3),), "gallery": (record("b", 1, -1),)})
    assert note.startswith("1 query and gallery images are of an unknown camera (-1)")


def test_an_image_in_query_and_gallery_is_noted() -> None:
    (note,) = find_oddities({"query": (record("a", 1, 3),), "gallery": (record("a", 1, 3), record("b", 1, 4))})
    assert note.startswith("1 query images are in the gallery too, such as a")


def test_training_people_in_the_test_are_noted_where_ids_are_one_numbering() -> None:
    records = {"train": (record("t", 1, 3),), "query": (record("a", 1, 3),), "gallery": (record("b", 1, 4),)}
    (note,) = find_oddities(records)
    assert note.startswith("0 images and 1 people of train are in query or gallery too")
    assert find_oddities(records, one_numbering=False) == []
