"""What the page shows, as HTML of our own: matches, verdicts, people, and what went wrong.

In: the nouns of the gallery. Out: HTML in every language at once. Whatever a user wrote (names, cameras, file names) is
escaped; pictures are data URIs. A decision is told by a word and a sign, never by colour alone. Knows nothing of gradio
and asks nobody.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from html import escape

from PIL import Image

from modelscope_reid.app.texts import spoken
from modelscope_reid.downloads import one_line
from modelscope_reid.embeddings import Failure
from modelscope_reid.errors import BusyError, GalleryError, ImageError, InputError, ReidError
from modelscope_reid.gallery.entries import Enrolment, Entry, GalleryStats, Identity, Match
from modelscope_reid.ranking.calibration import Judgement
from modelscope_reid.ranking.verification import Decision

SIGNS: dict[Decision, str] = {"same": "✓", "unsure": "?", "different": "✕"}
LONGEST_LIST = 10
"""How many files that failed are named."""

_OPENINGS: tuple[tuple[type[ReidError], str, bool], ...] = (
    (ImageError, "error.image", True),
    (BusyError, "error.busy", False),
    (GalleryError, "error.gallery", False),
    (InputError, "error.input", True),
    (ReidError, "error.other", True),
)
"""What the page says first of each kind of error, and whether the error's own sentence follows."""


def hint(key: str, **values: object) -> str:
    """Return a quiet sentence."""
    return f'<p class="reid-hint">{spoken(key, **values)}</p>'


def heading(key: str) -> str:
    """Return a heading."""
    return f'<h3 class="reid-heading">{spoken(key)}</h3>'


def done(key: str, **values: object) -> str:
    """Return a sentence about what was done."""
    return f'<div class="reid-notice reid-done" role="status">{spoken(key, **values)}</div>'


def problem(key: str, *, reason: str = "", **values: object) -> str:
    """Return a sentence about what went wrong, and the `reason` behind it as the library words it."""
    detail = f'<span class="reid-reason" lang="en">{escape(reason)}</span>' if reason else ""
    return f'<div class="reid-notice reid-problem" role="alert">{spoken(key, **values)} {detail}</div>'


def error_box(error: ReidError, *, address: str = "") -> str:
    """Return a sentence for an error; `address`, where the server keeps the gallery, is not told."""
    key, told = next((key, told) for kind, key, told in _OPENINGS if isinstance(error, kind))
    reason = str(error).replace(address, "the gallery") if address else str(error)
    return problem(key, reason=reason if told else "")


def jpeg_uri(content: bytes) -> str:
    """Return the bytes of a JPEG file as a data URI."""
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"


def preview(image: Image.Image, *, most: int = 900) -> bytes:
    """Return an RGB image as a JPEG file of at most `most` pixels a side."""
    scale = min(1.0, most / max(image.size))
    width, height = (max(1, round(side * scale)) for side in image.size)
    small = image.resize((width, height), reducing_gap=2.0) if scale < 1.0 else image
    target = io.BytesIO()
    small.save(target, "JPEG", quality=82)
    return target.getvalue()


def picture(image: Image.Image) -> str:
    """Return an image in small."""
    return f'<div class="reid-preview"><img alt="" src="{jpeg_uri(preview(image, most=320))}"></div>'


def match_cards(matches: Sequence[Match], thumbnails: Mapping[str, bytes]) -> str:
    """Return ranked matches as cards; `thumbnails` are JPEG files by the keys of entries."""
    cards = "".join(_match_card(match, thumbnails.get(match.entry.key)) for match in matches)
    return f'{heading("search.matches")}<ol class="reid-cards">{cards}</ol>'


def identity_card(identity: Identity) -> str:
    """Return who somebody is, or that nobody knows."""
    if identity.person_id is None:
        name = f'<strong class="reid-name">{spoken("who.unknown")}</strong>'
        facts = [spoken("who.unknown_reason")]
    else:
        name = f'<strong class="reid-name">{_name(identity.person_id)}</strong>'
        facts = []
    if identity.probability is not None and identity.person_id is not None:
        facts.append(spoken("who.probability", percent=_percent(identity.probability)))
    if identity.similarity is not None:
        facts.append(spoken("who.nearest", similarity=_similarity(identity.similarity)))
    return _who(name, "".join(f"<p>{fact}</p>" for fact in facts))


def unnamed_card() -> str:
    """Return that the model names nobody, since it is not calibrated."""
    return _who("", f"<p>{spoken('who.uncalibrated')}</p>")


