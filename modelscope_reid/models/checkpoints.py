"""Open any published checkpoint as a `ReidModel`, strictly, with a report.

In: a weight file or a model folder. Out: the model in eval mode, float32, on the CPU, and a `LoadReport`: what was
loaded, renamed, resampled and left out by which rule. Anything else raises. The shapes decide sizes, necks and
classes; a folder's configuration.json decides what no shape tells. Knows nothing of images, devices or the hub.
"""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor

from modelscope_reid.config import (
    Activation,
    ClipVitConfig,
    Layout,
    ModelConfig,
    PassVitConfig,
    VitConfig,
    model_config_from_dict,
)
from modelscope_reid.configuration import (
    CONFIGURATION_FILE,
    read_configuration,
)
from modelscope_reid.errors import CheckpointError, ConfigError
from modelscope_reid.models.origins import PASS_PIECES, Rule, Shapes, recognise
from modelscope_reid.models.patch_grids import grid_of
from modelscope_reid.models.reid_model import ReidModel
from modelscope_reid.models.weight_files import METADATA_KEY, WeightFile, find_weights, read_weights

OWN_ORIGIN = "modelscope_reid"


@dataclass(frozen=True, kw_only=True)
class Resampled:
    """A position embedding brought from one grid of patches (rows, columns) to another."""

    name: str
    old_grid: tuple[int, int]
    new_grid: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What became of every tensor of a checkpoint. `renamed` and `left_out` are (name in the file, name or rule)."""

    source: str
    origin: str
    config: ModelConfig
    loaded: int
    unwrapped: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    resampled: tuple[Resampled, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        values: dict[str, Any] = json.loads(json.dumps({**dataclasses.asdict(self), "config": self.config.to_dict()}))
        return {**values, "embedding_dim": self.config.embedding_dim}

    def __str__(self) -> str:
        config = self.config
        height, width = config.image_size
        lines = [
            f"{self.source}",
            f"  origin      {self.origin}" + (f" (unwrapped {', '.join(self.unwrapped)})" if self.unwrapped else ""),
            f"  model       {config.family}, {config.embedding_dim} numbers per image, input {height}x{width}, "
            f"{config.num_classes or 'no'} classes",
            f"  loaded      {self.loaded} tensors, {len(self.renamed)} of them renamed",
        ]
        lines += [
            f"  resampled   {item.name}: {item.old_grid[0]}x{item.old_grid[1]} -> "
            f"{item.new_grid[0]}x{item.new_grid[1]} patches"
            for item in self.resampled
        ]
        reasons: dict[str, list[str]] = defaultdict(list)
        for name, reason in self.left_out:
            reasons[reason].append(name)
        lines += [
            f"  left out    {len(names)}: {reason} ({', '.join(names[:2])}{', …' if len(names) > 2 else ''})"
            for reason, names in reasons.items()
        ]
        return "\n".join([*lines, *(f"  note        {note}" for note in self.notes)])


def load_checkpoint(
    path: str | Path,
    *,
    image_size: tuple[int, int] | None = None,
    layout: Layout | None = None,
    activation: Activation | None = None,
) -> tuple[ReidModel, LoadReport]:
    """Open the weight file or model folder at `path`.

    `image_size` (height, width) runs the model at another size, its positions resampled. `layout` chooses a CLIP
    ViT's embedding; `activation` is for CLIP files that were not trained with QuickGELU (no shape tells).

    Raises:
        CheckpointError: a file that is missing, broken, would run code, of no known origin, or does not fit.
        ConfigError: a configuration.json that is missing or contradicts itself; an option that the model lacks.
    """
    path = Path(path)
    folder = path if path.is_dir() else None
    file = read_weights(find_weights(folder) if folder else path)
    stated = _stated_config(folder, file)
    options = {"image_size": image_size, "layout": layout, "activation": activation}
    notes: tuple[str, ...] = ()
    rename: Callable[[str], Rule] = _same_name
    try:
        if stated is not None and stated[1]:
            origin, trained = OWN_ORIGIN, stated[0]
        else:
            shapes: Shapes = {name: tuple(tensor.shape) for name, tensor in file.tensors.items()}
            found = recognise(shapes)
            origin, rename = found.name, found.rename(shapes)
            trained, notes = _merge(found.config(shapes), stated[0] if stated else None)
            notes = (*notes, *_assumptions(trained, origin, activation))
        config = _with_options(trained, options)
        return _fill(file, config, rename, trained_grid=getattr(trained, "grid", None), origin=origin, notes=notes)
    except CheckpointError as error:
        raise CheckpointError(f"{file.path}: {error}") from error


def _same_name(name: str) -> Rule:
    return Rule(name, name)


def _stated_config(folder: Path | None, file: WeightFile) -> tuple[ModelConfig, bool] | None:
    """Return (config, complete) as the folder or the file's own metadata states it, or None."""
    if folder is not None and (folder / CONFIGURATION_FILE).exists():
        config, complete = read_configuration(folder)
        if complete and not any(name.startswith(("backbone.", "head.")) for name in file.tensors):
            return config, False  # our configuration.json beside weights under their published names
        return config, complete
    if file.metadata and METADATA_KEY in file.metadata:
        try:
            return model_config_from_dict(json.loads(file.metadata[METADATA_KEY])), True
        except json.JSONDecodeError as error:
            raise CheckpointError(f"{file.path}: its metadata {METADATA_KEY!r} is not valid JSON: {error}.") from error
    return None


