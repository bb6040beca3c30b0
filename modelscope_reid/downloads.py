"""Get the bytes behind a URL, a path or an open file, within limits of size and time.

In: an address and its limits. Out: bytes, and for http(s) the media type that the server claimed. This
module does not know what an image is, keeps no connection, cookie or cache, tries nothing twice, and
reads neither proxy settings nor netrc from the environment. Every failure is an `ImageError` that
names the source; URLs are named without user name, password and query, which may be secrets.

A download runs in a thread of its own, for two reasons: a caller that already runs an event loop
(Jupyter) cannot start another one in its thread, and a name server that does not answer cannot be
interrupted, so that the caller has to be able to walk away from it.
"""

from __future__ import annotations

import concurrent.futures
import re
import stat
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import DataHandler, Request, url2pathname

import anyio
import httpx

from modelscope_reid.errors import ImageError

LONGEST_NAME = 200
"""Names of sources longer than this many characters are abbreviated in messages."""

_BLOCK = 2**20  # bytes read from a file at once
_SCHEMES = ("http", "https")
_ENCODINGS = ("", "identity", "gzip", "deflate")  # others could inflate one packet to gigabytes
_HEADERS = {
    "Accept": "image/jpeg, image/png, image/webp, image/bmp, image/tiff, image/gif, */*;q=0.1",
    "Accept-Encoding": "identity",  # images are compressed already
    "User-Agent": "modelscope_reid",
}
# What a bad address, name server, connection or server can raise; UnicodeError comes from
# socket.getaddrinfo, for a host label that is too long.
_TRANSFER_ERRORS = (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError)


@dataclass(frozen=True, kw_only=True)
class Download:
    """The body of a response with status 200, and the media type in lower case ("" if none was sent)."""

    content: bytes
    content_type: str


def fetch(url: str, *, max_bytes: int, timeout_seconds: float, max_redirects: int) -> Download:
    """Download `url` within `timeout_seconds`, name lookup, redirects and body included.

    Counts the bytes after decompression against `max_bytes`, and refuses before the body where
    Content-Length is larger. Works in any thread, whether or not an event loop runs in it.

    Raises:
        ImageError: anything but a complete body with status 200 within the limits.
    """
    name = public_url(url)
    work = partial(_fetch, url, max_bytes=max_bytes, timeout_seconds=timeout_seconds, redirects=max_redirects)
    executor = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="image-download")
    try:
        return executor.submit(anyio.run, work).result(timeout_seconds)
    except (TimeoutError, concurrent.futures.TimeoutError) as error:  # one class from Python 3.11 on
        raise ImageError(
            f"{name} was not downloaded within {timeout_seconds:g} s: "
            "check the address, or raise ImageLimits.timeout_seconds"
        ) from error
    except _TRANSFER_ERRORS as error:
        reason = one_line(str(error)) or type(error).__name__
        raise ImageError(f"{name} could not be downloaded ({reason}): check the address") from error
    finally:
        executor.shutdown(wait=False)


def read_data_uri(uri: str) -> bytes:
    """Decode a data URI with urllib's own handler.

    Raises:
        ImageError: the URI has no comma or no valid base64 text.
    """
    try:
        with DataHandler().data_open(Request(uri)) as response:
            content: bytes = response.read()
    except ValueError as error:
        raise ImageError(
            f"{public_url(uri)} cannot be decoded ({one_line(str(error))}): "
            "give data:image/png;base64, and then the base64 text of the file"
        ) from error
    return content


