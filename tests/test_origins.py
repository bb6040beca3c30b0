"""Names and shapes alone: which checkpoint is it, how large is its model, what is each tensor called here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from published import PUBLISHED, clip_image_state, openai_text, pass_state, timm_shapes
from tiny import TINY_CONFIGS, tiny_model

from modelscope_reid.config import (
    ClipResNetConfig,
    ClipVitConfig,
    OsnetConfig,
    PassVitConfig,
    Preprocessing,
    TransReidConfig,
)
from modelscope_reid.errors import CheckpointError
from modelscope_reid.models.origins import (
    PASS_PIECES,
    recognise,
    stock_name,
)

SHAPES = {
    model: {name: tuple(shape) for name, shape in shapes.items()}
    for model, shapes in json.loads((Path(__file__).parent / "data" / "state_dict_shapes.json").read_text()).items()
}
ORIGIN_OF = {
    "pass_vit": "PASS (ModelScope, PASS-reID)",
    "transreid_vit": "TransReID",
    "clip_vit": "CLIP-ReID ViT",
    "clip_resnet": "CLIP-ReID RN50",
    "osnet": "OSNet (torchreid)",
}


def shapes_of(state: dict) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


# Rows and columns are (side - 16) // stride + 1: (256 - 16) // 16 + 1 = 16, (128 - 16) // 16 + 1 = 8;
# stride 12: 240 // 12 + 1 = 21, 112 // 12 + 1 = 10; 384 high: 368 // 16 + 1 = 24, 368 // 12 + 1 = 31.


@pytest.mark.parametrize(
    ("model", "config"),
    [
        ("pass_vitb16_256x128", PassVitConfig(num_classes=751)),
        ("pass_vits16_256x128", PassVitConfig(num_classes=751, width=384)),
        ("clipreid_ViT-B-16", ClipVitConfig(num_classes=751)),
        ("clipreid_RN50", ClipResNetConfig(num_classes=751)),
        ("osnet_x0_25", OsnetConfig(num_classes=751, channels=(16, 64, 96, 128))),
        ("osnet_x0_5", OsnetConfig(num_classes=751, channels=(32, 128, 192, 256))),
        ("osnet_x1_0", OsnetConfig(num_classes=751)),
    ],
)
def test_published_shapes_tell_the_model(model: str, config: object) -> None:
    assert recognise(SHAPES[model]).config(SHAPES[model]) == config


@pytest.mark.parametrize("family", TINY_CONFIGS)
def test_every_family_is_recognised_with_its_config(family: str) -> None:
    config = TINY_CONFIGS[family]
    shapes = shapes_of(PUBLISHED[family](tiny_model(config)))
    origin = recognise(shapes)
    told = origin.config(shapes)
    assert origin.name == ORIGIN_OF[family]
    if family == "osnet":  # convolutions tell no size
        assert told.image_size == (256, 128)
        told = type(told)(**{**vars(told), "preprocessing": config.preprocessing})
    if family == "transreid_vit":
        assert told.camera_coefficient == 3.0  # TransReID's published SIE_COE
    assert told == config


@pytest.mark.parametrize("prefix", ["backbone.", ""])
def test_self_supervised_pass_with_and_without_its_prefix(prefix: str) -> None:
    config = PassVitConfig(width=64, depth=2, preprocessing=Preprocessing(image_size=(64, 32)), neck="none")
    shapes = shapes_of(pass_state(tiny_model(config), prefix))
    assert recognise(shapes).name == "PASS, self-supervised"
    assert recognise(shapes).config(shapes) == config


def test_clips_own_files_are_recognised_apart() -> None:
    for family, name in (
        ("clip_vit", "CLIP ViT (OpenAI, open_clip)"),
        ("clip_resnet", "CLIP RN50 (OpenAI, open_clip)"),
    ):
        shapes = shapes_of(clip_image_state(tiny_model(TINY_CONFIGS[family]), "visual.") | openai_text())
        told = recognise(shapes).config(shapes)
        assert recognise(shapes).name == name
        assert (told.num_classes, told.neck) == (0, "none")


def test_patches_of_another_size_lie_side_by_side() -> None:
    # CLIP ViT-L/14 at 224: 16 x 16 patches of 14 pixels. At 256x128: 242 // 14 + 1 = 18, 114 // 14 + 1 = 9.
    config = ClipVitConfig(
        width=64, depth=2, patch_size=14, stride=14, preprocessing=Preprocessing(image_size=(224, 224))
    )
    shapes = shapes_of(clip_image_state(tiny_model(config), "visual."))
    told = recognise(shapes).config(shapes)
    assert isinstance(told, ClipVitConfig)
    assert (told.patch_size, told.stride, told.image_size, told.grid) == (14, 14, (256, 128), (18, 9))


def test_transreid_without_cameras_or_neck() -> None:
    config = TransReidConfig(width=64, depth=2, preprocessing=Preprocessing(image_size=(64, 32)), neck="none")
    shapes = shapes_of(PUBLISHED["transreid_vit"](tiny_model(config)))
    assert recognise(shapes).config(shapes) == config


# timm's: 224 / 16 = 14 rows of 14 patches; square, so the model opens at 256x128. 224 / 32 = 7.


@pytest.mark.parametrize(
    ("name", "changes", "config"),
    [
        ("vit_tiny_patch16_224", {}, {"width": 192}),
        ("vit_small_patch16_224", {}, {"width": 384}),
        ("vit_small_patch16_384", {}, {"width": 384}),
        ("vit_base_patch16_224", {}, {"width": 768}),
        ("vit_base_patch16_224", {"num_classes": 0}, {"width": 768}),
        ("vit_base_patch16_224", {"img_size": (384, 128)}, {"preprocessing": Preprocessing(image_size=(384, 128))}),
        ("vit_base_patch32_224", {}, {"patch_size": 32, "stride": 32}),
        ("vit_large_patch16_224", {}, {"width": 1024, "depth": 24}),
        ("deit_small_patch16_224", {}, {"width": 384}),
    ],
)
def test_timms_shapes_tell_the_model(name: str, changes: dict[str, Any], config: dict[str, Any]) -> None:
    shapes = timm_shapes(name, **changes)
    origin = recognise(shapes)
    assert origin.name == "ViT (timm)"
    assert origin.config(shapes) == TransReidConfig(**config, neck="none")
    rename = origin.rename(shapes)
    left_out = {key for key in shapes if rename(key).target is None}
    assert left_out == ({"head.weight", "head.bias"} & set(shapes))
    assert all(rename(key).target == f"backbone.{key}" for key in set(shapes) - left_out)


def test_timms_older_classifiers_are_left_out() -> None:
    older = {"pre_logits.fc.weight": (768, 768), "pre_logits.fc.bias": (768,), "fc_norm.weight": (768,)}
    shapes = timm_shapes("vit_base_patch16_224") | older
    rename = recognise(shapes).rename(shapes)
    assert recognise(shapes).config(shapes) == TransReidConfig(neck="none")
    assert {rename(name).reason for name in older} == {"the classifier of the images it was trained on"}
    for stranger in ("head.mlp.0.weight", "mask_token", "base.cls_token", "cls_pos"):
        with pytest.raises(CheckpointError, match=r"is no name of a ViT \(timm\)"):
            rename(stranger)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("vit_small_patch14_dinov2", {}, r"with layer scale \(DINOv2"),
        ("vit_small_patch14_reg4_dinov2", {}, r"with register tokens \(DINOv2\) and layer scale .* and no position"),
        ("deit3_small_patch16_224", {}, r"with layer scale .* and no position for its class token,"),
        ("deit_small_distilled_patch16_224", {}, r"with a distillation token \(DeiT\)"),
        ("vit_base_patch16_224", {"qk_norm": True}, "with norms of queries and keys,"),
        ("vit_base_patch16_clip_224", {}, r"with a norm before its blocks \(CLIP\)"),
        ("vit_base_patch16_224", {"global_pool": "avg"}, "with the mean of its patches for a feature"),
        ("vit_base_patch16_224", {"no_embed_class": True}, "with no position for its class token,"),
        ("vit_huge_patch14_224", {}, "with width 1280, whose attention heads"),  # 16 of 80 numbers
    ],
)
def test_timms_other_vits_are_refused_by_what_they_have(name: str, changes: dict[str, Any], message: str) -> None:
    shapes = timm_shapes(name, **changes)
    with pytest.raises(CheckpointError, match=f"this is a ViT {message}.* is not supported; timm's plain ones are"):
        recognise(shapes).config(shapes)


def test_a_class_token_alone_makes_no_other_file_timms() -> None:
    bare = shapes_of(pass_state(tiny_model(TINY_CONFIGS["pass_vit"]), ""))
    assert "cls_token" in bare
    del bare["part_token1"]
    with pytest.raises(CheckpointError, match="'part_token2' is no name of a ViT"):
        recognise(bare).rename(bare)("part_token2")
    dino = {f"backbone.{name}": shape for name, shape in timm_shapes("vit_small_patch16_224").items()}
    with pytest.raises(CheckpointError, match="of no known origin"):
        recognise(dino)


def test_pass_fusion_is_read_from_the_classifier_else_from_the_neck() -> None:
    # Width 64: a classifier or a single neck of 128 numbers is cat, of 64 is mean.
    for fusion in ("cat", "mean"):
        for classes, neck in ((5, "multi"), (5, "single"), (0, "single")):
            config = PassVitConfig(
                width=64, depth=2, preprocessing=Preprocessing(image_size=(64, 32)),
                fusion=fusion, num_classes=classes, neck=neck,
            )  # fmt: skip
            shapes = shapes_of(pass_state(tiny_model(config)))
            assert recognise(shapes).config(shapes) == config


@pytest.mark.parametrize("model", ["pass_vitb16_256x128", "pass_vits16_256x128"])
def test_stock_names_are_the_inverse_of_the_renaming(model: str) -> None:
    shapes = SHAPES[model]
    rename = recognise(shapes).rename(shapes)
    seen = set()
    for name in shapes:
        target = rename(name).target
        if target is None:
            assert name.startswith("base.fc.")
            continue
        ours, _, piece = target.partition("#")
        assert stock_name(ours, int(piece) if piece else None) == name
        seen.add(target)
    assert len(seen) == len(shapes) - 2
    assert {f"{name}#{index}" for name, names in PASS_PIECES.items() for index in range(len(names))} < seen


@pytest.mark.parametrize("model", SHAPES)
def test_every_published_name_has_one_place(model: str) -> None:
    shapes = SHAPES[model]
    rename = recognise(shapes).rename(shapes)
    rules = [rename(name) for name in shapes]
    targets = [rule.target for rule in rules if rule.target]
    assert len(targets) == len(set(targets))
    assert all(rule.target or rule.reason for rule in rules)


def test_a_name_of_another_model_is_refused() -> None:
    shapes = SHAPES["osnet_x0_25"]
    rename = recognise(shapes).rename(shapes)
    for name in ("base.cls_token", "conv6.conv.weight", "classifier.weight.more", ""):
        with pytest.raises(CheckpointError, match="is no name of a OSNet"):
            rename(name)


def test_unknown_tensors_are_refused_with_the_known_origins() -> None:
    with pytest.raises(CheckpointError) as caught:
        recognise({"features.0.weight": (3, 3), "fc.bias": (2,)})
    for word in ("2 tensors (features.0.weight, fc.bias", "save_pretrained", "ViT (timm)", *ORIGIN_OF.values()):
        assert word in str(caught.value)


def test_instance_normalisation_is_refused_by_name() -> None:
    for extra in ("conv2.0.IN.weight", "conv2.0.instance_norm.weight"):
        shapes = {**SHAPES["osnet_x0_25"], extra: (64,)}
        with pytest.raises(CheckpointError, match=r"instance normalisation \(IBN or AIN\)"):
            recognise(shapes).config(shapes)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("base.pos_embed", (128, 768)),
        ("base.patch_embed.proj.weight", ()),
        ("base.cls_token", (1, 0, 768)),
        ("classifier.weight", (751,)),
    ],
)
def test_shapes_that_tell_nothing_are_named(name: str, shape: tuple[int, ...]) -> None:
    shapes = {**SHAPES["pass_vitb16_256x128"], name: shape}
    with pytest.raises(CheckpointError, match=f"'{name}' has shape"):
        recognise(shapes).config(shapes)
    del shapes[name]
    if name != "classifier.weight":
        with pytest.raises(CheckpointError, match=f"has no '{name}'"):
            recognise(shapes).config(shapes)


def test_an_absurd_block_number_builds_no_absurd_model() -> None:
    shapes = {**SHAPES["pass_vits16_256x128"], "base.blocks.999999999.norm1.weight": (384,)}
    told = recognise(shapes).config(shapes)
    assert isinstance(told, PassVitConfig)
    assert told.depth <= len(shapes)
