"""A real Milvus server for tests: milvus-lite in a process of its own, over TCP on loopback."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class MilvusServer:
    """A server that can be killed and started again on the same port with the same data."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    def address(self, name: str) -> str:
        """Return the address of a gallery."""
        return f"http://127.0.0.1:{self.port}/{name}"

    def start(self) -> None:
        """Start the process and wait until it answers."""
        options = ["--data-dir", str(self.folder), "--host", "127.0.0.1", "--port", str(self.port)]
        command = [sys.executable, "-m", "milvus_lite", "server", *options]
        log = (self.folder.parent / "milvus.log").open("ab")
        with log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        for _ in range(1200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            assert self.process.poll() is None, (self.folder.parent / "milvus.log").read_text()
            time.sleep(0.05)
        raise TimeoutError("milvus-lite did not start in a minute")

    def kill(self) -> None:
        """Kill the process, as a power cut would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@contextmanager
def milvus_server(folder: Path) -> Iterator[MilvusServer]:
    """Run a server whose data lie in a new folder inside `folder`."""
    server = MilvusServer(folder / "milvus")
    server.start()
    try:
        yield server
    finally:
        server.kill()
