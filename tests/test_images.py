"""Every kind of source against pixels worked out by hand, or against Pillow's own conversion."""

from __future__ import annotations

import asyncio
import base64
import io
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from modelscope_reid.errors import ImageError, InputError
from modelscope_reid.images import (
    DEFAULT_LIMITS,
    ImageLimits,
    describe_source,
    is_single_image,
    load_image,
)

LOSSLESS = {"PNG": {}, "BMP": {}, "TIFF": {}, "WEBP": {"lossless": True}}
# 2 rows of 3 pixels, all different, so that any turn, flip or channel swap shows.
COLOURS = np.array([[[250, 1, 2], [3, 240, 4], [5, 6, 230]], [[10, 20, 30], [200, 100, 50], [255, 255, 0]]], np.uint8)
# Row 0 and column 0 of the upright picture, as EXIF defines the values of Orientation: what the stored
# array must be for the upright one to be [[1, 2, 3], [4, 5, 6]].
UPRIGHT = np.array([[1, 2, 3], [4, 5, 6]], np.uint8) * 40
STORED = {
    1: [[1, 2, 3], [4, 5, 6]],
    2: [[3, 2, 1], [6, 5, 4]],  # mirrored
    3: [[6, 5, 4], [3, 2, 1]],  # upside down
    4: [[4, 5, 6], [1, 2, 3]],
    5: [[1, 4], [2, 5], [3, 6]],
    6: [[3, 6], [2, 5], [1, 4]],  # the first stored row is the right-hand column
    7: [[6, 3], [5, 2], [4, 1]],
    8: [[4, 1], [5, 2], [6, 3]],  # the first stored row is the left-hand column, bottom to top
}


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Return the bytes of a file."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def pixels(source: Any, **options: Any) -> np.ndarray:
    """Load an image and return its values after checking what holds for every result."""
    image = load_image(source, **options)
    assert type(image) is Image.Image
    assert image.mode == "RGB"
    assert image.info == {}
    return np.asarray(image)


def with_orientation(values: np.ndarray, orientation: int, kind: str) -> bytes:
    """Return a grey file that says how it is to be turned."""
    exif = Image.Exif()
    exif[274] = orientation
    return encode(Image.fromarray(values), kind, exif=exif, **LOSSLESS.get(kind, {}))


def ways_to_pass(content: bytes, folder: Path) -> Iterator[Any]:
    """Give the same file as every kind of source that is not yet decoded."""
    path = folder / "图像 a%20b.png"
    path.write_bytes(content)
    shifted = io.BytesIO(b"other" + content)
    shifted.seek(5)
    yield from (path, str(path), path.as_uri(), content, bytearray(content), memoryview(content))
    yield from (io.BytesIO(content), shifted)
    yield f"data:image/png;base64,{base64.b64encode(content).decode()}"


def test_every_kind_of_source_gives_the_same_pixels(tmp_path: Path) -> None:
    for source in ways_to_pass(encode(Image.fromarray(COLOURS), "PNG"), tmp_path):
        assert np.array_equal(pixels(source), COLOURS), describe_source(source)
    with (tmp_path / "图像 a%20b.png").open("rb") as stream:
        assert np.array_equal(pixels(stream), COLOURS)
        assert not stream.closed
    assert np.array_equal(pixels(Image.fromarray(COLOURS)), COLOURS)
    assert np.array_equal(pixels(COLOURS), COLOURS)
    assert np.array_equal(pixels(torch.from_numpy(COLOURS).permute(2, 0, 1)), COLOURS)


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_formats_keep_every_pixel(kind: str) -> None:
    assert np.array_equal(pixels(encode(Image.fromarray(COLOURS), kind, **LOSSLESS[kind])), COLOURS)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_deflate", "packbits", "raw"])
def test_tiff_compressions_keep_every_pixel(compression: str) -> None:
    assert np.array_equal(pixels(encode(Image.fromarray(COLOURS), "TIFF", compression=compression)), COLOURS)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 30}])
def test_jpeg_is_what_pillow_decodes(mode: str, options: dict[str, Any]) -> None:
    values = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    content = encode(Image.fromarray(values).convert(mode), "JPEG", **options)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB")
    assert np.array_equal(pixels(content), np.asarray(expected))


def test_a_phone_picture_with_a_second_one_gives_the_first() -> None:
    first = Image.new("RGB", (16, 8), (200, 30, 60))
    content = encode(first, "MPO", save_all=True, append_images=[Image.new("RGB", (16, 8), (0, 0, 255))])
    assert Image.open(io.BytesIO(content)).format == "MPO"
    assert np.array_equal(pixels(content), pixels(encode(first, "JPEG")))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF", "WEBP"])
def test_of_several_frames_the_first_is_taken(kind: str) -> None:
    first, second = (Image.new("RGB", (4, 3), colour) for colour in ((10, 200, 30), (90, 90, 90)))
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encode(first, kind, save_all=True, append_images=[second], **options)
    assert np.array_equal(pixels(content), np.asarray(first))


