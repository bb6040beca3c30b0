"""The table of texts: whole in every language, used, and safe in HTML."""

from __future__ import annotations

import re
import string
from pathlib import Path

import pytest

from modelscope_reid.app.texts import LANGUAGE_NAMES, LANGUAGES, TEXTS, Language, in_all, language_of, spoken, text

APP = Path(__file__).parents[1] / "modelscope_reid" / "app"
CHINESE = re.compile(r"[\u4e00-\u9fff]")
KEYS = sorted(set().union(*TEXTS.values()))


def places(sentence: str) -> set[str]:
    """The {names} in a text."""
    return {name for _, name, _, _ in string.Formatter().parse(sentence) if name is not None}


def test_every_language_has_a_table() -> None:
    assert set(TEXTS) == set(LANGUAGES) == set(LANGUAGE_NAMES)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_language_lacks_no_entry_and_has_none_too_many(language: Language) -> None:
    assert sorted(TEXTS[language]) == KEYS
    assert all(sentence.strip() == sentence != "" for sentence in TEXTS[language].values())


@pytest.mark.parametrize("key", KEYS)
def test_the_places_of_a_text_are_the_same_in_every_language(key: str) -> None:
    assert len({frozenset(places(TEXTS[language][key])) for language in LANGUAGES}) == 1


@pytest.mark.parametrize("key", sorted(set(KEYS) - {"search.time_example"}))
def test_each_text_is_in_its_own_language(key: str) -> None:
    assert CHINESE.search(TEXTS["zh"][key]) and not CHINESE.search(TEXTS["en"][key])


def test_every_text_is_used() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in APP.glob("*.py") if path.name != "texts.py")
    made = {"match.": ("same", "unsure", "different"), "compare.": ("same", "unsure", "different")}
    made |= {"gallery.": ("person", "camera"), "gallery.delete_": ("yes", "no")}
    composed = {f"{start}{end}" for start, ends in made.items() for end in ends if f"{start}{{" in code}
    assert [key for key in KEYS if f'"{key}"' not in code and f"'{key}'" not in code and key not in composed] == []


def test_no_module_of_the_page_has_words_of_another_language() -> None:
    for path in APP.glob("*.py"):
        if path.name != "texts.py":
            assert not CHINESE.search(path.read_text(encoding="utf-8")), path


def test_a_text_with_its_values() -> None:
    assert text("en", "gallery.page", first=1, last=24) == "Pictures 1 to 24"
    assert text("zh", "gallery.page", first=1, last=24) == "第 1 至 24 张"
    assert in_all("gallery.page", first=1, last=2) == "Pictures 1 to 2 / 第 1 至 2 张"
    with pytest.raises(KeyError):
        text("en", "no such text")


def test_spoken_has_every_language_and_escapes_values() -> None:
    said = spoken("match.camera", camera='<b>"&{x}')
    assert said == (
        '<span class="in-en" lang="en">camera &lt;b&gt;&quot;&amp;{x}</span>'
        '<span class="in-zh" lang="zh">摄像头 &lt;b&gt;&quot;&amp;{x}</span>'
    )


@pytest.mark.parametrize(
    ("header", "wanted", "expected"),
    [
        ("", "", "en"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "", "zh"),
        ("en-GB,en;q=0.9,zh;q=0.8", "", "en"),
        ("fr-FR,fr;q=0.9,zh-TW;q=0.5,en;q=0.3", "", "zh"),
        ("en;q=0.2, zh;q=0.7", "", "zh"),
        ("zh;q=0, en;q=0.1", "", "en"),  # 0: not at all
        ("de,*;q=0.5", "", "en"),
        ("zh;q=much,,;q=", "", "en"),
        ("zh-CN", "en", "en"),
        ("en", "ZH-hans", "zh"),
        ("zh", "xx", "zh"),
    ],
)
def test_the_language_to_begin_with(header: str, wanted: str, expected: str) -> None:
    assert language_of(header, wanted=wanted) == expected
