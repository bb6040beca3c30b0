"""What a recipe may say of augmentation, and what it may not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelscope_reid.errors import ConfigError
from modelscope_reid.training.augmentation_spec import NO_AUGMENTATION, Augmentation


def test_the_defaults_are_the_published_ones_and_nothing_is_nothing() -> None:
    published = Augmentation()
    assert (published.flip, published.pad, published.erase, published.erase_mode) == (0.5, 10, 0.5, "pixel")
    assert (NO_AUGMENTATION.flip, NO_AUGMENTATION.pad, NO_AUGMENTATION.erase) == (0.0, 0, 0.0)
    assert NO_AUGMENTATION.color_jitter == published.color_jitter == 0.0


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("flip", 1.5, "flip is 1.5; expected 0 to 1"),
        ("flip", "often", "flip is 'often'; expected a number"),
        ("pad", -1, "pad is -1; expected 0"),
        ("pad", 2.5, "pad is 2.5; expected a whole number"),
        ("erase", -0.1, "erase is -0.1; expected 0 to 1"),
        ("erase", float("nan"), "erase is nan; expected a number"),
        ("erase_mode", "rand", "erase_mode is 'rand'; expected"),
        ("erase_area", (0.0, 0.3), r"erase_area is \(0.0, 0.3\); expected \(least, greatest\)"),
        ("erase_area", (0.4, 0.3), r"erase_area is \(0.4, 0.3\); expected \(least, greatest\)"),
        ("erase_area", (0.1, 1.0), r"erase_area is \(0.1, 1.0\); expected \(least, greatest\)"),
        ("erase_area", (0.1,), r"erase_area is \(0.1,\); expected"),
        ("color_jitter", 1.2, "color_jitter is 1.2; expected 0 to 1"),
        ("interpolation", "nearest", "interpolation is 'nearest'; expected"),
    ],
)
def test_every_field_is_checked(field: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Augmentation(**{field: value})


@given(st.floats().filter(lambda value: not 0 <= value <= 1), st.sampled_from(["flip", "erase", "color_jitter"]))
def test_no_number_outside_0_to_1_is_a_share(value: float, field: str) -> None:
    with pytest.raises(ConfigError, match=f"{field} is "):
        Augmentation(**{field: value})  # type: ignore[arg-type]
