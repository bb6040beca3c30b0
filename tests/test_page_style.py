"""The page's looks come from the server alone."""

from __future__ import annotations

import re

from modelscope_reid.app.page_style import FONTS, STYLE, page_theme


def test_the_style_loads_nothing() -> None:
    assert not re.search(r"url\(|@import|https?:|</", STYLE)
    assert STYLE.count("{") == STYLE.count("}")


def test_the_theme_loads_no_fonts() -> None:
    theme = page_theme()
    assert theme._stylesheets == []
    assert "system-ui" in FONTS and not re.search(r'@import|url\((?!"data:)', theme._get_theme_css())


def test_light_and_dark_name_the_same_colours() -> None:
    light, dark = (re.findall(r"(--reid-[\w-]+):", STYLE.split(start)[1].split("}")[0]) for start in (":root", ".dark"))
    assert light == dark != []
