"""A dataset described in a table, in three formats."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dataset_trees import draw

from modelscope_reid.datasets.record_tables import Table
from modelscope_reid.errors import InputError

Row = dict[str, Any]

ROWS: list[Row] = [
    {"path": "crops/t.jpg", "person_id": 5, "camera_id": 1, "split": "train", "weather": "rain"},
    {"path": "crops/q.jpg", "person_id": 7, "camera_id": 1, "split": "query", "weather": "sun"},
    {"path": "crops/g.jpg", "person_id": 7, "camera_id": 2, "split": "gallery", "weather": "sun"},
    {"path": "crops/j.jpg", "person_id": -1, "camera_id": 2, "split": "gallery", "weather": "sun"},
]


def write_csv(path: Path, rows: list[Row]) -> Path:
    with path.open("w", newline="", encoding="utf-8-sig") as file:  # as spreadsheets write it
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_jsonl(path: Path, rows: list[Row]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n\n" for row in rows), encoding="utf-8")
    return path


def write_parquet(path: Path, rows: list[Row]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


WRITERS: dict[str, Callable[[Path, list[Row]], Path]] = {
    "csv": write_csv,
    "jsonl": write_jsonl,
    "parquet": write_parquet,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for row in ROWS:
        draw(tmp_path / row["path"])
    return tmp_path


def changed(row: int, **cells: Any) -> list[Row]:
    return [{**cells_of, **cells} if number == row else cells_of for number, cells_of in enumerate(ROWS)]


def renamed(old: str, new: str) -> list[Row]:
    return [{new if name == old else name: value for name, value in row.items()} for row in ROWS]


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_table_of_each_format(folder: Path, suffix: str) -> None:
    dataset = Table(WRITERS[suffix](folder / f"people.{suffix}", ROWS))
    assert [(r.path, r.person_id, r.camera_id) for r in dataset.train] == [(folder / "crops/t.jpg", 5, 1)]
    assert [(r.person_id, r.camera_id) for r in dataset.query] == [(7, 1)]
    assert [(r.person_id, r.camera_id) for r in dataset.gallery] == [(7, 2)]
    assert (dataset.name, dataset.root, dataset.junk, dataset.notes) == ("people", folder, 1, ())


def test_the_same_table_has_one_fingerprint_in_every_format(folder: Path) -> None:
    prints = {Table(write(folder / f"people.{suffix}", ROWS)).fingerprint for suffix, write in WRITERS.items()}
    assert len(prints) == 1


def test_whole_numbers_held_as_floats_are_whole(folder: Path) -> None:
    rows = [{**row, "camera_id": float(row["camera_id"])} for row in ROWS]
    assert Table(write_parquet(folder / "a.parquet", rows)).gallery[0].camera_id == 2


def test_names_instead_of_numbers(folder: Path) -> None:
    rows = [{**row, "person_id": f"p{row['person_id']}", "camera_id": "door"} for row in ROWS[:3]]
    dataset = Table(write_csv(folder / "a.csv", rows))
    assert dataset.person_names == {1: "p5", 2: "p7"}
    assert dataset.camera_names == {1: "door"}
    assert any("--same-camera keep" in note for note in dataset.notes)


def test_absolute_paths_and_another_root(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    assert Table(write_csv(elsewhere / "a.csv", ROWS), root=folder).query[0].path == folder / "crops/q.jpg"
    rows = [{**row, "path": str(folder / row["path"])} for row in ROWS]
    assert Table(write_csv(elsewhere / "a.csv", rows)).query[0].path == folder / "crops/q.jpg"


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_missing_column_names_the_nearest(folder: Path, suffix: str) -> None:
    table = WRITERS[suffix](folder / f"a.{suffix}", renamed("person_id", "personid"))
    with pytest.raises(InputError, match=r"has no column person_id; did you mean 'personid'\?; it has path, personid,"):
        Table(table)


def test_columns_apart_by_semicolons_are_shown(folder: Path) -> None:
    (folder / "a.csv").write_text("path;person_id;camera_id;split\n")
    with pytest.raises(
        InputError, match=r"has no column path and no column person_id .*it has path;person_id;camera_id"
    ):
        Table(folder / "a.csv")


def test_an_unknown_split_names_the_nearest(folder: Path) -> None:
    with pytest.raises(
        InputError, match=r"1 of 4 splits in .* are none, such as 'galery' \(row 3; did you mean 'gallery'"
    ):
        Table(write_csv(folder / "a.csv", changed(2, split="galery")))


@pytest.mark.parametrize("suffix", WRITERS)
def test_an_empty_cell_is_named(folder: Path, suffix: str) -> None:
    table = WRITERS[suffix](folder / f"a.{suffix}", changed(1, camera_id=None))
    with pytest.raises(
        InputError, match=r"1 of 4 rows of .* have no camera_id, such as row 2; write -1 where a camera"
    ):
        Table(table)


def test_a_short_row_is_an_empty_cell(folder: Path) -> None:
    (folder / "a.csv").write_text("path,person_id,camera_id,split\ncrops/q.jpg,1\n")
    with pytest.raises(InputError, match=r"1 of 1 rows of .* have no camera_id, such as row 1"):
        Table(folder / "a.csv")


def test_a_file_twice_in_its_split(folder: Path) -> None:
    with pytest.raises(InputError, match=r"1 of 5 rows of .* repeat a file within its split, such as .*q.jpg in query"):
        Table(write_csv(folder / "a.csv", [*ROWS, ROWS[1]]))


def test_a_file_in_two_splits_is_noted(folder: Path) -> None:
    dataset = Table(write_csv(folder / "a.csv", [*ROWS, {**ROWS[1], "split": "gallery"}]))
    assert any(note.startswith("1 query images are in the gallery too") for note in dataset.notes)


def test_a_file_that_is_not_on_disk(folder: Path) -> None:
    with pytest.raises(
        InputError, match=r"1 of 4 files listed in .* not on disk, such as row 2, .*lost.jpg; paths are"
    ):
        Table(write_csv(folder / "a.csv", changed(1, path="lost.jpg")))


def test_no_query(folder: Path) -> None:
    rows = [row for row in ROWS if row["split"] != "query"]
    with pytest.raises(
        InputError, match=r"people in .* has no image in query .*; make one image per person and camera"
    ):
        Table(write_csv(folder / "people.csv", rows))


def test_training_rows_alone_are_a_dataset(folder: Path) -> None:
    dataset = Table(write_csv(folder / "a.csv", ROWS[:1]))
    assert "trained on, not evaluated on" in dataset.notes[0]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.xlsx", b"", "is no table: expected a file that ends in .csv, .jsonl, .parquet"),
        ("a.csv", b"path,person_id,camera_id,split\n", "has no row; give it one row per image"),
        ("a.csv", b"", "has no column path and no column person_id"),
        (
            "a.csv",
            "path,person_id,camera_id,split\né.jpg,1,1,query\n".encode("latin-1"),
            "does not read as csv: 'utf-8'",
        ),
        ("a.jsonl", b"{'path': 1}\n", "does not read as jsonl: Expecting property name"),
        ("a.jsonl", b"[1]\n", "does not read as jsonl: line 1 is no JSON object"),
        ("a.parquet", b"PAR1 and no more", "does not read as parquet"),
    ],
)
def test_a_file_that_is_no_table(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=sentence):
        Table(tmp_path / name)


def test_a_table_that_is_missing_or_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a.csv does not exist; check the spelling"):
        Table(tmp_path / "a.csv")
    with pytest.raises(InputError, match=r"is no table: .*; pass the table itself, or --dataset folders"):
        Table(tmp_path)
