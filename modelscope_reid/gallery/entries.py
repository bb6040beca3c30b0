"""What a gallery holds and what it answers: plain frozen data, valid when made.

An entry is one enrolled image. Its `key` is the SHA-256, in hex, of what was enrolled, so that the same image enters
once however often it is given. People and cameras have names of any kind, kept as text; times are seconds since 1970,
UTC. Knows nothing of stores, models or files.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, ClassVar

from modelscope_reid.embeddings import Failure
from modelscope_reid.errors import ConfigError, GalleryError, InputError
from modelscope_reid.fields import check_input, dataclass_from_dict
from modelscope_reid.ranking.verification import Decision

FORMAT_VERSION = 1
"""The layout of what stores write; a gallery of a later one is refused."""


@dataclass(frozen=True, kw_only=True)
class GalleryInfo:
    """What the vectors of a gallery are: those of one model, of one size, compared by their cosine.

    Raises:
        InputError: an empty fingerprint, or a dimension below 1.
    """

    fingerprint: str
    dimension: int
    model: str = ""
    metric: str = "cosine"
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        check_input(self, lowest={"dimension": 1, "format_version": 1})
        if not self.fingerprint:
            raise InputError("GalleryInfo.fingerprint is empty; expected that of the model, Embedder.fingerprint.")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, text: str | None, *, where: str) -> GalleryInfo:
        """Read what a store wrote as JSON.

        Raises:
            GalleryError: it is no gallery of ours, or one of a later version.
        """
        try:
            values = json.loads(text or "null")
            if not isinstance(values, dict):
                raise ConfigError("there is no description of a gallery in it.")
            version = values.get("format_version")
            if isinstance(version, int) and version > FORMAT_VERSION:
                raise ConfigError(f"its format is {version}, and this version reads up to {FORMAT_VERSION}.")
            return dataclass_from_dict(cls, values, where=where)
        except (ValueError, InputError) as error:
            raise GalleryError(f"{where} is no gallery that can be opened: {error}") from error


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One enrolled image; None is what nobody said. `thumbnail` is a small JPEG file, or None where not asked for.

    Raises:
        InputError: an empty key or name, or a time that is not finite.
    """

    key: str
    person_id: str | None = None
    camera_id: str | None = None
    timestamp: float | None = None
    source: str = ""
    thumbnail: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.key or self.person_id == "" or self.camera_id == "":
            raise InputError(
                f"entry {self.source or self.key!r} has an empty key, person or camera; leave out what is not known."
            )
        if self.timestamp is not None and not math.isfinite(self.timestamp):
            raise InputError(
                f"timestamp of {self.source or self.key!r} is {self.timestamp}; expected seconds, or None."
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, without the thumbnail."""
        return {item.name: getattr(self, item.name) for item in fields(self) if item.name != "thumbnail"}


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Which entries may answer. An entry whose camera, person or time is not known passes no demand for one.

    `exclude_cameras` keeps entries of other cameras, and of cameras not known. Times are from `since` on, and before
    `until`. `labelled` leaves out entries without a person.
    """

    exclude_cameras: tuple[str, ...] = ()
    cameras: tuple[str, ...] = ()
    persons: tuple[str, ...] = ()
    since: float | None = None
    until: float | None = None
    labelled: bool = False

    EVERYTHING: ClassVar[Filters]

    def __post_init__(self) -> None:
        check_input(self, lowest={})

    def only_labelled(self) -> Filters:
        """Return these filters, for entries with a person only."""
        return replace(self, labelled=True)


Filters.EVERYTHING = Filters()


@dataclass(frozen=True, kw_only=True)
class Match:
    """An entry that a search found: its cosine similarity to the query, and what a calibrated model makes of that."""

    entry: Entry
    similarity: float
    decision: Decision | None = None
    probability: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        judged = {"decision": self.decision, "probability": self.probability}
        return {**self.entry.to_dict(), "similarity": self.similarity, **judged}


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Who a query is: a person, or None where nobody in the gallery is similar enough.

    `similarity` is that of the nearest person, also where it was not enough (None in a gallery without people), and
    `probability` that the query shows this person (None without a calibrated model). `matches` led to the answer.
    """

    person_id: str | None
    similarity: float | None
    probability: float | None = None
    matches: tuple[Match, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "person_id": self.person_id,
            "similarity": self.similarity,
            "probability": self.probability,
            "matches": [match.to_dict() for match in self.matches],
        }


@dataclass(frozen=True, kw_only=True)
class Enrolment:
    """What became of images: `added` are new, `known` were there before, `failures` cannot be read."""

    added: int
    known: int
    failures: tuple[Failure, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"added": self.added, "known": self.known, "failures": [item.to_dict() for item in self.failures]}


@dataclass(frozen=True, kw_only=True)
class GalleryStats:
    """How much a gallery holds; `bytes_stored` is None where the store cannot say; `index` is how it is searched."""

    entries: int
    people: int
    cameras: int
    unlabelled: int
    bytes_stored: int | None
    index: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that `verify` looked at: whether it is right, in one sentence."""

    passed: bool
    sentence: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)
