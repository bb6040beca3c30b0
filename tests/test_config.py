"""A config is valid from the moment it exists, and says what is wrong otherwise."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
from tiny import TINY_CONFIGS

from modelscope_reid.config import (
    BACKBONES,
    FAMILIES,
    ClipResNetConfig,
    ClipVitConfig,
    ModelConfig,
    OsnetConfig,
    PassVitConfig,
    Preprocessing,
    TransReidConfig,
    model_config_from_dict,
    nearest,
)
from modelscope_reid.errors import ConfigError


@pytest.mark.parametrize("config", [*BACKBONES.values(), *TINY_CONFIGS.values()], ids=[*BACKBONES, *TINY_CONFIGS])
def test_to_dict_is_plain_json_and_reads_back(config: ModelConfig) -> None:
    values = config.to_dict()
    assert next(iter(values)) == "family"
    assert json.loads(json.dumps(values)) == values
    assert model_config_from_dict(values) == config


def test_every_field_survives_the_round_trip() -> None:
    config = ClipVitConfig(
        preprocessing=Preprocessing(image_size=(384, 192), mean=(0.1, 0.2, 0.3), std=(1, 2, 3), interpolation="bicubic"
        ),
        num_classes=9, neck_feature="after", width=128, depth=3, patch_size=8, stride=7, cameras=4,
        camera_coefficient=0.25, drop_path=0.2, projection_dim=33, activation="gelu", layout="clip-reid",
    )  # fmt: skip
    assert model_config_from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert model_config_from_dict({"family": "osnet"}) == OsnetConfig()


@pytest.mark.parametrize(
    ("config", "dim"),
    [
        (PassVitConfig(), 1536),
        (PassVitConfig(fusion="mean"), 768),
        (PassVitConfig(width=384), 768),
        (TransReidConfig(), 768),
        (ClipVitConfig(), 1280),  # 768 + 512
        (ClipVitConfig(layout="1536"), 1536),
        (ClipResNetConfig(), 3072),  # 2048 + 1024
        (OsnetConfig(), 512),
        *((config, 512) for name, config in BACKBONES.items() if name.startswith("osnet")),
    ],
)
def test_embedding_dimension(config: ModelConfig, dim: int) -> None:
    assert config.embedding_dim == dim


@pytest.mark.parametrize(
    ("size", "stride", "grid"),
    # (256 - 16) // 16 + 1 = 16 and (128 - 16) // 16 + 1 = 8; with stride 12: 240 // 12 + 1 = 21, 112 // 12 + 1 = 10
    [((256, 128), 16, (16, 8)), ((384, 128), 16, (24, 8)), ((256, 128), 12, (21, 10)), ((16, 31), 16, (1, 1))],
)
def test_grid_of_a_vit(size: tuple[int, int], stride: int, grid: tuple[int, int]) -> None:
    assert PassVitConfig(preprocessing=Preprocessing(image_size=size), stride=stride).grid == grid


@pytest.mark.parametrize(
    # RN50 halves once with padding (odd sides round up), then three times without (odd sides round down).
    ("size", "grid"), [((256, 128), (16, 8)), ((255, 127), (16, 8)), ((254, 129), (15, 8)), ((16, 15), (1, 1))],
)  # fmt: skip
def test_grid_of_rn50(size: tuple[int, int], grid: tuple[int, int]) -> None:
    assert ClipResNetConfig(preprocessing=Preprocessing(image_size=size)).grid == grid


def test_osnet_channels_are_the_published_ones() -> None:
    channels = {name: config.channels for name, config in BACKBONES.items() if isinstance(config, OsnetConfig)}
    assert channels == {
        "osnet_x0_25": (16, 64, 96, 128),
        "osnet_x0_5": (32, 128, 192, 256),
        "osnet_x0_75": (48, 192, 288, 384),
        "osnet_x1_0": (64, 256, 384, 512),
    }


def test_heads_are_64_wide() -> None:
    assert [PassVitConfig(width=width).heads for width in (768, 384, 64, 32)] == [12, 6, 1, 1]


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (Preprocessing, {"image_size": (256,)}, r"image_size is \(256,\); expected 2 values, each a whole number"),
        (Preprocessing, {"image_size": (0, 128)}, r"image_size is \(0, 128\); expected \(height, width\), two"),
        (Preprocessing, {"image_size": (256.0, 128)}, "image_size is .* each a whole number"),
        (Preprocessing, {"image_size": 256}, "image_size is 256; expected 2 values"),
        (Preprocessing, {"mean": (0.5, 0.5)}, r"mean is \(0.5, 0.5\); expected 3 values, each a number"),
        (Preprocessing, {"std": (0.5, 0.5, 0.0)}, "std is .* expected three positive numbers"),
        (Preprocessing, {"std": (0.5, 0.5, math.nan)}, "std is .* each a number"),
        (Preprocessing, {"mean": ("0.5", "0.5", "0.5")}, "mean is .* each a number"),
        (Preprocessing, {"interpolation": "cubic"}, "interpolation is 'cubic'; expected one of 'bilinear', 'bicubic'"),
        (PassVitConfig, {"num_classes": -1}, "num_classes is -1; expected 0"),
        (PassVitConfig, {"num_classes": True}, "num_classes is True; expected a whole number"),
        (PassVitConfig, {"num_classes": 751.0}, "num_classes is 751.0; expected a whole number"),
        (PassVitConfig, {"neck_feature": "behind"}, "neck_feature is 'behind'; expected one of 'before', 'after'"),
        (PassVitConfig, {"depth": 0}, "depth is 0; expected a positive whole number"),
        (PassVitConfig, {"width": 200}, "width is 200; expected less than 128, or a multiple of 64"),
        (PassVitConfig, {"stride": 0}, "stride is 0"),
        (PassVitConfig, {"cameras": -1}, "cameras is -1"),
        (PassVitConfig, {"drop_path": 1.0}, "drop_path is 1.0"),
        (PassVitConfig, {"preprocessing": {}}, r"preprocessing is \{\}; expected a Preprocessing"),
        (PassVitConfig, {"preprocessing": Preprocessing(image_size=(8, 128))}, "smaller than one patch of 16"),
        (PassVitConfig, {"neck": "none", "neck_feature": "after"}, "'after' needs a neck, and this pass_vit has none"),
        (TransReidConfig, {"neck": "multi"}, "neck is 'multi'; expected one of 'none', 'single'"),
        (ClipVitConfig, {"depth": 1}, "needs two blocks or more"),
        (ClipVitConfig, {"layout": "1536", "neck_feature": "after"}, "layout '1536' has no neck for its first half"),
        (ClipVitConfig, {"layout": 1536}, "layout is 1536; expected one of 'clip-reid', '1536'"),
        (ClipVitConfig, {"projection_dim": 0}, "projection_dim is 0"),
        (ClipResNetConfig, {"layers": (3, 4, 6)}, r"layers is \(3, 4, 6\); expected 4 values"),
        (ClipResNetConfig, {"layers": (3, 4, 6, 0)}, "layers is"),
        (ClipResNetConfig, {"width": 7}, "width is 7; expected an even number"),
        (ClipResNetConfig, {"preprocessing": Preprocessing(image_size=(8, 8))}, "expected 16x16 pixels or more"),
        (OsnetConfig, {"channels": (64, 256, 384, 3)}, "channels is"),
        (OsnetConfig, {"neck_feature": "after"}, "this osnet has none"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(kind: type, values: dict[str, Any], message: str) -> None:
    kind()
    with pytest.raises(ConfigError, match=message):
        kind(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"family": "pass_vit", "with": 768}, r"\(pass_vit\) has an unknown field 'with'; did you mean 'width'\?"),
        ({"family": "pass_vit", "zzz": 1}, r"unknown field 'zzz'\.$"),
        ({"family": "pass_vit", "preprocessing": {"imagesize": [2, 2]}}, "'imagesize'; did you mean 'image_size'"),
        ({"family": "pas_vit"}, "family is 'pas_vit'; expected one of pass_vit, .*did you mean 'pass_vit'"),
        ({}, "family is None; expected one of"),
        ({"family": ["osnet"]}, "family is .'osnet'."),
        (None, "family is None"),
        ({"family": "pass_vit", "width": "768"}, r"model\.reid \(pass_vit\): width is '768'; expected a whole number"),
        ({"family": "pass_vit", "width": None}, "width is None"),
        ({"family": "osnet", "channels": [64, 256, "384", 512]}, "channels is"),
        ({"family": "osnet", "preprocessing": None}, "preprocessing is None"),
        ({"family": "osnet", "preprocessing": {"mean": 0.5}}, "mean is 0.5; expected 3 values"),
    ],
)  # fmt: skip
def test_dicts_are_read_strictly(values: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        model_config_from_dict(values)


def test_configs_are_frozen_and_families_named_once() -> None:
    for family, kind in FAMILIES.items():
        assert kind.family == family
        with pytest.raises(dataclasses.FrozenInstanceError):
            kind().num_classes = 3  # type: ignore[misc]
    assert set(TINY_CONFIGS) == set(FAMILIES)


def test_nearest_name() -> None:
    assert nearest("strid", ["stride", "width"]) == "; did you mean 'stride'?"
    assert nearest("qqq", ["stride", "width"]) == ""
