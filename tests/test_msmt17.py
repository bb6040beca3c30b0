"""MSMT17 in both versions, on small trees in the published layout."""

from __future__ import annotations

from pathlib import Path

import pytest
from dataset_trees import write_msmt17

from modelscope_reid.datasets.msmt17 import MSMT17
from modelscope_reid.datasets.published import PUBLISHED, Published
from modelscope_reid.errors import InputError


@pytest.fixture
def v1(tmp_path: Path) -> Path:
    return write_msmt17(tmp_path / "MSMT17_V1", "train", "test")


@pytest.fixture
def v2(tmp_path: Path) -> Path:
    return write_msmt17(tmp_path / "MSMT17_V2", "mask_train_v2", "mask_test_v2")


def test_v1(v1: Path) -> None:
    dataset = MSMT17(v1)
    assert dataset.name == "MSMT17 V1 (not the official set)"
    # list_train and list_val together; the camera is the third field
    assert [(record.person_id, record.camera_id) for record in dataset.train] == [(0, 1), (0, 14), (1, 5)]
    assert [(record.person_id, record.camera_id) for record in dataset.query] == [(0, 1)]
    assert [(record.person_id, record.camera_id) for record in dataset.gallery] == [(0, 15), (1, 3)]
    assert dataset.train[0].path == v1 / "train" / "0000" / "0000_000_01_0303morning_0008_0.jpg"
    assert dataset.query[0].path.is_relative_to(v1 / "test")


def test_v2_is_told_apart(v2: Path) -> None:
    dataset = MSMT17(v2)
    assert dataset.name == "MSMT17 V2 (not the official set)"
    assert dataset.train[0].path.is_relative_to(v2 / "mask_train_v2")
    assert dataset.gallery[0].path.is_relative_to(v2 / "mask_test_v2")


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_published_counts_are_official(
    version: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = PUBLISHED[f"msmt17_{version}"].name
    monkeypatch.setitem(PUBLISHED, f"msmt17_{version}", Published(name, (3, 2), (1, 1), (2, 2), 5))
    dataset = MSMT17(request.getfixturevalue(version))
    # Person 0 of train is not person 0 of the test: no note on people seen in training.
    assert (dataset.name, dataset.official, dataset.notes) == (name, True, ())


def test_a_folder_called_as_the_other_version_is_noted(tmp_path: Path) -> None:
    notes = MSMT17(write_msmt17(tmp_path / "MSMT17_V2", "train", "test")).notes
    assert any("is called MSMT17_V2, but test is what MSMT17 V1 calls its test images" in note for note in notes)


def test_both_versions_in_one_folder(v1: Path) -> None:
    write_msmt17(v1, "mask_train_v2", "mask_test_v2")
    with pytest.raises(InputError, match=r"holds both versions of MSMT17 .* give each its own folder"):
        MSMT17(v1)


def test_wrong_levels_name_the_right_folder(v2: Path) -> None:
    with pytest.raises(InputError, match=f"only contains the folder of MSMT17; pass {v2} instead"):
        MSMT17(v2.parent)
    with pytest.raises(InputError, match=f"lies inside the folder of .*; pass {v2} instead"):
        MSMT17(v2 / "mask_test_v2")


def test_a_folder_named_twice_as_the_archive_unpacks(tmp_path: Path) -> None:
    inner = write_msmt17(tmp_path / "MSMT17_V2" / "MSMT17_V2", "mask_train_v2", "mask_test_v2")
    with pytest.raises(InputError, match=f"pass {inner} instead"):
        MSMT17(tmp_path / "MSMT17_V2")


def test_a_missing_list(v1: Path) -> None:
    (v1 / "list_query.txt").unlink()
    with pytest.raises(InputError, match=r"list_query.txt is missing; MSMT17's archive holds it"):
        MSMT17(v1)


def test_without_training_lists_it_can_be_evaluated_on(v1: Path) -> None:
    (v1 / "list_val.txt").unlink()
    dataset = MSMT17(v1)
    assert dataset.train == ()
    assert "The training images or their lists are missing: this copy can be evaluated on only." in dataset.notes


def test_lines_that_do_not_read(v1: Path) -> None:
    with (v1 / "list_gallery.txt").open("a") as file:
        file.write("0001/holiday.jpg 1\n\n")
    with pytest.raises(
        InputError, match=r"1 of 3 lines of .*list_gallery.txt do not read .*such as '0001/holiday.jpg 1'"
    ):
        MSMT17(v1)
    (v1 / "list_gallery.txt").write_text("\n")
    with pytest.raises(InputError, match=r"list_gallery.txt is empty; restore the published list"):
        MSMT17(v1)


def test_listed_files_that_are_not_on_disk(v1: Path) -> None:
    gone = v1 / "test" / "0001" / "0001_000_03_0302noon_0016_1.jpg"
    gone.unlink()
    with pytest.raises(InputError, match=rf"1 of 2 files listed in .*list_gallery.txt are not on disk, such as {gone}"):
        MSMT17(v1)


def test_a_file_listed_twice(v1: Path) -> None:
    line = (v1 / "list_query.txt").read_text()
    (v1 / "list_query.txt").write_text(line * 3)
    with pytest.raises(InputError, match=r"2 of 3 files are listed more than once in .*list_query.txt"):
        MSMT17(v1)
