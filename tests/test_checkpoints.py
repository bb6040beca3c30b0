"""Files under their published names, opened: the embedding is that of the model that was saved, to the bit."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from published import (
    PUBLISHED,
    State,
    clip_image_state,
    clip_reid_state,
    openai_text,
    osnet_state,
    pass_state,
    timm_vit,
)
from safetensors.torch import save_file
from tiny import TINY_CONFIGS, embed, tiny_images, tiny_model
from torch import Tensor, nn
from torch.nn import functional

from modelscope_reid.config import ModelConfig, PassVitConfig, Preprocessing, TransReidConfig
from modelscope_reid.errors import CheckpointError, ConfigError, InputError
from modelscope_reid.models.checkpoints import LoadReport, Resampled, load_checkpoint
from modelscope_reid.models.clip_text import PromptedText
from modelscope_reid.models.reid_model import ReidModel

SMALL = (64, 32)
ORIGINS = {
    "pass_vit": "PASS (ModelScope, PASS-reID)",
    "transreid_vit": "TransReID",
    "clip_vit": "CLIP-ReID ViT",
    "clip_resnet": "CLIP-ReID RN50",
    "osnet": "OSNet (torchreid)",
}


def open_state(content: Any, folder: Path, **options: Any) -> tuple[ReidModel, LoadReport]:
    torch.save(content, folder / "weights.pth")
    return load_checkpoint(folder / "weights.pth", **options)


def small(family: str) -> dict[str, Any]:
    """Options that open the tiny model of the family at its size, which an OSNet's shapes do not tell."""
    return {"image_size": SMALL} if family == "osnet" else {}


@pytest.mark.parametrize("family", TINY_CONFIGS)
def test_every_family_gives_the_embeddings_it_was_saved_with(family: str, tmp_path: Path) -> None:
    model = tiny_model(TINY_CONFIGS[family])
    state = PUBLISHED[family](model)
    opened, report = open_state(state, tmp_path, **small(family))
    assert torch.equal(embed(opened), embed(model))
    assert not opened.training
    assert {tensor.dtype for tensor in opened.parameters()} == {torch.float32}
    assert report.origin == ORIGINS[family]
    assert report.loaded + len(report.left_out) == len(state)
    assert report.source == str(tmp_path / "weights.pth")
    assert report.resampled == ()


@pytest.mark.parametrize("family", TINY_CONFIGS)
def test_wrapped_lightning_checkpoint(family: str, tmp_path: Path) -> None:
    model = tiny_model(TINY_CONFIGS[family])
    state = {f"model.{name}": tensor for name, tensor in PUBLISHED[family](model).items()}
    opened, report = open_state({"state_dict": state, "epoch": 59, "callbacks": {}}, tmp_path, **small(family))
    assert torch.equal(embed(opened), embed(model))
    assert report.unwrapped == ("state_dict", "model.")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    model = tiny_model(TINY_CONFIGS["pass_vit"])
    state = {n: t.to(dtype) if t.is_floating_point() else t for n, t in pass_state(model).items()}
    opened, _ = open_state(state, tmp_path)
    assert {t.dtype for t in opened.state_dict().values()} == {torch.float32, torch.int64}
    rounded = {name: tensor.to(dtype).float() for name, tensor in model.state_dict().items()}
    model.load_state_dict(rounded)
    assert torch.equal(embed(opened), embed(model))


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "MSMT17_clipreid.pth"])
def test_a_folder_without_configuration_is_its_weight_file(name: str, tmp_path: Path) -> None:
    model = tiny_model(TINY_CONFIGS["clip_resnet"])
    state = clip_reid_state(model)
    save_file(state, tmp_path / name) if name.endswith("safetensors") else torch.save(state, tmp_path / name)
    opened, report = load_checkpoint(tmp_path)
    assert torch.equal(embed(opened), embed(model))
    assert report.source == str(tmp_path / name)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_self_supervised_pass_as_dino_saves_it(prefix: str, tmp_path: Path) -> None:
    config = PassVitConfig(width=64, depth=2, preprocessing=Preprocessing(image_size=SMALL), neck="none")
    model = tiny_model(config)
    teacher = {prefix + name: tensor for name, tensor in pass_state(model, "backbone.").items()}
    teacher |= {f"{prefix}head.mlp.0.weight": torch.ones(2, 2), f"{prefix}head.last_layer.weight_g": torch.ones(3, 1)}
    student = {name: torch.zeros_like(tensor) for name, tensor in teacher.items()}
    content = {
        "student": student,
        "teacher": teacher,
        "epoch": 100,
        "args": argparse.Namespace(arch="vit_small", lr=5e-4),
    }
    opened, report = open_state(content, tmp_path)
    assert torch.equal(embed(opened), embed(model))
    assert report.unwrapped == ("teacher", prefix) if prefix else ("teacher",)
    assert dict(report.left_out) == dict.fromkeys(
        ("head.mlp.0.weight", "head.last_layer.weight_g"), "the self-supervised head, used in pre-training only"
    )


