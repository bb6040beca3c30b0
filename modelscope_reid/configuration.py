"""A model folder's configuration.json: one reader per schema, one writer.

In: a folder. Out: a `ModelConfig`, and the other way round. Two schemas: ModelScope's stock one
(``model.type`` = ``passvitb``, values under ``model.cfg``) and ours (``model.reid`` = `ModelConfig.to_dict`).
Knows nothing of weights. Source of the stock keys: ModelScope 1.40.2 (Apache-2.0).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modelscope_reid.config import ModelConfig, PassVitConfig, Preprocessing, model_config_from_dict
from modelscope_reid.errors import ConfigError, InputError
from modelscope_reid.files import whole_file
from modelscope_reid.ranking.calibration import Verifier

TASK = "image-reid-person"
STOCK_MODEL_TYPE = "passvitb"
STOCK_PIPELINE_TYPE = "passvitb-image-reid-person"
OWN_TYPE = "modelscope-reid"
CONFIGURATION_FILE = "configuration.json"
VERIFICATION = "verification"


def _stock_value(configuration: Mapping[str, Any], section: str, name: str) -> Any:
    try:
        return configuration["model"]["cfg"][section][name]
    except (KeyError, TypeError) as error:
        raise ConfigError(
            f"{CONFIGURATION_FILE} lacks model.cfg.{section}.{name}, which the stock schema for {TASK} has."
        ) from error


def config_from_stock(configuration: Mapping[str, Any]) -> PassVitConfig:
    """Read ModelScope's stock schema (``model.type`` = ``passvitb``).

    Width and depth are not in it: ViT-B's are assumed, and the weights have the last word.

    Raises:
        ConfigError: a key is missing, or asks for what no published checkpoint has (GeM pooling, a
            convolutional stem; the stock pipeline crashes on both).
    """

    def value(section: str, name: str) -> Any:
        return _stock_value(configuration, section, name)

    for name in ("GEM_POOLING", "STEM_CONV"):
        if value("MODEL", name):
            raise ConfigError(
                f"model.cfg.MODEL.{name} is on; no published checkpoint uses it and it is not supported: "
                "set it to false."
            )
    strides = value("MODEL", "STRIDE_SIZE")
    strides = list(strides) if isinstance(strides, Sequence) else [strides, strides]
    if not strides or any(stride != strides[0] for stride in strides):
        raise ConfigError(f"model.cfg.MODEL.STRIDE_SIZE is {strides}; expected the same stride down and across.")
    try:
        return PassVitConfig(
            preprocessing=Preprocessing(
                image_size=_tuple(value("INPUT", "SIZE_TEST")),
                mean=_tuple(value("INPUT", "PIXEL_MEAN")),
                std=_tuple(value("INPUT", "PIXEL_STD")),
            ),
            num_classes=value("DATASETS", "NUM_CLASSES"),
            neck_feature=value("TEST", "NECK_FEAT"),
            stride=strides[0],
            drop_path=value("MODEL", "DROP_PATH"),
            neck="multi" if value("MODEL", "MULTI_NECK") else "single",
            fusion=value("MODEL", "FEAT_FUSION"),
        )
    except ConfigError as error:
        raise ConfigError(f"{CONFIGURATION_FILE}: {error}") from error


def _tuple(value: Any) -> Any:
    """Return a JSON list as a tuple, and anything else as it is: the dataclass says what is wrong with it."""
    return tuple(value) if isinstance(value, list) else value


def fits_stock(config: ModelConfig) -> bool:
    """Tell whether plain ModelScope, without this package, can run a model of this config."""
    return (
        isinstance(config, PassVitConfig)
        and (config.width, config.depth, config.patch_size, config.cameras) == (768, 12, 16, 0)
        and config.neck != "none"
        and config.num_classes > 0
        and config.preprocessing.interpolation == "bilinear"
    )


def _stock_section(config: PassVitConfig) -> dict[str, Any]:
    size, mean, std = (
        list(value) for value in (config.image_size, config.preprocessing.mean, config.preprocessing.std)
    )
    return {
        "INPUT": {"SIZE_TRAIN": size, "SIZE_TEST": size, "PIXEL_MEAN": mean, "PIXEL_STD": std},
        "MODEL": {
            "SIE_COE": 3.0,
            "STRIDE_SIZE": [config.stride, config.stride],
            "DROP_PATH": config.drop_path,
            "DROP_OUT": 0.0,
            "ATT_DROP_RATE": 0.0,
            "GEM_POOLING": False,
            "STEM_CONV": False,
            "DROPOUT_RATE": 0.0,
            "MULTI_NECK": config.neck == "multi",
            "FEAT_FUSION": config.fusion,
        },
        "TEST": {"NECK_FEAT": config.neck_feature},
        "DATASETS": {"NUM_CLASSES": config.num_classes},
    }


def configuration_for(config: ModelConfig, *, stock: bool = True) -> dict[str, Any]:
    """Return what configuration.json holds: ModelScope's stock types where they fit, else our own.

    Without `stock` always our own: for a folder without the weights that plain ModelScope opens.
    """
    stock = stock and fits_stock(config)
    model: dict[str, Any] = {"type": STOCK_MODEL_TYPE if stock else OWN_TYPE, "reid": config.to_dict()}
    if stock and isinstance(config, PassVitConfig):
        model["cfg"] = _stock_section(config)
    return {
        "framework": "pytorch",
        "task": TASK,
        "pipeline": {"type": STOCK_PIPELINE_TYPE if stock else OWN_TYPE},
        "model": model,
    }


def _read_json(path: Path) -> dict[str, Any]:
    """Return a configuration.json's object."""
    try:
        configuration = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path.parent} has no {CONFIGURATION_FILE}; pass the weight file itself, or make a model folder with "
            "`modelscope-reid convert`."
        ) from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path} is not valid JSON: {error}.") from error
    return configuration if isinstance(configuration, dict) else {}


