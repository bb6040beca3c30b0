"""Downloads from a misbehaving loopback server, and the names and bytes of other addresses."""

from __future__ import annotations

import asyncio
import io
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from http_server import HTML, Server, serve
from PIL import Image

from modelscope_reid.downloads import fetch, file_url_path, one_line, public_url, read_data_uri, url_scheme
from modelscope_reid.errors import ImageError
from modelscope_reid.images import ImageLimits, load_image

SLOW = 30.0  # a deadline that no healthy transfer over loopback reaches
SHORT = 0.4  # a deadline that every stalled transfer runs into
PATIENCE = 10.0  # far more than SHORT, far less than a test that hangs


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Serve a small JPEG."""
    stream = io.BytesIO()
    values = np.arange(32 * 32 * 3, dtype=np.uint32).reshape(32, 32, 3) % 251
    Image.fromarray(values.astype(np.uint8)).save(stream, "JPEG")
    with serve(stream.getvalue()) as running:
        yield running


def get(url: str, *, max_bytes: int = 10**6, timeout_seconds: float = SLOW, max_redirects: int = 5) -> bytes:
    """Fetch with limits that a good answer keeps."""
    return fetch(url, max_bytes=max_bytes, timeout_seconds=timeout_seconds, max_redirects=max_redirects).content


def test_a_good_answer_gives_body_and_media_type(server: Server) -> None:
    download = fetch(server.url("/good"), max_bytes=10**6, timeout_seconds=SLOW, max_redirects=1)
    assert download.content == server.image
    assert download.content_type == "image/jpeg"
    page = fetch(server.url("/html"), max_bytes=10**6, timeout_seconds=SLOW, max_redirects=1)
    assert (page.content, page.content_type) == (HTML, "text/html")


def test_load_image_gives_the_pixels_that_were_served(server: Server) -> None:
    expected = np.asarray(Image.open(io.BytesIO(server.image)).convert("RGB"))
    for path in ("/good", "/to-good", "/gzipped", "/good?token=secret"):
        assert np.array_equal(np.asarray(load_image(server.url(path))), expected), path
    assert np.array_equal(np.asarray(load_image(server.url("/good").replace("http:", "HTTP:"))), expected)


def test_the_limit_counts_to_the_byte(server: Server) -> None:
    size = len(server.image)
    assert get(server.url("/good"), max_bytes=size) == server.image
    assert get(server.url("/gzipped"), max_bytes=size) == server.image
    for path in ("/good", "/gzipped"):
        with pytest.raises(ImageError, match=f"larger than {size - 1:,} bytes.*max_bytes"):
            get(server.url(path), max_bytes=size - 1)


@pytest.mark.parametrize("path", ["/stall", "/drip-headers", "/drip-body", "/endless-redirect-body"])
def test_one_deadline_ends_every_stall(server: Server, path: str) -> None:
    started = time.monotonic()
    if path == "/endless-redirect-body":  # its body is left unread, so it does not stall at all
        assert get(server.url(path)) == server.image
    else:
        with pytest.raises(ImageError, match=r"not downloaded within 0\.4 s.*timeout_seconds"):
            get(server.url(path), timeout_seconds=SHORT)
    assert time.monotonic() - started < PATIENCE


def test_the_deadline_covers_a_name_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = threading.Event()

    def silent(*args: object, **kwargs: object) -> list[object]:
        answer.wait(60)
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    started = time.monotonic()
    try:
        with pytest.raises(ImageError, match="not downloaded within"):
            get("http://images.invalid/a.jpg", timeout_seconds=SHORT)
        assert time.monotonic() - started < PATIENCE
    finally:
        answer.set()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/missing", "answered with status 404 Not Found"),
        ("/status-204", "answered with status 204 No Content"),
        ("/status-206", "answered with status 206"),
        ("/to-nowhere", "answered with status 302"),
        ("/to-itself", "redirects more than 5 times.*max_redirects"),
        ("/to-file", "leads to a file: address"),
        ("/to-nonsense", "could not be downloaded"),
        ("/huge-length", "larger than 1,000,000 bytes"),
        ("/digits", "could not be downloaded|larger than"),
        ("/endless", "larger than 1,000,000 bytes"),
        ("/gzip-bomb", "larger than 1,000,000 bytes"),
        ("/brotli", "Content-Encoding br,"),
        ("/nested-gzip", "Content-Encoding gzip, gzip,"),
        ("/broken-gzip", "could not be downloaded"),
        ("/long-length", "could not be downloaded"),
        ("/no-http", "could not be downloaded"),
        ("/hang-up", "could not be downloaded"),
    ],
)
def test_a_bad_answer_is_an_error_that_names_the_address(server: Server, path: str, message: str) -> None:
    with pytest.raises(ImageError, match=message) as caught:
        get(server.url(f"{path}?token=secret").replace("//", "//user:password@", 1))
    text = str(caught.value)
    assert text.startswith(server.url(path) + " ")
    assert "\n" not in text
    assert "secret" not in text and "password" not in text


def test_a_huge_length_is_refused_before_the_body(server: Server) -> None:
    started = time.monotonic()  # the body of /drip-body would take half an hour
    with pytest.raises(ImageError, match="larger than 99,999 bytes"):
        get(server.url("/drip-body"), max_bytes=99_999)
    assert time.monotonic() - started < PATIENCE


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/html", "the server sent text/html, not an image"),
        ("/empty", "is empty"),
        ("/short-length", "damaged JPEG"),
    ],
)
def test_a_body_that_is_no_image_is_named(server: Server, path: str, message: str) -> None:
    with pytest.raises(ImageError, match=message) as caught:
        load_image(server.url(path))
    assert str(caught.value).startswith(server.url(path) + " ")


def test_redirects_are_counted(server: Server) -> None:
    assert get(server.url("/to-good"), max_redirects=1) == server.image
    with pytest.raises(ImageError, match="redirects more than 0 times"):
        get(server.url("/to-good"), max_redirects=0)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/a.jpg",  # nothing listens on port 1
        "http://name.invalid/a.jpg",
        "http://127.0.0.1:99999/a.jpg",
        "http://127.0.0.1:port/a.jpg",
        "http://[::1/a.jpg",
        "http://",
        "https:///a.jpg",
        f"http://{'a' * 70}.invalid/a.jpg",
        "http://\u2603\u0301..invalid/",
        "http://a b/",
        "http://127.0.0.1:1/\x00",
    ],
)
def test_a_bad_address_is_an_image_error(url: str) -> None:
    with pytest.raises(ImageError, match=r"could not be downloaded|http and https|a port from 1"):
        get(url, timeout_seconds=5.0)


def test_a_tls_failure_is_an_image_error(server: Server) -> None:
    with pytest.raises(ImageError, match="could not be downloaded"):
        get(server.url("/good").replace("http:", "https:"))


def test_the_environment_is_not_asked_for_a_proxy(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert get(server.url("/good")) == server.image


def test_the_request_asks_for_the_accepted_types_uncompressed(server: Server) -> None:
    get(server.url("/good"))
    headers = server.requests[-1]
    assert headers["accept-encoding"] == "identity"
    assert "image/jpeg" in headers["accept"]
    assert "image/avif" not in headers["accept"]


def test_it_works_inside_a_running_event_loop(server: Server) -> None:
    async def notebook_cell() -> bytes:
        return get(server.url("/good"))

    assert asyncio.run(notebook_cell()) == server.image


def test_threads_may_download_at_the_same_time(server: Server) -> None:
    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(get, [server.url("/good")] * 16)) == {server.image}


def test_limits_reach_the_download(server: Server) -> None:
    with pytest.raises(ImageError, match="larger than 100 bytes"):
        load_image(server.url("/good"), limits=ImageLimits(max_bytes=100))
    with pytest.raises(ImageError, match=r"within 0\.4 s"):
        load_image(server.url("/stall"), limits=ImageLimits(timeout_seconds=SHORT))
    with pytest.raises(ImageError, match="redirects more than 1 times"):
        load_image(server.url("/to-itself"), limits=ImageLimits(max_redirects=1))


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://user:pass@host.org:81/a.jpg?key=1#part", "https://host.org:81/a.jpg"),
        ("https://user@at@host/a", "https://host/a"),
        ("http://host/a@b.jpg", "http://host/a@b.jpg"),
        ("http://host?q=/user@x", "http://host"),
        ("http://host/a\nb", "http://host/a\\nb"),
        ("data:image/png;base64,AAAA", "data URI (26 characters)"),
    ],
)
def test_public_url_strips_what_may_be_secret(url: str, name: str) -> None:
    assert public_url(url) == name


def test_one_line_abbreviates_and_escapes() -> None:
    assert one_line("图像 é.jpg") == "图像 é.jpg"
    assert one_line("a\r\n\x1b[0m") == "a\\r\\n\\x1b[0m"
    assert one_line("x" * 200) == "x" * 200
    assert one_line("a" * 150 + "b" * 150) == "a" * 100 + "..." + "b" * 50


@pytest.mark.parametrize(
    ("text", "scheme"),
    [
        ("HTTPS://a/b", "https"),
        ("s3://bucket/key", "s3"),
        ("Data:,x", "data"),
        ("C:\\image.png", ""),
        ("C://image.png", ""),
        ("a/b://c", ""),
        ("", ""),
    ],
)
def test_url_scheme_tells_urls_from_paths(text: str, scheme: str) -> None:
    assert url_scheme(text) == scheme


def test_file_urls_name_local_paths(tmp_path: Path) -> None:
    path = tmp_path / "a b%.png"
    assert file_url_path(path.as_uri()) == str(path)
    assert file_url_path("file://localhost/a%20b") == "/a b"
    with pytest.raises(ImageError, match="another machine"):
        file_url_path("file://server/a")
    with pytest.raises(ImageError, match="no valid URL"):
        file_url_path("file://[/a")


def test_data_uris_are_decoded() -> None:
    assert read_data_uri("data:image/png;base64,AAEC") == b"\x00\x01\x02"
    assert read_data_uri("DATA:,a%20b") == b"a b"
    for broken in ("data:image/png;base64", "data:image/png;base64,AAEC="[:-2], "data:;base64,A"):
        with pytest.raises(ImageError, match=r"data URI \(\d+ characters\) cannot be decoded"):
            read_data_uri(broken)
