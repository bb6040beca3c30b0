"""Drawn people: how they look and how they stand.

In: an appearance and a pose. Out: the person on a canvas. A body is a handful of tubes (limbs) and upright
columns (torso, head, skirt), posed in three dimensions and turned to the camera; patterns, faces and straps
are painted around the body, so each is seen only from its side. Knows nothing of cameras and of files.

Body coordinates: x to the person's left, y down from the crown (0) to the soles (1), z forwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import numpy as np

from modelscope_reid.datasets.canvas import (
    Array,
    Canvas,
    Colour,
    Dice,
    Level,
    Mask,
    Point,
    Texture,
    either,
    plain,
    validate_fields,
)

HairStyle = Literal["short", "long", "bun", "bald", "cap"]
Pattern = Literal["plain", "stripes", "block", "print", "jacket"]
Sleeves = Literal["short", "long"]
LowerGarment = Literal["trousers", "shorts", "skirt"]
Bag = Literal["none", "backpack", "handbag", "shoulder"]

SKINS: tuple[Colour, ...] = ((244, 206, 178), (226, 178, 142), (196, 144, 106), (148, 98, 66), (98, 64, 46))
HAIRS: tuple[Colour, ...] = ((28, 24, 24), (62, 42, 30), (112, 76, 44), (196, 160, 96), (150, 148, 146))
UPPERS: tuple[Colour, ...] = (
    (198, 40, 44), (34, 62, 140), (236, 234, 226), (38, 40, 46), (58, 134, 72), (238, 192, 52),
    (120, 60, 140), (232, 122, 44), (104, 178, 214), (128, 130, 134), (222, 128, 160), (94, 62, 44),
    (28, 118, 122),
)  # fmt: skip
LOWERS: tuple[Colour, ...] = (
    (40, 54, 96), (34, 34, 38), (170, 148, 112), (84, 112, 152), (108, 110, 112), (84, 92, 58),
    (222, 216, 204),
)  # fmt: skip
SHOES: tuple[Colour, ...] = ((30, 28, 28), (238, 238, 236), (110, 70, 42), (186, 44, 44), (70, 84, 120))
# (along, half width) from the crown to the chin
SKULL: tuple[Point, ...] = (
    (0.0, 0.0), (0.02, 0.3), (0.07, 0.58), (0.16, 0.82), (0.3, 0.98), (0.5, 1.0), (0.68, 0.92), (0.82, 0.74),
    (0.92, 0.54), (0.98, 0.3), (1.0, 0.0),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Appearance:
    """What a person keeps from camera to camera; colours are RGB, 0..255.

    `stature` and `girth` are relative to an average body; `hem` is where the upper garment ends, 0.5 (hip)
    to 0.7 (a coat); `upper_second` is the pattern's other colour; a cap is of the bag's colour.
    """

    stature: float
    girth: float
    skin: Colour
    hair_style: HairStyle
    hair: Colour
    upper: Colour
    upper_second: Colour
    pattern: Pattern
    sleeves: Sleeves
    hem: float
    lower_garment: LowerGarment
    lower: Colour
    shoes: Colour
    bag: Bag
    bag_colour: Colour

    def __post_init__(self) -> None:
        """Raise `InputError` for a word outside its closed set or a colour out of range."""
        validate_fields(self)


def sample_appearance(seed: int) -> Appearance:
    """Dress a person; neighbouring seeds wear different colours.

    Raises `InputError` for a negative seed.
    """
    dice = Dice(1, seed)
    upper = UPPERS[seed * 5 % len(UPPERS)]
    others = [colour for colour in UPPERS if sum(abs(a - b) for a, b in zip(colour, upper, strict=True)) > 150]
    pattern = dice.pick(get_args(Pattern), (4, 2, 2, 2, 2))
    return Appearance(
        stature=dice.between(0.93, 1.05),
        girth=dice.between(0.86, 1.22),
        skin=dice.vary(dice.pick(SKINS), 8),
        hair_style=dice.pick(get_args(HairStyle), (5, 4, 2, 1, 2)),
        hair=dice.vary(dice.pick(HAIRS, (4, 4, 2, 2, 1)), 8),
        upper=dice.vary(upper, 12),
        upper_second=dice.vary(dice.pick(others), 12),
        pattern=pattern,
        sleeves="long" if pattern == "jacket" else dice.pick(get_args(Sleeves)),
        hem=dice.between(0.60, 0.70) if dice.happens(0.15) else dice.between(0.50, 0.54),
        lower_garment=dice.pick(get_args(LowerGarment), (5, 2, 2)),
        lower=dice.vary(LOWERS[seed * 3 % len(LOWERS)], 12),
        shoes=dice.vary(dice.pick(SHOES), 10),
        bag=dice.pick(get_args(Bag), (4, 3, 2, 2)),
        bag_colour=dice.vary(dice.pick(UPPERS), 12),
    )


@dataclass(frozen=True)
class Pose:
    """Where a body stands in the box and how; angles in radians, `facing` 0 looks at the camera."""

    centre: float
    top: float
    scale: float
    facing: float
    elevation: float
    stride: float
    phase: float

    def depth(self, x: float, z: float) -> float:
        """How far a body point is on the camera's side of the body's axis."""
        return z * math.cos(self.facing) - x * math.sin(self.facing)

    def place(self, x: float, y: float, z: float) -> Point:
        """Body coordinates to box coordinates; a camera that looks down shortens what is far below it."""
        fall = y + 0.22 * self.elevation * y * (1.0 - y) + self.elevation * self.depth(x, z)
        side = x * math.cos(self.facing) + z * math.sin(self.facing)
        return self.centre + self.scale * side, self.top + self.scale * fall

    def half_width(self, lateral: float, deep: float) -> float:
        """Half the width in the box of an upright ellipse with these half axes."""
        return self.scale * math.hypot(lateral * math.cos(self.facing), deep * math.sin(self.facing))

    def levels(self, profile: Sequence[Level], z: float = 0.0) -> list[Level]:
        """A profile of (y, lateral half axis, deep half axis), standing `z` before the axis, as a column."""
        middles = [self.place(0.0, y, z) for y, _, _ in profile]
        halves = [self.half_width(lateral, deep) for _, lateral, deep in profile]
        return [(y, x, half) for (x, y), half in zip(middles, halves, strict=True)]

    def around(self, across: Array) -> Array:
        """The angle around the body, 0 in front, of what is seen `across`."""
        angle = np.arcsin(across) - self.facing
        return np.asarray((angle + math.pi) % (2 * math.pi) - math.pi)


def _bare(angle: Array, along: Array) -> Mask:
    return np.zeros(angle.shape, np.bool_)


def _striped(angle: Array, along: Array) -> Mask:
    return (along * 7.0) % 1.0 < 0.45


def _blocked(angle: Array, along: Array) -> Mask:
    return along < 0.46


def _printed(angle: Array, along: Array) -> Mask:
    return (angle / 0.7) ** 2 + ((along - 0.42) / 0.19) ** 2 < 1.0


def _open_in_front(angle: Array, along: Array) -> Mask:
    return np.abs(angle) < 0.18 + 0.28 * (1.0 - along)


PATTERN_MASKS: dict[Pattern, Callable[[Array, Array], Mask]] = {
    "plain": _bare,
    "stripes": _striped,
    "block": _blocked,
    "print": _printed,
    "jacket": _open_in_front,
}


def _torso_texture(look: Appearance, pose: Pose) -> Texture:
    """The upper garment around the body: its pattern, its neck and the strap of the bag."""
    pattern = PATTERN_MASKS[look.pattern]

    def neck(across: Array, along: Array) -> Mask:
        angle = np.abs(pose.around(across))
        return (angle < 0.6) & (along < 0.12 - 0.13 * angle)

    def strap(across: Array, along: Array) -> Mask:
        angle = pose.around(across)
        if look.bag == "backpack":
            return (np.abs(np.abs(angle) - 0.55) < 0.13) & (along < 0.62)
        return (look.bag == "shoulder") & (np.abs(0.45 * np.sin(angle) + 0.5 - along) < 0.045)

    garment = either(plain(look.upper), plain(look.upper_second), lambda u, v: pattern(pose.around(u), v))
    return either(either(garment, plain(look.skin), neck), plain(look.bag_colour), strap)


def _draw_torso(canvas: Canvas, look: Appearance, pose: Pose) -> None:
    """The upper garment, from the neck to its hem."""
    girth, flare = look.girth, 0.1 * (look.hem - 0.5)
    profile = [
        (0.155, 0.036, 0.040),
        (0.172, 0.080, 0.052),
        (0.192, 0.105 * girth**0.5, 0.060),
        (0.300, 0.098 * girth, 0.078 * girth),
        (0.400, 0.089 * girth, 0.072 * girth),
        (0.500, 0.099 * girth, 0.080 * girth),
        (look.hem, 0.101 * girth + flare, 0.082 * girth + flare),
    ]
    canvas.column(pose.levels(profile), _torso_texture(look, pose))


def _draw_lower(canvas: Canvas, look: Appearance, pose: Pose) -> None:
    """The hips, and the skirt where there is one."""
    girth = look.girth
    profile = [(0.46, 0.094, 0.076), (0.53, 0.100, 0.078), (0.555, 0.078, 0.060)]
    if look.lower_garment == "skirt":
        profile = [(0.46, 0.094, 0.076), (0.54, 0.108, 0.090), (0.715, 0.132, 0.128)]
    levels = pose.levels([(y, lateral * girth, deep * girth) for y, lateral, deep in profile])
    canvas.column(levels, plain(look.lower))


def _draw_leg(canvas: Canvas, look: Appearance, pose: Pose, *, side: float) -> None:
    """One leg with its shoe; `side` is 1 for the left and -1 for the right."""
    swing = pose.stride * side * math.sin(pose.phase)
    shin = swing - 0.06 - 1.3 * pose.stride * max(0.0, side * math.cos(pose.phase))
    knee = (side * 0.050, 0.50 + 0.225 * math.cos(swing), 0.225 * math.sin(swing))
    ankle = (side * 0.046, knee[1] + 0.215 * math.cos(shin), knee[2] + 0.215 * math.sin(shin))
    heel = (side * 0.046, ankle[1] + 0.024, ankle[2] - 0.008)
    toe = (side * 0.058, ankle[1] + 0.030 - 0.04 * math.sin(swing + shin), ankle[2] + 0.072)
    covered = {"trousers": 2.0, "shorts": 0.8, "skirt": 0.0}[look.lower_garment]
    cloth, skin = plain(look.lower), plain(look.skin)
    shin_texture = cloth if covered > 1.0 else skin
    loose, girth, scale = (0.008 if covered > 1.0 else 0.0), look.girth, pose.scale
    hip, knee_at, ankle_at = (
        pose.place(side * 0.048 * girth, 0.50, 0.0),
        pose.place(*knee),
        pose.place(*ankle),
    )
    canvas.tube((pose.place(*heel), pose.place(*toe)), (0.024 * scale, 0.018 * scale), plain(look.shoes))
    shin_radii = (0.032 * girth + loose) * scale, (0.021 * girth + loose) * scale
    canvas.tube((knee_at, ankle_at), shin_radii, shin_texture)
    thigh_radii = 0.052 * girth * scale, (0.034 * girth + 0.7 * loose) * scale
    canvas.tube((hip, knee_at), thigh_radii, either(cloth, skin, lambda u, v: v > covered))


def _sleeve_textures(look: Appearance) -> tuple[Texture, Texture]:
    """What the upper arm and the lower arm show."""
    sleeve = plain(look.upper_second if look.pattern == "block" else look.upper)
    if look.pattern == "stripes":
        sleeve = either(sleeve, plain(look.upper_second), lambda u, v: (v * 3.5) % 1.0 < 0.45)
    if look.sleeves == "long":
        return sleeve, sleeve
    skin = plain(look.skin)
    return either(sleeve, skin, lambda u, v: v > 0.7), skin


def _draw_arm(canvas: Canvas, look: Appearance, pose: Pose, *, side: float) -> None:
    """One arm with its hand, and the handbag where the left one carries it."""
    swing = -0.8 * pose.stride * side * math.sin(pose.phase)
    bent = swing + 0.15 + 0.6 * pose.stride
    girth, scale, loose = look.girth**0.5, pose.scale, 0.004 if look.sleeves == "long" else 0.0
    x = side * 0.093 * girth
    elbow = (x + side * 0.032 * girth, 0.200 + 0.155 * math.cos(swing), 0.155 * math.sin(swing))
    wrist = (elbow[0] + side * 0.004, elbow[1] + 0.130 * math.cos(bent), elbow[2] + 0.130 * math.sin(bent))
    fingers = pose.place(wrist[0], wrist[1] + 0.035 * math.cos(bent), wrist[2] + 0.035 * math.sin(bent))
    shoulder, elbow_at, wrist_at = pose.place(x, 0.205, 0.0), pose.place(*elbow), pose.place(*wrist)
    upper_arm, lower_arm = _sleeve_textures(look)
    middle = 0.026 * girth + loose
    canvas.tube((wrist_at, fingers), (0.017 * scale, 0.014 * scale), plain(look.skin))
    canvas.tube((elbow_at, wrist_at), (middle * scale, (0.018 * girth + loose) * scale), lower_arm)
    canvas.tube((shoulder, elbow_at), (0.034 * girth * scale, middle * scale), upper_arm)
    if look.bag == "handbag" and side > 0.0:
        half = pose.half_width(0.022, 0.065)
        bag = [(0.0, 0.5 * half), (0.035 * scale, half), (0.13 * scale, 0.94 * half)]
        canvas.column([(fingers[1] + y, fingers[0], width) for y, width in bag], plain(look.bag_colour))


def _head_texture(look: Appearance, pose: Pose) -> Texture:
    """Face, hair or cap; the hairline runs around the head, lowest behind."""
    front, temple, behind = {"bald": (-1.0, -1.0, -1.0), "cap": (0.34, 0.42, 0.46)}.get(
        look.hair_style, (0.26, 0.52, 0.90)
    )

    def covered(across: Array, along: Array) -> Mask:
        line = np.interp(np.abs(pose.around(across)), [0.75, 1.25, 1.8, math.pi], [front, temple, behind, behind])
        return np.asarray(along < line, np.bool_)

    def nape(across: Array, along: Array) -> Mask:
        return (np.abs(pose.around(across)) > 1.5) & (along < 0.88)

    def eyes(across: Array, along: Array) -> Mask:
        angle = np.abs(pose.around(across))
        return ((angle - 0.42) / 0.15) ** 2 + ((along - 0.50) / 0.042) ** 2 < 1.0

    def mouth(across: Array, along: Array) -> Mask:
        return (np.abs(pose.around(across)) < 0.30) & (np.abs(along - 0.79) < 0.020)

    red, green, blue = look.skin
    lips = (min(255, round(0.72 * red + 30)), round(0.62 * green), round(0.62 * blue))
    face = either(either(plain(look.skin), plain((40, 32, 32)), eyes), plain(lips), mouth)
    if look.hair_style == "cap":
        face = either(face, plain(look.hair), nape)
    return either(face, plain(look.bag_colour if look.hair_style == "cap" else look.hair), covered)


def _draw_head(canvas: Canvas, look: Appearance, pose: Pose) -> None:
    """Neck, nose and head, and the brim of a cap."""
    scale, skin = pose.scale, plain(look.skin)
    canvas.tube((pose.place(0.0, 0.11, 0.0), pose.place(0.0, 0.17, 0.0)), (0.026 * scale, 0.028 * scale), skin)
    if pose.depth(0.0, 1.0) > -0.2:
        canvas.tube((pose.place(0.0, 0.070, 0.066), pose.place(0.0, 0.088, 0.072)), (0.005 * scale,) * 2, skin)
    skull = [(0.138 * along, 0.052 * half, 0.058 * half) for along, half in SKULL]
    canvas.column(pose.levels(skull, z=0.012), _head_texture(look, pose))
    if look.hair_style == "cap" and pose.depth(0.0, 1.0) > -0.5:
        (x0, y0), (x1, y1) = pose.place(0.0, 0.044, 0.060), pose.place(0.0, 0.046, 0.100)
        half = pose.half_width(0.036, 0.006)
        low, high = (x0 - half, x1 + half) if x1 >= x0 else (x1 - half, x0 + half)
        canvas.tube(((low, y0), (high, y1)), (0.008 * scale,) * 2, plain(look.bag_colour))


def _draw_long_hair(canvas: Canvas, look: Appearance, pose: Pose) -> None:
    """What hair does behind the head: a bun, or a fall over the shoulders."""
    if look.hair_style == "bun":
        bun = pose.place(0.0, 0.026, -0.056)
        canvas.tube((bun, bun), (0.030 * pose.scale,) * 2, plain(look.hair))
    elif look.hair_style == "long":
        fall = [(0.02, 0.036, 0.020), (0.06, 0.058, 0.034), (0.16, 0.064, 0.032), (0.24, 0.056, 0.024)]
        fall.append((0.256, 0.030, 0.008))
        canvas.column(pose.levels(fall, z=-0.032), plain(look.hair))


def _draw_bag(canvas: Canvas, look: Appearance, pose: Pose) -> None:
    """A backpack on the back, or a bag on its strap at the left hip."""
    cloth = either(plain(look.bag_colour), plain((40, 40, 44)), lambda u, v: np.abs(v - 0.55) < 0.025)
    if look.bag == "backpack":
        pack = [(0.195, 0.050, 0.030), (0.215, 0.078, 0.048), (0.400, 0.088, 0.062), (0.430, 0.078, 0.055)]
        canvas.column(pose.levels(pack, z=-0.095), cloth)
    elif look.bag == "shoulder":
        x, y = pose.place(0.130 * look.girth, 0.47, 0.0)
        half = pose.half_width(0.028, 0.070)
        canvas.column([(y, x, 0.9 * half), (y + 0.09 * pose.scale, x, half)], cloth)


def draw_figure(canvas: Canvas, look: Appearance, pose: Pose) -> None:
    """A whole person with a shadow, from the farthest part to the nearest."""
    canvas.shadow(pose.place(0.0, 0.985, 0.0), 0.24 * pose.scale, 0.045 * pose.scale)
    behind = pose.depth(0.0, -0.1)
    bag_depth = behind if look.bag == "backpack" else pose.depth(0.13, 0.0) + 0.02
    parts: list[tuple[float, Callable[[Canvas, Appearance, Pose], None]]] = [
        (-5.0, _draw_lower),
        (0.0, _draw_torso),
        (1.0, _draw_head),
        (1.0 + behind if behind > 0.0 else -1.0, _draw_long_hair),
        (bag_depth, _draw_bag),
    ]
    for side in (-1.0, 1.0):
        swing = pose.stride * side * math.sin(pose.phase)
        parts.append((pose.depth(0.05 * side, 0.4 * swing) - 9.0, partial(_draw_leg, side=side)))
        parts.append((pose.depth(0.10 * side, -0.2 * swing) + 0.02, partial(_draw_arm, side=side)))
    for _, draw in sorted(parts, key=lambda part: part[0]):
        draw(canvas, look, pose)
