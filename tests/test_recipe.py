"""A recipe is valid from the moment it exists; its model fields fit the family, or the family lacks them."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from tiny import TINY_CONFIGS

from modelscope_reid.config import BACKBONES, ModelConfig, OsnetConfig
from modelscope_reid.errors import ConfigError
from modelscope_reid.fields import dataclass_from_dict
from modelscope_reid.training.recipe import CaptionSpec, DataSpec, EvaluationSpec, ModelSpec, Recipe
from modelscope_reid.training.stage_specs import BatchSpec, CaptionStage, ImageStage, LossSpec, PromptStage

CLIP = ModelSpec(backbone="clip_vit_base")
TEXT_LOSS = ImageStage(losses=LossSpec(image_to_text=1.0))
TEXT_GRAPH = ImageStage(batch=BatchSpec(sampler="graph", graph_features="text"))


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (ModelSpec, {}, "neither backbone nor weights is given"),
        (ModelSpec, {"backbone": "osnet_x1"}, "backbone is 'osnet_x1'; did you mean 'osnet_x1_0'?"),
        (ModelSpec, {"backbone": "resnet"}, "one of pass_vit_small, pass_vit_base"),
        (ModelSpec, {"weights": "a.pt", "text_width": 0}, "text_width and text_depth must be 1 or more"),
        (ModelSpec, {"weights": "a.pt", "text_depth": 0}, "text_width and text_depth must be 1 or more"),
        (ModelSpec, {"weights": "a.pt", "image_size": (256,)}, "image_size is (256,); expected 2 values"),
        (ModelSpec, {"weights": "a.pt", "layout": "1280"}, "layout is '1280'; expected one of 'clip-reid', '1536'"),
        (DataSpec, {"held_out_people": -1}, "held_out_people is -1; expected 0 or more"),
        (DataSpec, {"workers": -1}, "workers is -1; expected 0 or more"),
        (DataSpec, {"root": 5}, "root is 5; expected text or null"),
        (CaptionSpec, {"probability": 1.1}, "probability is 1.1; expected 0 to 1"),
        (CaptionSpec, {"redraw_every": 0}, "redraw_every is 0; expected 1 or more"),
        (EvaluationSpec, {"every": -1}, "every is -1; expected 0 (at the end) or more"),
        (EvaluationSpec, {"split": "train"}, "split is 'train'; expected one of 'test', 'held_out'"),
        (EvaluationSpec, {"keep": "first"}, "keep is 'first'; expected one of 'last', 'best'"),
        (Recipe, {"model": CLIP, "seed": -1}, "seed is -1; expected 0 or more"),
        (Recipe, {"model": CLIP, "seed": 1.5}, "seed is 1.5; expected a whole number"),
        (Recipe, {"model": CLIP, "checkpoint_every": -1}, "checkpoint_every is -1; expected 0 or more"),
        (Recipe, {"model": CLIP, "precision": "int8"}, "precision is 'int8'; expected one of 'fp32', 'bf16', 'fp16'"),
        (Recipe, {"model": "osnet"}, "model is 'osnet'; expected a ModelSpec"),
        (Recipe, {"model": CLIP, "images": None}, "images is None; expected a ImageStage"),
    ],
)
def test_what_they_cannot_be(kind: type, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        kind(**values)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message", "mended"),
    [
        ({"images": TEXT_LOSS}, "add a prompts stage", {"prompts": PromptStage()}),
        ({"images": TEXT_GRAPH}, "add a prompts stage", {"prompts": PromptStage()}),
        (
            {"captions": CaptionStage()},
            "the captions stage needs caption_texts.path; give the path of CUHK-PEDES's caption_all.json",
            {"caption_texts": CaptionSpec(path="caption_all.json")},
        ),
        (
            {"evaluation": EvaluationSpec(split="held_out")},
            "data.held_out_people is below 2; hold out some people",
            {"data": DataSpec(held_out_people=2)},
        ),
        (
            {"evaluation": EvaluationSpec(split="held_out"), "data": DataSpec(held_out_people=1)},
            "data.held_out_people is below 2; hold out some people",
            {"data": DataSpec(held_out_people=2)},
        ),
    ],
)
def test_fields_that_contradict_each_other(values: dict[str, Any], message: str, mended: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        Recipe(model=CLIP, **values)
    assert message in str(caught.value)
    recipe = Recipe(model=CLIP, **{**values, **mended})  # as the message says
    assert recipe.model is CLIP


def test_stages_come_in_the_order_in_which_they_run() -> None:
    assert Recipe(model=CLIP).stages == ("images",)
    assert Recipe(model=CLIP, prompts=PromptStage()).stages == ("prompts", "images")
    texts = CaptionSpec(path="caption_all.json")
    recipe = Recipe(model=CLIP, prompts=PromptStage(), captions=CaptionStage(), caption_texts=texts)
    assert recipe.stages == ("captions", "prompts", "images")


def test_to_dict_is_plain_json_and_reads_back() -> None:
    recipe = Recipe(
        description="three stages",
        model=ModelSpec(backbone="clip_resnet50", image_size=(128, 64), mean=(0.1, 0.2, 0.3), layers=(1, 2, 3, 4)),
        captions=CaptionStage(),
        prompts=PromptStage(),
        caption_texts=CaptionSpec(path="caption_all.json"),
        images=ImageStage(growing_sizes=((0, 64, 32), (9, 128, 64))),
    )
    values = recipe.to_dict()
    assert json.loads(json.dumps(values)) == values
    assert values["model"]["layers"] == [1, 2, 3, 4]
    assert dataclass_from_dict(Recipe, values, where="recipe") == recipe


FAMILY_FIELDS: dict[str, dict[str, Any]] = {
    "pass_vit": {
        "stride": 12, "patch_size": 8, "width": 128, "depth": 3, "drop_path": 0.1, "camera_coefficient": 2.0,
        "fusion": "mean", "neck": "single", "neck_feature": "after",
    },
    "transreid_vit": {
        "stride": 12, "patch_size": 8, "width": 128, "depth": 4, "drop_path": 0.1, "camera_coefficient": 2.0,
        "neck": "none",
    },
    "clip_vit": {
        "stride": 12, "patch_size": 8, "width": 128, "depth": 4, "drop_path": 0.1, "camera_coefficient": 2.0,
        "projection_dim": 48, "activation": "gelu", "layout": "1536", "neck": "none",
    },
    "clip_resnet": {
        "width": 16, "layers": (1, 2, 1, 2), "projection_dim": 24, "neck": "single", "neck_feature": "after",
    },
    "osnet": {"channels": (8, 16, 24, 32), "feature_dim": 30, "neck": "single", "neck_feature": "after"},
}  # fmt: skip
"""Every field of the model that a family has, with a value that its tiny config does not have."""
WITH_CAMERAS = {"pass_vit", "transreid_vit", "clip_vit"}


@pytest.mark.parametrize("family", FAMILY_FIELDS)
def test_a_model_takes_every_field_of_its_family(family: str) -> None:
    base = TINY_CONFIGS[family]
    spec = ModelSpec(weights="tiny.pt", image_size=(96, 48), mean=(0.1, 0.2, 0.3), **FAMILY_FIELDS[family])
    config = spec.configure(base, classes=7, cameras=9)
    assert type(config) is type(base)
    assert config.num_classes == 7
    assert {name: getattr(config, name) for name in FAMILY_FIELDS[family]} == FAMILY_FIELDS[family]
    # What is not given stays: the standard deviation and, without model.cameras, the number of cameras.
    assert config.preprocessing == dataclasses.replace(base.preprocessing, image_size=(96, 48), mean=(0.1, 0.2, 0.3))
    assert getattr(config, "cameras", 0) == getattr(base, "cameras", 0)


@pytest.mark.parametrize("family", TINY_CONFIGS)
def test_null_leaves_the_model_as_it_is(family: str) -> None:
    base = TINY_CONFIGS[family]
    assert ModelSpec(weights="tiny.pt").configure(base, classes=base.num_classes, cameras=9) == base


@pytest.mark.parametrize("family", TINY_CONFIGS)
def test_cameras_are_those_of_the_data_where_the_family_has_any(family: str) -> None:
    spec = ModelSpec(weights="tiny.pt", cameras=True)
    if family in WITH_CAMERAS:
        assert spec.configure(TINY_CONFIGS[family], classes=7, cameras=9).to_dict()["cameras"] == 9
    else:
        with pytest.raises(ConfigError, match=f"model.cameras is given, but models of the family {family} have none"):
            spec.configure(TINY_CONFIGS[family], classes=7, cameras=9)


@pytest.mark.parametrize(
    ("family", "field", "value"),
    [
        ("osnet", "stride", 12),
        ("osnet", "width", 64),
        ("osnet", "drop_path", 0.1),
        ("clip_resnet", "camera_coefficient", 1.0),
        ("clip_resnet", "layout", "1536"),
        ("clip_vit", "channels", (16, 32, 48, 64)),
        ("clip_vit", "fusion", "cat"),
        ("pass_vit", "layers", (1, 1, 1, 1)),
        ("pass_vit", "activation", "gelu"),
        ("transreid_vit", "feature_dim", 512),
    ],
)
def test_a_field_that_the_family_lacks(family: str, field: str, value: Any) -> None:
    spec = ModelSpec(weights="tiny.pt", **{field: value})
    with pytest.raises(ConfigError) as caught:
        spec.configure(TINY_CONFIGS[family], classes=5, cameras=2)
    assert str(caught.value) == f"model.{field} is given, but models of the family {family} have none; drop it."


@pytest.mark.parametrize(
    ("base", "values", "message"),
    [
        (TINY_CONFIGS["pass_vit"], {"drop_path": 1.0}, "drop_path is 1.0; expected 0 or more, below 1"),
        (TINY_CONFIGS["clip_vit"], {"neck": "multi"}, "neck is 'multi'; expected one of 'none', 'single'"),
        (TINY_CONFIGS["osnet"], {"neck_feature": "after"}, "neck_feature 'after' needs a neck"),
        (TINY_CONFIGS["osnet"], {"std": (0.5, 0.0, 0.5)}, "std is (0.5, 0.0, 0.5); expected three positive numbers"),
        (TINY_CONFIGS["osnet"], {"image_size": (0, 64)}, "image_size is (0, 64); expected (height, width)"),
    ],
)
def test_a_value_that_the_family_cannot_have(base: ModelConfig, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ModelSpec(weights="tiny.pt", **values).configure(base, classes=5, cameras=2)
    assert message in str(caught.value)


def test_a_neck_and_its_feature_come_together() -> None:
    spec = ModelSpec(backbone="osnet_x0_5", neck="single", neck_feature="after")
    config = spec.configure(BACKBONES["osnet_x0_5"], classes=30, cameras=6)
    expected = OsnetConfig(channels=(32, 128, 192, 256), neck="single", neck_feature="after", num_classes=30)
    assert config == expected
