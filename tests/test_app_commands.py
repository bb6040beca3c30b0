"""The command app, as typed: a process that says where it is, answers, and ends when it is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from serving import CROPS, parts

from modelscope_reid.app_commands import is_loopback
from modelscope_reid.cli import main

COMMAND = [sys.executable, "-m", "modelscope_reid", "app", "--port", "0"]


@contextmanager
def started(*options: str, token: str | None = None) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command in a process of its own, and the address that it says; ended if nobody has."""
    environment = {**os.environ, **({"MODELSCOPE_REID_TOKEN": token} if token else {})}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([*COMMAND, *options], env=environment, **pipes)
    try:
        line = process.stdout.readline().strip()
        assert line.startswith("http://127.0.0.1:"), process.stderr.read()
        yield process, line
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    place = tmp_path / "gallery.db"
    with started("--gallery", str(place), token="sesame") as (process, address):
        headers = {"Authorization": "Bearer sesame"}
        assert httpx.get(f"{address}/healthz").json()["entries"] == 0
        assert httpx.post(f"{address}/search", files=parts(CROPS[0])).status_code == 401
        start = time.perf_counter()
        first = httpx.post(f"{address}/search", files=parts(CROPS[0]), headers=headers)
        assert first.status_code == 200 and time.perf_counter() - start < 2
        data = {"person_id": "Ann"}
        assert httpx.post(f"{address}/enroll", files=parts(*CROPS[:3]), data=data, headers=headers).status_code == 200
        with httpx.stream("GET", f"{address}/gradio_api/heartbeat/abc", timeout=5):  # a page that stays open
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=20)
        assert process.returncode == 0 and out == ""
        assert "Traceback" not in err and "sesame" not in err
    assert not Path(f"{place}-wal").exists()  # the gallery was closed


def test_a_missing_gallery_and_a_host_for_everybody_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "no.db"
    assert main(["app", "--gallery", str(place), "--read-only", "--host", "0.0.0.0"]) == 1
    said = capsys.readouterr()
    warning, error = said.err.strip().splitlines()[-2:]
    assert warning == "warning: whoever can reach 0.0.0.0 can use this gallery; give a token to keep others out."
    assert error.startswith(f"error: there is no gallery {place}") and said.out == "" and not place.exists()


@pytest.mark.slow
def test_without_a_gallery_there_are_drawn_people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with started() as (process, address):
        assert httpx.get(f"{address}/healthz").json()["entries"] == 64
        found = httpx.post(f"{address}/identify", files=parts(CROPS[0])).json()
        assert found["results"][0]["person_id"] == "person01"
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
    assert process.returncode == 0 and list(tmp_path.glob("modelscope-reid-app-*")) == []


@pytest.mark.parametrize(
    ("host", "only_here"),
    [
        *((host, True) for host in ("127.0.0.1", "::1", "localhost", "127.1.2.3")),
        *((host, False) for host in ("0.0.0.0", "::", "192.168.0.2", "example.org")),
    ],
)
def test_who_can_reach_an_address(host: str, only_here: bool) -> None:
    assert is_loopback(host) is only_here
