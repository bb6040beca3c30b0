"""ONNX Runtime's runtime: from a file or bytes, and one clear error for each fault."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from layouts import assert_same, batch_for
from tiny import TINY_CONFIGS, tiny_model

from modelscope_reid.errors import CheckpointError, InputError
from modelscope_reid.runtimes.graphs import write_onnx
from modelscope_reid.runtimes.onnx_runtime import OnnxRuntime
from modelscope_reid.runtimes.torch_runtime import TorchRuntime

CONFIG = TINY_CONFIGS["clip_vit"]
MODEL = tiny_model(CONFIG)
GIVEN = {"config": CONFIG, "fingerprint": "f"}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    write_onnx(MODEL, path)
    return path


def test_a_file_and_its_bytes_give_the_same_embeddings(file: Path) -> None:
    batch = batch_for(CONFIG, 4)
    opened, held = OnnxRuntime(file, threads=1, **GIVEN), OnnxRuntime(file.read_bytes(), device="cpu", **GIVEN)
    assert opened.name == "onnxruntime on cpu" and opened.precision == "fp32" and opened.fingerprint == "f"
    assert_same(opened.run(*batch), TorchRuntime(MODEL, "cpu").run(*batch))
    assert_same(held.run(*batch), opened.run(*batch))


@pytest.mark.parametrize("damage", ["text", "empty", "half", "missing"])
def test_a_damaged_file_is_one_clear_error(file: Path, damage: str, tmp_path: Path) -> None:
    content = file.read_bytes()
    path = tmp_path / "model.onnx"
    if damage != "missing":
        path.write_bytes({"text": b"hello", "empty": b"", "half": content[: len(content) // 2]}[damage])
    with pytest.raises(CheckpointError, match=r"model\.onnx cannot be opened by ONNX Runtime: .+; export it again"):
        OnnxRuntime(path, **GIVEN)


def test_a_foreign_graph_and_wrong_arguments_are_clear_errors(file: Path) -> None:
    with pytest.raises(CheckpointError, match="expected images and embeddings: it is no export of this package"):
        OnnxRuntime(file, config=TINY_CONFIGS["pass_vit"], fingerprint="f")
    with pytest.raises(InputError, match=r"device 'gpu' is none of ONNX Runtime's here; expected one of .*cpu"):
        OnnxRuntime(file, device="gpu", **GIVEN)
    for precision in ("bf16", "fp16"):
        with pytest.raises(InputError, match=f"does not compute in {precision} on this device; use runtime 'openvino'"):
            OnnxRuntime(file, precision=precision, **GIVEN)
    with pytest.raises(InputError, match="threads is 0; expected 1 or more"):
        OnnxRuntime(file, threads=0, **GIVEN)


def test_images_and_cameras_are_checked_as_the_model_does(file: Path) -> None:
    runtime = OnnxRuntime(file, **GIVEN)
    images, camera_ids = batch_for(CONFIG, 3)
    assert camera_ids is not None
    with pytest.raises(InputError, match=r"images have shape \(3, 3, 32, 64\); expected \(B, 3, 64, 32\)"):
        runtime.run(images.transpose(0, 1, 3, 2))
    with pytest.raises(InputError, match=r"camera_ids has shape \(2,\); expected \(3,\)"):
        runtime.run(images, camera_ids[:2])
    for wrong in (3, -2):
        with pytest.raises(InputError, match="this model knows cameras 0 to 2, and -1 for an unknown one"):
            runtime.run(images, np.array([0, wrong, 0]))
