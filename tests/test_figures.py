"""Drawn people: poses put body points where trigonometry says, and each thing is seen from its side only."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from modelscope_reid.datasets.canvas import Canvas, Dice
from modelscope_reid.datasets.figures import (
    PATTERN_MASKS,
    Appearance,
    Bag,
    HairStyle,
    LowerGarment,
    Pattern,
    Pose,
    draw_figure,
    sample_appearance,
)

FRONT, SIDE, BACK = 0.0, math.pi / 2, math.pi
LOOK = replace(
    sample_appearance(1), pattern="plain", bag="none", hair_style="short", upper=(0, 0, 255), upper_second=(0, 255, 0),
    bag_colour=(255, 0, 0), sleeves="long", skin=(226, 178, 142), lower=(60, 60, 60), shoes=(30, 30, 30),
    hair=(20, 20, 20),
)  # fmt: skip


def pose(facing: float = FRONT, elevation: float = 0.0, stride: float = 0.2) -> Pose:
    return Pose(0.25, 0.05, 0.9, facing, elevation, stride, 0.5)


def draw(look: Appearance, facing: float = FRONT) -> np.ndarray:
    canvas = Canvas((64, 32), 0.0, Dice(9, 0))
    canvas.pixels[:] = 90.0
    draw_figure(canvas, look, pose(facing))
    return canvas.pixels


def share(pixels: np.ndarray, channel: int) -> float:
    """The share of pixels where one channel is far above the other two."""
    others = np.delete(pixels, channel, axis=2).max(axis=2)
    return float((pixels[..., channel] > others + 90).mean())


@pytest.mark.parametrize(
    # Facing 0 a body's left (x) is to the right of the picture; turned by 90 degrees its front (z) is.
    ("facing", "point", "expected"),
    [
        (FRONT, (0.1, 0.5, 0.3), (0.25 + 0.9 * 0.1, 0.05 + 0.9 * 0.5)),
        (SIDE, (0.1, 0.5, 0.3), (0.25 + 0.9 * 0.3, 0.05 + 0.9 * 0.5)),
        (BACK, (0.1, 0.5, 0.3), (0.25 - 0.9 * 0.1, 0.05 + 0.9 * 0.5)),
        (FRONT, (0.0, 0.0, 0.0), (0.25, 0.05)),
        (FRONT, (0.0, 1.0, 0.0), (0.25, 0.95)),
    ],
)
def test_body_points_in_the_box(facing: float, point: tuple[float, float, float], expected: tuple) -> None:
    assert pose(facing).place(*point) == pytest.approx(expected)


def test_depth_is_towards_the_camera() -> None:
    assert pose(FRONT).depth(0.0, 0.1) == pytest.approx(0.1)
    assert pose(BACK).depth(0.0, 0.1) == pytest.approx(-0.1)
    assert pose(SIDE).depth(0.1, 0.0) == pytest.approx(-0.1)


def test_a_camera_from_above_sees_what_is_near_lower() -> None:
    near, far = pose(elevation=0.2).place(0.0, 0.5, 0.1), pose(elevation=0.2).place(0.0, 0.5, -0.1)
    assert near[1] - far[1] == pytest.approx(0.9 * 0.2 * 0.2)  # scale * elevation * difference in depth


def test_width_of_an_ellipse_from_each_side() -> None:
    assert pose(FRONT).half_width(0.1, 0.05) == pytest.approx(0.09)
    assert pose(SIDE).half_width(0.1, 0.05) == pytest.approx(0.045)
    assert pose(math.pi / 4).half_width(0.1, 0.1) == pytest.approx(0.09)


def test_angles_around_the_body() -> None:
    across = np.array([0.0, 1.0, -1.0])
    assert pose(FRONT).around(across) == pytest.approx([0.0, math.pi / 2, -math.pi / 2])
    assert np.abs(pose(BACK).around(across)) == pytest.approx([math.pi, math.pi / 2, math.pi / 2])


def test_prints_and_open_jackets_are_in_front_only() -> None:
    front, back, middle = np.array([0.0]), np.array([math.pi]), np.array([0.42])
    for pattern in ("print", "jacket"):
        assert PATTERN_MASKS[pattern](front, middle).all()
        assert not PATTERN_MASKS[pattern](back, middle).any()
    along = np.linspace(0, 1, 701)[:-1]
    assert not PATTERN_MASKS["plain"](along, along).any()
    assert PATTERN_MASKS["stripes"](along, along).mean() == pytest.approx(0.45, abs=0.01)
    assert PATTERN_MASKS["block"](along, along).mean() == pytest.approx(0.46, abs=0.01)
    assert set(PATTERN_MASKS) == set(get_args(Pattern))


def test_a_print_is_seen_from_the_front() -> None:
    look = replace(LOOK, pattern="print")
    assert share(draw(look, FRONT), 1) > 0.01
    assert share(draw(look, BACK), 1) == 0.0


def test_a_backpack_is_seen_from_the_back() -> None:
    look = replace(LOOK, bag="backpack")
    assert share(draw(look, BACK), 0) > 3 * share(draw(look, FRONT), 0) > 0  # straps in front
    assert share(draw(LOOK, BACK), 0) == 0.0


def test_the_garment_has_its_colour_and_place() -> None:
    blue = draw(LOOK)[..., 2] > draw(LOOK)[..., :2].max(axis=2) + 90
    rows, columns = np.nonzero(blue)
    # The torso reaches from 0.155 to the hem (0.5..0.7) of a body 0.9 of the box high: rows 0.19 to 0.68 of 256.
    assert 0.15 * 256 < rows.min() < rows.max() < 0.72 * 256
    assert columns.mean() == pytest.approx(0.25 * 256, abs=4)
    assert blue.mean() > 0.08


def test_skirts_and_shorts_show_legs() -> None:
    skin = {}
    for garment in get_args(LowerGarment):
        legs = draw(replace(LOOK, lower_garment=garment))[int(0.72 * 256) : int(0.88 * 256)]
        skin[garment] = float(((legs[..., 0] > 120) & (legs[..., 0] > legs[..., 2] + 30)).mean())
    assert skin["trousers"] < 0.01 < 0.05 < min(skin["shorts"], skin["skirt"])


@pytest.mark.parametrize(("field", "choices"), [("hair_style", HairStyle), ("bag", Bag)])
def test_every_choice_looks_different(field: str, choices: object) -> None:
    pictures = [draw(replace(LOOK, **{field: choice}), SIDE) for choice in get_args(choices)]
    for index, one in enumerate(pictures):
        for other in pictures[:index]:
            assert (np.abs(one - other).max(axis=2) > 30).mean() > 0.0005


def test_walking_moves_the_legs() -> None:
    canvases = []
    for stride in (0.0, 0.5):
        canvas = Canvas((64, 32), 0.0, Dice(9, 0))
        draw_figure(canvas, LOOK, pose(SIDE, stride=stride))
        canvases.append(np.nonzero(canvas.pixels[int(0.8 * 256) : int(0.9 * 256)].any(axis=2))[1])
    standing, walking = (np.ptp(columns) for columns in canvases)
    assert walking > standing + 10
