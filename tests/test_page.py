"""The page in a real Chromium: each tab used as a person would, in both languages, wide and on a phone.

What is not ours is seen too: every request of the browser, every error in its console.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio
import pytest
from browser import Visit, browser, visit
from PIL import Image
from playwright.sync_api import Browser, expect
from serving import CROPS, drawn_gallery, huge_png, running

from modelscope_reid.app import page as page_module
from modelscope_reid.app.page import build_page
from modelscope_reid.app.service import Service
from modelscope_reid.app.texts import LANGUAGES, TEXTS, Language, in_all, text

EVIL = '<script>window.hit=1</script>"><img src=x onerror="window.hit=1">${window.hit=1}{{hit}}'
WIDTHS = {"wide": 1280, "phone": 390}
LOCALES = {"en": "en-GB", "zh": "zh-CN"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with drawn_gallery(tmp_path_factory.mktemp("gallery")) as gallery:
        made = Service(gallery)
        made.enroll([CROPS[0].read_bytes() + b"evil"], person_id=EVIL, camera_id=EVIL)
        yield made
        made.close()


@pytest.fixture(scope="module")
def address(service: Service) -> Iterator[str]:
    with running(service) as client:
        yield str(client.base_url).rstrip("/")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def frame(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three people side by side, 900x300 pixels: person01 from 0 on, person02 from 300 on, person03 from 600 on."""
    picture = Image.new("RGB", (900, 300), (90, 90, 90))
    for place, person in enumerate(("person01", "person02", "person03")):
        crop = Image.open(CROPS[0].with_name(f"{person}_camera1.png"))
        picture.paste(crop.resize((128, 256)), (300 * place, 20))
    path = tmp_path_factory.mktemp("frame") / "frame.png"
    picture.save(path)
    return path


def choose(visitor: Visit, field: str, *paths: Path) -> None:
    """Put files into a field."""
    visitor.page.set_input_files(f"#{field} input[type=file]", [str(path) for path in paths])


def show(visitor: Visit, picture: Path) -> None:
    """Put a picture into the field of the search, and wait until it is there to be seen."""
    choose(visitor, "search-file", picture)
    expect(visitor.page.locator("#search-frame img")).to_be_visible()


def said(visitor: Visit, language: Language, key: str, **values: object) -> Any:
    """Where a text stands that can be seen."""
    return visitor.page.get_by_text(text(language, key, **values), exact=True).locator("visible=true").first


def no_wider(visitor: Visit, width: int) -> None:
    """Fail where the page is to be scrolled sideways."""
    assert visitor.page.evaluate("document.documentElement.scrollWidth") <= width


def point(visitor: Visit, x: float, y: float) -> tuple[float, float]:
    """Where a place of the frame, in parts of its size, is on the screen."""
    box = visitor.page.locator(".reid-frame img").bounding_box()
    assert box is not None
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def search(visitor: Visit, language: Language, screen: str, frame: Path) -> None:
    """Draw a box on a frame, search, filter, clear the box.

    The options are opened before the picture is chosen: gradio makes their fields when they open, and forgets what is
    written into one in the same few milliseconds, which no hand can do.
    """
    page = visitor.page
    expect(page.locator("#page-head h1")).to_have_text(text(language, "page.title"), use_inner_text=True)
    expect(said(visitor, language, "search.start")).to_be_visible()
    page.get_by_text(text(language, "search.options"), exact=True).click()
    show(visitor, frame)
    expect(said(visitor, language, "search.frame")).to_be_visible()
    corners = [point(visitor, 300 / 900, 20 / 300), point(visitor, 428 / 900, 276 / 300)]
    for corner, sentence in zip(corners, ("search.corner", "search.boxed"), strict=True):
        if screen == "phone":
            page.touchscreen.tap(*corner)
        else:
            page.mouse.click(*corner)
        expect(said(visitor, language, sentence)).to_be_visible()
    page.click("#search-run")
    expect(page.locator("#search-who .reid-name")).to_have_text("person02")
    first = page.locator("#search-matches .reid-card").first
    expect(first).to_contain_text("person02")
    expect(first.get_by_text(text(language, "match.same"), exact=True)).to_be_visible()
    page.get_by_label(text(language, "search.camera"), exact=True).fill("3")
    page.click("#search-run")
    expect(page.locator("#search-matches .reid-card")).to_have_count(4)
    page.get_by_role("button", name=text(language, "search.clear")).click()
    expect(said(visitor, language, "search.frame")).to_be_visible()
    if screen == "wide":  # a box by one stroke of the mouse
        page.get_by_label(text(language, "search.camera"), exact=True).fill("")
        page.mouse.move(*point(visitor, 600 / 900, 20 / 300))
        page.mouse.down()
        page.mouse.move(*point(visitor, 728 / 900, 276 / 300), steps=3)
        page.mouse.up()
        expect(said(visitor, language, "search.boxed")).to_be_visible()
        page.click("#search-run")
        expect(page.locator("#search-who .reid-name")).to_have_text("person03")


