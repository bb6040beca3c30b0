"""What a gallery holds is valid when it is made."""

from __future__ import annotations

import dataclasses
import json

import pytest

from modelscope_reid.errors import GalleryError, InputError
from modelscope_reid.gallery.entries import Entry, Filters, GalleryInfo, Identity, Match

INFO = GalleryInfo(fingerprint="abc", dimension=4, model="osnet")


def test_the_description_of_a_gallery_comes_back() -> None:
    assert GalleryInfo.from_json(json.dumps(INFO.to_dict()), where="g") == INFO


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "no description of a gallery"),
        ("", "no description of a gallery"),
        ("[1]", "no description of a gallery"),
        ("{", "Expecting property name"),
        ('{"format_version": 9}', "its format is 9"),
        ('{"fingerprint": "abc"}', "dimension"),
        ('{"fingerprint": "abc", "dimension": 0}', "dimension is 0"),
        ('{"fingerprint": "", "dimension": 4}', "fingerprint is empty"),
        ('{"fingerprint": "abc", "dimension": "4"}', "dimension is '4'"),
    ],
)
def test_a_description_that_is_none(text: str | None, said: str) -> None:
    with pytest.raises(GalleryError, match=f"g is no gallery that can be opened: .*{said}"):
        GalleryInfo.from_json(text, where="g")


@pytest.mark.parametrize("wrong", [{"key": ""}, {"person_id": ""}, {"camera_id": ""}])
def test_an_entry_has_no_empty_names(wrong: dict[str, str]) -> None:
    with pytest.raises(InputError, match=r"'a\.jpg' has an empty key, person or camera"):
        Entry(**{"key": "a", "source": "a.jpg", **wrong})


def test_a_time_is_finite() -> None:
    with pytest.raises(InputError, match="timestamp of 'a' is nan"):
        Entry(key="a", timestamp=float("nan"))


def test_filters_are_checked_and_can_be_compared() -> None:
    with pytest.raises(InputError, match=r"Filters\.cameras is '1'"):
        Filters(cameras="1")
    assert Filters() == Filters.EVERYTHING
    assert Filters(cameras=("1",)).only_labelled() == Filters(cameras=("1",), labelled=True)


def test_answers_are_plain_json_without_pictures() -> None:
    entry = Entry(key="a", person_id="Ann", thumbnail=b"jpeg")
    one = Identity(person_id="Ann", similarity=0.5, matches=(Match(entry=entry, similarity=0.5),))
    values = json.loads(json.dumps(one.to_dict()))
    assert values["matches"][0]["key"] == "a" and "thumbnail" not in values["matches"][0]
    assert dataclasses.replace(entry, thumbnail=None).to_dict() == entry.to_dict()
    assert "jpeg" not in repr(entry)
