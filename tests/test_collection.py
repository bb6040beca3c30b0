"""A collection on a storage: its listing by parts, its manifest, and which parts are there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from modelscope_reid.distributed.collection import (
    CollectionReport,
    Listing,
    Manifest,
    listing_fingerprint,
    missing_parts,
    remove_leftovers,
    start_collection,
    write_part,
)
from modelscope_reid.distributed.storage import Storage, StoredFile
from modelscope_reid.errors import ConfigError, InputError

FILES = [StoredFile(f"/crops/{number}.jpg", 100 + number) for number in range(7)]


def manifest(**changes: object) -> Manifest:
    values = {
        "source": "/crops",
        "listing": listing_fingerprint(FILES),
        "images": len(FILES),
        "images_per_part": 3,
        "model": "abc",
        "embedding_dim": 2,
        "precision": "fp32",
    }
    return Manifest(**(values | changes))  # type: ignore[arg-type]


def write(output: Storage, part: int, failures: list[tuple[str, str]] | None = None) -> None:
    vectors = np.array([[part, 0.5]], np.float32)
    write_part(output, part, paths=["a"], hashes=[b"h" * 32], vectors=vectors, failures=failures or [], model="abc")


def test_seven_images_in_parts_of_three() -> None:
    assert manifest().parts == 3
    assert manifest().images_in([0, 1, 2]) == 7
    assert manifest().images_in([0, 2]) == 4
    assert manifest(images=6).images_in([1]) == 3
    with pytest.raises(ConfigError, match="precision is 'fp31'"):
        manifest(precision="fp31")


def test_a_run_does_what_an_earlier_one_left(tmp_path: Path) -> None:
    output = Storage(str(tmp_path / "out"))
    assert start_collection(output, manifest(), FILES) == [0, 1, 2]
    listing = Listing(output)
    assert [listing.part(part) for part in range(3)] == [FILES[:3], FILES[3:6], FILES[6:]]
    write(output, 1)
    (tmp_path / "out" / "embeddings" / ".part-000002.parquet.0123").write_bytes(b"half")  # of a killed process
    assert start_collection(output, manifest(), FILES) == missing_parts(output, manifest()) == [0, 2]
    remove_leftovers(output)
    assert output.names("embeddings") == {"part-000001.parquet"}


def test_a_part_holds_vectors_hashes_and_failures(tmp_path: Path) -> None:
    output = Storage(str(tmp_path))
    write(output, 4, failures=[("b", "it is broken")])
    table = pq.read_table(tmp_path / "embeddings" / "part-000004.parquet")
    assert table.to_pylist() == [{"path": "a", "sha256": b"h" * 32, "embedding": [4.0, 0.5]}]
    assert str(table.schema.field("embedding").type) == "fixed_size_list<element: float>[2]"
    assert table.schema.metadata[b"model"] == b"abc"
    failed = pq.read_table(tmp_path / "failures" / "part-000004.parquet")
    assert failed.to_pylist() == [{"path": "b", "reason": "it is broken"}]
    write(output, 4)  # again, and now it was not broken
    assert output.names("failures") == set()


def test_a_part_of_failures_alone_is_done_too(tmp_path: Path) -> None:
    none = np.empty((0, 2), np.float32)
    write_part(Storage(str(tmp_path)), 0, paths=[], hashes=[], vectors=none, failures=[("b", "no")], model="abc")
    assert missing_parts(Storage(str(tmp_path)), manifest()) == [1, 2]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model": "def"}, "model 'abc', not 'def'"),
        ({"listing": "0", "images": 8}, "images 7, not 8"),
        ({"precision": "bf16"}, "precision 'fp32', not 'bf16'"),
        ({"images_per_part": 4}, "images_per_part 3, not 4"),
    ],
)
def test_another_collection_in_the_same_place_is_refused(
    tmp_path: Path, changes: dict[str, object], named: str
) -> None:
    output = Storage(str(tmp_path))
    start_collection(output, manifest(), FILES)
    before = (tmp_path / "collection.json").read_bytes()
    with pytest.raises(InputError, match=f"holds another collection: .*{named}"):
        start_collection(output, manifest(**changes), FILES)
    assert (tmp_path / "collection.json").read_bytes() == before


@pytest.mark.parametrize("content", ["{", "[]", '{"source": 1}', json.dumps({"unknown": 1})])
def test_a_foreign_collection_json_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "collection.json").write_text(content)
    with pytest.raises(InputError, match="is of no collection"):
        start_collection(Storage(str(tmp_path)), manifest(), FILES)


def test_the_fingerprint_of_a_listing_is_of_every_path_and_size() -> None:
    renamed = [*FILES[:-1], StoredFile("/crops/x.jpg", FILES[-1].size)]
    rewritten = [*FILES[:-1], StoredFile(FILES[-1].path, 1)]
    prints = {listing_fingerprint(files) for files in (FILES, FILES[:-1], renamed, rewritten)}
    assert len(prints) == 4


def test_the_report_reads_as_a_sentence() -> None:
    report = CollectionReport(
        output="out", model="abc", images=1007, embedded=1000, failed=4, skipped=3, parts=2, seconds=10.0
    )
    assert str(report) == (
        "out: 1,007 images in 2 parts; 1,000 embedded and 4 failed in 10.0 s (100.4 images/s), 3 were there already"
    )
    assert report.to_dict()["failed"] == 4
