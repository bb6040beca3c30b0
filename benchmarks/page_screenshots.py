"""Pictures of the page for the READMEs, drawn people only: docs/page.png in English, docs/page_zh.png in Chinese.

python benchmarks/page_screenshots.py [--folder docs] [--tour FOLDER]

`--tour` takes every tab in both languages, at 1280 and 390 pixels, light and dark, to be looked at. Also measured: the
seconds from opening the page to the first matches. Needs a Chromium, and for Chinese a font that has its characters
(on Debian: fonts-noto-cjk, or fonts-wqy-microhei).
"""

from __future__ import annotations

import argparse
import io
import itertools
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from modelscope_reid import Embedder, Gallery
from modelscope_reid.datasets.synthetic import draw_sample_crops

PEOPLE, CAMERAS, QUERY = 16, 4, "person02_camera4.png"
LOCALES = {"en": "en-GB", "zh": "zh-CN"}
MOST_BYTES = 400_000
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
ROOT = Path(__file__).parents[1]


@contextmanager
def server(scratch: Path) -> Iterator[str]:
    """Serve a gallery of drawn people in a process of its own; give the address."""
    crops = [
        crop for crop in draw_sample_crops(scratch / "crops", people=PEOPLE, cameras=CAMERAS) if crop.name != QUERY
    ]
    with Gallery.open(scratch / "gallery.db", Embedder.from_pretrained()) as gallery:
        gallery.enroll(
            [crop.read_bytes() for crop in crops],
            person_ids=[crop.stem.split("_")[0] for crop in crops],
            camera_ids=[crop.stem[-1] for crop in crops],
            timestamps=[f"2026-05-01T{8 + int(crop.stem[-1]):02d}:30" for crop in crops],
        )
    command = [sys.executable, "-m", "modelscope_reid", "app", "--gallery", str(scratch / "gallery.db"), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()[-1]
        finally:
            process.terminate()


def draw_frame(scratch: Path) -> Path:
    """Put drawn people of one camera side by side; the query is the second."""
    names = ["person05_camera4.png", QUERY, "person08_camera4.png", "person11_camera4.png", "person14_camera4.png"]
    frame = Image.new("RGB", (128 * len(names), 256))
    for place, name in enumerate(names):
        frame.paste(Image.open(scratch / "crops" / name), (128 * place, 0))
    frame.save(scratch / "frame.png")
    return scratch / "frame.png"


@contextmanager
def visitor(browser: Browser, address: str, *, language: str, width: int, dark: bool = False) -> Iterator[Page]:
    """Open the page in a window of its own."""
    context = browser.new_context(
        viewport={"width": width, "height": 860 if width > 600 else 844},
        locale=LOCALES[language],
        has_touch=width < 600,
        color_scheme="dark" if dark else "light",
    )
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector(f"html[lang={language}] #search-run")
    yield page
    context.close()


def search(page: Page, frame: Path) -> None:
    """Draw a box around the second person and search for them."""
    page.set_input_files("#search-file input[type=file]", str(frame))
    page.wait_for_selector(".reid-frame img")
    edge = page.locator(".reid-frame img").bounding_box()
    assert edge is not None
    for x, y in ((0.205, 0.04), (0.395, 0.97)):
        page.mouse.click(edge["x"] + x * edge["width"], edge["y"] + y * edge["height"])
    page.wait_for_selector("#search-frame .reid-box:not([hidden])")
    page.wait_for_timeout(500)
    page.click("#search-run")
    page.wait_for_selector("#search-matches .reid-card img")
    page.mouse.move(0, 0)
    page.wait_for_timeout(400)


def first_search(browser: Browser, address: str, crop: Path) -> float:
    """Return the seconds from opening the page, in a browser that never saw it, to the first matches."""
    with browser.new_context(locale="en-GB") as context:
        page = context.new_page()
        start = time.perf_counter()
        page.goto(address)
        page.set_input_files("#search-file input[type=file]", str(crop))
        page.wait_for_selector("#search-frame img")
        page.click("#search-run")
        page.wait_for_selector("#search-matches .reid-card img")
        return time.perf_counter() - start


def write_png(picture: bytes, path: Path) -> None:
    """Write a screenshot, with fewer colours where it would be larger than `MOST_BYTES`."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    for smaller in (image, image.quantize(256, dither=Image.Dither.NONE)):
        smaller.save(path, optimize=True)
        if path.stat().st_size < MOST_BYTES:
            return
    sys.exit(f"{path} has {path.stat().st_size:,} bytes, more than {MOST_BYTES:,}; take fewer matches.")


def tour(browser: Browser, address: str, scratch: Path, folder: Path) -> None:
    """Take every tab, in both languages, wide and on a phone, light and dark."""
    folder.mkdir(parents=True, exist_ok=True)
    for language, width, dark in itertools.product(LOCALES, (1280, 390), (False, True)):
        name = f"{language}_{width}_{'dark' if dark else 'light'}"
        with visitor(browser, address, language=language, width=width, dark=dark) as page:
            search(page, scratch / "frame.png")
            page.screenshot(path=folder / f"{name}_search.png", full_page=True)
            page.get_by_role("tab").nth(1).click()
            for side, crop in (("first", "person01_camera1.png"), ("second", "person01_camera2.png")):
                page.set_input_files(f"#compare-{side} input[type=file]", str(scratch / "crops" / crop))
            page.locator(".reid-preview img").nth(1).wait_for()
            page.click("#compare-run")
            page.wait_for_selector("#compare-why img, #compare-why .reid-hint")
            page.screenshot(path=folder / f"{name}_compare.png", full_page=True)
            page.get_by_role("tab").nth(2).click()
            page.locator("#gallery-people label").first.click()
            page.wait_for_selector("#gallery-pictures img")
            page.click("#gallery-delete")
            page.wait_for_selector("#gallery-sure .reid-notice")
            page.screenshot(path=folder / f"{name}_gallery.png", full_page=True)


def main() -> None:
    """Serve, take the pictures, say how long the first search took."""
    parser = argparse.ArgumentParser(description="Take pictures of the page.")
    parser.add_argument("--folder", type=Path, default=ROOT / "docs", help="where page.png and page_zh.png go")
    parser.add_argument("--tour", type=Path, help="a folder for pictures of everything")
    options = parser.parse_args()
    executable = shutil.which("chromium") or shutil.which("google-chrome") or sys.exit("no Chromium is here.")
    with tempfile.TemporaryDirectory() as made, sync_playwright() as playwright, server(Path(made)) as address:
        browser = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        frame, query = draw_frame(Path(made)), Path(made, "crops", QUERY)
        taken = [first_search(browser, address, query) for _ in range(5)]
        print(f"opening to first matches: {', '.join(f'{seconds:.2f}' for seconds in taken)} s")
        for language, name in (("en", "page.png"), ("zh", "page_zh.png")):
            with visitor(browser, address, language=language, width=1280) as page:
                search(page, frame)
                write_png(page.screenshot(), options.folder / name)
        if options.tour:
            tour(browser, address, Path(made), options.tour)
        browser.close()


if __name__ == "__main__":
    main()
