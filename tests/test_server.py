"""The whole server: API and page on one port, the token before both, schemathesis against it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from gallery_models import tiny_embedder
from serving import CROPS, drawn_gallery, parts, running

from modelscope_reid.app.server import serve, warm_up
from modelscope_reid.app.service import Service
from modelscope_reid.errors import InputError
from modelscope_reid.gallery.gallery import Gallery


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Gallery.open(tmp_path_factory.mktemp("server") / "g.db", tiny_embedder()) as gallery:
        made = Service(gallery)
        yield made
        made.close()


def test_page_and_api_are_on_one_port(service: Service) -> None:
    with running(service) as client:
        page = client.get("/")
        assert page.status_code == 200 and "text/html" in page.headers["content-type"]
        assert page.headers["x-content-type-options"] == "nosniff" and "x-frame-options" not in page.headers
        assert client.get("/healthz").json()["ok"] is True
        assert client.get("/search").status_code == 405  # not the page's
        assert client.get("/docs").status_code == 404  # its page would load scripts of other hosts
        assert "access-control-allow-origin" not in client.get("/healthz", headers={"Origin": "http://x"}).headers


def test_with_a_token_the_page_wants_it_as_a_password(service: Service) -> None:
    with running(service, token="sesame") as client:
        assert "auth_required" in client.get("/").text
        closed = [("GET", path) for path in ("/config", "/gradio_api/queue/data?session_hash=a")]
        closed += [("POST", path) for path in ("/gradio_api/queue/join", "/gradio_api/upload")]
        for method, path in closed:
            body = {"json": {"fn_index": 0, "data": [], "session_hash": "a"}} if path.endswith("join") else {}
            answer = client.request(method, path, **body)
            assert answer.status_code == 401, path
        for path in ("/gradio_api/info", "/gradio_api/file=/etc/passwd", "/gradio_api/proxy=http://127.0.0.1/"):
            assert client.get(path).status_code in (401, 404), path
        wrong = client.post("/login", data={"username": "anybody", "password": "no"})
        assert wrong.status_code == 400
        right = client.post("/login", data={"username": "anybody", "password": "sesame"})
        assert right.status_code == 200
        assert client.get("/config").status_code == 200  # by the cookie that came with it
        assert client.get("/metrics").status_code == 401  # which is for the page only


def test_ctrl_c_ends_it(service: Service) -> None:
    said: list[str] = []

    def announce(address: str) -> None:
        said.append(address)
        threading.Timer(0.2, signal.raise_signal, (signal.SIGINT,)).start()

    before = signal.getsignal(signal.SIGINT)
    serve(service, port=0, announce=announce)
    assert said[0].startswith("http://127.0.0.1:") and signal.getsignal(signal.SIGINT) is before


def test_a_taken_port_is_one_sentence(service: Service) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port} of 127.0.0.1 cannot be had .*in use.*--port"):
            serve(service, port=port)


@pytest.mark.parametrize(("host", "port"), [("no.such.host.invalid", 0), ("127.0.0.1", 70_000)])
def test_an_address_that_is_none(service: Service, host: str, port: int) -> None:
    with pytest.raises(InputError, match=r"is no address of this machine|the port is 70000"):
        serve(service, host=host, port=port)


def test_warming_up_runs_the_model_once(service: Service) -> None:
    before = sum(service.batch_sizes().values())
    warm_up(service)
    assert sum(service.batch_sizes().values()) == before + 1


def test_answers_are_not_held_back_for_a_second_packet(service: Service) -> None:
    with running(service) as client:
        client.get("/healthz")
        taken = min(client.get("/healthz").elapsed.total_seconds() for _ in range(10))
        assert taken < 0.03  # 0.04 where Nagle's algorithm waits for the client's acknowledgement


def test_nothing_is_left_behind(service: Service) -> None:
    with running(service) as client:
        client.post("/search", files=parts(CROPS[0]))
    names = {thread.name.split("_")[0] for thread in threading.enumerate() if not thread.daemon}
    assert "api" not in names


@pytest.mark.slow
def test_schemathesis_finds_no_5xx_and_no_answer_that_is_not_described(tmp_path: Path) -> None:
    with drawn_gallery(tmp_path) as gallery:
        service = Service(gallery)
        with running(service) as client:
            command = [str(Path(sys.executable).with_name("st")), "run", f"{client.base_url}/openapi.json"]
            # In a form everything is text: a number where a name is wanted is a name.
            command += ["--checks", "all", "--exclude-checks", "negative_data_rejection", "--no-shrink", "--seed", "0"]
            command += ["--max-examples", "10", "--max-time", "10"]
            environment = {
                **os.environ,
                "PYTHONPATH": str(Path(__file__).parent),
                "SCHEMATHESIS_HOOKS": "schemathesis_hooks",
            }
            said = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
            assert said.returncode == 0, said.stdout[-5000:] + said.stderr[-2000:]
            counts = httpx.get(f"{client.base_url}/metrics").text
            assert 'status="200"' in counts and 'status="5' not in counts
        service.close()
