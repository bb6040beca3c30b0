"""What a request to the API may carry: the fields of its form, and the files.

In: a multipart form. Out: the bytes of each image with its name, and the checked options. A field that nobody knows is
an error that names the nearest one. Knows nothing of galleries beyond the names of their options.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request

from modelscope_reid.app.uploads import UploadLimits
from modelscope_reid.downloads import one_line
from modelscope_reid.errors import InputError
from modelscope_reid.fields import nearest
from modelscope_reid.gallery.entries import Filters
from modelscope_reid.gallery.labels import seconds_of

IMAGES = "images"
"""The field of the files."""
LONGEST_LABEL = 200

Label = Annotated[str, Field(max_length=LONGEST_LABEL)]
Labels = Annotated[list[Label], Field(max_length=32)]
Moment = Annotated[str, Field(max_length=40, json_schema_extra={"format": "date-time"})]
YesOrNo = Annotated[bool, Field(strict=True), BeforeValidator(lambda value: _WORDS.get(value, value))]
"""True or false, and no other word for it."""

_WORDS = {"true": True, "false": False}


class Form(BaseModel):
    """The fields of a form beside its images; an empty one counts as not given."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=lambda schema: _without_null(schema["properties"]))


FormT = TypeVar("FormT", bound=Form)


class EmbedForm(Form):
    """Nothing but images."""


class FilterForm(Form):
    """Which entries of the gallery may answer."""

    exclude_camera: Labels = Field([], description="Leave out images of these cameras.")
    camera: Labels = Field([], description="Only images of these cameras.")
    person: Labels = Field([], description="Only images of these people.")
    since: Moment | None = Field(None, description="Only images from this time on: ISO 8601, or seconds since 1970.")
    until: Moment | None = Field(None, description="Only images before this time.")
    rerank: YesOrNo = Field(False, description="Put the nearest 50 in order by k-reciprocal neighbours.")

    def filters(self) -> Filters:
        """Return them as the gallery takes them.

        Raises:
            InputError: a time that is none.
        """
        if not self.model_fields_set & _FILTERS:
            return Filters.EVERYTHING
        return Filters(
            exclude_cameras=tuple(self.exclude_camera),
            cameras=tuple(self.camera),
            persons=tuple(self.person),
            since=seconds_of(self.since),
            until=seconds_of(self.until),
        )


_FILTERS = set(FilterForm.model_fields) - {"rerank"}


class SearchForm(FilterForm):
    """How to search."""

    top: int = Field(10, ge=1, le=100, description="How many matches for each image.")


class IdentifyForm(FilterForm):
    """How to say who it is."""

    method: Literal["nearest", "vote", "centroid"] = Field("nearest", description="How a person is chosen.")
    neighbours: int = Field(10, ge=1, le=100, description="How many images vote, or bring in their people.")
    threshold: float | None = Field(
        None, ge=-1, le=1, description="Cosine similarity from which somebody is known; None: the model's own."
    )
    closed: YesOrNo = Field(False, description="Every image is of somebody in the gallery; nobody is unknown.")


class EnrollForm(Form):
    """What is known of all images of the request."""

    person_id: Label | None = Field(None, description="Who is on the images.")
    camera_id: Label | None = Field(None, description="Which camera took them.")
    timestamp: Moment | None = Field(None, description="When: ISO 8601, or seconds since 1970.")


@dataclass(frozen=True)
class Upload:
    """One image of a request: its place in it, the name that the sender gave its file, and its bytes."""

    place: int
    file_name: str
    content: bytes

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"image {self.place} ({self.file_name})" if self.file_name else f"image {self.place}"


async def read_form(request: Request, kind: type[FormT], limits: UploadLimits) -> tuple[list[Upload], FormT]:
    """Return the images and the options of a request.

    Raises:
        HTTPException: 400, the body is no form.
        ImageError: no image, or too many.
        InputError: a field that is unknown or out of range.
    """
    async with request.form(max_files=1000, max_fields=1000) as form:
        options = _options(form, kind)
        given = form.getlist(IMAGES)
        if not given:
            raise InputError(f"there is no image; send files as the field {IMAGES!r} of a multipart form.")
        limits.check_count(len(given))
        return [_upload(place, value) for place, value in enumerate(given)], options


def body_schema(kind: type[Form], limits: UploadLimits) -> dict[str, Any]:
    """Return the description of a request's body, as OpenAPI has it."""
    schema = kind.model_json_schema()
    files = {
        "type": "array",
        "items": {"type": "string", "format": "binary"},
        "minItems": 1,
        "maxItems": limits.max_images,
        "description": "Image files: JPEG, PNG, WebP, BMP, TIFF or GIF.",
    }
    schema["properties"] = {IMAGES: files, **schema.get("properties", {})}
    schema["required"] = [IMAGES]
    return {"required": True, "content": {"multipart/form-data": {"schema": schema}}}


def _without_null(properties: dict[str, Any]) -> None:
    """Take null out of a description: a form cannot say it, and leaves a field out instead."""
    for schema in properties.values():
        kinds = [kind for kind in schema.pop("anyOf", []) if kind != {"type": "null"}]
        schema.update(*kinds)
        if schema.get("default", 0) is None:
            del schema["default"]


def _upload(place: int, value: UploadFile | str) -> Upload:
    """Return an image's bytes; text in its place stays text, and is no image."""
    if isinstance(value, str):
        return Upload(place, "", value.encode())
    return Upload(place, one_line(value.filename or ""), value.file.read())


def _options(form: FormData, kind: type[FormT]) -> FormT:
    known = {name: _is_list(field.annotation) for name, field in kind.model_fields.items()}
    values: dict[str, Any] = {}
    for name in form:
        if name == IMAGES:
            continue
        if name not in known:
            hint = nearest(name, [IMAGES, *known]) or "; expected " + ", ".join([IMAGES, *known]) + "."
            raise InputError(f"{one_line(name)!r} is no field of this form{hint}")
        given = [_text(name, value) for value in form.getlist(name)]
        given = [value for value in given if value]
        if given and not known[name] and len(given) > 1:
            raise InputError(f"{name} is given {len(given)} times; give it once.")
        if given:
            values[name] = given if known[name] else given[0]
    return _checked(kind, values)


def _checked(kind: type[FormT], values: Mapping[str, Any]) -> FormT:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        said = first["msg"][:1].lower() + first["msg"][1:]
        raise InputError(f"{name} is {one_line(str(first['input']))!r}; {said}.") from error


def _text(name: str, value: UploadFile | str) -> str:
    if isinstance(value, str):
        return value
    raise InputError(f"{name} was sent as a file; send it as text.")


def _is_list(annotation: Any) -> bool:
    return getattr(annotation, "__origin__", None) is list
