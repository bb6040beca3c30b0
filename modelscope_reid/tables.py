"""Write embeddings to a file, batch by batch: .npz, .parquet or .jsonl.

In: names of the images and batches of `Embeddings`. Out: one file, whole or not there, with a row per embedded
image in the order given. Knows nothing of how the vectors came about.

- ``.npz``: ``embeddings`` (N, D) float32 and ``paths`` (N,) text; the vectors are held in memory until the end.
- ``.parquet``: columns ``path`` (text) and ``embedding`` (a list of D float32), a row group per batch.
- ``.jsonl``: one object per line, ``{"path": …, "embedding": […]}``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from modelscope_reid.embeddings import Embeddings, Failure, concatenate
from modelscope_reid.errors import InputError
from modelscope_reid.files import whole_file

Writer = Callable[[Path, Sequence[str], Iterable[Embeddings], int], None]


def write_embeddings(
    output: str | Path, paths: Sequence[str], batches: Iterable[Embeddings], *, dim: int
) -> tuple[int, tuple[Failure, ...]]:
    """Write `batches` (vectors (N, `dim`)) of the images `paths`; return how many rows, and the failures met.

    Raises:
        InputError: an unknown suffix, or a folder that does not exist or cannot be written.
    """
    output = Path(output)
    writer = check_output(output)
    rows = 0
    failures: list[Failure] = []

    def counted() -> Iterator[Embeddings]:
        nonlocal rows
        for batch in batches:
            rows += len(batch)
            failures.extend(batch.failures)
            yield batch

    with whole_file(output) as temporary:
        writer(temporary, paths, counted(), dim)
    return rows, tuple(failures)


def check_output(output: Path) -> Writer:
    """Return the writer for the suffix of `output`; raise InputError now rather than after hours of work."""
    if output.suffix not in WRITERS:
        raise InputError(f"{output} ends in {output.suffix!r}; expected one of {', '.join(WRITERS)}.")
    if not output.absolute().parent.is_dir():
        raise InputError(f"folder {output.absolute().parent} does not exist; make it first, or choose another output.")
    return WRITERS[output.suffix]


def _write_npz(path: Path, paths: Sequence[str], batches: Iterable[Embeddings], dim: int) -> None:
    everything = concatenate(batches, dim=dim)
    names = np.array([paths[index] for index in everything.indices], dtype=np.str_)
    with path.open("wb") as file:
        np.savez(file, embeddings=everything.vectors, paths=names)


def _write_parquet(path: Path, paths: Sequence[str], batches: Iterable[Embeddings], dim: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for name in paths:
        if not _is_unicode(name):
            raise InputError(f"{name!r} is not UTF-8, which parquet wants; rename it, or write .npz or .jsonl.")
    schema = pa.schema([("path", pa.string()), ("embedding", pa.list_(pa.float32(), dim))])
    with pq.ParquetWriter(path, schema) as writer:
        for batch in batches:
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(batch.vectors.ravel()), dim)
            names = pa.array([paths[index] for index in batch.indices], pa.string())
            writer.write_table(pa.table([names, vectors], schema=schema))


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _write_jsonl(path: Path, paths: Sequence[str], batches: Iterable[Embeddings], dim: int) -> None:
    # A file name that is not UTF-8 is written as the JSON escapes of its bytes, from which Python reads it back.
    with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
        for batch in batches:
            for index, vector in zip(batch.indices, batch.vectors, strict=True):
                file.write(json.dumps({"path": paths[index], "embedding": vector.tolist()}, ensure_ascii=False) + "\n")


WRITERS: dict[str, Writer] = {".npz": _write_npz, ".parquet": _write_parquet, ".jsonl": _write_jsonl}
