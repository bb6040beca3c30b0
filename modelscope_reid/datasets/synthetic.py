"""Drawn people, seen by drawn cameras: pictures to test and to show with where no dataset may be had.

In: seeds. Out: RGB crops, and PNG files of them. The drawing is ours: no photograph, no font, no text and
no real person. Knows nothing of models, of preprocessing and of how a dataset lies on disk.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from modelscope_reid.datasets.canvas import (
    SUPERSAMPLING,
    Array,
    Canvas,
    Colour,
    Dice,
    Mask,
    Point,
    either,
    plain,
    validate_fields,
)
from modelscope_reid.datasets.figures import UPPERS, Appearance, Pose, draw_figure, sample_appearance
from modelscope_reid.errors import InputError

Backdrop = Literal["street", "wall", "floor"]
Box = Literal["person", "junk", "distractor"]

OCCLUSION_CHANCE = 0.15
WALLS: tuple[Colour, ...] = ((176, 172, 162), (158, 112, 92), (138, 148, 156), (204, 196, 178))
GROUNDS: tuple[Colour, ...] = ((130, 130, 132), (164, 158, 148), (150, 138, 122), (112, 116, 124))
# outline (along, half width) as parts of the size (height, half width); shading; colour, end of the windows
OBJECTS: dict[str, tuple[tuple[Point, ...], Point, float, tuple[Colour, float]]] = {
    "door": (((0.0, 1.0), (1.0, 1.0)), (0.50, 0.10), 0.0, ((112, 92, 76), 0.42)),
    "lamp post": (((0.0, 0.7), (1.0, 1.0)), (1.20, 0.013), 1.0, ((90, 94, 98), 0.0)),
    "bin": (((0.0, 0.8), (0.1, 1.0), (1.0, 0.85)), (0.15, 0.048), 1.0, ((52, 84, 66), 0.0)),
    "car": (
        ((0.0, 0.42), (0.08, 0.52), (0.42, 0.68), (0.48, 0.97), (1.0, 1.0)),
        (0.19, 0.24),
        0.3,
        ((150, 60, 58), 0.40),
    ),
    "bush": (
        ((0.0, 0.0), (0.05, 0.4), (0.2, 0.75), (0.5, 1.0), (0.85, 1.0), (1.0, 0.85)),
        (0.20, 0.13),
        1.2,
        ((70, 108, 58), 0.0),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Camera:
    """What a camera adds to all its pictures.

    `views` are the chances of seeing people from the front, the side and the back; `elevation` is the sine of
    the angle from which it looks down; `light` is -1 (from the left) to 1; `gains` multiply red, green and
    blue before `gamma`; `blur` is a standard deviation in box heights; `noise` is in grey levels; `softness`
    (0..1) is how much of the fine colour is lost, as in compressed video; `scene_seed` places the objects of
    the background.
    """

    views: tuple[float, float, float]
    elevation: float
    light: float
    gains: tuple[float, float, float]
    brightness: float
    gamma: float
    blur: float
    noise: float
    softness: float
    backdrop: Backdrop
    wall: Colour
    ground: Colour
    horizon: float
    scene_seed: int

    def __post_init__(self) -> None:
        """Raise `InputError` for a word outside its closed set or a colour out of range."""
        validate_fields(self)


def sample_camera(seed: int) -> Camera:
    """Hang up a camera: its view of a place, its colours and its faults.

    Raises `InputError` for a negative seed.
    """
    dice = Dice(2, seed)
    views = ((0.7, 0.2, 0.1), (0.1, 0.2, 0.7), (0.2, 0.65, 0.15), (0.34, 0.33, 0.33))[seed % 4]
    backdrop = get_args(Backdrop)[seed % 3]
    warmth, tint = dice.between(-0.12, 0.12), dice.between(-0.04, 0.04)
    horizon = {"street": (0.18, 0.36), "wall": (0.68, 0.82), "floor": (-0.05, 0.10)}[backdrop]
    return Camera(
        views=views,
        elevation=dice.between(0.08, 0.30),
        light=dice.between(-1.0, 1.0),
        gains=(1.0 + warmth, 1.0 + tint, 1.0 - warmth),
        brightness=dice.between(0.78, 1.12),
        gamma=dice.between(0.82, 1.25),
        blur=dice.between(0.001, 0.006),
        noise=dice.between(1.5, 6.0),
        softness=dice.between(0.0, 0.8),
        backdrop=backdrop,
        wall=dice.vary(dice.pick(WALLS), 14),
        ground=dice.vary(dice.pick(GROUNDS), 14),
        horizon=dice.between(*horizon),
        scene_seed=seed,
    )


def _street_lines(x: Array, y: Array, horizon: float) -> Mask:
    windows = ((x * 3.2) % 1.0 < 0.55) & ((y * 7.0) % 1.0 < 0.6) & (y < horizon - 0.06)
    return windows | ((y > horizon + 0.10) & (y < horizon + 0.115))


def _wall_lines(x: Array, y: Array, horizon: float) -> Mask:
    shift = 0.5 * (np.floor(y / 0.05) % 2.0)
    return (((y / 0.05) % 1.0 < 0.10) | ((x / 0.12 + shift) % 1.0 < 0.05)) & (y < horizon)


def _floor_lines(x: Array, y: Array, horizon: float) -> Mask:
    near = np.maximum(y - horizon + 0.25, 0.02)
    return (((x - 0.25) / near * 2.4 % 1.0 < 0.05) | ((1.9 / near) % 1.0 < 0.06)) & (y > horizon)


LINES: dict[Backdrop, Callable[[Array, Array, float], Mask]] = {
    "street": _street_lines,
    "wall": _wall_lines,
    "floor": _floor_lines,
}


def _draw_backdrop(canvas: Canvas, camera: Camera, dice: Dice) -> None:
    """The place: wall and ground with their lines, and the objects that stand there."""
    window, x, y = canvas.window(0.0, 0.0, right=canvas.aspect, bottom=1.0)
    left = dice.between(0.0, 2.0)
    x = x + left
    ground = y > camera.horizon
    light = 0.86 + 0.16 * canvas.noise(x, y, 0.22) + 0.10 * canvas.noise(x, y, 0.011)
    light = light * np.where(ground, 0.88 + 0.18 * y, 1.0) - 0.16 * LINES[camera.backdrop](x, y, camera.horizon)
    light = light - 0.18 * (np.abs(y - camera.horizon) < 0.006)
    colours = np.where(ground[..., None], np.array(camera.ground), np.array(camera.wall))
    canvas.pixels[window] = np.clip(colours * light[..., None], 0.0, 255.0)
    scene = Dice(3, camera.scene_seed)
    for _ in range(7):
        _draw_object(canvas, camera, scene, left=left)


def _draw_object(canvas: Canvas, camera: Camera, scene: Dice, *, left: float) -> None:
    """One object of the place, whose panorama is seen from `left` on."""
    outline, size, shading, (colour, inset) = scene.pick(tuple(OBJECTS.values()))
    centre, colour = scene.between(0.0, 2.5) - left, scene.vary(colour, 20)
    bottom = max(camera.horizon, 0.08) + scene.between(0.0, 0.06)
    levels = [(bottom + size[0] * (along - 1.0), centre, size[1] * half) for along, half in outline]
    darker = (colour[0] // 3, colour[1] // 3, colour[2] // 3)
    texture = either(
        plain(colour),
        plain(darker),
        lambda u, v: (v > 0.12) & (v < inset) & (np.abs(np.abs(u) - 0.4) < 0.33),
    )
    canvas.column(levels, texture, shading)


def _sample_pose(look: Appearance, camera: Camera, dice: Dice, aspect: float) -> Pose:
    """A moment of a walk in a detector's box, which is never quite right."""
    view = dice.pick((0.0, 0.5 * math.pi * dice.pick((-1.0, 1.0)), math.pi), camera.views)
    scale = look.stature * dice.between(0.86, 0.94)
    top = 0.5 - 0.5 * scale + dice.between(-0.025, 0.025)
    if dice.happens(0.15):  # the box ends above the feet
        scale, top = 1.16 * scale, top + 0.01
    elif dice.happens(0.08):  # or below the crown
        scale, top = 1.06 * scale, -0.045
    return Pose(
        centre=0.5 * aspect + dice.between(-0.035, 0.035),
        top=top,
        scale=scale,
        facing=view + dice.between(-0.45, 0.45),
        elevation=camera.elevation,
        stride=dice.between(0.16, 0.42),
        phase=dice.between(0.0, 2.0 * math.pi),
    )


