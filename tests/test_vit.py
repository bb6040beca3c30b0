"""The vision transformers: overlapping patches, camera embeddings and token order, worked out by hand."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny import TINY_CONFIGS, embed, tiny_images, tiny_model
from torch.nn import functional

from modelscope_reid.config import ClipVitConfig, PassVitConfig, Preprocessing, TransReidConfig, VitConfig
from modelscope_reid.errors import InputError
from modelscope_reid.models.reid_model import ReidModel
from modelscope_reid.models.vit import CameraEmbedding, OverlapPatchEmbed, ReidVit


def test_overlapping_patches_are_a_convolution_with_a_stride() -> None:
    # One channel, 4 x 6 pixels numbered 0..23 row by row, patches of 2 x 2 with stride 1 sideways and down; the
    # weight adds the patch's four pixels. (4 - 2) // 1 + 1 = 3 rows, (6 - 2) // 1 + 1 = 5 columns.
    # Patch (r, c) starts at pixel p = 6 r + c and sums p + (p + 1) + (p + 6) + (p + 7) = 4 p + 14.
    embed_patches = OverlapPatchEmbed(stride=1, img_size=(4, 6), patch_size=2, in_chans=1, embed_dim=1)
    assert (embed_patches.grid_size, embed_patches.num_patches) == ((3, 5), 15)
    with torch.no_grad():
        embed_patches.proj.weight.fill_(1.0)
        embed_patches.proj.bias.zero_()
        tokens = embed_patches(torch.arange(24.0).reshape(1, 1, 4, 6))
    expected = [4.0 * (6 * row + column) + 14 for row in range(3) for column in range(5)]
    assert tokens.shape == (1, 15, 1)
    assert tokens.flatten().tolist() == expected


def test_a_remainder_of_pixels_is_left_out() -> None:
    # 5 pixels across, patches of 2 with stride 2: (5 - 2) // 2 + 1 = 2 columns; the fifth column is never seen.
    embed_patches = OverlapPatchEmbed(stride=2, img_size=(2, 5), patch_size=2, in_chans=1, embed_dim=1)
    with torch.no_grad():
        embed_patches.proj.weight.fill_(1.0)
        embed_patches.proj.bias.zero_()
        image = torch.tensor([[0.0, 1, 2, 3, 100], [4, 5, 6, 7, 100]]).reshape(1, 1, 2, 5)
        assert embed_patches(image).flatten().tolist() == [0 + 1 + 4 + 5, 2 + 3 + 6 + 7]


def camera_embedding() -> CameraEmbedding:
    camera = CameraEmbedding(cameras=3, width=2, coefficient=10.0)
    camera.weight.data = torch.tensor([[1.0, 2.0], [3.0, 4.0], [8.0, 0.0]])
    return camera


def test_camera_rows_are_scaled_and_unknown_cameras_are_the_mean() -> None:
    # Mean of the rows: ((1 + 3 + 8) / 3, (2 + 4 + 0) / 3) = (4, 2); everything times 10.
    camera = camera_embedding()
    assert camera(torch.tensor([2, 0, -1]), 3).tolist() == [[[80.0, 0.0]], [[10.0, 20.0]], [[40.0, 20.0]]]
    assert camera(None, 2).tolist() == [[[40.0, 20.0]], [[40.0, 20.0]]]


@pytest.mark.parametrize(
    ("camera_ids", "message"),
    [
        ([0, 3], r"camera_ids holds \[0, 3\]; this model knows cameras 0 to 2, and -1 for an unknown one"),
        ([-2, 0], r"holds \[-2, 0\]"),
        ([0], r"camera_ids has shape \(1,\); expected \(2,\)"),
        ([0, 1, 2], r"shape \(3,\); expected \(2,\)"),
        ([[0, 1]], r"shape \(1, 2\); expected \(2,\)"),
    ],
)
def test_camera_ids_that_do_not_fit(camera_ids: list, message: str) -> None:
    with pytest.raises(InputError, match=message):
        camera_embedding()(torch.tensor(camera_ids), 2)


@pytest.mark.parametrize("family", ["transreid_vit", "clip_vit"])
def test_cameras_change_the_embedding_of_their_image_alone(family: str) -> None:
    model = tiny_model(TINY_CONFIGS[family])
    unknown = embed(model)
    assert torch.equal(embed(model, camera_ids=torch.tensor([-1, -1])), unknown)
    one = embed(model, camera_ids=torch.tensor([-1, 2]))
    torch.testing.assert_close(one[0], unknown[0])
    assert (one[1] - unknown[1]).abs().max() > 1e-4
    for camera_ids in ([0, 3], [0], [-2, 0]):
        with pytest.raises(InputError, match="camera_ids"):
            embed(model, camera_ids=torch.tensor(camera_ids))


@pytest.mark.parametrize(
    # TransReID adds the camera to every token, CLIP-ReID to the class token only; 64x32 is 8 patches.
    ("family", "changed"), [("transreid_vit", [True] * 9), ("clip_vit", [True] + [False] * 8)],
)  # fmt: skip
def test_which_tokens_the_camera_is_added_to(family: str, changed: list[bool]) -> None:
    model = tiny_model(TINY_CONFIGS[family])
    backbone = model.backbone
    assert isinstance(backbone, ReidVit)
    entered = {}
    first = backbone.norm_pre if family == "clip_vit" else backbone.blocks[0]
    first.register_forward_pre_hook(lambda module, inputs: entered.update(tokens=inputs[0]))
    images = tiny_images(model.config)
    embed(model, images, torch.tensor([0, 0]))
    zero = entered["tokens"]
    embed(model, images, torch.tensor([2, 2]))
    difference = entered["tokens"] - zero
    assert [bool(token.abs().max() > 1e-6) for token in difference[0]] == changed
    weight, coefficient = backbone.camera_embedding.weight, model.config.camera_coefficient
    torch.testing.assert_close(difference[0, 0], coefficient * (weight[2] - weight[0]).detach(), atol=1e-5, rtol=1e-4)
    assert coefficient == {"transreid_vit": 3.0, "clip_vit": 1.0}[family]


def test_a_model_without_cameras_ignores_them() -> None:
    model = tiny_model(TINY_CONFIGS["pass_vit"])
    assert torch.equal(embed(model, camera_ids=torch.tensor([99, -7])), embed(model))


def test_pass_tokens_are_class_then_parts_then_patches() -> None:
    # Without blocks' attention nothing mixes: a token's feature is the norm of what it is and where it is.
    model = tiny_model(TINY_CONFIGS["pass_vit"])
    backbone = model.backbone
    assert isinstance(backbone, ReidVit)
    backbone.blocks = torch.nn.ModuleList()
    with torch.inference_mode():
        features = backbone(tiny_images(model.config, 1), None)
    prefix = torch.cat((backbone.cls_token, backbone.reg_token), dim=1)[0] + backbone.pos_embed[0, :4]
    expected = functional.layer_norm(prefix, (64,), backbone.norm.weight, backbone.norm.bias, eps=1e-6)
    assert len(features) == 4
    for token, feature in enumerate(features):
        torch.testing.assert_close(feature[0], expected[token].detach())


def test_norms_and_activations_are_the_published_ones() -> None:
    for family, epsilon in (("pass_vit", 1e-6), ("transreid_vit", 1e-6), ("clip_vit", 1e-5)):
        norms = [m for m in tiny_model(TINY_CONFIGS[family]).modules() if isinstance(m, torch.nn.LayerNorm)]
        assert {norm.eps for norm in norms} == {epsilon}
    quick = tiny_model(TINY_CONFIGS["clip_vit"]).backbone.blocks[0].mlp.act
    # QuickGELU is x * sigmoid(1.702 x): at 1, 1 / (1 + exp(-1.702)) = 0.845796.
    assert quick(torch.tensor(1.0)).item() == pytest.approx(0.845796, abs=1e-6)
    exact = tiny_model(TINY_CONFIGS["pass_vit"]).backbone.blocks[0].mlp.act
    assert exact(torch.tensor(1.0)).item() == pytest.approx(0.841345, abs=1e-6)  # the normal distribution's at 1


def test_clip_features_are_before_and_after_the_last_block_and_projected() -> None:
    model = tiny_model(TINY_CONFIGS["clip_vit"])
    backbone = model.backbone
    entered = {}
    backbone.blocks[-1].register_forward_pre_hook(lambda module, inputs: entered.update(tokens=inputs[0]))
    with torch.inference_mode():
        last, pooled, projected = backbone(tiny_images(model.config), None)
        assert torch.equal(last, entered["tokens"][:, 0])
        assert torch.equal(pooled, backbone.norm(backbone.blocks[-1](entered["tokens"])[:, 0]))
        assert torch.equal(projected, pooled @ backbone.projection)
    assert [tuple(feature.shape) for feature in (last, pooled, projected)] == [(2, 64), (2, 64), (2, 32)]
    assert backbone.feature_dims == (64, 64, 32)


@pytest.mark.parametrize("kind", [PassVitConfig, TransReidConfig, ClipVitConfig])
@pytest.mark.parametrize(("stride", "patches"), [(16, 4 * 2), (12, 5 * 2), (8, 7 * 3)])
def test_positions_cover_every_token(kind: type[VitConfig], stride: int, patches: int) -> None:
    # 64x32: (64 - 16) // 12 + 1 = 5, (32 - 16) // 12 + 1 = 2; (64 - 16) // 8 + 1 = 7, (32 - 16) // 8 + 1 = 3.
    config = kind(width=64, depth=2, stride=stride, preprocessing=Preprocessing(image_size=(64, 32)))
    model = tiny_model(config)
    prefix = 4 if kind is PassVitConfig else 1
    assert model.backbone.pos_embed.shape == (1, prefix + patches, 64)
    assert embed(model).shape == (2, config.embedding_dim)


def test_drop_path_acts_in_training_only() -> None:
    config = dataclasses.replace(TINY_CONFIGS["pass_vit"], drop_path=0.5)
    model = tiny_model(config)
    assert torch.equal(embed(model), embed(model))
    assert torch.equal(embed(model), embed(_filled_like(model)))
    torch.manual_seed(0)
    model.train()
    images = tiny_images(config, 16)
    assert not torch.equal(embed(model, images), embed(model, images))


def _filled_like(model: ReidModel) -> ReidModel:
    other = tiny_model(TINY_CONFIGS["pass_vit"], seed=9)
    other.load_state_dict(model.state_dict())
    return other
