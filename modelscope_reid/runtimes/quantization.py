"""Float32 to int8 by calibration, with NNCF: activations and weights in 8 bits, except where that hurts.

In: a graph (OpenVINO's or ONNX), crops to calibrate with, and the embeddings that PyTorch gives for them. Out: the
quantised graph, and the names of the quantisers that were left out. The same crops give the same graph. Knows nothing
of files, and judges nothing that it was not calibrated with: that is the parity report's.

NNCF's method: Krishnamoorthi 2018, SmoothQuant (Xiao et al., ICML 2023) in transformers, fast bias correction.
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from modelscope_reid.config import ModelConfig, VitConfig
from modelscope_reid.libraries import require_library
from modelscope_reid.runtimes.parity_report import ExportFormat, compare_embeddings
from modelscope_reid.runtimes.quantized_graphs import (
    Embed,
    GraphInputs,
    OnnxQuantized,
    OpenVinoQuantized,
    QuantizedGraph,
)

logger = logging.getLogger(__name__)

TARGET = 0.998
"""The closeness (`Cosines.closeness`) on calibration crops from which on nothing more is left in float.

The tolerance of the parity report is 0.995: other crops are judged there."""
JUDGED_CROPS = 64
"""How many crops tell whether the target is reached."""
RANKED_CROPS = 16
"""How many crops tell which quantisers hurt most: one run of them for every quantiser."""
SHARE_OF_THE_WAY = 0.9
"""Where even int8 weights alone miss the target: how much of what the activations cost is to be won back."""
LARGEST_SHARE_IN_FLOAT = 0.5
"""More than this share of the quantisers is not left out: int8 would not pay then."""
BATCH = 16
QUANTIZED: dict[ExportFormat, type[OpenVinoQuantized] | type[OnnxQuantized]] = {
    "openvino": OpenVinoQuantized,
    "onnx": OnnxQuantized,
}
RANGES = ("MINMAX", None)
"""How the range of an activation is found, in the order of trying: over all crops; NNCF's own, the mean of each crop's.

