"""What a run starts from: random numbers, or published weights made to fit."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from published import PUBLISHED, timm_vit
from tiny import TINY_CONFIGS, embed, tiny_images, tiny_model
from torch.nn import functional

from modelscope_reid.config import ClipVitConfig, OsnetConfig, PassVitConfig, TransReidConfig
from modelscope_reid.errors import CheckpointError, ConfigError, HubError
from modelscope_reid.models.model_folder import save_pretrained
from modelscope_reid.models.reid_model import ReidModel
from modelscope_reid.training.initial_model import initial_model, is_convolutional
from modelscope_reid.training.recipe import ModelSpec

SMALL_OSNET: dict[str, Any] = {"backbone": "osnet_x0_25", "channels": (16, 32, 48, 64), "feature_dim": 20}


def start(spec: ModelSpec, *, classes: int = 7, cameras: int = 4, seed: int = 0) -> ReidModel:
    return initial_model(spec, classes=classes, cameras=cameras, seed=seed)


def same(first: ReidModel, second: ReidModel) -> bool:
    theirs = second.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in first.state_dict().items())


def test_random_numbers_follow_from_the_seed() -> None:
    spec = ModelSpec(**SMALL_OSNET)
    assert same(start(spec), start(spec))
    assert not same(start(spec), start(spec, seed=1))
    state = torch.get_rng_state()
    start(spec)
    assert torch.equal(torch.get_rng_state(), state), "nobody else's random numbers are touched"


def test_the_recipes_fields() -> None:
    spec = ModelSpec(
        backbone="pass_vit_small",
        width=64,
        depth=2,
        stride=12,
        image_size=(64, 32),
        drop_path=0.1,
        neck="single",
        cameras=True,
        mean=(0.1, 0.2, 0.3),
    )
    config = start(spec).config
    assert isinstance(config, PassVitConfig)
    assert (config.width, config.depth, config.stride, config.drop_path) == (64, 2, 12, 0.1)
    assert (config.num_classes, config.cameras, config.neck) == (7, 4, "single")
    assert (config.image_size, config.preprocessing.mean) == ((64, 32), (0.1, 0.2, 0.3))
    assert config.preprocessing.std == PassVitConfig().preprocessing.std


def test_no_cameras_unless_wanted() -> None:
    config = start(ModelSpec(backbone="pass_vit_small", width=64, depth=1)).config
    assert isinstance(config, PassVitConfig) and config.cameras == 0


@pytest.mark.parametrize("field", [{"stride": 12}, {"cameras": True}, {"layout": "1536"}])
def test_a_field_that_the_family_lacks(field: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"model.{next(iter(field))} is given, but models of the family osnet"):
        start(ModelSpec(**SMALL_OSNET, **field))


def test_a_random_start_where_the_published_had_weights_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "modelscope_reid"):
        start(ModelSpec(**SMALL_OSNET))
        assert not caplog.records
        start(ModelSpec(**SMALL_OSNET, published_weights="osnet_x0_25_imagenet.pth"))
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "training starts from random numbers" in record.message
    assert "osnet_x0_25_imagenet.pth" in record.message


@pytest.mark.parametrize("family", TINY_CONFIGS)
def test_from_a_model_folder(family: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = tiny_model(TINY_CONFIGS[family])
    folder = save_pretrained(source, tmp_path / "model")
    with caplog.at_level(logging.INFO, "modelscope_reid"):
        model = start(ModelSpec(weights=str(folder), published_weights="elsewhere"))
    assert model.config.num_classes == 7
    assert torch.equal(embed(model), embed(source))
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "head.classifiers.0.weight" in caplog.records[0].message
    assert same(model, start(ModelSpec(weights=str(folder))))
    assert not same(model, start(ModelSpec(weights=str(folder)), seed=1))


def test_from_a_published_file_with_another_size_and_cameras(tmp_path: Path) -> None:
    source = tiny_model(TINY_CONFIGS["transreid_vit"])
    torch.save(PUBLISHED["transreid_vit"](source), tmp_path / "transreid.pth")
    spec = ModelSpec(weights=str(tmp_path / "transreid.pth"), image_size=(96, 32), cameras=True)
    config = start(spec).config
    assert isinstance(config, TransReidConfig)
    assert (config.image_size, config.cameras) == ((96, 32), 4)


def test_weights_of_the_backbones_family(tmp_path: Path) -> None:
    folder = save_pretrained(tiny_model(TINY_CONFIGS["pass_vit"]), tmp_path / "model")
    config = start(ModelSpec(backbone="pass_vit_base", weights=str(folder))).config
    assert isinstance(config, PassVitConfig)
    assert config.width == 64, "the weights' own width"
    with pytest.raises(ConfigError, match=r"is a pass_vit, and model.backbone 'osnet_x1_0' a osnet; give weights of"):
        start(ModelSpec(backbone="osnet_x1_0", weights=str(folder)))


def pass_from_timm(folder: Path, **changes: Any) -> ModelSpec:
    """The model section of pass_vit_small_market.yaml, from a tiny ViT of timm's."""
    torch.save(timm_vit(img_size=224).state_dict(), folder / "timm.pth")
    published: dict[str, Any] = {
        "backbone": "pass_vit_small",
        "weights": str(folder / "timm.pth"),
        "image_size": (64, 32),
        "fusion": "cat",
        "neck": "multi",
        "neck_feature": "before",
    }
    return ModelSpec(**(published | changes))


