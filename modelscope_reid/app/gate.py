"""What stands before the API and the page: who may come in, how much they may bring, and what is counted.

In: ASGI requests. Out: those that are let through, with their body read within limits; a refusal in one sentence for
the others. Bodies in memory and requests under way are bounded: beyond, a visitor is told to come again (429), before
anything is decoded. Knows nothing of images or galleries.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

import anyio
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from modelscope_reid.app.server_metrics import Metrics
from modelscope_reid.fields import check_input

POSTS = ("/embed", "/search", "/identify", "/enroll")
READS = ("/healthz", "/metrics", "/openapi.json")
"""The routes of the API; everything else is the page's."""
OPEN = "/healthz"
"""The one route that needs no token."""
PAGE = "page"
"""What the page's requests are called where they are counted."""

PAGE_UPLOAD = "/gradio_api/upload"
"""The one request of the page that is large; `page_guard` bounds it."""

PIECE_BYTES = 2**18
"""A body that arrives byte by byte is kept in pieces of this size: single bytes would take many times their room."""

HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
)
"""Sent with every answer. Framing stays allowed: a ModelScope studio shows the page in a frame."""
API_HEADERS = (*HEADERS, (b"cache-control", b"no-store"))


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """How much may be under way at once.

    `body_bytes`: of one request to the API. `bytes_in_flight`: of all of them. `requests`: to the API under way.
    `body_seconds`: how long a body may take to arrive. `page_bytes`: of one request of the page that uploads nothing.

    Raises:
        InputError: a bound that is no number from 1 up.
    """

    body_bytes: int = 64 * 2**20
    bytes_in_flight: int = 128 * 2**20
    requests: int = 128
    body_seconds: float = 30.0
    page_bytes: int = 2**20

    def __post_init__(self) -> None:
        check_input(self, lowest=dict.fromkeys(asdict(self), 1))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


class Refusal(HTTPException):
    """A request that is not let through: status, one sentence, headers."""

    def __init__(self, status: int, sentence: str, **headers: str) -> None:
        super().__init__(status, sentence, {name.replace("_", "-"): value for name, value in headers.items()})


class Gate:
    """ASGI middleware before the whole server; `token` None lets everybody in.

    Once `closing` is set, the page's streams, which would never end, are told that their visitors have left.
    """

    def __init__(
        self, app: ASGIApp, *, bounds: Bounds, token: str | None, metrics: Metrics, closing: asyncio.Event
    ) -> None:
        self.app = app
        self.bounds = bounds
        self._token = token.encode() if token else None
        self._metrics = metrics
        self._closing = closing
        self._requests = 0
        self._bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request through, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":  # the page speaks no WebSocket
                await self.app(scope, receive, send)
            return
        path = scope["path"]
        api = path in POSTS or path in READS
        status, complete, start = 500, False, time.perf_counter()

        async def answer(message: Message) -> None:
            nonlocal status, complete
            complete = message["type"] == "http.response.body" and not message.get("more_body", False)
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *(API_HEADERS if api else HEADERS)]
            await send(message)

        try:
            if api:
                await self._api(scope, receive, answer)
            else:
                await self._page(scope, receive, answer)
            if self._closing.is_set() and not complete:
                await answer({"type": "http.response.body", "body": b""})
        except Refusal as refusal:
            await JSONResponse({"detail": refusal.detail}, refusal.status_code, refusal.headers)(scope, receive, answer)
        finally:
            self._metrics.observe(path if api else PAGE, status, time.perf_counter() - start)

    async def _api(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        self._check_token(scope["path"], headers)
        right = "POST" if scope["path"] in POSTS else "GET"
        if scope["method"] != right:
            raise Refusal(405, f"{scope['path']} takes {right} only.", Allow=right)
        if right == "GET":
            await self.app(scope, receive, send)
            return
        _check_same_site(headers)
        if self._requests >= self.bounds.requests:
            raise _busy(f"{self._requests} requests are under way, as many as may be")
        body = _Body(self, receive, declared=_declared_length(headers))
        self._requests += 1
        try:
            await body.read()
            await self.app(scope, body.replay, send)
        finally:
            self._requests -= 1
            body.release()

    async def _page(self, scope: Scope, receive: Receive, send: Send) -> None:
        upload = scope["path"] == PAGE_UPLOAD
        most, received = self.bounds.page_bytes, 0
        if not upload and (_declared_length(Headers(scope=scope)) or 0) > most:
            raise _too_large(most)

        async def counted() -> Message:
            nonlocal received
            message = await self._unless_closing(receive)
            received += len(message.get("body", b""))
            if received > most and not upload:
                raise _too_large(most)
            return message

        await self.app(scope, counted, send)

    async def _unless_closing(self, receive: Receive) -> Message:
        """Return what comes next; once the server is to end, that the visitor has left."""
        coming, closing = asyncio.ensure_future(receive()), asyncio.ensure_future(self._closing.wait())
        try:
            await asyncio.wait({coming, closing}, return_when=asyncio.FIRST_COMPLETED)
            return coming.result() if coming.done() else {"type": "http.disconnect"}
        finally:
            coming.cancel()
            closing.cancel()

    def reserve(self, count: int) -> None:
        """Take room for bytes of a body; raise a `Refusal` where there is none."""
        if self._bytes + count > self.bounds.bytes_in_flight:
            raise _busy("the requests under way hold as many bytes as may be")
        self._bytes += count

    def release(self, count: int) -> None:
        """Give room back."""
        self._bytes -= count

    def _check_token(self, path: str, headers: Headers) -> None:
        if self._token is None or path == OPEN:
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode("latin-1"), self._token):
            raise Refusal(
                401,
                "the token is missing or wrong; send the header `Authorization: Bearer TOKEN`.",
                WWW_Authenticate="Bearer",
            )


