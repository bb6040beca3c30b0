"""What a dataset is: records of images, by split.

In: paths and labels, from a reader. Out: `Record` and `Dataset`, valid from the moment they exist. Knows nothing
of how a dataset lies on disk, and opens no image.

Ids are the published ones: `labels_of` numbers them from 0 where a classifier or a camera embedding needs that.
The ids of train and of query and gallery may be two numberings that share nothing but digits (MSMT17's are).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from modelscope_reid.config import UNKNOWN_CAMERA
from modelscope_reid.errors import InputError

Split = Literal["train", "query", "gallery"]
SPLITS: tuple[Split, ...] = get_args(Split)

JUNK = -1
"""The person id of an image that is no person's; readers leave it out, so that no record has it."""


@dataclass(frozen=True, slots=True)
class Record:
    """One image of one person by one camera; a camera that is not known is `UNKNOWN_CAMERA` (-1)."""

    path: Path
    person_id: int
    camera_id: int

    def __post_init__(self) -> None:
        """Raise `InputError` for a path that is none, or an id out of range."""
        if not isinstance(self.path, Path):
            raise InputError(f"path is {self.path!r}; expected a pathlib.Path.")
        if not isinstance(self.person_id, int) or self.person_id < 0:
            raise InputError(f"person_id is {self.person_id!r}; expected 0 or more (junk, -1, makes no record).")
        if not isinstance(self.camera_id, int) or self.camera_id < UNKNOWN_CAMERA:
            raise InputError(f"camera_id is {self.camera_id!r}; expected 0 or more, or -1 where it is not known.")

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain JSON values."""
        return {"path": str(self.path), "person_id": self.person_id, "camera_id": self.camera_id}


@dataclass(frozen=True)
class Counts:
    """How much a split holds; an unknown camera counts as one."""

    images: int
    people: int
    cameras: int

    def to_dict(self) -> dict[str, int]:
        """Return the counts as plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The images of a dataset by split, and what is to be known of them.

    `official` is whether this is a published dataset whole, so that its figures compare with published ones.
    `junk` is how many images were left out as junk (-1). `notes` are sentences for whoever reads a figure.
    `person_names` and `camera_names` are what the ids stand for, where the source has names instead of numbers.
    """

    name: str
    root: Path
    train: tuple[Record, ...] = ()
    query: tuple[Record, ...] = ()
    gallery: tuple[Record, ...] = ()
    official: bool = False
    junk: int = 0
    notes: tuple[str, ...] = ()
    person_names: Mapping[int, str] = field(default_factory=dict)
    camera_names: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise `InputError` where there is no name, no record, or one file twice in a split."""
        if not self.name:
            raise InputError("name is empty; expected what figures of this dataset are to be labelled with.")
        if not any(self.split(split) for split in SPLITS):
            raise InputError(f"{self.name} in {self.root} has no record; give it images in train, query or gallery.")
        for split in SPLITS:
            records = self.split(split)
            if len({record.path for record in records}) < len(records):
                raise InputError(f"{split} of {self.name} holds one file twice; list every file once.")

    def split(self, split: Split) -> tuple[Record, ...]:
        """Return the records of one split.

        Raises `InputError` for a name that is no split.
        """
        if split not in SPLITS:
            raise InputError(f"split is {split!r}; expected one of {', '.join(SPLITS)}.")
        records: tuple[Record, ...] = getattr(self, split)
        return records

    def require(self, *splits: Split) -> None:
        """Raise `InputError`, with the way out, where one of `splits` is empty."""
        empty = [split for split in splits if not self.split(split)]
        if empty:
            there = ", ".join(f"{len(self.split(split)):,} in {split}" for split in SPLITS if self.split(split))
            raise InputError(
                f"{self.name} in {self.root} has no image in {' and '.join(empty)} ({there}); {_WAYS_OUT[empty[0]]}"
            )

    @cached_property
    def counts(self) -> dict[Split, Counts]:
        """Images, people and cameras of each split."""
        return {split: count(self.split(split)) for split in SPLITS}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of every record: split, path inside the root, ids and file size; the order is no part.

        Raises `InputError` where a file has gone.
        """
        digest = hashlib.sha256()
        for line in sorted(self._lines()):
            digest.update(line.encode(errors="surrogateescape"))
        return digest.hexdigest()

    def _lines(self) -> Iterator[str]:
        root = self.root if self.root.is_dir() else self.root.parent
        for split in SPLITS:
            for record in self.split(split):
                inside = record.path.is_relative_to(root)
                path = (record.path.relative_to(root) if inside else record.path).as_posix()
                try:
                    size = record.path.stat().st_size
                except OSError as error:
                    raise InputError(f"{record.path} cannot be read: {error.strerror}; restore it.") from error
                yield f"{split}\t{path}\t{record.person_id}\t{record.camera_id}\t{size}\n"

    def to_dict(self) -> dict[str, Any]:
        """Return what a report says of the dataset, as plain JSON values; not the records."""
        return {
            "name": self.name,
            "root": str(self.root),
            "official": self.official,
            "counts": {split: counts.to_dict() for split, counts in self.counts.items()},
            "junk": self.junk,
            "fingerprint": self.fingerprint,
            "notes": list(self.notes),
        }


_WAYS_OUT: dict[Split, str] = {
    "train": "pass a dataset with a training split, or evaluate only.",
    "query": "make one image per person and camera a query and leave the others in the gallery.",
    "gallery": "put the images that queries are to find, of the same people by other cameras, in the gallery.",
}


def count(records: Iterable[Record]) -> Counts:
    """Count images, people and cameras."""
    records = tuple(records)
    people = {record.person_id for record in records}
    return Counts(len(records), len(people), len({record.camera_id for record in records}))


def labels_of(ids: Iterable[int]) -> dict[int, int]:
    """Number the ids from 0, in sorted order: {id: label}."""
    return {number: label for label, number in enumerate(sorted(set(ids)))}


def person_labels(records: Iterable[Record]) -> dict[int, int]:
    """Number the people of a training split from 0, in order of their ids: {person_id: label}."""
    return labels_of(record.person_id for record in records)


def camera_labels(records: Iterable[Record]) -> dict[int, int]:
    """Number the cameras from 0, in order of their ids: {camera_id: label}, the rows of a camera embedding."""
    return labels_of(record.camera_id for record in records)
