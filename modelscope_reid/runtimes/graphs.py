"""A `ReidModel` as a graph that other engines run: OpenVINO's, and ONNX.

In: a filled `ReidModel` on the CPU. Out: a graph of any batch size with the input "images" (B, 3, H, W) float32, for
a camera-aware model also "camera_ids" (B,) int64 (-1 unknown), and the output "embeddings" (B, D) float32. The graph
is that of `trimming.trimmed`. Knows nothing of precisions, files beyond the one it writes, or devices.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.jit import TracerWarning  # type: ignore[attr-defined]

from modelscope_reid.config import UNKNOWN_CAMERA
from modelscope_reid.libraries import require_library
from modelscope_reid.models.reid_model import ReidModel
from modelscope_reid.models.vit import CameraEmbedding
from modelscope_reid.runtimes import GRAPH_OUTPUT, camera_count, input_names
from modelscope_reid.runtimes.onednn import twin_of
from modelscope_reid.runtimes.trimming import trimmed

if TYPE_CHECKING:
    import openvino

OPSET = 18
"""The version of ONNX's operators that graphs are written in."""


class CameraTable(nn.Module):
    """`CameraEmbedding` as a table whose last row is the unknown camera's; what it is asked for was checked before."""

    def __init__(self, embedding: CameraEmbedding) -> None:
        super().__init__()
        weight = embedding.weight.detach()
        rows = torch.cat((weight, weight.mean(dim=0, keepdim=True)))
        self.register_buffer("rows", embedding.coefficient * rows)

    def forward(self, camera_ids: Tensor, batch: int) -> Tensor:
        """(B,) int64 in -1..cameras-1 -> (B, 1, D)."""
        rows = self.get_buffer("rows")
        places = torch.where(camera_ids < 0, len(rows) - 1, camera_ids)
        return torch.index_select(rows, 0, places)[:, None, :]


class GraphModule(nn.Module):
    """A model without its checks, which a graph cannot hold."""

    def __init__(self, model: ReidModel) -> None:
        super().__init__()
        twin = trimmed(model)
        if camera_count(model.config):
            twin = twin_of(twin) if twin is model else twin
            embedding = twin.backbone.camera_embedding
            assert isinstance(embedding, CameraEmbedding)
            twin.backbone.camera_embedding = CameraTable(embedding)
        self.backbone, self.head = twin.backbone, twin.head

    def forward(self, images: Tensor, camera_ids: Tensor | None = None) -> Tensor:
        """(B, 3, H, W), (B,) -> (B, D)."""
        embeddings: Tensor = self.head(self.backbone(images, camera_ids))
        return embeddings


def _examples(model: ReidModel) -> tuple[Tensor, ...]:
    """Return inputs to trace with: two images, for one might be taken for a batch size that never changes."""
    images = torch.zeros(2, 3, *model.config.image_size)
    cameras = torch.tensor([0, UNKNOWN_CAMERA])
    return (images, cameras) if camera_count(model.config) else (images,)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep to itself what tracing says of sizes that become constants: those of the image are, on purpose."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for category in (TracerWarning, DeprecationWarning, FutureWarning, UserWarning):
            warnings.simplefilter("ignore", category)
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def to_openvino(model: ReidModel) -> openvino.Model:
    """Return `model` as an OpenVINO graph in float32.

    Raises:
        InputError: OpenVINO is not installed.
    """
    library = require_library("openvino")
    module, examples = GraphModule(model).eval(), _examples(model)
    inputs: list[Any] = [([-1, *example.shape[1:]], example.numpy().dtype.type) for example in examples]
    trace: Any = torch.jit.trace  # untyped
    with torch.no_grad(), _quiet():
        # What OpenVINO does by itself, less three runs for comparison, and with half of the nodes to translate.
        frozen: Any = torch.jit.freeze(trace(module, examples, check_trace=False))
        graph: Any = library.convert_model(frozen, input=inputs)
    for port, name in zip(graph.inputs, input_names(model.config), strict=True):
        port.get_tensor().set_names({name})
        port.get_node().set_friendly_name(name)
    graph.outputs[0].get_tensor().set_names({GRAPH_OUTPUT})
    return graph


def write_onnx(model: ReidModel, path: Path) -> None:
    """Write `model` to `path` as ONNX in float32, operators of version `OPSET`, weights in the same file.

    Raises:
        InputError: onnx or onnxscript is not installed.
    """
    require_library("onnx")
    module, examples = GraphModule(model).eval(), _examples(model)
    names = input_names(model.config)
    with torch.no_grad(), _quiet():
        torch.onnx.export(
            module,
            examples,
            str(path),
            input_names=list(names),
            output_names=[GRAPH_OUTPUT],
            dynamic_axes={name: {0: "batch"} for name in (*names, GRAPH_OUTPUT)},
            opset_version=OPSET,
            dynamo=False,
        )
