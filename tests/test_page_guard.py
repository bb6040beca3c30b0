"""The page names no path and no address of the server: raw requests to gradio's routes, on a real server."""

from __future__ import annotations

import http.server
import json
import os
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import CROPS, drawn_gallery, huge_png, running
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from modelscope_reid.app import page_guard
from modelscope_reid.app.page_guard import MOST_JSON, PageGuard
from modelscope_reid.app.service import Service
from modelscope_reid.app.texts import in_all
from modelscope_reid.app.uploaded_files import uploads_folder
from modelscope_reid.app.uploads import UploadLimits

FILE_TYPE = {"_type": "gradio.FileData"}
SMALL = UploadLimits(max_bytes=300_000, max_images=2)


@dataclass
class Site:
    """The server, a web server beside it that must never be asked, and what is not to be read."""

    client: httpx.Client
    config: dict[str, Any]
    address: str
    asked: list[str]
    secret: Path

    def events(self) -> list[dict[str, Any]]:
        """What a visitor can make the server do."""
        return [event for event in self.config["dependencies"] if event["backend_fn"]]

    def component(self, number: int) -> dict[str, Any]:
        """One component of the page."""
        return next(part for part in self.config["components"] if part["id"] == number)

    def search(self) -> dict[str, Any]:
        """The event that searches: its first input is the field for a picture."""
        return next(event for event in self.events() if len(event["inputs"]) == 9)

    def join(self, event: dict[str, Any], data: list[Any], **others: Any) -> httpx.Response:
        """Send an event as the page does."""
        body = {"data": data, "fn_index": event["id"], "session_hash": uuid.uuid4().hex[:11], **others}
        return self.client.post("/gradio_api/queue/join", json=body)

    def answer(self, event: dict[str, Any], data: list[Any], **others: Any) -> dict[str, Any]:
        """Send an event and wait for what comes of it."""
        session = uuid.uuid4().hex[:11]
        body = {"data": data, "fn_index": event["id"], "session_hash": session, **others}
        sent = self.client.post("/gradio_api/queue/join", json=body)
        assert sent.status_code == 200, sent.text
        with self.client.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as stream:
            for line in stream.iter_lines():
                if '"process_completed"' in line:
                    done: dict[str, Any] = json.loads(line.removeprefix("data: "))
                    return done
        raise AssertionError("no answer")

    def upload(self, *contents: bytes, name: str = "a.png") -> httpx.Response:
        """Upload files as the page does."""
        return self.client.post("/gradio_api/upload", files=[("files", (name, content)) for content in contents])


class Ears(http.server.BaseHTTPRequestHandler):
    """Answers anything with an image, and remembers that it was asked."""

    def do_GET(self) -> None:
        """Answer."""
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(CROPS[0].read_bytes())

    do_HEAD = do_GET  # noqa: N815  # the library's name

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    secret = folder / "secret.png"
    secret.write_bytes(CROPS[0].read_bytes())
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Ears)
    server.asked = []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with drawn_gallery(folder) as gallery:
        service = Service(gallery, limits=SMALL)
        with running(service) as client:
            config = client.get("/config").json()
            address = f"http://127.0.0.1:{server.server_address[1]}"
            yield Site(client, config, address, server.asked, secret)  # type: ignore[attr-defined]
        service.close()
    server.shutdown()
    server.server_close()


def options() -> list[Any]:
    """The inputs of a search behind the picture."""
    return [None, 5, "", "", "", "", "", False]


def names(site: Site) -> list[str]:
    """Paths and addresses that no visitor may name."""
    folder = uploads_folder()
    link = folder / "link.png"
    if not link.is_symlink():
        link.symlink_to(site.secret)
    return [
        "/etc/passwd",
        str(site.secret),
        str(link),
        f"{folder}/../{site.secret.relative_to('/')}",
        os.path.relpath(site.secret),
        str(folder),
        f"{folder}/{'../' * 20}etc/passwd",
        f"{site.address}/x.png",
        f"{site.address.replace('http', 'HTTP')}/x.png",
        "https://169.254.169.254/latest/meta-data",
        f"file://{site.secret}",
        f"file={site.secret}",
        "C:\\Windows\\win.ini",
        "/dev/zero",
        "\0/etc/passwd",
        "a" * 5000,
        "",
    ]


def test_no_event_takes_a_path_or_an_address(site: Site) -> None:
    wanted = names(site)
    there = sorted(uploads_folder().rglob("*"))
    for name in wanted:
        file = {"path": name, "meta": FILE_TYPE, "orig_name": "a.png", "url": f"{site.address}/url.png"}
        for data in ([file, *options()], [None, None, 5, file, "", "", "", "", False]):
            refused = site.join(site.search(), data)
            assert (refused.status_code, refused.json()) == (400, {"detail": in_all("error.refused")}), name
    for data in ([[{"deep": [{"path": "/etc/passwd"}]}], *options()], {"path": "/etc/passwd"}):
        assert site.join(site.search(), data).status_code == 400  # type: ignore[arg-type]
    assert site.join(site.search(), [None, *options()], event_data={"path": "/etc/passwd"}).status_code == 400
    assert site.asked == []
    assert sorted(uploads_folder().rglob("*")) == there


def test_every_event_is_guarded(site: Site) -> None:
    assert len(site.events()) > 12
    for event in site.events():
        file = {"path": str(site.secret), "meta": FILE_TYPE}
        for place in range(max(1, len(event["inputs"]))):
            data: list[Any] = [None] * len(event["inputs"]) or [None]
            data[place] = file
            assert site.join(event, data).status_code == 400
    assert site.asked == []


