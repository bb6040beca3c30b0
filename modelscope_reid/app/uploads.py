"""Bytes that a stranger sent to an image, within limits.

In: the bytes of one uploaded file. Out: an upright RGB image, or one sentence that names the upload. Bytes are only
ever decoded: a path or an address in them is an image that cannot be read, and is not followed. Knows nothing of HTTP.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from PIL import Image

from modelscope_reid.downloads import one_line
from modelscope_reid.errors import ImageError, TooLargeError
from modelscope_reid.fields import check_input
from modelscope_reid.images import ImageLimits, describe_source, load_image

_SIZE_WORDS = ("pixels, more than", "is too large to decode")
"""How `load_image` says that an image has too many pixels."""


@dataclass(frozen=True, kw_only=True)
class UploadLimits:
    """What one visitor may send: bytes and pixels of an image, and images at once.

    Raises:
        InputError: a limit that is no whole number from 1 up.
    """

    max_bytes: int = 16 * 2**20
    max_pixels: int = 40_000_000
    max_images: int = 32

    def __post_init__(self) -> None:
        check_input(self, lowest=dict.fromkeys(asdict(self), 1))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    def of_one_image(self) -> ImageLimits:
        """Return what one image may cost, as `load_image` and `Embedder` take it."""
        return ImageLimits(max_bytes=self.max_bytes, max_pixels=self.max_pixels)

    def check_bytes(self, content: bytes, *, name: str) -> None:
        """Raise `TooLargeError`, calling the file by `name`, where it has too many bytes."""
        if len(content) > self.max_bytes:
            given, most = f"{len(content):,} bytes", f"{self.max_bytes:,}"
            raise TooLargeError(f"{name} has {given}, more than {most}; send a smaller file.")

    def check_count(self, count: int) -> None:
        """Raise `TooLargeError` where `count` images are too many at once."""
        if count > self.max_images:
            raise TooLargeError(f"{count} images were sent at once, more than {self.max_images}; send fewer.")


def read_upload(content: bytes, *, name: str, limits: UploadLimits) -> Image.Image:
    """Decode the bytes of one file; `name` is what messages call it.

    Raises:
        TooLargeError: more bytes or pixels than `limits` allow.
        ImageError: it is no image, or a damaged one.
    """
    called = one_line(name)
    limits.check_bytes(content, name=called)
    try:
        return load_image(content, limits=limits.of_one_image())
    except ImageError as error:
        raise explained(error, content, name=called, limits=limits) from error


def explained(error: ImageError | str, content: bytes, *, name: str, limits: UploadLimits) -> ImageError:
    """Return what `load_image` said of bytes as an error that calls them by `name`."""
    text = str(error)
    if any(words in text for words in _SIZE_WORDS):
        return TooLargeError(f"{name} has more than {limits.max_pixels:,} pixels; send a smaller image.")
    return ImageError(text.replace(describe_source(content), name, 1))
