"""Names to numbers, and a user's rows to a dataset."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelscope_reid.datasets.user_datasets import Row, number_names, user_dataset
from modelscope_reid.errors import InputError


def test_numbers_stay_what_they_are() -> None:
    assert number_names(["0007", "-1", "12", "0007", "0000"]) == ([7, -1, 12, 7, 0], {})


def test_names_are_numbered_from_1_in_sorted_order() -> None:
    assert number_names(["zoe", "anna", "zoe", "7"]) == ([3, 2, 3, 1], {1: "7", 2: "anna", 3: "zoe"})


def test_two_writings_of_a_number_stay_two_people() -> None:
    assert number_names(["2", "0002"]) == ([2, 1], {1: "0002", 2: "2"})


def rows(*values: tuple[str, str, str, str]) -> list[Row]:
    return [Row(split, Path(file), person, camera) for split, file, person, camera in values]  # type: ignore[arg-type]


def test_rows_become_a_dataset() -> None:
    dataset = user_dataset(
        "mine",
        Path("root"),
        rows(
            ("train", "t.jpg", "bob", "door"),
            ("query", "q.jpg", "anna", "door"),
            ("gallery", "g.jpg", "anna", "yard"),
        ),
        notes=("first",),
    )
    assert [(record.person_id, record.camera_id) for record in dataset.gallery] == [(1, 2)]
    assert (dataset.person_names, dataset.camera_names) == ({1: "anna", 2: "bob"}, {1: "door", 2: "yard"})
    assert (dataset.name, dataset.official, dataset.notes) == ("mine", False, ("first",))


def test_junk_is_left_out_and_counted() -> None:
    dataset = user_dataset(
        "mine", Path(), rows(("query", "q", "1", "1"), ("gallery", "g", "1", "2"), ("gallery", "j", "-1", "1"))
    )
    assert (dataset.junk, len(dataset.gallery)) == (1, 1)


def test_training_images_alone_make_a_dataset() -> None:
    dataset = user_dataset("mine", Path(), rows(("train", "t", "1", "1")))
    assert dataset.notes == ("There is no query and no gallery: this can be trained on, not evaluated on.",)


def test_half_a_test_set_is_refused() -> None:
    with pytest.raises(InputError, match=r"no image in query \(1 in train, 1 in gallery\); make one image per person"):
        user_dataset("mine", Path(), rows(("train", "t", "2", "1"), ("gallery", "g", "1", "1")))
    with pytest.raises(
        InputError, match=r"no image in gallery \(1 in query\); put the images that queries are to find"
    ):
        user_dataset("mine", Path(), rows(("query", "q", "1", "1")))
    with pytest.raises(InputError, match=r"mine in . has no record"):
        user_dataset("mine", Path(), rows(("query", "q", "-1", "1")))
