"""The canvas of the synthetic dataset: tubes and columns, rasterised with NumPy; and its dice.

In: a size and shapes in box coordinates: (x, y) from the top left corner, one unit is the height of the box.
Out: an array of four times the size, RGB, 0..255. Only `random()` of PCG64 is drawn from and nothing depends
on Pillow's drawing, so that a seed gives the same pixels everywhere. Knows nothing of people and of cameras.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from modelscope_reid.errors import InputError

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Point = tuple[float, float]
Colour = tuple[int, int, int]
Texture = Callable[[Array, Array], Array]
Level = tuple[float, float, float]  # y, centre x and half width, or y and the half axes across and deep
Window = tuple[slice, slice]

SUPERSAMPLING = 4

Noun = TypeVar("Noun")


def validate_fields(noun: object) -> None:
    """Raise `InputError` for a word outside its closed set or a colour out of range."""
    for name, kind in get_type_hints(type(noun)).items():
        value: Any = getattr(noun, name)
        if get_origin(kind) is Literal and value not in get_args(kind):
            raise InputError(f"{name} is {value!r}; expected one of {', '.join(get_args(kind))}")
        if kind == Colour and not (len(value) == 3 and all(0 <= channel <= 255 for channel in value)):
            raise InputError(f"{name} is {value!r}; expected three channels (red, green, blue) of 0 to 255")


class Dice:
    """Random choices of one purpose from one seed, all made from `random()`, whose stream numpy keeps."""

    def __init__(self, purpose: int, seed: int) -> None:
        """Start the stream of this purpose and seed; raises `InputError` for a negative seed."""
        if seed < 0:
            raise InputError(f"seed is {seed}; expected 0 or more")
        self.random = np.random.Generator(np.random.PCG64([purpose, seed])).random

    def between(self, low: float, high: float) -> float:
        """A number in [low, high)."""
        return low + (high - low) * float(self.random())

    def happens(self, chance: float) -> bool:
        """True with this chance, 0..1."""
        return float(self.random()) < chance

    def pick(self, options: Sequence[Noun], weights: Sequence[float] | None = None) -> Noun:
        """One of the options, by weight where weights are given."""
        bounds = np.cumsum(weights if weights is not None else [1.0] * len(options))
        return options[int(np.searchsorted(bounds / bounds[-1], float(self.random()), side="right"))]

    def vary(self, colour: Colour, by: int) -> Colour:
        """A colour near this one, up to `by` away in each channel."""
        red, green, blue = (min(255, max(0, round(c + self.between(-by, by)))) for c in colour)
        return red, green, blue


def plain(colour: Colour) -> Texture:
    """One colour everywhere."""
    return lambda across, along: np.array(colour, np.float64)


def either(first: Texture, second: Texture, where: Callable[[Array, Array], Mask]) -> Texture:
    """`first`, and `second` where the mask says so."""
    return lambda across, along: np.where(where(across, along)[..., None], second(across, along), first(across, along))


class Canvas:
    """The supersampled picture that everything is painted on, in box coordinates."""

    def __init__(self, size: tuple[int, int], light: float, dice: Dice) -> None:
        """Make a black canvas for a picture of `size` (height, width), lit from `light`, -1..1."""
        self.scale = float(SUPERSAMPLING * size[0])
        self.aspect = size[1] / size[0]
        self.light = light
        self.hills = np.asarray(dice.random((41, 41)))
        self.hills[40] = self.hills[0]
        self.hills[:, 40] = self.hills[:, 0]
        self.pixels = np.zeros((SUPERSAMPLING * size[0], SUPERSAMPLING * size[1], 3))

    def window(self, left: float, top: float, *, right: float, bottom: float) -> tuple[Window, Array, Array]:
        """Slices of the pixels inside a rectangle, with their x (1, W) and y (H, 1)."""
        height, width = self.pixels.shape[:2]
        ends = (
            max(0, min(height, math.ceil(bottom * self.scale))),
            max(0, min(width, math.ceil(right * self.scale))),
        )
        starts = max(0, math.floor(top * self.scale)), max(0, math.floor(left * self.scale))
        y = (np.arange(starts[0], ends[0], dtype=np.float64) + 0.5)[:, None] / self.scale
        x = (np.arange(starts[1], ends[1], dtype=np.float64) + 0.5)[None, :] / self.scale
        return (slice(starts[0], ends[0]), slice(starts[1], ends[1])), x, y

    def noise(self, x: Array, y: Array, cell: float) -> Array:
        """Smooth noise, 0..1, whose hills are `cell` wide, at x (1, W) and y (H, 1)."""
        right, down = x / cell, y / cell
        column, row = np.floor(right), np.floor(down)
        right, down = right - column, down - row
        i, j = row.astype(np.int64)[:, 0] % 40, column.astype(np.int64)[0] % 40
        ridges = self.hills[:, j] * (1.0 - right) + self.hills[:, j + 1] * right  # 41 rows do for all H
        return np.asarray(ridges[i] * (1.0 - down) + ridges[i + 1] * down)

    def tube(self, ends: tuple[Point, Point], radii: tuple[float, float], texture: Texture) -> None:
        """Paint a limb: a rod with round ends; the texture sees across -1..1 and along 0..1."""
        ((x0, y0), (x1, y1)), reach = ends, max(radii)
        left, right, top, bottom = min(x0, x1), max(x0, x1), min(y0, y1), max(y0, y1)
        window, x, y = self.window(left - reach, top - reach, right=right + reach, bottom=bottom + reach)
        dx, dy = x1 - x0, y1 - y0
        length = math.sqrt(dx * dx + dy * dy)
        along = np.clip(((x - x0) * dx + (y - y0) * dy) / max(length**2, 1e-9), 0.0, 1.0)
        radius = radii[0] + (radii[1] - radii[0]) * along
        off_x, off_y = x - x0 - along * dx, y - y0 - along * dy
        distance = np.sqrt(off_x**2 + off_y**2)
        edge = np.abs((x - x0) * dy - (y - y0) * dx) / length if length > max(radii) else distance
        colours = texture(np.clip(off_x / radius, -1.0, 1.0), along)
        shade = self._shade(edge / radius, off_x / radius, self.noise(x, y, 0.03))
        self._paint(window, distance < radius, colours * shade[..., None])

    def column(self, levels: Sequence[Level], texture: Texture, shading: float = 1.0) -> None:
        """Paint an upright body, flat where `shading` is 0; the texture sees as for a tube."""
        heights, centres, halves = (np.array(values) for values in zip(*levels, strict=True))
        left, right = float(np.min(centres - halves)), float(np.max(centres + halves))
        window, x, y = self.window(left, levels[0][0], right=right, bottom=levels[-1][0])
        across = (x - np.interp(y, heights, centres)) / np.maximum(np.interp(y, heights, halves), 1e-6)
        along = np.broadcast_to((y - heights[0]) / (heights[-1] - heights[0]), across.shape)
        colours = texture(np.clip(across, -1.0, 1.0), along)
        shade = 1.0 + shading * (self._shade(np.abs(across), across, self.noise(x, y, 0.03)) - 1.0)
        self._paint(window, np.abs(across) < 1.0, colours * shade[..., None])

    def shadow(self, centre: Point, half_width: float, half_height: float) -> None:
        """Darken the ground in a soft ellipse."""
        (x0, y0), right, bottom = centre, centre[0] + half_width, centre[1] + half_height
        window, x, y = self.window(x0 - half_width, y0 - half_height, right=right, bottom=bottom)
        near = np.maximum(0.0, 1.0 - ((x - x0) / half_width) ** 2 - ((y - y0) / half_height) ** 2)
        self.pixels[window] *= (1.0 - 0.5 * near)[..., None]

    def _shade(self, edge: Array, across: Array, folds: Array) -> Array:
        return 1.04 - 0.32 * np.minimum(edge, 1.0) ** 3 + 0.12 * self.light * across + 0.16 * (folds - 0.5)

    def _paint(self, window: Window, inside: Mask, colours: Array) -> None:
        painted = np.clip(colours, 0.0, 255.0)
        np.copyto(self.pixels[window], painted, where=inside[..., None])
