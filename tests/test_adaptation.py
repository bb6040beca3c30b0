"""One model as the start of another, in every family."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from published import PUBLISHED, timm_vit
from tiny import TINY_CONFIGS, embed, tiny_images, tiny_model

from modelscope_reid.config import ModelConfig, PassVitConfig, Preprocessing
from modelscope_reid.errors import CheckpointError
from modelscope_reid.models.adaptation import adapt
from modelscope_reid.models.checkpoints import load_checkpoint
from modelscope_reid.models.model_folder import save_pretrained
from modelscope_reid.models.reid_model import ReidModel

WITH_POSITIONS = ("pass_vit", "transreid_vit", "clip_vit", "clip_resnet")


def changed(family: str, **changes: Any) -> ModelConfig:
    config = TINY_CONFIGS[family]
    size = changes.pop("image_size", config.image_size)
    preprocessing = dataclasses.replace(config.preprocessing, image_size=size)
    return dataclasses.replace(config, preprocessing=preprocessing, **changes)


def parts(fresh: tuple[str, ...]) -> set[str]:
    """The first two parts of each name."""
    return {".".join(name.split(".")[:2]) for name in fresh}


def same_tensors(model: ReidModel, source: ReidModel, but: tuple[str, ...]) -> None:
    theirs = source.state_dict()
    for name, tensor in model.state_dict().items():
        assert (name in but) or torch.equal(tensor, theirs[name]), name


@pytest.mark.parametrize("family", TINY_CONFIGS)
def test_the_same_config_gives_the_same_embeddings_and_a_new_classifier(family: str) -> None:
    source = tiny_model(TINY_CONFIGS[family])
    before = {name: tensor.clone() for name, tensor in source.state_dict().items()}
    model, fresh = adapt(source, source.config, seed=1)
    assert torch.equal(embed(model), embed(source))
    assert parts(fresh) == {"head.classifiers"}
    weights = [name for name in fresh if name.endswith("weight")]
    assert not any(torch.equal(model.state_dict()[name], before[name]) for name in weights)
    for parameter in model.parameters():
        parameter.data.add_(1.0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in source.state_dict().items()), "shared memory"


@pytest.mark.parametrize("family", TINY_CONFIGS)
def test_the_seed_makes_what_is_new(family: str) -> None:
    source = tiny_model(TINY_CONFIGS[family])
    first, again, other = (adapt(source, source.config, seed=seed)[0].head.classifiers[0].weight for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("family", TINY_CONFIGS)
def test_more_people(family: str) -> None:
    source = tiny_model(TINY_CONFIGS[family])
    model, fresh = adapt(source, changed(family, num_classes=9))
    assert torch.equal(embed(model), embed(source))
    assert {len(classifier.weight) for classifier in model.head.classifiers} == {9}
    assert parts(fresh) == {"head.classifiers"}


@pytest.mark.parametrize("family", WITH_POSITIONS)
@pytest.mark.parametrize("size", [(96, 32), (32, 64)])
def test_another_size_is_that_of_load_checkpoint(family: str, size: tuple[int, int], tmp_path: Path) -> None:
    source = tiny_model(TINY_CONFIGS[family])
    opened, report = load_checkpoint(save_pretrained(source, tmp_path), image_size=size)
    assert len(report.resampled) == 1
    model, fresh = adapt(source, changed(family, image_size=size))
    same_tensors(model, opened, fresh)
    assert parts(fresh) == {"head.classifiers"}
    images = tiny_images(model.config)
    assert images.shape[2:] == size
    assert torch.equal(embed(model, images), embed(opened, images))


def test_osnet_has_no_positions() -> None:
    source = tiny_model(TINY_CONFIGS["osnet"])
    model, fresh = adapt(source, changed("osnet", image_size=(96, 32)))
    same_tensors(model, source, fresh)


@pytest.mark.parametrize("family", ["pass_vit", "transreid_vit", "clip_vit"])
def test_overlapping_patches(family: str) -> None:
    source = tiny_model(TINY_CONFIGS[family])
    model, fresh = adapt(source, changed(family, stride=12))
    # 64x32 pixels: (64 - 16) // 12 + 1 = 5 rows of (32 - 16) // 12 + 1 = 2 patches, where there were 4 x 2.
    prefix = 4 if family == "pass_vit" else 1
    assert model.backbone.pos_embed.shape == (1, prefix + 10, 64)
    assert torch.equal(model.backbone.pos_embed[:, :prefix], source.backbone.pos_embed[:, :prefix])
    same_tensors(model, source, (*fresh, "backbone.pos_embed"))
    # Rows 0 and 4 of 5 lie nearest to rows 0 and 3 of 4 (bilinear, edges clamped).
    old = source.backbone.pos_embed[0, prefix:].reshape(4, 2, 64)
    new = model.backbone.pos_embed[0, prefix:].reshape(5, 2, 64)
    torch.testing.assert_close(new[[0, 4]], old[[0, 3]])
    assert torch.isfinite(embed(model)).all()


@pytest.mark.parametrize("family", ["transreid_vit", "clip_vit", "osnet"])
def test_a_neck_where_there_was_none(family: str) -> None:
    source = tiny_model(changed(family, neck="none"))
    model, fresh = adapt(source, changed(family, neck="single"))
    assert parts(fresh) == {"head.classifiers", "head.necks"}
    assert torch.equal(embed(model), embed(source)), "the embedding is taken before the neck"
    same_tensors(model, source, fresh)


def test_a_neck_over_another_feature_is_new() -> None:
    """Four necks and one over the mean: the first has the same shape, and the statistics of another feature."""
    source = tiny_model(TINY_CONFIGS["pass_vit"])
    model, fresh = adapt(source, changed("pass_vit", neck="single", fusion="mean"))
    assert parts(fresh) == {"head.classifiers", "head.necks"}
    assert model.head.necks[0].weight.shape == source.head.necks[0].weight.shape
    assert torch.equal(model.head.necks[0].weight, torch.ones(64))


@pytest.mark.parametrize(("cameras", "new"), [(3, False), (5, True)])
def test_cameras(cameras: int, new: bool) -> None:
    source = tiny_model(TINY_CONFIGS["clip_vit"])
    model, fresh = adapt(source, changed("clip_vit", cameras=cameras))
    assert ("backbone.camera_embedding.weight" in fresh) == new
    assert len(model.backbone.camera_embedding.weight) == cameras


def test_cameras_dropped() -> None:
    source = tiny_model(TINY_CONFIGS["clip_vit"])
    model, fresh = adapt(source, changed("clip_vit", cameras=0))
    assert model.backbone.camera_embedding is None
    same_tensors(model, source, fresh)


@pytest.mark.parametrize(
    ("family", "changes", "match"),
    [
        ("pass_vit", {"width": 128}, r"is \(1, 1, 64\), expected \(1, 1, 128\); drop the recipe's field"),
        ("clip_vit", {"depth": 4}, r"backbone\.blocks\.3\.\S+ is missing, expected"),
        ("clip_vit", {"depth": 2}, r"backbone\.blocks\.2\.\S+ is \(.*\), expected missing"),
        ("clip_vit", {"projection_dim": 16}, r"backbone\.projection is \(64, 32\), expected \(64, 16\)"),
        ("osnet", {"channels": (16, 32, 48, 96)}, r"backbone\.\S+ is \("),
        ("clip_resnet", {"layers": (1, 1, 2, 1)}, r"backbone\.layer3\.1\.\S+ is missing"),
    ],
)
def test_a_backbone_that_does_not_fit(family: str, changes: dict[str, Any], match: str) -> None:
    with pytest.raises(CheckpointError, match=match):
        adapt(tiny_model(TINY_CONFIGS[family]), changed(family, **changes))


def test_self_supervised_pass_gets_necks(tmp_path: Path) -> None:
    """What PASS's fine-tuning starts from: a backbone alone, under its published names."""
    state = PUBLISHED["pass_vit"](tiny_model(TINY_CONFIGS["pass_vit"]))
    torch.save(
        {name.removeprefix("base."): value for name, value in state.items() if name[:5] == "base."}, tmp_path / "w"
    )
    source, _ = load_checkpoint(tmp_path / "w", image_size=(64, 32))
    wanted = dataclasses.replace(source.config, neck="multi", num_classes=7)
    model, fresh = adapt(source, wanted)
    assert parts(fresh) == {"head.classifiers", "head.necks"}
    assert len(model.head.necks) == 4
    same_tensors(model, source, fresh)


