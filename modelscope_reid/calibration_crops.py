"""The crops that a network is calibrated and compared with: a folder's, a dataset's, or drawn ones.

In: a folder or image paths. Out: `Crops`: two parts without a crop in common, each resized to the network's input and
held as bytes, made float32 batch by batch. The choice is the same at every call. Knows nothing of networks.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from modelscope_reid.config import UNKNOWN_CAMERA, ModelConfig, Preprocessing, VitConfig
from modelscope_reid.datasets.figures import sample_appearance
from modelscope_reid.datasets.image_files import find_images
from modelscope_reid.datasets.records import Dataset
from modelscope_reid.datasets.synthetic import draw_crop, sample_camera
from modelscope_reid.errors import InputError
from modelscope_reid.images import load_image
from modelscope_reid.preprocess import resize, to_batch

CALIBRATION_CROPS = 300
"""How many crops calibrate, at most: what NNCF recommends."""
FEWEST_CROPS = 32
"""How many crops int8 needs, those that are held out included."""
HELD_OUT_CROPS = 128
"""How many crops are compared, at most; a quarter of them where there are few."""
DRAWN_CROPS = 32
DRAWN_VIEWS = 4
SEED = 0

Inputs = tuple[NDArray[np.float32], NDArray[np.int64]]
"""A batch: images (B, 3, H, W) normalised, and camera ids (B,)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CropSet:
    """Crops (N, H, W, 3) uint8 RGB of the network's size, and a camera (N,) int64 that the network knows for each."""

    pixels: tuple[NDArray[np.uint8], ...]
    camera_ids: NDArray[np.int64]
    preprocessing: Preprocessing

    def __len__(self) -> int:
        return len(self.pixels)

    def first(self, count: int) -> CropSet:
        """Return the first `count` crops, or all where there are fewer."""
        return CropSet(pixels=self.pixels[:count], camera_ids=self.camera_ids[:count], preprocessing=self.preprocessing)

    def batches(self, size: int) -> Iterator[Inputs]:
        """Yield the crops in order, `size` at once."""
        for start in range(0, len(self), size):
            batch = slice(start, start + size)
            yield to_batch(self.pixels[batch], self.preprocessing), self.camera_ids[batch]


@dataclass(frozen=True, kw_only=True)
class Crops:
    """What calibrates, what is compared, and where both come from, for people."""

    calibration: CropSet
    held_out: CropSet
    source: str


def crop_paths(folder: Path | None, dataset: Dataset | None) -> list[str]:
    """Return the images of a folder; without one the dataset's training images; without both none.

    Raises:
        InputError: a folder that is missing or holds no image.
    """
    if folder is not None:
        if not folder.is_dir():
            raise InputError(f"{folder} is no folder; pass a folder of crops.")
        return find_images([str(folder)])
    return [str(record.path) for record in dataset.train] if dataset else []


def read_crops(paths: Sequence[str], config: ModelConfig, *, source: str) -> Crops:
    """Read at most `CALIBRATION_CROPS` + `HELD_OUT_CROPS` of the images at `paths`, in a shuffled order of its own.

    Raises:
        InputError: fewer than `FEWEST_CROPS`.
        ImageError: one that cannot be read.
    """
    if len(paths) < FEWEST_CROPS:
        raise InputError(f"{source}: {len(paths)} crops; expected {FEWEST_CROPS} or more, better {CALIBRATION_CROPS}.")
    held_out = min(HELD_OUT_CROPS, len(paths) // 4)
    wanted = min(CALIBRATION_CROPS, len(paths) - held_out) + held_out
    chosen = random.Random(SEED).sample(sorted(paths), wanted)
    return _split([load_image(path) for path in chosen], config, held_out=held_out, source=f"held out of {source}")


def drawn_crops(config: ModelConfig) -> Crops:
    """Draw crops of people who do not exist; all are for comparing, since int8 wants real ones to calibrate with."""
    views = [sample_camera(seed) for seed in range(DRAWN_VIEWS)]
    images = [
        draw_crop(sample_appearance(seed), views[seed % DRAWN_VIEWS], seed=seed, size=config.image_size)
        for seed in range(DRAWN_CROPS)
    ]
    return _split(images, config, held_out=DRAWN_CROPS, source="drawn people")


def _split(images: Sequence[Image.Image], config: ModelConfig, *, held_out: int, source: str) -> Crops:
    """Return the last `held_out` images as what is compared; every camera, and the unknown one, takes its turn."""
    cameras = config.cameras if isinstance(config, VitConfig) else 0
    everything = CropSet(
        pixels=tuple(resize(image, config.preprocessing) for image in images),
        camera_ids=np.arange(len(images), dtype=np.int64) % (cameras + 1) + UNKNOWN_CAMERA,
        preprocessing=config.preprocessing,
    )
    calibrating = len(images) - held_out
    rest = CropSet(
        pixels=everything.pixels[calibrating:],
        camera_ids=everything.camera_ids[calibrating:],
        preprocessing=config.preprocessing,
    )
    return Crops(calibration=everything.first(calibrating), held_out=rest, source=source)
