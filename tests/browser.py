"""Chromium for the tests of the page: found, started, and watched for errors and for requests to other hosts."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
PATIENCE = 30_000
"""How many milliseconds a test waits for what it expects: the machine may be busy with another test."""
MISSING = "no Chromium is here; install it with `apt-get install chromium`"


def executable() -> str:
    """The path of a Chromium; without one the test is left out, or fails where it must not be."""
    for name in NAMES:
        if path := shutil.which(name):
            return path
    if os.environ.get("CI") or os.environ.get("MODELSCOPE_REID_NEEDS_BROWSER"):
        pytest.fail(MISSING)
    pytest.skip(MISSING)


@contextmanager
def browser() -> Iterator[Browser]:
    """A headless Chromium."""
    path = executable()
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        try:
            yield chromium
        finally:
            chromium.close()


class Visit:
    """One visitor's page, and what went wrong on it."""

    def __init__(self, page: Page, address: str) -> None:
        self.page = page
        self.address = address
        self.console: list[str] = []
        self.hosts: set[str] = set()
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.console.append(str(error)))
        page.on("request", self._asked)

    def _said(self, message: object) -> None:
        if getattr(message, "type", "") == "error":
            self.console.append(str(getattr(message, "text", "")))

    def _asked(self, request: object) -> None:
        url = urlsplit(str(getattr(request, "url", "")))
        if url.scheme not in ("data", "blob"):
            self.hosts.add(url.netloc)

    def check(self) -> None:
        """Fail where the console has an error, or a host other than the server's was asked."""
        assert self.console == []
        assert self.hosts == {urlsplit(self.address).netloc}


@contextmanager
def visit(
    chromium: Browser,
    address: str,
    *,
    width: int = 1280,
    height: int = 900,
    language: str = "en-GB",
    path: str = "/",
    dark: bool = False,
) -> Iterator[Visit]:
    """A visitor with a browser of their own, who has opened the page; afterwards all that is checked was right."""
    context = chromium.new_context(
        viewport={"width": width, "height": height},
        locale=language,
        has_touch=width < 600,
        color_scheme="dark" if dark else "light",
    )
    try:
        visitor = Visit(context.new_page(), address)
        visitor.page.goto(address + path)
        visitor.page.wait_for_selector("#search-run")
        yield visitor
        visitor.check()
    finally:
        context.close()
