"""Crops of people changed at random, so that a network learns the person and not the picture.

In: crops (B, H, W, 3) uint8 RGB, resized already, and a seed. Out: one normalised batch (B, 3, H, W) float32. The
batch is a function of what goes in: every random number comes from the seed, and the random generators of Python,
NumPy and torch are left as they were. Knows nothing of files, labels or workers.

The steps and their default strengths are those of PASS-reID (Apache-2.0) and CLIP-ReID (MIT): mirror, pad with black
and crop back, normalise, erase a rectangle (Zhong et al., AAAI 2020; timm's, Apache-2.0). Colour jitter, off unless
asked for, comes before the padding, so that the border stays black.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from timm.data.random_erasing import RandomErasing

from modelscope_reid.config import Preprocessing
from modelscope_reid.errors import InputError
from modelscope_reid.preprocess import to_batch
from modelscope_reid.training.augmentation_spec import Augmentation, EraseMode

_TIMM_MODES: dict[EraseMode, str] = {"pixel": "pixel", "constant": "const"}
_ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


def augment_batch(
    crops: NDArray[np.uint8], augmentation: Augmentation, preprocessing: Preprocessing, *, seed: int
) -> torch.Tensor:
    """Return crops (B, H, W, 3) uint8 RGB, changed at random, as a normalised batch (B, 3, H, W) float32.

    Of `preprocessing`, mean and std count; the size is that of the crops. Each step draws from a stream of its own:
    to switch one off changes nothing in the others.

    Raises:
        InputError: `crops` has another shape or type, or the padding is as wide as the crops.
    """
    if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[3] != 3:
        raise InputError(f"crops is an array {crops.shape} of {crops.dtype}; expected (B, H, W, 3) of uint8.")
    _, height, width, _ = crops.shape
    if augmentation.pad >= min(height, width):
        raise InputError(
            f"pad is {augmentation.pad} pixels, for crops of {height}x{width}: a crop could leave the picture; "
            "give fewer pixels than the shorter side."
        )
    moving, colouring, erasing = np.random.default_rng(seed).spawn(3)
    if augmentation.color_jitter > 0:
        crops = _recoloured(crops, augmentation.color_jitter, colouring)
    moved = _moved(crops, augmentation, moving)
    batch = torch.from_numpy(to_batch(moved, dataclasses.replace(preprocessing, image_size=(height, width))))
    if augmentation.erase > 0:
        _erase(batch, augmentation, int(erasing.integers(2**63)))
    return batch


def _recoloured(crops: NDArray[np.uint8], strength: float, generator: np.random.Generator) -> NDArray[np.uint8]:
    """Multiply brightness, contrast and saturation, in an order of their own for each crop."""
    factors = generator.uniform(1 - strength, 1 + strength, size=(len(crops), len(_ENHANCERS)))
    result = np.empty_like(crops)
    for row, crop in enumerate(crops):
        image = Image.fromarray(crop)
        for step in generator.permutation(len(_ENHANCERS)):
            image = _ENHANCERS[step](image).enhance(float(factors[row, step]))
        result[row] = np.asarray(image)
    return result


def _moved(
    crops: NDArray[np.uint8], augmentation: Augmentation, generator: np.random.Generator
) -> list[NDArray[np.uint8]]:
    """Mirror and pad the crops, and cut their size out again at a random place: (H, W, 3) each."""
    count, height, width, channels = crops.shape
    pad = augmentation.pad
    flips = np.less(generator.random(count), augmentation.flip)
    offsets = generator.integers(0, 2 * pad, size=(count, 2), endpoint=True)
    canvas = np.zeros((count, height + 2 * pad, width + 2 * pad, channels), dtype=np.uint8)
    inside = canvas[:, pad : pad + height, pad : pad + width]
    for row, crop in enumerate(crops):
        inside[row] = crop[:, ::-1] if flips[row] else crop
    return [canvas[row, top : top + height, left : left + width] for row, (top, left) in enumerate(offsets)]


def _erase(batch: torch.Tensor, augmentation: Augmentation, seed: int) -> None:
    """Fill one rectangle in some of the crops, in place."""
    least, greatest = augmentation.erase_area
    eraser = RandomErasing(  # type: ignore[no-untyped-call]
        probability=augmentation.erase,
        min_area=least,
        max_area=greatest,
        mode=_TIMM_MODES[augmentation.erase_mode],
        max_count=1,
        device="cpu",
    )
    with _global_seed(seed):
        eraser(batch)


@contextmanager
def _global_seed(seed: int) -> Iterator[None]:
    """Seed what timm draws from, Python's and torch's global generators, and put them back after.

    Not by `torch.manual_seed`, which would seed the generators of every accelerator too, for good.
    """
    before, before_torch = random.getstate(), torch.default_generator.get_state()
    random.seed(seed)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before)
        torch.default_generator.set_state(before_torch)
