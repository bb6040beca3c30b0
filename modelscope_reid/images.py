"""Turn any single image into an upright RGB `PIL.Image.Image` of 8 bits, or say what is wrong with it.

In: a path, an http(s), file or data URL, bytes, a binary file, a PIL image, a NumPy array or a torch
tensor. Out: pixels in memory, with no open file behind them and no metadata. Every failure is an
`ImageError` that names the source. This module does not know batches, sizes or normalisation, and
does not import torch.

Three rules hold for every source. EXIF orientation is applied. Alpha is ignored: colours are taken as
they are stored, as `PIL.Image.convert("RGB")` and ModelScope take them. What is missing is an error:
a truncated file is refused (unless the program has set Pillow's LOAD_TRUNCATED_IMAGES).

Files give exactly the pixels of Pillow's own ``open``, ``ImageOps.exif_transpose`` and
``convert("RGB")``, but for 16-bit grey and float images, which ``convert`` would clip.
"""

from __future__ import annotations

import io
import logging
import os
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, BinaryIO, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import (
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    ImageCms,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from modelscope_reid import downloads
from modelscope_reid.downloads import one_line, public_url, url_scheme
from modelscope_reid.errors import ImageError, InputError

logger = logging.getLogger(__name__)

ImageSource: TypeAlias = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Image.Image | NDArray[Any] | Any
)
"""What `load_image` accepts; the last member stands for a torch tensor, a type unknown here."""

ChannelOrder = Literal["rgb", "bgr"]
"""Order of the colours in a NumPy array; OpenCV reads "bgr"."""

DECODER_ERRORS = (
    # OSError: truncated or unidentified data. SyntaxError, ValueError, EOFError: a header that
    # contradicts itself. struct.error, zlib.error, TypeError, KeyError, IndexError, AttributeError,
    # AssertionError, OverflowError, ZeroDivisionError: the plugins' own code tripping over damaged
    # fields. RuntimeError (NotImplementedError among them), MemoryError, PyCMSError: the C decoders.
    # DecompressionBombError: Pillow's own size limit. Warning: filters that turn warnings into errors.
    *(OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, TypeError, KeyError),
    *(IndexError, AttributeError, AssertionError, OverflowError, ZeroDivisionError, RuntimeError),
    *(MemoryError, ImageCms.PyCMSError, Image.DecompressionBombError, Warning),
)
"""What Pillow's readers of the accepted formats raise on damaged files."""

# Each format is told by its first bytes and opened by its own reader, never by Image.open: that one
# warns of large images before their size can be checked here, and warnings cannot be silenced for one
# thread only. The JPEG reader also takes the first picture of an MPO (phones store two in a file).
_READERS: dict[str, tuple[re.Pattern[bytes], Callable[[IO[bytes]], Image.Image]]] = {
    "JPEG": (re.compile(rb"\xff\xd8\xff"), JpegImagePlugin.JpegImageFile),
    "PNG": (re.compile(rb"\x89PNG\r\n\x1a\n"), PngImagePlugin.PngImageFile),
    "WEBP": (re.compile(rb"RIFF.{4}WEBP", re.DOTALL), WebPImagePlugin.WebPImageFile),
    "BMP": (re.compile(rb"BM"), BmpImagePlugin.BmpImageFile),
    "TIFF": (re.compile(rb"II[*+]\0|MM\0[*+]"), TiffImagePlugin.TiffImageFile),
    "GIF": (re.compile(rb"GIF8[79]a"), GifImagePlugin.GifImageFile),
}
_SELF_LIMITING = ("TIFF", "GIF", "WEBP")  # these readers check PIL.Image.MAX_IMAGE_PIXELS themselves
_KINDS = "JPEG, PNG, WEBP, BMP, TIFF or GIF"
_ACCEPTED = "pass a path, a URL, the bytes of a file, a binary file, a PIL image, an array or a torch tensor"
_TURNS = {  # what the values of the EXIF orientation tag ask for; 1 is upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, kw_only=True)
class ImageLimits:
    """What a source may cost before it is refused.

    `max_pixels` is height times width, read from the header. `max_bytes` is the size of a file, of the
    bytes or of a download. `timeout_seconds` is for a whole download, from the name lookup to the last
    byte. TIFF, GIF and WebP are refused above PIL.Image.MAX_IMAGE_PIXELS too.
    """

    max_pixels: int = 100_000_000
    max_bytes: int = 64 * 2**20
    timeout_seconds: float = 10.0
    max_redirects: int = 5

    def __post_init__(self) -> None:
        """Refuse limits that are not positive or not finite."""
        for field in ("max_pixels", "max_bytes", "timeout_seconds", "max_redirects"):
            value = getattr(self, field)
            kinds = (int, float) if field == "timeout_seconds" else (int,)
            if not isinstance(value, kinds) or not 0 < value < float("inf"):
                expected = " or ".join(kind.__name__ for kind in kinds)
                raise InputError(f"ImageLimits.{field} is {value!r}: give a positive {expected}")


DEFAULT_LIMITS = ImageLimits()


def load_image(
    source: ImageSource, *, channel_order: ChannelOrder = "rgb", limits: ImageLimits = DEFAULT_LIMITS
) -> Image.Image:
    """Load one image as upright RGB, decoded, independent of `source`.

    Files are JPEG, PNG, WebP, BMP, TIFF or GIF; of several frames, the first. Arrays are (H, W),
    (H, W, 1), (H, W, 3) or (H, W, 4), tensors (H, W), (1, H, W), (3, H, W) or (4, H, W); both uint8,
    uint16 or float from 0 to 1. `channel_order` is for arrays of 3 or 4 channels only; tensors are RGB.
    16-bit values v become v / 257, floats v * 255, rounded; mode "I" of PIL is taken as 16-bit. A
    binary file is read from its current position and left open.

    Raises:
        ImageError: the source is missing, damaged, too large, or of a type not listed here.
        InputError: `channel_order` is unknown.
    """
    if channel_order not in get_args(ChannelOrder):
        raise InputError(f'channel_order is {channel_order!r}: give "rgb" or "bgr"')
    name = describe_source(source)
    if isinstance(source, Image.Image):
        return _from_pil(source, name, limits)
    if isinstance(source, np.ndarray):
        return _from_array(np.asarray(source), name, limits, channel_order=channel_order)
    if _is_tensor(source):
        return _from_tensor(source, name, limits)
    return _decode(*_read(source, name, limits), name, limits=limits)


def is_single_image(source: object) -> bool:
    """Tell one image from several: False for lists, iterators and 4-D arrays, which hold images."""
    if isinstance(source, np.ndarray) or _is_tensor(source):
        return getattr(source, "ndim", 0) in (2, 3)
    single = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image)
    return isinstance(source, single) or callable(getattr(source, "read", None))


