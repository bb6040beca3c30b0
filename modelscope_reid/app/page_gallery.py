"""The tab Gallery: how much there is, enrolling, and one person's pictures, page by page, to look at or to delete.

In: what a visitor uploads and enters. Out: HTML. Reads one page of people and one page of pictures at a time, however
many there are. Knows nothing of models and stores: it asks the `Service`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio

from modelscope_reid.app.cards import (
    done,
    enrolment_card,
    entry_cards,
    error_box,
    heading,
    hint,
    problem,
    stats_card,
)
from modelscope_reid.app.service import Service
from modelscope_reid.app.uploaded_files import uploaded
from modelscope_reid.app.widgets import EVENT, Words, entered, line
from modelscope_reid.downloads import one_line
from modelscope_reid.errors import ReidError
from modelscope_reid.gallery.entries import Filters
from modelscope_reid.gallery.labels import seconds_of

PEOPLE, PICTURES = 30, 24
"""How many people and how many pictures are shown at once."""
SHORTENED = 40
"""How many characters of a name its button shows."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where somebody is in a person's pictures: the key before each page up to this one, and before the next one."""

    person_id: str = ""
    starts: tuple[str, ...] = ("",)
    following: str = ""


def add_gallery_tab(service: Service, words: Words) -> None:
    """Build the tab inside the Blocks that are open."""
    browser = GalleryTab(service)
    with words.make(gradio.Tab, {"label": "gallery.tab"}, id="gallery") as tab:
        stats = gradio.HTML(elem_id="gallery-stats")
        with gradio.Row(equal_height=False):
            if not service.read_only:
                with gradio.Column(scale=2, min_width=300):
                    enrolling = _enrolling(words)
            with gradio.Column(scale=3, min_width=300):
                browsing = _browsing(words)
    beginning, place = browsing["beginning"], browsing["place"]
    people = [browsing["people"], browsing["more"]]
    shown = [browsing[name] for name in ("pictures", "place", "previous", "following", "delete", "sure", "asked")]
    tab.select(browser.look, beginning, [stats, *people], **EVENT)
    beginning.change(browser.people, beginning, people, trigger_mode="always_last", **EVENT)
    browsing["people"].input(browser.choose, browsing["people"], shown, **EVENT)
    browsing["following"].click(browser.go_on, place, shown, **EVENT)
    browsing["previous"].click(browser.go_back, place, shown, **EVENT)
    if service.read_only:
        return
    browsing["delete"].click(browser.ask, place, [browsing["sure"], browsing["asked"]], **EVENT)
    browsing["no"].click(browser.choose_again, place, shown, **EVENT)
    browsing["yes"].click(browser.delete, [place, beginning], [*shown, stats, *people], **EVENT)
    given = [*(enrolling[name] for name in ("files", "person", "camera", "time")), beginning]
    enrolled = [enrolling["files"], enrolling["answer"], stats, *people]
    enrolling["run"].click(browser.enrol, given, enrolled, **EVENT)


def _enrolling(words: Words) -> dict[str, Any]:
    """Build what enrols, by name."""
    gradio.HTML(heading("gallery.enrol"))
    files = words.make(
        gradio.File,
        {"label": "gallery.files"},
        file_count="multiple",
        height=150,
        elem_id="gallery-files",
    )
    fields: dict[str, Any] = {"files": files}
    with gradio.Row():
        for name in ("person", "camera"):
            fields[name] = line(words, f"gallery.{name}", "gallery.unknown", min_width=120)
    fields["time"] = line(words, "gallery.time", "search.time_example")
    fields["run"] = words.make(gradio.Button, {"value": "gallery.enrol_run"}, variant="primary", elem_id="gallery-run")
    fields["answer"] = gradio.HTML(elem_id="gallery-enrolled")
    return fields


def _browsing(words: Words) -> dict[str, Any]:
    """Build what shows people and their pictures, by name."""
    fields: dict[str, Any] = {"place": gradio.State(Place())}
    gradio.HTML(heading("gallery.browse"))
    fields["beginning"] = line(words, "gallery.begins", "search.any")
    fields["people"] = words.make(gradio.Radio, {"label": "gallery.who"}, choices=[], elem_id="gallery-people")
    fields["more"] = gradio.HTML()
    fields["pictures"] = gradio.HTML(hint("gallery.choose"), elem_id="gallery-pictures")
    with gradio.Row():
        for name, key in (("previous", "gallery.previous"), ("following", "gallery.next")):
            fields[name] = words.make(gradio.Button, {"value": key}, size="sm", min_width=100, visible=False)
        fields["delete"] = words.make(
            gradio.Button,
            {"value": "gallery.delete"},
            size="sm",
            min_width=100,
            visible=False,
            elem_id="gallery-delete",
        )
    with gradio.Column(visible=False, elem_id="gallery-sure") as fields["sure"]:
        fields["asked"] = gradio.HTML()
        with gradio.Row():
            for name, variant in (("yes", "stop"), ("no", "secondary")):
                said = {"value": f"gallery.delete_{name}"}
                fields[name] = words.make(gradio.Button, said, variant=variant, size="md", min_width=120)
    return fields


