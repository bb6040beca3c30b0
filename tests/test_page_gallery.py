"""What happens on the tab Gallery, without a browser: counts, people, pages of pictures, enrolling, deleting."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import CROPS, drawn_gallery, huge_png

from modelscope_reid.app import page_gallery
from modelscope_reid.app.page_gallery import GalleryTab, Place
from modelscope_reid.app.service import Service
from modelscope_reid.app.uploads import UploadLimits
from modelscope_reid.gallery.entries import Filters


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with drawn_gallery(tmp_path) as gallery:
        made = Service(gallery, limits=UploadLimits(max_images=10))
        yield made
        made.close()


def cameras(card: str) -> list[str]:
    """The cameras on the pictures of a page, in order."""
    return re.findall(r'lang="en">camera (\w+)<', card)


def test_counts_and_people(service: Service) -> None:
    counts, people, more = GalleryTab(service).look(None)
    assert re.findall(r"<dd>(\d+)</dd>", counts) == ["12", "4", "3", "0"]
    assert people["choices"] == [(f"person0{number} · 3", f"person0{number}") for number in (1, 2, 3, 4)]
    assert people["value"] is None and more == ""


def test_people_by_the_beginning_of_their_names(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    tab = GalleryTab(service)
    assert [person for _, person in tab.people(" person03 ")[0]["choices"]] == ["person03"]
    found, more = tab.people("z")
    assert found["choices"] == [] and "Nobody here by that name." in more
    monkeypatch.setattr(page_gallery, "PEOPLE", 2)
    found, more = tab.people("")
    assert len(found["choices"]) == 2 and "the first 2" in more


def test_a_long_name_is_shortened_on_its_button_only(service: Service) -> None:
    name = "a" * 300 + "\n"
    service.enroll([CROPS[0].read_bytes() + b"x"], person_id=name)
    shown, value = GalleryTab(service).people("a")[0]["choices"][0]
    assert value == name and len(shown) < 60 and "\n" not in shown
    assert cameras(GalleryTab(service).choose(name)[0]) == [] and GalleryTab(service).choose(name)[0].count("<li") == 1


def test_pictures_come_page_by_page(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_gallery, "PICTURES", 2)
    tab = GalleryTab(service)
    card, place, previous, following, delete, sure, _ = tab.choose("person02")
    assert cameras(card) == ["1", "2"] and "Pictures 1 to 2" in card and card.count("data:image/jpeg") == 2
    assert [part["visible"] for part in (previous, following, delete, sure)] == [False, True, True, False]
    card, place, previous, following, *_ = tab.go_on(place)
    assert cameras(card) == ["3"] and "Pictures 3 to 3" in card
    assert previous["visible"] and not following["visible"]
    assert cameras(tab.go_on(place)[0]) == ["3"]  # there is no further page
    card, place, *_ = tab.go_back(place)
    assert cameras(card) == ["1", "2"]
    assert cameras(tab.go_back(place)[0]) == ["1", "2"]  # nor one before the first


@pytest.mark.parametrize("person", [None, "", "nobody"])
def test_nobody_has_no_pictures(service: Service, person: str | None) -> None:
    card, _, previous, following, *_ = GalleryTab(service).choose(person)
    assert "<li" not in card and not previous["visible"] and not following["visible"]


def test_a_person_is_deleted_when_that_was_asked_and_answered(service: Service) -> None:
    tab = GalleryTab(service)
    place = tab.choose("person02")[1]
    sure, asked = tab.ask(place)
    assert sure["visible"] and "Delete person02 and all their pictures (3) for good?" in asked
    assert service.stats().people == 4
    assert not tab.choose_again(place)[5]["visible"]
    card, place, *buttons = tab.delete(place, "person02")
    assert buttons[-2]["choices"] == []
    assert "person02 is gone: 3 pictures deleted." in card and place == Place()
    assert not any(button["visible"] for button in buttons[:4])
    assert service.stats().people == 3 and service.gallery.page(Filters(persons=("person02",))) == []
    again = tab.delete(Place(person_id="person02"), "")[0]
    assert "nobody called" in again and str(service.gallery.store.address) not in again


def test_several_pictures_are_enrolled_at_once(service: Service, tmp_path: Path) -> None:
    paths = []
    for number, crop in enumerate(CROPS[:6]):
        path = tmp_path / f"new{number}.png"
        path.write_bytes(crop.read_bytes() + b"new" * (number < 4))
        paths.append(str(path))
    (tmp_path / "broken.jpg").write_bytes(CROPS[0].read_bytes()[:300])
    (tmp_path / "huge.png").write_bytes(huge_png())
    paths += [str(tmp_path / "broken.jpg"), str(tmp_path / "huge.png")]
    files, card, counts, people, _ = GalleryTab(service).enrol(paths, " Cid ", "9", "2026-01-31T12:00", "C")
    assert "<dd>16</dd>" in counts and people["choices"] == [("Cid · 4", "Cid")]
    assert files is None and "4 new, 2 known already." in card and "2 could not be read" in card
    assert "broken.jpg" in card and "huge.png has more than 40,000,000 pixels" in card and str(tmp_path) not in card
    entries = service.gallery.page(Filters(persons=("Cid",)))
    assert len(entries) == 4
    assert {(entry.camera_id, entry.timestamp) for entry in entries} == {("9", 1769860800.0)}  # 20484.5 days


def test_what_is_not_enrolled_is_told_and_stays(service: Service, tmp_path: Path) -> None:
    tab = GalleryTab(service)
    crop = tmp_path / "a.png"
    shutil.copy(CROPS[0], crop)
    for paths, moment, sentence in (
        ([], "", "Drop a picture first."),
        ([str(crop)], "soon", "is no time"),
        ([str(crop)] * 11, "", "11 images were sent at once, more than 10"),
        ([str(tmp_path / "gone.png")], "", "too long ago"),
    ):
        files, card, *_ = tab.enrol(paths, "Cid", "", moment, "")
        assert files is not None and sentence in card
    assert service.stats().entries == 12


def test_a_gallery_to_read_is_not_written(tmp_path: Path) -> None:
    with drawn_gallery(tmp_path) as gallery:
        service = Service(gallery, read_only=True)
        tab = GalleryTab(service)
        place = tab.choose("person01")[1]
        assert not tab.choose("person01")[4]["visible"]
        assert "read only" in tab.delete(place, "")[0] and "read only" in tab.enrol([str(CROPS[0])], "A", "", "", "")[1]
        service.close()
        assert gallery.stats().people == 4
