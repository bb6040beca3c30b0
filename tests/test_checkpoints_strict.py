"""Nothing is loaded by halves: every misfit raises and is named; and what configuration.json may say about it."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from published import PUBLISHED, pass_state
from safetensors.torch import save_file
from tiny import TINY_CONFIGS, embed, tiny_model
from torch.nn import functional

from modelscope_reid.config import PassVitConfig, Preprocessing
from modelscope_reid.configuration import configuration_for
from modelscope_reid.errors import CheckpointError, ConfigError, ReidError
from modelscope_reid.models.checkpoints import Resampled, load_checkpoint
from modelscope_reid.models.origins import recognise

SHAPES: dict[str, dict[str, list[int]]] = json.loads(
    (Path(__file__).parent / "data" / "state_dict_shapes.json").read_text()
)
PUBLISHED_SHAPES = sorted(SHAPES)
LAST = {"pass": "base.blocks.11.mlp.fc2.weight", "clip": "image_encoder.conv1.weight", "osne": "conv4.1.gate.fc1.bias"}
OURS = {"pass": "backbone.blocks.11.mlp.fc2.weight", "clip": "backbone.patch_embed.proj.weight|backbone.conv1.weight"}


def zeros(model: str) -> dict[str, torch.Tensor]:
    """The published state dict, its values all zero and taking no room: views of one number."""
    return {
        name: torch.zeros((), dtype=torch.int64 if name.endswith("tracked") else torch.float32).expand(shape)
        for name, shape in SHAPES[model].items()
    }


@pytest.mark.parametrize("model", PUBLISHED_SHAPES)
def test_published_names_and_shapes_fit_and_one_misfit_is_named(model: str, tmp_path: Path) -> None:
    path, state = tmp_path / "x.pt", zeros(model)
    torch.save(state, path)
    opened, report = load_checkpoint(path)
    assert report.loaded + len(report.left_out) == len(state)
    assert len(opened.state_dict()) == len({rename.split("#")[0] for _, rename in report.renamed})
    published = LAST[model[:4]]
    ours = OURS.get(model[:4], f"backbone.{published}")
    for change, message in (
        ({published: None}, rf"({ours}) is missing|has no '{published}'"),
        ({published: torch.zeros(3, 5, 7, 2)}, rf"({ours}) has shape \(3, 5, 7, 2\), expected|shape"),
        ({published + ".more": torch.zeros(1)}, r"weight\.more|bias\.more"),
    ):
        changed = {name: tensor for name, tensor in (state | change).items() if tensor is not None}
        torch.save(changed, path)
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(path)


@pytest.mark.parametrize("family", TINY_CONFIGS)
def test_every_single_missing_tensor_raises(family: str, tmp_path: Path) -> None:
    state = PUBLISHED[family](tiny_model(TINY_CONFIGS[family]))
    rename = recognise({name: tuple(t.shape) for name, t in state.items()})
    rename_one = rename.rename({name: tuple(t.shape) for name, t in state.items()})
    skipped = re.compile(r"base\.fc\.|^conv[345]\.|conv2[bcd]|bias|running|tracked")  # the like of what is tried
    mixed = "'base.cls_pos' is no name of a TransReID"  # PASS without its first part token
    tried = 0
    for name in state:
        if skipped.search(name):
            continue
        torch.save({other: tensor for other, tensor in state.items() if other != name}, tmp_path / "x.pt")
        optional = name in ("classifier.weight", "base.sie_embed", "cv_embed")  # without it, a model that has none
        if optional and family != "osnet" and not name.startswith("classifier"):
            assert getattr(load_checkpoint(tmp_path / "x.pt")[1].config, "cameras", 0) == 0
            continue
        if name == "classifier.weight" and family in ("pass_vit", "transreid_vit"):
            assert load_checkpoint(tmp_path / "x.pt")[1].config.num_classes == 0
            continue
        target = (rename_one(name).target or "").split("#")[0]
        with pytest.raises(CheckpointError) as caught:
            load_checkpoint(tmp_path / "x.pt")
        text = str(caught.value)
        short = name.rpartition(".")[2]
        assert target in text or name in text or short in text or "of no known origin" in text or mixed in text, (
            name,
            text,
        )
        tried += 1
    assert tried > 15


@pytest.mark.parametrize("family", TINY_CONFIGS)
def test_wrong_shapes_and_types_raise_our_errors(family: str, tmp_path: Path) -> None:
    state = PUBLISHED[family](tiny_model(TINY_CONFIGS[family]))
    names = [
        name
        for name in state
        if not re.search(r"base\.fc|tracked|running|bias|blocks\.[1-9]|layer[1-4]|^conv[2-5]", name)
    ]
    assert len(names) > 4
    for name in names:
        tensor = state[name]
        for wrong in (torch.tensor(1.0), tensor.reshape(-1), torch.stack((tensor, tensor)), tensor[..., :0]):
            if wrong.shape == tensor.shape:
                continue
            torch.save({**state, name: wrong}, tmp_path / "x.pt")
            with pytest.raises(ReidError):
                load_checkpoint(tmp_path / "x.pt")


def test_whole_numbers_are_no_weights(tmp_path: Path) -> None:
    state = pass_state(tiny_model(TINY_CONFIGS["pass_vit"]))
    torch.save({**state, "base.norm.weight": torch.ones(64, dtype=torch.int8)}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"backbone\.norm\.weight holds torch\.int8, expected torch\.float32"):
        load_checkpoint(tmp_path / "x.pt")


def stock_folder(folder: Path, model_config: PassVitConfig, state: Any, **cfg: Any) -> Path:
    """A model folder as the hub has it: pytorch_model.pt, and the stock schema with `SECTION__KEY` changes."""
    stated = dataclasses.replace(model_config, width=768, depth=12)
    configuration = configuration_for(stated)
    del configuration["model"]["reid"]
    for place, value in cfg.items():
        section, _, key = place.partition("__")
        assert key in configuration["model"]["cfg"][section]
        configuration["model"]["cfg"][section][key] = value
    folder.mkdir(exist_ok=True)
    (folder / "configuration.json").write_text(json.dumps(configuration))
    torch.save(state, folder / "pytorch_model.pt")
    return folder


TINY_PASS = TINY_CONFIGS["pass_vit"]
assert isinstance(TINY_PASS, PassVitConfig)


def test_stock_folder_states_what_no_shape_tells(tmp_path: Path) -> None:
    config = dataclasses.replace(
        TINY_PASS, neck_feature="after", preprocessing=Preprocessing(image_size=(64, 32), mean=(0.4, 0.5, 0.6))
    )
    model = tiny_model(config)
    opened, report = load_checkpoint(stock_folder(tmp_path, config, pass_state(model)))
    assert opened.config == config
    assert torch.equal(embed(opened), embed(model))
    assert report.notes == ()


def test_stated_size_resamples_the_positions(tmp_path: Path) -> None:
    state = pass_state(tiny_model(TINY_PASS))
    opened, report = load_checkpoint(stock_folder(tmp_path, TINY_PASS, state, INPUT__SIZE_TEST=[96, 64]))
    assert report.resampled == (Resampled(name="backbone.pos_embed", old_grid=(4, 2), new_grid=(6, 4)),)
    grid = state["base.pos_embed"][0].T.reshape(1, 64, 4, 2)
    expected = functional.interpolate(grid, size=(6, 4), mode="bilinear", align_corners=False)[0].flatten(1).T
    positions = opened.state_dict()["backbone.pos_embed"][0]
    torch.testing.assert_close(positions[4:], expected)
    assert torch.equal(positions[0], state["base.cls_pos"][0, 0])
    assert torch.equal(positions[3], state["base.part3_pos"][0, 0])


def test_a_size_that_nobody_publishes_needs_a_folder_that_states_it(tmp_path: Path) -> None:
    config = dataclasses.replace(TINY_PASS, preprocessing=Preprocessing(image_size=(80, 112)))  # 5 x 7 patches
    model = tiny_model(config)
    torch.save(pass_state(model), tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"35 patches.*model folder whose configuration\.json states SIZE_TEST"):
        load_checkpoint(tmp_path / "x.pt")
    opened, report = load_checkpoint(stock_folder(tmp_path / "folder", config, pass_state(model)))
    assert report.resampled == ()
    assert torch.equal(embed(opened), embed(model))


def test_counts_are_the_weights_and_every_disagreement_is_noted(tmp_path: Path) -> None:
    model = tiny_model(TINY_PASS)
    folder = stock_folder(
        tmp_path, TINY_PASS, pass_state(model),
        DATASETS__NUM_CLASSES=1041, MODEL__MULTI_NECK=False, MODEL__FEAT_FUSION="mean",
    )  # fmt: skip
    opened, report = load_checkpoint(folder)
    assert opened.config == TINY_PASS
    assert torch.equal(embed(opened), embed(model))
    assert report.notes == (
        "configuration.json states fusion 'mean'; the weights have 'cat'",
        "configuration.json states neck 'single'; the weights have 'multi'",
        "configuration.json states num_classes 1041; the weights have 5",
    )


@pytest.mark.parametrize("key", ["GEM_POOLING", "STEM_CONV"])
def test_what_no_checkpoint_has_is_a_config_error(key: str, tmp_path: Path) -> None:
    folder = stock_folder(tmp_path, TINY_PASS, pass_state(tiny_model(TINY_PASS)), **{f"MODEL__{key}": True})
    with pytest.raises(ConfigError, match=rf"model\.cfg\.MODEL\.{key} is on"):
        load_checkpoint(folder)


def test_configuration_of_another_family(tmp_path: Path) -> None:
    state = PUBLISHED["osnet"](tiny_model(TINY_CONFIGS["osnet"]))
    with pytest.raises(CheckpointError, match="states a pass_vit, but the weights are a osnet's"):
        load_checkpoint(stock_folder(tmp_path, TINY_PASS, state))


def test_image_size_wins_over_the_folder(tmp_path: Path) -> None:
    folder = stock_folder(tmp_path, TINY_PASS, pass_state(tiny_model(TINY_PASS)))
    opened, report = load_checkpoint(folder, image_size=(128, 64))
    assert opened.config.image_size == (128, 64)
    assert [(item.old_grid, item.new_grid) for item in report.resampled] == [((4, 2), (8, 4))]


def test_our_configuration_beside_published_names(tmp_path: Path) -> None:
    config = dataclasses.replace(TINY_CONFIGS["clip_vit"], neck_feature="after", camera_coefficient=2.5)  # type: ignore[arg-type]
    model = tiny_model(config)
    (tmp_path / "configuration.json").write_text(json.dumps(configuration_for(config)))
    save_file(PUBLISHED["clip_vit"](model), tmp_path / "model.safetensors")
    opened, _ = load_checkpoint(tmp_path)
    assert opened.config == config
    assert torch.equal(embed(opened), embed(model))


@pytest.mark.parametrize(
    ("metadata", "error", "message"),
    [
        ("{not json", CheckpointError, "metadata 'modelscope_reid' is not valid JSON"),
        ('{"family": "pass_vits"}', ConfigError, "did you mean 'pass_vit'"),
        ("[1]", ConfigError, "family is"),
    ],
)
def test_broken_metadata_of_a_safetensors_file(
    metadata: str, error: type[Exception], message: str, tmp_path: Path
) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "x.safetensors", metadata={"modelscope_reid": metadata})
    with pytest.raises(error, match=message):
        load_checkpoint(tmp_path / "x.safetensors")
