"""ModelScope's `Exporter` on our models, and its `pipeline` on what was exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import TINY_CONFIGS
from tiny_exports import exported, model_folder

from modelscope_reid import Embedder, InputError

pytest.importorskip("modelscope")

CROPS = sorted(str(path) for path in (Path(__file__).parents[1] / "assets").glob("*.png"))[:3]


@pytest.fixture(scope="module")
def exporter() -> Any:
    from modelscope.exporters import Exporter
    from modelscope.models import Model

    import modelscope_reid.modelscope_plugin  # noqa: F401  # registers

    return Exporter.from_model(Model.from_pretrained(str(model_folder("pass_vit")), use_hf=False))


def open_pipeline(folder: Path, **options: Any) -> Any:
    from modelscope.pipelines import pipeline

    import modelscope_reid.modelscope_plugin  # noqa: F401  # registers

    return pipeline("image-reid-person", model=str(folder), **options)


def test_the_exporter_writes_folders_that_the_pipeline_opens(exporter: Any, tmp_path: Path) -> None:
    expected = Embedder.from_pretrained(model_folder("pass_vit"), device="cpu").embed(CROPS)
    for export, name in ((exporter.export_onnx, "model.onnx"), (exporter.export_openvino, "model.xml")):
        paths = export(tmp_path / name)
        assert paths["model"] == str(tmp_path / name / name) and Path(paths["configuration"]).is_file()
        assert exporter.report.passed
        reid = open_pipeline(tmp_path / name, device="cpu")
        found = np.concatenate([output["img_embedding"] for output in reid(CROPS)])
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_the_exporter_takes_precisions_and_refuses_other_operators(exporter: Any, tmp_path: Path) -> None:
    exporter.export_openvino(tmp_path / "half", precision="fp16")
    assert exporter.report.precision == "fp16"
    with pytest.raises(InputError, match="opset is 13; this model is exported with 18"):
        exporter.export_onnx(tmp_path / "old", opset=13)


def test_the_pipeline_of_an_export_with_cameras_and_batches() -> None:
    folder = exported("clip_vit", "openvino")
    reid = open_pipeline(folder, batch_size=2)
    assert reid.embedder.runtime.name == "openvino on cpu"
    outputs = reid(CROPS, camera_ids=[0, 1, 2])
    expected = Embedder.from_pretrained(folder).embed(CROPS, camera_ids=[0, 1, 2])
    np.testing.assert_allclose([output["img_embedding"][0] for output in outputs], expected, rtol=1e-4, atol=1e-5)
    assert reid(CROPS[0])["img_embedding"].shape == (1, TINY_CONFIGS["clip_vit"].embedding_dim)


def test_the_pipeline_takes_a_runtime_and_a_precision() -> None:
    plain = open_pipeline(model_folder("pass_vit"), device="cpu")
    other = open_pipeline(model_folder("pass_vit"), runtime="openvino", precision="bf16")
    assert plain.embedder.runtime.name == "torch on cpu" and plain.embedder.runtime.precision == "fp32"
    assert other.embedder.runtime.name == "openvino on cpu"
    assert other.embedder.runtime.fingerprint == plain.embedder.runtime.fingerprint
    with pytest.raises(ValueError, match="is exported for openvino, and runtime is 'torch'"):
        open_pipeline(exported("clip_vit", "openvino"), runtime="torch")


def test_modelscopes_model_refuses_an_export_clearly() -> None:
    from modelscope.models import Model

    with pytest.raises(ValueError, match="is an exported folder, which has no PyTorch model; open it by pipeline"):
        Model.from_pretrained(str(exported("clip_vit", "openvino")), use_hf=False)
