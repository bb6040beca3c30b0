"""Market-1501, DukeMTMC-reID, Occluded-Duke and CUHK03-NP, each on a small tree in its published layout."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from dataset_trees import CUHK, DUKE, MARKET, draw, write_folders

from modelscope_reid.datasets import market_layout
from modelscope_reid.datasets.market_layout import CUHK03NP, DukeMTMC, Market1501, OccludedDuke
from modelscope_reid.datasets.published import PUBLISHED, Published
from modelscope_reid.datasets.records import Dataset, Split
from modelscope_reid.errors import InputError


@pytest.fixture
def market(tmp_path: Path) -> Path:
    return write_folders(tmp_path / "Market-1501-v15.09.15", MARKET)


def labels(dataset: Dataset, split: Split) -> list[tuple[str, int, int]]:
    return [(record.path.name, record.person_id, record.camera_id) for record in dataset.split(split)]


def test_market1501(market: Path) -> None:
    (market / "gt_bbox").mkdir()
    (market / "bounding_box_test" / "Thumbs.db").touch()  # the published archive holds one
    dataset = Market1501(market)
    assert labels(dataset, "train") == [
        ("0002_c1s1_000451_03.jpg", 2, 1),
        ("0002_c2s1_000476_01.jpg", 2, 2),
        ("0007_c3s3_077419_03.jpg", 7, 3),
    ]
    assert labels(dataset, "query") == [("0001_c1s1_001051_00.jpg", 1, 1), ("0003_c4s6_015641_00.jpg", 3, 4)]
    assert labels(dataset, "gallery") == [
        ("0000_c1s1_000151_01.jpg", 0, 1),
        ("0001_c2s1_000301_01.jpg", 1, 2),
        ("0003_c1s6_015971_02.jpg", 3, 1),
    ]
    assert dataset.junk == 1
    assert dataset.root == market
    assert dataset.query[0].path == market / "query" / "0001_c1s1_001051_00.jpg"
    assert Market1501(str(market)).fingerprint == dataset.fingerprint


def test_a_part_of_market1501_is_not_the_official_one(market: Path) -> None:
    dataset = Market1501(market)
    assert not dataset.official
    assert dataset.name == "Market-1501 (not the official set)"
    assert "query has 2 images of 2 people (published: 3,368 of 750)" in dataset.notes[0]


def test_the_published_counts_are_official(market: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PUBLISHED, "market1501", Published("Market-1501", (3, 2), (2, 2), (3, 3), 4))
    dataset = Market1501(market)
    assert (dataset.name, dataset.official, dataset.notes) == ("Market-1501", True, ())


def test_market1501_with_distractors(market: Path) -> None:
    write_folders(market, {"images": ("0000_c2s3_000151_01.jpg", "0007_c6s1_000001_02.jpg")})
    dataset = Market1501(market, distractors=True)
    assert labels(dataset, "gallery")[-2:] == [("0000_c2s3_000151_01.jpg", 0, 2), ("0007_c6s1_000001_02.jpg", 0, 6)]
    assert dataset.name.startswith("Market-1501 + 500k distractors")
    assert len(Market1501(market).gallery) == 3


def test_distractors_that_are_not_there(market: Path) -> None:
    with pytest.raises(InputError, match=r"has no folder images, where distractors_500k.zip unpacks to"):
        Market1501(market, distractors=True)


def test_dukemtmc(tmp_path: Path) -> None:
    dataset = DukeMTMC(write_folders(tmp_path / "DukeMTMC-reID", DUKE))
    assert labels(dataset, "train") == [("0001_c2_f0046182.jpg", 1, 2), ("0001_c3_f0056713.jpg", 1, 3)]
    assert labels(dataset, "query") == [("0005_c2_f0046985.jpg", 5, 2)]
    assert labels(dataset, "gallery") == [("0002_c1_f0044158.jpg", 2, 1), ("0005_c8_f0001234.jpg", 5, 8)]
    assert "published: 2,228 of 702" in dataset.notes[0]


def test_occluded_duke(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "Occluded_Duke", DUKE)
    for name in ("train.list", "query.list", "gallery.list"):  # the authors' lists lie beside the folders
        (root / name).touch()
    dataset = OccludedDuke(root)
    assert dataset.name == "Occluded-Duke (not the official set)"
    assert "published: 2,210 of 519" in dataset.notes[0]
    assert labels(dataset, "query") == [("0005_c2_f0046985.jpg", 5, 2)]


@pytest.mark.parametrize("labelled", ["labeled", "Labeled"])
def test_cuhk03_np(tmp_path: Path, labelled: str) -> None:
    root = tmp_path / "cuhk03-np"
    write_folders(root / labelled, CUHK)
    write_folders(root / "detected", {**CUHK, "query": ("0003_c1_22.png",)})
    hand, found = CUHK03NP(root, boxes="labelled"), CUHK03NP(root)
    assert labels(hand, "query") == [("0003_c1_22.png", 3, 1), ("0003_c2_27.png", 3, 2)]
    assert labels(found, "query") == [("0003_c1_22.png", 3, 1)]
    assert (hand.root, hand.query[0].path.parent) == (root, root / labelled / "query")
    assert "published: 7,368 of 767" in hand.notes[0]
    assert "published: 7,365 of 767" in found.notes[0]


def test_cuhk03_np_one_folder_too_deep_or_with_other_boxes(tmp_path: Path) -> None:
    root = tmp_path / "cuhk03-np"
    write_folders(root / "labeled", CUHK)
    with pytest.raises(InputError, match=f"lies inside the folder of .*; pass {root} instead"):
        CUHK03NP(root / "labeled", boxes="labelled")
    with pytest.raises(InputError, match=r"expected a folder detected with bounding_box_train, .*, found labeled"):
        CUHK03NP(root)
    with pytest.raises(InputError, match="boxes is 'labeled'; expected one of labelled, detected"):
        CUHK03NP(root, boxes="labeled")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["query", "bounding_box_train"])
def test_a_root_one_folder_too_deep_names_the_right_one(market: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"lies inside the folder of Market-1501; pass {market} instead"):
        Market1501(market / name)


def test_a_root_one_folder_too_high_names_the_right_one(market: Path) -> None:
    with pytest.raises(InputError, match=f"only contains the folder of Market-1501; pass {market} instead"):
        Market1501(market.parent)


@pytest.mark.parametrize(("name", "split"), [("query", "query"), ("bounding_box_test", "gallery")])
def test_a_missing_test_folder(market: Path, name: str, split: str) -> None:
    shutil.rmtree(market / name)
    with pytest.raises(
        InputError, match=f"has no folder {name}, which holds the {split} images of Market-1501; unpack"
    ):
        Market1501(market)


def test_an_empty_query_folder(market: Path) -> None:
    for path in (market / "query").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="query holds no image; unpack Market-1501 again, all of it"):
        Market1501(market)


def test_without_train_it_can_be_evaluated_on(market: Path) -> None:
    shutil.rmtree(market / "bounding_box_train")
    dataset = Market1501(market)
    assert dataset.train == ()
    assert "There is no folder bounding_box_train: this copy can be evaluated on, not trained on." in dataset.notes


def test_names_that_do_not_read_are_counted_with_an_example(market: Path) -> None:
    draw(market / "query" / "holiday.jpg")
    draw(market / "query" / "-2_c1s1_000001_00.jpg")
    with pytest.raises(
        InputError, match=r"2 of 4 names in .*query do not start with .*such as '-2_c1s1_000001_00.jpg'; move these"
    ):
        Market1501(market)


def test_one_camera_only_is_noted(tmp_path: Path) -> None:
    one = {"bounding_box_test": ("0001_c1s1_000001_01.jpg",), "query": ("0001_c1s1_000002_00.jpg",)}
    notes = Market1501(write_folders(tmp_path, one)).notes
    assert any("one camera (1)" in note and "--same-camera keep" in note for note in notes)


def test_another_dataset_in_the_same_layout_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PUBLISHED, "dukemtmc", Published("DukeMTMC-reID", (2, 1), (1, 1), (2, 2), 8))
    dataset = market_layout.Market1501(write_folders(tmp_path, DUKE))
    assert "These are the counts of DukeMTMC-reID: read it as that (dukemtmc)." in dataset.notes