def describe_source(source: object) -> str:
    """Name a source in a message or a list of failures; URLs without user name and query."""
    if isinstance(source, str):
        return public_url(source) if url_scheme(source) else one_line(source) or "the empty path"
    if isinstance(source, os.PathLike):
        return one_line(os.fsdecode(source))
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"bytes ({memoryview(source).nbytes} bytes)"
    if isinstance(source, Image.Image):
        return f"PIL image {source.width}x{source.height} {source.mode}"
    if isinstance(source, np.ndarray):
        return f"ndarray {source.shape} {source.dtype}"
    if _is_tensor(source):
        tensor: Any = source
        return f"tensor {tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
    if callable(getattr(source, "read", None)):
        return f"file object {one_line(str(getattr(source, 'name', type(source).__name__)))}"
    return f"a value of type {type(source).__name__}"


def crop_boxes(frame: Image.Image, boxes_xyxy: ArrayLike) -> list[Image.Image]:
    """Cut the boxes, (N, 4) in pixels as x1, y1, x2, y2, out of a frame that `load_image` gave.

    Fractions are rounded outward, and what lies outside the frame is cut off.

    Raises:
        InputError: not (N, 4) numbers, or a box that is not finite, empty, or wholly outside.
    """
    if not isinstance(frame, Image.Image):
        raise InputError(f"crop_boxes was given {describe_source(frame)}: pass load_image(frame)")
    try:
        values = _tensor_values(boxes_xyxy) if _is_tensor(boxes_xyxy) else boxes_xyxy
        boxes = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"boxes are no table of numbers ({one_line(str(error))}): give (N, 4)") from error
    if boxes.size == 0 and boxes.shape in ((0,), (0, 4)):
        return []
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise InputError(f"boxes have the shape {boxes.shape}: give (N, 4), one row x1, y1, x2, y2 for each")
    return [_crop(frame, box, index) for index, box in enumerate(boxes)]


def _crop(frame: Image.Image, box: NDArray[np.float64], index: int) -> Image.Image:
    """Cut one box out of the frame."""
    given = f"box {index} is {', '.join(f'{value:g}' for value in box)}"
    if not np.isfinite(box).all():
        raise InputError(f"{given}: give four finite numbers x1, y1, x2, y2")
    if box[2] <= box[0] or box[3] <= box[1]:
        raise InputError(f"{given}: give x1, y1, x2, y2 with x2 larger than x1 and y2 larger than y1")
    outward = np.concatenate([np.floor(box[:2]), np.ceil(box[2:])])
    x1, y1, x2, y2 = (int(value) for value in np.clip(outward, 0, [*frame.size, *frame.size]))
    if x2 <= x1 or y2 <= y1:
        raise InputError(
            f"{given}, outside the frame of {frame.width} x {frame.height} pixels: "
            "give pixel coordinates of this frame, counted from its top left corner"
        )
    return frame.crop((x1, y1, x2, y2))


