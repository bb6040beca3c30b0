"""Who comes in, with how much: refusals before anything is read further, and bounds that hold and are given back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from gallery_models import tiny_embedder
from starlette.responses import PlainTextResponse, StreamingResponse

from modelscope_reid.app.gate import POSTS, READS, Bounds, Gate
from modelscope_reid.app.server_metrics import Metrics
from modelscope_reid.app.service import Service
from modelscope_reid.errors import InputError
from modelscope_reid.gallery.gallery import Gallery

Messages = list[dict[str, Any]]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Gallery.open(tmp_path_factory.mktemp("gate") / "g.db", tiny_embedder()) as gallery:
        made = Service(gallery)
        yield made
        made.close()


@pytest.fixture
def metrics(service: Service) -> Metrics:
    return Metrics(service)


@dataclass
class Asked:
    """One request, driven by hand: the pieces of its body, and what came back."""

    path: str = "/search"
    method: str = "POST"
    pieces: tuple[bytes, ...] = (b"body",)
    headers: dict[str, str] = field(default_factory=dict)
    stall: bool = False
    sent: Messages = field(default_factory=list)

    async def receive(self) -> dict[str, Any]:
        if self.pieces:
            first, *rest = self.pieces
            self.pieces = tuple(rest)
            return {"type": "http.request", "body": first, "more_body": bool(rest) or self.stall}
        if self.stall:
            await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)

    async def through(self, gate: Gate) -> Asked:
        raw = [(name.lower().encode(), value.encode()) for name, value in self.headers.items()]
        scope = {"type": "http", "path": self.path, "method": self.method, "headers": raw, "query_string": b""}
        await gate(scope, self.receive, self.send)
        return self

    @property
    def status(self) -> int:
        return self.sent[0]["status"]

    @property
    def detail(self) -> str:
        return json.loads(self.sent[1]["body"])["detail"]

    def header(self, name: str) -> str | None:
        return {key.decode(): value.decode() for key, value in self.sent[0]["headers"]}.get(name)


class Application:
    """Reads the body, and waits until it is let."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.reads = 0
        self.go: asyncio.Event | None = None

    async def __call__(self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            self.reads += 1
            body += message.get("body", b"")
            more = message.get("more_body", False)
        self.bodies.append(body)
        if self.go is not None:
            await self.go.wait()
        await PlainTextResponse("ok")(scope, receive, send)


def gate_of(metrics: Metrics, *, token: str | None = None, **bounds: Any) -> tuple[Gate, Application]:
    application = Application()
    return Gate(
        application, bounds=Bounds(**bounds), token=token, metrics=metrics, closing=asyncio.Event()
    ), application


def test_a_body_in_pieces_comes_through_whole(metrics: Metrics) -> None:
    gate, application = gate_of(metrics)
    asked = asyncio.run(Asked(pieces=(b"a", b"", b"bc")).through(gate))
    assert asked.status == 200 and application.bodies == [b"abc"]
    assert (asked.header("x-content-type-options"), asked.header("cache-control")) == ("nosniff", "no-store")
    assert asked.header("x-frame-options") is None and asked.header("access-control-allow-origin") is None


def test_a_body_byte_by_byte_is_kept_in_few_pieces(metrics: Metrics) -> None:
    gate, application = gate_of(metrics)
    asked = Asked(pieces=(b"x",) * 5000)
    asyncio.run(asked.through(gate))
    assert application.bodies == [b"x" * 5000] and application.reads == 1


@pytest.mark.parametrize("headers", [{}, {"Content-Length": "11"}])
def test_a_body_that_is_too_long(metrics: Metrics, headers: dict[str, str]) -> None:
    gate, application = gate_of(metrics, body_bytes=10)
    pieces = (b"12345", b"12345", b"1", b"never read")
    asked = Asked(pieces=pieces, headers=headers)
    asyncio.run(asked.through(gate))
    assert asked.status == 413 and "more than 10 bytes" in asked.detail
    assert len(asked.pieces) == (4 if headers else 1) and not application.bodies
    assert asyncio.run(Asked(pieces=(b"12345", b"12345")).through(gate)).status == 200


def test_bytes_under_way_are_bounded_and_given_back(metrics: Metrics) -> None:
    async def scenario() -> None:
        gate, application = gate_of(metrics, body_bytes=10, bytes_in_flight=15)
        application.go = asyncio.Event()
        first = asyncio.create_task(Asked(pieces=(b"1234567890",)).through(gate))
        await asyncio.sleep(0)
        refused = await Asked(pieces=(b"123456",)).through(gate)
        assert refused.status == 429 and refused.header("Retry-After".lower()) == "1"
        assert refused.detail == "the requests under way hold as many bytes as may be; try again in a second."
        small = asyncio.create_task(Asked(pieces=(b"12345",)).through(gate))
        await asyncio.sleep(0)
        application.go.set()
        assert (await first).status == (await small).status == 200
        assert (await Asked(pieces=(b"1234567890",)).through(gate)).status == 200
        assert application.bodies == [b"1234567890", b"12345", b"1234567890"]

    asyncio.run(scenario())


def test_requests_under_way_are_bounded_and_reading_is_always_answered(metrics: Metrics) -> None:
    async def scenario() -> None:
        gate, application = gate_of(metrics, requests=2)
        application.go = asyncio.Event()
        running = [asyncio.create_task(Asked().through(gate)) for _ in range(2)]
        await asyncio.sleep(0)
        refused = await Asked().through(gate)
        assert refused.status == 429 and refused.pieces and "2 requests are under way" in refused.detail
        application.go.set()
        assert (await Asked(path="/healthz", method="GET").through(gate)).status == 200
        assert [(await one).status for one in running] == [200, 200]
        assert (await Asked().through(gate)).status == 200

    asyncio.run(scenario())


def test_a_body_that_does_not_arrive(metrics: Metrics) -> None:
    gate, application = gate_of(metrics, body_seconds=1.0)
    asked = asyncio.run(Asked(pieces=(b"a",), stall=True).through(gate))
    assert asked.status == 408 and "did not arrive in 1 seconds" in asked.detail and not application.bodies


def test_a_visitor_who_leaves(metrics: Metrics) -> None:
    gate, application = gate_of(metrics)
    assert asyncio.run(Asked(pieces=()).through(gate)).status == 400
    assert not application.bodies


@pytest.mark.parametrize("path", [*POSTS, *READS])
@pytest.mark.parametrize(
    "given", [None, "", "Bearer", "Bearer wrong", "Bearer sesame2", "Basic sesame", "sesame", "Bearer s\u00e9same"]
)
def test_without_the_token_nothing_but_healthz(metrics: Metrics, path: str, given: str | None) -> None:
    gate, application = gate_of(metrics, token="sesame")
    headers = {} if given is None else {"Authorization": given}
    method = "POST" if path in POSTS else "GET"
    asked = asyncio.run(Asked(path=path, method=method, headers=headers).through(gate))
    if path == "/healthz":
        assert asked.status == 200
        return
    assert asked.status == 401 and asked.header("www-authenticate") == "Bearer" and not application.bodies
    assert "sesame" not in asked.detail


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
@pytest.mark.parametrize("token", ["sesame", "s\u00e9same \u4e2d"])
def test_with_the_token(metrics: Metrics, scheme: str, token: str) -> None:
    gate, _ = gate_of(metrics, token=token)
    assert asyncio.run(Asked(headers={"Authorization": f"{scheme} {token}"}).through(gate)).status == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "https://proxy"}, 200),
        ({"Origin": "http://evil.example", "Host": "127.0.0.1:7860"}, 403),
        ({"Origin": "null", "Host": "127.0.0.1:7860"}, 403),
        ({"Origin": "http://127.0.0.1:7860", "Host": "127.0.0.1:7860"}, 200),
    ],
)
def test_another_sites_page_sends_nothing(metrics: Metrics, headers: dict[str, str], status: int) -> None:
    gate, _ = gate_of(metrics)
    assert asyncio.run(Asked(headers=headers).through(gate)).status == status