def test_transreid_with_jpm_runs_the_last_block_and_norm_of_its_global_branch(tmp_path: Path) -> None:
    model = tiny_model(TINY_CONFIGS["transreid_vit"])
    state = PUBLISHED["transreid_vit"](model)
    assert state["base.sie_embed"].shape == (3, 1, 64)
    global_branch = tiny_model(TINY_CONFIGS["transreid_vit"], seed=5).backbone
    global_norm = 1 + 0.1 * torch.randn(64, generator=torch.Generator().manual_seed(1))
    for name, tensor in global_branch.blocks[-1].state_dict().items():
        state[f"b1.0.{name}"], state[f"b2.0.{name}"] = tensor, tensor + 1
    for branch, weight in (("b1", global_norm), ("b2", global_norm + 1)):
        state[f"{branch}.1.weight"], state[f"{branch}.1.bias"] = weight, torch.zeros(64)
    for local in (1, 2, 3, 4):
        state[f"bottleneck_{local}.weight"] = torch.ones(64)
        state[f"classifier_{local}.weight"] = torch.ones(5, 64)
    opened, report = open_state(state, tmp_path)
    assert not torch.equal(embed(opened), embed(model))
    model.backbone.blocks[-1] = global_branch.blocks[-1]
    model.backbone.norm.weight.data, model.backbone.norm.bias.data = global_norm, torch.zeros(64)
    cameras = torch.tensor([2, 0])
    assert torch.equal(embed(opened, camera_ids=cameras), embed(model, camera_ids=cameras))
    left_out = {name for name, _ in report.left_out}
    assert {"base.norm.weight", "base.blocks.2.norm1.weight", "b2.1.weight", "classifier_4.weight"} < left_out
    assert "base.blocks.1.norm1.weight" not in left_out


@pytest.mark.parametrize("family", ["clip_vit", "clip_resnet"])
def test_clip_reid_with_its_text_side_and_the_extra_keys_of_reid_task(family: str, tmp_path: Path) -> None:
    model = tiny_model(TINY_CONFIGS[family])
    image = clip_reid_state(model)
    text = PromptedText(identities=5, width=64, depth=1, projection_dim=32).state_dict()
    extra = {
        "prompt_learner.token_embedding.weight": torch.zeros(9, 64),
        "prompt_learner_stage0.token_embedding.weight": torch.zeros(9, 64),
        "center_criterion.centers": torch.zeros(5, 64),
    }
    lightning = {f"model.{name}": tensor for name, tensor in (image | text).items()} | extra
    if family == "clip_resnet":
        lightning["model.cv_embed"] = torch.zeros(3, 256)  # RN50 has one with SIE, and never adds it
    opened, report = open_state({"state_dict": lightning}, tmp_path)
    assert torch.equal(embed(opened), embed(model))
    left_out = {name for name, _ in report.left_out}
    assert left_out - {"cv_embed"} == set(text) | set(extra)
    if family == "clip_vit":
        assert opened.config == model.config  # three cameras
        cameras = torch.tensor([1, 2])
        assert torch.equal(embed(opened, camera_ids=cameras), embed(model, camera_ids=cameras))
        assert report.notes == ("camera coefficient 1.0 assumed, the published one; no shape tells it",)


@pytest.mark.parametrize("family", ["clip_vit", "clip_resnet"])
@pytest.mark.parametrize("numbers", [True, False], ids=["openai", "open_clip"])
def test_clips_own_state_dict(family: str, numbers: bool, tmp_path: Path) -> None:
    changes = {"cameras": 0} if family == "clip_vit" else {}
    config = dataclasses.replace(TINY_CONFIGS[family], num_classes=0, neck="none", **changes)  # type: ignore[arg-type]
    model = tiny_model(config)
    text = openai_text(numbers=numbers)
    opened, report = open_state(clip_image_state(model, "visual.") | text, tmp_path)
    assert torch.equal(embed(opened), embed(model))
    assert {name for name, _ in report.left_out} == set(text)
    assert ("QuickGELU assumed" in str(report)) == (family == "clip_vit")