def compare(visitor: Visit, language: Language) -> None:
    """Compare a picture with itself."""
    page = visitor.page
    page.get_by_role("tab", name=text(language, "compare.tab")).click()
    page.click("#compare-run")
    expect(said(visitor, language, "compare.no_files")).to_be_visible()
    choose(visitor, "compare-first", CROPS[0])
    choose(visitor, "compare-second", CROPS[0])
    expect(page.locator(".reid-preview img")).to_have_count(2)
    page.click("#compare-run")
    expect(page.locator(".reid-verdict.reid-same")).to_contain_text(text(language, "compare.same"))
    expect(page.locator("#compare-why img, #compare-why .reid-hint")).to_be_visible()


def enrol_browse_and_delete(visitor: Visit, language: Language, service: Service, folder: Path) -> None:
    """Enrol ten pictures at once as one person, look at them, keep them, delete them."""
    page, person = visitor.page, f"new {language}"
    pictures = [folder / f"{number}.png" for number in range(10)]
    for picture, crop in zip(pictures, CROPS, strict=False):
        picture.write_bytes(crop.read_bytes() + str(folder).encode())
    page.get_by_role("tab", name=text(language, "gallery.tab")).click()
    expect(page.locator(".reid-stats")).to_contain_text(text(language, "gallery.cameras"))
    choose(visitor, "gallery-files", *pictures)
    expect(page.locator("#gallery-files .file")).to_have_count(10)
    page.get_by_label(text(language, "gallery.person"), exact=True).fill(person)
    page.click("#gallery-run")
    expect(said(visitor, language, "gallery.enrolled", added=10, known=0)).to_be_visible()
    page.get_by_label(text(language, "gallery.begins"), exact=True).fill("new")
    expect(page.locator("#gallery-people label")).to_have_count(1)
    page.locator("#gallery-people label", has_text=f"{person} · 10").click()
    expect(page.locator("#gallery-pictures img")).to_have_count(10)
    delete = page.get_by_role("button", name=text(language, "gallery.delete"), exact=True)
    delete.click()
    expect(said(visitor, language, "gallery.sure", person=person, count=10)).to_be_visible()
    page.get_by_role("button", name=text(language, "gallery.delete_no")).click()
    expect(page.locator("#gallery-sure")).not_to_be_visible()
    assert service.gallery.people(beginning=person) == [(person, 10)]
    delete.click()
    page.get_by_role("button", name=text(language, "gallery.delete_yes")).click()
    expect(said(visitor, language, "gallery.deleted", person=person, count=10)).to_be_visible()
    assert service.gallery.people(beginning=person) == []
    expect(page.locator("#gallery-people label")).to_have_count(0)


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("screen", WIDTHS)
def test_a_visit(
    chromium: Browser, address: str, service: Service, frame: Path, *, language: Language, screen: str, tmp_path: Path
) -> None:
    with visit(chromium, address, width=WIDTHS[screen], language=LOCALES[language]) as visitor:
        search(visitor, language, screen, frame)
        no_wider(visitor, WIDTHS[screen])
        compare(visitor, language)
        no_wider(visitor, WIDTHS[screen])
        enrol_browse_and_delete(visitor, language, service, tmp_path)
        no_wider(visitor, WIDTHS[screen])


@pytest.mark.slow
def test_another_language_keeps_what_is_there(chromium: Browser, address: str) -> None:
    with visit(chromium, address, path="/?lang=zh") as visitor:
        page = visitor.page
        expect(page.get_by_role("tab", name="检索")).to_be_visible()
        page.get_by_text("选项", exact=True).click()
        show(visitor, CROPS[0])
        page.get_by_label("只看此人", exact=True).fill("person01")
        page.click("#search-run")
        expect(page.locator("#search-matches .reid-card")).to_have_count(3)
        page.get_by_label("English").click()
        expect(page.get_by_role("tab", name="Search")).to_be_visible()
        expect(page.get_by_label("Only this person", exact=True)).to_have_value("person01")
        expect(page.locator("#search-matches .reid-card")).to_have_count(3)
        expect(page.locator("#search-matches h3")).to_have_text("Matches, most similar first", use_inner_text=True)
        expect(page.locator("#search-file")).to_contain_text(CROPS[0].stem)
        expect(page).to_have_title("Find a person again")
        assert page.evaluate("document.documentElement.lang") == "en"
        chinese = re.compile(r"[\u4e00-\u9fff]")
        assert chinese.findall(page.locator("body").inner_text()) == list("中文")  # the button to go back
        page.click("#search-run")
        expect(page.locator("#search-matches .reid-card")).to_have_count(3)


