"""The API as programs use it: the real server on loopback, a real gallery, the bundled model."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from gallery_models import tiny_embedder
from http_server import serve
from serving import CROPS, drawn_gallery, huge_png, parts, running

from modelscope_reid.app.api import STATUSES
from modelscope_reid.app.gate import POSTS, Bounds
from modelscope_reid.app.service import Service
from modelscope_reid.app.uploads import UploadLimits
from modelscope_reid.datasets.synthetic import draw_sample_crops
from modelscope_reid.errors import BusyError, ReidError
from modelscope_reid.gallery.entries import Filters, Match
from modelscope_reid.gallery.gallery import Gallery


def told(match: Match) -> dict[str, Any]:
    """What the API says of a match: its image by name, no path of the server."""
    return {**match.to_dict(), "source": Path(match.entry.source).name}


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gallery]:
    with drawn_gallery(tmp_path_factory.mktemp("api")) as opened:
        yield opened


@pytest.fixture(scope="module")
def client(gallery: Gallery) -> Iterator[httpx.Client]:
    service = Service(gallery, limits=UploadLimits(max_bytes=2**20, max_images=8))
    with running(service, bounds=Bounds(body_bytes=4 * 2**20)) as made:
        yield made
    service.close()


@pytest.fixture(scope="module")
def queries(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return draw_sample_crops(tmp_path_factory.mktemp("queries"), people=8, cameras=4)


def test_embed(client: httpx.Client, gallery: Gallery, queries: list[Path]) -> None:
    answer = client.post("/embed", files=parts(*queries[:3]))
    assert answer.status_code == 200 and answer.json()["dimension"] == gallery.embedder.embedding_dim
    expected = gallery.embedder.embed(queries[:3], normalize=True)
    assert np.abs(np.array(answer.json()["embeddings"]) - expected).max() < 1e-5


def test_search_is_the_gallerys_to_the_digit(client: httpx.Client, gallery: Gallery, queries: list[Path]) -> None:
    answer = client.post("/search", files=parts(*queries[:3]), data={"top": "4"})
    expected = gallery.search(queries[:3], top=4)
    assert answer.json() == {
        "results": [
            {"query": path.name, "matches": [told(match) for match in matches]}
            for path, matches in zip(queries[:3], expected, strict=True)
        ]
    }


def test_search_with_filters(client: httpx.Client, gallery: Gallery, queries: list[Path]) -> None:
    data = {"camera": ["1", "2"], "exclude_camera": "2", "person": "person02", "since": "1970-01-01", "until": "1e6"}
    answer = client.post("/search", files=parts(queries[0]), data={**data, "rerank": "true"})
    filters = Filters(cameras=("1", "2"), exclude_cameras=("2",), persons=("person02",), since=0.0, until=1e6)
    (expected,) = gallery.search(queries[0], filters=filters, rerank=True)
    assert answer.json()["results"][0]["matches"] == [told(match) for match in expected]
    assert [match.entry.camera_id for match in expected] == ["1"]


@pytest.mark.parametrize("data", [{}, {"method": "vote", "neighbours": "3"}, {"threshold": "0.99"}, {"closed": "true"}])
def test_identify(client: httpx.Client, gallery: Gallery, queries: list[Path], data: dict[str, str]) -> None:
    answer = client.post("/identify", files=parts(*queries[:4]), data=data)
    readers = {"neighbours": int, "threshold": float, "closed": "true".__eq__}
    options: dict[str, Any] = {name: readers.get(name, str)(value) for name, value in data.items()}
    expected = gallery.identify(queries[:4], **options)
    assert answer.json()["results"] == [
        {"query": path.name, **one.to_dict(), "matches": [told(match) for match in one.matches]}
        for path, one in zip(queries, expected, strict=False)
    ]


def test_enroll_and_find(tmp_path: Path) -> None:
    with Gallery.open(tmp_path / "g.db", tiny_embedder()) as opened:
        service = Service(opened)
        with running(service) as client:
            data = {"person_id": "Ann", "camera_id": "5", "timestamp": "1970-01-01T00:01:00"}
            answer = client.post("/enroll", files=parts(CROPS[0], b"no image"), data=data)
            assert answer.status_code == 200
            assert answer.json()["failures"][0]["index"] == 1
            assert {**answer.json(), "failures": []} == {"added": 1, "known": 0, "failures": []}
            assert client.get("/healthz").json()["entries"] == 1
            (match,) = client.post("/search", files=parts(CROPS[0])).json()["results"][0]["matches"]
            assert (match["person_id"], match["camera_id"], match["timestamp"]) == ("Ann", "5", 60.0)
            assert match["similarity"] == pytest.approx(1.0, abs=1e-6) and match["decision"] == "same"
            again = client.post("/enroll", files=parts(CROPS[0]), data={"person_id": "Bob"})
            assert again.json() == {"added": 0, "known": 1, "failures": []}
            nothing = client.post("/enroll", files=parts(b"no image", b"none"))
            assert nothing.status_code == 400 and nothing.json()["detail"].startswith("image 0 (file0.png) is no image")
        service.close()


def test_health_names_no_secret_and_no_path(client: httpx.Client, gallery: Gallery) -> None:
    answer = client.get("/healthz")
    info = gallery.store.info
    assert answer.json() == {"ok": True, "entries": 12, "model": info.model, "dimension": info.dimension}
    assert "/" not in answer.text.replace("application/json", "")


def test_metrics_count_batches(client: httpx.Client) -> None:
    client.post("/search", files=parts(CROPS[0]))
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert 'modelscope_reid_requests_total{route="/search",status="200"}' in answer.text
    assert "modelscope_reid_entries 12.0" in answer.text and "modelscope_reid_batch_images_sum" in answer.text


@pytest.mark.parametrize("route", POSTS)
@pytest.mark.parametrize("content", [b"", b"/etc/passwd", b"\x89PNG\r\n\x1a\ncut off", b"<svg></svg>"])
def test_what_is_no_image_is_named_by_its_place(client: httpx.Client, route: str, content: bytes) -> None:
    files = parts(content) if route == "/enroll" else parts(CROPS[0], content)
    answer = client.post(route, files=files)
    place = len(files) - 1
    assert answer.status_code == 400 and answer.json()["detail"].startswith(f"image {place} (file{place}.png) ")


@pytest.mark.parametrize("route", POSTS)
def test_an_address_and_a_path_are_no_images(client: httpx.Client, route: str) -> None:
    with serve(CROPS[0].read_bytes()) as inner:
        inner.RequestHandlerClass = _counting(inner.RequestHandlerClass, calls := [])
        url = inner.url("/good")
        for value in (url, "/etc/passwd", f"file://{CROPS[0]}", str(CROPS[0])):
            as_file = client.post(route, files=parts(value.encode()))
            named = client.post(route, files=[("images", (value, b""))])
            as_text = client.post(route, files=[("images", (None, value))])
            for answer, name in ((as_file, "image 0 (file0.png)"), (named, "image 0 ("), (as_text, "image 0 ")):
                assert answer.status_code == 400 and answer.json()["detail"].startswith(name)
                assert "root:" not in answer.text
            field = client.post(route, files=parts(CROPS[0]), data={"url": url})
            assert field.status_code == 422 and "'url' is no field of this form" in field.json()["detail"]
        assert not calls
        httpx.get(url)
        assert calls == ["/good"]  # the listener would have seen it


def _counting(handler: type, calls: list[str]) -> type:
    class Counting(handler):
        def do_GET(self) -> None:
            calls.append(self.path)
            super().do_GET()

    return Counting


@pytest.mark.parametrize("route", POSTS)
def test_too_large_a_picture(client: httpx.Client, route: str) -> None:
    start = time.perf_counter()
    answer = client.post(route, files=parts(huge_png()))
    assert time.perf_counter() - start < 2
    if route == "/enroll":
        assert answer.status_code == 400
    else:
        assert answer.status_code == 413
    assert answer.json()["detail"] == "image 0 (file0.png) has more than 40,000,000 pixels; send a smaller image."


def test_too_many_bytes_and_too_many_images(client: httpx.Client) -> None:
    one = client.post("/search", files=parts(bytes(2**20 + 1)))
    assert one.status_code == 413 and "has 1,048,577 bytes, more than 1,048,576" in one.json()["detail"]
    count = client.post("/search", files=parts(*CROPS[:9]))
    assert count.status_code == 413 and "9 images were sent at once, more than 8" in count.json()["detail"]
    body = client.post("/search", files=parts(bytes(4 * 2**20)))
    assert body.status_code == 413 and "more than 4,194,304 bytes" in body.json()["detail"]


def test_a_chunked_body_is_stopped_while_it_is_read(client: httpx.Client) -> None:
    given = 0

    def endless() -> Iterator[bytes]:
        nonlocal given
        for _ in range(1000):
            given += 2**16
            yield bytes(2**16)

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    try:
        assert client.post("/search", content=endless(), headers=headers).status_code == 413
    except httpx.WriteError:  # the server hung up while we were still sending
        assert given < 65 * 2**20
    assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    ("request_of", "status", "said"),
    [
        ({"data": {"top": "3"}, "files": [("top", (None, "3"))]}, 422, "top is given 2 times"),
        ({"files": [("top", (None, "3"))]}, 422, "there is no image"),
        ({"files": parts(CROPS[0]), "data": {"top": "0"}}, 422, "top is '0'"),
        ({"files": parts(CROPS[0]), "data": {"since": "noon"}}, 422, "'noon' is no time"),
        ({"json": {"images": ["http://127.0.0.1/x"]}}, 422, "there is no image"),
        ({"data": {"images": "/etc/passwd"}}, 400, "image 0 is no image"),
        ({"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}, 400, "Missing boundary"),
        ({"content": b"x", "headers": {"Content-Type": "multipart/form-data; boundary=b"}}, 400, "nvalid"),
        ({}, 422, "there is no image"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    client: httpx.Client, request_of: dict[str, Any], status: int, said: str
) -> None:
    answer = client.post("/search", **request_of)
    assert answer.status_code == status and set(answer.json()) == {"detail"}
    assert said in answer.json()["detail"]


@pytest.mark.parametrize("route", [*POSTS, "/healthz", "/metrics"])
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY"])
def test_other_methods(client: httpx.Client, route: str, method: str) -> None:
    right = "POST" if route in POSTS else "GET"
    if method == right:
        return
    answer = client.request(method, route)
    assert answer.status_code == 405 and answer.headers["allow"] == right
    assert answer.json() == {"detail": f"{route} takes {right} only."}


def test_32_clients_each_get_their_own_answer_out_of_shared_batches(
    client: httpx.Client, gallery: Gallery, queries: list[Path]
) -> None:
    expected = [[told(match) for match in gallery.search([path], top=3)[0]] for path in queries]
    before = _batches(client)

    def ask(place: int) -> list[dict[str, Any]]:
        answer = client.post("/search", files=parts(queries[place]), data={"top": "3"})
        assert answer.status_code == 200
        return answer.json()["results"][0]["matches"]

    with ThreadPoolExecutor(32) as pool:
        found = list(pool.map(ask, list(range(32)) * 3))
    for matches, right in zip(found, expected * 3, strict=True):
        assert [match["key"] for match in matches] == [match["key"] for match in right]
        for match, other in zip(matches, right, strict=True):
            assert match["similarity"] == pytest.approx(other["similarity"], abs=1e-5)
    images, calls = (after - start for after, start in zip(_batches(client), before, strict=True))
    assert images == 96 and calls < 80


def _batches(client: httpx.Client) -> tuple[float, float]:
    text = client.get("/metrics").text
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return float(lines["modelscope_reid_batch_images_sum"]), float(lines["modelscope_reid_batch_images_count"])


class Held:
    """A runtime that waits until it is let."""

    def __init__(self, runtime: Any) -> None:
        self.runtime, self.fingerprint = runtime, runtime.fingerprint
        self.begun, self.go = threading.Semaphore(0), threading.Event()

    def run(self, images: Any, camera_ids: object = None) -> Any:
        self.begun.release()
        assert self.go.wait(20)
        return self.runtime.run(images)


def test_busy(tmp_path: Path) -> None:
    embedder = tiny_embedder()
    with Gallery.open(tmp_path / "g.db", embedder) as opened, ThreadPoolExecutor(8) as pool:
        embedder.runtime = held = Held(embedder.runtime)
        service = Service(opened, waiting=2)
        with running(service, bounds=Bounds(requests=4)) as client:
            asking = [pool.submit(client.post, "/embed", files=parts(CROPS[0]))]
            assert held.begun.acquire(timeout=20)
            asking += [pool.submit(client.post, "/embed", files=parts(CROPS[0])) for _ in range(2)]
            while service.waiting < 2:
                time.sleep(0.01)
            waits = client.post("/embed", files=parts(CROPS[0]))
            assert waits.status_code == 429 and waits.headers["retry-after"] == "1"
            assert waits.json()["detail"] == "2 images wait already, of 2 at most; try again in a second."
            asking.append(pool.submit(client.post, "/enroll", files=parts(CROPS[1])))
            assert held.begun.acquire(timeout=20)  # the enrolment is under way, and waits for its model
            full = client.post("/embed", files=parts(CROPS[0]))
            assert full.status_code == 429 and "4 requests are under way" in full.json()["detail"]
            assert client.get("/healthz").status_code == 200
            held.go.set()
            assert [one.result(20).status_code for one in asking] == [200] * 4
            assert client.post("/embed", files=parts(CROPS[0])).status_code == 200
        service.close()


def test_token(gallery: Gallery) -> None:
    service = Service(gallery)
    with running(service, token="sesame") as client:
        for method, route in [("POST", route) for route in POSTS] + [("GET", "/metrics"), ("GET", "/openapi.json")]:
            for headers in ({}, {"Authorization": "Bearer no"}, {"Authorization": "Basic sesame"}):
                answer = client.request(method, route, headers=headers)
                assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
        assert client.get("/healthz").status_code == 200
        headers = {"Authorization": "Bearer sesame"}
        assert client.post("/search", files=parts(CROPS[0]), headers=headers).status_code == 200
        assert client.get("/metrics", headers=headers).status_code == 200
        described = client.get("/openapi.json", headers=headers).json()
        assert described["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
        assert "security" in described["paths"]["/search"]["post"]
        assert "security" not in described["paths"]["/healthz"]["get"]
    service.close()


def test_read_only(gallery: Gallery) -> None:
    service = Service(gallery, read_only=True)
    with running(service) as client:
        answer = client.post("/enroll", files=parts(CROPS[0]))
        assert answer.status_code == 403 and "read only" in answer.json()["detail"]
        assert client.post("/search", files=parts(CROPS[0])).status_code == 200
    service.close()


def test_a_gallery_that_is_gone_names_no_path(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    opened = Gallery.open(tmp_path / "secret.db", tiny_embedder())
    service = Service(opened)
    with running(service) as client:
        opened.close()
        for answer in (
            client.post("/search", files=parts(CROPS[0])),
            client.post("/enroll", files=parts(CROPS[0])),
            client.get("/healthz"),
            client.get("/metrics"),
        ):
            assert answer.status_code == 503 and "secret" not in answer.text and str(tmp_path) not in answer.text
            assert "cannot be used now" in answer.json()["detail"]
    assert "secret.db was closed" in caplog.text  # whoever runs the server is told
    service.close()


def test_a_client_that_leaves_in_the_middle(client: httpx.Client) -> None:
    address = (client.base_url.host, client.base_url.port)
    for sent in (b"POST /search HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc", b"POST /sea"):
        with socket.create_connection(address) as connection:
            connection.sendall(sent)
    assert client.get("/healthz").status_code == 200


def test_no_header_lets_other_sites_read(client: httpx.Client) -> None:
    address = (client.base_url.host, client.base_url.port)
    connection = http.client.HTTPConnection(*address)
    connection.request("GET", "/healthz", headers={"Origin": "http://evil.example"})
    headers = {name.lower(): value for name, value in connection.getresponse().getheaders()}
    assert "access-control-allow-origin" not in headers and "server" not in headers
    assert headers["x-content-type-options"] == "nosniff"
    answer = client.post("/enroll", files=parts(CROPS[0]), headers={"Origin": "http://evil.example"})
    assert answer.status_code == 403 and "another site's page" in answer.json()["detail"]


def test_every_kind_of_error_has_a_status() -> None:
    assert STATUSES[ReidError] == 503 and STATUSES[BusyError] == 429


def test_the_description_is_whole(client: httpx.Client) -> None:
    described = client.get("/openapi.json").json()
    assert set(described["paths"]) == {*POSTS, "/healthz", "/metrics"}
    for route in POSTS:
        operation = described["paths"][route]["post"]
        assert set(operation["responses"]) == {"200", "400", "401", "403", "408", "413", "422", "429", "503"}
        for status, answer in operation["responses"].items():
            schema = answer["content"]["application/json"]["schema"]
            assert (schema["$ref"] == "#/components/schemas/Problem") == (status != "200")
        assert "multipart/form-data" in operation["requestBody"]["content"]
