"""CLIP-ReID's RN50: the last stage keeps its size, and the positions fit the map."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny import TINY_CONFIGS, embed, tiny_images, tiny_model

from modelscope_reid.config import ClipResNetConfig, Preprocessing

CONFIG = TINY_CONFIGS["clip_resnet"]


def test_features_are_pooled_maps_and_the_attention_token() -> None:
    model = tiny_model(CONFIG)
    backbone, maps = model.backbone, {}
    for name in ("layer3", "layer4"):
        getattr(backbone, name).register_forward_hook(lambda module, _, out, name=name: maps.update({name: out}))
    with torch.inference_mode():
        third, fourth, token = backbone(tiny_images(CONFIG), None)
    # Stem /4, layer2 /2, layer3 /2, layer4 /1: 64x32 ends as 4 x 2. Width 8: 16 and 32 times as many channels.
    assert maps["layer3"].shape == (2, 128, 4, 2)
    assert maps["layer4"].shape == (2, 256, 4, 2)
    torch.testing.assert_close(third, maps["layer3"].flatten(2).mean(2))
    torch.testing.assert_close(fourth, maps["layer4"].flatten(2).mean(2))
    assert token.shape == (2, 16)
    assert backbone.feature_dims == (128, 256, 16)
    assert torch.equal(embed(model), torch.cat((fourth, token), dim=1))


@pytest.mark.parametrize("size", [(64, 32), (63, 31), (79, 47), (80, 50), (16, 16), (15, 15)])
def test_any_size_has_as_many_positions_as_cells(size: tuple[int, int]) -> None:
    config = dataclasses.replace(CONFIG, preprocessing=Preprocessing(image_size=size))
    assert isinstance(config, ClipResNetConfig)
    model, maps = tiny_model(config), {}
    model.backbone.layer4.register_forward_hook(lambda module, _, out: maps.update(shape=out.shape[2:]))
    assert embed(model).shape == (2, 256 + 16)
    assert tuple(maps["shape"]) == config.grid
    assert model.backbone.attnpool.positional_embedding.shape == (1 + config.grid[0] * config.grid[1], 256)


def test_camera_ids_are_ignored() -> None:
    model = tiny_model(CONFIG)
    assert torch.equal(embed(model, camera_ids=torch.tensor([0, 99])), embed(model))


def test_attention_sees_positions() -> None:
    model = tiny_model(CONFIG)
    before = embed(model)
    model.backbone.attnpool.positional_embedding.data[3] += 1.0
    after = embed(model)
    assert torch.equal(after[:, :256], before[:, :256])  # the pooled half knows no positions
    assert (after[:, 256:] - before[:, 256:]).abs().max() > 1e-4
