"""A ModelScope hub on the loopback: real HTTP for modelscope's own client, and no network.

It serves local folders as models and speaks the part of the hub's API that ``snapshot_download``,
``model_file_download``, ``HubApi().get_model``, ``read_config`` and ``pipeline(task, model="owner/name")``
use (read from modelscope_hub 0.5.1): a model's metadata, its revisions, its list of files, and each file,
whole or from a byte on. Every model has the one branch ``master``. It knows no users, tokens or uploads.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from urllib.parse import parse_qs, urlsplit

REVISION = "master"

_MODEL_ROUTE = re.compile(r"/(?:api|openapi)/v1/models/(?P<id>[^/]+/[^/]+)(?P<rest>/.*)?")
_RANGE = re.compile(r"bytes=(\d+)-")


class HubServer(ThreadingHTTPServer):
    """Serve folders as models: ``with HubServer({"owner/name": folder}) as hub``, then use `environment`.

    `requested` collects the paths that were asked for, `sent` the number of bytes last sent of each file.
    `cut_after` maps a file to the byte at which the connection breaks. `status` is an error to answer with.
    """

    daemon_threads = True

    def __init__(self, models: Mapping[str, Path]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.models = dict(models)
        self.requested: list[str] = []
        self.sent: dict[str, int] = {}
        self.cut_after: dict[str, int] = {}
        self.status: HTTPStatus | None = None
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> HubServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop answering and free the port, so that a connection is refused; again is harmless."""
        if self._thread.is_alive():
            self.shutdown()
            self._thread.join()
        self.server_close()

    def environment(self, folder: Path) -> dict[str, str]:
        """Return the variables that point modelscope at this hub and keep all that it writes in `folder`.

        modelscope reads them when its client is first used and its limits when it is imported: set them for
        a new process, or call ``modelscope_hub.config.set_default_config(None)`` afterwards.
        """
        return {
            "MODELSCOPE_ENDPOINT": self.url,
            "MODELSCOPE_CACHE": str(folder / "cache"),
            "MODELSCOPE_HOME": str(folder / "home"),
            "MODELSCOPE_API_TOKEN": "",
            "MODELSCOPE_DOWNLOAD_MAX_RETRIES": "0",
            "MODELSCOPE_REPO_TREE_PAGE_MAX_ATTEMPTS": "1",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }


class _Handler(BaseHTTPRequestHandler):
    server: HubServer

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        self.server.requested.append(self.path)
        route = _MODEL_ROUTE.fullmatch(url.path)
        folder = self.server.models.get(route["id"]) if route else None
        if self.server.status is not None:
            self._refuse(self.server.status, self.server.status.phrase)
        elif route is None or folder is None or query.get("Revision", REVISION) != REVISION:
            self._refuse(HTTPStatus.NOT_FOUND, f"nothing at {self.path}")
        elif route["rest"] is None:
            self._answer(_metadata(route["id"]))
        elif route["rest"] == "/revisions":
            branch = {"Revision": REVISION, "CreatedAt": 1_600_000_000}
            self._answer({"RevisionMap": {"Branches": [branch], "Tags": []}})
        elif route["rest"] == "/repo/files":
            self._answer({"Files": _listing(folder)})
        elif route["rest"] == "/repo" and (folder / query.get("FilePath", "")).is_file():
            self._send_file(folder, query["FilePath"])
        else:
            self._refuse(HTTPStatus.NOT_FOUND, f"nothing at {self.path}")

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent: a test reads `requested`."""

    def _answer(self, data: object) -> None:
        # The two APIs of the hub wrap the same answer under different names.
        body = {"Code": 200, "Success": True, "success": True, "Data": data, "data": data}
        self._send_json(HTTPStatus.OK, body)

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        self._send_json(status, {"Code": int(status), "Success": False, "Message": message})

    def _send_json(self, status: HTTPStatus, body: object) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _send_file(self, folder: Path, name: str) -> None:
        content = (folder / name).read_bytes()
        asked = _RANGE.fullmatch(self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        self.send_response(HTTPStatus.PARTIAL_CONTENT if asked else HTTPStatus.OK)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        part = content[start : self.server.cut_after.get(name)]
        self.server.sent[name] = len(part)
        self.wfile.write(part)


def _metadata(model_id: str) -> dict[str, object]:
    owner, name = model_id.split("/")
    return {"id": model_id, "owner": owner, "name": name, "private": False}


def _listing(folder: Path) -> list[dict[str, object]]:
    return [
        {
            "Path": path.relative_to(folder).as_posix(),
            "Name": path.name,
            "Type": "blob",
            "Size": path.stat().st_size,
            "Sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
