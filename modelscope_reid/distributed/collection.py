"""What a collection of embeddings on a storage consists of, part by part.

In: the images below a source, cut into parts by their place in the sorted listing; each part's embeddings. Out, below
the output: collection.json (what this is), listing.parquet (path, size; a row group per part), and for each part
embeddings/part-000000.parquet (path, sha256 of the file, embedding) and, where images failed,
failures/part-000000.parquet (path, reason). A part is done when its embeddings file is there; each file is written
whole or not at all. Knows nothing of Ray or of how an image becomes an embedding.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelscope_reid.distributed.storage import MISSING, Storage, StoredFile
from modelscope_reid.errors import InputError
from modelscope_reid.fields import check_fields, dataclass_from_dict, require
from modelscope_reid.runtimes import Precision

MANIFEST_FILE = "collection.json"
LISTING_FILE = "listing.parquet"
EMBEDDINGS = "embeddings"
FAILURES = "failures"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a collection holds: its source, its model and how it is cut.

    `model` is the fingerprint of the weights; `listing` the SHA-256 of every path and size, in order. Two runs may
    share an output only where all fields are equal.
    """

    source: str
    listing: str
    images: int
    images_per_part: int
    model: str
    embedding_dim: int
    precision: Precision
    format: int = FORMAT

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def parts(self) -> int:
        """How many parts the collection has when it is complete."""
        return -(-self.images // self.images_per_part)

    def images_in(self, parts: Sequence[int]) -> int:
        """Return how many images some parts hold; the last part may be short."""
        lacking = self.parts * self.images_per_part - self.images
        return len(parts) * self.images_per_part - (lacking if self.parts - 1 in parts else 0)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, kw_only=True)
class CollectionReport:
    """What one run did: of `images` in the listing, `embedded` and `failed` now, `skipped` since they were there.

    `parts` is all parts of the collection, `seconds` the wall time of the run, model loading included.
    """

    output: str
    model: str
    images: int
    embedded: int
    failed: int
    skipped: int
    parts: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        done = self.embedded + self.failed
        return (
            f"{self.output}: {self.images:,} images in {self.parts:,} parts; {self.embedded:,} embedded and "
            f"{self.failed:,} failed in {self.seconds:,.1f} s ({done / max(self.seconds, 1e-9):,.1f} images/s), "
            f"{self.skipped:,} were there already"
        )


def listing_fingerprint(files: Sequence[StoredFile]) -> str:
    """Return the SHA-256, in hex, of every path and size, in order."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.size} {file.path}\n".encode())
    return digest.hexdigest()


def part_name(part: int) -> str:
    """Return the name of a part's file."""
    return f"part-{part:06d}.parquet"


def start_collection(output: Storage, manifest: Manifest, files: Sequence[StoredFile]) -> list[int]:
    """Write what the collection is, or check that the output holds this very one; return the parts still to do.

    Raises:
        InputError: the output holds the embeddings of another model, source or setting (it names which), or cannot
            be written.
    """
    try:
        known = _read_manifest(output)
    except MISSING:
        _write_listing(output, files, manifest.images_per_part)
        text = json.dumps(manifest.to_dict(), indent=2) + "\n"
        output.write(MANIFEST_FILE, text.encode())
        return list(range(manifest.parts))
    except ValueError as error:  # no JSON, or other fields
        raise InputError(
            f"{output.url}/{MANIFEST_FILE} is of no collection ({error}); choose another output."
        ) from error
    there, now = known.to_dict(), manifest.to_dict()
    other = [f"{name} {there[name]!r}, not {now[name]!r}" for name in now if there[name] != now[name]]
    if other:
        raise InputError(f"{output.url} holds another collection: {'; '.join(other)}. Choose another output.")
    return missing_parts(output, manifest)


def _read_manifest(output: Storage) -> Manifest:
    values = json.loads(output.read(MANIFEST_FILE))
    require(isinstance(values, dict), "it holds no JSON object")
    return dataclass_from_dict(Manifest, values, where=MANIFEST_FILE)


def missing_parts(output: Storage, manifest: Manifest) -> list[int]:
    """Return the parts whose embeddings are not there."""
    there = output.names(EMBEDDINGS)
    return [part for part in range(manifest.parts) if part_name(part) not in there]


def remove_leftovers(output: Storage) -> None:
    """Remove what killed processes left under temporary names."""
    for folder in (EMBEDDINGS, FAILURES):
        for name in sorted(output.names(folder)):
            if name.startswith("."):
                output.remove(f"{folder}/{name}")


class Listing:
    """The listing of a collection, read a part at a time."""

    def __init__(self, output: Storage) -> None:
        import pyarrow.parquet as pq

        self._table = pq.ParquetFile(output.open(LISTING_FILE))

    def part(self, part: int) -> list[StoredFile]:
        """Return the images of a part."""
        rows = self._table.read_row_group(part).to_pydict()
        return [StoredFile(path, size) for path, size in zip(rows["path"], rows["size"], strict=True)]


def _write_listing(output: Storage, files: Sequence[StoredFile], images_per_part: int) -> None:
    import pyarrow as pa

    columns = {
        "path": pa.array([file.path for file in files], pa.string()),
        "size": pa.array([file.size for file in files], pa.int64()),
    }
    output.write(LISTING_FILE, _parquet(pa.table(columns), row_group_size=images_per_part))


def write_part(
    output: Storage,
    part: int,
    *,
    paths: Sequence[str],
    hashes: Sequence[bytes],
    vectors: NDArray[np.float32],
    failures: Sequence[tuple[str, str]],
    model: str,
) -> None:
    """Write a part: its `vectors` (N, D) with path and SHA-256 (32 bytes) of each, and the failures (path, reason).

    The failures come first, because the embeddings' file says that the part is done.

    Raises:
        InputError: it cannot be written.
    """
    import pyarrow as pa

    name = part_name(part)
    if failures:
        names, reasons = zip(*failures, strict=True)
        columns = {"path": pa.array(names, pa.string()), "reason": pa.array(reasons, pa.string())}
        output.write(f"{FAILURES}/{name}", _parquet(pa.table(columns)))
    else:
        output.remove(f"{FAILURES}/{name}")  # of a run that was killed before the part was done
    columns = {
        "path": pa.array(paths, pa.string()),
        "sha256": pa.array(hashes, pa.binary(32)),
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1]),
    }
    table = pa.table(columns).replace_schema_metadata({"model": model})
    output.write(f"{EMBEDDINGS}/{name}", _parquet(table))


def _parquet(table: Any, *, row_group_size: int | None = None) -> bytes:
    """Return a table as the bytes of a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", row_group_size=row_group_size)
    content: bytes = sink.getvalue().to_pybytes()
    return content
