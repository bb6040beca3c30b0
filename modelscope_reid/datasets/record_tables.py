"""A dataset of the user's own, described in a table: CSV, JSON lines or Parquet.

In: a table with the columns `path`, `person_id`, `camera_id` and `split` (train, query or gallery); further columns
are left alone. Out: a `Dataset`. Paths are relative to the table's folder, or absolute; ids are numbers or names; a
camera that is not known is -1; rows of person -1 are junk and are left out. Opens no image.
"""

# ruff: noqa: N802  (a reader is named as the dataset that it returns)

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from modelscope_reid.datasets.checks import refuse, repeated
from modelscope_reid.datasets.records import SPLITS, Dataset, Split
from modelscope_reid.datasets.user_datasets import Row, user_dataset
from modelscope_reid.errors import InputError
from modelscope_reid.fields import nearest

COLUMNS = ("path", "person_id", "camera_id", "split")

Columns = dict[str, list[Any]]


def Table(path: str | Path, *, root: str | Path | None = None) -> Dataset:
    """Read the table at `path`, whose files are looked for in `root`, or else in the table's folder.

    A table of training images alone is a dataset, with a note; one with a query or a gallery needs both.

    Raises:
        InputError: an unknown suffix, a column missing, an empty cell, an unknown split, a file listed twice or not
            on disk, or no query or gallery.
    """
    path = Path(path)
    columns = _read_columns(path)
    cells = {name: _texts(columns[name], path, name) for name in COLUMNS}
    splits = _splits(cells["split"], path)
    base = Path(root) if root is not None else path.parent
    files = [base / text for text in cells["path"]]
    _check_files(path, files, splits, base)
    rows = [
        Row(split, file, person, camera)
        for split, file, person, camera in zip(splits, files, cells["person_id"], cells["camera_id"], strict=True)
    ]
    return user_dataset(path.stem, base, rows)


def _splits(texts: Sequence[str], path: Path) -> list[Split]:
    """The split of every row."""
    known: dict[str, Split] = {split: split for split in SPLITS}
    refuse(
        [
            f"{text!r} (row {row}{nearest(text, SPLITS)})"
            for row, text in enumerate(texts, start=1)
            if text.lower() not in known
        ],
        len(texts),
        what=f"splits in {path} are none",
        advice=f"write {', '.join(SPLITS)}; images to search with are query, the others of a test set gallery.",
    )
    return [known[text.lower()] for text in texts]


def _read_columns(path: Path) -> Columns:
    """Read the table and check that it has rows and the four columns."""
    if path.suffix.lower() not in READERS:
        hint = "; pass the table itself, or --dataset folders for a folder per person." if path.is_dir() else "."
        raise InputError(f"{path} is no table: expected a file that ends in {', '.join(READERS)}{hint}")
    if not path.is_file():
        raise InputError(f"table {path} does not exist; check the spelling.")
    try:
        columns = READERS[path.suffix.lower()](path)
    except (OSError, ValueError, csv.Error) as error:  # JSON's, pyarrow's and Unicode's errors are ValueErrors
        raise InputError(f"{path} does not read as {path.suffix[1:]}: {error}; write it anew, in UTF-8.") from error
    missing = [name for name in COLUMNS if name not in columns]
    if missing:
        there = ", ".join(columns) or "no column"
        hints = "".join(nearest(name, [column for column in columns if column not in COLUMNS]) for name in missing)
        raise InputError(
            f"{path} has no column {' and no column '.join(missing)}{hints}; it has {there}, "
            f"and needs {', '.join(COLUMNS)}."
        )
    if not columns["path"]:
        raise InputError(f"{path} has no row; give it one row per image.")
    return columns


def _texts(values: Sequence[Any], path: Path, column: str) -> list[str]:
    """The cells of a column as texts; whole numbers that a table holds as 3.0 are 3."""
    texts = []
    for value in values:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        missing = value is None or value != value  # not-a-number differs from itself
        texts.append("" if missing else str(value).strip())
    advice = "write -1 where a camera is not known." if column == "camera_id" else "fill them in, or take the rows out."
    empty = [f"row {row}" for row, text in enumerate(texts, start=1) if not text]
    refuse(empty, len(texts), what=f"rows of {path} have no {column}", advice=advice)
    return texts


def _check_files(table: Path, files: Sequence[Path], splits: Sequence[str], base: Path) -> None:
    """Refuse files listed twice in a split, and files that are not there."""
    again = repeated(zip(files, splits, strict=True))
    refuse(
        [f"{file} in {split}" for file, split in again],
        len(files),
        what=f"rows of {table} repeat a file within its split",
        advice="list every file once.",
    )
    refuse(
        [f"row {row}, {file}" for row, file in enumerate(files, start=1) if not file.is_file()],
        len(files),
        what=f"files listed in {table} are not on disk",
        advice=f"paths are relative to {base}: move the table beside its images, or give their folder as root.",
    )


def _read_csv(path: Path) -> Columns:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
        return {name: [row[name] for row in rows] for name in reader.fieldnames or ()}


def _read_jsonl(path: Path) -> Columns:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is no JSON object")
            rows.append(row)
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _read_parquet(path: Path) -> Columns:
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    return {name: table.column(name).to_pylist() if name in COLUMNS else [] for name in table.column_names}


READERS: dict[str, Callable[[Path], Columns]] = {".csv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