# A plain ViT as the start of a PASS ViT


def plain_vit(folder: Path) -> ReidModel:
    torch.save(timm_vit().state_dict(), folder / "timm.pth")
    return load_checkpoint(folder / "timm.pth")[0]


def with_parts(size: tuple[int, int] = (64, 32), **changes: Any) -> PassVitConfig:
    return PassVitConfig(width=64, depth=2, num_classes=7, preprocessing=Preprocessing(image_size=size), **changes)


@pytest.mark.parametrize("neck", ["multi", "single"])
def test_a_plain_vit_gains_part_tokens(neck: Any, tmp_path: Path) -> None:
    source = plain_vit(tmp_path)
    before = {name: tensor.clone() for name, tensor in source.state_dict().items()}
    model, fresh = adapt(source, with_parts(neck=neck))
    assert parts(fresh) == {"head.classifiers", "head.necks", "backbone.reg_token"}
    same_tensors(model, source, (*fresh, "backbone.pos_embed"))
    positions, old = model.backbone.pos_embed, before["backbone.pos_embed"]
    assert positions.shape == (1, 4 + 8, 64)
    assert torch.equal(positions[0, :4], old[0, :1].expand(4, -1)), "the parts stand where the class token stands"
    assert torch.equal(positions[0, 4:], old[0, 1:])
    for parameter in model.parameters():
        parameter.data.add_(1.0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in source.state_dict().items()), "shared memory"


