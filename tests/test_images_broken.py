"""Damaged, hostile and unreadable files: an `ImageError` or a whole image, never anything else."""

from __future__ import annotations

import io
import os
import socket
import struct
import time
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from modelscope_reid.errors import ImageError
from modelscope_reid.images import ImageLimits, load_image

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # what Pillow says of damaged tags
PATIENCE = 10.0  # seconds; far more than any refusal takes, far less than decoding a bomb or hanging


def chunk(name: bytes, body: bytes) -> bytes:
    """Return a PNG chunk."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, rows: bytes, extra: bytes = b"") -> bytes:
    """Return a PNG of 8-bit grey; `rows` are a filter byte 0 and `width` values each."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def bmp(width: int, height: int, body: bytes, *, bits: int = 24, compression: int = 0) -> bytes:
    """Return a BMP with a grey palette of 256 where it has 8 bits a pixel."""
    palette = b"".join(bytes([value, value, value, 0]) for value in range(256)) if bits == 8 else b""
    start = 54 + len(palette)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(body), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + info + palette + body


def tiff(width: int, height: int) -> bytes:
    """Return a TIFF header that claims a size, with 8 bytes of data."""
    tags = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 0), (279, 4, 8)]
    body = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + body + bytes(8)


def gif(width: int, height: int, frame: tuple[int, int] = (1, 1)) -> bytes:
    """Return a GIF with one frame of black pixels, as far as they go."""
    screen = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes([0, 0, 0, 255, 255, 255])
    return screen + b"," + struct.pack("<HHHHB", 0, 0, *frame, 0) + b"\x02\x02\x44\x01\x00;"


def webp(width: int, height: int) -> bytes:
    """Return the header of a lossless WebP that claims a size."""
    body = b"\x2f" + struct.pack("<I", (width - 1) | (height - 1) << 14) + bytes(16)
    return b"RIFF" + struct.pack("<I", len(body) + 13) + b"WEBPVP8L" + struct.pack("<I", len(body)) + body + b"\0"


def jpeg(width: int, height: int) -> bytes:
    """Return a real JPEG whose header claims another size."""
    content = encode("JPEG")
    place = content.index(b"\xff\xc0") + 5
    return content[:place] + struct.pack(">HH", height, width) + content[place + 4 :]


def encode(kind: str, **options: Any) -> bytes:
    """Return a file of 24 x 40 pixels, of which no two rows are alike."""
    values = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    values[::2] //= 4
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, kind, **options)
    return stream.getvalue()


FILES = {
    "jpeg": encode("JPEG"),
    "jpeg-progressive": encode("JPEG", progressive=True),
    "png": encode("PNG"),
    "webp": encode("WEBP"),
    "webp-lossless": encode("WEBP", lossless=True),
    "bmp": encode("BMP"),
    "bmp-rle": bmp(4, 3, bytes([4, 7, 0, 0, 4, 8, 0, 0, 0, 4, 1, 2, 3, 4, 0, 0, 0, 1]), bits=8, compression=1),
    "tiff": encode("TIFF"),
    "tiff-lzw": encode("TIFF", compression="tiff_lzw"),
    "tiff-jpeg": encode("TIFF", compression="jpeg"),
    "gif": encode("GIF"),
    "gif-frames": encode("GIF", save_all=True, append_images=[Image.new("RGB", (40, 24), (9, 9, 9))]),
    "png-frames": encode("PNG", save_all=True, append_images=[Image.new("RGB", (40, 24), (9, 9, 9))]),
}


