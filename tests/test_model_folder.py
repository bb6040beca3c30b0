"""What is saved is what is opened again; a folder is written whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from published import PUBLISHED
from safetensors import safe_open
from safetensors.torch import load_file
from tiny import TINY_CONFIGS, embed, tiny_images, tiny_model

from modelscope_reid.config import ModelConfig, PassVitConfig, Preprocessing, TransReidConfig
from modelscope_reid.configuration import fits_stock
from modelscope_reid.errors import CheckpointError, ConfigError, InputError
from modelscope_reid.models.checkpoints import OWN_ORIGIN, load_checkpoint
from modelscope_reid.models.model_folder import convert_checkpoint, save_pretrained

OTHER = Preprocessing(image_size=(64, 32), mean=(0.1, 0.2, 0.3), std=(0.7, 0.8, 0.9), interpolation="bicubic")
VARIANTS: dict[str, ModelConfig] = {
    **TINY_CONFIGS,
    "pass_vit_after_mean": PassVitConfig(
        width=64, depth=1, preprocessing=OTHER, num_classes=3, neck="single", fusion="mean", neck_feature="after"
    ),
    "transreid_bare": TransReidConfig(width=64, depth=1, preprocessing=OTHER, neck="none"),
    "clip_vit_1536": dataclasses.replace(TINY_CONFIGS["clip_vit"], layout="1536", stride=12),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", VARIANTS)
def test_round_trip_is_exact(name: str, tmp_path: Path) -> None:
    model = tiny_model(VARIANTS[name])
    folder = save_pretrained(model, tmp_path / "new" / "folder")
    assert sorted(path.name for path in folder.iterdir()) == ["configuration.json", "model.safetensors"]
    for source in (folder, folder / "model.safetensors"):  # the file's metadata makes it enough
        opened, report = load_checkpoint(source)
        assert opened.config == model.config
        assert (report.origin, report.renamed, report.left_out, report.notes) == (OWN_ORIGIN, (), (), ())
        assert torch.equal(embed(opened), embed(model))
        assert opened.state_dict().keys() == model.state_dict().keys()
        assert all(torch.equal(tensor, model.state_dict()[key]) for key, tensor in opened.state_dict().items())


def test_saving_again_replaces_the_folder_and_leaves_nothing_else(tmp_path: Path) -> None:
    save_pretrained(tiny_model(TINY_CONFIGS["pass_vit"]), tmp_path)
    model = tiny_model(TINY_CONFIGS["osnet"])
    save_pretrained(model, tmp_path)
    assert torch.equal(embed(load_checkpoint(tmp_path)[0]), embed(model))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["configuration.json", "model.safetensors"]


def test_configuration_and_weights_of_two_models_do_not_open(tmp_path: Path) -> None:
    one = save_pretrained(tiny_model(TINY_CONFIGS["pass_vit"]), tmp_path / "one")
    two = save_pretrained(tiny_model(TINY_CONFIGS["osnet"]), tmp_path / "two")
    (two / "configuration.json").replace(one / "configuration.json")
    with pytest.raises(CheckpointError, match="the weights do not fit"):
        load_checkpoint(one)


@pytest.mark.slow
def test_pass_vit_base_is_written_under_the_published_names_too(tmp_path: Path) -> None:
    config = PassVitConfig(num_classes=7, neck_feature="after")
    assert fits_stock(config)
    model = tiny_model(config)
    save_pretrained(model, tmp_path)
    stock = torch.load(tmp_path / "pytorch_model.pt", weights_only=True)
    published = {name for name in PUBLISHED["pass_vit"](model) if not name.startswith("base.fc.")}
    assert set(stock) == published
    assert stock["base.pos_embed"].shape == (1, 128, 768)
    (tmp_path / "model.safetensors").unlink()
    opened, report = load_checkpoint(tmp_path)
    assert report.origin == "PASS (ModelScope, PASS-reID)"
    assert opened.config == config
    assert torch.equal(embed(opened), embed(model))


LITTLE_ROOM = """
import resource, signal, sys
sys.path.insert(0, {tests!r})
from tiny import TINY_CONFIGS, tiny_model
from modelscope_reid import InputError, save_pretrained
model = tiny_model(TINY_CONFIGS["pass_vit"])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
for folder in {folders!r}:
    try:
        save_pretrained(model, folder)
    except InputError as error:
        print(error)