def read_configuration(folder: Path) -> tuple[ModelConfig, bool]:
    """Read a model folder's configuration.json: (config, whether it is complete).

    It is complete where this package wrote it; ModelScope's stock schema lacks what only the weights tell.

    Raises:
        ConfigError: no such file, no JSON, or neither schema.
    """
    path = folder / CONFIGURATION_FILE
    configuration = _read_json(path)
    model = configuration.get("model")
    if not isinstance(model, dict):
        raise ConfigError(f"{path} has no section 'model'; expected a ModelScope model folder for {TASK}.")
    if "reid" in model:
        return model_config_from_dict(model["reid"]), True
    if model.get("type") == STOCK_MODEL_TYPE:
        return config_from_stock(configuration), False
    raise ConfigError(
        f"{path} is for a model of type {model.get('type')!r}; expected {STOCK_MODEL_TYPE!r} or {OWN_TYPE!r}."
    )


def read_section(folder: Path, name: str) -> dict[str, Any] | None:
    """Return a section of a folder's configuration.json that not every model has; None without section or file.

    Raises:
        ConfigError: the file cannot be read, or the section is no object.
    """
    path = folder / CONFIGURATION_FILE
    values = _read_json(path).get(name) if path.is_file() else None
    if values is not None and not isinstance(values, dict):
        raise ConfigError(f"{path}, section {name!r}: expected an object.")
    return values


def read_verifier(folder: Path) -> Verifier | None:
    """Return what a model folder's configuration.json says of same and different pairs, or None.

    Raises:
        ConfigError: it says it in a way that cannot be read.
    """
    values = read_section(folder, VERIFICATION)
    if values is None:
        return None
    try:
        return Verifier.from_dict(values)
    except (InputError, TypeError) as error:
        raise ConfigError(f"{folder / CONFIGURATION_FILE}, section {VERIFICATION!r}: {error}") from error


def write_verifier(folder: Path, verifier: Verifier) -> None:
    """Save a calibration into a model folder's configuration.json; all else in it stays as it is.

    Raises:
        ConfigError: the folder has no configuration.json that can be read.
        InputError: it cannot be written.
    """
    path = folder / CONFIGURATION_FILE
    text = json.dumps({**_read_json(path), VERIFICATION: verifier.to_dict()}, indent=2) + "\n"
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