def _draw_occluder(canvas: Canvas, dice: Dice, pose: Pose) -> None:
    """Something in front of the person: a pole, a bicycle or somebody else's edge."""
    kind, x = dice.pick(("pole", "bicycle", "person")), canvas.aspect * dice.between(0.15, 0.85)
    if kind == "pole":
        canvas.tube(((x, -0.1), (x, 1.1)), (0.022, 0.024), plain((96, 100, 104)))
    elif kind == "bicycle":
        _draw_bicycle(canvas, x, dice.pick(UPPERS))
    else:
        edge, facing = canvas.aspect * dice.pick((-0.06, 1.06)), dice.between(0.0, 2.0 * math.pi)
        other = replace(pose, centre=edge, top=pose.top + 0.06, facing=facing, phase=pose.phase + 2.0)
        draw_figure(canvas, sample_appearance(int(dice.between(0.0, 1e6))), other)


def _draw_bicycle(canvas: Canvas, x: float, colour: Colour) -> None:
    """A bicycle from its side, the wheels near the lower edge."""
    frame, tyre = plain(colour), plain((34, 34, 36))
    rear, front, saddle, crank, bar = (
        (x + right, down) for right, down in ((-0.19, 0.86), (0.19, 0.86), (-0.09, 0.66), (-0.03, 0.86), (0.14, 0.64))
    )
    turns = [2.0 * math.pi * step / 24 for step in range(25)]
    for hub in (rear, front):
        rim = [(hub[0] + 0.13 * math.cos(turn), hub[1] + 0.13 * math.sin(turn)) for turn in turns]
        for ends in pairwise(rim):
            canvas.tube(ends, (0.009, 0.009), tyre)
    for ends in ((rear, saddle), (rear, crank), (crank, saddle), (crank, bar), (saddle, bar), (bar, front)):
        canvas.tube(ends, (0.008, 0.008), frame)
    canvas.tube(((x - 0.12, 0.645), (x - 0.06, 0.64)), (0.011, 0.009), tyre)
    canvas.tube(((x + 0.13, 0.60), (x + 0.17, 0.61)), (0.009, 0.009), tyre)


