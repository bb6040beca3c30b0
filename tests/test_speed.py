"""The speed table: every installed runtime beside plain PyTorch, and a word on what cannot take part."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from modelscope_reid import speed
from modelscope_reid.config import BACKBONES, Preprocessing
from modelscope_reid.errors import ImageError, InputError
from modelscope_reid.model_export import export_model
from modelscope_reid.models.model_folder import save_pretrained
from modelscope_reid.models.reid_model import ReidModel
from modelscope_reid.speed import PLAIN, SpeedRow, SpeedTable, measure_speed

CONFIG = dataclasses.replace(BACKBONES["osnet_x0_25"], preprocessing=Preprocessing(image_size=(64, 32)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pretrained(ReidModel.with_seed(CONFIG), tmp_path_factory.mktemp("model") / "mine")


@pytest.fixture(scope="module")
def exported(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("exports") / "fp16"
    export_model(folder, place, format="openvino", precision="fp16")
    return place


@pytest.fixture(scope="module")
def table(folder: Path, exported: Path) -> SpeedTable:
    return measure_speed(folder, exported=[exported], batch_size=3, rounds=2)


def test_every_runtime_stands_beside_plain_pytorch(table: SpeedTable) -> None:
    systems = [(row.system, row.precision) for row in table.rows]
    assert systems[0] == (PLAIN, "fp32")
    assert {("torch", "fp32"), ("openvino", "fp32"), ("onnxruntime", "fp32"), ("openvino, fp16", "fp32")} <= set(
        systems
    )
    assert len(set(systems)) == len(systems)
    for row in table.rows:
        assert row.milliseconds > 0 and row.images_per_second > 0
        assert row.cosine_min <= row.cosine_mean <= 1 + 1e-6
        assert row.cosine_min >= (0.99999 if row.precision == "fp32" else 0.99)
    assert any(line.startswith("onnxruntime bf16: ") for line in table.left_out)  # it has none on a CPU


def test_it_prints_itself_as_markdown_and_as_plain_values(table: SpeedTable) -> None:
    lines = str(table).splitlines()
    assert lines[0].startswith("| runtime |") and lines[2].startswith(f"| {PLAIN} | fp32 |")
    assert {line.count("|") for line in lines[: 2 + len(table.rows)]} == {lines[0].count("|")}
    assert "mine at 64x32, batches of 3, median of 2 rounds, 3 drawn crops" in str(table)
    assert json.loads(json.dumps(table.to_dict()))["rows"][0]["system"] == PLAIN


def test_ratios_are_those_of_the_medians() -> None:
    """Base 8 ms and 100 images/s; the other 2 ms and 250: 4 times and 2.5 times."""
    values = {"precision": "fp32", "cosine_mean": 1.0, "cosine_min": 1.0}
    rows = (
        SpeedRow(system=PLAIN, milliseconds=8.0, images_per_second=100.0, **values),
        SpeedRow(system="other", milliseconds=2.0, images_per_second=250.0, **values),
    )
    table = SpeedTable(rows=rows, model="m", image_size=(2, 1), batch_size=1, rounds=1, images="1 crop", machine="here")
    assert "| other | fp32 | 2.0 | 250.0 | 4.00 / 2.50 | 1.000000 / 1.000000 |" in str(table)


def test_images_are_the_users_where_given(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "_live_runtimes", lambda *_, **__: ([], []))
    crops = Path(__file__).parents[1] / "assets"
    table = measure_speed(folder, images=[str(crops)], batch_size=4, rounds=1)
    assert table.images == "4 crops" and len(table.rows) == 1


def test_wrong_arguments_are_refused(folder: Path, exported: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="batch_size is 0 and rounds is 5"):
        measure_speed(folder, batch_size=0)
    with pytest.raises(ImageError, match="nowhere"):
        measure_speed(folder, images=[str(tmp_path / "nowhere.jpg")])
    with pytest.raises(InputError, match="holds no image"):
        measure_speed(folder, images=[str(tmp_path)])
    other = save_pretrained(ReidModel.with_seed(CONFIG, seed=1), tmp_path / "other")
    with pytest.raises(InputError, match="is an export of another model"):
        measure_speed(other, exported=[exported])


def test_the_cosine_is_that_of_the_vectors() -> None:
    """(1, 0) beside (3, 4): cosine 0.6; (0, 1) beside (0, 2): 1. Mean 0.8, least 0.6."""
    base = speed._Contestant(PLAIN, "fp32", lambda pixels: pixels[:, 0, 0], [1.0], [1.0])
    other = speed._Contestant("other", "fp32", lambda pixels: pixels[:, 0, 0], [0.5], [0.25])
    base.vectors = np.array([[1, 0], [0, 1]], np.float32)
    other.vectors = np.array([[3, 4], [0, 2]], np.float32)
    row = other.row(base)
    assert (row.milliseconds, row.images_per_second) == (500.0, 4.0)
    assert row.cosine_mean == pytest.approx(0.8) and row.cosine_min == pytest.approx(0.6)
