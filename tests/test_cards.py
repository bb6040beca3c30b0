"""The page's own HTML: what users wrote is text in it, and a decision is told by a word."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser

import pytest
from PIL import Image

from modelscope_reid.app import cards
from modelscope_reid.embeddings import Failure
from modelscope_reid.errors import BusyError, GalleryError, ImageError, InputError, ReidError
from modelscope_reid.gallery.entries import Enrolment, Entry, GalleryStats, Identity, Match
from modelscope_reid.ranking.calibration import Judgement
from modelscope_reid.ranking.verification import Decision

EVIL = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "${alert(1)}{{alert(1)}}",
    "<!-- </li></ol> -->&lt;b&gt;",
]


class Reader(HTMLParser):
    """The tags, attributes and text of a piece of HTML."""

    def __init__(self, content: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take a tag."""
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)

    def handle_data(self, data: str) -> None:
        """Take text."""
        self.text += data


def entry(name: str, **others: float | bytes | str) -> Entry:
    return Entry(key="k", person_id=name, camera_id=name, **others)


def match(name: str = "Ann", *, similarity: float = 0.5, decision: Decision | None = "same") -> Match:
    return Match(entry=entry(name), similarity=similarity, decision=decision, probability=0.25)


@pytest.mark.parametrize("evil", EVIL)
def test_what_users_wrote_is_text(evil: str) -> None:
    failure = Failure(index=0, source=evil, reason=f"{evil} is no image")
    pieces = [
        cards.match_cards([match(evil)], {"k": b"\xff\xd8"}),
        cards.identity_card(Identity(person_id=evil, similarity=0.5, probability=0.5)),
        cards.entry_cards([entry(evil)], first=1),
        cards.enrolment_card(Enrolment(added=0, known=0, failures=(failure,))),
        cards.error_box(InputError(f"nobody is called {evil}")),
        cards.problem("gallery.sure", person=evil, count=1),
    ]
    for piece in pieces:
        read = Reader(piece)
        assert evil in read.text
        assert not read.tags & {"script", "b"} and not any(name.startswith("on") for name in read.attributes)


@pytest.mark.parametrize(
    ("decision", "english", "chinese"),
    [("same", "same", "同一人"), ("unsure", "unsure", "不确定"), ("different", "different", "不同人")],
)
def test_a_decision_is_a_word_and_a_sign(decision: Decision, english: str, chinese: str) -> None:
    piece = cards.match_cards([match(decision=decision)], {})
    assert f">{english}</span>" in piece and f">{chinese}</span>" in piece
    assert cards.SIGNS[decision] in piece and f"reid-{decision}" in piece


def test_an_uncalibrated_model_gives_no_decision() -> None:
    piece = cards.match_cards([Match(entry=entry("Ann"), similarity=0.5)], {})
    assert "reid-tag" not in piece and "%" not in Reader(piece).text and "0.500" in piece
    assert "not calibrated" in cards.verdict_card(0.5, None) and "not calibrated" in cards.unnamed_card()


def test_a_match_shows_its_picture_camera_and_time() -> None:
    found = Match(entry=entry("Ann", timestamp=1_800_000_000.0), similarity=-0.25)
    content = b"\xff\xd8jpeg"
    piece = cards.match_cards([found], {"k": content})
    assert f"data:image/jpeg;base64,{base64.b64encode(content).decode()}" in piece
    assert "camera Ann" in piece and "2027-01-15 08:00:00" in piece  # 1.8e9 s are 20833 days and 8 hours
    assert "-0.250" in piece and "width:0%" in piece
    assert "no picture kept" in cards.match_cards([found], {})
    assert "1e+300 s" in cards.entry_cards([entry("Ann", timestamp=1e300)], first=1)
    assert "no name" in cards.match_cards([Match(entry=Entry(key="k"), similarity=0.1)], {})


@pytest.mark.parametrize(
    ("probability", "shown"), [(0.0, "<1%"), (0.0099, "<1%"), (0.5, "50%"), (0.991, ">99%"), (1.0, ">99%")]
)
def test_no_probability_is_a_certainty(probability: float, shown: str) -> None:
    judgement = Judgement(decision="unsure", probability=probability, similarity=0.4)
    assert f"person: {shown}." in Reader(cards.verdict_card(0.4, judgement)).text


def test_an_unknown_person_is_told_as_such() -> None:
    piece = cards.identity_card(Identity(person_id=None, similarity=0.2, probability=0.9))
    assert "Unknown" in piece and "未知" in piece and "0.200" in piece
    assert "90" not in piece  # that probability is of the nearest person, who is not named


@pytest.mark.parametrize(
    ("error", "opening", "told"),
    [
        (ImageError("x.jpg is damaged"), "The picture cannot be used.", True),
        (InputError("'?' is no time"), "That does not fit.", True),
        (BusyError("256 images wait"), "Too many people", False),
        (GalleryError("/srv/secret/gallery.db is locked"), "The gallery cannot be read", False),
        (ReidError("the model gave NaN"), "The model could not do that.", True),
    ],
)
def test_an_error_is_one_friendly_sentence(error: ReidError, opening: str, told: bool) -> None:
    piece = cards.error_box(error)
    assert opening in piece and 'role="alert"' in piece
    assert (str(error) in Reader(piece).text) == told


def test_an_error_does_not_tell_where_the_gallery_lies() -> None:
    piece = cards.error_box(InputError("/srv/gallery.db has nobody called 'Ann'"), address="/srv/gallery.db")
    assert "/srv" not in piece and "the gallery has nobody called" in Reader(piece).text


def test_of_many_failures_some_are_named() -> None:
    failures = tuple(Failure(index=place, source="", reason=f"file {place} is empty") for place in range(30))
    piece = cards.enrolment_card(Enrolment(added=1_000, known=2, failures=failures))
    assert "1000 new, 2 known already." in piece and "30 could not be read" in piece
    assert "file 9 is empty" in piece and "file 10 is empty" not in piece
    assert "could not" not in cards.enrolment_card(Enrolment(added=1, known=0))


def test_counts_and_pages() -> None:
    stats = GalleryStats(entries=1_234_567, people=3, cameras=2, unlabelled=1, bytes_stored=None, index="")
    assert "1,234,567" in cards.stats_card(stats)
    assert "Pictures 25 to 26" in cards.entry_cards([entry("a"), entry("b")], first=25)
    assert Reader(cards.entry_cards([], first=1)).text == ""


def test_previews_are_small_and_of_any_shape() -> None:
    for size, expected in (((4000, 1000), (900, 225)), ((10, 20), (10, 20)), ((1, 5000), (1, 900))):
        small = Image.open(io.BytesIO(cards.preview(Image.new("RGB", size))))
        assert (small.size, small.format) == (expected, "JPEG")
    assert cards.picture(Image.new("RGB", (5, 5))).count("data:image/jpeg") == 1
    assert "data:image/png" in cards.explanation_card(b"png")
