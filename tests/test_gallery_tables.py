"""Tables of images read, and entries written and read back by other programs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gallery_places import block, toward

from modelscope_reid.errors import InputError
from modelscope_reid.gallery.gallery_tables import is_table, read_image_table, write_entries

BLOCKS = [
    block(("a", 0.0), person_id="Ann", camera_id="1", timestamp=12.5),
    block(("b", 90.0), ("c", 45.0)),
]


def test_every_kind_of_table(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,person_id,camera_id,timestamp,note\na.jpg,Ann,1,2026-01-31,x\n/b.jpg,,-1,,\n")
    lines = [{"path": "a.jpg", "person_id": "Ann", "camera_id": "1", "timestamp": "2026-01-31"}, {"path": "/b.jpg"}]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    columns = {
        "path": ["a.jpg", "/b.jpg"],
        "person_id": ["Ann", None],
        "camera_id": ["1", None],
        "timestamp": ["2026-01-31", None],
        "x": [1, 2],
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    for name in ("t.csv", "t.jsonl", "t.parquet"):
        table = read_image_table(tmp_path / name)
        assert is_table(name) and table.paths == (str(tmp_path / "a.jpg"), "/b.jpg")
        assert (table.person_ids, table.camera_ids, table.timestamps) == (
            ("Ann", None),
            ("1", None),
            ("2026-01-31", None),
        )
    assert not is_table("a.jpg") and not is_table("folder")


def test_numbers_in_a_table(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"path": ["a", "b"], "person_id": [3.0, float("nan")], "camera_id": [1, 2]}), tmp_path / "t.parquet"
    )
    table = read_image_table(tmp_path / "t.parquet")
    assert (table.person_ids, table.camera_ids, table.timestamps) == ((3, None), (1, 2), (None, None))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.csv", "paths\na\n", "has no column path; did you mean 'paths'"),
        ("t.csv", "", "has no column path. It has no row"),
        ("t.jsonl", "[1]", "does not read as a table: a line is no JSON object"),
        ("t.jsonl", "{", "does not read as a table"),
        ("t.parquet", "text", "does not read as a table"),
        ("t.txt", "", "is no table; expected a file that ends in .csv"),
    ],
)
def test_what_is_no_table(tmp_path: Path, name: str, content: str, said: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError) as caught:
        read_image_table(tmp_path / name)
    assert said in str(caught.value)
    with pytest.raises(InputError, match="does not read"):
        read_image_table(tmp_path / "nothing.csv")


def test_entries_are_written_whole(tmp_path: Path) -> None:
    for suffix in (".npz", ".parquet", ".jsonl"):
        assert write_entries(tmp_path / f"out{suffix}", BLOCKS, dimension=2) == 3
    with np.load(tmp_path / "out.npz") as table:
        assert table["key"].tolist() == ["a", "b", "c"] and table["person_id"].tolist() == ["Ann", "", ""]
        np.testing.assert_array_equal(table["timestamp"], [12.5, np.nan, np.nan])
        np.testing.assert_allclose(table["embeddings"], toward(0, 90, 45))
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["person_id"] for row in rows] == ["Ann", None, None] and rows[0]["timestamp"] == 12.5
    np.testing.assert_allclose([row["embedding"] for row in rows], toward(0, 90, 45))
    assert [json.loads(line)["source"] for line in (tmp_path / "out.jsonl").read_text().splitlines()] == [
        "a.jpg",
        "b.jpg",
        "c.jpg",
    ]


def test_nothing_to_write_is_an_empty_file(tmp_path: Path) -> None:
    assert write_entries(tmp_path / "out.npz", [], dimension=2) == 0
    with np.load(tmp_path / "out.npz") as table:
        assert table["embeddings"].shape == (0, 2)
    with pytest.raises(InputError, match=r"ends in '\.txt'"):
        write_entries(tmp_path / "out.txt", [], dimension=2)
