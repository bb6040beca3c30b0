"""The table of readers that the command line offers."""

from __future__ import annotations

from pathlib import Path

import pytest
from dataset_trees import CUHK, DUKE, MARKET, write_folders, write_msmt17

from modelscope_reid.datasets.published import PUBLISHED
from modelscope_reid.datasets.readers import DATASETS, read_dataset
from modelscope_reid.errors import InputError


def test_every_published_dataset_has_a_reader() -> None:
    assert {name.removesuffix("_v1").removesuffix("_v2") for name in PUBLISHED} == set(DATASETS) - {"table", "folders"}


def test_every_reader_reads(tmp_path: Path) -> None:
    market = write_folders(tmp_path / "market", {**MARKET, "images": ("0000_c1s1_000001_01.jpg",)})
    duke = write_folders(tmp_path / "duke", DUKE)
    cuhk = write_folders(tmp_path / "cuhk03-np" / "labeled", CUHK).parent
    write_folders(cuhk / "detected", CUHK)
    table = tmp_path / "people.csv"
    table.write_text(
        "path,person_id,camera_id,split\n"
        "duke/query/0005_c2_f0046985.jpg,5,2,query\n"
        "duke/bounding_box_test/0005_c8_f0001234.jpg,5,8,gallery\n"
    )
    places = {
        "market1501": (market, "Market-1501"),
        "market1501_500k": (market, "Market-1501 + 500k distractors"),
        "msmt17": (write_msmt17(tmp_path / "msmt17", "mask_train_v2", "mask_test_v2"), "MSMT17 V2"),
        "dukemtmc": (duke, "DukeMTMC-reID"),
        "occluded_duke": (duke, "Occluded-Duke"),
        "cuhk03_labelled": (cuhk, "CUHK03-NP labelled"),
        "cuhk03_detected": (cuhk, "CUHK03-NP detected"),
        "table": (table, "people"),
        "folders": (write_folders(tmp_path / "shop", {"anna": ("c1.jpg", "c2.jpg"), "bob": ("c1.jpg",)}), "shop"),
    }
    assert set(places) == set(DATASETS)
    for name, (root, title) in places.items():
        dataset = read_dataset(name, str(root))
        assert dataset.name.removesuffix(" (not the official set)") == title
        assert dataset.query and dataset.gallery
        assert all(record.path.is_file() for record in (*dataset.train, *dataset.query, *dataset.gallery))


def test_an_unknown_name_names_the_nearest() -> None:
    with pytest.raises(
        InputError, match=r"dataset is 'market'; expected one of market1501, .*; did you mean 'market1501'\?"
    ):
        read_dataset("market", "x")
