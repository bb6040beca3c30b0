"""Three formats, written batch by batch and read back by what anybody reads them with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from modelscope_reid.embeddings import Embeddings, Failure
from modelscope_reid.errors import InputError
from modelscope_reid.tables import WRITERS, check_output, write_embeddings

PATHS = ["a.jpg", "broken.jpg", "图/ü.png", "d.jpg"]
FAILURE = Failure(index=1, source="broken.jpg", reason="is truncated.")
VECTORS = np.array([[0.1, -2.5], [3e-30, 4.0], [1 / 3, 7.0]], np.float32)
ROWS = ["a.jpg", "图/ü.png", "d.jpg"]


def batches() -> Iterator[Embeddings]:
    yield Embeddings(vectors=VECTORS[:2], indices=np.array([0, 2]), failures=(FAILURE,))
    yield Embeddings(vectors=np.empty((0, 2), np.float32), indices=np.empty(0, np.int64))
    yield Embeddings(vectors=VECTORS[2:], indices=np.array([3]))


def read(path: Path) -> tuple[list[str], np.ndarray]:
    if path.suffix == ".npz":
        with np.load(path) as file:  # no pickle
            assert sorted(file.files) == ["embeddings", "paths"]
            return file["paths"].tolist(), file["embeddings"]
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        assert table.column_names == ["path", "embedding"]
        values = table["embedding"].combine_chunks().values.to_numpy()
        return table["path"].to_pylist(), values.reshape(-1, 2)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [row["path"] for row in rows], np.array([row["embedding"] for row in rows], np.float32).reshape(-1, 2)


@pytest.mark.parametrize("suffix", WRITERS)
def test_rows_are_the_embedded_images_in_order(suffix: str, tmp_path: Path) -> None:
    output = tmp_path / f"out{suffix}"
    assert write_embeddings(output, PATHS, batches(), dim=2) == (3, (FAILURE,))
    paths, vectors = read(output)
    assert paths == ROWS
    assert vectors.dtype == np.float32
    assert np.array_equal(vectors, VECTORS)  # to the bit
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize(
    "given", [[], [Embeddings(vectors=np.empty((0, 2), np.float32), indices=np.empty(0, np.int64))]]
)
def test_no_image_gives_an_empty_table(suffix: str, given: list[Embeddings], tmp_path: Path) -> None:
    output = tmp_path / f"out{suffix}"
    assert write_embeddings(str(output), [], given, dim=2) == (0, ())
    paths, vectors = read(output)
    assert paths == []
    assert vectors.shape == (0, 2)


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_failure_half_way_leaves_nothing(suffix: str, tmp_path: Path) -> None:
    def failing() -> Iterator[Embeddings]:
        yield next(batches())
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_embeddings(tmp_path / f"out{suffix}", PATHS, failing(), dim=2)
    assert list(tmp_path.iterdir()) == []


def test_parquet_has_a_row_group_per_batch(tmp_path: Path) -> None:
    write_embeddings(tmp_path / "out.parquet", PATHS, (batch for batch in batches() if len(batch)), dim=2)
    file = pq.ParquetFile(tmp_path / "out.parquet")
    assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [2, 1]


@pytest.mark.parametrize("suffix", [".jsonl", ".npz"])
def test_a_file_name_that_is_no_unicode_survives(suffix: str, tmp_path: Path) -> None:
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    batch = Embeddings(vectors=VECTORS[:1], indices=np.array([0]))
    write_embeddings(tmp_path / f"out{suffix}", [name], [batch], dim=2)
    assert read(tmp_path / f"out{suffix}")[0] == [name]


def test_parquet_names_the_file_that_is_no_unicode(tmp_path: Path) -> None:
    def never() -> Iterator[Embeddings]:
        pytest.fail("the names are checked before the first image")
        yield

    with pytest.raises(InputError, match=r"'caf\\udce9\.jpg' is not UTF-8.*\.npz or \.jsonl"):
        write_embeddings(tmp_path / "out.parquet", ["a.jpg", "caf\udce9.jpg"], never(), dim=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["out.csv", "out", "out.NPZ", ".npz"])
def test_unknown_suffix(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ends in '.*'; expected one of \.npz, \.parquet, \.jsonl"):
        check_output(tmp_path / name)
    with pytest.raises(InputError, match="ends in"):
        write_embeddings(tmp_path / name, PATHS, batches(), dim=2)


def test_missing_folder_is_said_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"folder .*/missing does not exist"):
        write_embeddings(tmp_path / "missing" / "out.npz", PATHS, iter([]), dim=2)
