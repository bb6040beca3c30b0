"""Tables of images to enroll, and files of what a gallery holds.

In: .csv, .jsonl or .parquet with the column `path`, and where known `person_id`, `camera_id` and `timestamp`. Out: a
.npz, .parquet or .jsonl of every entry with its unit vector. Knows nothing of stores.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modelscope_reid.errors import InputError
from modelscope_reid.fields import nearest
from modelscope_reid.files import whole_file
from modelscope_reid.gallery.store import Block

LABELS = ("person_id", "camera_id", "timestamp")
COLUMNS = ("key", "person_id", "camera_id", "timestamp", "source")
"""The columns of an exported entry, beside its embedding."""

Writer = Callable[[Path, Iterable[Block], int], None]


@dataclass(frozen=True, kw_only=True)
class ImageTable:
    """Images to enroll: paths, and as many persons, cameras and times, None where a cell is empty."""

    paths: tuple[str, ...]
    person_ids: tuple[Any, ...]
    camera_ids: tuple[Any, ...]
    timestamps: tuple[Any, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values of the paths."""
        return {"paths": list(self.paths)}


def is_table(path: str) -> bool:
    """Tell whether a path is named as a table."""
    return Path(path).suffix.lower() in READERS


def read_image_table(path: str | Path) -> ImageTable:
    """Read a table; paths in it are relative to its folder, or absolute.

    Raises:
        InputError: no such file, no table, or no column path.
    """
    path = Path(path)
    if path.suffix.lower() not in READERS:
        raise InputError(f"{path} is no table; expected a file that ends in {', '.join(READERS)}.")
    try:
        rows = READERS[path.suffix.lower()](path)
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path} does not read as a table: {error}.") from error
    if not rows or "path" not in rows[0]:
        there = list(rows[0]) if rows else []
        raise InputError(
            f"{path} has no column path{nearest('path', there) or '.'} It has {', '.join(there) or 'no row'}."
        )
    labels = {name: tuple(_cell(row.get(name)) for row in rows) for name in LABELS}
    return ImageTable(
        paths=tuple(str(path.parent / str(row["path"])) for row in rows),
        person_ids=labels["person_id"],
        camera_ids=labels["camera_id"],
        timestamps=labels["timestamp"],
    )


def _cell(value: Any) -> Any:
    """Return a cell, None where it is empty; whole numbers that a table holds as 3.0 are 3."""
    if value is None or value != value or value == "" or value == "-1":
        return None
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _read_csv(path: Path) -> list[dict[str, Any]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def _read_jsonl(path: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("a line is no JSON object")
    return rows


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    names = [name for name in pq.read_schema(path).names if name in ("path", *LABELS)]
    rows: list[dict[str, Any]] = pq.read_table(path, columns=names).to_pylist()
    return rows


READERS: dict[str, Callable[[Path], list[dict[str, Any]]]] = {
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}


def write_entries(output: str | Path, blocks: Iterable[Block], *, dimension: int) -> int:
    """Write every entry with its vector, whole or not at all; return how many.

    Raises:
        InputError: an unknown suffix, or a file that cannot be written.
    """
    output = Path(output)
    if output.suffix not in WRITERS:
        raise InputError(f"{output} ends in {output.suffix!r}; expected one of {', '.join(WRITERS)}.")
    count = 0

    def counted() -> Iterator[Block]:
        nonlocal count
        for block in blocks:
            count += len(block)
            yield block

    with whole_file(output) as temporary:
        WRITERS[output.suffix](temporary, counted(), dimension)
    return count


def _write_npz(path: Path, blocks: Iterable[Block], dimension: int) -> None:
    """Texts and "" for what is not known; times as float64, NaN for what is not known."""
    every = list(blocks)
    entries = [entry for block in every for entry in block.entries]
    columns: dict[str, Any] = {
        name: np.array([getattr(entry, name) or "" for entry in entries], np.str_)
        for name in COLUMNS
        if name != "timestamp"
    }
    times = np.array([np.nan if entry.timestamp is None else entry.timestamp for entry in entries], np.float64)
    vectors = np.concatenate([np.empty((0, dimension), np.float32), *(block.vectors for block in every)])
    with path.open("wb") as file:
        np.savez(file, **columns, timestamp=times, embeddings=vectors)


def _write_parquet(path: Path, blocks: Iterable[Block], dimension: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {name: pa.float64() if name == "timestamp" else pa.string() for name in COLUMNS}
    schema = pa.schema([*kinds.items(), ("embedding", pa.list_(pa.float32(), dimension))])
    with pq.ParquetWriter(path, schema) as writer:
        for block in blocks:
            rows = [entry.to_dict() for entry in block.entries]
            columns = [pa.array([row[name] for row in rows], kind) for name, kind in kinds.items()]
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(block.vectors.ravel()), dimension)
            writer.write_table(pa.table([*columns, vectors], schema=schema))


def _write_jsonl(path: Path, blocks: Iterable[Block], dimension: int) -> None:
    with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
        for block in blocks:
            for entry, vector in zip(block.entries, block.vectors.tolist(), strict=True):
                file.write(json.dumps({**entry.to_dict(), "embedding": vector}, ensure_ascii=False) + "\n")


WRITERS: dict[str, Writer] = {".npz": _write_npz, ".parquet": _write_parquet, ".jsonl": _write_jsonl}
