"""Crops to calibrate and to compare with: who is where, the same at every call, and nobody in both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import TINY_CONFIGS

from modelscope_reid.calibration_crops import (
    CALIBRATION_CROPS,
    DRAWN_CROPS,
    HELD_OUT_CROPS,
    crop_paths,
    drawn_crops,
    read_crops,
)
from modelscope_reid.datasets.records import Dataset, Record
from modelscope_reid.errors import ImageError, InputError

CONFIG = TINY_CONFIGS["osnet"]


def write_levels(folder: Path, count: int) -> list[str]:
    """Write images of one grey level each, so that a crop tells which file it is."""
    folder.mkdir(exist_ok=True)
    for number in range(count):
        level = np.full((8, 4, 3), [number // 256, number % 256, 0], np.uint8)
        Image.fromarray(level).save(folder / f"{number:04d}.png")
    return crop_paths(folder, None)


def levels(pixels: tuple[np.ndarray, ...]) -> list[int]:
    return [int(crop[0, 0, 0]) * 256 + int(crop[0, 0, 1]) for crop in pixels]


def test_a_quarter_is_held_out_and_no_crop_is_in_both(tmp_path: Path) -> None:
    paths = write_levels(tmp_path, 40)
    crops = read_crops(paths, CONFIG, source="crops")
    calibrating, held_out = levels(crops.calibration.pixels), levels(crops.held_out.pixels)
    assert (len(calibrating), len(held_out)) == (30, 10)
    assert sorted(calibrating + held_out) == list(range(40))
    assert calibrating != sorted(calibrating), "neighbours in a folder are of one person"
    again = read_crops(list(reversed(paths)), CONFIG, source="crops")
    assert (levels(again.calibration.pixels), levels(again.held_out.pixels)) == (calibrating, held_out)
    assert crops.source == "held out of crops"


def test_of_many_only_so_many_are_read(tmp_path: Path) -> None:
    paths = write_levels(tmp_path, 600)
    crops = read_crops(paths, CONFIG, source="crops")
    assert (len(crops.calibration), len(crops.held_out)) == (CALIBRATION_CROPS, HELD_OUT_CROPS)
    assert not set(levels(crops.calibration.pixels)) & set(levels(crops.held_out.pixels))


def test_too_few_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="crops: 31 crops; expected 32 or more, better 300"):
        read_crops(write_levels(tmp_path, 31), CONFIG, source="crops")


def test_a_broken_crop_is_named(tmp_path: Path) -> None:
    paths = write_levels(tmp_path, 32)
    Path(paths[7]).write_bytes(b"not a picture")
    with pytest.raises(ImageError, match=r"0007\.png"):
        read_crops(paths, CONFIG, source="crops")


def test_batches_are_the_networks_input_in_order(tmp_path: Path) -> None:
    crops = read_crops(write_levels(tmp_path, 32), CONFIG, source="crops").calibration
    batches = list(crops.batches(10))
    assert [len(images) for images, _ in batches] == [10, 10, 4]
    images = np.concatenate([images for images, _ in batches])
    assert images.shape == (24, 3, *CONFIG.image_size) and images.dtype == np.float32
    green = images[:, 1, 0, 0] * CONFIG.preprocessing.std[1] + CONFIG.preprocessing.mean[1]
    np.testing.assert_allclose(green * 255, levels(crops.pixels), atol=1e-3)
    assert levels(crops.first(3).pixels) == levels(crops.pixels)[:3]


def test_every_camera_and_the_unknown_one_take_turns() -> None:
    drawn = drawn_crops(TINY_CONFIGS["clip_vit"])  # three cameras
    assert drawn.held_out.camera_ids[:5].tolist() == [-1, 0, 1, 2, -1]
    assert set(drawn_crops(CONFIG).held_out.camera_ids.tolist()) == {-1}


def test_drawn_crops_differ_and_calibrate_nothing() -> None:
    drawn = drawn_crops(CONFIG)
    assert (len(drawn.calibration), len(drawn.held_out), drawn.source) == (0, DRAWN_CROPS, "drawn people")
    assert len({crop.tobytes() for crop in drawn.held_out.pixels}) == DRAWN_CROPS


def test_a_folder_comes_before_the_training_images(tmp_path: Path) -> None:
    write_levels(tmp_path / "crops", 2)
    records = (Record(path=tmp_path / "a.png", person_id=1, camera_id=1),)
    dataset = Dataset(name="own", root=tmp_path, train=records, query=(), gallery=())
    assert crop_paths(None, dataset) == [str(tmp_path / "a.png")]
    assert [Path(path).name for path in crop_paths(tmp_path / "crops", dataset)] == ["0000.png", "0001.png"]
    assert crop_paths(None, None) == []
    with pytest.raises(InputError, match="is no folder; pass a folder of crops"):
        crop_paths(tmp_path / "missing", None)