def _read(source: Any, name: str, limits: ImageLimits) -> tuple[bytes, str]:
    """Return the bytes of an image file, and the media type where a server told one."""
    most = limits.max_bytes
    scheme = url_scheme(source) if isinstance(source, str) else ""
    if scheme in ("http", "https"):
        download = downloads.fetch(
            source,
            max_bytes=most,
            timeout_seconds=limits.timeout_seconds,
            max_redirects=limits.max_redirects,
        )
        return download.content, download.content_type
    if scheme == "data":
        return downloads.within(downloads.read_data_uri(source), name=name, max_bytes=most), ""
    if scheme not in ("", "file"):
        raise ImageError(f"{name} is no address that can be read: pass an http, https, file or data URL, or a path")
    if isinstance(source, (str, os.PathLike)):
        path = downloads.file_url_path(str(source)) if scheme else os.fsdecode(source)
        return downloads.read_file(path, name=name, max_bytes=most), ""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return downloads.within(memoryview(source).tobytes(), name=name, max_bytes=most), ""
    if callable(getattr(source, "read", None)):
        return downloads.read_stream(source, name=name, max_bytes=most), ""
    several = " (one image at a time)" if isinstance(source, (list, tuple, dict, set)) else ""
    raise ImageError(f"{name} is no image: {_ACCEPTED}{several}")


def _decode(content: bytes, content_type: str, name: str, *, limits: ImageLimits) -> Image.Image:
    """Decode the bytes of a file."""
    if not content:
        raise ImageError(f"{name} is empty: check how it was written")
    for kind, (magic, reader) in _READERS.items():
        if magic.match(content):
            with _refusing(name, f"is a damaged {kind} file"):
                image = reader(io.BytesIO(content))
            return _from_pil(image, name, limits, kind=kind)
    if content_type == "text/html":
        found = "the server sent text/html, not an image"
    elif content[:256].lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<svg")):
        found = "it begins like an HTML or XML page"
    else:
        found = f"it begins with the bytes {content[:8].hex(' ')}"
    raise ImageError(f"{name} is no image of a known type ({found}): pass a {_KINDS} file")


@contextmanager
def _refusing(name: str, problem: str, advice: str = "get or write a complete copy") -> Iterator[None]:
    """Turn what Pillow raises into an `ImageError`."""
    try:
        yield
    except DECODER_ERRORS as error:
        if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError)):
            problem, advice = "is too large to decode", "pass a smaller image"
        reason = one_line(str(error)).rstrip(".") or type(error).__name__
        raise ImageError(f"{name} {problem} ({reason}): {advice}") from error


def _from_pil(image: Image.Image, name: str, limits: ImageLimits, *, kind: str = "") -> Image.Image:
    """Decode, turn upright and convert an image whose header is read; the caller's own is left as it is."""
    _check_size(image.size, name, limits, kind=kind or image.format or "")
    with _refusing(name, f"is a damaged {kind} file" if kind else "is closed or damaged"):
        image.load()
    image = _upright(image, name)
    if image.mode == "F" or image.mode.startswith("I"):
        return _from_array(_grey_values(image, name), name, limits)
    with _refusing(name, f"cannot become RGB from mode {image.mode}", "pass an RGB image"):
        if "transparency" in image.info:
            image = image.copy()
            del image.info["transparency"]  # alpha is ignored, and Pillow would warn of that
        rgb = image.convert("RGB")
    rgb.info.clear()  # an orientation left there would turn the image again
    return rgb


def _check_size(size: tuple[int, ...], name: str, limits: ImageLimits, *, kind: str = "") -> None:
    """Refuse an image without pixels or with too many, before they are decoded."""
    width, height = size
    if width <= 0 or height <= 0:
        raise ImageError(f"{name} has no pixels (width {width}, height {height}): pass another image")
    limit, setting = limits.max_pixels, "ImageLimits.max_pixels"
    if kind in _SELF_LIMITING and (Image.MAX_IMAGE_PIXELS or limit) < limit:
        limit, setting = Image.MAX_IMAGE_PIXELS or limit, "PIL.Image.MAX_IMAGE_PIXELS"
    if width * height > limit:
        raise ImageError(
            f"{name} has {width} x {height} pixels, more than {limit:,}: pass a smaller image, or raise {setting}"
        )


