"""Who is trained on and who is held out, in a dataset small enough to see through."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelscope_reid.datasets.records import Dataset, Record, camera_labels
from modelscope_reid.errors import InputError
from modelscope_reid.training.people import training_split

Images = list[tuple[int, int]]


def records(*images: tuple[int, int], folder: str = "train") -> tuple[Record, ...]:
    """One image of each (person, camera), numbered in order."""
    return tuple(
        Record(Path(folder, f"{number:03d}.jpg"), person, camera) for number, (person, camera) in enumerate(images)
    )


TRAIN = records((40, 5), (7, 1), (7, 1), (7, 3), (12, 1), (40, 3), (40, 5), (12, 3), (99, 5), (99, 5))
"""People 7 and 40: two cameras, and two images by one of them. 12: two cameras, an image each. 99: one camera."""
DATASET = Dataset(
    name="Hand-made",
    root=Path("train"),
    train=TRAIN,
    query=records((1, 8), folder="query"),
    gallery=records((1, 0), (2, 8), folder="gallery"),
    official=True,
)


def test_labels_are_the_sorted_people() -> None:
    split = training_split(DATASET)
    assert split.records == TRAIN
    assert dict(split.people) == {7: 0, 12: 1, 40: 2, 99: 3}
    assert split.labels.tolist() == [2, 0, 0, 0, 1, 2, 2, 1, 3, 3]
    assert split.labels.dtype == np.int64


def test_cameras_are_numbered_over_the_whole_dataset() -> None:
    split = training_split(DATASET)
    # 1, 3 and 5 in train, 8 in query and gallery, 0 in the gallery alone.
    assert dict(split.cameras) == {0: 0, 1: 1, 3: 2, 5: 3, 8: 4}
    assert split.camera_numbers.tolist() == [3, 1, 1, 2, 1, 2, 3, 2, 3, 3]
    assert split.camera_numbers.dtype == np.int64


def test_without_people_held_out_the_test_split_is_measured_on() -> None:
    assert training_split(DATASET).measured is DATASET


@pytest.mark.parametrize("empty", ["query", "gallery"])
def test_nothing_is_measured_where_there_is_no_test_split(empty: str) -> None:
    dataset = dataclasses.replace(DATASET, **{empty: ()})  # type: ignore[arg-type]
    assert training_split(dataset).measured is None


def test_people_held_out_are_measured_on_and_not_trained_on() -> None:
    # Of four people, 7 and 40 can be held out, so both are.
    split = training_split(DATASET, held_out_people=2, on_test=False)
    assert dict(split.people) == {12: 0, 99: 1}
    assert split.labels.tolist() == [0, 0, 1, 1]
    measured = split.measured
    assert measured is not None and not measured.official and "2 people held out" in measured.name
    # By path: 40 at camera 5 (000), 7 at 1 (001) and 3 (003), 40 at 3 (005) come first; 002 and 006 come after.
    assert measured.query == (TRAIN[0], TRAIN[1], TRAIN[3], TRAIN[5])
    assert measured.gallery == (TRAIN[2], TRAIN[6])


def test_people_held_out_are_left_out_though_the_test_split_is_measured_on() -> None:
    split = training_split(DATASET, held_out_people=2)
    assert {record.person_id for record in split.records} == {12, 99}
    assert split.measured is DATASET


def test_evaluation_numbers_the_cameras_as_training_does() -> None:
    """A camera that none of the people held out passed is a row of the camera embedding all the same."""
    train = records((1, 0), (1, 4), (1, 4), (2, 2), (3, 0), (3, 2))
    split = training_split(Dataset(name="x", root=Path(), train=train), held_out_people=1, on_test=False)
    measured = split.measured
    assert measured is not None and {record.camera_id for record in measured.query} == {0, 4}
    evaluated = camera_labels((*measured.train, *measured.query, *measured.gallery))  # as feature_store.py does
    assert evaluated == dict(split.cameras) == {0: 0, 2: 1, 4: 2}


def test_too_many_people_to_hold_out() -> None:
    with pytest.raises(InputError) as caught:
        training_split(DATASET, held_out_people=3)
    assert "held_out_people is 3, and 2 of the 4 training people" in str(caught.value)
    assert "hold out fewer" in str(caught.value)


def test_someone_is_left_to_train_on() -> None:
    train = records((1, 0), (1, 0), (1, 1), (2, 0), (2, 0), (2, 1))  # both could be held out
    dataset = Dataset(name="x", root=Path(), train=train)
    assert len(training_split(dataset, held_out_people=1).people) == 1
    with pytest.raises(InputError, match="held_out_people is 2"):
        training_split(dataset, held_out_people=2)


def test_no_one_to_measure_on() -> None:
    with pytest.raises(InputError, match="held_out_people is 0, and people held out are to be measured on"):
        training_split(DATASET, on_test=False)


def test_a_dataset_without_training_images() -> None:
    with pytest.raises(InputError, match="has no image in train"):
        training_split(dataclasses.replace(DATASET, train=()))


def test_the_seed_draws_who_is_held_out() -> None:
    # 20 people, any of whom can be held out: 3 of 20, so two seeds agree once in 1,140; ten all agree never.
    train = records(*[image for person in range(20) for image in ((person, 0), (person, 0), (person, 1))])
    dataset = Dataset(name="x", root=Path(), train=train)
    mixed = dataclasses.replace(dataset, train=train[::-1])
    trained = {seed: frozenset(training_split(dataset, held_out_people=3, seed=seed).people) for seed in range(10)}
    assert len(set(trained.values())) > 1
    # The order of the records is no part of the draw.
    assert frozenset(training_split(mixed, held_out_people=3, seed=4).people) == trained[4]


def images_of_people(most: int) -> st.SearchStrategy[Images]:
    return st.lists(st.tuples(st.integers(0, most), st.integers(0, 3)), min_size=1, max_size=60)


@given(images=images_of_people(8), count=st.integers(1, 4), seed=st.integers(0, 99))
def test_every_split_with_people_held_out(images: Images, count: int, seed: int) -> None:
    train = records(*images)
    try:
        split = training_split(
            Dataset(name="x", root=Path(), train=train), held_out_people=count, seed=seed, on_test=False
        )
    except InputError:
        # Too few people with two cameras and two images by one of them, or no one would be left.
        places = {person: [camera for each, camera in images if each == person] for person, _ in images}
        usable = [seen for seen in places.values() if 1 < len(set(seen)) < len(seen)]
        assert count > len(usable) or count == len(places)
        return
    measured = split.measured
    assert measured is not None
    held_out = {record.person_id for record in (*measured.query, *measured.gallery)}
    assert len(held_out) == count and not held_out & set(split.people)
    # Every image is in one place; each person and camera is one query; all of the gallery is there to be found.
    assert sorted(measured.query + measured.gallery + split.records, key=lambda record: record.path) == list(train)
    places_held = [(record.person_id, record.camera_id) for record in measured.query]
    assert len(set(places_held)) == len(places_held)
    assert {(person, camera) for person, camera in images if person in held_out} == set(places_held)
    for hidden in measured.gallery:
        others = {camera for person, camera in places_held if person == hidden.person_id} - {hidden.camera_id}
        assert others, "a gallery image that no query of another camera is to find"
    assert sorted(split.people.values()) == list(range(len(split.people)))
