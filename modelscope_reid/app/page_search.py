"""The tab Search: a picture, a box on it, options; then who it is, and the most similar entries.

In: what a visitor uploads and enters. Out: HTML. Knows nothing of models and stores: it asks the `Service`.
"""

from __future__ import annotations

from typing import Any

import gradio
from PIL import Image

from modelscope_reid.app.cards import error_box, hint, identity_card, match_cards, problem, unnamed_card
from modelscope_reid.app.frames import BOX_SCRIPT, Box, box_of, cut, frame_card
from modelscope_reid.app.service import Service
from modelscope_reid.app.uploaded_files import UploadedFile, uploaded
from modelscope_reid.app.uploads import read_upload
from modelscope_reid.app.widgets import EVENT, Words, entered, line, scroll_to
from modelscope_reid.errors import ReidError
from modelscope_reid.gallery.entries import Filters
from modelscope_reid.gallery.labels import seconds_of

MOST_MATCHES = 60


def add_search_tab(service: Service, words: Words) -> None:
    """Build the tab inside the Blocks that are open."""
    search = SearchTab(service)
    with words.make(gradio.Tab, {"label": "search.tab"}, id="search"), gradio.Row(equal_height=False):
        with gradio.Column(scale=2, min_width=300):
            box = gradio.State(None)
            file = words.make(gradio.File, {"label": "search.file"}, elem_id="search-file", **PICTURE)
            frame = gradio.HTML(elem_id="search-frame", js_on_load=BOX_SCRIPT, visible=False)
            clear = words.make(gradio.Button, {"value": "search.clear"}, size="sm", visible=False)
            run = words.make(gradio.Button, {"value": "search.run"}, variant="primary", elem_id="search-run")
            options = _options(words)
        with gradio.Column(scale=3, min_width=300):
            who = gradio.HTML(elem_id="search-who")
            matches = gradio.HTML(hint("search.start"), elem_id="search-matches")
    drawn = [frame, box, clear]
    gradio.on([file.upload, file.clear], search.show, file, [*drawn, who, matches], **EVENT)
    frame.select(search.draw, file, drawn, **EVENT)
    clear.click(search.show_whole, file, drawn, **EVENT)
    run.click(search.run, [file, box, *options], [who, matches], **EVENT).then(None, js=scroll_to("search-who"))


PICTURE: dict[str, Any] = {"file_count": "single", "height": 110}
"""How a field for one picture looks and what it takes."""


def _options(words: Words) -> list[Any]:
    """Build the options and return them in the order in which `SearchTab.run` takes them."""
    with words.make(gradio.Accordion, {"label": "search.options"}, open=False, elem_id="search-options"):
        top = words.make(gradio.Slider, {"label": "search.top"}, minimum=1, maximum=MOST_MATCHES, value=12, step=1)
        with gradio.Row():
            person = line(words, "search.person", "search.any")
            camera = line(words, "search.camera", "search.any")
            exclude_camera = line(words, "search.exclude_camera", "search.none")
        with gradio.Row():
            since = line(words, "search.since", "search.time_example")
            until = line(words, "search.until", "search.time_example")
        rerank = words.make(gradio.Checkbox, {"label": "search.rerank"}, value=False)
    return [top, person, camera, exclude_camera, since, until, rerank]


class SearchTab:
    """What happens on the tab."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def show(self, path: str | None) -> tuple[Any, ...]:
        """Show a picture that was uploaded, or what is wrong with it; forget the box and the matches before."""
        return *self._drawn(path, None), "", hint("search.start")

    def show_whole(self, path: str | None) -> tuple[Any, ...]:
        """Take the box away."""
        return self._drawn(path, None)

    def draw(self, path: str | None, event: gradio.EventData) -> tuple[Any, ...]:
        """Take a box that was drawn."""
        sent = event._data
        try:
            return self._drawn(path, box_of(sent.get("box") if isinstance(sent, dict) else None))
        except ReidError as error:
            return gradio.update(value=self._explained(error)), None, gradio.update(visible=False)

    def run(
        self,
        path: str | None,
        box: Box | None,
        top: float,
        person: str | None,
        camera: str | None,
        exclude_camera: str | None,
        since: str | None,
        until: str | None,
        rerank: bool,
    ) -> tuple[str, str]:
        """Say who somebody is, and where else they were seen."""
        files = uploaded(path)
        if not files:
            return "", problem("search.no_file")
        try:
            filters = Filters(
                persons=_only(person),
                cameras=_only(camera),
                exclude_cameras=_only(exclude_camera),
                since=seconds_of(entered(since)),
                until=seconds_of(entered(until)),
            )
            crop = cut(self._opened(files[0]), box)
            return self._answer(crop, filters=filters, top=int(top), rerank=bool(rerank))
        except ReidError as error:
            return "", self._explained(error)

    def _answer(self, crop: Image.Image, *, filters: Filters, top: int, rerank: bool) -> tuple[str, str]:
        query = self.service.embed([crop])
        matches = self.service.search_embeddings(query, top=top, filters=filters, rerank=rerank)[0]
        if not matches:
            empty = self.service.stats().entries == 0
            return "", hint("search.empty" if empty else "search.nothing")
        calibrated = self.service.embedder.verifier is not None
        if calibrated:
            who = identity_card(self.service.identify_embeddings(query, filters=filters)[0])
        else:
            who = unnamed_card()
        return who, match_cards(matches, self.service.gallery.thumbnails(matches))

    def _drawn(self, path: str | None, box: Box | None) -> tuple[Any, ...]:
        """Return the picture with the box on it, the box, and the button that takes it away."""
        files = uploaded(path)
        if not files:
            return gradio.update(value="", visible=False), None, gradio.update(visible=False)
        try:
            card = frame_card(self._opened(files[0]), box)
        except ReidError as error:
            card, box = self._explained(error), None
        return gradio.update(value=card, visible=True), box, gradio.update(visible=box is not None)

    def _opened(self, file: UploadedFile) -> Image.Image:
        return read_upload(file.read(), name=file.name, limits=self.service.limits)

    def _explained(self, error: ReidError) -> str:
        return error_box(error, address=self.service.gallery.store.address)


def _only(value: str | None) -> tuple[str, ...]:
    name = entered(value)
    return () if name is None else (name,)
