"""Components and the texts that stand on them."""

from __future__ import annotations

import gradio
import pytest

from modelscope_reid.app.widgets import EVENT, Words, entered, line, scroll_to


def test_components_say_their_texts_in_each_language() -> None:
    words = Words()
    with gradio.Blocks(analytics_enabled=False):
        name = line(words, "gallery.person", "gallery.unknown")
        button = words.make(gradio.Button, {"value": "search.run"}, variant="primary")
    assert words.components == [name, button]
    assert (name.label, name.placeholder, button.value) == ("Person", "not known", "Search")
    english, chinese = words.updates("en"), words.updates("zh")
    assert [update["label"] for update in (english[0], chinese[0])] == ["Person", "人物"]
    assert chinese[0]["placeholder"] == "未知" and chinese[1]["value"] == "检索"
    assert "value" not in chinese[0]  # what was entered stays


def test_a_text_that_is_not_there_is_an_error() -> None:
    with pytest.raises(KeyError):
        Words().make(gradio.Button, {"value": "no such text"})


@pytest.mark.parametrize(("value", "expected"), [(None, None), ("", None), ("  ", None), (" Ann ", "Ann")])
def test_what_was_entered(value: str | None, expected: str | None) -> None:
    assert entered(value) == expected


def test_no_event_is_an_endpoint_of_gradios_own_api() -> None:
    assert EVENT["api_visibility"] == "private"
    assert "getElementById('search-who')" in scroll_to("search-who")
