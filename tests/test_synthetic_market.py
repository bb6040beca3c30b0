"""The drawn dataset on disk: Market-1501's layout, the same every time, and readable as Market-1501."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modelscope_reid.datasets import synthetic_market
from modelscope_reid.datasets.figures import sample_appearance
from modelscope_reid.datasets.market_layout import Market1501
from modelscope_reid.datasets.synthetic import draw_crop, sample_camera
from modelscope_reid.datasets.synthetic_market import write_synthetic_market
from modelscope_reid.errors import InputError

SMALL = {
    "people": 5,
    "cameras": 3,
    "images_per_camera": 2,
    "distractors": 4,
    "junk": 3,
    "train_people": 2,
    "size": (32, 16),
}


def write(folder: Path, **changed: object) -> Path:
    return write_synthetic_market(folder, **{**SMALL, **changed})  # type: ignore[arg-type]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.jpg"))}


def test_it_reads_as_market1501(tmp_path: Path) -> None:
    dataset = Market1501(write(tmp_path / "new" / "folder"))
    counts = dataset.counts
    # 2 people x 3 cameras x 2 images to train on. Of the 3 others, one image per camera is a query and one is in the
    # gallery: 9 each; the 4 distractors are in the gallery as person 0, and the 3 junk images are left out.
    assert (counts["train"].images, counts["train"].people) == (12, 2)
    assert (counts["query"].images, counts["query"].people) == (9, 3)
    assert (counts["gallery"].images, counts["gallery"].people) == (13, 4)
    assert dataset.junk == 3
    assert {record.camera_id for record in dataset.gallery} == {1, 2, 3}
    assert {record.person_id for record in dataset.train}.isdisjoint({record.person_id for record in dataset.query})
    assert len(dataset.notes) == 1  # that it is not the official one


def test_names_are_market1501s(tmp_path: Path) -> None:
    names = list(contents(write(tmp_path)))
    forms = {
        "bounding_box_train": r"\d{4}_c[1-3]s[1-6]_\d{6}_0[1-9]\.jpg",
        "query": r"\d{4}_c[1-3]s[1-6]_\d{6}_00\.jpg",
        "bounding_box_test": r"(-1|\d{4})_c[1-3]s[1-6]_\d{6}_0[1-9]\.jpg",
    }
    for name in names:
        folder, file = name.split("/")
        assert re.fullmatch(forms[folder], file), name
    assert sum(name.startswith("bounding_box_test/-1_") for name in names) == 3
    assert sum(name.startswith("bounding_box_test/0000_") for name in names) == 4


def test_seeds_and_files(tmp_path: Path) -> None:
    first, again, other = write(tmp_path / "a"), write(tmp_path / "b"), write(tmp_path / "c", seed=1)
    assert contents(first) == contents(again)
    assert Market1501(first).fingerprint == Market1501(again).fingerprint
    assert set(contents(first).values()).isdisjoint(contents(other).values())
    assert len(set(contents(first).values())) == 12 + 9 + 9 + 4 + 3  # no image twice
    with Image.open(next((first / "query").iterdir())) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (16, 32))


def test_what_each_box_shows() -> None:
    look, camera = sample_appearance(4), sample_camera(1)
    person, junk, distractor = (
        np.asarray(draw_crop(look, camera, seed=3, size=(64, 32), box=box), np.float64)
        for box in ("person", "junk", "distractor")
    )
    other_look = np.asarray(draw_crop(sample_appearance(6), camera, seed=3, size=(64, 32), box="distractor"), float)
    assert np.array_equal(distractor, other_look)  # nobody is in it
    # The middle of the box is the person, and is not where the person is badly boxed.
    middle = np.s_[16:40, 12:20]
    assert np.abs(person - distractor)[middle].mean() > 20.0
    assert np.abs(junk - person).mean() > 10.0
    with pytest.raises(InputError, match="box is 'half'; expected one of person, junk, distractor"):
        draw_crop(look, camera, seed=3, box="half")  # type: ignore[arg-type]


def test_training_people_are_spread_over_the_ids() -> None:
    training = [person for person in range(1, 13) if synthetic_market._is_for_training(person, 12, 4)]
    assert training == [3, 6, 9, 12]
    assert not any(synthetic_market._is_for_training(person, 12, 0) for person in range(1, 13))


def test_no_training_people_no_distractors_no_junk(tmp_path: Path) -> None:
    dataset = Market1501(_without_empty(write(tmp_path, train_people=0, distractors=0, junk=0)))
    assert (len(dataset.query), len(dataset.gallery), dataset.junk) == (15, 15, 0)


def _without_empty(folder: Path) -> Path:
    (folder / "bounding_box_train").rmdir()
    return folder


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"people": 0}, "people is 0 and cameras is 3; expected 1 or more of each"),
        ({"cameras": 0}, "people is 5 and cameras is 0; expected 1 or more"),
        ({"train_people": 5}, "train_people is 5; expected 0 to 4: somebody must be searched for"),
        ({"train_people": -1}, "train_people is -1; expected 0 to 4"),
        ({"images_per_camera": 1}, "images_per_camera is 1; expected 2 or more: a query, and one to find"),
        ({"junk": -1}, "distractors is 4, junk is -1 and seed is 0; expected 0 or more"),
        ({"seed": -1}, "seed is -1; expected 0 or more"),
        ({"size": (0, 16)}, r"size is \(0, 16\)"),
    ],
)
def test_numbers_out_of_range(tmp_path: Path, changed: dict[str, object], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        write(tmp_path / "never", **changed)
    assert not (tmp_path / "never").exists()


def test_nothing_is_written_over(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(InputError, match="bounding_box_train is not empty; write into a new folder"):
        write(tmp_path)
