"""A dataset of the user's own, a folder per person: `query/anna/1.jpg`, `gallery/anna/2.jpg`, or just `anna/1.jpg`.

In: the folder that holds `train`, `query` and `gallery`, each with a folder per person; or the folders of people
themselves. Out: a `Dataset`. The camera is read off the file's name (`c1`, `cam2`, `camera_3`, where every name has
one). Opens no image.
"""

# ruff: noqa: N802  (a reader is named as the dataset that it returns)

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from modelscope_reid.config import UNKNOWN_CAMERA
from modelscope_reid.datasets.checks import check_root, image_names, subfolders
from modelscope_reid.datasets.records import SPLITS, Dataset, Split
from modelscope_reid.datasets.user_datasets import Row, user_dataset
from modelscope_reid.errors import InputError

CAMERA = r"(?i)(?<![a-z])c(?:am(?:era)?)?[_-]?(\d+)"
_EXPECTED = "folders query and gallery, or a folder of images for each of two or more people"

Found = list[tuple[Split, str, Path]]  # split, the person's folder, file


def PersonFolders(root: str | Path, *, camera_pattern: str = CAMERA) -> Dataset:
    """Read a folder per person; the first group of `camera_pattern` finds the camera's number in a file's name.

    Where there are no folders `train`, `query` and `gallery`, the first image of each person, by name, becomes a
    query and the others the gallery, and a note says so. A person called -1 is junk and is left out.

    Raises:
        InputError: `root` is not that folder, has no query or gallery, or the pattern is not valid.
    """
    root = Path(root)
    check_root(root, _holds, dataset="people", expected=_EXPECTED, levels_up=_levels_up(root.absolute()))
    inside = subfolders(root)
    notes: tuple[str, ...] = ()
    if any(split in inside for split in SPLITS):
        found = [entry for split in SPLITS if split in inside for entry in _people(inside[split], split)]
    else:
        found = _divide(_people(root, "gallery"))
        notes = (
            "There are no folders query and gallery: the first image of each person, by name, is the query, and the "
            "others are the gallery.",
        )
    cameras, camera_notes = _cameras([file for _, _, file in found], camera_pattern)
    rows = [Row(split, file, person, camera) for (split, person, file), camera in zip(found, cameras, strict=True)]
    return user_dataset(root.absolute().name, root, rows, notes=(*notes, *camera_notes))


def _holds(folder: Path) -> bool:
    """Whether splits are there, or two or more folders of images and no image beside them, in what is no split."""
    inside = subfolders(folder)
    if any(split in inside for split in SPLITS):
        return True
    if folder.absolute().name.lower() in SPLITS or image_names(folder):
        return False
    return sum(bool(image_names(child)) for child in inside.values()) > 1


def _levels_up(folder: Path) -> int:
    """How far above a folder that holds its images the dataset's folder may be; any other folder is no part of one."""
    if folder.name.lower() in SPLITS:
        return 1
    is_person = folder.is_dir() and bool(image_names(folder))
    return is_person + (is_person and folder.parent.name.lower() in SPLITS)


def _people(folder: Path, split: Split) -> Found:
    """The images of every person's folder; a folder without a person in it is refused."""
    found: Found = [
        (split, child.name, child / name) for child in subfolders(folder).values() for name in image_names(child)
    ]
    if not found:
        inside = "images, but " if image_names(folder) else ""
        raise InputError(
            f"{folder} holds {inside}no folder per person; put the images of each person into a folder of their own, "
            "or read Market-1501's layout with --dataset market1501."
        )
    return found


def _divide(found: Found) -> Found:
    """Make the first image of each person with two or more a query."""
    images = Counter(person for _, person, _ in found)
    divided: Found = []
    queried: set[str] = set()
    for split, person, file in found:
        first = images[person] > 1 and person not in queried
        queried.add(person)
        divided.append(("query" if first else split, person, file))
    return divided


def _cameras(files: list[Path], pattern: str) -> tuple[list[str], list[str]]:
    """The camera of every file, or -1 for all where the names do not all tell it."""
    try:
        matches = [re.search(pattern, file.stem) for file in files]
        cameras = [str(int(match[1])) for match in matches if match]
    except (re.error, IndexError, ValueError) as error:
        raise InputError(
            f"camera_pattern is {pattern!r}: {error}; expected a regular expression whose first group is a number."
        ) from error
    if len(cameras) == len(files):
        return cameras, []
    example = next(file.name for file, match in zip(files, matches, strict=True) if match is None)
    return [str(UNKNOWN_CAMERA)] * len(files), [
        f"{len(files) - len(cameras):,} of {len(files):,} file names tell no camera (c1, cam2, camera_3), such as "
        f"{example!r}: all cameras are taken as unknown."
    ]
