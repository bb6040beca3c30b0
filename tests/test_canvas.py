"""The canvas: shapes cover the pixels that geometry says, and dice keep to their numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from modelscope_reid.datasets.canvas import Canvas, Dice, either, plain
from modelscope_reid.errors import InputError

RED = (200, 10, 20)


def canvas(size: tuple[int, int] = (25, 25), light: float = 0.0) -> Canvas:
    """25 x 25 are 100 x 100 painted pixels, so a box height is 100 pixels."""
    return Canvas(size, light, Dice(9, 0))


def painted(picture: Canvas) -> np.ndarray:
    return picture.pixels.any(axis=2)


def test_a_point_like_tube_is_a_disc() -> None:
    # Radius 0.2 box heights are 20 pixels: pi * 20^2 = 1257 pixels around row and column 50.
    picture = canvas()
    picture.tube(((0.5, 0.5), (0.5, 0.5)), (0.2, 0.2), plain(RED))
    rows, columns = np.nonzero(painted(picture))
    assert len(rows) == pytest.approx(math.pi * 20**2, rel=0.02)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (30, 69, 30, 69)


def test_a_tube_has_round_ends_and_its_colour() -> None:
    # 40 pixels long and 10 wide with two half discs: 40 * 10 + pi * 5^2 = 479 pixels.
    picture = canvas()
    picture.tube(((0.3, 0.5), (0.7, 0.5)), (0.05, 0.05), plain(RED))
    assert painted(picture).sum() == pytest.approx(479, rel=0.03)
    middle = picture.pixels[50, 50]
    assert middle[0] > 140 > 60 > middle[1:].max()  # shaded, but red


def test_a_flat_column_is_its_outline_in_one_colour() -> None:
    # A trapezoid from half width 0.1 at y 0.2 to 0.3 at y 0.6: 40 rows of 20 to 60 pixels, 1600 in all.
    picture = canvas()
    picture.column([(0.2, 0.5, 0.1), (0.6, 0.5, 0.3)], plain(RED), shading=0.0)
    inside = painted(picture)
    assert inside.sum() == pytest.approx(1600, rel=0.03)
    assert np.all(picture.pixels[inside] == RED)
    assert inside[20:60].any(axis=1).all()
    assert not inside[:20].any() | inside[60:].any()


def test_light_from_the_right_brightens_the_right() -> None:
    for light in (-1.0, 1.0):
        picture = canvas(light=light)
        picture.column([(0.2, 0.5, 0.3), (0.8, 0.5, 0.3)], plain((120, 120, 120)))
        left, right = picture.pixels[20:80, 22:48].mean(), picture.pixels[20:80, 52:78].mean()
        assert (right - left) * light > 5


def test_what_lies_outside_is_cut_off() -> None:
    picture = canvas()
    picture.tube(((-5.0, -5.0), (-4.0, 9.0)), (0.3, 0.1), plain(RED))
    picture.column([(1.5, 0.5, 0.1), (2.0, 0.5, 0.1)], plain(RED))
    assert not painted(picture).any()
    picture.tube(((0.0, 0.0), (0.0, 0.0)), (0.2, 0.2), plain(RED))
    assert painted(picture).sum() == pytest.approx(math.pi * 20**2 / 4, rel=0.04)  # a quarter of the disc


def test_shadow_halves_the_middle_and_spares_the_rest() -> None:
    picture = canvas()
    picture.pixels[:] = 100.0
    picture.shadow((0.5, 0.5), 0.3, 0.1)
    assert picture.pixels[50, 50, 0] == pytest.approx(50, abs=1)
    assert picture.pixels[50, 50 + 15, 0] == pytest.approx(100 * (1 - 0.5 * 0.75), abs=2)  # 1 - (15 / 30)^2 = 0.75
    assert (picture.pixels[61:] == 100).all()
    assert (picture.pixels[:, :20] == 100).all()


def test_noise_is_smooth_and_between_0_and_1() -> None:
    picture = canvas()
    x, y = np.linspace(-1, 3, 400)[None, :], np.linspace(-1, 3, 400)[:, None]
    noise = picture.noise(x, y, 0.1)
    assert noise.shape == (400, 400)
    assert 0.0 <= noise.min() < 0.1 < 0.9 < noise.max() <= 1.0
    assert np.abs(np.diff(noise, axis=1)).max() <= 4 / 399 / 0.1 + 1e-9  # at most 1 over a hill's width
    assert picture.noise(np.array([[0.2]]), np.array([[0.3]]), 0.1).item() == pytest.approx(picture.hills[3, 2])


def test_either_takes_the_second_where_the_mask_says() -> None:
    texture = either(plain((0, 0, 0)), plain(RED), lambda across, along: across > 0)
    across = np.array([[-0.5, 0.5]])
    assert texture(across, across).tolist() == [[[0, 0, 0], [200, 10, 20]]]


def test_dice_are_those_of_their_purpose_and_seed() -> None:
    throws = {(p, s): [Dice(p, s).between(0, 1) for _ in range(2)] for p in (1, 2) for s in (0, 1)}
    assert all(first == second for first, second in throws.values())
    assert len({first for first, _ in throws.values()}) == 4
    with pytest.raises(InputError, match="seed is -1"):
        Dice(1, -1)


def test_dice_keep_to_their_limits_and_chances() -> None:
    dice = Dice(1, 2)
    numbers = [dice.between(-2.0, 3.0) for _ in range(2000)]
    assert -2.0 <= min(numbers) < -1.9
    assert 2.9 < max(numbers) < 3.0
    assert sum(dice.happens(0.25) for _ in range(4000)) == pytest.approx(1000, abs=120)
    picks = [dice.pick("abc", (3, 0, 1)) for _ in range(4000)]
    assert picks.count("b") == 0
    assert picks.count("a") == pytest.approx(3000, abs=120)
    assert {dice.pick("xyz") for _ in range(100)} == set("xyz")


def test_varied_colours_stay_near_and_in_range() -> None:
    dice = Dice(3, 4)
    colours = np.array([dice.vary((250, 128, 3), 12) for _ in range(500)])
    assert np.abs(colours - [250, 128, 3]).max() <= 12
    assert colours.min() == 0
    assert colours.max() == 255
    assert np.ptp(colours[:, 1]) > 20