@pytest.mark.filterwarnings("ignore")
def test_clip_as_a_torchscript_archive(tmp_path: Path) -> None:
    config = dataclasses.replace(TINY_CONFIGS["clip_vit"], num_classes=0, neck="none", cameras=0)
    model = tiny_model(config)

    def nested(state: dict[str, Tensor]) -> nn.Module:
        module = nn.Module()
        for name in dict.fromkeys(name.partition(".")[0] for name in state):
            inside = {n.partition(".")[2]: t for n, t in state.items() if n.startswith(name + ".")}
            if inside:
                module.add_module(name, nested(inside))
            elif state[name].is_floating_point():
                module.register_parameter(name, nn.Parameter(state[name]))
            else:
                module.register_buffer(name, state[name])
        return module

    archive = torch.jit.script(nested(clip_image_state(model, "visual.") | openai_text()))
    archive.save(str(tmp_path / "ViT-B-16.pt"))
    opened, report = load_checkpoint(tmp_path / "ViT-B-16.pt")
    assert torch.equal(embed(opened), embed(model))
    assert report.origin == "CLIP ViT (OpenAI, open_clip)"


def test_activation_is_told_where_no_shape_can(tmp_path: Path) -> None:
    config = dataclasses.replace(TINY_CONFIGS["clip_vit"], num_classes=0, neck="none", cameras=0, activation="gelu")
    model = tiny_model(config)
    state = clip_image_state(model, "visual.")
    quick, _ = open_state(state, tmp_path)
    exact, report = open_state(state, tmp_path, activation="gelu")
    assert torch.equal(embed(exact), embed(model))
    assert not torch.equal(embed(quick), embed(model))
    assert report.notes == ()


def test_osnet_as_torchreid_saves_it(tmp_path: Path) -> None:
    model = tiny_model(TINY_CONFIGS["osnet"])
    state: State = {f"module.{name}": tensor for name, tensor in osnet_state(model).items()}
    content = {"state_dict": state, "epoch": 150, "rank1": np.float64(0.942), "optimizer": {"param_groups": []}}
    opened, report = open_state(content, tmp_path, image_size=SMALL)
    assert torch.equal(embed(opened), embed(model))
    assert report.config.num_classes == 5
    assert report.left_out == ()


def test_square_positions_of_clip_become_those_of_a_person_crop(tmp_path: Path) -> None:
    square = Preprocessing(image_size=(224, 224))
    config = dataclasses.replace(TINY_CONFIGS["clip_vit"], preprocessing=square, num_classes=0, neck="none", cameras=0)
    state = clip_image_state(tiny_model(config), "visual.")
    opened, report = open_state(state, tmp_path)
    assert report.resampled == (Resampled(name="backbone.pos_embed", old_grid=(14, 14), new_grid=(16, 8)),)
    assert "resampled   backbone.pos_embed: 14x14 -> 16x8 patches" in str(report)
    positions = state["visual.positional_embedding"]
    grid = positions[1:].T.reshape(1, 64, 14, 14)
    expected = functional.interpolate(grid, size=(16, 8), mode="bilinear", align_corners=False)[0].flatten(1).T
    given = opened.state_dict()["backbone.pos_embed"][0]
    assert torch.equal(given[0], positions[0])  # the class token's position stays
    torch.testing.assert_close(given[1:], expected)
    assert opened.config.image_size == (256, 128)
    assert embed(opened).shape == (2, 96)


def test_square_positions_of_rn50s_attention_pool(tmp_path: Path) -> None:
    square = Preprocessing(image_size=(112, 112))  # 7 x 7 cells here, as in CLIP's RN50 at 224 with stride 2
    config = dataclasses.replace(TINY_CONFIGS["clip_resnet"], preprocessing=square, num_classes=0, neck="none")
    state = clip_image_state(tiny_model(config), "visual.")
    opened, report = open_state(state, tmp_path)
    assert [(item.old_grid, item.new_grid) for item in report.resampled] == [((7, 7), (16, 8))]
    assert opened.state_dict()["backbone.attnpool.positional_embedding"].shape == (1 + 128, 256)
    assert embed(opened).shape == (2, 256 + 16)


# timm's plain ViT


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("name", ["vit_small_patch16_224", "vit_base_patch16_224", "deit_small_patch16_224"])
def test_timms_class_token_is_the_embedding(name: str, kind: str, tmp_path: Path) -> None:
    theirs = timm_vit(name, depth=3, embed_dim=128, num_heads=2)
    if kind == "folder":  # as the hub has timm's: its own config.json, and metadata in the weight file
        save_file(theirs.state_dict(), tmp_path / "model.safetensors", metadata={"format": "pt"})
        (tmp_path / "config.json").write_text(json.dumps({"architecture": name, "num_features": 128}))
        opened, report = load_checkpoint(tmp_path)
    else:
        opened, report = open_state(theirs.state_dict(), tmp_path)
    assert opened.config == TransReidConfig(
        width=128, depth=3, neck="none", preprocessing=Preprocessing(image_size=SMALL)
    )
    images = tiny_images(opened.config, count=3)
    with torch.inference_mode():
        expected = theirs.forward_features(images)[:, 0]
    torch.testing.assert_close(embed(opened, images), expected, rtol=0, atol=1e-5)
    assert {m.eps for m in opened.modules() if isinstance(m, nn.LayerNorm)} == {
        m.eps for m in theirs.modules() if isinstance(m, nn.LayerNorm)
    }
    assert report.origin == "ViT (timm)"
    assert dict(report.left_out) == dict.fromkeys(
        ("head.weight", "head.bias"), "the classifier of the images it was trained on"
    )
    assert report.loaded + 2 == len(theirs.state_dict())