class _Body:
    """The body of one request: read whole into memory, within bounds, then handed on piece by piece."""

    def __init__(self, gate: Gate, receive: Receive, *, declared: int | None) -> None:
        self._gate = gate
        self._receive = receive
        self._declared = declared
        self._held = 0
        self._pieces: deque[bytearray] = deque()
        self._given = False

    async def read(self) -> None:
        """Take everything in.

        Raises:
            Refusal: too much, too slow, or no room.
        """
        bounds = self._gate.bounds
        if (self._declared or 0) > bounds.body_bytes:
            raise _too_large(bounds.body_bytes)
        more = True
        with anyio.move_on_after(bounds.body_seconds):
            while more:
                message = await self._receive()
                if message["type"] != "http.request":
                    raise Refusal(400, "the connection ended before the body did; send it again.")
                self._hold(message.get("body", b""))
                more = message.get("more_body", False)
        if more:
            raise Refusal(408, f"the body did not arrive in {bounds.body_seconds:g} seconds; send it again.")

    async def replay(self) -> Message:
        """Give the application what was read, and then what comes after it."""
        if self._given:
            return await self._receive()
        piece = bytes(self._pieces.popleft()) if self._pieces else b""
        self._given = not self._pieces
        return {"type": "http.request", "body": piece, "more_body": not self._given}

    def release(self) -> None:
        """Give the room back."""
        self._gate.release(self._held)
        self._held = 0

    def _hold(self, piece: bytes) -> None:
        """Keep a piece of the body, where there is room for it."""
        if self._held + len(piece) > self._gate.bounds.body_bytes:
            raise _too_large(self._gate.bounds.body_bytes)
        self._gate.reserve(len(piece))
        self._held += len(piece)
        if not self._pieces or len(self._pieces[-1]) + len(piece) > PIECE_BYTES:
            self._pieces.append(bytearray())
        self._pieces[-1] += piece


def _check_same_site(headers: Mapping[str, str]) -> None:
    """Refuse what another site's page makes a visitor's browser send; programs send neither header."""
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:
        foreign = site not in ("same-origin", "none")
    else:
        foreign = origin is not None and urlsplit(origin).netloc != headers.get("host")
    if foreign:
        raise Refusal(403, "the request comes from another site's page; send it from a program, or from this page.")


def _declared_length(headers: Mapping[str, str]) -> int | None:
    text = headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() else None


def _too_large(most: int) -> Refusal:
    return Refusal(413, f"the request has more than {most:,} bytes; send fewer or smaller images.")


def _busy(why: str) -> Refusal:
    return Refusal(429, f"{why}; try again in a second.", Retry_After="1")