def test_the_pages_requests_are_bounded_but_for_uploads(metrics: Metrics) -> None:
    gate, application = gate_of(metrics, page_bytes=5)
    for pieces, headers in (((b"123456",), {"Content-Length": "6"}), ((b"123", b"456"), {})):
        asked = asyncio.run(Asked(path="/login", pieces=pieces, headers=headers).through(gate))
        assert asked.status == 413
    assert not application.bodies
    asked = asyncio.run(Asked(path="/gradio_api/upload", pieces=(b"123456",)).through(gate))
    assert asked.status == 200 and asked.header("cache-control") is None


def test_requests_are_counted_by_route(metrics: Metrics) -> None:
    gate, _ = gate_of(metrics, body_bytes=5)
    for path, pieces in (("/search", (b"1",)), ("/search", (b"123456",)), ("/anything/at/all", (b"",))):
        asyncio.run(Asked(path=path, pieces=pieces).through(gate))
    text = metrics.text().decode()
    for route, status in (("/search", 200), ("/search", 413), ("page", 200)):
        assert f'modelscope_reid_requests_total{{route="{route}",status="{status}"}} 1.0' in text
    assert "anything" not in text


def test_a_stream_of_the_page_ends_when_the_server_is_to_end(metrics: Metrics) -> None:
    async def endless(scope: Any, receive: Callable[[], Awaitable[Any]], send: Any) -> None:
        await StreamingResponse(ticks())(scope, receive, send)

    async def ticks() -> AsyncIterator[bytes]:
        while True:
            yield b"."
            await asyncio.sleep(0.01)

    async def scenario() -> None:
        closing = asyncio.Event()
        gate = Gate(endless, bounds=Bounds(), token=None, metrics=metrics, closing=closing)
        streaming = asyncio.create_task(Asked(path="/gradio_api/queue/data", stall=True, pieces=()).through(gate))
        await asyncio.sleep(0.05)
        assert not streaming.done()
        closing.set()
        asked = await asyncio.wait_for(streaming, 5)
        assert asked.status == 200 and asked.sent[-1] == {"type": "http.response.body", "body": b""}

    asyncio.run(scenario())


def test_a_websocket_is_not_spoken(metrics: Metrics) -> None:
    gate, application = gate_of(metrics)
    asyncio.run(gate({"type": "websocket", "path": "/search"}, Asked().receive, Asked().send))
    assert not application.bodies


@pytest.mark.parametrize("wrong", [{"requests": 0}, {"body_bytes": "1"}, {"body_seconds": 0.5}])
def test_bounds_are_checked_when_they_are_made(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"Bounds.{next(iter(wrong))}"):
        Bounds(**wrong)


def test_bounds_as_plain_values() -> None:
    assert Bounds().to_dict()["requests"] == 128