def verdict_card(similarity: float, judgement: Judgement | None) -> str:
    """Return what two pictures are to each other."""
    measured = f"<p>{spoken('match.similarity', similarity=_similarity(similarity))}</p>"
    if judgement is None:
        word, reason = spoken("compare.uncalibrated"), f"<p>{spoken('compare.uncalibrated_reason')}</p>"
        return f'<div class="reid-verdict reid-none"><strong>{word}</strong>{reason}{measured}</div>'
    decision = judgement.decision
    likely = spoken("who.probability", percent=_percent(judgement.probability))
    doubt = f"<p>{spoken('compare.unsure_reason')}</p>" if decision == "unsure" else ""
    return (
        f'<div class="reid-verdict reid-{decision}"><strong><span aria-hidden="true">{SIGNS[decision]}</span> '
        f"{spoken(f'compare.{decision}')}</strong>{doubt}<p>{likely}</p>{measured}</div>"
    )


def explanation_card(png: bytes) -> str:
    """Return the picture of where two crops agree, a PNG file."""
    uri = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return f'{heading("compare.why")}<img class="reid-why" alt="" src="{uri}">'


def stats_card(stats: GalleryStats) -> str:
    """Return how much the gallery holds."""
    counts = {
        "gallery.images": stats.entries,
        "gallery.people": stats.people,
        "gallery.cameras": stats.cameras,
        "gallery.unlabelled": stats.unlabelled,
    }
    rows = "".join(f"<div><dd>{count:,}</dd><dt>{spoken(key)}</dt></div>" for key, count in counts.items())
    return f'<dl class="reid-stats">{rows}</dl>'


def enrolment_card(enrolment: Enrolment) -> str:
    """Return what became of pictures, with the names and reasons of those that cannot be read."""
    counts = done("gallery.enrolled", added=enrolment.added, known=enrolment.known)
    return counts + (_failed(enrolment.failures) if enrolment.failures else "")


def entry_cards(entries: Sequence[Entry], *, first: int) -> str:
    """Return one page of a person's pictures, the first of which is number `first`."""
    cards = "".join(
        f'<li class="reid-card">{_thumbnail(entry.thumbnail)}<div class="reid-facts">{_place(entry)}</div></li>'
        for entry in entries
    )
    counted = hint("gallery.page", first=first, last=first + len(entries) - 1) if entries else ""
    return f'{counted}<ul class="reid-cards">{cards}</ul>'


def _match_card(match: Match, thumbnail: bytes | None) -> str:
    entry, decision = match.entry, match.decision
    name = _name(entry.person_id) if entry.person_id is not None else spoken("match.nobody")
    tag = ""
    if decision is not None:
        sign = f'<span aria-hidden="true">{SIGNS[decision]}</span>'
        tag = f'<span class="reid-tag reid-{decision}">{sign} {spoken(f"match.{decision}")}</span>'
    share = f"{100 * min(max(match.similarity, 0.0), 1.0):.0f}"
    return (
        f'<li class="reid-card">{_thumbnail(thumbnail)}<div class="reid-facts"><strong>{name}</strong>{tag}'
        f'<div class="reid-bar" aria-hidden="true"><i style="width:{share}%"></i></div>'
        f"<span>{spoken('match.similarity', similarity=_similarity(match.similarity))}</span>"
        f"{_place(entry)}</div></li>"
    )


def _who(name: str, facts: str) -> str:
    question = f'<span class="reid-question">{spoken("who.question")}</span>'
    return f'<div class="reid-who">{question}{name}<div class="reid-facts">{facts}</div></div>'


def _thumbnail(content: bytes | None) -> str:
    if content is None:
        return f'<div class="reid-blank">{spoken("match.no_picture")}</div>'
    return f'<img alt="" src="{jpeg_uri(content)}">'


def _place(entry: Entry) -> str:
    """Return camera and time, where they are known."""
    camera = "" if entry.camera_id is None else spoken("match.camera", camera=one_line(entry.camera_id))
    return "".join(f"<span>{part}</span>" for part in (camera, _time(entry.timestamp)) if part)


def _failed(failures: Sequence[Failure]) -> str:
    reasons = "".join(f"<li>{escape(failure.reason)}</li>" for failure in failures[:LONGEST_LIST])
    words = spoken("gallery.failed", count=len(failures))
    return f'<div class="reid-notice reid-problem" role="alert">{words}<ul lang="en">{reasons}</ul></div>'


def _name(person_id: str) -> str:
    return escape(one_line(person_id))


def _similarity(similarity: float) -> str:
    return f"{similarity:.3f}"


def _percent(probability: float) -> str:
    """Return a probability in percent, never rounded to a certainty."""
    percent = 100.0 * probability
    return ">99" if percent > 99.0 else "<1" if percent < 1.0 else f"{percent:.0f}"


def _time(timestamp: float | None) -> str:
    if timestamp is None:
        return ""
    try:
        return datetime.fromtimestamp(timestamp, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):  # beyond the calendar
        return f"{timestamp:g} s"
