"""The studio of examples/app, started as it stands."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

STUDIO = Path(__file__).parents[1] / "examples" / "app"


def test_the_studio_has_what_a_studio_needs() -> None:
    front = (STUDIO / "README.md").read_text(encoding="utf-8").split("---")[1]
    assert "entry_file: app.py" in front and "license: Apache License 2.0" in front
    assert (STUDIO / "requirements.txt").read_text(encoding="utf-8") == "modelscope-reid[app,gallery]\n"
    assert (STUDIO / "app.py").read_text(encoding="utf-8").count("\n") < 60


@pytest.mark.slow
def test_the_studio_answers_and_ends(tmp_path: Path) -> None:
    environment = os.environ | {"GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": "0", "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "app.py"],
        cwd=STUDIO,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as studio:
        assert studio.stdout is not None and studio.stderr is not None
        try:
            ready, _, _ = select.select([studio.stdout], [], [], 60)
            address = studio.stdout.readline().strip() if ready else ""
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+", address)
            with httpx.Client(base_url=address, trust_env=False, timeout=30) as client:
                health = client.get("/healthz").json()
                page = client.get("/").text
                crop = (STUDIO.parents[1] / "assets" / "person01_camera1.png").read_bytes()
                found = client.post("/identify", files={"images": crop})
                refused = client.post("/enroll", files={"images": crop})
        finally:
            studio.send_signal(signal.SIGTERM)
            studio.wait(30)
        errors = studio.stderr.read()
    assert health["ok"] and health["entries"] == 64
    assert "Find a person again" in page and "gallery-run" not in page
    assert "person01" in found.text and found.status_code == 200 and refused.status_code == 403
    assert studio.returncode == 0 and "Traceback" not in errors
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []  # neither the gallery nor uploads are left
