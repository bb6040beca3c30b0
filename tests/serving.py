"""The real server on loopback, over a real gallery of drawn people, for the tests of the API."""

from __future__ import annotations

import struct
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import httpx

from modelscope_reid.app.gate import Bounds
from modelscope_reid.app.server import Server, build, configured, listen_on
from modelscope_reid.app.service import Service
from modelscope_reid.embedder import Embedder
from modelscope_reid.gallery.gallery import Gallery

CROPS = sorted((Path(__file__).parents[1] / "assets").glob("person*.png"))
"""Drawn crops: four people, three cameras."""


def enroll_crops(gallery: Gallery, crops: list[Path] = CROPS) -> None:
    """Enroll drawn crops, with the people and cameras that their names tell, an hour apart."""
    gallery.enroll(
        crops,
        person_ids=[crop.stem.split("_")[0] for crop in crops],
        camera_ids=[crop.stem[-1] for crop in crops],
        timestamps=[3600.0 * number for number in range(len(crops))],
    )


@contextmanager
def drawn_gallery(folder: Path, crops: list[Path] = CROPS) -> Iterator[Gallery]:
    """A gallery of drawn crops, with the bundled model."""
    with Gallery.open(folder / "gallery.db", Embedder.from_pretrained()) as gallery:
        enroll_crops(gallery, crops)
        yield gallery


@contextmanager
def running(
    service: Service, *, token: str | None = None, bounds: Bounds | None = None, headers: dict[str, str] | None = None
) -> Iterator[httpx.Client]:
    """The server in a thread, on a free port; give a client of it."""
    application = build(service, token=token, bounds=bounds or Bounds())
    server = Server(configured(application))
    listener = listen_on("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        port = listener.getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=30, trust_env=False) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def parts(*crops: Path | bytes) -> list[tuple[str, tuple[str, bytes]]]:
    """Crops as the files of a request."""
    files = [
        (f"file{place}.png", crop) if isinstance(crop, bytes) else (crop.name, crop) for place, crop in enumerate(crops)
    ]
    return [("images", (name, crop if isinstance(crop, bytes) else crop.read_bytes())) for name, crop in files]


@lru_cache
def huge_png(width: int = 20_000, height: int = 10_000) -> bytes:
    """A PNG file of 200 million grey pixels in 200 kB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    squeezed = zlib.compressobj(9)
    row = bytes(1 + width)
    body = b"".join(squeezed.compress(row) for _ in range(height)) + squeezed.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
