"""Switches of quantisers: on is the quantised graph, off is the graph without the quantiser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny import TINY_CONFIGS, tiny_model

from modelscope_reid.calibration_crops import drawn_crops
from modelscope_reid.runtimes.exported_folder import ENGINES, GRAPH_FILES, open_graph
from modelscope_reid.runtimes.graph_files import FORMATS
from modelscope_reid.runtimes.parity_report import ExportFormat
from modelscope_reid.runtimes.quantization import QUANTIZED, quantize

CONFIG = TINY_CONFIGS["pass_vit"]


@pytest.fixture(scope="module", params=["openvino", "onnx"])
def case(request: pytest.FixtureRequest) -> tuple[ExportFormat, Any, dict[str, Any], NDArray[np.float32]]:
    model = tiny_model(CONFIG)
    ((images, _),) = drawn_crops(CONFIG).held_out.batches(100)
    with torch.inference_mode():
        reference = model(torch.from_numpy(images)).numpy()
    graph = FORMATS[request.param].make(model)
    inputs = {"images": images}
    quantized, _ = quantize(graph, inputs, reference, format=request.param, config=CONFIG, target=0.0)
    return request.param, QUANTIZED[request.param](quantized), inputs, reference


def through_engine(format: ExportFormat, graph: Any, inputs: dict[str, Any], folder: Path) -> NDArray[np.float32]:
    """Embed through the format's own engine, with its int8 kernels."""
    path = folder / GRAPH_FILES[format][0]
    FORMATS[format].write(graph, path, {}, False)
    engine = open_graph(path, ENGINES[format][0], config=CONFIG, fingerprint="", precision="int8", threads=1)
    return engine.run(inputs["images"])


def test_all_on_is_the_quantised_graph_and_all_off_nearer_to_the_float_one(case: Any, tmp_path: Path) -> None:
    format, quantized, inputs, reference = case
    count = len(quantized.quantizers)
    assert count > 5 and len(set(quantized.quantizers)) == count
    embed = quantized.switchable(1)
    on, off = embed(inputs, np.ones(count, np.float32)), embed(inputs, np.zeros(count, np.float32))
    scale = np.abs(reference).max()
    np.testing.assert_allclose(through_engine(format, quantized.without(()), inputs, tmp_path), on, atol=2e-2 * scale)
    assert np.abs(off - reference).mean() < np.abs(on - reference).mean()


def test_a_switch_that_is_off_is_the_graph_without_that_quantiser(case: Any, tmp_path: Path) -> None:
    format, quantized, inputs, reference = case
    count = len(quantized.quantizers)
    embed = quantized.switchable(1)
    everything = quantized.without(quantized.quantizers)
    assert QUANTIZED[format](everything).quantizers == ()
    np.testing.assert_allclose(
        through_engine(format, everything, inputs, tmp_path),
        embed(inputs, np.zeros(count, np.float32)),
        atol=1e-4 * np.abs(reference).max(),
    )
    left = quantized.without(quantized.quantizers[2:4])
    names = (*quantized.quantizers[:2], *quantized.quantizers[4:])
    assert sorted(QUANTIZED[format](left).quantizers) == sorted(names)
    switched = np.ones(count, np.float32)
    switched[2:4] = 0.0
    part = QUANTIZED[format](left).switchable(1)(inputs, np.ones(count - 2, np.float32))
    np.testing.assert_allclose(part, embed(inputs, switched), atol=1e-4 * np.abs(reference).max())


def test_the_graph_itself_stays_as_it_is(case: Any) -> None:
    _, quantized, _, _ = case
    before = quantized.quantizers
    quantized.switchable(1)
    quantized.without(before)
    assert quantized.quantizers == before