def outcome(content: Any, **options: Any) -> np.ndarray | None:
    """Return the pixels, or None for an error that is fit to be shown."""
    try:
        image = load_image(content, **options)
    except ImageError as error:
        text = str(error)
        assert text.startswith("bytes (") and "\n" not in text and ": " in text
        return None
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_refused_or_whole(name: str) -> None:
    content = FILES[name]
    whole = outcome(content)
    assert whole is not None
    cuts = {len(content) * part // 16 for part in range(16)} | set(range(len(content) - 12, len(content)))
    refused = 0
    for cut in sorted(cuts):
        pixels = outcome(content[:cut])
        refused += pixels is None
        assert pixels is None or np.array_equal(pixels, whole), f"cut after {cut} bytes"
    assert refused >= (8 if name.endswith("frames") else 14)


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_flipped_bytes_give_an_image_or_an_image_error(name: str, data: st.DataObject) -> None:
    content = bytearray(FILES[name])
    places = st.integers(0, min(len(content), 200) - 1) | st.integers(0, len(content) - 1)
    for place, value in data.draw(st.dictionaries(places, st.integers(0, 255), min_size=1, max_size=6)).items():
        content[place] = value
    outcome(bytes(content), limits=ImageLimits(max_pixels=10**6))


@given(start=st.sampled_from([content[:12] for content in FILES.values()]), rest=st.binary(max_size=200))
@settings(deadline=None)
def test_noise_after_a_good_beginning_is_refused(start: bytes, rest: bytes) -> None:
    outcome(start + rest, limits=ImageLimits(max_pixels=10**6))


@pytest.mark.parametrize("name", FILES)
def test_a_wrong_header_is_refused_with_the_accepted_types(name: str) -> None:
    with pytest.raises(ImageError, match=r"no image of a known type .*JPEG, PNG, WEBP, BMP, TIFF or GIF"):
        load_image(b"\0" + FILES[name][1:])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"^bytes \(0 bytes\) is empty"),
        (b"\n <!doctype html><html>", "begins like an HTML or XML page"),
        (b"<svg xmlns='...'/>", "begins like an HTML or XML page"),
        (b"%PDF-1.7", "begins with the bytes 25 50 44 46 2d 31 2e 37"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no image of a known type"),
        (b"8BPS\0\x01", "no image of a known type"),
        (b"\xff", "begins with the bytes ff"),
    ],
)
def test_other_types_are_named(content: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        load_image(content)


@pytest.mark.parametrize(
    "content",
    [
        png(100_000, 100_000, b""),
        bmp(100_000, 100_000, b""),
        bmp(100_000, -100_000, b""),
        tiff(100_000, 100_000),
        gif(65535, 65535),
        gif(1, 1, frame=(65535, 65535)),
        webp(16383, 16383),
        jpeg(65500, 65500),
        png(95_000, 1100, b""),  # 104.5 million: above our limit, below the one at which Pillow refuses
    ],
    ids=["png", "bmp", "bmp-top-down", "tiff", "gif-screen", "gif-frame", "webp", "jpeg", "png-104"],
)
@pytest.mark.parametrize("action", ["error", "always"])
def test_too_many_pixels_are_refused_before_decoding(content: bytes, action: Any) -> None:
    started = time.monotonic()
    tracemalloc.start()
    try:
        with warnings.catch_warnings(record=action == "always") as caught:
            warnings.simplefilter(action)
            with pytest.raises(ImageError, match=r"pixels, more than 1?\d+,\d+,\d+: pass|too large to decode"):
                load_image(content)
        assert not caught
        assert tracemalloc.get_traced_memory()[1] < 10**7
    finally:
        tracemalloc.stop()
    assert time.monotonic() - started < PATIENCE


def test_the_pixel_limit_counts_to_the_pixel() -> None:
    content = png(5, 4, bytes(6 * 4))
    for source in (content, np.zeros((4, 5), np.uint8), Image.new("L", (5, 4))):
        assert load_image(source, limits=ImageLimits(max_pixels=20)).size == (5, 4)
        with pytest.raises(ImageError, match=r"has 5 x 4 pixels, more than 19: .*raise ImageLimits.max_pixels"):
            load_image(source, limits=ImageLimits(max_pixels=19))


def test_pillows_own_limit_does_not_warn_below_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)  # the files have 960 pixels
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("jpeg", "png", "bmp"):
            assert outcome(FILES[name]) is not None, name
        for name in ("tiff", "gif", "webp"):
            with pytest.raises(ImageError, match=r"more than 700: .*raise PIL\.Image\.MAX_IMAGE_PIXELS"):
                load_image(FILES[name])
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
        assert all(outcome(FILES[name]) is not None for name in ("tiff", "gif", "webp"))


@pytest.mark.parametrize("name", [b"zTXt", b"iTXt", b"iCCP"])
def test_a_bomb_in_a_text_chunk_is_refused(name: bytes) -> None:
    start = {b"zTXt": b"k\0\0", b"iTXt": b"k\0\x01\0\0\0", b"iCCP": b"k\0\0"}[name]
    bomb = chunk(name, start + zlib.compress(bytes(50_000_000), 9))
    after = png(1, 1, bytes(2)).replace(chunk(b"IEND", b""), bomb + chunk(b"IEND", b""))
    for content in (png(1, 1, bytes(2), extra=bomb), after):
        assert len(content) < 60_000
        tracemalloc.start()
        try:
            with pytest.raises(ImageError, match=r"damaged PNG file .*too large"):
                load_image(content)
            assert tracemalloc.get_traced_memory()[1] < 10**7
        finally:
            tracemalloc.stop()


def test_image_data_beyond_the_header_is_not_inflated() -> None:
    started = time.monotonic()
    pixels = outcome(png(2, 1, bytes([0, 7, 8]) + bytes(50_000_000)))
    assert pixels is not None
    assert pixels[:, :, 0].tolist() == [[7, 8]]
    assert time.monotonic() - started < PATIENCE


