"""How training crops are to be changed at random, as a frozen dataclass that is valid when made.

In: keyword arguments. Out: an `Augmentation`; augmentation.py does what it says. Knows nothing of pixels, and loads no
torch, so that a command line can name the fields. The defaults are those of PASS-reID (Apache-2.0) and CLIP-ReID (MIT).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from modelscope_reid.config import Interpolation
from modelscope_reid.fields import check_fields, require, require_share

EraseMode = Literal["pixel", "constant"]


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How training crops are changed at random; the defaults are the published ones.

    Args:
        flip: Probability of the mirror image.
        pad: Black border, in pixels, that a crop may move into.
        erase: Probability that a rectangle is erased.
        erase_mode: pixel is standard normal noise after normalisation, constant the mean colour (zeros).
        erase_area: Least and greatest share of the crop that a rectangle covers.
        color_jitter: Strength s: brightness, contrast and saturation are each multiplied by a factor of 1 - s to 1 + s.
        interpolation: How training crops are resized.
    """

    flip: float = 0.5
    pad: int = 10
    erase: float = 0.5
    erase_mode: EraseMode = "pixel"
    erase_area: tuple[float, float] = (0.02, 1 / 3)
    color_jitter: float = 0.0
    interpolation: Interpolation = "bicubic"

    def __post_init__(self) -> None:
        """Raise `ConfigError` for a value of a wrong type or out of range."""
        check_fields(self)
        for name in ("flip", "erase", "color_jitter"):
            require_share(name, getattr(self, name))
        require(self.pad >= 0, f"pad is {self.pad}; expected 0 (none) or more pixels.")
        least, greatest = self.erase_area
        require(
            0.0 < least <= greatest < 1.0,
            f"erase_area is {self.erase_area}; expected (least, greatest), two shares of a crop between 0 and 1.",
        )


NO_AUGMENTATION = Augmentation(flip=0.0, pad=0, erase=0.0)
"""Crops as they are; resized with the published interpolation."""
