"""Values that fit their annotations and values that do not, and dataclasses from plain values."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelscope_reid.errors import ConfigError
from modelscope_reid.fields import (
    check_fields,
    dataclass_from_dict,
    members,
    nearest,
    parse_value,
    require,
    require_share,
)


@dataclass(frozen=True, kw_only=True)
class Lens:
    focal_length: float = 35.0
    name: str = ""

    def __post_init__(self) -> None:
        check_fields(self)
        require(self.focal_length > 0, f"focal_length is {self.focal_length}; expected more than 0.")


@dataclass(frozen=True, kw_only=True)
class Camera:
    number: int
    kind: Literal["box", "dome"] = "box"
    gain: float | None = None
    infrared: bool = False
    size: tuple[int, int] = (2, 1)
    times: tuple[float, ...] = ()
    boxes: tuple[tuple[int, int], ...] = ()
    lens: Lens = field(default_factory=Lens)
    spare: Lens | None = None
    anything: Any = None

    def __post_init__(self) -> None:
        check_fields(self)


def read(**values: Any) -> Camera:
    return dataclass_from_dict(Camera, {"number": 1, **values}, where="camera")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"number": 1.0}, "number is 1.0; expected a whole number."),
        ({"number": True}, "number is True; expected a whole number."),
        ({"number": "1"}, "number is '1'; expected a whole number."),
        ({"kind": "cube"}, "kind is 'cube'; expected one of 'box', 'dome'."),
        ({"kind": ["box"]}, "kind is ['box']; expected one of 'box', 'dome'."),
        ({"gain": "much"}, "gain is 'much'; expected a number or null."),
        ({"gain": math.nan}, "gain is nan; expected a number or null."),
        ({"gain": math.inf}, "gain is inf; expected a number or null."),
        ({"gain": False}, "gain is False; expected a number or null."),
        ({"infrared": 1}, "infrared is 1; expected true or false."),
        ({"size": (1,)}, "size is (1,); expected 2 values, each a whole number."),
        ({"size": (1, 2, 3)}, "size is (1, 2, 3); expected 2 values, each a whole number."),
        ({"size": (1, 2.5)}, "size is (1, 2.5); expected 2 values, each a whole number."),
        ({"size": 3}, "size is 3; expected 2 values, each a whole number."),
        ({"size": [1, 2]}, "size is [1, 2]; expected 2 values, each a whole number."),
        ({"times": (1.0, None)}, "times is (1.0, None); expected values, each a number."),
        ({"boxes": ((1, 2), (3,))}, "boxes is ((1, 2), (3,)); expected values, each 2 values, each a whole number."),
        ({"lens": None}, "lens is None; expected a Lens."),
        ({"lens": {"name": "x"}}, "lens is {'name': 'x'}; expected a Lens."),
        ({"spare": 5}, "spare is 5; expected a Lens or null."),
    ],
)
def test_what_does_not_fit(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Camera(**{"number": 1, **values})
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "values",
    [
        {"gain": None},
        {"gain": 2},  # a whole number is a number
        {"gain": -2.5},
        {"kind": "dome"},
        {"times": ()},
        {"times": (1, 2.0, 3)},
        {"boxes": ((1, 2), (3, 4))},
        {"spare": Lens(name="x")},
        {"anything": object()},
    ],
)
def test_what_fits(values: dict[str, Any]) -> None:
    camera = Camera(**{"number": 1, **values})
    assert {name: getattr(camera, name) for name in values} == values


def test_plain_values_become_tuples_and_dataclasses_all_the_way_down() -> None:
    camera = read(size=[4, 2], times=[0.5, "1e-4"], boxes=[[1, 2], [3, 4]], lens={"focal_length": 50}, spare={})
    assert camera == Camera(
        number=1, size=(4, 2), times=(0.5, 0.0001), boxes=((1, 2), (3, 4)), lens=Lens(focal_length=50), spare=Lens()
    )
    assert read(spare=None).spare is None


def test_a_list_where_none_belongs_is_named() -> None:
    with pytest.raises(ConfigError, match=r"camera: number is \(1, 2\); expected a whole number"):
        read(number=[1, 2])
    with pytest.raises(ConfigError, match=r"camera: size is \(1, 2, 3\); expected 2 values"):
        read(size=[1, 2, 3])
    with pytest.raises(ConfigError, match=r"camera: boxes is \(1, 2\); expected values, each 2 values"):
        read(boxes=[1, 2])


@pytest.mark.parametrize(("text", "value"), [("1e-4", 0.0001), ("3.5e-4", 0.00035), ("5", 5.0), ("-2E3", -2000.0)])
def test_a_number_that_yaml_reads_as_text(text: str, value: float) -> None:
    """YAML 1.1 takes 1e-4, without a dot, for text."""
    assert read(gain=text).gain == value


def test_text_is_no_number_where_it_says_none_or_the_field_is_text() -> None:
    for text in ("nan", "inf", "", "1e", "x"):
        with pytest.raises(ConfigError, match=r"camera: gain is .*; expected a number or null"):
            read(gain=text)
    assert read(lens={"name": "1e-4"}).lens.name == "1e-4"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"numer": 1}, "camera has an unknown field 'numer'; did you mean 'number'?"),
        ({"zzz": 1}, "camera has an unknown field 'zzz'."),
        ({True: 1}, "camera has an unknown field True."),
        (
            {"spare": {"focl_length": 1}},
            "camera.spare has an unknown field 'focl_length'; did you mean 'focal_length'?",
        ),
        ({"lens": {"focal_length": 0}}, "camera.lens: focal_length is 0; expected more than 0."),
        ({"lens": {"focal_length": None}}, "camera.lens: focal_length is None; expected a number."),
        ({"gain": {"much": 1}}, "camera: gain is {'much': 1}; expected a number or null."),
    ],
)
def test_what_cannot_be_read(values: dict[Any, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        dataclass_from_dict(Camera, {"number": 1, **values}, where="camera")
    assert str(caught.value) == message


def test_a_field_without_default_is_needed() -> None:
    with pytest.raises(ConfigError) as caught:
        dataclass_from_dict(Camera, {"kind": "box"}, where="camera")
    assert str(caught.value) == "camera lacks number; a value is needed."


numbers = st.floats(allow_nan=False, allow_infinity=False)
whole = st.integers(-(2**70), 2**70)
lenses = st.builds(Lens, focal_length=st.floats(1e-9, 1e9), name=st.text())
cameras = st.builds(
    Camera,
    number=whole,
    kind=st.sampled_from(["box", "dome"]),
    gain=st.none() | numbers,
    infrared=st.booleans(),
    size=st.tuples(whole, whole),
    times=st.lists(numbers).map(tuple),
    boxes=st.lists(st.tuples(whole, whole)).map(tuple),
    lens=lenses,
    spare=st.none() | lenses,
    anything=st.none() | st.text(),
)


@given(camera=cameras)
def test_every_camera_survives_json(camera: Camera) -> None:
    assert dataclass_from_dict(Camera, json.loads(json.dumps(asdict(camera))), where="camera") == camera


@pytest.mark.parametrize("value", [0, 0.0, 0.5, 1])
def test_a_share(value: float) -> None:
    require_share("flip", value)


@pytest.mark.parametrize("value", [-0.001, 1.001, math.nan])
def test_no_share(value: float) -> None:
    with pytest.raises(ConfigError, match=r"flip is .*; expected 0 to 1\."):
        require_share("flip", value)


def test_nearest() -> None:
    assert nearest("epoch", ["epochs", "batch"]) == "; did you mean 'epochs'?"
    assert nearest("zzz", ["epochs", "batch"]) == ""


def test_members() -> None:
    # typing and the | operator make unions of different types; anything else is its own only member.
    assert members(int | None) == (int, type(None))
    assert members(Literal["a"] | None) == (Literal["a"], type(None))
    assert members(tuple[int, ...]) == (tuple[int, ...],)


@pytest.mark.parametrize(
    ("text", "hint", "value"),
    [
        ("5", int, 5),
        ("1e-4", float, 0.0001),
        ("3", float | None, 3),
        ("null", float | None, None),
        ("null", str | None, None),
        ("null", str, "null"),  # where null is no choice, it is a word
        ("5", str, "5"),
        ("true", bool, True),
        ("false", bool, False),
        ("dome", Literal["box", "dome"], "dome"),
        ("256,128", tuple[int, int], (256, 128)),
        ("[256, 128]", tuple[int, int] | None, (256, 128)),
        ("30", tuple[int, ...], (30,)),  # one of several values needs no comma
        ("()", tuple[int, ...], ()),
        ("[[0, 128, 64]]", tuple[tuple[int, int, int], ...], ((0, 128, 64),)),
    ],
)
def test_a_value_from_the_command_line(text: str, hint: Any, value: Any) -> None:
    found = parse_value(text, hint)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "hint", "expected"),
    [
        ("five", int, "a whole number"),
        ("5.5", int, "a whole number"),
        ("True", int, "a whole number"),
        ("null", float, "a number"),
        ("1e999", float, "a number"),
        ("1", bool, "true or false"),
        ("cube", Literal["box", "dome"], "one of 'box', 'dome'"),
        ("256", tuple[int, int], "2 values, each a whole number"),
        ("256;128", tuple[int, int], "2 values, each a whole number"),
        ("{[]: 1}", int, "a whole number"),
        ("", int, "a whole number"),
    ],
)
def test_no_value_of_the_command_line(text: str, hint: Any, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_value(text, hint)
    assert str(caught.value) == f"{text!r} was given; expected {expected}."