On the bundled model the first reaches a mean cosine of 0.9992 and the second 0.9947 (least 0.998 and 0.895): one crop
in a few hundred goes far beyond the mean range, and is cut off there."""


def quantize(
    graph: Any,
    inputs: GraphInputs,
    reference: NDArray[np.float32],
    *,
    format: ExportFormat,
    config: ModelConfig,
    target: float = TARGET,
    threads: int | None = None,
    progress: bool = False,
) -> tuple[Any, tuple[str, ...]]:
    """Return the int8 graph, and the names of the quantisers that were left out of it.

    `inputs` are N crops by name of input, "images" (N, 3, H, W) float32 normalised; `reference` (N, D) their embeddings
    in float32. Where their closeness on them is below `target`, the fewest quantisers are left out without
    which it is not.

    Raises:
        InputError: nncf, or the engine of the format, is not installed.
    """
    best: tuple[float, QuantizedGraph, Embed] | None = None
    judged = _first(inputs, JUDGED_CROPS)
    for ranges in RANGES:
        quantized: QuantizedGraph = QUANTIZED[format](
            _post_training(graph, inputs, config=config, ranges=ranges, progress=progress)
        )
        embed = quantized.switchable(threads)
        closeness = _closeness(embed, judged, reference, np.ones(len(quantized.quantizers), np.float32))
        logger.info("int8 with ranges %s: closeness %.5f on calibration crops", ranges or "of NNCF's own", closeness)
        if best is None or closeness > best[0]:
            best = closeness, quantized, embed
        if closeness >= target:
            return quantized.without(()), ()
    assert best is not None
    _, quantized, embed = best
    count = len(quantized.quantizers)
    left_out = fewest_in_float(embed, inputs, reference, count=count, target=target, progress=progress)
    names = tuple(quantized.quantizers[place] for place in left_out)
    return quantized.without(names), names


def fewest_in_float(
    embed: Embed,
    inputs: GraphInputs,
    reference: NDArray[np.float32],
    *,
    count: int,
    target: float = TARGET,
    progress: bool = False,
) -> list[int]:
    """Return the places of the fewest quantisers, of `count`, without which the closeness reaches `target`.

    They are ranked by the error that each brings when it alone is on. For a mean cosine of 0.999 the bundled model
    then needs 8 of 215 left out, with NNCF's own ranges; ranked by what is gained where it alone is off, more than 64.
    Where weights in int8 miss the target by themselves, most of what activations cost is aimed at. Where half of the
    quantisers are not enough, half of them are left out.
    """
    ranked = _first(inputs, RANKED_CROPS)
    errors = np.empty(count)
    for place in tqdm(range(count), desc="which layers hurt", unit="layer", disable=not progress):
        alone = np.zeros(count, np.float32)
        alone[place] = 1.0
        errors[place] = 1.0 - _closeness(embed, ranked, reference, alone)
    order = np.argsort(-errors, kind="stable").tolist()
    judged = _first(inputs, JUDGED_CROPS)

    def closeness(number: int) -> float:
        on = np.ones(count, np.float32)
        on[order[:number]] = 0.0
        found = _closeness(embed, judged, reference, on)
        logger.info("%d of %d places left in float: closeness %.5f on calibration crops", number, count, found)
        return found

    straight, weights_alone = closeness(0), closeness(count)
    aim = min(target, straight + SHARE_OF_THE_WAY * (weights_alone - straight))
    low, high, most = 0, 1, int(count * LARGEST_SHARE_IN_FLOAT)
    while high < most and closeness(high) < aim:
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if closeness(middle) >= aim else (middle, high)
    return sorted(order[:high])


def _post_training(
    graph: Any, inputs: GraphInputs, *, config: ModelConfig, ranges: str | None, progress: bool = False
) -> Any:
    """Return NNCF's quantisation of a graph; one crop at a time, in the order given."""
    nncf = require_library("nncf")
    from nncf.quantization.advanced_parameters import QuantizationParameters
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    crops = [{name: values[place : place + 1] for name, values in inputs.items()} for place in range(_count(inputs))]
    advanced: dict[str, Any] = {
        # NNCF gives depthwise convolutions a scale per channel, for which ONNX Runtime has no int8 convolution: OSNet
        # is then slower than in float32. One scale is as exact.
        "activations_quantization_params": QuantizationParameters(per_channel=False),
    }
    if ranges:
        advanced["activations_range_estimator_params"] = getattr(RangeEstimatorParametersSet, ranges)
    with _printing(progress):
        return nncf.quantize(
            graph,
            nncf.Dataset(crops),
            subset_size=len(crops),
            model_type=nncf.ModelType.TRANSFORMER if isinstance(config, VitConfig) else None,
            advanced_parameters=nncf.AdvancedQuantizationParameters(**advanced),
        )


@contextlib.contextmanager
def _printing(progress: bool) -> Iterator[None]:
    """Let NNCF print its progress bars, to stderr, or nothing: stdout is for results."""
    nncf_logger = logging.getLogger("nncf")
    level = nncf_logger.level
    nncf_logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(sys.stderr if progress else io.StringIO()):
            yield
    finally:
        nncf_logger.setLevel(level)


def _count(inputs: GraphInputs) -> int:
    return len(inputs["images"])


def _first(inputs: GraphInputs, count: int) -> GraphInputs:
    return {name: values[:count] for name, values in inputs.items()}


def _closeness(embed: Embed, inputs: GraphInputs, reference: NDArray[np.float32], on: NDArray[np.float32]) -> float:
    """Return how close the embeddings are to the reference, with these quantisers on."""
    starts: Sequence[int] = range(0, _count(inputs), BATCH)
    parts = [embed({name: values[start : start + BATCH] for name, values in inputs.items()}, on) for start in starts]
    return compare_embeddings(reference[: _count(inputs)], np.concatenate(parts)).closeness
