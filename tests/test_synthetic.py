"""The drawn people: the same everywhere, different from each other, themselves in every camera."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from modelscope_reid.datasets import figures, synthetic
from modelscope_reid.datasets.figures import Appearance, sample_appearance
from modelscope_reid.datasets.synthetic import (
    Camera,
    draw_crop,
    draw_sample_crops,
    sample_camera,
)
from modelscope_reid.errors import InputError

ASSETS = Path(__file__).parents[1] / "assets"


def pixels(picture: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(picture, np.uint8)


def colour_of_torso(picture: Image.Image) -> NDArray[np.float64]:
    """Mean torso colour after grey-world correction: each channel divided by its mean over the picture."""
    values = np.asarray(picture, np.float64)
    values = values / values.mean(axis=(0, 1))
    height, width = values.shape[:2]
    torso = values[int(0.25 * height) : int(0.45 * height), int(0.4 * width) : int(0.6 * width)]
    return np.asarray(torso.mean(axis=(0, 1)), np.float64)


def test_same_seeds_draw_the_same_pixels() -> None:
    first = draw_crop(sample_appearance(5), sample_camera(2), seed=9)
    second = draw_crop(sample_appearance(5), sample_camera(2), seed=9)
    assert np.array_equal(pixels(first), pixels(second))


@pytest.mark.parametrize("change", ["person", "camera", "moment"])
def test_each_seed_changes_more_than_the_grain(change: str) -> None:
    first = draw_crop(sample_appearance(5), replace(sample_camera(2), noise=0.0), seed=9)
    second = draw_crop(
        sample_appearance(6 if change == "person" else 5),
        replace(sample_camera(3 if change == "camera" else 2), noise=0.0),
        seed=10 if change == "moment" else 9,
    )
    difference = np.abs(pixels(first).astype(int) - pixels(second).astype(int))
    assert difference.mean() > 4.0


def test_global_random_state_is_neither_used_nor_changed() -> None:
    np.random.seed(0)
    first = pixels(draw_crop(sample_appearance(1), sample_camera(1), seed=1))
    after = np.random.random()
    np.random.seed(0)
    assert np.random.random() == after
    assert np.array_equal(first, pixels(draw_crop(sample_appearance(1), sample_camera(1), seed=1)))


def test_seeds_give_different_people_and_cameras() -> None:
    assert len({sample_appearance(seed) for seed in range(500)}) == 500
    assert len({sample_camera(seed) for seed in range(500)}) == 500
    assert sample_appearance(3) == sample_appearance(3)
    assert sample_camera(3) == sample_camera(3)


def test_neighbouring_seeds_wear_different_upper_garments() -> None:
    for seed in range(60):
        for other in range(seed + 1, seed + 5):
            first, second = sample_appearance(seed).upper, sample_appearance(other).upper
            assert sum(abs(a - b) for a, b in zip(first, second, strict=True)) > 30


def test_every_choice_is_drawn_sooner_or_later() -> None:
    people = [asdict(sample_appearance(seed)) for seed in range(300)]
    closed = {
        "hair_style": figures.HairStyle,
        "pattern": figures.Pattern,
        "sleeves": figures.Sleeves,
        "lower_garment": figures.LowerGarment,
        "bag": figures.Bag,
    }
    for name, choices in closed.items():
        assert {person[name] for person in people} == set(get_args(choices))
    backdrops = {sample_camera(seed).backdrop for seed in range(9)}
    assert backdrops == set(get_args(synthetic.Backdrop))


@pytest.mark.parametrize("size", [(128, 64), (256, 128), (256, 192), (37, 53), (1, 1), (3, 200), (200, 3)])
def test_size_is_height_and_width(size: tuple[int, int]) -> None:
    picture = draw_crop(sample_appearance(1), sample_camera(1), seed=1, size=size)
    assert picture.mode == "RGB"
    assert pixels(picture).shape == (*size, 3)


def test_default_size_is_that_of_market_1501() -> None:
    assert draw_crop(sample_appearance(1), sample_camera(1), seed=1).size == (64, 128)


def test_same_seed_at_another_size_is_the_same_moment() -> None:
    # Neither grain nor blur, so that the picture of twice the size, averaged 2 x 2, is the smaller one but
    # for the edges.
    camera = replace(sample_camera(4), noise=0.0, softness=0.0, blur=0.0001)
    small = pixels(draw_crop(sample_appearance(2), camera, seed=5, size=(64, 32))).astype(float)
    large = pixels(draw_crop(sample_appearance(2), camera, seed=5, size=(128, 64))).astype(float)
    assert np.abs(large.reshape(64, 2, 32, 2, 3).mean(axis=(1, 3)) - small).mean() < 3.0


def test_person_stands_in_the_middle_of_the_box() -> None:
    # The same moment in another colour: what differs is the garment, in the middle of the upper half.
    camera = replace(sample_camera(1), noise=0.0)
    look = replace(sample_appearance(4), pattern="plain", upper=(20, 20, 20), bag="none")
    for seed in range(20):
        dark = pixels(draw_crop(look, camera, seed=seed)).astype(float)
        light = pixels(draw_crop(replace(look, upper=(240, 240, 240)), camera, seed=seed)).astype(float)
        rows, columns = np.nonzero(np.abs(light - dark).sum(axis=2) > 100.0)
        assert len(rows) > 300
        assert 20 < rows.mean() < 76
        assert 20 < columns.mean() < 44


def test_a_person_stays_closer_to_themselves_than_to_others() -> None:
    people, cameras = range(30), (1, 2)
    colours = np.array(
        [
            [
                colour_of_torso(draw_crop(sample_appearance(person), sample_camera(camera), seed=100 * person + camera))
                for person in people
            ]
            for camera in cameras
        ]
    )
    distances = np.linalg.norm(colours[0][:, None] - colours[1][None, :], axis=2)
    same = np.diag(distances).mean()
    different = distances[~np.eye(len(people), dtype=bool)].mean()
    assert same < 0.7 * different


def test_assets_are_what_the_code_draws(tmp_path: Path) -> None:
    drawn = draw_sample_crops(tmp_path / "new" / "folder")
    names = [f"person{person:02d}_camera{camera}.png" for person in range(1, 5) for camera in range(1, 4)]
    assert [path.name for path in drawn] == names
    assert sorted(path.name for path in ASSETS.glob("person*.png")) == names
    for path in drawn:
        with Image.open(path) as new, Image.open(ASSETS / path.name) as kept:
            assert new.size == (128, 256)
            assert np.array_equal(pixels(new), pixels(kept)), path.name


def test_sample_crops_count_and_seed(tmp_path: Path) -> None:
    paths = draw_sample_crops(tmp_path / "a", people=2, cameras=1, seed=1)
    assert paths == sorted((tmp_path / "a").iterdir())
    assert len(paths) == 2
    other = draw_sample_crops(tmp_path / "b", people=1, cameras=1, seed=2)
    with Image.open(paths[0]) as first, Image.open(other[0]) as second:
        assert not np.array_equal(pixels(first), pixels(second))


@pytest.mark.parametrize("size", [(0, 64), (128, 0), (-128, 64), (0, 0)])
def test_size_without_pixels_is_an_input_error(size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=r"size is \(-?\d+, \d+\); expected \(height, width\) of 1 pixel or more"):
        draw_crop(sample_appearance(1), sample_camera(1), seed=1, size=size)


def test_negative_seed_is_an_input_error(tmp_path: Path) -> None:
    look, camera = sample_appearance(0), sample_camera(0)
    with pytest.raises(InputError, match="seed is -1; expected 0 or more"):
        sample_appearance(-1)
    with pytest.raises(InputError, match="seed is -2; expected 0 or more"):
        sample_camera(-2)
    with pytest.raises(InputError, match="seed is -3; expected 0 or more"):
        draw_crop(look, camera, seed=-3)
    with pytest.raises(InputError, match="seed is -1; expected 0 or more"):
        draw_sample_crops(tmp_path / "never", seed=-1)
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize(("people", "cameras"), [(0, 3), (4, 0), (-1, 3)])
def test_nobody_to_draw_is_an_input_error(tmp_path: Path, people: int, cameras: int) -> None:
    with pytest.raises(InputError, match=f"people is {people} and cameras is {cameras}; expected 1 or more"):
        draw_sample_crops(tmp_path, people=people, cameras=cameras)


def changed_appearance(**fields: object) -> Appearance:
    return replace(sample_appearance(0), **fields)  # type: ignore[arg-type]


def changed_camera(**fields: object) -> Camera:
    return replace(sample_camera(0), **fields)  # type: ignore[arg-type]


def test_words_and_colours_are_checked_when_made() -> None:
    with pytest.raises(InputError, match="pattern is 'dots'; expected one of plain, stripes, block"):
        changed_appearance(pattern="dots")
    with pytest.raises(InputError, match="backdrop is 'beach'; expected one of street, wall, floor"):
        changed_camera(backdrop="beach")
    with pytest.raises(InputError, match=r"upper is \(0, 0, 256\); expected three channels"):
        changed_appearance(upper=(0, 0, 256))
    with pytest.raises(InputError, match=r"wall is \(1, 2\); expected three channels"):
        changed_camera(wall=(1, 2))