@pytest.mark.parametrize(
    ("kind", "mode"),
    [(kind, mode) for kind in ("PNG", "TIFF") for mode in ("1", "L", "LA", "P", "RGBA")]
    + [("GIF", mode) for mode in ("1", "L", "P")],  # GIF stores a palette, no LA or RGBA
)
def test_eight_bit_modes_are_what_pillow_converts(kind: str, mode: str) -> None:
    image = Image.fromarray(COLOURS).convert(mode)
    expected = np.asarray(Image.open(io.BytesIO(encode(image, kind))).convert("RGB"))
    assert np.array_equal(pixels(encode(image, kind)), expected)
    assert np.array_equal(pixels(image), np.asarray(image.convert("RGB")))


def test_alpha_is_ignored_everywhere() -> None:
    alpha = np.array([[0, 1, 128], [255, 254, 0]], np.uint8)[:, :, None]
    values = np.concatenate([COLOURS, alpha], axis=2)
    for kind in LOSSLESS:
        content = encode(Image.fromarray(values), kind, **LOSSLESS[kind], **({"exact": True} if kind == "WEBP" else {}))
        assert np.array_equal(pixels(content), COLOURS), kind
    assert np.array_equal(pixels(values), COLOURS)
    assert np.array_equal(pixels(Image.fromarray(values)), COLOURS)
    assert np.array_equal(pixels(torch.from_numpy(values).permute(2, 0, 1)), COLOURS)
    unseen = values / np.float32(255)
    unseen[0, 0, 3] = np.nan
    assert np.array_equal(pixels(unseen), COLOURS)


@pytest.mark.parametrize("transparency", [1, bytes([255, 0, 128])])
@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_transparent_palette_gives_its_colours(kind: str, transparency: int | bytes) -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "L").convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    if kind == "GIF" and isinstance(transparency, bytes):
        transparency = 2
    content = encode(image, kind, transparency=transparency)
    assert pixels(content).tolist() == [[[10, 20, 30], [40, 50, 60], [70, 80, 90]]]
    lazy = Image.open(io.BytesIO(content))
    assert pixels(lazy).tolist() == [[[10, 20, 30], [40, 50, 60], [70, 80, 90]]]
    assert "transparency" in lazy.info  # the caller's image is left as it was


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_clipped(kind: str) -> None:
    values = np.array([[0, 128, 129], [257, 32767, 65535]], np.uint16)
    expected = [[0, 0, 1], [1, 127, 255]]  # 128 / 257 = 0.498, 129 / 257 = 0.502, 32767 / 257 = 127.498
    for source in (encode(Image.fromarray(values), kind), Image.fromarray(values), values, values.astype(">u2")):
        assert pixels(source)[:, :, 0].tolist() == expected
        assert pixels(source)[:, :, 2].tolist() == expected
    assert pixels(Image.fromarray(values.astype(np.int32))).tolist() == pixels(values).tolist()


def test_wide_modes_out_of_range_are_refused() -> None:
    assert pixels(Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32)))[0, :, 1].tolist() == [0, 128, 255]
    with pytest.raises(ImageError, match="from 0 to 2, not 0 to 1: divide by 255"):
        load_image(Image.fromarray(np.array([[0.0, 2.0]], np.float32)))
    for worst in (-1, 65536):
        with pytest.raises(ImageError, match=r"32-bit values from .*: scale them to 0\.\.65535"):
            load_image(Image.fromarray(np.array([[0, worst]], np.int32)))


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_orientation_is_applied_to_files_and_pil_images(kind: str, orientation: int) -> None:
    stored = np.array(STORED[orientation], np.uint8) * 40
    if kind == "JPEG":  # blocks of 8 x 8 pixels survive the compression
        stored = np.kron(stored, np.ones((8, 8), np.uint8))
    content = with_orientation(stored, orientation, kind)
    lazy = Image.open(io.BytesIO(content))
    for source in (content, lazy):
        turned = pixels(source)
        turned = turned[::8, ::8] if kind == "JPEG" else turned
        assert np.abs(turned[:, :, 0].astype(int) - UPRIGHT).max() <= (2 if kind == "JPEG" else 0)
    assert np.array_equal(pixels(load_image(content)), pixels(content))  # not turned a second time


def test_orientation_is_applied_to_sixteen_bits() -> None:
    stored = np.array(STORED[6], np.uint16) * 40 * 257
    assert np.array_equal(pixels(with_orientation(stored, 6, "PNG"))[:, :, 0], UPRIGHT)


