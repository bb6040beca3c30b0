"""Exported folders: what they hold, how they open, and one clear error for each that does not."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny import TINY_CONFIGS, tiny_images
from tiny_exports import exported, model_folder

from modelscope_reid import Embedder, __version__
from modelscope_reid.errors import CheckpointError, ConfigError, InputError
from modelscope_reid.runtimes.exported_folder import ExportInfo, open_exported, place_for, read_export

CONFIG = TINY_CONFIGS["clip_vit"]


@pytest.fixture
def openvino_folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported("clip_vit", "openvino"), tmp_path / "openvino"))


@pytest.fixture
def onnx_folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported("clip_vit", "onnx"), tmp_path / "onnx"))


def test_the_folder_says_what_it_is(openvino_folder: Path) -> None:
    info = read_export(openvino_folder)
    assert info is not None
    assert (info.format, info.precision, info.layout) == ("openvino", "fp32", "NCHW RGB")
    assert info.fingerprint == Embedder.from_pretrained(model_folder("clip_vit"), device="cpu").fingerprint
    assert {file.name for file in info.files} == {"model.xml", "model.bin"}
    versions = {package.name: package.version for package in info.versions}
    assert versions["modelscope_reid"] == __version__ and {"torch", "openvino"} <= set(versions)
    assert "cosine mean 1.000000" in str(info) and "model.xml, model.bin: operators opset" in str(info)
    stated = json.loads((openvino_folder / "configuration.json").read_text())
    assert stated["model"] == {"type": "modelscope-reid", "reid": CONFIG.to_dict()}
    assert stated["task"] == "image-reid-person" and stated["export"] == json.loads(json.dumps(info.to_dict()))


def test_a_pass_model_is_not_called_a_stock_one() -> None:
    stated = json.loads((exported("pass_vit", "openvino") / "configuration.json").read_text())
    assert (stated["model"]["type"], stated["pipeline"]["type"]) == ("modelscope-reid", "modelscope-reid")


def test_a_model_folder_is_no_export() -> None:
    assert read_export(model_folder("clip_vit")) is None
    with pytest.raises(InputError, match="is no exported folder; make one with `modelscope-reid export`"):
        open_exported(model_folder("clip_vit"))


def test_what_opens_which(openvino_folder: Path, onnx_folder: Path) -> None:
    images, cameras = tiny_images(CONFIG, 4).numpy(), np.array([-1, 0, 1, 2])
    engines = [
        open_exported(openvino_folder, threads=1)[0],
        open_exported(openvino_folder, runtime="openvino", precision="fp32", threads=1)[0],
        open_exported(onnx_folder, threads=1)[0],
        open_exported(onnx_folder, runtime="openvino", threads=1)[0],
    ]
    assert [engine.name for engine in engines] == [
        "openvino on cpu",
        "openvino on cpu",
        "onnxruntime on cpu",
        "openvino on cpu",
    ]
    assert len({engine.fingerprint for engine in engines}) == 1
    vectors = [engine.run(images, cameras) for engine in engines]
    for other in vectors[1:]:
        np.testing.assert_allclose(other, vectors[0], atol=1e-4 * np.abs(vectors[0]).max())


def test_without_onnx_runtime_openvino_opens_onnx(onnx_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import modelscope_reid.runtimes.exported_folder as module

    monkeypatch.setattr(module, "has_library", lambda name: name == "openvino")
    assert open_exported(onnx_folder, threads=1)[0].name == "openvino on cpu"


def test_other_engines_and_precisions_are_refused(openvino_folder: Path) -> None:
    with pytest.raises(
        InputError, match="is exported for openvino, and runtime is 'torch'; open the model that it was"
    ):
        open_exported(openvino_folder, runtime="torch")
    with pytest.raises(
        InputError, match="is exported in fp32, and precision is 'int8'; leave precision out, or export"
    ):
        open_exported(openvino_folder, precision="int8")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def change(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [cut, change, lambda path: path.write_bytes(b"not a graph")])
@pytest.mark.parametrize("name", ["model.xml", "model.bin", "model.onnx"])
def test_a_damaged_file_is_named(
    name: str, damage: Callable[[Path], None], openvino_folder: Path, onnx_folder: Path
) -> None:
    folder = onnx_folder if name.endswith("onnx") else openvino_folder
    damage(folder / name)
    with pytest.raises(CheckpointError, match=rf"{name} is not the file that was exported"):
        open_exported(folder)


def test_a_missing_file_is_named(openvino_folder: Path) -> None:
    (openvino_folder / "model.bin").unlink()
    with pytest.raises(CheckpointError, match=r"model\.bin cannot be read: No such file"):
        open_exported(openvino_folder)


def test_a_foreign_graph_under_our_name_is_refused(openvino_folder: Path) -> None:
    other = exported("pass_vit", "openvino")
    for name in ("model.xml", "model.bin"):
        shutil.copy(other / name, openvino_folder / name)
    path = openvino_folder / "configuration.json"
    stated = json.loads(path.read_text())
    stated["export"]["files"] = json.loads((other / "configuration.json").read_text())["export"]["files"]
    path.write_text(json.dumps(stated))
    with pytest.raises(CheckpointError, match="expected camera_ids, images and embeddings"):
        open_exported(openvino_folder)


def test_a_section_that_cannot_be_read_is_one_error(openvino_folder: Path) -> None:
    path = openvino_folder / "configuration.json"
    stated = json.loads(path.read_text())
    stated["export"]["precison"] = stated["export"].pop("precision")
    path.write_text(json.dumps(stated))
    with pytest.raises(ConfigError, match="export has an unknown field 'precison'; did you mean 'precision'"):
        open_exported(openvino_folder)
    path.write_text(json.dumps({**stated, "export": [1]}))
    with pytest.raises(ConfigError, match="section 'export': expected an object"):
        read_export(openvino_folder)


def test_where_an_export_may_be_written(openvino_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "new" / "deep", tmp_path / "empty", openvino_folder):
        place_for(folder)
    with pytest.raises(InputError, match="holds other things than an export"):
        place_for(model_folder("clip_vit"))
    with pytest.raises(InputError, match="is a file; name a folder"):
        place_for(openvino_folder / "model.xml")


def test_opening_needs_no_torch(openvino_folder: Path) -> None:
    script = (
        "import sys; from pathlib import Path; sys.modules['torch'] = None\n"
        "from modelscope_reid.runtimes.exported_folder import open_exported\n"
        "from modelscope_reid import Embedder\n"
        "engine, config = open_exported(Path(sys.argv[1]), threads=1)\n"
        "print(engine.name, Embedder.from_pretrained(sys.argv[1], threads=1).embedding_dim)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, str(openvino_folder)], capture_output=True, text=True, check=False
    )
    assert result.stdout == f"openvino on cpu {CONFIG.embedding_dim}\n", result.stderr


def test_info_goes_to_json_and_back(openvino_folder: Path) -> None:
    info = read_export(openvino_folder)
    assert isinstance(info, ExportInfo)
    assert [file.name for file in info.files] == ["model.xml", "model.bin"]
    assert info.parity.crops == "drawn people" and info.parity.passed
