"""Pixels, to the bit those of torchvision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from modelscope_reid.config import IMAGENET_PREPROCESSING, Preprocessing
from modelscope_reid.preprocess import resize, to_batch

MODES = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}
NORMALISATIONS = [
    ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    (IMAGENET_PREPROCESSING.mean, IMAGENET_PREPROCESSING.std),
    ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),  # CLIP's
]
side = st.integers(1, 80)


@given(
    given_size=st.tuples(side, side),
    image_size=st.tuples(side, side),
    interpolation=st.sampled_from(["bilinear", "bicubic"]),
    normalisation=st.sampled_from(NORMALISATIONS),
    seed=st.integers(0, 2**32 - 1),
)
def test_equal_to_torchvision_to_the_bit(
    given_size: tuple[int, int], image_size: tuple[int, int], interpolation: str, normalisation: tuple, seed: int
) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (*given_size, 3), np.uint8)
    image = Image.fromarray(pixels)
    mean, std = normalisation
    preprocessing = Preprocessing(image_size=image_size, mean=mean, std=std, interpolation=interpolation)  # type: ignore[arg-type]
    twin = transforms.Compose(
        [
            transforms.Resize(image_size, interpolation=MODES[interpolation]),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )
    batch = to_batch([resize(image, preprocessing)], preprocessing)
    assert torch.equal(torch.from_numpy(batch[0]), twin(image))


@pytest.mark.parametrize(("mean", "std"), NORMALISATIONS)
def test_every_level_of_every_channel(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    preprocessing = Preprocessing(image_size=(16, 16), mean=mean, std=std)  # type: ignore[arg-type]
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    batch = to_batch([ramp], preprocessing)
    expected = transforms.Normalize(mean, std)(transforms.ToTensor()(ramp))
    assert torch.equal(torch.from_numpy(batch[0]), expected)


def test_by_hand() -> None:
    # mean = std = 0.5: level v becomes v / 127.5 - 1, so 0 -> -1, 255 -> 1, 51 -> -0.6, 204 -> 0.6.
    preprocessing = Preprocessing(image_size=(1, 2))
    crop = np.array([[[0, 255, 51], [204, 0, 255]]], np.uint8)
    batch = to_batch([crop, crop[:, ::-1]], preprocessing)
    assert batch.shape == (2, 3, 1, 2)
    assert batch.dtype == np.float32
    assert batch.flags.c_contiguous
    np.testing.assert_allclose(batch[0, :, 0], [[-1, 0.6], [1, -1], [-0.6, 1]], atol=1e-6)
    assert np.array_equal(batch[1], batch[0][:, :, ::-1])


def test_resize_is_exact_and_needs_no_aspect_ratio() -> None:
    # Left half black, right half white, 2 x 8 pixels; halved across with antialias, the middle stays sharp enough
    # that the outer pixels keep their colours.
    image = Image.fromarray(np.repeat(np.array([[[0] * 3, [255] * 3]], np.uint8), 4, axis=1).repeat(2, axis=0))
    crop = resize(image, Preprocessing(image_size=(5, 4)))
    assert crop.shape == (5, 4, 3)
    assert crop.dtype == np.uint8
    assert crop[:, 0].max() == 0
    assert crop[:, -1].min() == 255
    same = resize(image, Preprocessing(image_size=(2, 8)))
    assert np.array_equal(same, np.asarray(image))


def test_no_image_is_an_empty_batch() -> None:
    assert to_batch([], Preprocessing(image_size=(4, 2))).shape == (0, 3, 4, 2)
