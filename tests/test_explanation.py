"""Explanations: the model's own attention in its own order, patches that agree, and the picture of both."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from tiny import TINY_CONFIGS, tiny_model

from modelscope_reid.config import ModelConfig, Preprocessing, VitConfig
from modelscope_reid.embedder import Embedder
from modelscope_reid.errors import ImageError, InputError
from modelscope_reid.explanation import (
    Explanation,
    Pair,
    activation_shares,
    attention_weights,
    draw_explanation,
    explain,
)
from modelscope_reid.models.reid_model import ReidModel
from modelscope_reid.preprocess import to_batch
from modelscope_reid.runtimes.torch_runtime import TorchRuntime

ASSETS = Path(__file__).parents[1] / "assets"
A, B = ASSETS / "person01_camera1.png", ASSETS / "person02_camera2.png"
VITS = {name: config for name, config in TINY_CONFIGS.items() if isinstance(config, VitConfig)}
TOKENS = {"pass_vit": ("class", "part 1", "part 2", "part 3"), "transreid_vit": ("class",), "clip_vit": ("class",)}


def embedder_of(model: ReidModel) -> Embedder:
    return Embedder(TorchRuntime(model, "cpu"), model.config)


def tiny_embedder(config: ModelConfig) -> Embedder:
    return embedder_of(tiny_model(config))


@pytest.mark.parametrize("family", VITS)
def test_an_explanation_has_its_shapes_and_belongs_to_the_embeddings(family: str) -> None:
    embedder = tiny_embedder(VITS[family])
    seen = explain(embedder, A, B)
    tokens = TOKENS[family]
    assert seen.token_names == tokens and seen.grid == (4, 2)  # 64x32 pixels, patches of 16
    assert seen.attention.shape == (2, len(tokens), len(tokens) + 8) and seen.attention.min() > 0
    np.testing.assert_allclose(seen.attention.sum(axis=2), 1, atol=1e-5)
    assert seen.attention_maps.shape == (2, len(tokens), 4, 2)
    assert seen.patch_similarities.shape == (8, 8) and seen.crops.shape == (2, 64, 32, 3)
    vectors = embedder.embed([A, B], normalize=True)
    assert seen.similarity == pytest.approx(float(vectors[0] @ vectors[1]), abs=1e-5)
    assert seen.names == (str(A), str(B))


@pytest.mark.parametrize("family", VITS)
def test_a_crop_agrees_best_with_itself(family: str) -> None:
    seen = explain(tiny_embedder(VITS[family]), A, A)
    assert seen.similarity == pytest.approx(1, abs=1e-5)
    np.testing.assert_array_equal(seen.patch_similarities.argmax(axis=1), np.arange(8))
    np.testing.assert_allclose(np.diag(seen.patch_similarities), 1, atol=1e-5)
    np.testing.assert_array_equal(seen.attention[0], seen.attention[1])
    assert all(pair.a == pair.b for pair in seen.best_pairs())


def test_swapped_crops_give_the_swapped_explanation() -> None:
    embedder = tiny_embedder(VITS["pass_vit"])
    one, other = explain(embedder, A, B), explain(embedder, B, A)
    np.testing.assert_allclose(one.attention, other.attention[::-1], atol=1e-6)
    np.testing.assert_allclose(one.patch_similarities, other.patch_similarities.T, atol=1e-5)
    assert {(pair.a, pair.b) for pair in one.best_pairs()} == {(pair.b, pair.a) for pair in other.best_pairs()}


@pytest.mark.parametrize("family", VITS)
def test_attention_weights_times_values_are_what_the_block_computes(family: str) -> None:
    """One head, so that the mean over heads is that head; timm's fused attention is the other side."""
    attention = tiny_model(VITS[family]).backbone.blocks[-1].attn
    tokens = torch.randn(3, 11, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        qkv = attention.qkv(tokens)
        weights = attention_weights(attention, qkv)
        torch.testing.assert_close(attention.proj(weights @ qkv[:, :, 128:]), attention(tokens))


def test_heads_are_averaged() -> None:
    """Two heads of 64: the first one's keys and queries are zero, so it looks everywhere alike: 1/4 each.

    The second one's queries and keys make every token look at token 2 alone: 0, 0, 1, 0.
    The mean is 1/8, 1/8, 5/8, 1/8.
    """
    config = dataclasses.replace(VITS["transreid_vit"], width=128)
    attention = tiny_model(config).backbone.blocks[-1].attn
    qkv = torch.zeros(1, 4, 3, 2, 64)
    qkv[0, :, 0, 1] = 100.0
    qkv[0, 2, 1, 1] = 100.0
    weights = attention_weights(attention, qkv.reshape(1, 4, 384))
    torch.testing.assert_close(weights[0], torch.tensor([0.125, 0.125, 0.625, 0.125]).expand(4, 4))


def pointing_model(config: VitConfig, targets: dict[int, int]) -> ReidModel:
    """A model that does not look at the image: prefix token i attends to patch targets[i], and to nothing else.

    Token n enters the last block as its position, the unit vector e_n, which the norm makes about 8 e_n. Keys are the
    tokens; the query of i is the unit vector of its target, times 8. So score = 8 * 8 / sqrt(64) = 8 there, and about
    0 elsewhere: attention e^8 / (e^8 + 11) = 0.996 of 12 tokens.
    """
    model = ReidModel.with_seed(config)
    backbone: Any = model.backbone
    prefix = backbone.num_prefix_tokens
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if "norm" not in name and name != "projection":
                parameter.zero_()
        count = backbone.pos_embed.shape[1]
        backbone.pos_embed[0, :, :count] = torch.eye(count)
        weight = backbone.blocks[-1].attn.qkv.weight
        for token, patch in targets.items():
            weight[prefix + patch, token] = 1.0
        weight[64:128] = torch.eye(64)
    return model


@pytest.mark.parametrize(
    ("family", "targets"),
    [("pass_vit", {0: 5, 1: 0, 2: 3, 3: 6}), ("transreid_vit", {0: 7}), ("clip_vit", {0: 4})],
)
def test_tokens_come_in_the_models_order(family: str, targets: dict[int, int]) -> None:
    seen = explain(embedder_of(pointing_model(VITS[family], targets)), A, B)
    for token, patch in targets.items():
        row, column = divmod(patch, 2)  # the grid is 4 x 2
        for side in (0, 1):
            heat = seen.attention_maps[side, token]
            assert heat[row, column] == heat.max() > 0.98, seen.token_names[token]


def red_seeing_model(config: VitConfig) -> ReidModel:
    """A model whose class token attends to red patches and nothing else.

    The first number of a patch is its red minus its green, 0 where the crop is grey; the norm makes a red patch
    about (8, 0, …) and leaves a grey one 0. The class token's query is (8, 0, …): score 8 on red, 0 on grey.
    """
    model = ReidModel.with_seed(config)
    backbone: Any = model.backbone
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if "norm" not in name and name != "projection":
                parameter.zero_()
        backbone.patch_embed.proj.weight[0, 0], backbone.patch_embed.proj.weight[0, 1] = 1.0, -1.0
        attention = backbone.blocks[-1].attn.qkv
        attention.bias[0] = 8.0
        attention.weight[64, 0] = 1.0
        backbone.norm.bias[1] = 1.0  # or a grey patch would have no direction
    return model


def grey_with_red(row: int, column: int, *, patch: int = 16, stride: int = 16) -> Image.Image:
    image = Image.new("RGB", (32, 64), (128, 128, 128))
    image.paste((255, 0, 0), (column * stride, row * stride, column * stride + patch, row * stride + patch))
    return image


@pytest.mark.parametrize("family", VITS)
def test_a_map_shows_the_place_in_the_image(family: str) -> None:
    seen = explain(embedder_of(red_seeing_model(VITS[family])), grey_with_red(3, 0), grey_with_red(1, 1))
    for heat, place in zip(seen.attention_maps[:, 0], ((3, 0), (1, 1)), strict=True):
        assert np.unravel_index(heat.argmax(), heat.shape) == place
        assert heat[place] > 0.98
    np.testing.assert_allclose(seen.patch_similarities[6, 3], 1, atol=1e-5)  # red and red
    assert seen.patch_similarities[6, 0] < 0.5  # red and grey


def test_overlapping_patches_have_their_grid() -> None:
    config = dataclasses.replace(VITS["pass_vit"], stride=12)
    embedder = embedder_of(red_seeing_model(config))
    # (64 - 16) // 12 + 1 = 5 rows, (32 - 16) // 12 + 1 = 2 columns; a red square over patch (4, 1) touches (3, 1) too
    seen = explain(embedder, grey_with_red(4, 1, stride=12), A)
    assert seen.grid == (5, 2) and seen.attention_maps.shape == (2, 4, 5, 2)
    heat = seen.attention_maps[0, 0]
    assert heat[3:, :].sum() > 0.98 and heat[4, 1] > 0.2


def test_cameras_reach_a_camera_aware_model_and_wrong_ones_are_refused() -> None:
    embedder = tiny_embedder(VITS["transreid_vit"])
    seen = explain(embedder, A, B, camera_ids=(0, 2))
    vectors = embedder.embed([A, B], normalize=True, camera_ids=[0, 2])
    assert seen.similarity == pytest.approx(float(vectors[0] @ vectors[1]), abs=1e-5)
    assert (seen.attention != explain(embedder, A, B).attention).any()
    with pytest.raises(InputError, match="cameras 0 to 2"):
        explain(embedder, A, B, camera_ids=(0, 3))


def test_arrays_in_blue_green_red_order() -> None:
    embedder = tiny_embedder(VITS["pass_vit"])
    rgb = np.asarray(Image.open(A).convert("RGB"))
    seen = explain(embedder, rgb[:, :, ::-1], rgb[:, :, ::-1], channel_order="bgr")
    np.testing.assert_array_equal(seen.crops[0], explain(embedder, A, A).crops[0])


def test_the_model_stays_as_it_was() -> None:
    embedder = tiny_embedder(VITS["pass_vit"])
    before = embedder.embed([A])
    explain(embedder, A, B)
    assert isinstance(embedder.runtime, TorchRuntime)
    assert not any(module._forward_hooks for module in embedder.runtime.model.modules())
    np.testing.assert_array_equal(embedder.embed([A]), before)


@pytest.mark.parametrize(("family", "layer"), [("osnet", "conv5"), ("clip_resnet", "layer4")])
def test_a_convolutional_network_shows_its_last_map(family: str, layer: str) -> None:
    embedder, model, maps = tiny_embedder(TINY_CONFIGS[family]), tiny_model(TINY_CONFIGS[family]), []
    seen = explain(embedder, A, B)
    getattr(model.backbone, layer).register_forward_hook(lambda module, inputs, output: maps.append(output))
    with torch.inference_mode():
        model(torch.from_numpy(to_batch(list(seen.crops), model.config.preprocessing)))
    vectors = embedder.embed([A, B], normalize=True)
    assert seen.looks == "activation" and seen.token_names == ("pooled",)
    cells = maps[0].sum(dim=1)  # (2, rows, columns)
    assert seen.grid == tuple(cells.shape[1:]) and seen.stride * seen.grid[0] == seen.crops.shape[1]
    expected = cells / cells.sum(dim=(1, 2), keepdim=True)
    np.testing.assert_allclose(seen.attention_maps[:, 0], expected.numpy(), atol=1e-5)
    assert seen.attention[:, 0, 0].tolist() == [0, 0]
    assert seen.similarity == pytest.approx(float(vectors[0] @ vectors[1]), abs=1e-5)
    assert all(pair.a == pair.b for pair in explain(embedder, A, A).best_pairs())
    assert list(seen.to_dict()["activation"]) == ["pooled"]


def test_shares_of_activation_by_hand() -> None:
    cells = torch.tensor([[[1.0, 1.0], [2.0, 0.0], [0.0, 0.0], [3.0, 1.0]], [[0.0, 0.0]] * 4])
    assert activation_shares(cells).tolist() == [[[0, 0.25, 0.25, 0, 0.5]], [[0, 0, 0, 0, 0]]]


def test_a_map_of_activation_is_drawn(tmp_path: Path) -> None:
    draw_explanation(explain(tiny_embedder(TINY_CONFIGS["osnet"]), A, B), tmp_path / "seen.png")
    with Image.open(tmp_path / "seen.png") as picture:
        assert picture.height == 840


def test_another_runtime_is_refused_by_name() -> None:
    class Engine:
        name = "engine"

        def run(self, images: NDArray[np.float32], camera_ids: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
            raise AssertionError

    with pytest.raises(InputError, match="runs in Engine"):
        explain(Embedder(Engine(), VITS["pass_vit"]), A, B)


def test_an_image_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"gone\.png"):
        explain(tiny_embedder(VITS["pass_vit"]), A, tmp_path / "gone.png")


# Pairs and the picture, from explanations made by hand


def explanation(attention_a: list[float], attention_b: list[float], similarities: Any, **changed: Any) -> Explanation:
    """One class token and a grid of 4 x 1 unless changed; attention as given, what is left to 1 stays on the token."""
    attention = np.array([[[1 - sum(row), *row]] for row in (attention_a, attention_b)], np.float32)
    plain: dict[str, Any] = {
        "names": ("a.png", "b.png"),
        "crops": np.full((2, 64, 16, 3), 128, np.uint8),
        "similarity": 0.5,
        "token_names": ("class",),
        "grid": (len(attention_a), 1),
        "patch_size": 16,
        "stride": 16,
        "attention": attention,
        "patch_similarities": np.array(similarities, np.float32),
    }
    return Explanation(**{**plain, **changed})


def test_pairs_are_mutual_attended_and_apart() -> None:
    """Eight patches, the upper four attended in a, all but the same four in b's lower half.

    Half of each crop counts: a's patches 0 to 3, b's patches 4 to 7. Among them the best are
    0-4 (0.9), 1-5 (0.8, beside 0-4: not shown), 2-7 (0.7), 3-7 (0.6, but 7 prefers 2). 7-0 (1.0) is not attended.
    """
    similarities = np.zeros((8, 8))
    for a, b, value in ((0, 4, 0.9), (1, 5, 0.8), (2, 7, 0.7), (3, 7, 0.6), (7, 0, 1.0)):
        similarities[a, b] = value
    seen = explanation([0.2] * 4 + [0.01] * 4, [0.01] * 4 + [0.2] * 4, similarities)
    expected = (((0, 0), (4, 0), 0.9), ((2, 0), (7, 0), 0.7))
    assert [(pair.a, pair.b, pytest.approx(pair.similarity)) for pair in seen.best_pairs()] == list(expected)
    assert seen.best_pairs(1) == seen.best_pairs()[:1]
    assert isinstance(seen.best_pairs()[0], Pair)


def test_one_patch_is_its_own_pair() -> None:
    seen = explanation([0.5], [0.5], [[0.25]])
    assert seen.best_pairs() == (Pair(a=(0, 0), b=(0, 0), similarity=0.25),)


def test_plain_values_for_machines() -> None:
    values = json.loads(json.dumps(explain(tiny_embedder(VITS["pass_vit"]), A, B).to_dict()))
    assert list(values) == ["names", "similarity", "grid", "attention", "pairs"]
    assert list(values["attention"]) == list(TOKENS["pass_vit"])
    assert np.shape(values["attention"]["part 2"]["b"]) == (4, 2)
    assert set(values["pairs"][0]) == {"a", "b", "similarity"}


@pytest.mark.parametrize(
    "changed",
    [
        {"grid": (2, 1)},
        {"token_names": ("class", "part 1")},
        {"patch_similarities": np.zeros((4, 3), np.float32)},
        {"crops": np.zeros((1, 64, 16, 3), np.uint8)},
    ],
)
def test_pieces_that_do_not_fit_are_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="expected"):
        explanation([0.2] * 4, [0.2] * 4, np.eye(4), **changed)