class GalleryTab:
    """What happens on the tab."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def look(self, beginning: str | None) -> tuple[Any, ...]:
        """Count, and list the first people whose name begins so."""
        try:
            counted = stats_card(self.service.stats())
        except ReidError as error:
            counted = self._explained(error)
        return counted, *self.people(beginning)

    def people(self, beginning: str | None) -> tuple[Any, ...]:
        """List the first people whose name begins so."""
        try:
            found = self.service.gallery.people(beginning=entered(beginning) or "", limit=PEOPLE + 1)
        except ReidError as error:
            return gradio.update(choices=[], value=None), self._explained(error)
        choices = [(f"{_shortened(person)} · {count}", person) for person, count in found[:PEOPLE]]
        more = hint("gallery.more_people", count=PEOPLE) if len(found) > PEOPLE else ""
        return gradio.update(choices=choices, value=None), more if found else _nobody()

    def choose(self, person_id: str | None) -> tuple[Any, ...]:
        """Show a person's first pictures."""
        return self._shown(Place(person_id=person_id or ""))

    def choose_again(self, place: Place) -> tuple[Any, ...]:
        """Show what was shown, and ask no more whether to delete it."""
        return self._shown(place)

    def go_on(self, place: Place) -> tuple[Any, ...]:
        """Show the next page."""
        starts = (*place.starts, place.following) if place.following else place.starts
        return self._shown(Place(person_id=place.person_id, starts=starts))

    def go_back(self, place: Place) -> tuple[Any, ...]:
        """Show the page before."""
        return self._shown(Place(person_id=place.person_id, starts=place.starts[:-1] or ("",)))

    def ask(self, place: Place) -> tuple[Any, ...]:
        """Ask whether a person is to be deleted."""
        try:
            found = self.service.gallery.people(beginning=place.person_id, limit=1)
        except ReidError as error:
            return gradio.update(visible=True), self._explained(error)
        count = found[0][1] if found and found[0][0] == place.person_id else 0
        return gradio.update(visible=True), problem("gallery.sure", person=_shortened(place.person_id), count=count)

    def delete(self, place: Place, beginning: str | None) -> tuple[Any, ...]:
        """Delete a person, then count and list anew."""
        try:
            count = self.service.delete_person(place.person_id)
        except ReidError as error:
            return *self._with(self._explained(error), place), *self.look(beginning)
        card = done("gallery.deleted", person=_shortened(place.person_id), count=count)
        return *self._with(card, Place()), *self.look(beginning)

    def enrol(
        self,
        paths: list[str] | None,
        person: str | None,
        camera: str | None,
        moment: str | None,
        beginning: str | None,
    ) -> tuple[Any, ...]:
        """Enrol what was uploaded, then count and list anew; what was enrolled leaves the field."""
        files = uploaded(paths)
        if not files:
            return gradio.update(), problem("search.no_file"), *self.look(beginning)
        try:
            self.service.limits.check_count(len(files))
            enrolment = self.service.enroll(
                [file.read() for file in files],
                names=[file.name for file in files],
                person_id=entered(person),
                camera_id=entered(camera),
                timestamp=seconds_of(entered(moment)),
            )
        except ReidError as error:
            return gradio.update(), self._explained(error), *self.look(beginning)
        return None, enrolment_card(enrolment), *self.look(beginning)

    def _shown(self, place: Place) -> tuple[Any, ...]:
        """Show the page of pictures that `place` tells of."""
        if not place.person_id:
            return self._with(hint("gallery.choose"), place)
        try:
            filters = Filters(persons=(place.person_id,))
            found = self.service.gallery.page(filters, after=place.starts[-1], limit=PICTURES + 1)
        except ReidError as error:
            return self._with(self._explained(error), place)
        entries = found[:PICTURES]
        following = entries[-1].key if len(found) > PICTURES else ""
        there = Place(person_id=place.person_id, starts=place.starts, following=following)
        cards = entry_cards(entries, first=1 + PICTURES * (len(place.starts) - 1)) if entries else _nobody()
        return self._with(cards, there)

    def _with(self, card: str, place: Place) -> tuple[Any, ...]:
        """Return a card and what stands around it, in the order of `shown`."""
        chosen = bool(place.person_id)
        return (
            card,
            place,
            gradio.update(visible=chosen and len(place.starts) > 1),
            gradio.update(visible=chosen and bool(place.following)),
            gradio.update(visible=chosen and not self.service.read_only),
            gradio.update(visible=False),
            "",
        )

    def _explained(self, error: ReidError) -> str:
        return error_box(error, address=self.service.gallery.store.address)


def _nobody() -> str:
    return hint("gallery.no_people")


def _shortened(person_id: str) -> str:
    """Return a name as its button shows it."""
    name = one_line(person_id)
    return name if len(name) <= SHORTENED else f"{name[:SHORTENED]}…"