def _merge(told: ModelConfig, stated: ModelConfig | None) -> tuple[ModelConfig, tuple[str, ...]]:
    """Join what the shapes tell with what configuration.json states; every disagreement is a note.

    Size, stride, normalisation, neck feature and the like are the file's word; counts are the shapes'.
    """
    if stated is None:
        return told, ()
    if type(stated) is not type(told):
        raise CheckpointError(
            f"{CONFIGURATION_FILE} states a {stated.family}, but the weights are a {told.family}'s; "
            "one of the two files is another model's."
        )
    counted = {"num_classes", "width", "depth", "patch_size", "neck", "cameras", "layers", "channels",
               "projection_dim", "feature_dim"}  # fmt: skip
    if told.num_classes and isinstance(told, PassVitConfig):
        counted.add("fusion")
    values = {
        item.name: getattr(told if item.name in counted else stated, item.name) for item in dataclasses.fields(told)
    }
    merged = type(told)(**values)
    notes = [
        f"{CONFIGURATION_FILE} states {name} {getattr(stated, name)!r}; the weights have {getattr(told, name)!r}"
        for name in sorted(counted & set(values))
        if getattr(stated, name) != getattr(told, name) and not _unstated(name, stated)
    ]
    return merged, tuple(notes)


def _unstated(name: str, stated: ModelConfig) -> bool:
    """Tell whether the stock schema has no key for the field `name`."""
    return isinstance(stated, PassVitConfig) and name in ("width", "depth", "patch_size", "cameras")


def _with_options(config: ModelConfig, options: Mapping[str, Any]) -> ModelConfig:
    given = {name: value for name, value in options.items() if value is not None}
    if "image_size" in given:
        given["preprocessing"] = dataclasses.replace(config.preprocessing, image_size=tuple(given.pop("image_size")))
    known = {item.name for item in dataclasses.fields(config)}
    for name in given:
        if name not in known:
            raise ConfigError(f"{name} was given, but models of the family {config.family} have none; leave it out.")
    return dataclasses.replace(config, **given)


def _assumptions(config: ModelConfig, origin: str, activation: Activation | None) -> tuple[str, ...]:
    if isinstance(config, ClipVitConfig) and "OpenAI" in origin and activation is None:
        return ("QuickGELU assumed, as OpenAI trained; for LAION's open_clip weights pass activation='gelu'",)
    if isinstance(config, VitConfig) and config.cameras:
        return (f"camera coefficient {config.camera_coefficient} assumed, the published one; no shape tells it",)
    return ()


