"""What stands before gradio: only what the page needs is there, and only files that were uploaded are named.

In: HTTP requests to the page. Out: the same, or a refusal in the page's own words. Left to itself, gradio (6.31) gives
copies of uploads to whoever names them, fetches addresses that a request names as a file, and, mounted rather than
launched, takes any path of the server for a file. Here a request that names anything but an upload is refused before
gradio reads it, and uploads are bounded. Knows nothing of galleries.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from modelscope_reid.app.texts import in_all
from modelscope_reid.app.uploaded_files import sweep
from modelscope_reid.app.uploads import UploadLimits

MOST_JSON = 2**18
"""The longest event, in bytes: names and numbers, and paths of uploads."""
HEAD_BYTES = 1024
"""How much stands around each file of an upload."""
MOST_ON_DISK = 4 * 2**30
"""How many bytes of uploads may lie on the disk."""
SWEEP_SECONDS = 60.0

API = "/gradio_api"
JOIN, UPLOAD = f"{API}/queue/join", f"{API}/upload"
READ = re.compile(
    r"/|/(config|login)/?|/theme\.css|/robots\.txt|/favicon\.ico|/manifest\.json|/logout|/(assets|static)/.*"
    rf"|{API}/(login_check/?|user/?|info|startup-events|theme\.css|queue/data|upload_progress|heartbeat/\w{{1,64}})"
)
WRITTEN = re.compile(rf"/login/?|/logout|{JOIN}|{UPLOAD}|{API}/(reset|cancel)/?")
"""What the page needs of gradio's routes, for reading and for writing. The rest (copies of files, proxies, other
people's spaces, histories, the editing of code) is not there."""


class PageGuard:
    """An ASGI middleware around gradio's own application; `folder` is where uploads lie."""

    def __init__(self, app: ASGIApp, *, folder: Path, limits: UploadLimits) -> None:
        self._app = app
        self._folder = folder
        self._limits = limits
        self._swept = 0.0
        self._bytes_left = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on to gradio, or refuse it."""
        path = scope.get("path", "").removeprefix(scope.get("root_path", "").rstrip("/"))
        method = scope.get("method")
        allowed = READ if method in ("GET", "HEAD") else WRITTEN if method == "POST" else None
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] != "http" or allowed is None or not allowed.fullmatch(path or "/"):
            await _refusal("error.refused", status=404)(scope, receive, send)
        elif path == JOIN:
            await self._join(scope, receive, send)
        elif path == UPLOAD:
            await self._upload(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _join(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Look through an event, and give gradio what was looked through."""
        try:
            event = json.loads(await _whole(receive, most=MOST_JSON), parse_constant=_no_number)
            named = list(_files_named(event))
        except (ValueError, RecursionError):
            await _refusal("error.refused", status=400)(scope, receive, send)
            return
        if not all(self._is_upload(path) for path in named):
            await _refusal("error.refused", status=400)(scope, receive, send)
        elif not all(Path(path).is_file() for path in named):
            await _refusal("error.gone", status=400)(scope, receive, send)
        else:
            full = {503: _refusal("error.busy", status=429)}  # for 503 gradio's page has a sentence of its own
            await self._app(*_replayed(scope, receive, json.dumps(event).encode()), _reworded(send, full))

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take files, where there is room for them."""
        now = time.monotonic()
        if now - self._swept > SWEEP_SECONDS:
            self._swept = now
            self._bytes_left = await asyncio.to_thread(sweep, self._folder)
        if self._bytes_left > MOST_ON_DISK:
            await _refusal("error.busy", status=429)(scope, receive, send)
            return

        most = self._limits.max_images * (self._limits.max_bytes + HEAD_BYTES)
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            self._bytes_left += len(message.get("body", b""))
            if received > most:
                raise HTTPException(413)
            return message

        words = {"megabytes": self._limits.max_bytes // 2**20, "count": self._limits.max_images}
        too_large = PlainTextResponse(in_all("error.too_large", **words), status_code=413)
        await self._app(scope, counted, _reworded(send, {413: too_large}))

    def _is_upload(self, named: str) -> bool:
        """Tell whether a path lies in the folder of uploads; an address never does."""
        try:
            return Path(named).is_absolute() and self._folder in Path(named).resolve().parents
        except (OSError, RuntimeError, ValueError):
            return False


def _refusal(key: str, *, status: int) -> Response:
    """Return an answer of which gradio's page shows the sentence."""
    return JSONResponse({"detail": in_all(key)}, status_code=status)


def _reworded(send: Send, instead: Mapping[int, Response]) -> Send:
    """Return a `send` that gives other answers in place of those of some status."""
    answer: Response | None = None

    async def reworded(message: Message) -> None:
        nonlocal answer
        if message["type"] == "http.response.start":
            answer = instead.get(message["status"])
        if answer is None:
            await send(message)
        elif message["type"] == "http.response.start":
            await send({**message, "status": answer.status_code, "headers": answer.raw_headers})
        elif not message.get("more_body", False):
            await send({"type": "http.response.body", "body": answer.body})

    return reworded


async def _whole(receive: Receive, *, most: int) -> bytes:
    """Return a body; raise ValueError where it is longer than `most` bytes or its sender has left."""
    body = bytearray()
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        if message["type"] != "http.request" or len(body) > most:
            raise ValueError("the body is too long, or not whole")
        more = message.get("more_body", False)
    return bytes(body)


def _replayed(scope: Scope, receive: Receive, body: bytes) -> tuple[Scope, Receive]:
    """Return a request that has this body in place of the one that was read."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]
    headers = [(name, value) for name, value in scope["headers"] if name not in (b"content-length", b"content-type")]
    headers += [(b"content-length", str(len(body)).encode()), (b"content-type", b"application/json")]

    async def replayed() -> Message:
        return waiting.pop() if waiting else await receive()

    return {**scope, "headers": headers}, replayed


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _files_named(value: Any) -> Iterator[str]:
    """Yield every path in an event, wherever it stands; gradio takes {"path": …} for a file in any place."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            if isinstance(item.get("path"), str):
                yield item["path"]
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)
