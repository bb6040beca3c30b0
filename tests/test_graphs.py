"""Graphs: every backbone and layout through OpenVINO and ONNX Runtime gives PyTorch's embeddings, for any batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from layouts import LAYOUTS, assert_same, batch_for
from tiny import TINY_CONFIGS, tiny_model

from modelscope_reid.models.reid_model import ReidModel
from modelscope_reid.runtimes import camera_count
from modelscope_reid.runtimes.graphs import OPSET, to_openvino, write_onnx
from modelscope_reid.runtimes.onnx_runtime import OnnxRuntime
from modelscope_reid.runtimes.openvino_runtime import OpenVinoRuntime


def plain(model: ReidModel, images: np.ndarray, camera_ids: np.ndarray | None) -> np.ndarray:
    cameras = None if camera_ids is None else torch.from_numpy(camera_ids)
    with torch.inference_mode():
        return model(torch.from_numpy(images), cameras).numpy()


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_openvino_and_onnx_give_the_embeddings_of_pytorch(layout: str, tmp_path: Path) -> None:
    config = LAYOUTS[layout]
    model = tiny_model(config)
    batches = [batch_for(config, count) for count in (1, 37)]
    expected = [plain(model, *batch) for batch in batches]
    write_onnx(model, tmp_path / "model.onnx")
    engines = (
        OpenVinoRuntime(to_openvino(model), config=config, fingerprint="f", threads=1),
        OnnxRuntime(tmp_path / "model.onnx", config=config, fingerprint="f", threads=1),
    )
    for engine in engines:
        for batch, embeddings in zip(batches, expected, strict=True):
            assert_same(engine.run(*batch), embeddings)
        images = batches[1][0]
        if camera_count(config):
            assert_same(engine.run(images), plain(model, images, None))
            assert np.abs(expected[1] - plain(model, images, None)).max() > 0.01, "the cameras make no difference"
        assert engine.run(images[:0]).shape == (0, config.embedding_dim)
    for batch, embeddings in zip(batches, expected, strict=True):  # and the model is what it was
        assert np.array_equal(plain(model, *batch), embeddings)
    assert not any(module.training for module in model.modules())


def test_the_onnx_file_states_its_names_sizes_and_opset(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    write_onnx(tiny_model(TINY_CONFIGS["clip_vit"]), tmp_path / "model.onnx")
    proto = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(proto)
    assert [entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")] == [OPSET]
    sizes = {
        port.name: [axis.dim_param or axis.dim_value for axis in port.type.tensor_type.shape.dim]
        for port in (*proto.graph.input, *proto.graph.output)
    }
    assert sizes["images"] == ["batch", 3, 64, 32] and sizes["camera_ids"] == ["batch"]
    assert sizes["embeddings"][0] == "batch" and len(sizes["embeddings"]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
