"""Who is trained on, and who is held out.

In: a dataset. Out: a `TrainingSplit`: records with labels and cameras numbered from 0, and the dataset that the model
is measured on. Knows nothing of images or models.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelscope_reid.datasets.records import Dataset, Record, camera_labels, person_labels
from modelscope_reid.errors import InputError
from modelscope_reid.training.seeds import generator_at


@dataclass(frozen=True, eq=False)
class TrainingSplit:
    """Training records, the label of each person and camera, and what to measure on (None: nothing)."""

    records: tuple[Record, ...]
    people: Mapping[int, int]
    cameras: Mapping[int, int]
    measured: Dataset | None

    @property
    def labels(self) -> NDArray[np.int64]:
        """Person labels (N,) of the records, 0 to C - 1 in the order of the ids."""
        return np.array([self.people[record.person_id] for record in self.records], np.int64)

    @property
    def camera_numbers(self) -> NDArray[np.int64]:
        """Cameras (N,) of the records, numbered from 0 in the order of the ids."""
        return np.array([self.cameras[record.camera_id] for record in self.records], np.int64)


def training_split(dataset: Dataset, *, held_out_people: int = 0, seed: int = 0, on_test: bool = True) -> TrainingSplit:
    """Take the training split of `dataset`, less `held_out_people` people whom `seed` draws.

    With `on_test` the model is measured on the dataset's queries and gallery, where it has them; else on the people
    held out: one image per person and camera is a query, the others and no one else's are the gallery. Its training
    split is the images that are trained on, so that evaluation numbers cameras as training does.

    Raises:
        InputError: no training split, too few people seen by two cameras to hold out, or none to measure on.
    """
    dataset.require("train")
    held_out = _draw_held_out(dataset.train, held_out_people, seed) if held_out_people else frozenset()
    records = tuple(record for record in dataset.train if record.person_id not in held_out)
    if on_test:
        measured = dataset if dataset.query and dataset.gallery else None
    else:
        measured = _held_out_dataset(dataset, held_out, records)
    # Cameras are numbered over the whole dataset, as evaluation numbers them.
    cameras = camera_labels((*dataset.train, *dataset.query, *dataset.gallery))
    return TrainingSplit(records, person_labels(records), cameras, measured)


def _draw_held_out(records: tuple[Record, ...], count: int, seed: int) -> frozenset[int]:
    seen: dict[int, dict[int, int]] = {}
    for record in records:
        cameras = seen.setdefault(record.person_id, {})
        cameras[record.camera_id] = cameras.get(record.camera_id, 0) + 1
    usable = sorted(person for person, cameras in seen.items() if len(cameras) > 1 and max(cameras.values()) > 1)
    if count > len(usable) or count >= len(seen):
        raise InputError(
            f"data.held_out_people is {count}, and {len(usable)} of the {len(seen)} training people are seen by two "
            "cameras, with two images by one of them; hold out fewer."
        )
    drawn = generator_at(seed, "held out").choice(np.array(usable), count, replace=False)
    return frozenset(int(person) for person in drawn)


def _held_out_dataset(dataset: Dataset, people: frozenset[int], trained: tuple[Record, ...]) -> Dataset:
    if not people:
        raise InputError("data.held_out_people is 0, and people held out are to be measured on; hold out 2 or more.")
    query: dict[tuple[int, int], Record] = {}
    gallery: list[Record] = []
    for record in sorted(dataset.train, key=lambda record: record.path):
        if record.person_id in people:
            place = (record.person_id, record.camera_id)
            if place in query:
                gallery.append(record)
            else:
                query[place] = record
    return dataclasses.replace(
        dataset,
        name=f"{dataset.name}, {len(people)} people held out of training",
        train=trained,
        query=tuple(query.values()),
        gallery=tuple(gallery),
        official=False,
    )