def test_timms_square_positions_become_those_of_a_person_crop(tmp_path: Path) -> None:
    state = timm_vit(img_size=224).state_dict()
    opened, report = open_state(state, tmp_path)
    assert report.resampled == (Resampled(name="backbone.pos_embed", old_grid=(14, 14), new_grid=(16, 8)),)
    grid = state["pos_embed"][0, 1:].T.reshape(1, 64, 14, 14)
    expected = functional.interpolate(grid, size=(16, 8), mode="bilinear", align_corners=False)[0].flatten(1).T
    given = opened.state_dict()["backbone.pos_embed"][0]
    assert torch.equal(given[0], state["pos_embed"][0, 0])
    torch.testing.assert_close(given[1:], expected)
    assert opened.config.image_size == (256, 128)
    assert (opened.config.preprocessing.mean, opened.config.preprocessing.std) == ((0.5,) * 3, (0.5,) * 3)


def test_every_single_tensor_of_timms_is_needed(tmp_path: Path) -> None:
    state = timm_vit().state_dict()
    for name in state:
        rest = {other: tensor for other, tensor in state.items() if other != name}
        if name.startswith("head."):
            opened, _ = open_state(rest, tmp_path)
            assert opened.config.num_classes == 0
            continue
        with pytest.raises(CheckpointError, match=f"{name}.* is missing|has no '{name}'|of no known origin"):
            open_state(rest, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reg_tokens": 4}, "register tokens"),
        ({"init_values": 1e-5}, "layer scale"),
        ({"qk_norm": True}, "norms of queries and keys"),
        ({"global_pool": "avg"}, "fc_norm in place of norm"),
    ],
)
def test_timms_other_vits_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"^{tmp_path}/weights\.pth: this is a ViT with .*{message}"):
        open_state(timm_vit(**changes).state_dict(), tmp_path)


@pytest.mark.parametrize("family", TINY_CONFIGS)
def test_another_image_size_on_request(family: str, tmp_path: Path) -> None:
    state = PUBLISHED[family](tiny_model(TINY_CONFIGS[family]))
    opened, report = open_state(state, tmp_path, image_size=(96, 48))
    assert opened.config.image_size == (96, 48)
    assert embed(opened).shape == (2, TINY_CONFIGS[family].embedding_dim)
    # 96x48 is 6 x 3 patches of 16 pixels; an OSNet has no positions.
    assert [item.new_grid for item in report.resampled] == ([] if family == "osnet" else [(6, 3)])
    with pytest.raises(InputError, match=r"expected \(B, 3, 96, 48\)"):
        embed(opened, tiny_images(TINY_CONFIGS[family]))


def test_layout_is_a_clip_vits_alone(tmp_path: Path) -> None:
    model = tiny_model(TINY_CONFIGS["clip_vit"])
    opened, _ = open_state(clip_reid_state(model), tmp_path, layout="1536")
    with torch.inference_mode():
        last, pooled, _ = model.backbone(tiny_images(model.config), None)
    assert torch.equal(embed(opened), torch.cat((last, pooled), dim=1))
    for option in ({"layout": "1536"}, {"activation": "gelu"}):
        with pytest.raises(ConfigError, match=f"{next(iter(option))} was given, but .*pass_vit"):
            open_state(pass_state(tiny_model(TINY_CONFIGS["pass_vit"])), tmp_path, **option)


def test_report_is_plain_json(tmp_path: Path) -> None:
    config: ModelConfig = TINY_CONFIGS["pass_vit"]
    _, report = open_state(pass_state(tiny_model(config)), tmp_path, image_size=(96, 48))
    values = json.loads(json.dumps(report.to_dict()))
    assert values["config"] == {
        **config.to_dict(),
        "preprocessing": {**config.to_dict()["preprocessing"], "image_size": [96, 48]},
    }
    assert values["embedding_dim"] == 128
    assert values["resampled"] == [{"name": "backbone.pos_embed", "old_grid": [4, 2], "new_grid": [6, 3]}]
    assert ["base.fc.bias", "the backbone's ImageNet classifier, which no published code runs"] in values["left_out"]
    assert "left out    2: the backbone's ImageNet classifier" in str(report)
    assert "pass_vit, 128 numbers per image, input 96x48, 5 classes" in str(report)


def test_an_error_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"^{tmp_path}/weights\.pth: .*of no known origin"):
        open_state({"x": torch.ones(1)}, tmp_path)
