"""Forms as programs send them: images by their names, options checked, and what is wrong said in a sentence."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from starlette.requests import Request

from modelscope_reid.app.forms import (
    EmbedForm,
    EnrollForm,
    Form,
    IdentifyForm,
    SearchForm,
    Upload,
    body_schema,
    read_form,
)
from modelscope_reid.app.uploads import UploadLimits
from modelscope_reid.errors import InputError, TooLargeError
from modelscope_reid.gallery.entries import Filters

LIMITS = UploadLimits()
IMAGE = ("images", ("a.png", b"content"))


def sent(kind: type[Form], *files: Any, data: dict[str, Any] | None = None) -> tuple[list[Upload], Any]:
    """What is read of a request that httpx writes."""
    request = httpx.Request("POST", "http://x/", files=list(files), data=data or {})
    body = request.read()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    headers = [(name.lower(), value) for name, value in request.headers.raw]
    return asyncio.run(
        read_form(Request({"type": "http", "method": "POST", "headers": headers}, receive), kind, LIMITS)
    )


def test_images_with_their_names() -> None:
    uploads, form = sent(EmbedForm, IMAGE, ("images", ("b\n.png", b"2")), ("images", (None, "http://127.0.0.1/x")))
    assert [(upload.name, upload.content) for upload in uploads[:2]] == [
        ("image 0 (a.png)", b"content"),
        ("image 1 (b%0A.png)", b"2"),
    ]
    assert (uploads[2].name, uploads[2].file_name, uploads[2].content) == ("image 2", "", b"http://127.0.0.1/x")
    assert form == EmbedForm()


def test_names_are_cleaned() -> None:
    uploads, _ = sent(EmbedForm, ("images", ("\u202e" + 300 * "n", b"")))
    assert uploads[0].file_name.startswith("\\u202enn") and len(uploads[0].file_name) < 200


def test_options_of_a_search() -> None:
    _, form = sent(
        SearchForm, IMAGE, data={"top": "3", "camera": ["1", "2"], "since": "1970-01-01T01:00:00", "rerank": "true"}
    )
    assert (form.top, form.rerank) == (3, True)
    assert form.filters() == Filters(cameras=("1", "2"), since=3600.0)
    _, form = sent(SearchForm, IMAGE, data={"exclude_camera": "1", "person": ["a", "b"], "until": "60", "since": ""})
    assert form.filters() == Filters(exclude_cameras=("1",), persons=("a", "b"), until=60.0)


def test_nothing_is_given() -> None:
    assert sent(SearchForm, IMAGE)[1].filters() == Filters.EVERYTHING
    assert sent(EnrollForm, IMAGE, data={"person_id": ""})[1] == EnrollForm()
    assert sent(IdentifyForm, IMAGE)[1].model_dump()["method"] == "nearest"


@pytest.mark.parametrize(
    ("kind", "data", "said"),
    [
        (SearchForm, {"topp": "3"}, r"'topp' is no field of this form; did you mean 'top'\?"),
        (EmbedForm, {"top": "3"}, "'top' is no field of this form; expected images"),
        (SearchForm, {"top": "0"}, "top is '0'; input should be greater than or equal to 1"),
        (SearchForm, {"top": "101"}, "top is '101'; input should be less than or equal to 100"),
        (SearchForm, {"top": "many"}, "top is 'many'; input should be a valid integer"),
        (SearchForm, {"top": ["1", "2"]}, "top is given 2 times"),
        (SearchForm, {"rerank": "perhaps"}, "rerank is 'perhaps'; input should be a valid boolean"),
        (SearchForm, {"rerank": "1"}, "rerank is '1'; input should be a valid boolean"),
        (SearchForm, {"camera": ["1"] * 33}, "camera is .*; list should have at most 32 items"),
        (SearchForm, {"camera": "c" * 201}, r"camera\.0 is .*; string should have at most 200 characters"),
        (IdentifyForm, {"method": "guess"}, "method is 'guess'; input should be 'nearest', 'vote' or 'centroid'"),
        (IdentifyForm, {"threshold": "nan"}, "threshold is 'nan'"),
        (IdentifyForm, {"threshold": "1.5"}, "threshold is '1.5'; input should be less than or equal to 1"),
        (EnrollForm, {"person_id": "p" * 201}, "person_id is .*; string should have at most 200 characters"),
    ],
)
def test_what_is_wrong_with_an_option(kind: type[Form], data: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=f"^{said}"):
        sent(kind, IMAGE, data=data)


def test_a_time_that_is_none() -> None:
    with pytest.raises(InputError, match="'noon' is no time"):
        sent(SearchForm, IMAGE, data={"since": "noon"})[1].filters()


def test_no_image_and_too_many() -> None:
    with pytest.raises(InputError, match=r"'image' is no field of this form; did you mean 'images'\?"):
        sent(EmbedForm, ("image", ("a.png", b"")))
    with pytest.raises(InputError, match="there is no image; send files as the field 'images'"):
        sent(SearchForm, ("top", (None, "3")))
    with pytest.raises(TooLargeError, match="33 images were sent at once, more than 32"):
        sent(EmbedForm, *[IMAGE] * 33)


def test_an_option_that_is_a_file() -> None:
    with pytest.raises(InputError, match="top was sent as a file; send it as text"):
        sent(SearchForm, IMAGE, ("top", ("top.txt", b"3")))


def test_the_description_of_a_body() -> None:
    content = body_schema(SearchForm, LIMITS)["content"]["multipart/form-data"]
    schema = content["schema"]
    assert schema["additionalProperties"] is False and schema["required"] == ["images"]
    assert schema["properties"]["images"]["maxItems"] == 32
    assert schema["properties"]["since"]["format"] == "date-time" and "null" not in str(body_schema(EnrollForm, LIMITS))
    assert (schema["properties"]["top"]["minimum"], schema["properties"]["top"]["maximum"]) == (1, 100)