def _blurred(picture: Array, sigma: float) -> Array:
    """Convolve rows and columns with a Gaussian of `sigma` pixels; the edge is repeated outwards."""
    reach = math.ceil(2.5 * sigma)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    weights /= weights.sum()
    for axis in (0, 1):
        turned = np.moveaxis(picture, axis, 0)
        padded = np.pad(turned, ((reach, reach), (0, 0), (0, 0)), mode="edge")
        blurred = np.zeros_like(turned)
        for start, weight in enumerate(weights):
            blurred += weight * padded[start : start + len(turned)]
        picture = np.moveaxis(blurred, 0, axis)
    return picture


def _expose(canvas: Canvas, camera: Camera, dice: Dice) -> NDArray[np.uint8]:
    """The picture that the camera makes of the canvas: reduced, tinted, blurred, softened and noisy."""
    rows, cols = (length // SUPERSAMPLING for length in canvas.pixels.shape[:2])
    linear = canvas.pixels.reshape(rows, SUPERSAMPLING, cols, SUPERSAMPLING, 3).mean(axis=(1, 3)) / 255.0
    picture = np.clip(linear * np.array(camera.gains) * camera.brightness, 0.0, 1.0) ** camera.gamma
    picture = _blurred(picture, camera.blur * rows)
    grey = picture.mean(axis=2, keepdims=True)
    padded = np.pad(picture - grey, ((0, -rows % 4), (0, -cols % 4), (0, 0)), mode="edge")
    blocks = padded.reshape(padded.shape[0] // 4, 4, padded.shape[1] // 4, 4, 3).mean(axis=(1, 3))
    chroma = blocks.repeat(4, axis=0).repeat(4, axis=1)[:rows, :cols]
    picture = picture + camera.softness * (chroma - (picture - grey))
    grain = dice.random((rows, cols, 4)) + dice.random((rows, cols, 4)) - 1.0
    noise = camera.noise * (1.6 * grain[..., :1] + grain[..., 1:])
    pixels: NDArray[np.uint8] = np.clip(np.rint(255.0 * picture + noise), 0.0, 255.0).astype(np.uint8)
    return pixels


def _misplace(pose: Pose, dice: Dice) -> Pose:
    """The same person in a box that shares less than half its area with them."""
    side = dice.pick((-1.0, 1.0))
    return replace(
        pose,
        centre=pose.centre + side * dice.between(0.14, 0.24),
        top=pose.top + dice.between(-0.35, 0.25),
        scale=pose.scale * dice.between(1.1, 1.6),
    )


def check_size(size: tuple[int, int]) -> None:
    """Raise `InputError` where a side of `size` (height, width) is below 1."""
    if min(size) < 1:
        raise InputError(f"size is {size}; expected (height, width) of 1 pixel or more")


def draw_crop(
    appearance: Appearance,
    camera: Camera,
    *,
    seed: int,
    size: tuple[int, int] = (128, 64),
    box: Box = "person",
) -> Image.Image:
    """Draw one detection of a person by a camera: RGB, 8 bit, of `size` (height, width) in pixels.

    The seed decides the moment: the step, the facing, the detector's error, an occlusion, the grain. The same
    seed at another size is the same moment. `box` is what the detector caught: the person, a part of the person
    (`junk`, as Market-1501 has it), or the place without the person (`distractor`).

    Raises `InputError` where a side of `size` is below 1, the seed is negative or `box` is none of the three.
    """
    check_size(size)
    if box not in get_args(Box):
        raise InputError(f"box is {box!r}; expected one of {', '.join(get_args(Box))}")
    dice = Dice(4, seed)
    canvas = Canvas(size, camera.light, dice)
    _draw_backdrop(canvas, camera, dice)
    pose = _sample_pose(appearance, camera, dice, canvas.aspect)
    if box == "junk":
        pose = _misplace(pose, dice)
    if box != "distractor":
        draw_figure(canvas, appearance, pose)
    if dice.happens(OCCLUSION_CHANCE):
        _draw_occluder(canvas, dice, pose)
    return Image.fromarray(_expose(canvas, camera, dice))


def draw_sample_crops(folder: Path, *, people: int = 4, cameras: int = 3, seed: int = 0) -> list[Path]:
    """Write one PNG per person and camera, 256 high and 128 wide, and return their paths, sorted.

    A file is called `person01_camera1.png`, and so on from 1. The folder is made where it is missing.

    Raises `InputError` where there is nobody to draw, no camera to see them or the seed is negative.
    """
    if people < 1 or cameras < 1:
        raise InputError(f"people is {people} and cameras is {cameras}; expected 1 or more of each")
    if seed < 0:
        raise InputError(f"seed is {seed}; expected 0 or more")
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for person in range(1, people + 1):
        appearance = sample_appearance(1000 * seed + person)
        for camera in range(1, cameras + 1):
            path = folder / f"person{person:02d}_camera{camera}.png"
            moment = (1000 * seed + person) * 110 + camera
            draw_crop(appearance, sample_camera(1000 * seed + camera), seed=moment, size=(256, 128)).save(path)
            paths.append(path)
    return sorted(paths)