def test_an_upload_can_be_searched_for_and_its_url_is_not_followed(site: Site) -> None:
    path = site.upload(CROPS[0].read_bytes()).json()[0]
    file = {"path": path, "meta": FILE_TYPE, "orig_name": "a.png", "url": f"{site.address}/url.png"}
    done = site.answer(site.search(), [file, *options()])
    assert done["success"] and "person01" in done["output"]["data"][0]
    assert site.asked == []


def test_ten_visitors_at_once_each_get_their_own_answer(site: Site) -> None:
    def search(crop: Path) -> str:
        file = {"path": site.upload(crop.read_bytes()).json()[0], "meta": FILE_TYPE}
        return str(site.answer(site.search(), [file, *options()])["output"]["data"][0])

    with ThreadPoolExecutor(10) as visitors:
        answers = list(visitors.map(search, CROPS[:10]))
    assert all(crop.stem.split("_")[0] in answer for crop, answer in zip(CROPS, answers, strict=False))


def test_an_upload_that_was_swept_away_is_told_as_such(site: Site) -> None:
    path = Path(site.upload(CROPS[1].read_bytes()).json()[0])
    path.unlink()
    answer = site.join(site.search(), [{"path": str(path), "meta": FILE_TYPE}, *options()])
    assert (answer.status_code, answer.json()) == (400, {"detail": in_all("error.gone")})


def test_nobody_reads_a_file_back(site: Site) -> None:
    path = site.upload(CROPS[0].read_bytes()).json()[0]
    for name in (path, "/etc/passwd", str(site.secret), f"{site.address}/x.png"):
        for route in ("file=", "file/"):
            assert site.client.get(f"/gradio_api/{route}{name}").status_code == 404
    assert site.asked == []


@pytest.mark.parametrize(
    "route",
    [
        *("proxy=https://a.hf.space/x", "stream/a/b/1/playlist.m3u8", "info", "openapi.json", "runs", "vibe-code"),
        *("custom_component/a/b/c/d", "deep_link", "call/search", "run/predict", "api/predict"),
    ],
)
def test_what_the_page_does_not_need_is_not_there(site: Site, route: str) -> None:
    if route == "info":  # gradio's page asks for it; it tells of no endpoint
        told = site.client.get(f"/gradio_api/{route}").json()
        assert told == {"named_endpoints": {}, "unnamed_endpoints": {}}
        return
    assert site.client.get(f"/gradio_api/{route}").status_code == 404
    assert site.client.post(f"/gradio_api/{route}", json={"data": []}).status_code == 404
    assert site.client.get("/monitoring").status_code == 404 and site.client.get("/docs").status_code == 404


def test_a_file_that_is_too_large_is_refused_in_the_pages_words(site: Site) -> None:
    refused = site.upload(bytes(SMALL.max_bytes + 1))
    assert refused.status_code == 413 and refused.text == in_all("error.too_large", megabytes=0, count=2)
    assert site.upload(bytes(SMALL.max_bytes)).status_code == 200
    refused = site.upload(*[bytes(SMALL.max_bytes)] * (SMALL.max_images + 1))
    assert refused.status_code == 413 and refused.text == in_all("error.too_large", megabytes=0, count=2)


@pytest.mark.parametrize("content", [b"", b"no image", CROPS[0].read_bytes()[:500], b"<svg onload='alert(1)'/>"])
def test_what_is_no_image_is_a_sentence(site: Site, content: bytes) -> None:
    path = site.upload(content, name="<b>.png").json()[0]
    done = site.answer(site.search(), [{"path": path, "meta": FILE_TYPE}, *options()])
    shown = done["output"]["data"][1]
    assert done["success"] and "The picture cannot be used." in shown and "图片" in shown
    assert "<b>" not in shown and str(uploads_folder()) not in shown and "Traceback" not in shown


def test_200_megapixels_are_refused_before_they_are_decoded(site: Site) -> None:
    content = huge_png()
    assert len(content) < SMALL.max_bytes
    path = site.upload(content).json()[0]
    done = site.answer(site.search(), [{"path": path, "meta": FILE_TYPE}, *options()])
    assert "40,000,000 pixels" in done["output"]["data"][1]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[" * 100_000, b'{"data": NaN}', b"\xff", b" " * (MOST_JSON + 1), b"null", b"7"]
)
def test_events_that_are_none(site: Site, body: bytes) -> None:
    answer = site.client.post("/gradio_api/queue/join", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422)


async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that is full."""
    await receive()
    await PlainTextResponse("Queue is full.", status_code=503)(scope, receive, send)


def asgi(application: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=application), base_url="http://test")


@pytest.mark.parametrize("full", ["queue", "disk"])
def test_where_there_is_no_room_a_visitor_is_told(tmp_path: Path, full: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    guard = PageGuard(nothing, folder=tmp_path, limits=SMALL)
    if full == "disk":
        monkeypatch.setattr(page_guard, "MOST_ON_DISK", 10)
        (tmp_path / "old.png").write_bytes(bytes(11))

    async def ask() -> httpx.Response:
        async with asgi(guard) as client:
            if full == "disk":
                return await client.post("/gradio_api/upload", files={"files": b"a"})
            return await client.post("/gradio_api/queue/join", json={"data": []})

    answer = asyncio.run(ask())
    assert (answer.status_code, answer.json()) == (429, {"detail": in_all("error.busy")})