@pytest.mark.parametrize("as_path", [str, Path])
def test_what_is_not_a_regular_file_is_refused_at_once(tmp_path: Path, as_path: Callable[[Path], Any]) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "empty").touch()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        cases = {
            tmp_path / "missing": "does not exist: check the path",
            tmp_path: "is a directory: pass the path of one image",
            tmp_path / "empty" / "a.jpg": "no readable file",
            tmp_path / "empty": "is empty",
            tmp_path / "fifo": "is a pipe, socket or device",
            tmp_path / "socket": "is a pipe, socket or device",
            Path("/dev/zero"): "is a pipe, socket or device",
            tmp_path / ("x" * 300): "no readable file",
        }
        for path, message in cases.items():
            with pytest.raises(ImageError, match=message) as caught:
                load_image(as_path(path))
            assert str(caught.value).startswith(str(tmp_path)[:20] if path != Path("/dev/zero") else "/dev/zero")


@pytest.mark.parametrize("path", ["", "a\0b.jpg", "\udcff\ud800.jpg", "A" * 5000, "s3://bucket/a.jpg", "ftp://h/a"])
def test_a_string_that_is_no_path_is_refused(path: str) -> None:
    expected = "names no file|no readable file|no address that can be read"
    with pytest.raises(ImageError, match=expected) as caught:
        load_image(path)
    assert len(str(caught.value)) < 500
    assert str(caught.value).isprintable()


def test_no_permission_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    path = tmp_path / "a.png"
    path.write_bytes(FILES["png"])
    monkeypatch.setattr(Path, "open", refuse)  # chmod does not stop root, as which tests may run
    with pytest.raises(ImageError, match="may not be read: get the permission"):
        load_image(path)


def test_too_many_bytes_are_refused_to_the_byte(tmp_path: Path) -> None:
    content = FILES["png"]
    path = tmp_path / "a.png"
    path.write_bytes(content)
    sources = [lambda: content, lambda: path, lambda: io.BytesIO(content), lambda: bytearray(content)]
    for source in sources:
        assert load_image(source(), limits=ImageLimits(max_bytes=len(content))).size == (40, 24)
        with pytest.raises(ImageError, match=f"larger than {len(content) - 1:,} bytes: .*ImageLimits.max_bytes"):
            load_image(source(), limits=ImageLimits(max_bytes=len(content) - 1))
    with Path("/dev/zero").open("rb") as endless, pytest.raises(ImageError, match="larger than 5,000,000 bytes"):
        load_image(endless, limits=ImageLimits(max_bytes=5_000_000))


def test_a_file_object_that_gives_no_bytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(FILES["png"])
    closed = path.open("rb")
    closed.close()
    with path.open("w") as written, path.open(encoding="latin-1") as text:
        for stream, message in (
            (closed, "cannot be read .*closed"),
            (text, "gave str instead of bytes: open it in binary mode"),
            (written, "cannot be read"),
            (io.StringIO("x"), "gave str instead of bytes"),
        ):
            with pytest.raises(ImageError, match=message) as caught:
                load_image(stream)
            assert str(caught.value).startswith("file object ")


def test_a_closed_or_damaged_pil_image_is_an_image_error() -> None:
    closed = Image.open(io.BytesIO(FILES["png"]))
    closed.close()
    for image in (closed, Image.open(io.BytesIO(FILES["jpeg"][:-100]))):
        with pytest.raises(ImageError, match="PIL image 40x24 RGB is closed or damaged"):
            load_image(image)


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage, not a TIFF header", b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12", b"x"]
)
def test_unreadable_exif_does_not_cost_the_image(exif: bytes) -> None:
    expected = outcome(FILES["jpeg"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert np.array_equal(outcome(encode("JPEG", exif=exif)), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        outcome(encode("JPEG", exif=exif))  # an image or an ImageError, never the warning


def test_no_warning_leaks_where_warnings_are_errors() -> None:
    palette = Image.new("P", (3, 2))
    palette.putpalette([1, 2, 3, 4, 5, 6])
    stream = io.BytesIO()
    palette.save(stream, "PNG", transparency=bytes([9, 200]))
    animated = FILES["png-frames"]
    place = animated.index(b"acTL") + 4
    no_frames = chunk(b"acTL", bytes(4) + animated[place + 4 : place + 8])
    invalid = animated[: place - 8] + no_frames + animated[place + 12 :]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert outcome(stream.getvalue()) is not None
        assert outcome(invalid) is None  # Pillow warns of this one
        for content in FILES.values():
            assert outcome(content) is not None


def test_a_program_that_accepts_truncated_files_gets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    assert outcome(FILES["jpeg"][:-100]) is not None
