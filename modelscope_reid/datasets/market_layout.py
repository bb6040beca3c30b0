"""Datasets in Market-1501's layout: Market-1501, DukeMTMC-reID, Occluded-Duke and CUHK03-NP.

In: the folder of a dataset as published. Out: a `Dataset`. Opens no image, and downloads none: DukeMTMC-reID was
withdrawn by its authors and is read only where a user has it.

The layout: `bounding_box_train`, `query` and `bounding_box_test` hold images called `0002_c1s1_000451_03.jpg`
(Market-1501: person, camera, sequence, frame, box), `0001_c2_f0046182.jpg` (DukeMTMC-reID and Occluded-Duke) or
`0003_c1_21.png` (CUHK03-NP). Person -1 is junk, left out; person 0 of Market-1501 is a distractor, kept.
"""

# ruff: noqa: N802  (a reader is named as the dataset that it returns)

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, get_args

from modelscope_reid.datasets.checks import check_root, image_names, refuse, subfolders
from modelscope_reid.datasets.published import PUBLISHED, Published, published_dataset
from modelscope_reid.datasets.records import JUNK, Dataset, Record, Split
from modelscope_reid.errors import InputError

Boxes = Literal["labelled", "detected"]

FOLDERS: dict[Split, str] = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
DISTRACTORS = "images"
NAME = re.compile(r"(-1|\d+)_c(\d+)")
DISTRACTOR = 0


def Market1501(root: str | Path, *, distractors: bool = False) -> Dataset:
    """Read Market-1501 from `root` (Market-1501-v15.09.15).

    With `distractors`, the 500,000 further images in its folder `images` join the gallery as person 0.

    Raises:
        InputError: `root` is not the dataset's folder, has no query or gallery, or names that do not read.
    """
    published = PUBLISHED["market1501_500k" if distractors else "market1501"]
    return _read(Path(root), Path(root), published, distractors=distractors)


def DukeMTMC(root: str | Path) -> Dataset:
    """Read DukeMTMC-reID from `root`, where a user has it; raises as `Market1501` does."""
    return _read(Path(root), Path(root), PUBLISHED["dukemtmc"])


def OccludedDuke(root: str | Path) -> Dataset:
    """Read Occluded-Duke from `root` (Occluded_Duke, as its authors' script makes it); raises as `Market1501` does."""
    return _read(Path(root), Path(root), PUBLISHED["occluded_duke"])


def CUHK03NP(root: str | Path, *, boxes: Boxes = "detected") -> Dataset:
    """Read CUHK03 in its new protocol from `root` (cuhk03-np, with folders `labeled` and `detected`).

    Raises:
        InputError: `boxes` is neither, or as `Market1501` does.
    """
    if boxes not in get_args(Boxes):
        raise InputError(f"boxes is {boxes!r}; expected one of {', '.join(get_args(Boxes))}.")
    root, published = Path(root), PUBLISHED[f"cuhk03_{boxes}"]
    names = ("labeled", "labelled") if boxes == "labelled" else ("detected",)

    def part(folder: Path) -> Path | None:
        inside = subfolders(folder)
        return next((inside[name] for name in names if name in inside and _holds(inside[name])), None)

    expected = f"a folder {names[0]} with {_EXPECTED}"
    check_root(root, lambda folder: part(folder) is not None, dataset=published.name, expected=expected)
    return _read(root, part(root) or root, published)


_EXPECTED = f"{FOLDERS['train']}, {FOLDERS['query']} and {FOLDERS['gallery']}"


def _holds(folder: Path) -> bool:
    """Whether this is the right folder, perhaps without a query; `query` alone is a name of many layouts."""
    inside = subfolders(folder)
    return FOLDERS["train"] in inside or FOLDERS["gallery"] in inside


def _read(root: Path, folder: Path, published: Published, *, distractors: bool = False) -> Dataset:
    """Read the folders of `folder`, which lies in `root` or is it."""
    check_root(folder, _holds, dataset=published.name, expected=_EXPECTED)
    inside = subfolders(folder)
    for split in ("query", "gallery"):
        if FOLDERS[split] not in inside:
            raise InputError(
                f"{folder} has no folder {FOLDERS[split]}, which holds the {split} images of {published.name}; "
                "unpack the archive again, or describe your own images in a table (--dataset table)."
            )
    records: dict[Split, tuple[Record, ...]] = {}
    junk, notes = 0, []
    for split, name in FOLDERS.items():
        if name in inside:
            records[split], dropped = _read_folder(inside[name], published.name)
            junk += dropped
        else:
            notes.append(f"There is no folder {name}: this copy can be evaluated on, not trained on.")
    if distractors:
        records["gallery"] += _read_distractors(folder, published.name)
    return published_dataset(published, root, records, junk=junk, notes=notes)


def _read_folder(folder: Path, dataset: str) -> tuple[tuple[Record, ...], int]:
    """Records of a folder's images, and how many were junk."""
    names = image_names(folder)
    if not names:
        raise InputError(f"{folder} holds no image; unpack {dataset} again, all of it.")
    matches = [NAME.match(name) for name in names]
    refuse(
        [repr(name) for name, match in zip(names, matches, strict=True) if match is None],
        len(names),
        what=f"names in {folder} do not start with a person and a camera, as '0002_c1s1_000451_03.jpg' does",
        advice="move these files away, or describe your own images in a table (--dataset table).",
    )
    labels = [(int(match[1]), int(match[2])) for match in matches if match]
    records = tuple(
        Record(folder / name, person, camera)
        for name, (person, camera) in zip(names, labels, strict=True)
        if person != JUNK
    )
    return records, len(names) - len(records)


def _read_distractors(folder: Path, dataset: str) -> tuple[Record, ...]:
    """Records of the 500k distractors: all of person 0, whatever their names say."""
    inside = subfolders(folder)
    if DISTRACTORS not in inside:
        raise InputError(
            f"{folder} has no folder {DISTRACTORS}, where distractors_500k.zip unpacks to; unpack it there, or "
            "read Market-1501 without the distractors (--dataset market1501)."
        )
    records, _ = _read_folder(inside[DISTRACTORS], dataset)
    return tuple(Record(record.path, DISTRACTOR, record.camera_id) for record in records)
