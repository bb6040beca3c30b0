"""Records and datasets: valid when made, counted, fingerprinted."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from modelscope_reid.datasets.records import (
    Counts,
    Dataset,
    Record,
    camera_labels,
    count,
    labels_of,
    person_labels,
)
from modelscope_reid.errors import InputError


def files(folder: Path, *names: str) -> list[Path]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x" * len(name))
    return [folder / name for name in names]


def small(root: Path, **fields: Any) -> Dataset:
    a, b, c = files(root, "train/a.jpg", "query/b.jpg", "gallery/c.jpg")
    parts = {"train": (Record(a, 7, 1),), "query": (Record(b, 1, 1),), "gallery": (Record(c, 1, 2),)}
    return Dataset(**{"name": "small", "root": root, **parts, **fields})


def test_a_record_is_plain_values() -> None:
    assert Record(Path("a/b.jpg"), 3, -1).to_dict() == {"path": "a/b.jpg", "person_id": 3, "camera_id": -1}


@pytest.mark.parametrize(
    ("path", "person", "camera", "sentence"),
    [
        ("a.jpg", 1, 1, r"path is 'a.jpg'; expected a pathlib.Path"),
        (Path("a"), -1, 1, r"person_id is -1; expected 0 or more \(junk, -1, makes no record\)"),
        (Path("a"), "7", 1, r"person_id is '7'; expected 0 or more"),
        (Path("a"), 1, -2, r"camera_id is -2; expected 0 or more, or -1"),
    ],
)
def test_a_record_is_checked_when_made(path: Any, person: Any, camera: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        Record(path, person, camera)


def test_counts_of_a_dataset(tmp_path: Path) -> None:
    dataset = small(tmp_path)
    assert dataset.counts == {"train": Counts(1, 1, 1), "query": Counts(1, 1, 1), "gallery": Counts(1, 1, 1)}
    records = [Record(Path(str(n)), n % 2, n % 3) for n in range(6)]
    assert count(iter(records)) == Counts(images=6, people=2, cameras=3)


def test_a_dataset_is_checked_when_made(tmp_path: Path) -> None:
    twice = Record(tmp_path / "a.jpg", 1, 1)
    with pytest.raises(InputError, match="query of small holds one file twice"):
        small(tmp_path, query=(twice, Record(tmp_path / "a.jpg", 2, 1)))
    with pytest.raises(InputError, match=r"empty has no record|has no record"):
        small(tmp_path, train=(), query=(), gallery=())
    with pytest.raises(InputError, match="name is empty"):
        small(tmp_path, name="")
    with pytest.raises(InputError, match="split is 'test'; expected one of train, query, gallery"):
        small(tmp_path).split("test")  # type: ignore[arg-type]


def test_an_empty_split_is_refused_where_it_is_needed(tmp_path: Path) -> None:
    small(tmp_path).require("train", "query", "gallery")
    with pytest.raises(InputError, match=r"no image in query \(1 in train, 1 in gallery\); make one image per person"):
        small(tmp_path, query=()).require("query", "gallery")
    with pytest.raises(InputError, match=r"no image in query and gallery .*; make one image per person"):
        small(tmp_path, query=(), gallery=()).require("query", "gallery")
    with pytest.raises(InputError, match=r"no image in train .*; pass a dataset with a training split"):
        small(tmp_path, train=()).require("train")


def test_the_fingerprint_is_of_paths_labels_and_sizes(tmp_path: Path) -> None:
    here, there = small(tmp_path / "here"), small(tmp_path / "there")
    assert len(here.fingerprint) == 64
    assert here.fingerprint == there.fingerprint  # another root
    record = here.query[0]
    assert small(tmp_path / "here", query=(Record(record.path, 2, 1),)).fingerprint != here.fingerprint
    assert small(tmp_path / "here", query=(Record(record.path, 1, 9),)).fingerprint != here.fingerprint
    assert small(tmp_path / "here", query=()).fingerprint != here.fingerprint
    d = Record(files(tmp_path / "here", "gallery/d.jpg")[0], 5, 5)
    forwards = small(tmp_path / "here", gallery=(*here.gallery, d))
    assert forwards.fingerprint == small(tmp_path / "here", gallery=(d, *here.gallery)).fingerprint  # another order
    (tmp_path / "there" / "query" / "b.jpg").write_bytes(b"longer than before")
    assert small_as_it_is(tmp_path / "there", there).fingerprint != here.fingerprint


def small_as_it_is(root: Path, dataset: Dataset) -> Dataset:
    """The same records anew, so that nothing is remembered."""
    return Dataset(name="small", root=root, train=dataset.train, query=dataset.query, gallery=dataset.gallery)


def test_a_file_that_has_gone_has_no_fingerprint(tmp_path: Path) -> None:
    dataset = small(tmp_path)
    dataset.query[0].path.unlink()
    with pytest.raises(InputError, match=r"b.jpg cannot be read: No such file or directory; restore it"):
        _ = dataset.fingerprint


def test_a_dataset_is_plain_values_and_can_be_pickled(tmp_path: Path) -> None:
    dataset = small(tmp_path, notes=("odd",), junk=3, person_names={1: "anna"})
    values = json.loads(json.dumps(dataset.to_dict()))
    assert values["name"] == "small"
    assert values["counts"]["train"] == {"images": 1, "people": 1, "cameras": 1}
    assert (values["junk"], values["official"], values["notes"]) == (3, False, ["odd"])
    assert values["fingerprint"] == dataset.fingerprint
    assert pickle.loads(pickle.dumps(dataset)) == dataset


def test_labels_are_the_sorted_ids() -> None:
    # Ids 2, 7 and 11, in any order and repeated, become 0, 1 and 2.
    assert labels_of([7, 2, 11, 2]) == {2: 0, 7: 1, 11: 2}
    records = [Record(Path(str(n)), person, camera) for n, (person, camera) in enumerate([(7, 6), (2, 1), (7, 3)])]
    assert person_labels(records) == {2: 0, 7: 1}
    assert camera_labels(records) == {1: 0, 3: 1, 6: 2}
