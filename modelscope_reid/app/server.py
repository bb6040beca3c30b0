"""The server: the API and the page of one service on one port.

In: a service, an address, a token. Out: an application, or a server that runs until it is told to stop. Knows nothing
of the command line.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from hmac import compare_digest
from typing import Any

import uvicorn
from fastapi import FastAPI
from PIL import Image

from modelscope_reid import __version__
from modelscope_reid.app.api import Api
from modelscope_reid.app.gate import Bounds, Gate
from modelscope_reid.app.page import mount_page
from modelscope_reid.app.server_metrics import Metrics
from modelscope_reid.app.service import Service
from modelscope_reid.errors import InputError

HOST, PORT = "127.0.0.1", 7860
DEFAULT_BOUNDS = Bounds()
GRACE_SECONDS = 5
"""How long requests under way have to end once the server was told to stop."""


def build(service: Service, *, token: str | None = None, bounds: Bounds = DEFAULT_BOUNDS) -> FastAPI:
    """Return the application: the API, and the page at "/".

    With a `token` the API wants it as a bearer token, all but /healthz, and the page as a password, with any name.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    metrics = Metrics(service)
    api = Api(service, metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        api.close()

    app = FastAPI(
        title="modelscope_reid",
        description="Who is it, and where else were they seen? Images in, people of one gallery out.",
        version=__version__,
        docs_url=None,  # its page takes scripts from other hosts
        redoc_url=None,
        lifespan=lifespan,
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.state.closing = asyncio.Event()
    app.add_middleware(Gate, bounds=bounds, token=token, metrics=metrics, closing=app.state.closing)
    api.add_to(app, with_token=token is not None)
    return mount_page(app, service, auth=_login(token) if token else None)


def serve(
    service: Service,
    *,
    host: str = HOST,
    port: int = PORT,
    token: str | None = None,
    announce: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve until SIGINT or SIGTERM; `announce` is called with the address once requests are answered.

    Raises:
        InputError: the address cannot be had.
    """
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of every form that is none
    with listen_on(host, port) as listener:
        application = build(service, token=token)
        warm_up(service)
        address = _address(host, listener.getsockname()[1])
        with _signals_end_quietly():
            Server(configured(application), announce=lambda: announce(address)).run(sockets=[listener])


def configured(application: FastAPI) -> uvicorn.Config:
    """Return how an application is served: quietly, and without saying by what."""
    return uvicorn.Config(
        application,
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        timeout_keep_alive=30,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )


def warm_up(service: Service) -> None:
    """Answer one query of nothing, so that the first visitor waits for no library to be loaded."""
    height, width = service.embedder.config.preprocessing.image_size
    service.search([Image.new("RGB", (width, height))], top=1)


class Server(uvicorn.Server):
    """A server of what `build` gives: it says when it answers, and ends the page's streams when it is to end."""

    def __init__(self, config: uvicorn.Config, *, announce: Callable[[], None] = lambda: None) -> None:
        super().__init__(config)
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen, and say so."""
        await super().startup(sockets)
        if self.started:
            self._announce()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what is under way, and end."""
        application: Any = self.config.app
        application.state.closing.set()
        await super().shutdown(sockets)


def listen_on(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0 takes a free one.

    Raises:
        InputError: the address cannot be had.
    """
    if not 0 <= port < 2**16:
        raise InputError(f"the port is {port}; expected 0 to 65535, where 0 takes a free one.")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise InputError(f"the host {host!r} is no address of this machine; give 127.0.0.1, or 0.0.0.0.") from error
    # With the protocol named asyncio sends small answers at once; else a client waits 40 ms for the second packet.
    listener = socket.socket(family, kind, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise InputError(
            f"port {port} of {host} cannot be had ({error.strerror}); stop what uses it, or give another with --port."
        ) from error
    return listener


def _address(host: str, port: int) -> str:
    """Return the URL to open in a browser on this machine."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{reachable}:{port}"


def _login(token: str) -> Callable[[str, str], bool]:
    def matches(name: str, password: str) -> bool:
        return compare_digest(password.encode(), token.encode())

    return matches


@contextmanager
def _signals_end_quietly() -> Iterator[None]:
    """Let SIGINT and SIGTERM, which uvicorn raises again when it has ended, end the server and not the process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