def test_pass_from_timms_weights_takes_a_step(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "modelscope_reid"):
        model = start(pass_from_timm(tmp_path)).train()
    assert "backbone.reg_token" in caplog.records[-1].message
    config = model.config
    assert isinstance(config, PassVitConfig)
    assert (config.width, config.depth, config.grid, config.cameras) == (64, 2, (4, 2), 0)
    assert (config.neck, config.fusion, config.num_classes, config.embedding_dim) == ("multi", "cat", 7, 128)
    images, labels = tiny_images(config, count=6), torch.tensor([0, 0, 1, 1, 2, 2])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    def loss() -> torch.Tensor:
        (feature,) = model.head.classified(model.backbone(images))
        return functional.cross_entropy(model.head.classifiers[0](feature), labels)

    before = model.backbone.reg_token.detach().clone()
    first = loss()
    first.backward()
    optimizer.step()
    assert loss() < first
    steps = (model.backbone.reg_token - before)[0].detach()
    assert steps.abs().amax(dim=1).min() > 0, "every part learns"
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not torch.allclose(steps[one], steps[other], rtol=1e-3, atol=0), "and something of its own"


def test_pass_from_timms_weights_with_the_recipes_fields(tmp_path: Path) -> None:
    config = start(pass_from_timm(tmp_path, cameras=True, fusion="mean", neck=None, mean=(0.1, 0.2, 0.3))).config
    assert isinstance(config, PassVitConfig)
    assert (config.cameras, config.camera_coefficient) == (4, PassVitConfig().camera_coefficient)
    assert (config.fusion, config.neck, config.preprocessing.mean) == ("mean", "multi", (0.1, 0.2, 0.3))


def test_a_transreid_with_cameras_for_pass_keeps_their_coefficient(tmp_path: Path) -> None:
    folder = save_pretrained(tiny_model(TINY_CONFIGS["transreid_vit"]), tmp_path / "model")
    config = start(ModelSpec(backbone="pass_vit_small", weights=str(folder)), cameras=3).config
    assert isinstance(config, PassVitConfig)
    assert (config.cameras, config.camera_coefficient, config.depth) == (3, 3.0, 3)


def test_timms_weights_alone_are_a_plain_vit(tmp_path: Path) -> None:
    config = start(pass_from_timm(tmp_path, backbone=None, fusion=None, neck="single")).config
    assert isinstance(config, TransReidConfig)
    assert (config.neck, config.image_size) == ("single", (64, 32))


@pytest.mark.parametrize("backbone", ["clip_vit_base", "clip_resnet50", "osnet_x1_0"])
def test_timms_weights_for_no_other_backbone(backbone: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"is a transreid_vit, and model.backbone '{backbone}' a "):
        start(pass_from_timm(tmp_path, backbone=backbone))


@pytest.mark.parametrize("family", ["clip_vit", "clip_resnet", "osnet"])
def test_no_other_weights_for_pass(family: str, tmp_path: Path) -> None:
    folder = save_pretrained(tiny_model(TINY_CONFIGS[family]), tmp_path / "model")
    with pytest.raises(ConfigError, match=rf"is a {family}, and model.backbone 'pass_vit_small' a pass_vit;"):
        start(ModelSpec(backbone="pass_vit_small", weights=str(folder)))


def test_weights_that_do_not_fit_the_recipe(tmp_path: Path) -> None:
    folder = save_pretrained(tiny_model(TINY_CONFIGS["pass_vit"]), tmp_path / "model")
    with pytest.raises(CheckpointError, match=r"the weights do not fit the recipe's model"):
        start(ModelSpec(weights=str(folder), width=128))


def test_weights_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises((HubError, CheckpointError), match="gone"):
        start(ModelSpec(weights=str(tmp_path / "gone.pth")))


def test_convolutional() -> None:
    found = {family: is_convolutional(config) for family, config in TINY_CONFIGS.items()}
    assert found == {
        "pass_vit": False,
        "transreid_vit": False,
        "clip_vit": False,
        "clip_resnet": True,
        "osnet": True,
    }
    assert is_convolutional(OsnetConfig()) and not is_convolutional(ClipVitConfig())
