"""Int8: which quantisers are left out, with errors that are known; and NNCF's graphs of small networks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny import TINY_CONFIGS, tiny_model

from modelscope_reid.calibration_crops import drawn_crops
from modelscope_reid.runtimes.graph_files import FORMATS
from modelscope_reid.runtimes.parity_report import ExportFormat
from modelscope_reid.runtimes.quantization import BATCH, fewest_in_float, quantize
from modelscope_reid.runtimes.quantized_graphs import GraphInputs, OnnxQuantized, OpenVinoQuantized

ERRORS = (0.01, 0.4, 0.02, 0.3, 0.0)
"""The angle by which each of five quantisers turns an embedding."""
REFERENCE = np.array([[1.0, 0.0], [-1.0, 0.0]] * 20, np.float32)
"""Two kinds of crops, opposite: their mean is 0, and the centred cosines are the plain ones."""
INPUTS = {"images": np.zeros((40, 3, 2, 2), np.float32)}


def turning(inputs: GraphInputs, on: NDArray[np.float32]) -> NDArray[np.float32]:
    """Embeddings turned by the sum of the angles of what is on."""
    assert len(inputs["images"]) <= BATCH
    return turned(float(np.dot(on, ERRORS)), len(inputs["images"]))


def turned(angle: float, count: int) -> NDArray[np.float32]:
    """The first `count` rows of the reference, turned by an angle."""
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]], np.float32)
    return REFERENCE[:count] @ turn


@pytest.mark.parametrize(
    ("target", "left_out"),
    [
        (math.cos(0.34), [1]),  # 0.33 stays of 0.73
        (math.cos(0.04), [1, 3]),  # 0.03 stays
        (math.cos(0.02), [1, 3]),  # 0.01 would stay without [1, 2, 3]; more than half may not be left out
        (1.0, [1, 3]),
    ],
)
def test_the_fewest_quantisers_are_left_out_worst_first(target: float, left_out: list[int]) -> None:
    assert fewest_in_float(turning, INPUTS, REFERENCE, count=5, target=target) == left_out


def test_the_number_is_found_between_powers_of_two() -> None:
    errors = np.arange(20, 0, -1) / 100  # twenty quantisers, the first the worst

    def embed(inputs: GraphInputs, on: NDArray[np.float32]) -> NDArray[np.float32]:
        return turned(float(on @ errors) / 2, len(inputs["images"]))

    target = math.cos(sum(errors[7:]) / 2 + 1e-3)
    assert fewest_in_float(embed, INPUTS, REFERENCE, count=20, target=target) == list(range(7))


def calibration(family: str) -> tuple[torch.nn.Module, dict[str, NDArray[np.generic]], NDArray[np.float32]]:
    """A tiny model, drawn crops as its inputs, and its embeddings of them."""
    config = TINY_CONFIGS[family]
    model = tiny_model(config)
    ((images, cameras),) = drawn_crops(config).held_out.batches(100)
    inputs = {"images": images, "camera_ids": cameras} if getattr(config, "cameras", 0) else {"images": images}
    with torch.inference_mode():
        return model, inputs, model(torch.from_numpy(images), torch.from_numpy(cameras)).numpy()


@pytest.mark.parametrize("format", ["openvino", "onnx"])
def test_a_small_vit_with_cameras_in_int8_twice_the_same(format: ExportFormat) -> None:
    model, inputs, reference = calibration("clip_vit")
    graphs = [
        quantize(FORMATS[format].make(model), inputs, reference, format=format, config=model.config) for _ in range(2)
    ]
    kind = {"openvino": OpenVinoQuantized, "onnx": OnnxQuantized}[format]
    embeddings = []
    for graph, left_out in graphs:
        assert left_out == ()
        quantized = kind(graph)
        embeddings.append(quantized.switchable(1)(inputs, np.ones(len(quantized.quantizers), np.float32)))
    np.testing.assert_array_equal(embeddings[0], embeddings[1])
    assert 1e-4 < np.abs(embeddings[0] - reference).max() / np.abs(reference).max() < 0.05


@pytest.mark.parametrize("format", ["openvino", "onnx"])
def test_a_target_out_of_reach_leaves_half_in_float_at_most(format: ExportFormat) -> None:
    model, inputs, reference = calibration("pass_vit")
    graph, left_out = quantize(
        FORMATS[format].make(model), inputs, reference, format=format, config=model.config, target=1.0
    )
    kind = {"openvino": OpenVinoQuantized, "onnx": OnnxQuantized}[format]
    stay = kind(graph).quantizers
    assert 1 <= len(left_out) <= len(stay) and not set(left_out) & set(stay)


def test_of_a_target_out_of_reach_most_of_the_way_is_gone() -> None:
    """Weights alone turn by 0.5 here, the worst activation by 0.3, nine others by 0.001."""
    errors = np.array([0.3] + [0.001] * 9)

    def embed(inputs: GraphInputs, on: NDArray[np.float32]) -> NDArray[np.float32]:
        return turned(0.5 + float(on @ errors), len(inputs["images"]))

    assert fewest_in_float(embed, INPUTS, REFERENCE, count=10, target=0.998) == [0]
