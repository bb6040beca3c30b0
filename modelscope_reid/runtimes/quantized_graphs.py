"""Quantised graphs whose quantisers can be switched off one by one: OpenVINO's, and ONNX.

In: a graph that NNCF has quantised. Out: `QuantizedGraph`: embeddings with some quantisers on and others off, through
one compiled graph, and the graph without some of them. Knows nothing of which to leave out.

A switched quantiser gives x + s * (q(x) - x), with s from an extra input of the graph: int8 as float32 computes it.
Weights stay quantised: they have a scale for every output channel, and cost little.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from modelscope_reid.libraries import require_library

if TYPE_CHECKING:
    import onnx
    import openvino

SWITCHES = "switches"
GraphInputs = Mapping[str, NDArray[Any]]
Embed = Callable[[GraphInputs, NDArray[np.float32]], NDArray[np.float32]]


class QuantizedGraph(Protocol):
    """A quantised graph, in whichever format."""

    @property
    def quantizers(self) -> tuple[str, ...]:
        """The names of what rounds activations to int8, in the order of the graph."""

    def switchable(self, threads: int | None) -> Embed:
        """Return what embeds inputs by name, with a switch (Q,) float32 for each quantiser: 1.0 on, 0.0 off."""

    def without(self, quantizers: Collection[str]) -> Any:
        """Return the graph without these quantisers; what they feed computes in float."""


class OpenVinoQuantized:
    """A graph of OpenVINO's; its quantisers are `FakeQuantize`, and its weights are int8 already."""

    def __init__(self, graph: openvino.Model) -> None:
        self.graph = graph

    @property
    def quantizers(self) -> tuple[str, ...]:
        """As `QuantizedGraph`."""
        return tuple(node.get_friendly_name() for node in _fake_quantizes(self.graph))

    def switchable(self, threads: int | None) -> Embed:
        """As `QuantizedGraph`."""
        library = require_library("openvino")
        from openvino import opset13 as ops

        graph = self.graph.clone()
        nodes = list(_fake_quantizes(graph))
        switches = ops.parameter([len(nodes)], np.float32, name=SWITCHES)
        switches.output(0).get_tensor().set_names({SWITCHES})
        for place, node in enumerate(nodes):
            x, targets = node.input_value(0), list(node.output(0).get_target_inputs())
            switch = ops.gather(switches, np.int64(place), np.int64(0))
            mixed = ops.add(x, ops.multiply(switch, ops.subtract(node.output(0), x)))
            for target in targets:
                target.replace_source_output(mixed.output(0))
        graph.add_parameters([switches])
        graph.validate_nodes_and_infer_types()
        properties: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
        if threads:
            properties["INFERENCE_NUM_THREADS"] = threads
        compiled = library.Core().compile_model(graph, "CPU", properties)

        def embed(inputs: GraphInputs, on: NDArray[np.float32]) -> NDArray[np.float32]:
            return np.array(compiled({**inputs, SWITCHES: on})[0])

        return embed

    def without(self, quantizers: Collection[str]) -> openvino.Model:
        """As `QuantizedGraph`."""
        graph = self.graph.clone()
        for node in list(_fake_quantizes(graph)):
            if node.get_friendly_name() in quantizers:
                for target in list(node.output(0).get_target_inputs()):
                    target.replace_source_output(node.input_value(0))
        graph.validate_nodes_and_infer_types()
        return graph


def _fake_quantizes(graph: openvino.Model) -> Iterable[Any]:
    return (node for node in graph.get_ordered_ops() if node.get_type_name() == "FakeQuantize")


class OnnxQuantized:
    """An ONNX model; a quantiser is a `QuantizeLinear` of an activation with its `DequantizeLinear`."""

    def __init__(self, graph: onnx.ModelProto) -> None:
        self.graph = graph

    @property
    def quantizers(self) -> tuple[str, ...]:
        """As `QuantizedGraph`."""
        return tuple(name for name, _, _ in self._pairs())

    def _pairs(self) -> list[tuple[str, str, list[str]]]:
        """Return of each quantiser its name, the value that it rounds, and the rounded values."""
        nodes = self.graph.graph.node
        constants = {tensor.name for tensor in self.graph.graph.initializer}
        rounded: dict[str, list[str]] = {}
        for node in nodes:
            if node.op_type == "DequantizeLinear":
                rounded.setdefault(node.input[0], []).append(node.output[0])
        return [
            (node.name, node.input[0], rounded[node.output[0]])
            for node in nodes
            if node.op_type == "QuantizeLinear" and node.input[0] not in constants
        ]

    def switchable(self, threads: int | None) -> Embed:
        """As `QuantizedGraph`."""
        library = require_library("onnxruntime")
        helper = require_library("onnx").helper
        numpy_helper = require_library("onnx").numpy_helper
        pairs = self._pairs()
        replaced: dict[str, str] = {}
        mixing: dict[str, list[Any]] = {}
        constants = []
        for place, (_, x, outputs) in enumerate(pairs):
            constants.append(numpy_helper.from_array(np.int64(place), f"{SWITCHES}.{place}"))
            for number, q in enumerate(outputs):
                name = f"{SWITCHES}.{place}.{number}"
                replaced[q] = f"{name}.mixed"
                mixing[q] = [
                    helper.make_node("Gather", [SWITCHES, f"{SWITCHES}.{place}"], [f"{name}.on"]),
                    helper.make_node("Sub", [q, x], [f"{name}.noise"]),
                    helper.make_node("Mul", [f"{name}.noise", f"{name}.on"], [f"{name}.heard"]),
                    helper.make_node("Add", [x, f"{name}.heard"], [replaced[q]]),
                ]
        model = _rewired(self.graph, replaced, mixing)
        model.graph.initializer.extend(constants)
        model.graph.input.append(helper.make_tensor_value_info(SWITCHES, 1, [len(pairs)]))
        options = library.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads or 0
        session = library.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

        def embed(inputs: GraphInputs, on: NDArray[np.float32]) -> NDArray[np.float32]:
            result: NDArray[np.float32] = session.run(None, {**inputs, SWITCHES: on})[0]
            return result

        return embed

    def without(self, quantizers: Collection[str]) -> onnx.ModelProto:
        """As `QuantizedGraph`."""
        replaced = {q: x for name, x, outputs in self._pairs() if name in quantizers for q in outputs}
        model = _rewired(self.graph, replaced, {})
        for node in [node for node in model.graph.node if set(node.output) & set(replaced) or node.name in quantizers]:
            model.graph.node.remove(node)
        return model


def _rewired(graph: onnx.ModelProto, replaced: Mapping[str, str], added: Mapping[str, list[Any]]) -> onnx.ModelProto:
    """Return a copy whose nodes read `replaced` values in place of others; `added` nodes follow what they read."""
    model = type(graph)()
    model.CopyFrom(graph)
    nodes = list(model.graph.node)
    del model.graph.node[:]
    for node in nodes:
        for place, name in enumerate(node.input):
            node.input[place] = replaced.get(name, name)
        model.graph.node.append(node)
        for output in node.output:
            model.graph.node.extend(added.get(output, []))
    return model
