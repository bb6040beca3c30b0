"""Captions: read from CUHK-PEDES' file, and looked up by image name and person."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modelscope_reid.datasets.captions import captions_by_person, captions_for, read_captions
from modelscope_reid.datasets.records import Record, person_labels
from modelscope_reid.errors import InputError

ENTRIES: list[dict[str, Any]] = [
    {
        "split": "train",
        "captions": ["A red coat. ", "Carries a bag."],
        "file_path": "Market/0002_c1s1_000451_00.jpg",
        "id": 1,
    },
    {"split": "train", "captions": ["Blue jeans."], "file_path": "Market/0002_c2s1_000476_01.jpg", "id": 1},
    {"split": "train", "captions": ["Short hair.", "  "], "file_path": "Market\\0007_c3s3_077419_03.jpg", "id": 2},
    {"split": "train", "captions": ["Grey shirt."], "file_path": "CUHK01/0363004.png", "id": 3},
    {"split": "train", "captions": ["Green skirt."], "file_path": "CUHK03/0363004.png", "id": 4},
    {"split": "train", "captions": [""], "file_path": "Market/0009_c1s1_000001_00.jpg", "id": 5},
]


def write(folder: Path, content: Any) -> Path:
    path = folder / "caption_all.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def record(name: str, person: int) -> Record:
    return Record(Path("/data/train") / name, person, 0)


def test_captions_by_file_name(tmp_path: Path) -> None:
    # Left out: a name that two people share, and an image without words.
    assert read_captions(write(tmp_path, ENTRIES)) == {
        "0002_c1s1_000451_00.jpg": ("A red coat.", "Carries a bag."),
        "0002_c2s1_000476_01.jpg": ("Blue jeans.",),
        "0007_c3s3_077419_03.jpg": ("Short hair.",),
    }


def test_two_entries_of_one_image_are_joined(tmp_path: Path) -> None:
    entries = [
        {"file_path": "a/x.jpg", "captions": ["One."], "id": 8},
        {"file_path": "b/x.jpg", "captions": ["Two."], "id": 8},
        {"file_path": "y.jpg", "captions": ["Three."]},
    ]
    assert read_captions(write(tmp_path, entries)) == {"x.jpg": ("One.", "Two."), "y.jpg": ("Three.",)}


def test_an_image_is_looked_up_by_its_name_and_then_by_its_frames_first_box(tmp_path: Path) -> None:
    captions = read_captions(write(tmp_path, ENTRIES))
    records = [
        record("0002_c1s1_000451_03.jpg", 2),  # not described itself; ..._00.jpg is
        record("0002_c2s1_000476_01.jpg", 2),  # described itself
        record("0002_c2s1_000476_02.jpg", 2),  # neither: ..._01.jpg is another box
        record("x.jpg", 2),
    ]
    assert captions_for(records, captions) == [("A red coat.", "Carries a bag."), ("Blue jeans.",), (), ()]
    both = {"0002_c1s1_000451_03.jpg": ("Itself.",), "0002_c1s1_000451_00.jpg": ("First box.",)}
    assert captions_for(records[:1], both) == [("Itself.",)]
    assert captions_for([], captions) == []


def test_captions_of_a_person_are_those_of_all_images_in_the_order_of_labels(tmp_path: Path) -> None:
    captions = read_captions(write(tmp_path, ENTRIES))
    records = [
        record("0007_c3s3_077419_03.jpg", 7),
        record("0002_c2s1_000476_01.jpg", 2),
        record("0002_c1s1_000451_03.jpg", 2),
        record("0002_c1s1_000451_02.jpg", 2),  # the same first box again, whose captions count once
        record("0004_c1s1_000001_01.jpg", 4),
    ]
    told = captions_by_person(records, captions)
    assert told == {2: ("Blue jeans.", "A red coat.", "Carries a bag."), 4: (), 7: ("Short hair.",)}
    assert list(told) == list(person_labels(records))


def test_captions_of_another_dataset_are_refused() -> None:
    records = [record("0002_c1s1_000451_03.jpg", 2), record("0007_c3s3_077419_03.jpg", 7)]
    captions = {"p11600_s14885.jpg": ("A coat.",)}
    message = (
        r"none of 2 images .*'0002_c1s1_000451_03\.jpg', the captions are of 1 names, such as 'p11600_s14885\.jpg'"
    )
    for look_up in (captions_for, captions_by_person):
        with pytest.raises(InputError, match=message):
            look_up(records, captions)
    with pytest.raises(InputError, match="the captions are of 0 names;"):
        captions_for(records, {})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"file_path": "x.jpg"}, "holds a dict; expected a list"),
        ([], "holds an empty list"),
        ([ENTRIES[0], ["x.jpg"]], "1 of 2 entries of .* such as entry 1"),
        ([{"captions": ["A coat."]}, {"file_path": 3, "captions": []}], "2 of 2 entries of .* such as entry 0"),
        ([{"file_path": "x.jpg", "captions": "A coat."}], "no list of texts 'captions'"),
        ([{"file_path": "x.jpg", "captions": ["A coat.", None]}], "no list of texts 'captions'"),
    ],
)
def test_files_of_something_else(content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        read_captions(write(tmp_path, content))


def test_files_that_do_not_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"captions .*gone\.json cannot be read: No such file"):
        read_captions(tmp_path / "gone.json")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_captions(tmp_path)
    for content in (b"[{", b"\xff\xfe\x00", b""):
        (tmp_path / "x.json").write_bytes(content)
        with pytest.raises(InputError, match=r"x\.json does not read as JSON"):
            read_captions(tmp_path / "x.json")
