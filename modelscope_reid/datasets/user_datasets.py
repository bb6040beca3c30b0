"""What the two forms of a user's own dataset share: names become numbers, and rows become a `Dataset`.

In: one split, file, person and camera per image, as a user writes them. Out: a `Dataset`. Knows nothing of tables
and folders.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelscope_reid.datasets.checks import find_oddities
from modelscope_reid.datasets.records import JUNK, SPLITS, Dataset, Record, Split

NUMBER = re.compile(r"-1|\d+")


@dataclass(frozen=True)
class Row:
    """One image as a user describes it."""

    split: Split
    file: Path
    person: str
    camera: str


def number_names(names: Sequence[str]) -> tuple[list[int], Mapping[int, str]]:
    """Return a number for each name, and the names by number where they are no numbers themselves.

    Numbers (-1, 0, 1, …) stay what they are, unless two writings, as "2" and "0002", would become one. All else is
    numbered from 1 in sorted order, so that 0 and -1, the distractor and the junk of Market-1501, stay free.
    """
    different = sorted(set(names))
    if all(NUMBER.fullmatch(name) for name in different) and len(set(map(int, different))) == len(different):
        return [int(name) for name in names], {}
    numbers = {name: number for number, name in enumerate(different, start=1)}
    return [numbers[name] for name in names], {number: name for name, number in numbers.items()}


def user_dataset(name: str, root: Path, rows: Sequence[Row], *, notes: Sequence[str] = ()) -> Dataset:
    """Make the dataset of `rows`; person -1 is left out as junk.

    Training images alone make a dataset, with a note.

    Raises:
        InputError: a query without a gallery, or a gallery without a query.
    """
    people, person_names = number_names([row.person for row in rows])
    cameras, camera_names = number_names([row.camera for row in rows])
    records: dict[Split, list[Record]] = {split: [] for split in SPLITS}
    for row, person, camera in zip(rows, people, cameras, strict=True):
        if person != JUNK:
            records[row.split].append(Record(row.file, person, camera))
    train, query, gallery = (tuple(records[split]) for split in SPLITS)
    train_only = bool(train) and not query and not gallery
    if train_only:
        notes = (*notes, "There is no query and no gallery: this can be trained on, not evaluated on.")
    dataset = Dataset(
        name=name,
        root=root,
        train=train,
        query=query,
        gallery=gallery,
        junk=people.count(JUNK),
        notes=(*notes, *find_oddities({"train": train, "query": query, "gallery": gallery})),
        person_names=person_names,
        camera_names=camera_names,
    )
    if not train_only:
        dataset.require("query", "gallery")
    return dataset