def test_the_result_shares_no_memory_with_the_source() -> None:
    values = COLOURS.copy()
    results = [load_image(values), load_image(values[:, :, 0])]
    values[:] = 0
    assert all(np.asarray(result).any() for result in results)
    original = Image.fromarray(COLOURS)
    load_image(original).putpixel((0, 0), (0, 0, 0))
    assert original.getpixel((0, 0)) == (250, 1, 2)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((2, 2), np.int64), r"int64 values: .*array\.astype\(numpy\.uint8\)\)"),
        (np.zeros((2, 2), bool), r"bool values: .*array\.astype\(numpy\.uint8\) \* 255\)"),
        (np.zeros((2, 2), object), "object values: pass uint8"),
        (np.zeros((2, 2), np.complex64), "complex64 values: pass uint8"),
        (np.full((2, 2), np.nan), "NaN or infinite"),
        (np.array([[0.5, np.inf]]), "NaN or infinite"),
        (np.array([[0.0, 255.0]]), "from 0 to 255, not 0 to 1: divide by 255 or pass uint8"),
        (np.array([[-0.1, 1.0]]), "from -0.1 to 1, not 0 to 1"),
        (np.zeros((3, 8, 6), np.uint8), r"looks like channels first: pass array\.transpose\(1, 2, 0\)"),
        (np.zeros((8, 6, 2), np.uint8), r"ndarray \(8, 6, 2\) uint8 has no image shape"),
        (np.zeros((2, 8, 6, 3), np.uint8), "pass the images one at a time"),
        (np.zeros(5, np.uint8), "no image shape"),
        (np.zeros((0, 4, 3), np.uint8), r"no pixels \(width 4, height 0\)"),
        (Image.new("RGB", (0, 3)), r"no pixels \(width 0, height 3\)"),
        (torch.zeros(8, 6, 3), r"looks like channels last: pass tensor\.permute\(2, 0, 1\)"),
        (torch.zeros(2, 3, 8, 6), "pass the images one at a time"),
        (torch.zeros(2, 8, 6), "no image shape"),
        (torch.zeros(3, 0, 6), "no pixels"),
        (torch.full((1, 2, 2), float("nan")), "NaN or infinite"),
        (torch.zeros(2, 2, dtype=torch.int64), "int64 values"),
        (torch.zeros(2, 2, device="meta"), "cannot become an array"),
        (torch.zeros(2, 2).to_sparse(), "cannot become an array"),
        (None, "a value of type NoneType is no image: pass a path, a URL"),
        (7, "a value of type int is no image"),
        ([COLOURS], r"type list is no image: .*one image at a time"),
        ({}, r"type dict is no image: .*one image at a time"),
    ],
)
def test_what_is_no_image_is_named_with_what_to_do(source: object, message: str) -> None:
    with pytest.raises(ImageError, match=message) as caught:
        load_image(source)
    assert str(caught.value).startswith(describe_source(source))
    assert "\n" not in str(caught.value)


def test_sources_are_described_shortly() -> None:
    assert describe_source("a/b.jpg") == "a/b.jpg"
    assert describe_source(Path("a") / "b\n.jpg") == "a/b\\n.jpg"
    assert describe_source("https://me:pw@host/a.jpg?key=1") == "https://host/a.jpg"
    assert describe_source("data:,abc") == "data URI (9 characters)"
    assert describe_source(b"x" * 1234) == "bytes (1234 bytes)"
    assert describe_source(np.zeros((480, 640, 3), np.uint8)) == "ndarray (480, 640, 3) uint8"
    assert describe_source(torch.zeros(3, 4, 5).half()) == "tensor (3, 4, 5) float16"
    assert describe_source(Image.new("L", (64, 128))) == "PIL image 64x128 L"
    assert describe_source(io.BytesIO()) == "file object BytesIO"
    assert describe_source(None) == "a value of type NoneType"
    assert len(describe_source("x" * 10_000)) < 200


def test_one_image_is_told_from_several() -> None:
    with tempfile.TemporaryFile() as stream:
        single = ["a.jpg", Path("a"), b"x", bytearray(b"x"), memoryview(b"x"), stream, Image.new("L", (1, 1))]
        single += [np.zeros((2, 2)), np.zeros((2, 2, 3)), torch.zeros(2, 2), torch.zeros(3, 2, 2)]
        assert [describe_source(source) for source in single if not is_single_image(source)] == []
    several = [[], (), iter([]), {}, None, np.zeros((1, 2, 2, 3)), np.array(["a"]), torch.zeros(1, 3, 2, 2)]
    assert [describe_source(source) for source in several if is_single_image(source)] == []


@pytest.mark.parametrize("name", ["max_pixels", "max_bytes", "timeout_seconds", "max_redirects"])
@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan"), None, "9"])
def test_limits_are_validated(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"ImageLimits.{name} is .*: give a positive int|float"):
        ImageLimits(**{name: value})
    stated = ImageLimits(max_pixels=10**8, max_bytes=2**26, timeout_seconds=10, max_redirects=5)
    assert stated == DEFAULT_LIMITS


def test_it_works_inside_a_running_event_loop_and_in_threads() -> None:
    content = encode(Image.fromarray(COLOURS), "PNG")

    async def notebook_cell() -> np.ndarray:
        return pixels(content)

    assert np.array_equal(asyncio.run(notebook_cell()), COLOURS)
    values = np.random.default_rng(1).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    files = [encode(Image.fromarray(values), kind) for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")]
    expected = [pixels(content).tobytes() for content in files]
    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda index: pixels(files[index % 6]).tobytes(), range(96)))
    assert results == expected * 16


def test_importing_the_module_loads_no_torch() -> None:
    code = "import sys, modelscope_reid.images; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
