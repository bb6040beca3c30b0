"""A loopback web server that misbehaves in every way that a download has to survive."""

from __future__ import annotations

import gzip
import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

HTML = b"<!DOCTYPE html><html><body>Please log in</body></html>"


class Handler(http.server.BaseHTTPRequestHandler):
    """Answer each path of `ROUTES`; the server's `image` is what a good answer holds."""

    server: Server

    def do_GET(self) -> None:
        """Answer one request."""
        ROUTES.get(self.path.split("?")[0], not_found)(self)

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""

    def send(self, text: str, body: bytes = b"") -> None:
        """Send a status line and headers, written with line feeds, and a body."""
        self.close_connection = True
        self.wfile.write(text.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)

    def drip(self, block: bytes) -> None:
        """Send `block` every 20 ms until the client or the server has had enough."""
        try:
            while not self.server.stopping.wait(0.02):
                self.wfile.write(block)
        except OSError:
            self.close_connection = True


class Server(http.server.ThreadingHTTPServer):
    """The server and what its routes serve."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, image: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.image = image
        self.stopping = threading.Event()
        self.requests: list[dict[str, str]] = []

    def url(self, path: str) -> str:
        """Return the address of a route."""
        return f"http://127.0.0.1:{self.server_address[1]}{path}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Keep quiet about clients that hang up."""


@contextmanager
def serve(image: bytes) -> Iterator[Server]:
    """Run a server in a thread of its own."""
    server = Server(image)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stopping.set()
        server.shutdown()
        server.server_close()
        thread.join()


def good(handler: Handler) -> None:
    """Send the image."""
    handler.server.requests.append({key.lower(): value for key, value in handler.headers.items()})
    image = handler.server.image
    handler.send(f"HTTP/1.1 200 OK\nContent-Type: image/jpeg\nContent-Length: {len(image)}", image)


def not_found(handler: Handler) -> None:
    """Send a 404 page."""
    handler.send("HTTP/1.1 404 Not Found\nContent-Type: text/html", HTML)


def drip_headers(handler: Handler) -> None:
    """Send a header that never ends."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    handler.drip(b"x")


def drip_body(handler: Handler) -> None:
    """Send a body at a few bytes a second."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    handler.drip(b"x")


def endless_body(handler: Handler) -> None:
    """Send a body without a stated length, without an end."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
    try:
        while not handler.server.stopping.is_set():
            handler.wfile.write(b"x" * 65536)
    except OSError:
        handler.close_connection = True


def endless_redirect_body(handler: Handler) -> None:
    """Send a redirect whose own body never ends."""
    handler.wfile.write(b"HTTP/1.1 302 Found\r\nLocation: /good\r\n\r\n")
    handler.drip(b"x")


def gzip_bomb(handler: Handler) -> None:
    """Send 20 kB that inflate to 20 MB."""
    body = gzip.compress(bytes(20_000_000), 9)
    handler.send(f"HTTP/1.1 200 OK\nContent-Encoding: gzip\nContent-Length: {len(body)}", body)


def gzipped(handler: Handler) -> None:
    """Send the image compressed, though nobody asked for that."""
    handler.send("HTTP/1.1 200 OK\nContent-Encoding: gzip", gzip.compress(handler.server.image))


def short_length(handler: Handler) -> None:
    """State a Content-Length of half the image."""
    image = handler.server.image
    handler.send(f"HTTP/1.1 200 OK\nContent-Length: {len(image) // 2}", image)


def long_length(handler: Handler) -> None:
    """State a Content-Length of one byte more than is sent."""
    image = handler.server.image
    handler.send(f"HTTP/1.1 200 OK\nContent-Length: {len(image) + 1}", image)


def _sends(text: str, body: bytes = b"") -> Callable[[Handler], None]:
    """Return a route that sends fixed text."""
    return lambda handler: handler.send(text, body)


ROUTES: dict[str, Callable[[Handler], None]] = {
    "/good": good,
    "/stall": lambda handler: handler.drip(b""),
    "/drip-headers": drip_headers,
    "/drip-body": drip_body,
    "/endless": endless_body,
    "/endless-redirect-body": endless_redirect_body,
    "/gzip-bomb": gzip_bomb,
    "/gzipped": gzipped,
    "/short-length": short_length,
    "/long-length": long_length,
    "/brotli": _sends("HTTP/1.1 200 OK\nContent-Encoding: br", b"\x0b\x02\x80"),
    "/nested-gzip": _sends("HTTP/1.1 200 OK\nContent-Encoding: gzip, gzip", gzip.compress(gzip.compress(b"x"))),
    "/broken-gzip": _sends("HTTP/1.1 200 OK\nContent-Encoding: gzip", b"not gzip at all"),
    "/huge-length": _sends("HTTP/1.1 200 OK\nContent-Length: 99999999999"),
    "/digits": _sends(f"HTTP/1.1 200 OK\nContent-Length: {'9' * 5000}"),
    "/no-http": _sends("SSH-2.0-OpenSSH_9.6"),
    "/hang-up": _sends(""),
    "/empty": _sends("HTTP/1.1 200 OK\nContent-Length: 0"),
    "/html": _sends(f"HTTP/1.1 200 OK\nContent-Type: text/html; charset=utf-8\nContent-Length: {len(HTML)}", HTML),
    "/status-204": _sends("HTTP/1.1 204 No Content"),
    "/status-206": _sends("HTTP/1.1 206 Partial Content\nContent-Length: 1", b"x"),
    "/to-good": _sends("HTTP/1.1 302 Found\nLocation: /good\nContent-Length: 0"),
    "/to-itself": _sends("HTTP/1.1 301 Moved Permanently\nLocation: /to-itself\nContent-Length: 0"),
    "/to-file": _sends("HTTP/1.1 302 Found\nLocation: file:///etc/passwd\nContent-Length: 0"),
    "/to-nowhere": _sends("HTTP/1.1 302 Found\nContent-Length: 0"),
    "/to-nonsense": _sends("HTTP/1.1 302 Found\nLocation: http://[::1\nContent-Length: 0"),
}
