"""A dataset that is a folder per person."""

from __future__ import annotations

from pathlib import Path

import pytest
from dataset_trees import MARKET, write_folders

from modelscope_reid.datasets.person_folders import PersonFolders
from modelscope_reid.errors import InputError

DIVIDED = {
    "train/0002": ("0002_c1s1_000451_03.jpg",),
    "query/0001": ("0001_c1s1_001051_00.jpg",),
    "gallery/0001": ("0001_c2s1_000301_01.jpg",),
    "gallery/0000": ("0000_c1s1_000151_01.jpg",),
    "gallery/-1": ("-1_c1s1_000401_03.jpg",),
}
PLAIN = {
    "anna": ("cam1_a.jpg", "cam1_b.jpg", "Camera2-a.jpg"),
    "bob": ("x_c3.png", "y_c1.png"),
    "carl": ("c2.jpg",),
}


def test_folders_by_split(tmp_path: Path) -> None:
    dataset = PersonFolders(write_folders(tmp_path / "shop", DIVIDED))
    assert [(r.person_id, r.camera_id) for r in dataset.train] == [(2, 1)]
    assert [(r.person_id, r.camera_id) for r in dataset.query] == [(1, 1)]
    assert [(r.person_id, r.camera_id) for r in dataset.gallery] == [(0, 1), (1, 2)]
    assert (dataset.name, dataset.junk, dataset.notes, dataset.person_names) == ("shop", 1, (), {})


def test_people_alone_are_divided(tmp_path: Path) -> None:
    dataset = PersonFolders(write_folders(tmp_path, PLAIN))
    # One query for each of the two who have two images or more: the first by name ("Camera2" sorts before "cam1").
    assert [(r.path.name, r.person_id, r.camera_id) for r in dataset.query] == [
        ("Camera2-a.jpg", 1, 2),
        ("x_c3.png", 2, 3),
    ]
    assert [(r.path.name, r.person_id, r.camera_id) for r in dataset.gallery] == [
        ("cam1_a.jpg", 1, 1),
        ("cam1_b.jpg", 1, 1),
        ("y_c1.png", 2, 1),
        ("c2.jpg", 3, 2),
    ]
    assert dataset.person_names == {1: "anna", 2: "bob", 3: "carl"}
    assert dataset.notes[0].startswith("There are no folders query and gallery: the first image of each person")


def test_names_without_a_camera(tmp_path: Path) -> None:
    dataset = PersonFolders(write_folders(tmp_path, {"anna": ("c1.jpg", "abc2.jpg"), "bob": ("1.jpg", "2.jpg")}))
    assert {record.camera_id for record in (*dataset.query, *dataset.gallery)} == {-1}
    assert "3 of 4 file names tell no camera (c1, cam2, camera_3), such as 'abc2.jpg'" in dataset.notes[1]
    assert "--same-camera keep" in dataset.notes[2]


def test_a_camera_pattern_of_ones_own(tmp_path: Path) -> None:
    root = write_folders(tmp_path, {"anna": ("kitchen-04.jpg", "hall-05.jpg"), "bob": ("hall-05.jpg",)})
    assert [r.camera_id for r in PersonFolders(root, camera_pattern=r"-(\d+)$").gallery] == [4, 5]
    for pattern in ("-(\\d+", "-0", "([a-z]+)"):
        with pytest.raises(InputError, match=r"camera_pattern is .* expected a regular expression whose first group"):
            PersonFolders(root, camera_pattern=pattern)


def test_wrong_levels_name_the_right_folder(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "shop", PLAIN)
    with pytest.raises(InputError, match=f"lies inside the folder of .*; pass {root} instead"):
        PersonFolders(root / "anna")
    with pytest.raises(InputError, match=f"only contains the folder of people; pass {root} instead"):
        PersonFolders(tmp_path)
    divided = write_folders(tmp_path / "divided", DIVIDED)
    for part in (divided / "query", divided / "query" / "0001"):
        with pytest.raises(InputError, match=f"pass {divided} instead"):
            PersonFolders(part)


def test_no_query_and_no_gallery(tmp_path: Path) -> None:
    train = {"train/a": ("c1.jpg",)}
    assert "trained on, not evaluated on" in PersonFolders(write_folders(tmp_path / "a", train)).notes[0]
    with pytest.raises(InputError, match=r"has no image in query \(1 in train, 1 in gallery\); make one image"):
        PersonFolders(write_folders(tmp_path / "b", {**train, "gallery/b": ("c1.jpg",)}))
    with pytest.raises(InputError, match=r"has no image in query \(2 in gallery\); make one image"):
        PersonFolders(write_folders(tmp_path / "c", {"a": ("c1.jpg",), "b": ("c2.jpg",)}))


def test_images_that_are_in_no_persons_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"query holds images, but no folder per person; .* --dataset market1501"):
        PersonFolders(write_folders(tmp_path, MARKET))


def test_a_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        InputError, match="is not the folder of people: expected folders query and gallery, or a folder"
    ):
        PersonFolders(tmp_path / "empty")


def test_one_folder_of_images_is_no_dataset(tmp_path: Path) -> None:
    write_folders(tmp_path, {"pictures": ("a.jpg", "b.jpg")})
    for root in (tmp_path, tmp_path / "pictures"):
        with pytest.raises(InputError, match=r"a folder of images for each of two or more people, found"):
            PersonFolders(root)
