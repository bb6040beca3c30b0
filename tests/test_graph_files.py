"""Files of graphs: what they say of themselves, and weights in half the bytes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
import torch
from tiny import TINY_CONFIGS, tiny_images, tiny_model

from modelscope_reid.errors import InputError
from modelscope_reid.models.reid_model import ReidModel
from modelscope_reid.runtimes import Runtime
from modelscope_reid.runtimes.exported_folder import ENGINES, GRAPH_FILES, open_graph
from modelscope_reid.runtimes.graph_files import FORMATS, METADATA_KEY
from modelscope_reid.runtimes.graphs import OPSET
from modelscope_reid.runtimes.parity_report import ExportFormat

CONFIG = TINY_CONFIGS["pass_vit"]
METADATA = {"config": CONFIG.to_dict(), "layout": "NCHW RGB"}
BOTH = pytest.mark.parametrize("format", ["openvino", "onnx"])


@pytest.fixture(scope="module")
def model() -> ReidModel:
    return tiny_model(CONFIG)


def written(model: ReidModel, format: ExportFormat, folder: Path, *, half: bool) -> Path:
    folder.mkdir()
    path = folder / GRAPH_FILES[format][0]
    FORMATS[format].write(FORMATS[format].make(model), path, METADATA, half)
    assert sorted(file.name for file in folder.iterdir()) == sorted(GRAPH_FILES[format])
    return path


def opened(path: Path, format: ExportFormat) -> Runtime:
    return open_graph(path, ENGINES[format][0], config=CONFIG, fingerprint="x", threads=1)


@BOTH
def test_a_file_says_what_it_is(model: ReidModel, format: ExportFormat, tmp_path: Path) -> None:
    path = written(model, format, tmp_path / "file", half=False)
    if format == "onnx":
        said = {item.key: item.value for item in onnx.load(str(path)).metadata_props}
        assert said == {
            f"{METADATA_KEY}.layout": "NCHW RGB",
            f"{METADATA_KEY}.config": json.dumps(CONFIG.to_dict()),
        }
        return
    graph = openvino.Core().read_model(path)
    assert graph.get_rt_info([METADATA_KEY, "layout"]).value == "NCHW RGB"
    assert json.loads(graph.get_rt_info([METADATA_KEY, "config"]).value) == CONFIG.to_dict()


@BOTH
def test_half_the_bytes_give_nearly_the_same_numbers(model: ReidModel, format: ExportFormat, tmp_path: Path) -> None:
    whole, half = (written(model, format, tmp_path / str(flag), half=flag) for flag in (False, True))
    sizes = [sum(file.stat().st_size for file in path.parent.glob("model.*n*")) for path in (whole, half)]
    assert sizes[1] < 0.7 * sizes[0]
    images = tiny_images(CONFIG, 3)
    with torch.inference_mode():
        reference = model(images).numpy()
    scale = np.abs(reference).max()
    np.testing.assert_allclose(opened(whole, format).run(images.numpy()), reference, atol=1e-5 * scale)
    rounded = opened(half, format).run(images.numpy())
    np.testing.assert_allclose(rounded, reference, atol=3e-3 * scale)
    assert np.abs(rounded - reference).max() > 1e-6 * scale, "nothing was rounded"


def test_operators_are_told(model: ReidModel) -> None:
    assert FORMATS["onnx"].opset(FORMATS["onnx"].make(model)) == f"ai.onnx {OPSET}"
    assert FORMATS["openvino"].opset(FORMATS["openvino"].make(model)).startswith("opset1")


def test_what_half_precision_cannot_hold_is_refused(tmp_path: Path) -> None:
    large = tiny_model(CONFIG)
    with torch.no_grad():
        large.backbone.blocks[0].mlp.fc1.weight[0, 0] = 1e5
    with pytest.raises(InputError, match=r"beyond 65504, which float16 cannot hold; export in fp32"):
        written(large, "onnx", tmp_path / "file", half=True)
