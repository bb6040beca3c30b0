"""Augmentation: what is changed, how often, and that nothing but the seed decides."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modelscope_reid.config import IMAGENET_PREPROCESSING, Preprocessing
from modelscope_reid.errors import InputError
from modelscope_reid.preprocess import to_batch
from modelscope_reid.training.augmentation import _global_seed, augment_batch
from modelscope_reid.training.augmentation_spec import NO_AUGMENTATION, Augmentation

HALF = Preprocessing()  # mean and std 0.5: black is -1, white is 1
FLIP = dataclasses.replace(NO_AUGMENTATION, flip=0.5)
PAD = dataclasses.replace(NO_AUGMENTATION, pad=10)
ERASE = dataclasses.replace(NO_AUGMENTATION, erase=0.5)
JITTER = dataclasses.replace(NO_AUGMENTATION, color_jitter=0.2)
EVERY = {"published": Augmentation(), "flip": FLIP, "pad": PAD, "erase": ERASE, "jitter": JITTER}


def noise(count: int = 8, height: int = 32, width: int = 16, seed: int = 0) -> np.ndarray:
    """Crops of random pixels, which nobody may write to."""
    crops = np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    crops.flags.writeable = False
    return crops


def white(count: int, height: int = 64, width: int = 32) -> np.ndarray:
    return np.full((count, height, width, 3), 255, np.uint8)


def plain(crops: np.ndarray, preprocessing: Preprocessing = HALF) -> torch.Tensor:
    """The crops normalised and nothing else."""
    return torch.from_numpy(to_batch(list(crops), dataclasses.replace(preprocessing, image_size=crops.shape[1:3])))


def states() -> tuple[Any, ...]:
    kind, keys, *rest = np.random.get_state(legacy=True)
    return random.getstate(), kind, keys.tobytes(), rest, torch.get_rng_state().numpy().tobytes()


@given(size=st.tuples(st.integers(1, 20), st.integers(1, 20)), count=st.integers(0, 3), seed=st.integers(0, 2**63))
def test_without_augmentation_crops_are_only_normalised(size: tuple[int, int], count: int, seed: int) -> None:
    crops = noise(count, *size, seed=seed)
    batch = augment_batch(crops, NO_AUGMENTATION, IMAGENET_PREPROCESSING, seed=seed)
    assert batch.shape == (count, 3, *size)
    assert batch.dtype == torch.float32
    assert torch.equal(batch, plain(crops, IMAGENET_PREPROCESSING))


@pytest.mark.parametrize("name", EVERY)
def test_the_seed_alone_decides(name: str) -> None:
    crops = noise()
    first = augment_batch(crops, EVERY[name], HALF, seed=7)
    random.seed(1)
    torch.rand(3)
    assert torch.equal(augment_batch(crops, EVERY[name], HALF, seed=7), first)
    assert not torch.equal(augment_batch(crops, EVERY[name], HALF, seed=8), first)
    assert not torch.equal(first, plain(crops))


def test_every_crop_is_changed_in_its_own_way() -> None:
    crops = np.repeat(noise(1), 20, axis=0)
    batch = augment_batch(crops, Augmentation(color_jitter=0.3), HALF, seed=0)
    assert len({crop.numpy().tobytes() for crop in batch}) == 20


@pytest.mark.parametrize("name", EVERY)
def test_the_global_generators_are_left_as_they_were(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def manual_seed(seed: int) -> None:
        raise AssertionError("torch.manual_seed seeds the accelerators' generators too")

    monkeypatch.setattr(torch, "manual_seed", manual_seed)
    before = states()
    augment_batch(noise(), EVERY[name], HALF, seed=3)
    assert states() == before


def test_the_global_generators_come_back_after_an_error() -> None:
    before = states()
    with pytest.raises(RuntimeError, match="within"), _global_seed(3):
        assert states() != before
        raise RuntimeError("within")
    assert states() == before


def test_each_step_draws_from_a_stream_of_its_own() -> None:
    # White crops: a mirror cannot show, so that with it or without, the same noise lands in the same places.
    always = Augmentation(flip=1.0, erase=1.0)
    first = augment_batch(white(6), always, HALF, seed=4)
    assert torch.equal(augment_batch(white(6), dataclasses.replace(always, flip=0.0), HALF, seed=4), first)
    moved = augment_batch(white(6), dataclasses.replace(always, erase=0.0), HALF, seed=4)
    untouched = (first == 1) | (first == -1)
    assert torch.equal(first[untouched], moved[untouched])
    assert 0 < (~untouched).sum() < untouched.sum()
    # Black crops: jitter cannot show either.
    black = np.zeros((6, 32, 16, 3), np.uint8)
    jittered = augment_batch(black, dataclasses.replace(always, color_jitter=0.2), HALF, seed=4)
    assert torch.equal(jittered, augment_batch(black, always, HALF, seed=4))


def test_flip_of_one_mirrors_every_crop() -> None:
    crops = noise()
    batch = augment_batch(crops, dataclasses.replace(NO_AUGMENTATION, flip=1.0), HALF, seed=0)
    assert torch.equal(batch, plain(crops).flip(3))


@pytest.mark.parametrize("probability", [0.25, 0.5])
def test_flip_happens_as_often_as_asked(probability: float) -> None:
    crops = np.zeros((2000, 1, 2, 3), np.uint8)
    crops[:, :, 0] = 255  # white on the left
    batch = augment_batch(crops, dataclasses.replace(NO_AUGMENTATION, flip=probability), HALF, seed=0)
    mirrored = (batch[:, 0, 0, 1] == 1).float().mean().item()
    assert abs(mirrored - probability) < 0.045  # four standard errors of 0.011


def test_a_padded_crop_lies_in_one_of_nine_places() -> None:
    # 2x2 crop [[51, 102], [153, 255]] with a border of 1: its window starts at row and column 0, 1 or 2 of
    #   0   0   0   0
    #   0  51 102   0
    #   0 153 255   0
    #   0   0   0   0
    levels = np.array([[51, 102], [153, 255]], np.uint8)
    crops = np.repeat(levels[None, :, :, None], 3, axis=3).repeat(450, axis=0)
    batch = augment_batch(crops, dataclasses.replace(NO_AUGMENTATION, pad=1), HALF, seed=0)
    found = ((batch + 1) * 127.5).round().int()
    assert torch.equal(found[:, 0], found[:, 1]) and torch.equal(found[:, 0], found[:, 2])
    places: dict[tuple[int, ...], int] = {}
    for crop in found[:, 0]:
        key = tuple(crop.flatten().tolist())
        places[key] = places.get(key, 0) + 1
    assert set(places) == {
        *[(0, 0, 0, 51), (0, 0, 51, 102), (0, 0, 102, 0)],
        *[(0, 51, 0, 153), (51, 102, 153, 255), (102, 0, 255, 0)],
        *[(0, 153, 0, 0), (153, 255, 0, 0), (255, 0, 0, 0)],
    }
    assert min(places.values()) > 25  # 50 expected, standard deviation 6.7


def test_the_border_is_black_before_normalisation() -> None:
    batch = augment_batch(white(30, 8, 8), dataclasses.replace(NO_AUGMENTATION, pad=3), IMAGENET_PREPROCESSING, seed=1)
    for channel, (mean, std) in enumerate(zip(IMAGENET_PREPROCESSING.mean, IMAGENET_PREPROCESSING.std, strict=True)):
        levels = torch.unique(batch[:, channel])
        torch.testing.assert_close(levels, torch.tensor([(0 - mean) / std, (1 - mean) / std]))


@pytest.mark.parametrize("mode", ["pixel", "constant"])
@pytest.mark.parametrize("area", [(0.02, 1 / 3), (0.1, 0.1)])
def test_one_rectangle_of_the_asked_area_is_erased(mode: Any, area: tuple[float, float]) -> None:
    augmentation = dataclasses.replace(NO_AUGMENTATION, erase=1.0, erase_mode=mode, erase_area=area)
    batch = augment_batch(white(200, 128, 64), augmentation, HALF, seed=2)
    erased = (batch != 1).any(dim=1)
    shares = erased.float().mean(dim=(1, 2))
    # Height and width are rounded to pixels: half a pixel of the shorter side, 7 or more at the least area, is 8 %.
    assert shares.min() > area[0] * 0.9
    assert shares.max() < area[1] * 1.1
    if area[0] < area[1]:
        assert shares.max() - shares.min() > 0.25
    for mask in erased:
        rows, columns = mask.any(dim=1), mask.any(dim=0)
        assert torch.equal(mask, rows[:, None] & columns[None, :])  # a rectangle,
        assert (rows.diff().sum() <= 2) and (columns.diff().sum() <= 2)  # without gaps
    values = batch.permute(0, 2, 3, 1)[erased]
    if mode == "constant":
        assert not values.any()
    else:
        assert values.numel() > 100_000  # standard errors: 0.003 for the mean, 0.002 for the deviation
        assert abs(values.mean().item()) < 0.02
        assert abs(values.std().item() - 1) < 0.02
        assert torch.corrcoef(values.T).triu(1).abs().max() < 0.02  # each channel has its own


@pytest.mark.parametrize("probability", [0.25, 0.5])
def test_erasing_happens_as_often_as_asked(probability: float) -> None:
    augmentation = dataclasses.replace(NO_AUGMENTATION, erase=probability)
    batch = augment_batch(white(2000, 16, 16), augmentation, HALF, seed=5)
    share = (batch != 1).flatten(1).any(dim=1).float().mean().item()
    assert abs(share - probability) < 0.045


def test_jitter_of_a_grey_crop_is_brightness_alone() -> None:
    # Contrast and saturation leave one level of grey as it is, so level 100 ends from 80 to 120; the border at 0.
    grey = np.full((100, 8, 8, 3), 100, np.uint8)
    augmentation = dataclasses.replace(NO_AUGMENTATION, color_jitter=0.2, pad=2)
    found = ((augment_batch(grey, augmentation, HALF, seed=0) + 1) * 127.5).round().int()
    levels = found[:, 0, 3, 3]
    assert 80 <= levels.min() < 85
    assert 115 < levels.max() <= 120
    for crop, level in zip(found, levels.tolist(), strict=True):
        assert set(torch.unique(crop).tolist()) <= {0, level}
    assert (found == 0).any()


def test_jitter_changes_contrast_and_saturation() -> None:
    # Black and white halves: brightness alone keeps black at 0, contrast moves it towards the mean.
    halves = np.zeros((50, 4, 4, 3), np.uint8)
    halves[:, :, 2:] = 200
    contrast = (augment_batch(halves, JITTER, HALF, seed=0) + 1) * 127.5
    assert contrast[:, 0, 0, 0].max() > 5
    # One flat colour: brightness and contrast add or multiply alike, saturation moves the channels apart or together.
    flat = np.full((50, 4, 4, 3), (120, 60, 60), np.uint8)
    colour = (augment_batch(flat, JITTER, HALF, seed=0) + 1) * 127.5
    ratio = colour[:, 0, 0, 0] / colour[:, 1, 0, 0]
    assert ratio.min() < 1.8 and ratio.max() > 2.2


@pytest.mark.parametrize(
    "crops",
    [noise()[0], noise().astype(np.float32), np.zeros((2, 8, 8, 4), np.uint8), noise().transpose(0, 3, 1, 2)],
    ids=["no batch", "float", "RGBA", "channels first"],
)
def test_other_arrays_are_refused(crops: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"crops is an array .* expected \(B, H, W, 3\) of uint8"):
        augment_batch(crops, NO_AUGMENTATION, HALF, seed=0)


def test_a_border_that_a_crop_could_be_lost_in_is_refused() -> None:
    assert augment_batch(noise(2, 16, 11), Augmentation(), HALF, seed=0).shape == (2, 3, 16, 11)
    with pytest.raises(InputError, match=r"pad is 10 pixels, for crops of 16x10: .*fewer pixels"):
        augment_batch(noise(2, 16, 10), Augmentation(), HALF, seed=0)
