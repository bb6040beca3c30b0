"""Components that know which texts stand on them, so that all of them change their language at once.

In: a kind of gradio component and the keys of its texts. Out: the component in English, and later what changes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio

from modelscope_reid.app.texts import Language, text

AT_ONCE = 4
"""How many events run at once: each may hold a large picture."""
EVENT: dict[str, Any] = {
    "api_visibility": "private",
    "show_progress": "minimal",
    "concurrency_id": "page",
    "concurrency_limit": AT_ONCE,
}
"""How every event of the page is set up: none is an endpoint of gradio's own API, the HTTP API is ours."""


def line(words: Words, label: str, placeholder: str, *, min_width: int = 140) -> Any:
    """Return a field for one short line; `label` and `placeholder` are keys of texts."""
    said = {"label": label, "placeholder": placeholder}
    return words.make(gradio.Textbox, said, value="", max_lines=1, max_length=200, min_width=min_width)


def entered(value: str | None) -> str | None:
    """Return what was written into a line, None where nothing was."""
    return (value or "").strip() or None


def scroll_to(element: str) -> str:
    """Return JavaScript that brings an element into sight where the page is one narrow column."""
    found = f"document.getElementById('{element}')"
    return f"() => {{ if (innerWidth < 700) {found}.scrollIntoView({{behavior: 'smooth'}}); }}"


class Words:
    """The components of one page whose texts come from the table."""

    def __init__(self) -> None:
        self._said: list[tuple[Any, Mapping[str, str]]] = []

    @property
    def components(self) -> list[Any]:
        """Every component made, in the order of `updates`."""
        return [component for component, _ in self._said]

    def make(self, kind: type[Any], said: Mapping[str, str], **options: Any) -> Any:
        """Return a component; `said` names the text of each property, such as {"label": "search.tab"}."""
        component = kind(**{name: text("en", key) for name, key in said.items()}, **options)
        self._said.append((component, said))
        return component

    def updates(self, language: Language) -> list[Any]:
        """Return what brings each component to a language; what visitors entered stays."""
        said: list[dict[str, Any]] = [
            {name: text(language, key) for name, key in keys.items()} for _, keys in self._said
        ]
        return [gradio.update(**properties) for properties in said]
