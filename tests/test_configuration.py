"""configuration.json: the stock schema and ours, read and written."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from tiny import TINY_CONFIGS

from modelscope_reid.config import BACKBONES, ModelConfig, PassVitConfig, Preprocessing
from modelscope_reid.configuration import (
    config_from_stock,
    configuration_for,
    fits_stock,
    read_configuration,
    read_section,
)
from modelscope_reid.errors import ConfigError

# The keys that ModelScope 1.40.2 reads, with the values of the hub's Market model as compatibility.md tells them.
STOCK: dict[str, Any] = {
    "framework": "pytorch",
    "task": "image-reid-person",
    "pipeline": {"type": "passvitb-image-reid-person"},
    "model": {
        "type": "passvitb",
        "cfg": {
            "INPUT": {
                "SIZE_TRAIN": [384, 128],
                "SIZE_TEST": [384, 128],
                "PIXEL_MEAN": [0.5, 0.5, 0.5],
                "PIXEL_STD": [0.5, 0.5, 0.5],
            },
            "MODEL": {
                "SIE_COE": 3.0,
                "STRIDE_SIZE": [16, 16],
                "DROP_PATH": 0.1,
                "DROP_OUT": 0.0,
                "ATT_DROP_RATE": 0.0,
                "GEM_POOLING": False,
                "STEM_CONV": False,
                "DROPOUT_RATE": 0.0,
                "MULTI_NECK": True,
                "FEAT_FUSION": "cat",
            },
            "TEST": {"NECK_FEAT": "before"},
            "DATASETS": {"NUM_CLASSES": 751},
        },
    },
}
NEEDED = (
    ("INPUT", "SIZE_TEST"), ("INPUT", "PIXEL_MEAN"), ("INPUT", "PIXEL_STD"), ("MODEL", "STRIDE_SIZE"),
    ("MODEL", "DROP_PATH"), ("MODEL", "GEM_POOLING"), ("MODEL", "STEM_CONV"), ("MODEL", "MULTI_NECK"),
    ("MODEL", "FEAT_FUSION"), ("TEST", "NECK_FEAT"), ("DATASETS", "NUM_CLASSES"),
)  # fmt: skip


def changed(section: str, key: str, value: Any) -> dict[str, Any]:
    stock = copy.deepcopy(STOCK)
    assert key in stock["model"]["cfg"][section]
    stock["model"]["cfg"][section][key] = value
    return stock


def test_stock_schema_is_read() -> None:
    expected = PassVitConfig(preprocessing=Preprocessing(image_size=(384, 128)), num_classes=751, drop_path=0.1)
    assert config_from_stock(STOCK) == expected
    other = copy.deepcopy(STOCK)
    cfg = other["model"]["cfg"]
    cfg["INPUT"] |= {"SIZE_TEST": [256, 128], "PIXEL_MEAN": [0.1, 0.2, 0.3], "PIXEL_STD": [0.4, 0.5, 0.6]}
    cfg["MODEL"] |= {"STRIDE_SIZE": 12, "MULTI_NECK": False, "FEAT_FUSION": "mean", "DROP_PATH": 0}
    cfg["TEST"]["NECK_FEAT"], cfg["DATASETS"]["NUM_CLASSES"] = "after", 1041
    assert config_from_stock(other) == PassVitConfig(
        preprocessing=Preprocessing(image_size=(256, 128), mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)),
        num_classes=1041, stride=12, neck="single", fusion="mean", neck_feature="after",
    )  # fmt: skip


@pytest.mark.parametrize(("section", "key"), NEEDED)
def test_every_needed_key_is_missed_by_name(section: str, key: str) -> None:
    for take in (lambda cfg: cfg[section].pop(key), lambda cfg: cfg.pop(section)):
        stock = copy.deepcopy(STOCK)
        take(stock["model"]["cfg"])
        with pytest.raises(ConfigError, match=rf"lacks model\.cfg\.{section}\.\w+, which the stock schema"):
            config_from_stock(stock)


def test_keys_that_do_not_change_an_embedding_may_be_missing() -> None:
    stock = copy.deepcopy(STOCK)
    for section, values in stock["model"]["cfg"].items():
        for key in [key for key in values if (section, key) not in NEEDED]:
            del values[key]
    assert config_from_stock(stock) == config_from_stock(STOCK)


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("INPUT", "SIZE_TEST", 256, "image_size is 256"),
        ("INPUT", "SIZE_TEST", [256, 128, 3], "image_size is"),
        ("INPUT", "PIXEL_MEAN", "0.5", "mean is '0.5'"),
        ("INPUT", "PIXEL_STD", [0.5, 0.5, 0], "std is"),
        ("MODEL", "STRIDE_SIZE", [16, 12], r"STRIDE_SIZE is \[16, 12\]; expected the same stride"),
        ("MODEL", "STRIDE_SIZE", [], r"STRIDE_SIZE is \[\]"),
        ("MODEL", "STRIDE_SIZE", None, "stride is None"),
        ("MODEL", "DROP_PATH", "no", "drop_path is 'no'"),
        ("MODEL", "GEM_POOLING", True, "GEM_POOLING is on; no published checkpoint uses it"),
        ("MODEL", "STEM_CONV", True, "STEM_CONV is on"),
        ("MODEL", "FEAT_FUSION", "sum", "fusion is 'sum'; expected one of 'cat', 'mean'"),
        ("TEST", "NECK_FEAT", None, "neck_feature is None"),
        ("DATASETS", "NUM_CLASSES", "many", "num_classes is 'many'; expected a whole number"),
    ],
)
def test_wrong_values_are_config_errors(section: str, key: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_from_stock(changed(section, key, value))


def test_fits_stock_is_pass_vit_base_with_neck_and_classes() -> None:
    fitting = PassVitConfig(num_classes=751)
    assert fits_stock(fitting)
    for change in (
        {"width": 384}, {"depth": 11}, {"patch_size": 8}, {"cameras": 6}, {"neck": "none"}, {"num_classes": 0},
        {"preprocessing": Preprocessing(interpolation="bicubic")},
    ):  # fmt: skip
        assert not fits_stock(dataclasses.replace(fitting, **change)), change
    for change in ({"stride": 12}, {"neck": "single"}, {"fusion": "mean"}, {"neck_feature": "after"}):
        assert fits_stock(dataclasses.replace(fitting, **change)), change
    assert not fits_stock(BACKBONES["clip_vit_base"])


def test_what_fits_stock_is_written_in_both_schemas() -> None:
    config = PassVitConfig(
        preprocessing=Preprocessing(image_size=(384, 128), mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)),
        num_classes=751, stride=12, neck="single", fusion="mean", neck_feature="after", drop_path=0.1,
    )  # fmt: skip
    written = json.loads(json.dumps(configuration_for(config)))
    assert (written["model"]["type"], written["pipeline"]["type"]) == ("passvitb", "passvitb-image-reid-person")
    assert config_from_stock(written) == config
    cfg = written["model"]["cfg"]
    assert {section: set(values) for section, values in cfg.items()} == {
        section: set(values) for section, values in STOCK["model"]["cfg"].items()
    }


@pytest.mark.parametrize("config", TINY_CONFIGS.values(), ids=TINY_CONFIGS.keys())
def test_what_does_not_fit_is_written_in_ours_alone(config: ModelConfig, tmp_path: Path) -> None:
    written = configuration_for(config)
    assert (written["model"]["type"], written["pipeline"]["type"]) == ("modelscope-reid", "modelscope-reid")
    assert (written["task"], written["framework"]) == ("image-reid-person", "pytorch")
    assert "cfg" not in written["model"]
    assert not {"plugins", "allow_remote"} & set(written)
    (tmp_path / "configuration.json").write_text(json.dumps(written))
    assert read_configuration(tmp_path) == (config, True)


def test_what_fits_stock_is_ours_alone_where_plain_modelscope_finds_no_weights() -> None:
    configuration = configuration_for(PassVitConfig(num_classes=3), stock=False)
    assert (configuration["model"]["type"], configuration["pipeline"]["type"]) == ("modelscope-reid",) * 2
    assert "cfg" not in configuration["model"]


def test_a_section_is_an_object_or_not_there(tmp_path: Path) -> None:
    assert read_section(tmp_path, "export") is None
    path = tmp_path / "configuration.json"
    path.write_text('{"export": {"format": "onnx"}, "verification": 3}')
    assert read_section(tmp_path, "export") == {"format": "onnx"}
    assert read_section(tmp_path, "model") is None
    with pytest.raises(ConfigError, match="section 'verification': expected an object"):
        read_section(tmp_path, "verification")


def test_read_configuration_tells_the_schemas_apart(tmp_path: Path) -> None:
    path = tmp_path / "configuration.json"
    path.write_text(json.dumps(STOCK))
    assert read_configuration(tmp_path) == (config_from_stock(STOCK), False)
    both = configuration_for(PassVitConfig(num_classes=3))
    path.write_text(json.dumps(both))
    assert read_configuration(tmp_path) == (PassVitConfig(num_classes=3), True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not valid JSON"),
        (b"{'model': 1}", "is not valid JSON"),
        (b"\xff\xfe\x00", "is not valid JSON"),
        (b"[]", "has no section 'model'"),
        (b"{}", "has no section 'model'"),
        (b'{"model": "passvitb"}', "has no section 'model'"),
        (b'{"model": {"type": "resnet50"}}', "of type 'resnet50'; expected 'passvitb' or 'modelscope-reid'"),
        (b'{"model": {}}', "is for a model of type None"),
        (b'{"model": {"type": "passvitb"}}', r"lacks model\.cfg\.MODEL\.GEM_POOLING"),
        (b'{"model": {"type": "passvitb", "cfg": []}}', r"lacks model\.cfg\.MODEL\.GEM_POOLING"),
        (b'{"model": {"reid": null}}', "family is None"),
        (b'{"model": {"reid": {"family": "osnet", "chanels": [1]}}}', "did you mean 'channels'"),
    ],
)  # fmt: skip
def test_broken_files_are_config_errors(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "configuration.json").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_configuration(tmp_path)


def test_no_file_and_a_folder_in_its_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no configuration\.json; pass the weight file itself"):
        read_configuration(tmp_path)
    (tmp_path / "configuration.json").mkdir()
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_configuration(tmp_path)
