"""The page: three tabs over one service, in two languages, and how it is mounted beside the API.

In: a `Service`. Out: gradio Blocks, mounted so that a visitor names no path and no address of the server. Knows nothing
of the API.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import gradio
from fastapi import FastAPI
from starlette.middleware import Middleware

from modelscope_reid.app.page_compare import add_compare_tab
from modelscope_reid.app.page_gallery import add_gallery_tab
from modelscope_reid.app.page_guard import PageGuard
from modelscope_reid.app.page_search import add_search_tab
from modelscope_reid.app.page_style import SCRIPT, STYLE, page_theme
from modelscope_reid.app.service import Service
from modelscope_reid.app.texts import LANGUAGE_NAMES, LANGUAGES, TEXTS, Language, language_of, spoken
from modelscope_reid.app.uploaded_files import uploads_folder
from modelscope_reid.app.widgets import AT_ONCE, EVENT, Words

WAITING = 128
"""How many events may wait; beyond, a visitor is told to come again."""
SESSIONS = 500
"""Of how many visitors the server remembers what they look at: some hundred kilobytes each."""

_TITLES = json.dumps({language: TEXTS[language]["page.title"] for language in LANGUAGES}, ensure_ascii=False)
_SPEAK = f"(language) => {{ document.documentElement.lang = language; document.title = ({_TITLES})[language]; "
_SPEAK += "return language; }"


def build_page(service: Service) -> gradio.Blocks:
    """Return the page; `mount_page` serves it."""
    uploads_folder()
    words = Words()
    title = TEXTS["en"]["page.title"]
    page: gradio.Blocks = gradio.Blocks(analytics_enabled=False, title=title)
    with page:
        with gradio.Row(elem_id="page-head"):
            gradio.HTML(f"<h1>{spoken('page.title')}</h1><p>{spoken('page.sentence')}</p>")
            choices = [(name, language) for language, name in LANGUAGE_NAMES.items()]
            language = words.make(
                gradio.Radio,
                {"label": "page.language"},
                choices=choices,
                value="en",
                show_label=False,
                container=False,
                elem_id="page-language",
                scale=0,
            )
        with gradio.Tabs():
            add_search_tab(service, words)
            add_compare_tab(service, words)
            add_gallery_tab(service, words)

        def speak(chosen: Language) -> list[Any]:
            return words.updates(chosen)

        def begin(request: gradio.Request) -> list[Any]:
            wanted = str(request.query_params.get("lang", ""))
            first = language_of(request.headers.get("accept-language", ""), wanted=wanted)
            own, *others = words.updates(first)  # of the choice of language, and of all else
            return [{**own, "value": first}, *others]

        quiet = {**EVENT, "show_progress": "hidden"}
        language.input(speak, language, words.components, js=_SPEAK, **quiet)
        page.load(begin, None, words.components, **quiet).then(None, language, language, js=_SPEAK)
    page.queue(max_size=WAITING, default_concurrency_limit=AT_ONCE, api_open=False)
    page.state_session_capacity = SESSIONS
    return page


def mount_page(app: FastAPI, service: Service, *, auth: Callable[[str, str], bool] | None = None) -> FastAPI:
    """Build the page and mount it at "/" of `app`, last of all: with theme, guard and limits.

    `auth` tells whether a user name and a password may enter; None lets everybody in.
    """
    page = build_page(service)
    page.has_launched = True  # only then does gradio look whether files that a request names are uploads
    guard = Middleware(PageGuard, folder=uploads_folder(), limits=service.limits)
    gradio.mount_gradio_app(
        app,
        page,
        path="/",
        auth=auth,
        show_error=False,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        ssr_mode=False,
        theme=page_theme(),
        head=f"<style>{STYLE}</style><script>{SCRIPT}</script>",  # `css` would be confined to the page's own element
        app_kwargs={"middleware": [guard], "docs_url": None, "redoc_url": None, "openapi_url": None},
    )
    page.max_file_size = service.limits.max_bytes  # told to gradio's server, not to its page: it has words of its own
    return app
