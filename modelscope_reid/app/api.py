"""The HTTP API of a service: POST /embed, /search, /identify and /enroll, GET /healthz and /metrics.

In: forms with image files. Out: JSON, as `answers.py` describes it, and one sentence in "detail" where something is
wrong. Images are the bytes of the request and nothing else: no path is opened and no address followed. Knows nothing of
tokens and limits of the whole server; those are the gate's.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.security import HTTPBearer
from PIL import Image
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from modelscope_reid.app.answers import (
    EmbedAnswer,
    EnrollAnswer,
    HealthAnswer,
    IdentifyAnswer,
    SearchAnswer,
    problems,
)
from modelscope_reid.app.forms import (
    EmbedForm,
    EnrollForm,
    IdentifyForm,
    SearchForm,
    Upload,
    body_schema,
    read_form,
)
from modelscope_reid.app.server_metrics import CONTENT_TYPE, Metrics
from modelscope_reid.app.service import Service
from modelscope_reid.errors import BusyError, GalleryError, ImageError, InputError, ReidError, TooLargeError
from modelscope_reid.gallery.entries import Match

logger = logging.getLogger(__name__)

THREADS = 40
"""Requests that are worked on at once: those of a full batch, and some that are read or answered meanwhile."""

POST_PROBLEMS = problems(400, 401, 403, 408, 413, 422, 429, 503)

Values = dict[str, Any]


class Api:
    """The routes of one service, and the threads that they work in."""

    def __init__(self, service: Service, metrics: Metrics) -> None:
        self._service = service
        self._metrics = metrics
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="api")

    def close(self) -> None:
        """End the threads; what waits for them is dropped."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def add_to(self, app: FastAPI, *, with_token: bool) -> None:
        """Add the routes, and what errors become, to an application; `with_token` says so in its description."""
        limits = self._service.limits
        secured = [Depends(HTTPBearer(auto_error=False))] if with_token else []  # told here, checked by the gate
        router = APIRouter(dependencies=secured)
        for route, form, answer, summary in (
            (self.embed, EmbedForm, EmbedAnswer, "Embed images"),
            (self.search, SearchForm, SearchAnswer, "Search the gallery for each image"),
            (self.identify, IdentifyForm, IdentifyAnswer, "Say who is on each image"),
            (self.enroll, EnrollForm, EnrollAnswer, "Keep images in the gallery"),
        ):
            name = route.__name__
            router.post(
                f"/{name}",
                operation_id=name,
                summary=summary,
                response_model=answer,
                responses=POST_PROBLEMS,
                openapi_extra={"requestBody": body_schema(form, limits)},
            )(route)
        app.get("/healthz", operation_id="healthz", response_model=HealthAnswer, responses=problems(503))(self.healthz)
        router.get(
            "/metrics",
            operation_id="metrics",
            response_class=Response,
            responses={200: {"content": {"text/plain": {}}}, **problems(401, 503)},
        )(self.metrics)
        app.include_router(router)
        for kind, status in STATUSES.items():
            app.add_exception_handler(kind, _problem_of(status))
        app.add_exception_handler(Exception, _unexpected)

    async def embed(self, request: Request) -> Response:
        """Return an embedding of unit length for each image."""
        uploads, _ = await read_form(request, EmbedForm, self._service.limits)

        def work() -> Values:
            vectors = self._service.embed(self._images(uploads))
            return {"dimension": vectors.shape[1], "embeddings": vectors.tolist()}

        return await self._answer(work, uploads)

    async def search(self, request: Request) -> Response:
        """Return the most similar images of the gallery for each image."""
        uploads, form = await read_form(request, SearchForm, self._service.limits)
        filters = form.filters()

        def work() -> Values:
            found = self._service.search(self._images(uploads), top=form.top, filters=filters, rerank=form.rerank)
            return {
                "results": [
                    {"query": upload.file_name, "matches": [_told(match) for match in matches]}
                    for upload, matches in zip(uploads, found, strict=True)
                ]
            }

        return await self._answer(work, uploads)

    async def identify(self, request: Request) -> Response:
        """Return the person of the gallery who is on each image, or null, with a probability."""
        uploads, form = await read_form(request, IdentifyForm, self._service.limits)
        filters, options = form.filters(), form.model_dump(include={"method", "neighbours", "threshold", "closed"})

        def work() -> Values:
            found = self._service.identify(self._images(uploads), filters=filters, rerank=form.rerank, **options)
            return {
                "results": [
                    {"query": upload.file_name, **one.to_dict(), "matches": [_told(match) for match in one.matches]}
                    for upload, one in zip(uploads, found, strict=True)
                ]
            }

        return await self._answer(work, uploads)

    async def enroll(self, request: Request) -> Response:
        """Keep images in the gallery, with one label for all; an image that is there already changes nothing."""
        if self._service.read_only:
            raise HTTPException(403, "this gallery is read only here; ask whoever runs the server.")
        uploads, form = await read_form(request, EnrollForm, self._service.limits)

        def work() -> Values:
            done = self._service.enroll(
                [upload.content for upload in uploads],
                names=[upload.name for upload in uploads],
                **form.model_dump(),
            )
            if len(done.failures) == len(uploads):
                raise ImageError(done.failures[0].reason)
            return done.to_dict()

        return await self._answer(work)

    async def healthz(self) -> Response:
        """Say that the server answers, what the gallery holds, and which model it belongs to."""

        def work() -> Values:
            info = self._service.gallery.store.info
            entries = self._service.stats().entries
            return {"ok": True, "entries": entries, "model": info.model, "dimension": info.dimension}

        return await self._answer(work)

    async def metrics(self) -> Response:
        """Return counts for Prometheus."""
        text = await asyncio.get_running_loop().run_in_executor(self._threads, self._metrics.text)
        return Response(text, headers={"content-type": CONTENT_TYPE})

    async def _answer(self, work: Callable[[], Values], queries: Sequence[Upload] = ()) -> Response:
        """Run `work` in a thread and return its values as JSON; refuse before that where too many queries wait."""
        self._service.check_room(len(queries))
        content = await asyncio.get_running_loop().run_in_executor(self._threads, lambda: json.dumps(work()).encode())
        return Response(content, media_type="application/json")

    def _images(self, uploads: Sequence[Upload]) -> list[Image.Image]:
        return [self._service.read(upload.content, name=upload.name) for upload in uploads]


def _told(match: Match) -> Values:
    """Return a match as JSON values; where its image came from is told by its name, not by a path of the server."""
    return {**match.to_dict(), "source": re.split(r"[/\\]", match.entry.source)[-1]}


STATUSES: dict[type[Exception], int] = {
    TooLargeError: 413,
    ImageError: 400,
    InputError: 422,
    BusyError: 429,
    GalleryError: 503,
    ReidError: 503,
}
"""The status of each kind of error; the nearest class decides."""


def _problem_of(status: int) -> Callable[[Request, Exception], Response]:
    def answer(request: Request, error: Exception) -> Response:
        detail = str(error)
        if status == 503:  # it may name files of the server
            logger.error("%s: %s", request.url.path, error)
            detail = "the gallery or the model cannot be used now; whoever runs the server finds why in its log."
        return JSONResponse({"detail": detail}, status, {"Retry-After": "1"} if status == 429 else None)

    return answer


def _unexpected(request: Request, error: Exception) -> Response:
    """Answer for a mistake of ours; the server logs it."""
    return JSONResponse({"detail": "the server made a mistake; whoever runs it finds it in its log."}, 500)
