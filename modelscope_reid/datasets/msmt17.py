"""MSMT17, versions 1 and 2.

In: the folder of the dataset as published. Out: a `Dataset` that says which version it is. Opens no image.

The layout: `list_train.txt`, `list_val.txt`, `list_query.txt` and `list_gallery.txt` hold lines such as
`0000/0000_000_01_0303morning_0008_0.jpg 0` (file, person); the camera is the third field of the file's name. The
files of train and val lie in `train` (V1) or `mask_train_v2` (V2, whose faces are masked), the others in `test` or
`mask_test_v2`. Train is list_train and list_val together, as in every published figure of this package's models.
Train and test number their people from 0 each: one id is two people.
"""

# ruff: noqa: N802  (a reader is named as the dataset that it returns)

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from modelscope_reid.datasets.checks import check_root, refuse, repeated, subfolders
from modelscope_reid.datasets.published import PUBLISHED, published_dataset
from modelscope_reid.datasets.records import Dataset, Record, Split
from modelscope_reid.errors import InputError

Version = Literal["v1", "v2"]

FOLDERS: dict[Version, tuple[str, str]] = {"v1": ("train", "test"), "v2": ("mask_train_v2", "mask_test_v2")}
LISTS: dict[Split, tuple[str, ...]] = {
    "train": ("list_train.txt", "list_val.txt"),
    "query": ("list_query.txt",),
    "gallery": ("list_gallery.txt",),
}
LINE = re.compile(r"(?P<path>(?:[^\s/]+/)*\d+_\d+_(?P<camera>\d+)_[^/]*\S)\s+(?P<person>\d+)")


def MSMT17(root: str | Path) -> Dataset:
    """Read MSMT17 from `root` (MSMT17_V1 or MSMT17_V2), whichever version is there.

    Raises:
        InputError: `root` is not the dataset's folder or holds both versions; a list is missing, does not read, or
            names files that are not there.
    """
    root = Path(root)
    check_root(root, _holds, dataset="MSMT17", expected="train and test (V1) or mask_train_v2 and mask_test_v2 (V2)")
    inside = subfolders(root)
    versions = [version for version, (_, test) in FOLDERS.items() if test in inside]
    if len(versions) > 1:
        raise InputError(
            f"{root} holds both versions of MSMT17 (test and mask_test_v2); their figures differ, so give each its "
            "own folder, with the lists."
        )
    version, notes = versions[0], []
    records: dict[Split, tuple[Record, ...]] = {}
    for split, lists in LISTS.items():
        folder = inside.get(FOLDERS[version][0 if split == "train" else 1])
        if split == "train" and (folder is None or not all((root / name).is_file() for name in lists)):
            notes.append("The training images or their lists are missing: this copy can be evaluated on only.")
        elif folder is not None:
            records[split] = tuple(record for name in lists for record in _read_list(root / name, folder))
    other = "v1" if version == "v2" else "v2"
    if other in root.name.lower():
        notes.append(
            f"The folder is called {root.name}, but {FOLDERS[version][1]} is what MSMT17 {version.upper()} calls its "
            "test images: look whether their faces are masked (V2 only) before comparing figures."
        )
    return published_dataset(PUBLISHED[f"msmt17_{version}"], root, records, notes=notes, one_numbering=False)


def _holds(folder: Path) -> bool:
    """Whether test images are there and something that is MSMT17's alone beside them."""
    inside = subfolders(folder)
    lists = any((folder / name).is_file() for names in LISTS.values() for name in names)
    return "mask_test_v2" in inside or ("test" in inside and (lists or "msmt17" in folder.name.lower()))


def _read_list(path: Path, folder: Path) -> list[Record]:
    """The records of one list, whose files lie in `folder`."""
    if not path.is_file():
        raise InputError(
            f"{path} is missing; MSMT17's archive holds it, so unpack that again, or ask the dataset's authors for "
            "the four lists (list_train, list_val, list_query, list_gallery)."
        )
    lines = [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    matches = [LINE.fullmatch(line.strip()) for line in lines]
    refuse(
        [repr(line) for line, match in zip(lines, matches, strict=True) if match is None],
        len(lines),
        what=f"lines of {path} do not read as a file and a person, as '0000/0000_000_01_0303morning_0008_0.jpg 0' does",
        advice="restore the published list.",
    )
    if not lines:
        raise InputError(f"{path} is empty; restore the published list.")
    records = [Record(folder / match["path"], int(match["person"]), int(match["camera"])) for match in matches if match]
    refuse(
        [str(record.path) for record in records if not record.path.is_file()],
        len(records),
        what=f"files listed in {path} are not on disk",
        advice="unpack the archive again, all of it, or take their lines out of the list.",
    )
    refuse(
        [str(file) for file in repeated(record.path for record in records)],
        len(records),
        what=f"files are listed more than once in {path}",
        advice="list each once.",
    )
    return records
