"""Arrays and tensors against a pixel by pixel twin, and boxes against crops worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from modelscope_reid.errors import InputError
from modelscope_reid.images import crop_boxes, load_image

COLOURS = np.array([[[250, 1, 2], [3, 240, 4], [5, 6, 230]], [[10, 20, 30], [200, 100, 50], [255, 255, 0]]], np.uint8)


def pixels(source: Any, **options: Any) -> np.ndarray:
    """Load an image and return its values."""
    return np.asarray(load_image(source, **options))


def arrays() -> st.SearchStrategy[np.ndarray]:
    """Draw an image array of any accepted type and shape."""
    # Floats of 16 bits times 255 are exact in 32 bits, so that every type has one right answer.
    floats = [(dtype, st.floats(0, 1, width=16)) for dtype in (np.float16, np.float32, np.float64)]
    whole = [(np.uint8, None), (np.uint16, None)]
    side = st.integers(1, 5)
    shapes = st.tuples(side, side) | st.tuples(side, side, st.sampled_from([1, 3, 4]))
    return st.one_of(
        hnp.arrays(dtype, shapes, elements=elements, fill=st.nothing()) for dtype, elements in floats + whole
    )


@given(values=arrays(), bgr=st.booleans())
def test_arrays_and_tensors_agree_with_a_pixel_by_pixel_twin(values: np.ndarray, bgr: bool) -> None:
    height, width = values.shape[:2]
    planes = values.reshape(height, width, -1)
    expected = np.zeros((height, width, 3), int)
    swapped = bgr and planes.shape[2] > 1
    for row in range(height):
        for column in range(width):
            for channel in range(3):
                source = 0 if planes.shape[2] == 1 else (2 - channel if swapped else channel)
                value = planes[row, column, source].item()
                scale = {"u1": 1, "u2": 1 / 257}.get(values.dtype.str[1:], 255)
                expected[row, column, channel] = round(value * scale)
    result = pixels(values, channel_order="bgr" if bgr else "rgb")
    assert np.array_equal(result, expected)
    if not bgr:
        tensor = torch.from_numpy(values if values.ndim == 2 else np.moveaxis(values, 2, 0).copy())
        assert np.array_equal(pixels(tensor), result)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_every_byte_survives_the_way_through_floats(dtype: type) -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(pixels((ramp / 255).astype(dtype))[:, :, 0], ramp)


def test_tensors_of_every_kind() -> None:
    ramp = torch.tensor([[0.0, 0.25, 1.0]])
    expected = [0, 64, 255]  # 0.25 * 255 = 63.75
    tracked = ramp.clone().requires_grad_()
    for tensor in (ramp, ramp[None], ramp.expand(3, 1, 3), ramp.bfloat16(), ramp.half(), tracked, ramp.double()):
        assert pixels(tensor)[0, :, 0].tolist() == expected
    assert pixels(torch.nn.Parameter(ramp))[0, :, 0].tolist() == expected
    assert pixels(ramp.flip(1))[0, :, 0].tolist() == expected[::-1]
    red = torch.tensor([255, 0, 0], dtype=torch.uint8).view(3, 1, 1)
    assert pixels(red, channel_order="bgr").tolist() == [[[255, 0, 0]]]  # tensors are RGB, whatever arrays are


def test_channel_order_is_for_colour_arrays_only() -> None:
    assert np.array_equal(pixels(COLOURS[:, :, ::-1], channel_order="bgr"), COLOURS)
    assert np.array_equal(pixels(Image.fromarray(COLOURS), channel_order="bgr"), COLOURS)
    assert np.array_equal(pixels(COLOURS[:, :, 0], channel_order="bgr")[:, :, 2], COLOURS[:, :, 0])
    with pytest.raises(InputError, match="channel_order is 'RGB': give"):
        load_image(COLOURS, channel_order="RGB")  # type: ignore[arg-type]


FRAME = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6)).convert("RGB")  # 4 rows of 6 pixels


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ([0, 0, 6, 4], np.arange(24).reshape(4, 6)),
        ([1, 2, 3, 3], [[13, 14]]),
        ([1.9, 2.9, 2.1, 3.1], [[13, 14], [19, 20]]),  # outward: columns 1 to 3, rows 2 to 4
        ([-5, -5, 1, 1], [[0]]),
        ([5, 3, 1e300, 99], [[23]]),
        ([5.5, 3.5, 5.6, 3.6], [[23]]),
    ],
)
def test_boxes_are_cut_out_rounded_outward(box: list[float], expected: Any) -> None:
    for boxes in ([box], np.array([box]), torch.tensor([box], dtype=torch.float64)):
        (crop,) = crop_boxes(FRAME, boxes)
        assert np.asarray(crop)[:, :, 0].tolist() == np.asarray(expected).tolist()


def test_crops_come_in_the_order_of_the_boxes() -> None:
    crops = crop_boxes(FRAME, torch.tensor([[0, 0, 1, 1], [1, 1, 2, 2]]))
    assert [crop.getpixel((0, 0)) for crop in crops] == [(0, 0, 0), (7, 7, 7)]
    assert crop_boxes(FRAME, []) == crop_boxes(FRAME, np.zeros((0, 4))) == []


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([[0, 0, 1, 1], [0, 0, np.nan, 1]], "box 1 is 0, 0, nan, 1: give four finite"),
        ([[0, 0, np.inf, 1]], "box 0 is .* finite"),
        ([[2, 0, 2, 1]], "box 0 is 2, 0, 2, 1: give .*x2 larger than x1"),
        ([[0, 3, 1, 2]], "box 0 is .*y2 larger than y1"),
        ([[6, 0, 9, 1]], "box 0 is 6, 0, 9, 1, outside the frame of 6 x 4 pixels"),
        ([[-3, -3, -0.5, -0.5]], "outside the frame"),
        ([0, 0, 1, 1], r"shape \(4,\)"),
        (np.zeros((0, 5)), r"shape \(0, 5\)"),
        ([[0, 0, 1]], r"shape \(1, 3\)"),
        ([[0, 0, 1], [0, 0, 1, 1]], "no table of numbers"),
        ("boxes", "no table of numbers"),
        (torch.zeros(1, 4, device="meta"), "no table of numbers"),
    ],
)
def test_a_bad_box_is_named(boxes: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        crop_boxes(FRAME, boxes)
    with pytest.raises(InputError, match=r"crop_boxes was given ndarray .*: pass load_image\(frame\)"):
        crop_boxes(COLOURS, [[0, 0, 1, 1]])  # type: ignore[arg-type]
