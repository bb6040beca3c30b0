"""The recipes that ship against the published numbers, and reading, changing and writing recipes."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelscope_reid.config import BACKBONES
from modelscope_reid.errors import ConfigError
from modelscope_reid.training.augmentation_spec import Augmentation
from modelscope_reid.training.recipe import CaptionSpec, DataSpec, EvaluationSpec, ModelSpec, Recipe
from modelscope_reid.training.recipe_files import read_recipe, recipe_names, write_recipe
from modelscope_reid.training.schedules import Schedule, learning_rate
from modelscope_reid.training.stage_specs import BatchSpec, ImageStage, LossSpec, OptimizerSpec, PromptStage

CAPTIONED = {"clipreid_rn50_captions": {"caption_texts.path": "caption_all.json"}}
"""What a shipped recipe must be told."""


def shipped(name: str) -> Recipe:
    return read_recipe(name, CAPTIONED.get(name))


CLIP_RECIPES: dict[str, tuple[str, str, bool]] = {
    "clipreid_vit_base": ("vit", "market1501", True),
    "clipreid_vit_base_msmt17": ("vit", "msmt17", True),
    "clipreid_vit_base_sie_olp": ("vit", "msmt17", True),
    "clipreid_vit_base_baseline": ("vit", "market1501", False),
    "clipreid_rn50": ("rn50", "market1501", True),
    "clipreid_rn50_baseline": ("rn50", "market1501", False),
    "clipreid_rn50_graph": ("rn50", "market1501", True),
    "clipreid_rn50_graph_text": ("rn50", "market1501", True),
    "clipreid_rn50_captions": ("rn50", "market1501", True),
}
"""Backbone, dataset, and whether there is text."""

PASS_RECIPES: dict[str, tuple[str, int, str, str]] = {
    "pass_vit_small_market": ("small", 256, "market1501", "92.2 mAP / 96.3 Rank-1"),
    "pass_vit_small_market_384": ("small", 384, "market1501", "92.6 mAP / 96.8 Rank-1"),
    "pass_vit_base_market": ("base", 256, "market1501", "93.0 mAP / 96.8 Rank-1"),
    "pass_vit_base_market_384": ("base", 384, "market1501", "93.3 mAP / 96.9 Rank-1"),
    "pass_vit_small_msmt17": ("small", 256, "msmt17", "69.1 mAP / 86.5 Rank-1"),
    "pass_vit_small_msmt17_384": ("small", 384, "msmt17", "71.7 mAP / 87.9 Rank-1"),
    "pass_vit_base_msmt17": ("base", 256, "msmt17", "71.8 mAP / 88.2 Rank-1"),
    "pass_vit_base_msmt17_384": ("base", 384, "msmt17", "74.3 mAP / 89.7 Rank-1"),
}
"""Size, height, dataset, published figures."""

CLIP_FIGURES = {
    "clipreid_vit_base_sie_olp": "86.7 mAP / 91.1 Rank-1, re-ranked",
    "clipreid_rn50": "89.8 mAP / 95.7 Rank-1",
    "clipreid_rn50_graph": "89.0 mAP / 95.7 Rank-1",
    "clipreid_rn50_captions": "89.5 mAP / 95.4 Rank-1",
}

HALF = (0.5, 0.5, 0.5)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PUBLISHED_AUGMENTATION = Augmentation(flip=0.5, pad=10, erase=0.5, erase_mode="pixel", interpolation="bicubic")

# The table of CLIP-ReID: rates, weight decays and epochs by backbone; the factors of the schedules are those of the
# base rate: 1e-5 and 1e-6 of 3.5e-4 in stage 1.
STAGE_1 = {
    kind: PromptStage(
        epochs=epochs,
        optimizer=OptimizerSpec(kind="adam", learning_rate=3.5e-4, weight_decay=1e-4),
        schedule=Schedule(kind="cosine", warmup_epochs=5, warmup_start=1e-5 / 3.5e-4, final=1e-6 / 3.5e-4),
        batch_size=64,
    )
    for kind, epochs in (("vit", 120), ("rn50", 60))
}
STAGE_2 = {
    "vit": ImageStage(
        epochs=60,
        optimizer=OptimizerSpec(kind="adam", learning_rate=5e-6, weight_decay=1e-4, bias_factor=2.0),
        schedule=Schedule(kind="steps", warmup_epochs=10, warmup_start=0.1, milestones=(30, 50), gamma=0.1),
        batch=BatchSpec(sampler="identity", people=16, images=4),
        losses=LossSpec(identity=0.25, smoothing=0.1, triplet=1.0, margin=0.3, image_to_text=1.0),
        augmentation=PUBLISHED_AUGMENTATION,
    ),
    "rn50": ImageStage(
        epochs=120,
        optimizer=OptimizerSpec(kind="adam", learning_rate=3.5e-4, weight_decay=5e-4, bias_factor=2.0),
        schedule=Schedule(kind="steps", warmup_epochs=10, warmup_start=0.01, milestones=(40, 70), gamma=0.1),
        batch=BatchSpec(sampler="identity", people=16, images=4),
        losses=LossSpec(identity=1.0, smoothing=0.1, triplet=1.0, margin=0.3, image_to_text=1.0),
        augmentation=PUBLISHED_AUGMENTATION,
    ),
}
BATCHES = {
    "clipreid_rn50_graph": BatchSpec(sampler="graph", graph_every=5, graph_from=30, graph_features="image"),
    "clipreid_rn50_graph_text": BatchSpec(sampler="graph", graph_every=5, graph_from=30, graph_features="text"),
}
PASS_STAGE = ImageStage(
    epochs=120,
    optimizer=OptimizerSpec(kind="sgd", learning_rate=4e-4, weight_decay=1e-4, momentum=0.9, bias_factor=2.0),
    schedule=Schedule(kind="cosine", warmup_epochs=20, warmup_start=0.01, final=0.002),
    batch=BatchSpec(sampler="identity", people=16, images=4),
    losses=LossSpec(identity=1.0, smoothing=0.0, triplet=1.0, margin=None),
    augmentation=PUBLISHED_AUGMENTATION,
)


def test_every_recipe_that_ships_is_held_against_a_table() -> None:
    assert set(recipe_names()) == {*CLIP_RECIPES, *PASS_RECIPES, "osnet_light", "osnet_x1_0_market"}
    assert recipe_names() == sorted(recipe_names())


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_that_ships_is_one_that_its_backbone_can_follow(name: str) -> None:
    recipe = shipped(name)
    assert recipe.description and recipe.images.batch.size == 64
    assert recipe.model.backbone is not None
    config = recipe.model.configure(BACKBONES[recipe.model.backbone], classes=751, cameras=6)
    assert config.image_size == recipe.model.image_size or name == "osnet_light"


@pytest.mark.parametrize("name", CLIP_RECIPES)
def test_clip_reid(name: str) -> None:
    kind, dataset, text = CLIP_RECIPES[name]
    recipe = shipped(name)
    images = dataclasses.replace(STAGE_2[kind], batch=BATCHES.get(name, BatchSpec()))
    if not text:
        images = dataclasses.replace(images, losses=LossSpec(identity=1.0, smoothing=0.1, margin=0.3))
    assert recipe.images == images
    assert recipe.prompts == (STAGE_1[kind] if text else None)
    assert recipe.data.dataset == dataset and recipe.precision == "bf16"
    variant = name == "clipreid_vit_base_sie_olp"
    family: dict[str, Any] = {"layout": "clip-reid"} if kind == "vit" else {}
    assert recipe.model == ModelSpec(
        backbone="clip_vit_base" if kind == "vit" else "clip_resnet50",
        published_weights="OpenAI CLIP ViT-B/16 (ViT-B-16.pt)" if kind == "vit" else "OpenAI CLIP RN50 (RN50.pt)",
        image_size=(256, 128),
        mean=HALF if kind == "vit" else IMAGENET_MEAN,
        std=HALF if kind == "vit" else IMAGENET_STD,
        cameras=variant,
        camera_coefficient=1.0 if variant else None,
        stride=12 if variant else None,
        neck="single",
        neck_feature="before",
        **family,
    )
    assert "github.com/Syliz517/CLIP-ReID" in recipe.description
    assert CLIP_FIGURES.get(name, "") in recipe.description


def test_captions_are_learned_first_and_replace_prompts() -> None:
    recipe = shipped("clipreid_rn50_captions")
    assert recipe.stages == ("captions", "prompts", "images")
    assert recipe.caption_texts == CaptionSpec(path="caption_all.json", probability=0.7, redraw_every=10)
    stage = recipe.captions
    assert stage is not None
    assert (stage.epochs, stage.temperature, stage.optimizer.kind) == (80, 0.07, "adamw")
    rates = (stage.optimizer.learning_rate, stage.encoder_learning_rate, stage.token_learning_rate)
    assert rates == (8e-5, 1e-5, 2e-4)
    others = [name for name in recipe_names() if name not in CAPTIONED]
    assert not [name for name in others if shipped(name).captions]


def test_the_recipe_with_captions_asks_for_them() -> None:
    with pytest.raises(ConfigError) as caught:
        read_recipe("clipreid_rn50_captions")
    assert str(caught.value) == (
        "recipe clipreid_rn50_captions: the captions stage needs caption_texts.path; give the path of CUHK-PEDES's "
        "caption_all.json, or of a file of its form."
    )


@pytest.mark.parametrize("name", PASS_RECIPES)
def test_pass(name: str) -> None:
    size, height, dataset, figures = PASS_RECIPES[name]
    recipe = shipped(name)
    assert recipe.images == PASS_STAGE and recipe.stages == ("images",)
    assert recipe.data.dataset == dataset and recipe.precision == "bf16"
    assert recipe.model == ModelSpec(
        backbone=f"pass_vit_{size}",
        published_weights=f"PASS's self-supervised ViT-{size[0].upper()}/16 (pass_vit_{size}_full.pth)",
        image_size=(height, 128),
        mean=HALF,
        std=HALF,
        drop_path=0.1,
        fusion="cat",
        neck="multi",
        neck_feature="before",
    )
    assert figures in recipe.description and "github.com/CASIA-IVA-Lab/PASS-reID" in recipe.description
    assert ("Market-1501" in recipe.description) == (dataset == "market1501")


def test_osnet_from_scratch() -> None:
    recipe = shipped("osnet_x1_0_market")
    assert recipe.model == ModelSpec(
        backbone="osnet_x1_0", image_size=(256, 128), mean=IMAGENET_MEAN, std=IMAGENET_STD, neck="none",
        neck_feature="before",
    )  # fmt: skip
    assert recipe.images == ImageStage(
        epochs=350,
        optimizer=OptimizerSpec(kind="sgd", learning_rate=0.065, weight_decay=5e-4, momentum=0.9),
        schedule=Schedule(kind="steps", milestones=(150, 225, 300), gamma=0.1),
        batch=BatchSpec(sampler="random", people=16, images=4),
        losses=LossSpec(identity=1.0, smoothing=0.1, triplet=0.0),
        augmentation=Augmentation(flip=0.5, pad=10, erase=0.0, interpolation="bilinear"),
    )
    assert "81.0 mAP / 93.6 Rank-1" in recipe.description and "are ours" in recipe.description


def rate(stage: PromptStage | ImageStage, epoch: int) -> float:
    """The rate of a published epoch, counted from 1."""
    return learning_rate(stage.schedule, stage.optimizer.learning_rate, epoch - 1, epochs=stage.epochs)


def test_rates_by_hand() -> None:
    # Stage 1: a step up from 1e-5 to 3.5e-4 over 5 epochs, and 1e-6 at the end.
    for kind, last in (("clipreid_vit_base", 120), ("clipreid_rn50", 60)):
        prompts = shipped(kind).prompts
        assert prompts is not None
        assert rate(prompts, 1) == pytest.approx(1e-5 + 3.4e-4 / 5, rel=1e-9)
        assert rate(prompts, last) == pytest.approx(1e-6, rel=1e-9)
    # Stage 2, ViT: a tenth and a tenth of the rest in the first epoch; a tenth from 30, a hundredth from 50.
    vit = shipped("clipreid_vit_base").images
    assert [rate(vit, epoch) for epoch in (1, 10, 29, 30, 49, 50, 60)] == pytest.approx(
        [5e-6 * 0.19, 5e-6, 5e-6, 5e-7, 5e-7, 5e-8, 5e-8], rel=1e-9
    )
    # RN50: a hundredth and a tenth of the rest; from 40 and 70.
    rn50 = shipped("clipreid_rn50").images
    assert [rate(rn50, epoch) for epoch in (1, 10, 39, 40, 69, 70, 120)] == pytest.approx(
        [3.5e-4 * 0.109, 3.5e-4, 3.5e-4, 3.5e-5, 3.5e-5, 3.5e-6, 3.5e-6], rel=1e-9
    )
    # PASS: 0.01 and a twentieth of the rest; at 60 half way down the cosine; 0.002 at the end.
    pass_vit = shipped("pass_vit_base_market").images
    assert [rate(pass_vit, epoch) for epoch in (1, 60, 120)] == pytest.approx(
        [4e-4 * (0.01 + 0.99 / 20), 4e-4 * 0.501, 4e-4 * 0.002], rel=1e-9
    )
    osnet = shipped("osnet_x1_0_market").images
    assert [rate(osnet, epoch) for epoch in (1, 149, 150, 225, 300, 350)] == pytest.approx(
        [0.065, 0.065, 0.0065, 0.00065, 0.000065, 0.000065], rel=1e-9
    )


@pytest.mark.parametrize("name", recipe_names())
def test_a_written_recipe_reads_back_the_same(name: str, tmp_path: Path) -> None:
    recipe = shipped(name)
    write_recipe(recipe, tmp_path / "recipe.yaml")
    assert read_recipe(tmp_path / "recipe.yaml") == recipe
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


rates = st.floats(1e-12, 1e6)
shares = st.floats(0.0, 1.0)
recipes = st.builds(
    Recipe,
    description=st.text(st.characters(min_codepoint=32, max_codepoint=0x7E)),
    model=st.builds(
        ModelSpec,
        backbone=st.sampled_from(list(BACKBONES)),
        weights=st.none() | st.sampled_from(["1e-4", "null", "a: b", "模型.pt", "yes", ""]),
        mean=st.none() | st.tuples(shares, shares, shares),
    ),
    data=st.builds(DataSpec, held_out_people=st.integers(0, 9), cache=st.booleans()),
    seed=st.integers(0, 2**64),
    evaluation=st.builds(EvaluationSpec, every=st.integers(0, 9), keep=st.sampled_from(["last", "best"])),
    prompts=st.none() | st.builds(PromptStage, optimizer=st.builds(OptimizerSpec, learning_rate=rates)),
    images=st.builds(
        ImageStage,
        losses=st.builds(LossSpec, smoothing=shares, margin=st.none() | rates, identity=rates),
        growing_sizes=st.sampled_from([(), ((0, 128, 64),), ((0, 128, 64), (7, 256, 128))]),
    ),
)


@given(recipe=recipes)
def test_every_recipe_survives_yaml(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "any_recipe.yaml"
    write_recipe(recipe, path)
    assert read_recipe(path) == recipe


def test_single_fields_are_replaced() -> None:
    recipe = read_recipe(
        "clipreid_vit_base",
        {"data.root": "Market", "images.epochs": 3, "images.optimizer.learning_rate": "1e-5", "model.mean": [0, 0, 0]},
    )
    assert recipe.data.root == "Market" and recipe.data.dataset == "market1501"
    assert recipe.images.epochs == 3 and recipe.images.optimizer.learning_rate == 1e-5
    assert recipe.model.mean == (0, 0, 0)
    assert recipe.images.optimizer.bias_factor == 2.0  # what is not named stays
    assert read_recipe("clipreid_vit_base").images.epochs == 60


def test_sections_can_be_made_emptied_and_given_whole() -> None:
    baseline = read_recipe("clipreid_vit_base_baseline", {"prompts.optimizer.learning_rate": 1e-3})
    assert baseline.prompts == PromptStage(optimizer=OptimizerSpec(learning_rate=1e-3))
    without = {"prompts": None, "images.losses.image_to_text": 0.0}
    assert read_recipe("clipreid_vit_base", without).prompts is None
    sections = {"data": {"root": "here", "workers": 4}, "data.workers": 2}
    assert read_recipe("clipreid_vit_base", sections).data == DataSpec(root="here", workers=2)
    assert sections["data"] == {"root": "here", "workers": 4}  # the caller's is left alone


def test_sections_that_yaml_shares_are_replaced_one_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "shared.yaml"
    path.write_text(
        "model: {backbone: clip_vit_base}\n"
        "prompts: {optimizer: &shared {learning_rate: 1.0e-3}}\n"
        "images: {optimizer: *shared}\n",
        encoding="utf-8",
    )
    recipe = read_recipe(path, {"images.optimizer.learning_rate": 2e-3})
    assert recipe.prompts is not None and recipe.prompts.optimizer.learning_rate == 1e-3
    assert recipe.images.optimizer.learning_rate == 2e-3


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"images.epoch": 3}, "recipe osnet_light.images has an unknown field 'epoch'; did you mean 'epochs'?"),
        ({"image.epochs": 3}, "recipe osnet_light has an unknown field 'image'; did you mean 'images'?"),
        ({"seed.x": 3}, "recipe osnet_light: seed is no section, so seed.x is no field; check its spelling."),
        ({"images.epochs": "three"}, "recipe osnet_light.images: epochs is 'three'; expected a whole number."),
        ({"images.epochs": math.nan}, "recipe osnet_light.images: epochs is nan; expected a whole number."),
        ({"": 3}, "recipe osnet_light has an unknown field ''."),
        ({"model": None}, "recipe osnet_light: model is None; expected a ModelSpec."),
    ],
)
def test_what_cannot_be_replaced(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_recipe("osnet_light", {"seed": 1, **overrides})
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"model: [", "is no valid YAML: while parsing a flow"),
        (b"model: {a: 1}\n  b: 2", "is no valid YAML"),
        (b"description: 2020-13-45", "is no valid YAML: month must be in 1..12"),
        (b"model: !!python/object:os.system {}", "is no valid YAML: could not determine a constructor"),
        (b"", "holds NoneType; expected fields by name, 'model' among them"),
        (b"- model", "holds list; expected fields by name"),
        (b"osnet", "holds str; expected fields by name"),
        (b"\x89PNG\r\n\x1a\n\x00\xff", "cannot be read: 'utf-8' codec can't decode"),
        (b"model:\x00 1", "is no valid YAML"),
        (b"seed: 1", "lacks model; a value is needed"),
        (b"model:", "model is None; expected a ModelSpec"),
        (b"model: {backbone: osnet_x0_5, backbon: 1}", "model has an unknown field 'backbon'; did you mean 'backbone'"),
        (b"model: {backbone: osnet_x0_5}\nimages: {optimizer: {learning_rate: 0}}", "images.optimizer: learning_rate"),
    ],
)
def test_files_that_are_no_recipe(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_recipe(path)
    assert str(path) in str(caught.value) and message in str(caught.value) and "\n" not in str(caught.value)


def test_a_recipe_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read_recipe("osnet_ligt")
    assert "'osnet_ligt' is no recipe and no file; did you mean 'osnet_light'?" in str(caught.value)
    assert ", ".join(recipe_names()) in str(caught.value)
    for source in (tmp_path, tmp_path / "gone.yaml", "a" * 5000):  # a folder, no file, a name too long for one
        with pytest.raises(ConfigError, match=r"is no recipe and no file|cannot be read"):
            read_recipe(source)


def test_a_number_without_a_dot_is_a_number(tmp_path: Path) -> None:
    """YAML 1.1 takes 1e-4 for text."""
    path = tmp_path / "recipe.yaml"
    path.write_text("model: {backbone: osnet_x0_5}\nimages: {optimizer: {learning_rate: 1e-4}}", encoding="utf-8")
    assert read_recipe(str(path)).images.optimizer.learning_rate == 1e-4
