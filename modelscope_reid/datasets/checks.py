"""What may be wrong or odd in a dataset on disk, said in sentences that tell how to mend it.

In: folders, names and records, from a reader. Out: notes, or an `InputError`. Knows nothing of any one dataset.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

from modelscope_reid.config import UNKNOWN_CAMERA
from modelscope_reid.datasets.image_files import IMAGE_SUFFIXES
from modelscope_reid.datasets.records import Record, Split
from modelscope_reid.errors import InputError
from modelscope_reid.fields import nearest

LEVELS_UP, LEVELS_DOWN, FOLDERS_SEEN = 2, 3, 200
NAMES_SHOWN = 6

Item = TypeVar("Item", bound=Hashable)


def subfolders(folder: Path) -> dict[str, Path]:
    """The folders inside a folder, by their names in small letters; none where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            found = [entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir()]
    except OSError:
        return {}
    return {name.lower(): folder / name for name in sorted(found)}


def image_names(folder: Path) -> list[str]:
    """The names of the image files in a folder, sorted; hidden files, as archives of macOS hold, are left out."""
    with os.scandir(folder) as entries:
        return sorted(
            entry.name
            for entry in entries
            if not entry.name.startswith(".") and entry.name.lower().endswith(IMAGE_SUFFIXES) and entry.is_file()
        )


def _below(folder: Path) -> Iterator[Path]:
    """The folders in a folder, the nearest levels first."""
    level = [folder]
    for _ in range(LEVELS_DOWN):
        level = list(islice((child for parent in level for child in subfolders(parent).values()), FOLDERS_SEEN))
        yield from level


def check_root(
    root: Path, holds: Callable[[Path], bool], *, dataset: str, expected: str, levels_up: int = LEVELS_UP
) -> None:
    """Return where `holds(root)`; `expected` says in words what that looks for.

    `levels_up` is how far above the right folder may be, where `holds` is true of many folders.

    Raises:
        InputError: it does not; the sentence names the right folder where that lies a little above or below.
    """
    if holds(root):
        return
    if root.is_file():
        raise InputError(f"{root} is a file; unpack it, and pass the folder that holds {expected}.")
    if not root.is_dir():
        hint = nearest(root.name, list(subfolders(root.parent))) or "; check the spelling."
        raise InputError(f"folder {root} does not exist{hint}")
    for child in _below(root):
        if holds(child):
            raise InputError(f"{root} only contains the folder of {dataset}; pass {child} instead.")
    for parent in list(root.absolute().parents)[:levels_up]:
        if holds(parent):
            raise InputError(f"{root} lies inside the folder of {dataset}; pass {parent} instead.")
    raise InputError(
        f"{root} is not the folder of {dataset}: expected {expected}, found {_contents(root)}; pass another folder."
    )


def _contents(folder: Path) -> str:
    names = sorted(path.name for path in islice(folder.iterdir(), FOLDERS_SEEN))
    shown = ", ".join(names[:NAMES_SHOWN]) + (", …" if len(names) > NAMES_SHOWN else "")
    return shown or "an empty folder"


def refuse(bad: Sequence[str], total: int, *, what: str, advice: str) -> None:
    """Raise `InputError` where anything is in `bad`: how many of `total`, and an example."""
    if bad:
        raise InputError(f"{len(bad):,} of {total:,} {what}, such as {bad[0]}; {advice}")


def repeated(items: Iterable[Item]) -> list[Item]:
    """The items that come again, once for each time they do."""
    seen: set[Item] = set()
    again = []
    for item in items:
        if item in seen:
            again.append(item)
        seen.add(item)
    return again


def find_oddities(records: Mapping[Split, tuple[Record, ...]], *, one_numbering: bool = True) -> list[str]:
    """Notes on one camera only, cameras that are not known, and images or people in two splits."""
    train, query, gallery = (records.get(split, ()) for split in ("train", "query", "gallery"))
    cameras = {record.camera_id for record in (*query, *gallery)}
    notes = []
    if len(cameras) == 1:
        camera = "an unknown camera" if cameras == {UNKNOWN_CAMERA} else f"one camera ({min(cameras)})"
        notes.append(
            f"All query and gallery images are of {camera}, and the protocol leaves out gallery images of the "
            "query's person and camera, so that no query has a match: evaluate with --same-camera keep."
        )
    elif UNKNOWN_CAMERA in cameras:
        unknown = sum(record.camera_id == UNKNOWN_CAMERA for record in (*query, *gallery))
        notes.append(f"{unknown:,} query and gallery images are of an unknown camera (-1), which counts as one camera.")
    both = {record.path for record in query} & {record.path for record in gallery}
    if both:
        notes.append(
            f"{len(both):,} query images are in the gallery too, such as {min(both)}; with --same-camera keep each "
            "finds itself first: leave them out of the gallery."
        )
    seen = {record.path for record in train} & {record.path for record in (*query, *gallery)}
    people = {record.person_id for record in train} & {record.person_id for record in (*query, *gallery)}
    if seen or (one_numbering and people):
        notes.append(
            f"{len(seen):,} images and {len(people):,} people of train are in query or gallery too: a model trained "
            "here has seen them, and its figures flatter."
        )
    return notes