def test_new_part_tokens_lie_around_the_class_token_and_apart(tmp_path: Path) -> None:
    source = plain_vit(tmp_path)
    first, again, other = (adapt(source, with_parts(), seed=seed)[0].backbone.reg_token for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    offsets = (first - source.backbone.cls_token)[0].detach()
    # 192 draws of deviation 0.02: that of the sample is off by 0.02 / sqrt(2 * 192), a thousandth, or a few.
    assert 0.016 < offsets.std() < 0.024
    assert offsets.mean().abs() < 0.006
    features = adapt(source, with_parts())[0].backbone(tiny_images(source.config))
    for k in range(4):
        for j in range(k):
            assert not torch.allclose(features[k], features[j], atol=1e-3), (k, j)


def test_part_tokens_and_another_grid(tmp_path: Path) -> None:
    source = plain_vit(tmp_path)
    there, _ = load_checkpoint(tmp_path / "timm.pth", image_size=(96, 48))
    model, _ = adapt(source, with_parts((96, 48)))
    assert torch.equal(model.backbone.pos_embed[:, 4:], there.backbone.pos_embed[:, 1:])
    assert torch.equal(model.backbone.pos_embed[0, :4], source.backbone.pos_embed[0, :1].expand(4, -1))


def test_a_transreid_with_cameras_gains_part_tokens() -> None:
    source = tiny_model(TINY_CONFIGS["transreid_vit"])
    model, fresh = adapt(source, dataclasses.replace(with_parts(), depth=3, cameras=3))
    assert parts(fresh) == {"head.classifiers", "head.necks", "backbone.reg_token"}
    assert torch.equal(model.backbone.camera_embedding.weight, source.backbone.camera_embedding.weight)


@pytest.mark.parametrize(
    ("source", "wanted", "match"),
    [
        ("pass_vit", "transreid_vit", "has 11 patches"),  # 4 + 8 positions, read as 1 + 11
        ("clip_vit", "pass_vit", "has 5 patches"),  # 1 + 8 positions, read as 4 + 5
        ("osnet", "pass_vit", r"backbone\.cls_token is missing"),
        ("transreid_vit", "clip_vit", r"backbone\.projection is missing"),
        ("transreid_vit", "osnet", r"backbone\.conv1\.conv\.weight is missing"),
    ],
)
def test_no_other_family_becomes_another(source: str, wanted: str, match: str) -> None:
    with pytest.raises(CheckpointError, match=match):
        adapt(tiny_model(TINY_CONFIGS[source]), TINY_CONFIGS[wanted])


def test_a_plain_vit_of_another_width(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cls_token is \(1, 1, 64\), expected \(1, 1, 128\)"):
        adapt(plain_vit(tmp_path), dataclasses.replace(with_parts(), width=128))