"""


def test_full_disk_is_one_error_and_the_old_folder_stays(tmp_path: Path) -> None:
    # No file may grow beyond 20 kB here, as on a full disk; the weights are about 450 kB.
    model = tiny_model(TINY_CONFIGS["osnet"])
    new, old = tmp_path / "new", save_pretrained(model, tmp_path / "old")
    program = LITTLE_ROOM.format(tests=str(Path(__file__).parent), folders=[str(new), str(old)])
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.count("model.safetensors cannot be written") == 2
    assert list(new.iterdir()) == []
    assert sorted(path.name for path in old.iterdir()) == ["configuration.json", "model.safetensors"]
    assert torch.equal(embed(load_checkpoint(old)[0]), embed(model))


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    model = tiny_model(TINY_CONFIGS["osnet"])
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="cannot be made"):
            save_pretrained(model, folder)
    assert (tmp_path / "file").read_text() == "x"


def test_a_name_that_is_taken_by_a_folder(tmp_path: Path) -> None:
    (tmp_path / "configuration.json").mkdir()
    with pytest.raises(InputError, match=r"configuration\.json cannot be written"):
        save_pretrained(tiny_model(TINY_CONFIGS["osnet"]), tmp_path)
    assert not list(tmp_path.glob(".*"))


def test_convert_gives_a_clip_vit_the_1536_layout(tmp_path: Path) -> None:
    model = tiny_model(TINY_CONFIGS["clip_vit"])
    torch.save(PUBLISHED["clip_vit"](model), tmp_path / "x.pth")
    report = convert_checkpoint(tmp_path / "x.pth", tmp_path / "wide")
    with torch.inference_mode():
        last, pooled, projected = model.backbone(tiny_images(model.config), None)
    assert report.config.embedding_dim == 128
    assert report.origin == "CLIP-ReID ViT"
    assert torch.equal(embed(load_checkpoint(tmp_path / "wide")[0]), torch.cat((last, pooled), dim=1))
    convert_checkpoint(tmp_path / "x.pth", tmp_path / "published", layout="clip-reid")
    assert torch.equal(embed(load_checkpoint(tmp_path / "published")[0]), torch.cat((pooled, projected), dim=1))
    assert torch.equal(embed(model), torch.cat((pooled, projected), dim=1))


@pytest.mark.parametrize("family", [family for family in TINY_CONFIGS if family != "clip_vit"])
def test_convert_leaves_the_other_families_as_they_are(family: str, tmp_path: Path) -> None:
    model = tiny_model(TINY_CONFIGS[family])
    torch.save(PUBLISHED[family](model), tmp_path / "x.pth")
    convert_checkpoint(tmp_path / "x.pth", tmp_path / "folder", image_size=(64, 32))
    opened, _ = load_checkpoint(tmp_path / "folder")
    assert opened.config == model.config
    assert torch.equal(embed(opened), embed(model))
    with safe_open(tmp_path / "folder" / "model.safetensors", "pt") as file:
        assert json.loads(file.metadata()["modelscope_reid"]) == model.config.to_dict()


def test_convert_writes_nothing_where_the_layouts_cannot_be_joined(tmp_path: Path) -> None:
    config = dataclasses.replace(TINY_CONFIGS["clip_vit"], neck_feature="after")
    save_pretrained(tiny_model(config), tmp_path / "after")
    with pytest.raises(ConfigError, match="layout '1536' has no neck"):
        convert_checkpoint(tmp_path / "after", tmp_path / "wide")
    assert not (tmp_path / "wide").exists()


@pytest.mark.parametrize("family", TINY_CONFIGS)
def test_half_precision_and_no_classifier_keep_the_embedding(family: str, tmp_path: Path) -> None:
    model = tiny_model(TINY_CONFIGS[family])
    save_pretrained(model, tmp_path, dtype="float16", classifier=False)
    opened, report = load_checkpoint(tmp_path)
    assert report.notes == () and report.left_out == ()
    assert opened.config == dataclasses.replace(model.config, num_classes=0)
    whole = model.state_dict()
    assert (
        {name for name in whole if name not in opened.state_dict()}
        == {name for name in whole if "classifier" in name}
        != set()
    )
    for name, tensor in opened.state_dict().items():  # float32 again, rounded once
        assert tensor.dtype == whole[name].dtype
        assert torch.equal(tensor, whole[name].half().float() if tensor.is_floating_point() else whole[name])
    torch.testing.assert_close(embed(opened), embed(model), rtol=0.02, atol=0.02)
    assert not torch.equal(embed(opened), embed(model)), "float16 rounds, or nothing was halved"
    stored = load_file(tmp_path / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} <= {torch.float16, torch.int64}
    exact = save_pretrained(model, tmp_path / "exact", classifier=False)
    assert torch.equal(embed(load_checkpoint(exact)[0]), embed(model))


def test_a_weight_too_large_for_half_precision_is_refused(tmp_path: Path) -> None:
    model = tiny_model(TINY_CONFIGS["osnet"])
    name, parameter = next(iter(model.named_parameters()))
    parameter.data.flatten()[0] = 65_520.0  # the least that rounds beyond float16's 65,504
    with pytest.raises(InputError, match=rf"{name} has numbers beyond 65504, .*save as float32"):
        save_pretrained(model, tmp_path / "half", dtype="float16")
    assert not list((tmp_path).glob("half/*"))
    parameter.data.flatten()[0] = 65_519.0
    save_pretrained(model, tmp_path / "half", dtype="float16")
