"""Recipes as YAML: those that ship with the package, by name, a user's own, and changes to single fields.

In: a name or a path, and overrides as {"data.root": value}. Out: a `Recipe`. Knows nothing of what a recipe does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from modelscope_reid.errors import ConfigError
from modelscope_reid.fields import dataclass_from_dict, nearest
from modelscope_reid.files import whole_file
from modelscope_reid.training.recipe import Recipe


def recipe_names() -> list[str]:
    """Return the names of the recipes that ship with the package."""
    folder = files("modelscope_reid") / "recipes"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def recipe_descriptions() -> dict[str, str]:
    """Return what each recipe that ships with the package is for, by name."""
    return {name: str(yaml.safe_load(_text(name)[0]).get("description", "")) for name in recipe_names()}


def read_recipe(source: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read the recipe of that name, or the YAML file at that path, with single fields replaced.

    `overrides` are plain values by dotted name, such as ``{"images.epochs": 10}``.

    Raises:
        ConfigError: no such recipe (names the nearest), no valid YAML, an unknown field, or a value out of range.
    """
    text, where = _text(source)
    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that is none
        raise ConfigError(f"{where} is no valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{where} holds {type(values).__name__}; expected fields by name, 'model' among them.")
    for name, value in (overrides or {}).items():
        _replace(values, name, value, where=where)
    return dataclass_from_dict(Recipe, values, where=where)


def write_recipe(recipe: Recipe, path: Path) -> None:
    """Write every field of `recipe` as YAML, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(yaml.safe_dump(recipe.to_dict(), sort_keys=False, width=120), encoding="utf-8")


def check_same(told: Recipe, before: Recipe, *, but: Sequence[str]) -> None:
    """Raise `ConfigError` where two recipes, now and of a run that is to go on, differ in a field not among `but`."""
    now, then = _flat(told.to_dict()), _flat(before.to_dict())
    for name in [*now, *(name for name in then if name not in now)]:
        if name not in but and now.get(name) != then.get(name):
            raise ConfigError(
                f"{name} is {now.get(name)!r} in the recipe that was named, and {then.get(name)!r} in that of the run; "
                "name no recipe (the run has its own), or start a new run."
            )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested plain values by dotted name."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _text(source: str | Path) -> tuple[str, str]:
    """Return the YAML text, and what to call it in messages."""
    name = str(source)
    path = Path(source)
    try:
        if path.is_file():
            return path.read_text(encoding="utf-8"), name
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name} cannot be read: {error}; give a YAML file in UTF-8.") from error
    known = recipe_names()
    if name in known:
        return (files("modelscope_reid") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8"), f"recipe {name}"
    raise ConfigError(
        f"{name!r} is no recipe and no file{nearest(name, known)}; recipes are {', '.join(known)}; or give a YAML file."
    )


def _replace(values: dict[str, Any], name: str, value: Any, *, where: str) -> None:
    """Set a field by its dotted name; a section on the way is copied, since YAML may share it with another."""
    *sections, last = name.split(".")
    for section in sections:
        inner = values.get(section)
        if inner is not None and not isinstance(inner, Mapping):
            raise ConfigError(f"{where}: {section} is no section, so {name} is no field; check its spelling.")
        values[section] = dict(inner or {})
        values = values[section]
    values[last] = value