@pytest.mark.slow
def test_what_users_wrote_runs_nowhere(chromium: Browser, address: str) -> None:
    with visit(chromium, address) as visitor:
        page = visitor.page
        show(visitor, CROPS[0])
        page.click("#search-run")
        expect(page.locator("#search-matches")).to_contain_text("<script>window.hit=1</script>")
        page.get_by_role("tab", name="Gallery").click()
        page.locator("#gallery-people label", has_text="<script>").click()
        expect(page.locator("#gallery-pictures")).to_contain_text("camera <script>")
        page.get_by_role("button", name="Delete this person").click()
        expect(page.locator("#gallery-sure")).to_contain_text("Delete <script>")
        assert page.evaluate("window.hit") is None


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["corrupt", "huge", "large", "text"])
def test_bad_uploads_are_sentences(chromium: Browser, address: str, tmp_path: Path, kind: str) -> None:
    contents = {
        "corrupt": CROPS[0].read_bytes()[:5000],
        "huge": huge_png(),
        "large": bytes(16 * 2**20 + 1),
        "text": b"no image",
    }
    path = tmp_path / ("notes.txt" if kind == "text" else f"{kind}.png")
    path.write_bytes(contents[kind])
    with visit(chromium, address) as visitor:
        page = visitor.page
        expect(page.locator("#search-file input[type=file]")).to_have_attribute("accept", "image/*")
        choose(visitor, "search-file", path)
        if kind == "large":
            told = page.get_by_text("a picture may have 16 MB")
        else:
            told = page.locator("#search-frame .reid-problem")
            expect(told).to_contain_text("The picture cannot be used.")
            expect(told).to_contain_text(path.name)
        expect(told).to_be_visible()
        assert "Traceback" not in page.locator("body").inner_text()
        if kind == "large":  # the browser itself writes that an answer was 413
            visitor.console = [line for line in visitor.console if "413" not in line]


class Stuck(Service):
    """A service whose searches wait until they are told to go on."""

    going_on = threading.Event()

    def search_embeddings(self, *arguments: Any, **options: Any) -> Any:
        """Wait, then search."""
        assert self.going_on.wait(30)
        return super().search_embeddings(*arguments, **options)


@pytest.mark.slow
def test_a_visitor_too_many_is_told_so(chromium: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "WAITING", 2)
    with drawn_gallery(tmp_path) as gallery:
        stuck = Stuck(gallery)
        with running(stuck) as client:
            events = client.get("/config").json()["dependencies"]
            search = next(event["id"] for event in events if len(event["inputs"]) == 9)
            uploaded = client.post("/gradio_api/upload", files={"files": CROPS[0].read_bytes()}).json()[0]
            picture = {"path": uploaded, "meta": {"_type": "gradio.FileData"}}
            with visit(chromium, str(client.base_url).rstrip("/")) as visitor:
                show(visitor, CROPS[0])
                for number in range(20):
                    body = {"data": [picture, None, 5, *[""] * 5, False], "fn_index": search}
                    answer = client.post("/gradio_api/queue/join", json={**body, "session_hash": f"visitor{number}"})
                    if answer.status_code != 200:
                        break
                assert (answer.status_code, answer.json()) == (429, {"detail": in_all("error.busy")})
                visitor.page.click("#search-run")
                expect(visitor.page.get_by_text(text("en", "error.busy"))).to_be_visible()
                Stuck.going_on.set()
                visitor.console = [line for line in visitor.console if "429" not in line]  # the browser's own line
        stuck.close()


def texts_of(page: gradio.Blocks) -> list[tuple[str, str]]:
    """Every text that the components of a page show, and from which property."""
    shown = []
    for component in page.get_config_file()["components"]:
        properties = component["props"]
        for name in ("label", "value", "placeholder", "info", "choices", "title"):
            value = properties.get(name)
            if isinstance(value, str) and value.strip() and component["type"] != "form":
                shown.append((f"{component['type']}.{name}", value))
    return shown


def test_every_text_comes_from_the_table(service: Service) -> None:
    page = build_page(service)
    shown = texts_of(page)
    assert len(shown) > 40
    english = set(TEXTS["en"].values())
    for place, value in shown:
        if place == "radio.value":
            assert value in LANGUAGES
        elif place.startswith("html."):
            spans = re.findall(r'<span class="in-(\w+)" lang="\1">(.*?)</span>', value)
            outside = re.sub(r"<[^>]*>", "", re.sub(r'<span class="in-\w+" lang="\w+">.*?</span>', "", value))
            assert outside == "" and {language for language, _ in spans} in (set(), set(LANGUAGES))
            assert all(sentence in TEXTS[language].values() for language, sentence in spans)
        else:
            assert value in english, place
    assert page.title == TEXTS["en"]["page.title"]


def test_a_gallery_to_read_offers_neither_enrolling_nor_deleting(tmp_path: Path) -> None:
    with drawn_gallery(tmp_path, CROPS[:1]) as gallery:
        service = Service(gallery, read_only=True)
        config = json.dumps(build_page(service).get_config_file()["components"], default=str)
        service.close()
    assert "gallery-run" not in config and "gallery-files" not in config and "gallery-people" in config
    assert "Enrol these pictures" not in config