def _fill(
    file: WeightFile,
    config: ModelConfig,
    rename: Callable[[str], Rule],
    *,
    trained_grid: tuple[int, int] | None,
    origin: str,
    notes: tuple[str, ...],
) -> tuple[ReidModel, LoadReport]:
    """Build the model of `config` and fill it, strictly."""
    with torch.device("meta"):
        model = ReidModel(config)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    rules = [rename(name) for name in file.tensors]
    state = _join_pieces({rule.target: file.tensors[rule.pattern] for rule in rules if rule.target})
    resampled = resample_positions(state, config, trained_grid)
    state = {name: _as_float(_fit_shape(tensor, expected.get(name))) for name, tensor in state.items()}
    for name in expected:
        if name.endswith("num_batches_tracked"):
            state.setdefault(name, torch.tensor(0))
    _check_fit({name: tuple(tensor.shape) for name, tensor in state.items()}, expected)
    for name, parameter in model.named_parameters():
        if not state[name].is_floating_point():
            raise CheckpointError(f"{name} holds {state[name].dtype}, expected {parameter.dtype} or its like.")
    model.load_state_dict(state, strict=True, assign=True)
    report = LoadReport(
        source=str(file.path),
        origin=origin,
        config=config,
        loaded=sum(rule.target is not None for rule in rules),
        unwrapped=file.unwrapped,
        renamed=tuple((rule.pattern, rule.target) for rule in rules if rule.target and rule.target != rule.pattern),
        resampled=resampled,
        left_out=tuple((rule.pattern, rule.reason) for rule in rules if rule.target is None),
        notes=notes,
    )
    return model.eval(), report


def _join_pieces(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Join ``name#0``, ``name#1``, … along the token axis."""
    pieces: dict[str, dict[int, Tensor]] = defaultdict(dict)
    joined: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        whole, mark, index = name.partition("#")
        if mark:
            pieces[whole][int(index)] = tensor
        else:
            joined[name] = tensor
    for name, parts in pieces.items():
        for number, published in enumerate(PASS_PIECES[name]):
            if number not in parts:
                raise CheckpointError(f"the weights do not fit: {published} is missing.")
            shape, width = tuple(parts[number].shape), parts[0].shape[-1:]
            if len(shape) != 3 or shape[:1] != (1,) or shape[2:] != width:
                raise CheckpointError(
                    f"the weights do not fit: {published} has shape {shape}, expected (1, tokens, width)."
                )
        joined[name] = torch.cat([parts[number] for number in sorted(parts)], dim=1)
    return joined


def resample_positions(
    state: dict[str, Tensor], config: ModelConfig, trained_grid: tuple[int, int] | None
) -> tuple[Resampled, ...]:
    """Bring the position embedding in `state` to the config's grid, bilinearly, as the published code does."""
    grid: tuple[int, int] | None = getattr(config, "grid", None)
    name = "backbone.pos_embed" if "backbone.pos_embed" in state else "backbone.attnpool.positional_embedding"
    if grid is None or name not in state:
        return ()
    prefix = 1 + getattr(config, "part_tokens", 0)
    positions = state[name].reshape(1, -1, state[name].shape[-1])
    patches = positions.shape[1] - prefix
    old = trained_grid if trained_grid and trained_grid[0] * trained_grid[1] == patches else grid_of(patches)
    if old == grid:
        return ()
    resampled = resample_abs_pos_embed(
        positions, list(grid), list(old), num_prefix_tokens=prefix, interpolation="bilinear", antialias=False
    )
    state[name] = resampled.reshape(*state[name].shape[:-2], prefix + grid[0] * grid[1], -1)
    return (Resampled(name=name, old_grid=old, new_grid=grid),)


def _fit_shape(tensor: Tensor, expected: tuple[int, ...] | None) -> Tensor:
    """Add or drop axes of length one, where that is all that differs."""
    if expected is None or tuple(tensor.shape) == expected:
        return tensor
    if [n for n in tensor.shape if n != 1] == [n for n in expected if n != 1]:
        return tensor.reshape(expected)
    return tensor


def _as_float(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _check_fit(given: Shapes, expected: Shapes) -> None:
    """Raise CheckpointError unless names and shapes are the same."""
    problems = [f"{name} is missing" for name in expected if name not in given]
    problems += [f"{name} has no place in the model" for name in given if name not in expected]
    problems += [
        f"{name} has shape {given[name]}, expected {expected[name]}"
        for name in expected
        if name in given and given[name] != expected[name]
    ]
    if problems:
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointError(f"the weights do not fit: {'; '.join(problems[:3])}{more}.")
