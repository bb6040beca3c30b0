"""What a model is, as frozen dataclasses.

In: keyword arguments, or the dict of plain values that `ModelConfig.to_dict` gives. Out: one `ModelConfig` of
the right family, valid from the moment it exists. Knows nothing of files (configuration.py reads and writes
those), weights or torch; sizes are (height, width) in pixels.

Sources of the default values: PASS-reID (Apache-2.0), CLIP-ReID (MIT), TransReID (MIT), torchreid (MIT),
ModelScope 1.40.2 (Apache-2.0).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from modelscope_reid.errors import ConfigError
from modelscope_reid.fields import check_fields, dataclass_from_dict, nearest, require

Interpolation = Literal["bilinear", "bicubic"]
Neck = Literal["none", "single", "multi"]
Fusion = Literal["cat", "mean"]
NeckFeature = Literal["before", "after"]
Layout = Literal["clip-reid", "1536"]
Activation = Literal["quick_gelu", "gelu"]

UNKNOWN_CAMERA = -1
"""The camera id of an image whose camera the model does not know."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How an RGB image becomes a network's input; travels with the weights.

    `image_size` is (height, width). `mean` and `std` are per RGB channel, for pixels scaled to 0..1.
    """

    image_size: tuple[int, int] = (256, 128)
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        check_fields(self)
        require(
            min(self.image_size) > 0,
            f"image_size is {self.image_size!r}; expected (height, width), two positive whole numbers.",
        )
        require(
            min(self.std) > 0,
            f"std is {self.std!r}; expected three positive numbers, one per RGB channel.",
        )


IMAGENET_PREPROCESSING = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What every family shares. `num_classes` is 0 where the checkpoint has no classifier."""

    family: ClassVar[str]
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    num_classes: int = 0
    neck_feature: NeckFeature = "before"

    def __post_init__(self) -> None:
        check_fields(self)
        require(self.num_classes >= 0, f"num_classes is {self.num_classes}; expected 0 (none) or more.")

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the network's input, in pixels."""
        return self.preprocessing.image_size

    @property
    def embedding_dim(self) -> int:
        """Numbers per image."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """Return the config as plain JSON values, `family` first."""
        return {"family": self.family, **json.loads(json.dumps(dataclasses.asdict(self)))}


@dataclass(frozen=True, kw_only=True)
class VitConfig(ModelConfig):
    """What the vision transformers share.

    `stride` below `patch_size` means overlapping patches. `cameras` > 0 means a camera embedding (SIE)
    of that many rows, scaled by `camera_coefficient`.
    """

    width: int = 768
    depth: int = 12
    patch_size: int = 16
    stride: int = 16
    cameras: int = 0
    camera_coefficient: float = 1.0
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("width", "depth", "patch_size", "stride"):
            require(getattr(self, name) > 0, f"{name} is {getattr(self, name)}; expected a positive whole number.")
        require(self.width % self.heads == 0, f"width is {self.width}; expected less than 128, or a multiple of 64.")
        require(self.cameras >= 0, f"cameras is {self.cameras}; expected 0 (none) or more.")
        require(0.0 <= self.drop_path < 1.0, f"drop_path is {self.drop_path}; expected 0 or more, below 1.")
        require(
            min(self.image_size) >= self.patch_size,
            f"image_size {self.image_size} is smaller than one patch of {self.patch_size} pixels.",
        )

    @property
    def heads(self) -> int:
        """Attention heads: 64 numbers each, as in every published ViT of this field."""
        return max(1, self.width // 64)

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of patches."""
        height, width = self.image_size
        return (height - self.patch_size) // self.stride + 1, (width - self.patch_size) // self.stride + 1


@dataclass(frozen=True, kw_only=True)
class PassVitConfig(VitConfig):
    """PASS (ECCV 2022): class token and three part tokens, one neck (batch normalisation) or four.

    `fusion`: ``cat`` = [class ‖ mean of parts], 2 x width; ``mean`` = (class + mean of parts) / 2, width.
    """

    family = "pass_vit"
    part_tokens: ClassVar[int] = 3
    neck: Neck = "multi"
    fusion: Fusion = "cat"

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_neck(self, has_neck=self.neck != "none")

    @property
    def embedding_dim(self) -> int:
        """Width, twice with `cat`."""
        return self.width * (2 if self.fusion == "cat" else 1)


@dataclass(frozen=True, kw_only=True)
class TransReidConfig(VitConfig):
    """TransReID (ICCV 2021), global branch: the normalised class token; camera embedding on all tokens."""

    family = "transreid_vit"
    part_tokens: ClassVar[int] = 0
    camera_coefficient: float = 3.0
    neck: Literal["none", "single"] = "single"

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_neck(self, has_neck=self.neck != "none")

    @property
    def embedding_dim(self) -> int:
        """Width."""
        return self.width


