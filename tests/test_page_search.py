"""What happens on the tab Search, without a browser: answers, options, and one sentence for whatever goes wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio
import pytest
from PIL import Image
from serving import CROPS, drawn_gallery

from modelscope_reid.app.page_search import SearchTab
from modelscope_reid.app.service import Service

PERSON02 = next(crop for crop in CROPS if crop.name == "person02_camera1.png")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with drawn_gallery(tmp_path_factory.mktemp("gallery")) as gallery:
        made = Service(gallery)
        yield made
        made.close()


def run(service: Service, path: Path | None = PERSON02, **options: Any) -> tuple[str, str]:
    wanted: dict[str, Any] = {"box": None, "top": 5, "person": "", "camera": "", "exclude_camera": ""}
    wanted |= {"since": "", "until": "", "rerank": False, **options}
    return SearchTab(service).run(str(path) if path else None, **wanted)


def test_who_it_is_and_the_same_matches_as_the_gallery(service: Service) -> None:
    who, matches = run(service)
    assert "person02" in who and "Probability" in who
    found = service.gallery.search([PERSON02], top=5)[0]
    assert matches.count("<li") == 5 and matches.count("data:image/jpeg") == 5
    for match in found:
        assert f"similarity {match.similarity:.3f}" in matches and match.decision in matches


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({"top": 1}, 1),
        ({"top": 60}, 12),
        ({"top": 60, "camera": " 1 "}, 4),
        ({"top": 60, "exclude_camera": "1"}, 8),
        ({"top": 60, "person": "person03"}, 3),
        ({"top": 60, "since": "1970-01-01T10:00"}, 2),  # enrolled at hours 0 to 11
        ({"top": 60, "until": "7200"}, 2),
        ({"top": 60, "person": None, "camera": None, "since": None, "rerank": True}, 12),
    ],
)
def test_options(service: Service, options: dict[str, Any], count: int) -> None:
    assert run(service, **options)[1].count("<li") == count


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"path": None}, "Drop a picture first."),
        ({"person": "nobody of that name"}, "Nothing in the gallery passes these options."),
        ({"since": "yesterday"}, "&#x27;yesterday&#x27; is no time"),
    ],
)
def test_one_sentence(service: Service, options: dict[str, Any], sentence: str) -> None:
    who, said = run(service, **options)
    assert who == "" and sentence in said


def test_an_empty_gallery_is_told_as_such(tmp_path: Path) -> None:
    with drawn_gallery(tmp_path, CROPS[:1]) as gallery:
        gallery.delete_person("person01")
        service = Service(gallery)
        assert "The gallery is empty" in run(service)[1]
        service.close()


def test_the_box_is_what_is_searched_for(service: Service, tmp_path: Path) -> None:
    frame = Image.new("RGB", (900, 300), (90, 90, 90))
    for place, person in enumerate(("person01", "person02", "person03")):
        frame.paste(Image.open(CROPS[0].with_name(f"{person}_camera1.png")).resize((128, 256)), (300 * place, 20))
    frame.save(tmp_path / "frame.png")
    box = (300 / 900, 20 / 300, 428 / 900, 276 / 300)
    assert "person02" in run(service, tmp_path / "frame.png", box=box, top=1)[1]
    search = SearchTab(service)
    shown, kept, clear = search.draw(str(tmp_path / "frame.png"), gradio.EventData(None, {"box": list(box)}))
    assert kept == box and "left:33.33%" in shown["value"] and clear["visible"]
    shown, kept, clear = search.show_whole(str(tmp_path / "frame.png"))
    assert kept is None and " hidden" in shown["value"] and not clear["visible"]


@pytest.mark.parametrize("sent", [{}, {"box": [1, 1, 0, 0]}, {"box": "all"}, None, "box"])
def test_a_box_that_is_none(service: Service, sent: Any) -> None:
    shown, kept, _ = SearchTab(service).draw(str(PERSON02), gradio.EventData(None, sent))
    assert kept is None and "draw it again" in shown["value"]


def test_a_new_picture_forgets_what_was_there(service: Service) -> None:
    shown, kept, clear, who, matches = SearchTab(service).show(str(PERSON02))
    assert shown["visible"] and kept is None and not clear["visible"] and who == "" and "<li" not in matches
    assert SearchTab(service).show(None)[0] == gradio.update(value="", visible=False)


def test_a_picture_that_cannot_be_read_is_a_sentence(service: Service, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(PERSON02.read_bytes()[:400])
    for said in (SearchTab(service).show(str(tmp_path / "a.jpg"))[0]["value"], run(service, tmp_path / "a.jpg")[1]):
        assert "The picture cannot be used." in said and "a.jpg" in said and str(tmp_path) not in said
    assert "too long ago" in run(service, tmp_path / "gone.jpg")[1]
