"""Recipes as YAML: those that ship with the package, by name, a user's own, and changes to single fields.

In: a name or a path, and overrides as {"data.root": value}. Out: a `Recipe`. Knows nothing of what a recipe does.
"""

from __future__ import annotations

from collections.abc import Mapping
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


def read_recipe(source: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read the recipe of that name, or the YAML file at that path, with single fields replaced.

    `overrides` are plain values by dotted name, such as ``{"images.epochs": 10}``.

    Raises:
        ConfigError: no such recipe (names the nearest), no valid YAML, an unknown field, or a value out of range.
    """
    text, where = _text(source)
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
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


def _text(source: str | Path) -> tuple[str, str]:
    """Return the YAML text, and what to call it in messages."""
    name = str(source)
    path = Path(source)
    if path.is_file():
        try:
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
    """Set a field by its dotted name."""
    *sections, last = name.split(".")
    for section in sections:
        inner = values.get(section)
        if inner is None:
            inner = values[section] = {}
        if not isinstance(inner, dict):
            raise ConfigError(f"{where}: {section} is no section, so {name} is no field; check its spelling.")
        values = inner
    values[last] = value