def _upright(image: Image.Image, name: str) -> Image.Image:
    """Apply the EXIF orientation; metadata that cannot be read asks for none."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except DECODER_ERRORS as error:
        if isinstance(error, Warning):  # the caller's filters turn Pillow's warnings into errors
            raise ImageError(f"{name} has damaged EXIF data ({one_line(str(error))}): remove it") from error
        logger.warning("%s has unreadable EXIF metadata, taken as upright: %s", name, one_line(str(error)))
        return image
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _grey_values(image: Image.Image, name: str) -> NDArray[Any]:
    """Return the (H, W) values of a grey image of more than 8 bits, as uint16 or float."""
    values = np.asarray(image)
    if image.mode != "I":
        return values
    if values.min() < 0 or values.max() > 65535:
        raise ImageError(f"{name} has 32-bit values from {values.min()} to {values.max()}: scale them to 0..65535")
    return values.astype(np.uint16)


def _from_array(
    array: NDArray[Any], name: str, limits: ImageLimits, *, channel_order: ChannelOrder = "rgb"
) -> Image.Image:
    """Convert (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) values."""
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        hint = "pass the images one at a time" if array.ndim == 4 else "reshape it"
        if array.ndim == 3 and array.shape[0] in (1, 3, 4):
            hint = "this looks like channels first: pass array.transpose(1, 2, 0), or a torch tensor"
        raise ImageError(f"{name} has no image shape, (H, W) or (H, W, 1, 3 or 4): {hint}")
    _check_size(array.shape[1::-1], name, limits)
    if array.ndim == 3:
        array = array[:, :, 0] if array.shape[2] == 1 else array[:, :, :3]
    values = _eight_bit(array, name)
    if values.ndim == 3 and channel_order == "bgr":
        values = values[:, :, ::-1]
    return Image.fromarray(np.ascontiguousarray(values)).convert("RGB")


def _eight_bit(values: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Scale uint16 and float values to 0..255, rounded."""
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)  # v / 257, rounded
    if values.dtype.kind != "f" or values.dtype.itemsize > 8:
        how = "astype(numpy.uint8) * 255" if values.dtype.kind == "b" else "astype(numpy.uint8)"
        raise ImageError(
            f"{name} holds {values.dtype} values: "
            f"pass uint8 (where the values fit, by array.{how}), uint16, or float from 0 to 1"
        )
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ImageError(f"{name} holds NaN or infinite values: replace them by numbers from 0 to 1")
    if low < 0 or high > 1:
        raise ImageError(f"{name} holds float values from {low:g} to {high:g}, not 0 to 1: divide by 255 or pass uint8")
    scaled = values.astype(np.float32 if values.dtype.itemsize < 8 else np.float64) * 255
    return np.asarray(np.rint(scaled), dtype=np.uint8)


def _is_tensor(source: object) -> bool:
    """Recognise a torch tensor, or a subclass, without importing torch."""
    return any((t.__module__.split(".")[0], t.__name__) == ("torch", "Tensor") for t in type(source).__mro__)


def _tensor_values(tensor: Any) -> NDArray[Any]:
    """Copy a tensor to the host as an array; NumPy has no bfloat16, so half precision becomes float32."""
    tensor = tensor.detach().cpu()
    half = str(tensor.dtype) in ("torch.bfloat16", "torch.float16")
    return np.asarray((tensor.float() if half else tensor).numpy())


def _from_tensor(tensor: Any, name: str, limits: ImageLimits) -> Image.Image:
    """Convert (H, W), (1, H, W), (3, H, W) or (4, H, W) values."""
    if tensor.ndim == 3 and tensor.shape[0] not in (1, 3, 4) and tensor.shape[2] in (1, 3, 4):
        raise ImageError(f"{name} looks like channels last: pass tensor.permute(2, 0, 1), or a numpy array")
    if tensor.ndim not in (2, 3) or (tensor.ndim == 3 and tensor.shape[0] not in (1, 3, 4)):
        hint = "pass the images one at a time" if tensor.ndim == 4 else "reshape it"
        raise ImageError(f"{name} has no image shape, (H, W) or (1, 3 or 4, H, W): {hint}")
    try:
        values = _tensor_values(tensor)
    except (TypeError, ValueError, RuntimeError) as error:  # sparse, quantised, or without data
        raise ImageError(f"{name} cannot become an array ({one_line(str(error))}): pass a dense tensor") from error
    return _from_array(values if values.ndim == 2 else np.moveaxis(values, 0, -1), name, limits)
