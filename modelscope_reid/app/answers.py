"""What the API answers, described for OpenAPI; the values are those of the gallery's nouns, `to_dict()`.

In: nothing. Out: pydantic models, and the errors that every route may give. Knows nothing of how an answer is found.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel


class Problem(BaseModel):
    """Why a request was refused, in one sentence."""

    detail: str


class EmbedAnswer(BaseModel):
    """One embedding of unit length for each image, in their order."""

    dimension: int
    embeddings: list[list[float]]


class MatchAnswer(BaseModel):
    """An entry of the gallery, its cosine similarity to the query, and what a calibrated model makes of it."""

    key: str
    person_id: str | None
    camera_id: str | None
    timestamp: float | None
    source: str
    similarity: float
    decision: Literal["same", "different", "unsure"] | None
    probability: float | None


class SearchResult(BaseModel):
    """The matches of one image, the most similar first."""

    query: str
    matches: list[MatchAnswer]


class SearchAnswer(BaseModel):
    """One result for each image, in their order."""

    results: list[SearchResult]


class IdentifyResult(BaseModel):
    """Who is on one image, or null; how similar the nearest person is, and the matches that led to the answer."""

    query: str
    person_id: str | None
    similarity: float | None
    probability: float | None
    matches: list[MatchAnswer]


class IdentifyAnswer(BaseModel):
    """One result for each image, in their order."""

    results: list[IdentifyResult]


class FailureAnswer(BaseModel):
    """An image that could not be read: its place, its name, and the reason."""

    index: int
    source: str
    reason: str


class EnrollAnswer(BaseModel):
    """How many images are new, how many were there before, and which cannot be read."""

    added: int
    known: int
    failures: list[FailureAnswer]


class HealthAnswer(BaseModel):
    """The server answers; what its gallery holds, and the model that it belongs to."""

    ok: bool
    entries: int
    model: str
    dimension: int


PROBLEMS: dict[int, str] = {
    400: "The body is no form, or an image cannot be read.",
    401: "The token is missing or wrong.",
    403: "The gallery is read only here, or another site's page sent the request.",
    408: "The body did not arrive in time.",
    413: "Too many bytes, pixels or images.",
    422: "A field is missing, unknown or out of range.",
    429: "As much is under way as may be; the header Retry-After says when to come again.",
    503: "The gallery or the model cannot be used.",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the errors of these statuses as FastAPI takes them."""
    return {status: {"model": Problem, "description": PROBLEMS[status]} for status in statuses}
