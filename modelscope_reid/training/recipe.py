"""A recipe: all that a training run is told, as frozen dataclasses that are valid when made.

In: keyword arguments, or plain values (recipe_files.py reads those). Out: a `Recipe`. Every number that can change a
trained weight is here, the seed included. Knows nothing of files, images or loops. Rates are per optimiser step, epochs
count passes over the training split, sizes are (height, width) in pixels.

Sources of the published values: PASS-reID (Apache-2.0), CLIP-ReID (MIT), TransReID (MIT), reid-task (facts only).
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Literal

from modelscope_reid.config import (
    BACKBONES,
    Activation,
    Fusion,
    Layout,
    ModelConfig,
    Neck,
    NeckFeature,
)
from modelscope_reid.errors import ConfigError
from modelscope_reid.fields import nearest, require, require_share
from modelscope_reid.training.stage_specs import CaptionStage, Checked, ImageStage, PromptStage

Precision = Literal["fp32", "bf16", "fp16"]
StageName = Literal["captions", "prompts", "images"]
STAGES: tuple[StageName, ...] = ("captions", "prompts", "images")
"""The order in which the stages of a recipe run."""


@dataclass(frozen=True, kw_only=True)
class ModelSpec(Checked):
    """The network to train. A field that is null is the backbone's own, or the opened weights'.

    Args:
        backbone: Name in the table of backbones; null takes what the weights are.
        weights: Hub id, model folder or checkpoint to start from; null starts from random numbers.
        published_weights: What the published run started from, for a warning where `weights` is null.
        text_weights: CLIP checkpoint for the text tower, or random; null takes `weights`, which then must be CLIP's.
        image_size: Height and width.
        mean: Mean of each RGB channel, for pixels of 0 to 1.
        std: Standard deviation of each RGB channel.
        cameras: Learn an embedding per camera of the training split (SIE).
        camera_coefficient: Factor of the camera embedding.
        stride: Step between patches; 12 makes patches of 16 overlap.
        patch_size: Side of a patch, only without weights.
        width: Width of the transformer or of the CLIP ResNet's stem, only without weights.
        depth: Blocks of the transformer, only without weights.
        drop_path: Rate of stochastic depth at the last block.
        projection_dim: Width of CLIP's joint space, only without weights.
        layers: Blocks per stage of the CLIP ResNet, only without weights.
        channels: Channels of OSNet's stem and stages, only without weights.
        feature_dim: Width of OSNet's feature, only without weights.
        activation: Activation of a CLIP ViT.
        layout: Embedding of a CLIP ViT.
        fusion: How PASS joins its class and part tokens.
        neck: Batch normalisations between feature and classifier.
        neck_feature: The embedding is taken before or after the neck.
        text_width: Width of a text tower that starts from random numbers.
        text_depth: Blocks of a text tower that starts from random numbers.
    """

    backbone: str | None = None
    weights: str | None = None
    published_weights: str = ""
    text_weights: str | None = None
    image_size: tuple[int, int] | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    cameras: bool = False
    camera_coefficient: float | None = None
    stride: int | None = None
    patch_size: int | None = None
    width: int | None = None
    depth: int | None = None
    drop_path: float | None = None
    projection_dim: int | None = None
    layers: tuple[int, int, int, int] | None = None
    channels: tuple[int, int, int, int] | None = None
    feature_dim: int | None = None
    activation: Activation | None = None
    layout: Layout | None = None
    fusion: Fusion | None = None
    neck: Neck | None = None
    neck_feature: NeckFeature | None = None
    text_width: int = 512
    text_depth: int = 12

    def __post_init__(self) -> None:
        """Raise `ConfigError` for an unknown backbone, or neither backbone nor weights."""
        super().__post_init__()
        known = list(BACKBONES)
        require(
            self.backbone is None or self.backbone in known,
            f"backbone is {self.backbone!r}{nearest(str(self.backbone), known)} (one of {', '.join(known)}).",
        )
        require(bool(self.backbone or self.weights), "neither backbone nor weights is given; name one.")
        require(self.text_width > 0 and self.text_depth > 0, "text_width and text_depth must be 1 or more.")

    def configure(self, base: ModelConfig, *, classes: int, cameras: int) -> ModelConfig:
        """Return `base` with this recipe's fields, a classifier for `classes` people, and `cameras` where wanted.

        Raises:
            ConfigError: a field that this family of models does not have.
        """
        mine = {name: getattr(self, name) for name in _MODEL_FIELDS if getattr(self, name) is not None}
        known = {item.name for item in dataclasses.fields(base)}
        if self.cameras:
            mine["cameras"] = cameras
        for name in mine:
            if name not in known:
                raise ConfigError(f"model.{name} is given, but models of the family {base.family} have none; drop it.")
        pixels = {name: getattr(self, name) for name in ("image_size", "mean", "std") if getattr(self, name)}
        preprocessing = dataclasses.replace(base.preprocessing, **pixels)
        return dataclasses.replace(base, num_classes=classes, preprocessing=preprocessing, **mine)


_MODEL_FIELDS = (
    "camera_coefficient",
    "stride",
    "patch_size",
    "width",
    "depth",
    "drop_path",
    "projection_dim",
    "layers",
    "channels",
    "feature_dim",
    "activation",
    "layout",
    "fusion",
    "neck",
    "neck_feature",
)


@dataclass(frozen=True, kw_only=True)
class DataSpec(Checked):
    """The images to train on.

    Args:
        dataset: A reader by name, as `evaluate --dataset` takes it.
        root: Folder of the dataset, or the file of a table.
        held_out_people: So many people of the training split are left out of training and measured on instead.
        workers: Processes that load images; 0 loads them in the training process.
        cache: Keep the decoded and resized crops in memory.
    """

    dataset: str = "market1501"
    root: str | None = None
    held_out_people: int = 0
    workers: int = 1
    cache: bool = False

    def __post_init__(self) -> None:
        """Raise `ConfigError` for a negative count."""
        super().__post_init__()
        require(self.held_out_people >= 0, f"held_out_people is {self.held_out_people}; expected 0 or more.")
        require(self.workers >= 0, f"workers is {self.workers}; expected 0 or more.")


@dataclass(frozen=True, kw_only=True)
class CaptionSpec(Checked):
    """Captions of training images, for the captions stage and in place of learned prompts.

    Args:
        path: CUHK-PEDES's caption_all.json, or a file of its form.
        probability: A person's caption takes the place of its learned prompt with this probability.
        redraw_every: Epochs after which that is drawn anew.
    """

    path: str | None = None
    probability: float = 0.7
    redraw_every: int = 10

    def __post_init__(self) -> None:
        """Raise `ConfigError` for a probability out of range."""
        super().__post_init__()
        require_share("probability", self.probability)
        require(self.redraw_every >= 1, f"redraw_every is {self.redraw_every}; expected 1 or more.")


@dataclass(frozen=True, kw_only=True)
class EvaluationSpec(Checked):
    """When and on what the model is measured while it trains.

    Args:
        every: Epochs between measurements; 0 measures at the end alone.
        split: test is the dataset's queries and gallery; held_out is people left out of training.
        keep: The weights kept at the end: last, or best by mAP.
        report: Evaluate the result on the dataset's queries and gallery, where it has them.
    """

    every: int = 10
    split: Literal["test", "held_out"] = "test"
    keep: Literal["last", "best"] = "last"
    report: bool = True

    def __post_init__(self) -> None:
        """Raise `ConfigError` for a negative count."""
        super().__post_init__()
        require(self.every >= 0, f"every is {self.every}; expected 0 (at the end) or more.")


@dataclass(frozen=True, kw_only=True)
class Recipe(Checked):
    """One training run: up to three stages, in the order captions, prompts, images.

    Args:
        description: What the recipe is for, and whose figures it is to give.
        model: The network.
        data: The images.
        seed: Every random number of the run follows from it.
        precision: fp32, bf16 or fp16 (mixed).
        checkpoint_every: Batches between checkpoints; 0 writes one after each epoch alone.
        evaluation: When and on what to measure.
        caption_texts: Captions, for the captions stage and in place of prompts.
        captions: Stage 0.
        prompts: Stage 1.
        images: Stage 2, or the only one.
    """

    description: str = ""
    model: ModelSpec
    data: DataSpec = field(default_factory=DataSpec)
    seed: int = 0
    precision: Precision = "fp32"
    checkpoint_every: int = 0
    evaluation: EvaluationSpec = field(default_factory=EvaluationSpec)
    caption_texts: CaptionSpec = field(default_factory=CaptionSpec)
    captions: CaptionStage | None = None
    prompts: PromptStage | None = None
    images: ImageStage = field(default_factory=ImageStage)

    def __post_init__(self) -> None:
        """Raise `ConfigError` where two fields contradict each other."""
        super().__post_init__()
        require(self.seed >= 0, f"seed is {self.seed}; expected 0 or more.")
        require(self.checkpoint_every >= 0, f"checkpoint_every is {self.checkpoint_every}; expected 0 or more.")
        needs_text = self.images.losses.image_to_text > 0 or self.images.batch.graph_features == "text"
        require(
            self.prompts is not None or not needs_text,
            "images.losses.image_to_text or graph_features 'text' needs text features; add a prompts stage.",
        )
        require(
            self.captions is None or self.caption_texts.path is not None,
            "the captions stage needs caption_texts.path; give the path of CUHK-PEDES's caption_all.json, or of a file "
            "of its form.",
        )
        require(
            self.evaluation.split == "test" or self.data.held_out_people > 1,
            "evaluation.split is 'held_out', and data.held_out_people is below 2; hold out some people.",
        )

    @property
    def stages(self) -> tuple[StageName, ...]:
        """The stages that this recipe has, in order."""
        return tuple(name for name in STAGES if getattr(self, name) is not None)

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as plain values."""
        values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return values
