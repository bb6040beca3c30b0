"""Graphs to files that say themselves what they are: OpenVINO's with their rt_info, ONNX with its metadata_props.

In: a graph and what to say of it. Out: its files, weights in float32 or float16. Knows nothing of models.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modelscope_reid.errors import InputError
from modelscope_reid.libraries import require_library
from modelscope_reid.models.reid_model import ReidModel
from modelscope_reid.runtimes.graphs import to_openvino, write_onnx
from modelscope_reid.runtimes.parity_report import ExportFormat

if TYPE_CHECKING:
    import onnx
    import openvino

METADATA_KEY = "modelscope_reid"


@dataclass(frozen=True, kw_only=True)
class GraphFormat:
    """How a network becomes a graph of a format, how the graph is written, and which operators it has."""

    make: Callable[[ReidModel], Any]
    write: Callable[[Any, Path, Mapping[str, Any], bool], None]
    opset: Callable[[Any], str]


def to_onnx(model: ReidModel) -> onnx.ModelProto:
    """Return `model` as an ONNX model in float32."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write_onnx(model, path)
        graph: onnx.ModelProto = require_library("onnx").load(str(path))
    return graph


def _write_openvino(graph: openvino.Model, path: Path, metadata: Mapping[str, Any], half: bool) -> None:
    for name, value in metadata.items():
        graph.set_rt_info(_as_text(value), [METADATA_KEY, name])
    require_library("openvino").save_model(graph, path, compress_to_fp16=half)


def _write_onnx(graph: onnx.ModelProto, path: Path, metadata: Mapping[str, Any], half: bool) -> None:
    library = require_library("onnx")
    written = type(graph)()
    written.CopyFrom(graph)
    library.helper.set_model_props(
        written, {f"{METADATA_KEY}.{name}": _as_text(value) for name, value in metadata.items()}
    )
    if half:
        _halve_weights(written)
    library.save_model(written, str(path))


def _halve_weights(graph: onnx.ModelProto) -> None:
    """Store float32 weights as float16, each with a cast back, which an engine does once, on opening."""
    library = require_library("onnx")
    casts = []
    for tensor in graph.graph.initializer:
        if tensor.data_type != library.TensorProto.FLOAT:
            continue
        name, values = tensor.name, library.numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if not np.isfinite(half).all():
            raise InputError(f"{name} has numbers beyond 65504, which float16 cannot hold; export in fp32.")
        tensor.CopyFrom(library.numpy_helper.from_array(half, f"{name}.half"))
        casts.append(library.helper.make_node("Cast", [tensor.name], [name], to=library.TensorProto.FLOAT))
    nodes = list(graph.graph.node)
    del graph.graph.node[:]
    graph.graph.node.extend([*casts, *nodes])


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _openvino_opset(graph: openvino.Model) -> str:
    """Return the newest set of operators that a graph of OpenVINO's uses: ``opset14``."""
    versions = {str(node.get_type_info().version_id) for node in graph.get_ops()}
    return max(versions, key=lambda version: int(version.removeprefix("opset")) if version[-1:].isdigit() else 0)


def _onnx_opset(graph: onnx.ModelProto) -> str:
    return ", ".join(f"{opset.domain or 'ai.onnx'} {opset.version}" for opset in graph.opset_import)


FORMATS: dict[ExportFormat, GraphFormat] = {
    "openvino": GraphFormat(make=to_openvino, write=_write_openvino, opset=_openvino_opset),
    "onnx": GraphFormat(make=to_onnx, write=_write_onnx, opset=_onnx_opset),
}
