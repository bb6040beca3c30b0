"""Signatures, docstrings and the fields of a recipe as options."""

from __future__ import annotations

import dataclasses
from typing import Any, get_type_hints

import pytest

from modelscope_reid.command_line import Commands, Overrides, build_parser, keyword_arguments, recipe_options
from modelscope_reid.fields import members
from modelscope_reid.training.recipe import Recipe
from modelscope_reid.training.recipe_files import read_recipe, recipe_names


def work(
    place: str | None = None, *, count: int = 3, size: tuple[int, int] | None = None, loud: bool = False
) -> int:  # pragma: no cover  # parsed, not run
    """Work somewhere.

    Args:
        place: Where.
        count: How often.
        size: Height and width.
        loud: With noise.
    """
    return 0


def learn(*, output: str | None = None, overrides: Overrides) -> int:  # pragma: no cover
    """Learn something.

    Args:
        output: Where to.
        overrides: What.
    """
    return 0


COMMANDS: Commands = {"work": (work, {"place": "?"}), "learn": (learn, {})}


def parse(*arguments: str) -> dict[str, Any]:
    options = build_parser(COMMANDS, arguments).parse_args(arguments)
    return keyword_arguments(options[options.command], COMMANDS[options.command][0])


def learned(*arguments: str) -> dict[str, Any]:
    overrides: dict[str, Any] = parse("learn", *arguments)["overrides"]
    return overrides


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The last line on stderr of a command line that ends with status 2."""
    with pytest.raises(SystemExit) as error:
        parse(*arguments)
    assert error.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def leaves(kind: Any, prefix: str = "") -> set[str]:
    """The dotted names of all fields, found another way: nested dataclasses are opened wherever they stand."""
    names: set[str] = set()
    for name, hint in get_type_hints(kind).items():
        inner = [leaves(member, f"{prefix}{name}.") for member in members(hint) if dataclasses.is_dataclass(member)]
        names |= set().union(*inner) if inner else {prefix + name}
    return names


def test_a_signature_becomes_positionals_options_and_flags() -> None:
    assert parse("work") == {"place": None, "count": 3, "size": None, "loud": False}
    given = parse("work", "here", "--count", "4", "--size", "256", "128", "--loud")
    assert given == {"place": "here", "count": 4, "size": [256, 128], "loud": True}


def test_every_field_of_a_recipe_is_an_option_with_a_text_of_its_own() -> None:
    options = [option for _, _, fields in recipe_options() for option in fields]
    assert {option.name for option in options} == leaves(Recipe)
    assert len(options) == len({option.name for option in options}) > 100
    assert all(option.text.endswith(".") for option in options)
    names = {option.name for option in options}
    assert {"seed", "model.weights", "prompts.optimizer.kind", "captions.epochs", "images.losses.margin"} <= names
    for name, text, _ in recipe_options():
        assert text.endswith("."), name


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], {}),
        (["--images.epochs", "10"], {"images.epochs": 10}),
        (["--prompts.epochs=2", "--seed", "7"], {"prompts.epochs": 2, "seed": 7}),
        (["--images.optimizer.learning_rate", "1e-4"], {"images.optimizer.learning_rate": 1e-4}),
        (["--images.losses.margin", "null"], {"images.losses.margin": None}),
        (["--images.losses.margin", ".3"], {"images.losses.margin": 0.3}),
        (["--data.cache", "false", "--data.root", "7"], {"data.cache": False, "data.root": "7"}),
        (["--data.root", "null"], {"data.root": None}),
        (["--precision", "bf16"], {"precision": "bf16"}),
        (["--model.image_size", "64", "32"], {"model.image_size": [64, 32]}),
        (["--images.schedule.milestones", "40,70"], {"images.schedule.milestones": (40, 70)}),
        (["--images.schedule.milestones", "[40]"], {"images.schedule.milestones": (40,)}),
        (["--images.schedule.milestones", "40"], {"images.schedule.milestones": (40,)}),
        (["--images.growing_sizes", "0,128,64"], {"images.growing_sizes": ((0, 128, 64),)}),
        (["--images.growing_sizes", "[[0, 128, 64]]"], {"images.growing_sizes": ((0, 128, 64),)}),
        (["--images.growing_sizes", "[0,128,64],[9,256,128]"], {"images.growing_sizes": ((0, 128, 64), (9, 256, 128))}),
    ],
)
def test_only_what_was_given_is_an_override_and_has_the_fields_type(
    arguments: list[str], expected: dict[str, Any]
) -> None:
    given = learned(*arguments)
    assert given == expected
    assert [type(value) for value in given.values()] == [type(value) for value in expected.values()]


def test_what_is_parsed_is_what_a_recipe_takes() -> None:
    given = learned("--images.growing_sizes", "[0,64,32]", "--model.image_size", "128", "64", "--images.epochs", "3")
    recipe = read_recipe("osnet_light", given)
    assert (recipe.images.growing_sizes, recipe.model.image_size) == (((0, 64, 32),), (128, 64))
    assert recipe.images.epochs == 3 and "osnet_light" in recipe_names()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images.epochs", "ten"], "argument --images.epochs: 'ten' was given; expected a whole number."),
        (["--images.epochs", "1.5"], "argument --images.epochs: '1.5' was given; expected a whole number."),
        (["--data.cache", "yes"], "argument --data.cache: 'yes' was given; expected true or false."),
        (["--images.epochs", "null"], "argument --images.epochs: 'null' was given; expected a whole number."),
        (["--precision", "fp8"], "'fp8' was given; expected one of 'fp32', 'bf16', 'fp16'."),
        (["--model.width", "big"], "'big' was given; expected a whole number or null."),
        (["--images.growing_sizes", "1,2"], "'1,2' was given; expected values, each 3 values, each a whole number."),
        (["--model.image_size", "64"], "argument --model.image_size: expected 2 arguments"),
        (["--image.epochs"], "--image.epochs is no option of modelscope-reid learn; did you mean '--images.epochs'?"),
        (["--images.epoch=3"], "--images.epoch is no option of modelscope-reid learn; did you mean '--images.epochs'?"),
        (["--zzz"], "--zzz is no option of modelscope-reid learn."),
    ],
)  # fmt: skip
def test_wrong_options_are_one_sentence_and_status_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(capsys, "learn", *arguments)
    assert line.startswith("error: ") and line.endswith(message)


def test_a_misspelt_option_of_any_command_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    message = "error: --cuont is no option of modelscope-reid work; did you mean '--count'?"
    assert refusal(capsys, "work", "--cuont", "3") == message


def test_help_is_grouped_by_section_and_free_of_pythons_types(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        parse("learn", "--help")
    assert error.value.code == 0
    text = capsys.readouterr().out
    sections = [name for name, _, _ in recipe_options()]
    places = [text.index(f"\n{name or 'recipe'}:\n") for name in sections]
    assert places == sorted(places) and len(places) > 10
    assert "--images.losses.margin X" in text and "--data.cache {true,false}" in text
    assert text.startswith("usage: modelscope-reid learn RECIPE --output RUN")
    assert "type:" not in text and "null, default" not in text and "<function" not in text
    with pytest.raises(SystemExit):
        parse("work", "--help")
    assert "How often. (default: 3)" in " ".join(capsys.readouterr().out.split())


def test_the_fields_are_options_of_their_command_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no option of modelscope-reid work" in refusal(capsys, "work", "--images.epochs", "3")
