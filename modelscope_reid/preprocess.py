"""Pixels as a network wants them.

In: RGB PIL images of any size. Out: (B, 3, H, W) float32, RGB, scaled to 0..1 and normalised with the mean and std
that travel with the weights. The numbers are those of torchvision's Resize on a PIL image, ToTensor and Normalize,
to the bit. Knows nothing of files or models.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from modelscope_reid.config import Interpolation, Preprocessing

RESAMPLING: dict[Interpolation, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


def resize(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Return the image resized, with antialiasing, to exactly (H, W): (H, W, 3) uint8 RGB."""
    height, width = preprocessing.image_size
    return np.asarray(image.resize((width, height), RESAMPLING[preprocessing.interpolation]))


def to_batch(crops: Sequence[NDArray[np.uint8]], preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Return crops (H, W, 3) uint8 RGB as one normalised batch (B, 3, H, W) float32, C-contiguous."""
    levels = np.arange(256, dtype=np.float32) / np.float32(255)
    height, width = preprocessing.image_size
    batch = np.empty((len(crops), 3, height, width), dtype=np.float32)
    for channel, (mean, std) in enumerate(zip(preprocessing.mean, preprocessing.std, strict=True)):
        table = (levels - np.float32(mean)) / np.float32(std)
        for row, crop in enumerate(crops):
            np.take(table, crop[:, :, channel], out=batch[row, channel], mode="clip")
    return batch
