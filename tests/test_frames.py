"""The box on a frame: taken from a browser only as four numbers, cut out as drawn. Drawing it: test_page.py."""

from __future__ import annotations

import math
from typing import Any

import pytest
from PIL import Image

from modelscope_reid.app.frames import BOX_SCRIPT, box_of, cut, frame_card
from modelscope_reid.errors import InputError


def test_a_box_is_cut_out_in_parts_of_the_frame() -> None:
    frame = Image.new("RGB", (200, 100))
    frame.paste((255, 0, 0), (50, 25, 100, 75))
    crop = cut(frame, (0.25, 0.25, 0.5, 0.75))
    assert crop.size == (50, 50) and crop.getcolors() == [(2500, (255, 0, 0))]
    assert cut(frame, None) is frame


@pytest.mark.parametrize(
    "value",
    [
        None,
        "0,0,1,1",
        {"path": "/etc/passwd"},
        [0.1, 0.2, 0.3],
        [0.1, 0.2, 0.3, "1"],
        [0.1, 0.2, 0.3, math.nan],
        [0.1, 0.2, math.inf, 0.5],
        [0.5, 0.2, 0.5, 0.9],
        [0.5, 0.9, 0.6, 0.2],
        [1.5, 0.0, 2.0, 1.0],
    ],
)
def test_what_is_no_box_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match="draw it again"):
        box_of(value)


def test_a_box_is_kept_inside_the_frame() -> None:
    assert box_of([-0.5, 0, 0.5, 7]) == (0.0, 0.0, 0.5, 1.0)


def test_a_frame_shows_its_box() -> None:
    frame = Image.new("RGB", (200, 100))
    assert " hidden" in frame_card(frame) and "click two corners" in frame_card(frame)
    card = frame_card(frame, (0.25, 0.1, 0.5, 0.9))
    assert "left:25.00%;top:10.00%;width:25.00%;height:80.00%" in card and " hidden" not in card
    assert "eval" not in BOX_SCRIPT and "innerHTML" not in BOX_SCRIPT
