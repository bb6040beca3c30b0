"""Bytes of strangers: decoded as everywhere, and refused in a sentence that calls them by their name."""

from __future__ import annotations

import io
import time

import numpy as np
import pytest
from http_server import serve
from PIL import Image
from serving import CROPS, huge_png

from modelscope_reid.app.uploads import UploadLimits, explained, read_upload
from modelscope_reid.errors import ImageError, InputError, TooLargeError
from modelscope_reid.images import load_image

LIMITS = UploadLimits()


def test_an_upload_is_the_image_that_load_image_gives() -> None:
    for crop in CROPS[:2]:
        found = read_upload(crop.read_bytes(), name=crop.name, limits=LIMITS)
        assert found.mode == "RGB" and np.array_equal(np.asarray(found), np.asarray(load_image(crop)))


@pytest.mark.parametrize(
    "content", [b"/etc/passwd", b"", b"\x89PNG\r\n\x1a\n", b"file:///etc/passwd", b"data:image/png,"]
)
def test_what_is_no_image_is_called_by_its_name(content: bytes) -> None:
    with pytest.raises(ImageError, match=r"^image 3 \(a\.png\) ") as caught:
        read_upload(content, name="image 3 (a.png)", limits=LIMITS)
    assert not isinstance(caught.value, TooLargeError) and "root:" not in str(caught.value)


def test_no_address_is_followed_and_no_path_opened(tmp_path: object) -> None:
    with serve(CROPS[0].read_bytes()) as server:
        with pytest.raises(ImageError, match="no image of a known type"):
            read_upload(server.url("/good").encode(), name="a", limits=LIMITS)
        assert not server.requests
    with pytest.raises(ImageError, match="no image of a known type"):
        read_upload(str(CROPS[0]).encode(), name="a", limits=LIMITS)


def test_names_are_cleaned() -> None:
    with pytest.raises(ImageError) as caught:
        read_upload(b"x", name="a\nb" + 300 * "c", limits=LIMITS)
    assert str(caught.value).startswith("a\\nbccc") and "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_too_many_bytes() -> None:
    content = CROPS[0].read_bytes()
    with pytest.raises(TooLargeError, match=rf"^a has {len(content):,} bytes, more than 1,000; send a smaller file\.$"):
        read_upload(content, name="a", limits=UploadLimits(max_bytes=1000))


def test_too_many_pixels_are_refused_before_they_are_decoded() -> None:
    content = huge_png()
    assert len(content) < 300_000
    start = time.perf_counter()
    with pytest.raises(TooLargeError, match=r"^a has more than 40,000,000 pixels; send a smaller image\.$"):
        read_upload(content, name="a", limits=LIMITS)
    assert time.perf_counter() - start < 0.2  # decoding it takes seconds


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "BMP"])
def test_every_kind_has_its_pixels_counted(kind: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (50, 30)).save(file, kind)
    with pytest.raises(TooLargeError, match="more than 1,499 pixels"):
        read_upload(file.getvalue(), name="a", limits=UploadLimits(max_pixels=1499))
    assert read_upload(file.getvalue(), name="a", limits=UploadLimits(max_pixels=1500)).size == (50, 30)


def test_count() -> None:
    LIMITS.check_count(32)
    with pytest.raises(TooLargeError, match="33 images were sent at once, more than 32"):
        LIMITS.check_count(33)


@pytest.mark.parametrize("wrong", [{"max_bytes": 0}, {"max_pixels": -1}, {"max_images": "3"}, {"max_images": True}])
def test_limits_are_checked_when_they_are_made(wrong: dict[str, int]) -> None:
    with pytest.raises(InputError, match=f"UploadLimits.{next(iter(wrong))}"):
        UploadLimits(**wrong)


def test_limits_as_plain_values() -> None:
    assert LIMITS.to_dict() == {"max_bytes": 2**24, "max_pixels": 40_000_000, "max_images": 32}
    assert LIMITS.of_one_image().max_pixels == 40_000_000


def test_explained_keeps_the_reason() -> None:
    error = explained("bytes (1 bytes) is no image", b"x", name="a.png", limits=LIMITS)
    assert str(error) == "a.png is no image"