def pixels(path: Path) -> NDArray[np.int16]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(np.int16)


def test_the_picture_is_840_high_and_as_wide_as_its_tokens_need(tmp_path: Path) -> None:
    """Crops 2:1 are 320 wide: 40 + 320 + 190 + 320 + 70, then 148 per map, 16 between maps, 40."""
    for family, maps in (("pass_vit", 4), ("clip_vit", 1)):
        draw_explanation(explain(tiny_embedder(VITS[family]), A, B), tmp_path / f"{family}.png")
        assert pixels(tmp_path / f"{family}.png").shape == (840, 940 + maps * 164 - 16 + 40, 3)


def test_heat_is_drawn_where_the_attention_is(tmp_path: Path) -> None:
    """Class token on patch 5 in both crops, row 2 of 4, column 1 of 2; part 1 on patch 0, 2 on 3, 3 on 6."""
    targets = {0: 5, 1: 0, 2: 3, 3: 6}
    grey = Image.new("RGB", (32, 64), (128, 128, 128))
    seen = explain(embedder_of(pointing_model(VITS["pass_vit"], targets)), grey, grey)
    draw_explanation(seen, tmp_path / "maps.png")
    picture = pixels(tmp_path / "maps.png")
    for token, patch in targets.items():
        left = 940 + token * 164
        for top in (150, 150 + 640 - 296):
            cells = picture[top : top + 296, left : left + 148].reshape(4, 74, 2, 74, 3)
            warmth = (cells[..., 0] - cells[..., 2]).mean(axis=(1, 3))
            assert np.unravel_index(warmth.argmax(), (4, 2)) == divmod(patch, 2)
            assert warmth.max() > 60 > 30 > np.delete(warmth.ravel(), patch).max()


