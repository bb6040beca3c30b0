"""Run a network with OpenVINO, on the CPU or on a device of Intel's.

In and out: as `Runtime`. Made from a graph (`graphs.to_openvino`), or from a file: OpenVINO's own or ONNX. Needs no
torch. Written against OpenVINO 2026.4 (Apache-2.0).
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from modelscope_reid.config import ModelConfig
from modelscope_reid.errors import CheckpointError, InputError
from modelscope_reid.libraries import require_library
from modelscope_reid.runtimes import GRAPH_OUTPUT, Precision, check_ports, graph_inputs
from modelscope_reid.runtimes.caches import key_of, recall, remember
from modelscope_reid.runtimes.machine import cpu_name, default_threads

if TYPE_CHECKING:
    import openvino

logger = logging.getLogger(__name__)

_HINTS: dict[Precision, str] = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32"}
"""What OpenVINO computes in where the graph is in floats; an int8 graph has its own scales, and the rest in float32."""
_CAPABILITIES: dict[Precision, str] = {"bf16": "BF16", "fp16": "FP16"}


class OpenVinoRuntime:
    """A graph compiled for `device`: None or ``cpu``, or one of OpenVINO's own names, such as ``GPU``.

    `graph` is OpenVINO's model, a file (.xml or .onnx), or a function that makes the model; `config` and `fingerprint`
    are the network's. `precision` ``bf16`` computes in float32 on a CPU without the instructions, and says so.
    `threads` None takes one per core that this process may use. With a `cache` folder the compiled network of a file or
    a function is kept there, and the next start takes it from there instead of reading and compiling the graph.

    Raises:
        InputError: OpenVINO is not installed, or has no such device or precision here.
        CheckpointError: a file that is no graph, or another one than `config` describes.
    """

    def __init__(
        self,
        graph: openvino.Model | Path | Callable[[], openvino.Model],
        *,
        config: ModelConfig,
        fingerprint: str,
        precision: Precision = "fp32",
        device: str | None = None,
        threads: int | None = None,
        cache: Path | None = None,
    ) -> None:
        if threads is not None and threads < 1:
            raise InputError(f"threads is {threads}; expected 1 or more.")
        self.config, self.fingerprint = config, fingerprint
        self._core: Any = require_library("openvino").Core()
        self.device = self._device(device or "cpu")
        self.precision: Precision = self._precision(precision)
        self._options = self._properties(threads)
        blob = cache / f"{self._key(graph)}.blob" if cache and (callable(graph) or isinstance(graph, Path)) else None
        self._compiled: Any = (blob and self._import(blob)) or self._compile(graph, blob)
        self._idle: SimpleQueue[Any] = SimpleQueue()

    def _device(self, asked: str) -> str:
        known: list[str] = self._core.available_devices
        if asked.upper() not in known:
            raise InputError(f"device {asked!r} is none of OpenVINO's here; expected one of {', '.join(known)}.")
        return asked.upper()

    def _precision(self, asked: Precision) -> Precision:
        """Return what the device computes in, by its own word."""
        needed, able = _CAPABILITIES.get(asked), self._core.get_property(self.device, "OPTIMIZATION_CAPABILITIES")
        if needed is None or needed in able:
            return asked
        if asked == "fp16":
            raise InputError("precision 'fp16' is for GPUs; on a CPU use 'bf16', or 'fp32'.")
        logger.warning("this processor has no bfloat16 instructions; computing in float32 instead.")
        return "fp32"

    def _properties(self, threads: int | None) -> dict[str, Any]:
        properties: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": _HINTS[self.precision],
            "PERFORMANCE_HINT": "LATENCY",  # one request at a time, all threads on it, whatever the batch
        }
        if self.device == "CPU":
            # A process that pins its threads picks the first cores, and so does the next one beside it.
            properties["ENABLE_CPU_PINNING"] = False
            if wanted := threads or default_threads():
                properties["INFERENCE_NUM_THREADS"] = wanted
        return properties

    def _key(self, graph: object) -> str:
        """Return what tells this compiled network from others."""
        files = []
        if isinstance(graph, Path):
            files = [(path.name, *_stamp(path)) for path in (graph, graph.with_suffix(".bin"))]
        version = require_library("openvino").__version__
        return key_of(
            self.fingerprint, self.config, files, version, cpu_name(), self.device, sorted(self._options.items())
        )

    def _import(self, blob: Path) -> Any:
        """Return the compiled network kept in `blob`, or None where there is none that fits."""
        data = recall(blob)
        if data is None:
            return None
        try:
            return self._core.import_model(io.BytesIO(data), self.device, self._options)
        except RuntimeError as error:
            logger.info("the compiled network %s does not fit (%s); it is made again", blob, _first_line(error))
            return None

    def _compile(self, graph: openvino.Model | Path | Callable[[], openvino.Model], blob: Path | None) -> Any:
        """Return the graph compiled, and keep it in `blob`."""
        given = graph if isinstance(graph, Path) else "the graph"
        try:
            model: Any = self._core.read_model(graph) if isinstance(graph, Path) else graph
            model = model() if callable(model) else model
            compiled = self._core.compile_model(model, self.device, self._options)
        except RuntimeError as error:
            raise CheckpointError(
                f"{given} cannot be compiled by OpenVINO: {_first_line(error)}; export the model again."
            ) from error
        inputs, outputs = ([port.get_names() for port in ports] for ports in (compiled.inputs, compiled.outputs))
        check_ports(given, self.config, inputs=inputs, outputs=outputs)
        if blob:
            remember(blob, compiled.export_model().getvalue())
        return compiled

    @property
    def name(self) -> str:
        """Engine and device."""
        return f"openvino on {self.device.lower()}"

    def run(self, images: NDArray[np.float32], camera_ids: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """Embed images (B, 3, H, W), normalised RGB -> (B, D).

        Raises:
            InputError: images of another shape than the config's, or a camera id out of range.
        """
        inputs = graph_inputs(self.config, images, camera_ids)
        if not len(images):
            return np.empty((0, self.config.embedding_dim), np.float32)
        try:  # a request holds one batch: each thread takes its own, and leaves it for the next
            request = self._idle.get_nowait()
        except Empty:
            request = self._compiled.create_infer_request()
        try:
            results = request.infer(inputs, share_inputs=True)
            embeddings: NDArray[np.float32] = results[GRAPH_OUTPUT]
            return embeddings
        finally:
            self._idle.put(request)


def _stamp(path: Path) -> tuple[int, int]:
    """Return what changes when a file does; zeros where there is none."""
    return (path.stat().st_size, path.stat().st_mtime_ns) if path.is_file() else (0, 0)


def _first_line(error: RuntimeError) -> str:
    """Return what OpenVINO says of an error, without the places in its own source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("Exception from", "Check '"))]
    return (telling or lines or ["no reason given"])[0]