@dataclass(frozen=True, kw_only=True)
class ClipVitConfig(VitConfig):
    """CLIP-ReID's ViT (AAAI 2023).

    `layout`: ``clip-reid`` = [class token after the last norm ‖ projected], width + projection_dim;
    ``1536`` = [class token before the last block ‖ class token after the last norm], 2 x width.
    """

    family = "clip_vit"
    projection_dim: int = 512
    activation: Activation = "quick_gelu"
    layout: Layout = "clip-reid"
    neck: Literal["none", "single"] = "single"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.projection_dim > 0, f"projection_dim is {self.projection_dim}; expected 1 or more.")
        require(self.depth >= 2, f"depth is {self.depth}; a CLIP ViT needs two blocks or more.")
        _require_neck(self, has_neck=self.neck != "none")
        require(
            not (self.layout == "1536" and self.neck_feature == "after"),
            "layout '1536' has no neck for its first half; use neck_feature 'before', or layout 'clip-reid'.",
        )

    @property
    def embedding_dim(self) -> int:
        """1280 or 1536 for ViT-B/16."""
        return self.width + (self.projection_dim if self.layout == "clip-reid" else self.width)


@dataclass(frozen=True, kw_only=True)
class ClipResNetConfig(ModelConfig):
    """CLIP-ReID's RN50: stride 1 in the last stage, [average-pooled stage 4 ‖ attention-pooled token]."""

    family = "clip_resnet"
    preprocessing: Preprocessing = IMAGENET_PREPROCESSING
    width: int = 64
    layers: tuple[int, int, int, int] = (3, 4, 6, 3)
    projection_dim: int = 1024
    neck: Literal["none", "single"] = "single"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.width > 0 and self.width % 2 == 0, f"width is {self.width}; expected an even number of channels.")
        require(min(self.layers) > 0, f"layers is {self.layers!r}; expected the blocks of four stages.")
        require(self.projection_dim > 0, f"projection_dim is {self.projection_dim}; expected 1 or more.")
        require(
            min(self.grid) > 0,
            f"image_size {self.image_size} ends as a map without a cell; expected 16x16 pixels or more.",
        )
        _require_neck(self, has_neck=self.neck != "none")

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the last feature map, which the attention pool has positions for."""
        rows, columns = ((side + 1) // 2 // 8 for side in self.image_size)  # one padded stride, then three halvings
        return rows, columns

    @property
    def embedding_dim(self) -> int:
        """3072 for RN50."""
        return self.width * 32 + self.projection_dim


@dataclass(frozen=True, kw_only=True)
class OsnetConfig(ModelConfig):
    """OSNet (ICCV 2019): `channels` of the stem and the three stages; 64, 256, 384, 512 for x1.0.

    The published ones have no neck; this package trains with one.
    """

    family = "osnet"
    preprocessing: Preprocessing = IMAGENET_PREPROCESSING
    channels: tuple[int, int, int, int] = (64, 256, 384, 512)
    feature_dim: int = 512
    neck: Literal["none", "single"] = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            min(self.channels) > 0 and min(self.channels[1:]) >= 4,
            f"channels is {self.channels!r}; expected four numbers: stem (1 or more) and three stages (4 or more).",
        )
        _require_neck(self, has_neck=self.neck != "none")

    @property
    def embedding_dim(self) -> int:
        """512 in every published OSNet."""
        return self.feature_dim


def _require_neck(config: ModelConfig, *, has_neck: bool) -> None:
    require(
        has_neck or config.neck_feature == "before",
        f"neck_feature 'after' needs a neck, and this {config.family} has none; use 'before'.",
    )


FAMILIES: dict[str, type[ModelConfig]] = {
    config.family: config for config in (PassVitConfig, TransReidConfig, ClipVitConfig, ClipResNetConfig, OsnetConfig)
}


def _osnet(multiplier: float) -> OsnetConfig:
    stem, *stages = (int(count * multiplier) for count in (64, 256, 384, 512))
    return OsnetConfig(channels=(stem, stages[0], stages[1], stages[2]))


BACKBONES: dict[str, ModelConfig] = {
    "pass_vit_small": PassVitConfig(width=384),
    "pass_vit_base": PassVitConfig(),
    "clip_vit_base": ClipVitConfig(),
    "clip_resnet50": ClipResNetConfig(),
    "osnet_x0_25": _osnet(0.25),
    "osnet_x0_5": _osnet(0.5),
    "osnet_x0_75": _osnet(0.75),
    "osnet_x1_0": _osnet(1.0),
}
"""The published sizes by name, without classifier, at 256x128."""


def model_config_from_dict(values: Mapping[str, Any]) -> ModelConfig:
    """Read the dict that `ModelConfig.to_dict` writes.

    Raises:
        ConfigError: an unknown family or field, or a value out of range.
    """
    family = values.get("family") if isinstance(values, Mapping) else values
    if not isinstance(family, str) or family not in FAMILIES:
        raise ConfigError(
            f"family is {family!r}; expected one of {', '.join(FAMILIES)}{nearest(str(family), list(FAMILIES))}"
        )
    return dataclass_from_dict(
        FAMILIES[family],
        {key: value for key, value in values.items() if key != "family"},
        where=f"model.reid ({family})",
    )