def test_crops_stand_side_by_side_and_pairs_are_outlined(tmp_path: Path) -> None:
    """Four patches of 160 pixels in a picture of 640; the two attended ones that agree are 0 and 3."""
    similarities = np.zeros((4, 4))
    similarities[0, 3] = 0.9
    crops = np.stack([np.full((64, 16, 3), 60, np.uint8), np.full((64, 16, 3), 200, np.uint8)])
    seen = explanation([0.4, 0.3, 0, 0], [0, 0, 0.3, 0.4], similarities, crops=crops)
    draw_explanation(seen, tmp_path / "pair.png")
    picture = pixels(tmp_path / "pair.png")
    first, second = picture[150:790, 40:200], picture[150:790, 390:550]
    for crop, grey, rows in ((first, 60, slice(0, 160)), (second, 200, slice(480, 640))):
        touched = (crop != grey).any(axis=2)
        assert touched[rows, 10:140].any() and touched[rows].mean() > 0.05
        touched[max(rows.start - 6, 0) : rows.stop + 6] = False
        assert not touched.any(), "the rest of the crop is as it was"


def test_the_picture_follows_the_data(tmp_path: Path) -> None:
    similarities = np.eye(4)

    def draw(*, attention: list[float] | None = None, **changed: Any) -> NDArray[np.int16]:
        seen = explanation(attention or [0.4, 0.3, 0.1, 0.1], [0.4, 0.3, 0.1, 0.1], similarities, **changed)
        draw_explanation(seen, tmp_path / "picture.png")
        return pixels(tmp_path / "picture.png")

    def changes(other: NDArray[np.int16]) -> tuple[NDArray[np.intp], ...]:
        return np.nonzero((plain != other).any(axis=2))

    plain = draw()
    np.testing.assert_array_equal(draw(), plain)
    assert 0 < changes(draw(similarity=0.6))[0].max() < 70, "the title"
    names = changes(draw(names=("some/where/c.png", "b.png")))
    assert names[0].max() < 150 and names[1].max() < 390, "A's name"
    heat = changes(draw(attention=[0.4, 0.3, 0.0, 0.2]))
    assert heat[1].min() > 600 and heat[0].max() < 490, "A's map and its figure"


def test_a_long_name_and_no_matter_what_is_in_it(tmp_path: Path) -> None:
    seen = explanation([0.2] * 4, [0.2] * 4, np.eye(4), names=("x" * 300 + "$", "$\\frac{$"))
    draw_explanation(seen, tmp_path / "picture.png")
    assert pixels(tmp_path / "picture.png").shape[0] == 840


def test_a_crop_of_another_shape_and_a_stride_that_does_not_divide_it(tmp_path: Path) -> None:
    config = dataclasses.replace(VITS["clip_vit"], preprocessing=Preprocessing(image_size=(70, 50)), stride=12)
    draw_explanation(explain(tiny_embedder(config), A, B), tmp_path / "picture.png")
    width = 40 + 2 * round(640 * 50 / 70) + 190 + 70 + round(296 * 50 / 70) + 40
    assert pixels(tmp_path / "picture.png").shape == (840, width, 3)


def test_a_picture_that_is_no_png_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"does not end in \.png"):
        draw_explanation(explanation([0.2] * 4, [0.2] * 4, np.eye(4)), tmp_path / "picture.pdf")
    assert not list(tmp_path.iterdir())