def file_url_path(url: str) -> str:
    """Return the local path that a file URL names.

    Raises:
        ImageError: the URL is malformed or names another machine.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ImageError(f"{public_url(url)} is no valid URL ({one_line(str(error))}): pass a path") from error
    if parts.netloc not in ("", "localhost"):
        raise ImageError(f"{public_url(url)} names a file on another machine: pass a path, or file:///path")
    return url2pathname(parts.path)


def read_file(path: str, *, name: str, max_bytes: int) -> bytes:
    """Read a regular file whole; anything else (a pipe, a device) might never end, and is refused.

    Raises:
        ImageError: the file is missing, not a regular one, not readable, or has more than `max_bytes`.
    """
    if not path:  # pathlib would take it for the current folder
        raise ImageError(f"{name} names no file: pass the path of an image")
    try:
        mode = Path(path).stat().st_mode
        if stat.S_ISREG(mode):
            with Path(path).open("rb") as stream:
                return read_stream(stream, name=name, max_bytes=max_bytes)
    except FileNotFoundError as error:
        raise ImageError(f"{name} does not exist: check the path on this machine") from error
    except PermissionError as error:
        raise ImageError(f"{name} may not be read: get the permission to read it") from error
    except ImageError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL or a lone surrogate in the path
        raise ImageError(
            f"{name} is no readable file ({getattr(error, 'strerror', None) or error}): "
            "pass a path (base64 text is passed as data:image/png;base64,TEXT)"
        ) from error
    if stat.S_ISDIR(mode):
        raise ImageError(f"{name} is a directory: pass the path of one image in it")
    raise ImageError(f"{name} is a pipe, socket or device: pass a regular file, or the bytes that it gives")


def read_stream(stream: Any, *, name: str, max_bytes: int) -> bytes:
    """Read a binary file from its position to its end, at most one byte too many; leave it open.

    Raises:
        ImageError: it is closed, not readable, in text mode, or has more than `max_bytes`.
    """
    content = bytearray()
    while len(content) <= max_bytes:
        try:
            chunk = stream.read(min(_BLOCK, max_bytes + 1 - len(content)))
        except (OSError, ValueError) as error:  # ValueError: a closed file, or text that is no text
            raise ImageError(
                f"{name} cannot be read ({one_line(str(error))}): pass a file that is open in binary mode"
            ) from error
        if not isinstance(chunk, (bytes, bytearray, memoryview)):
            raise ImageError(f"{name} gave {type(chunk).__name__} instead of bytes: open it in binary mode")
        if not chunk:
            break
        content += chunk
    return within(bytes(content), name=name, max_bytes=max_bytes)


def within(content: bytes, *, name: str, max_bytes: int) -> bytes:
    """Return `content` unless it has more than `max_bytes`.

    Raises:
        ImageError: it has.
    """
    if len(content) > max_bytes:
        raise _too_many_bytes(name, max_bytes)
    return content


def url_scheme(text: str) -> str:
    """Return the scheme of a URL in lower case, "" where the text is a path (as C:/image.png is)."""
    found = re.match(r"([a-z][a-z0-9+.-]+)://|(data):", text, re.IGNORECASE)
    return (found[1] or found[2]).lower() if found else ""


def public_url(url: str) -> str:
    """Name a URL in messages: on one line, abbreviated, without user name, password, query, fragment."""
    if url_scheme(url) == "data":
        return f"data URI ({len(url)} characters)"
    without_user = re.sub(r"^([a-zA-Z][a-zA-Z0-9+.-]*://)[^/?#]*@", r"\1", url)
    return one_line(re.split(r"[?#]", without_user, maxsplit=1)[0])


def one_line(text: str) -> str:
    """Escape what does not print and cut the middle out of a long text, for use inside a message."""
    if len(text) > LONGEST_NAME:
        text = f"{text[: LONGEST_NAME // 2]}...{text[-LONGEST_NAME // 4 :]}"
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def _too_many_bytes(name: str, max_bytes: int) -> ImageError:
    """Word the error for a source beyond the limit."""
    return ImageError(
        f"{name} is larger than {max_bytes:,} bytes: pass a smaller image, or raise ImageLimits.max_bytes"
    )


async def _fetch(url: str, *, max_bytes: int, timeout_seconds: float, redirects: int) -> Download:
    """Follow redirects from `url` and return the final body; past the deadline, stop."""
    with anyio.fail_after(timeout_seconds):
        async with httpx.AsyncClient(timeout=None, trust_env=False, headers=_HEADERS) as client:
            request = client.build_request("GET", url)
            for _ in range(redirects + 1):
                _check_address(request.url, public_url(url))
                # httpx would read the whole body of a redirect before it follows it, however long that
                # is: so the redirects are followed here and their bodies left unread.
                response = await client.send(request, stream=True, follow_redirects=False)
                try:
                    if response.next_request is None:
                        return await _read_body(response, public_url(url), max_bytes)
                    request = response.next_request
                finally:
                    await response.aclose()
    raise ImageError(
        f"{public_url(url)} redirects more than {redirects} times: "
        "pass the final address, or raise ImageLimits.max_redirects"
    )


def _check_address(address: httpx.URL, name: str) -> None:
    """Refuse an address that is not to be opened, or that the socket library stumbles over."""
    if address.scheme not in _SCHEMES:
        raise ImageError(
            f"{name} leads to a {one_line(address.scheme)}: address: only http and https addresses are downloaded"
        )
    if address.port is not None and not 0 < address.port < 2**16:
        raise ImageError(f"{name} leads to the port {address.port}: give a port from 1 to 65535")


async def _read_body(response: httpx.Response, name: str, max_bytes: int) -> Download:
    """Read a response with status 200 whose decoded body has at most `max_bytes` bytes."""
    if response.status_code != httpx.codes.OK:
        status = f"{response.status_code} {one_line(response.reason_phrase)}".rstrip()
        raise ImageError(f"{name} was answered with status {status} instead of an image: check the address")
    encoding = response.headers.get("content-encoding", "").strip().lower()
    if encoding not in _ENCODINGS:
        raise ImageError(
            f"{name} was sent with Content-Encoding {one_line(encoding)}, which was not asked for: "
            "download it yourself and pass the bytes"
        )
    if int(response.headers.get("content-length", "0")) > max_bytes:  # the HTTP parser has checked the digits
        raise _too_many_bytes(name, max_bytes)
    content = bytearray()
    async for chunk in response.aiter_bytes():
        content += chunk
        if len(content) > max_bytes:
            raise _too_many_bytes(name, max_bytes)
    content_type = response.headers.get("content-type", "").split(";")[0].strip().lower()
    return Download(content=bytes(content), content_type=one_line(content_type))
