"""The tab Compare: two pictures, whether they show the same person, and where they agree.

In: what a visitor uploads. Out: HTML. Knows nothing of galleries.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import gradio
from PIL import Image

from modelscope_reid.app.cards import error_box, explanation_card, hint, picture, problem, verdict_card
from modelscope_reid.app.page_search import PICTURE
from modelscope_reid.app.service import Service
from modelscope_reid.app.uploaded_files import uploaded
from modelscope_reid.app.uploads import read_upload
from modelscope_reid.app.widgets import EVENT, Words, scroll_to
from modelscope_reid.errors import InputError, ReidError
from modelscope_reid.explanation import draw_explanation

SIDES = {"first": "compare.first", "second": "compare.second"}


def add_compare_tab(service: Service, words: Words) -> None:
    """Build the tab inside the Blocks that are open."""
    compare = CompareTab(service)
    files = []
    with words.make(gradio.Tab, {"label": "compare.tab"}, id="compare"):
        with gradio.Row(equal_height=False):
            for side, key in SIDES.items():
                with gradio.Column(min_width=150):
                    file = words.make(gradio.File, {"label": key}, elem_id=f"compare-{side}", **PICTURE)
                    shown = gradio.HTML()
                gradio.on([file.upload, file.clear], compare.show, file, shown, **EVENT)
                files.append(file)
        run = words.make(gradio.Button, {"value": "compare.run"}, variant="primary", elem_id="compare-run")
        verdict = gradio.HTML(hint("compare.start"), elem_id="compare-verdict")
        why = gradio.HTML(elem_id="compare-why")
    judged = run.click(compare.judge, files, [verdict, why], **EVENT)
    judged.then(None, js=scroll_to("compare-verdict"))
    judged.then(compare.explain, files, why, **{**EVENT, "concurrency_id": "explain", "concurrency_limit": 1})


class CompareTab:
    """What happens on the tab."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def show(self, path: str | None) -> str:
        """Show a picture that was uploaded, or what is wrong with it."""
        try:
            images = self._opened(path)
        except ReidError as error:
            return self._explained(error)
        return picture(images[0]) if images else ""

    def judge(self, first: str | None, second: str | None) -> tuple[str, str]:
        """Say whether both show the same person."""
        try:
            images = self._opened(first, second)
            if len(images) < len(SIDES):
                return problem("compare.no_files"), ""
            return verdict_card(*self.service.compare(*images)), ""
        except ReidError as error:
            return self._explained(error), ""

    def explain(self, first: str | None, second: str | None) -> str:
        """Show where the two agree, or why this model cannot."""
        try:
            images = self._opened(first, second)
        except ReidError:
            return ""  # `judge` has said what is wrong
        if len(images) < len(SIDES):
            return ""
        try:
            names = Path(first or "").name, Path(second or "").name
            return explanation_card(_explanation(self.service, images, names=names))
        except InputError as error:
            return hint("compare.no_why", reason=str(error))
        except ReidError as error:
            return self._explained(error)

    def _opened(self, *paths: str | None) -> list[Image.Image]:
        files = [file for path in paths for file in uploaded(path)]
        return [read_upload(file.read(), name=file.name, limits=self.service.limits) for file in files]

    def _explained(self, error: ReidError) -> str:
        return error_box(error, address=self.service.gallery.store.address)


def _explanation(service: Service, images: list[Image.Image], *, names: tuple[str, str]) -> bytes:
    """Return the picture of an explanation, a PNG file."""
    found = replace(service.explain(images[0], images[1]), names=names)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "explanation.png")
        draw_explanation(found, path)
        return path.read_bytes()
