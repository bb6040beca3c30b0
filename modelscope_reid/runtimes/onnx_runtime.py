"""Run a network with ONNX Runtime, on the CPU or, where its build has the provider, on a GPU.

In and out: as `Runtime`. Made from an ONNX file or its bytes. Needs no torch. Written against ONNX Runtime 1.31 (MIT).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelscope_reid.config import ModelConfig
from modelscope_reid.errors import CheckpointError, InputError
from modelscope_reid.libraries import require_library
from modelscope_reid.runtimes import GRAPH_OUTPUT, Precision, check_ports, graph_inputs
from modelscope_reid.runtimes.machine import default_threads

PROVIDERS: dict[str, tuple[str, ...]] = {
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
    "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
    "cpu": ("CPUExecutionProvider",),
}
"""What runs a graph on each device, the first choice first; what one cannot run falls to the next."""


class OnnxRuntime:
    """A graph in a session of ONNX Runtime's; `device` is ``cpu``, ``cuda``, ``tensorrt``, or None for the CPU.

    `precision` says what the graph is in: ``fp16`` is for GPUs, ``int8`` for graphs that are quantised. `threads` None
    takes one per core that this process may use.

    Raises:
        InputError: ONNX Runtime is not installed, or has no such device or precision here.
        CheckpointError: what is no graph, or another one than `config` describes.
    """

    def __init__(
        self,
        graph: Path | bytes,
        *,
        config: ModelConfig,
        fingerprint: str,
        precision: Precision = "fp32",
        device: str | None = None,
        threads: int | None = None,
    ) -> None:
        if threads is not None and threads < 1:
            raise InputError(f"threads is {threads}; expected 1 or more.")
        self.config, self.fingerprint, self.precision = config, fingerprint, precision
        library: Any = require_library("onnxruntime")
        self.device = (device or "cpu").lower()
        if self.device not in PROVIDERS or PROVIDERS[self.device][0] not in library.get_available_providers():
            able = [name for name, providers in PROVIDERS.items() if providers[0] in library.get_available_providers()]
            raise InputError(f"device {device!r} is none of ONNX Runtime's here; expected one of {', '.join(able)}.")
        if precision == "bf16" or (precision == "fp16" and self.device == "cpu"):
            raise InputError(
                f"ONNX Runtime does not compute in {precision} on this device; use runtime 'openvino' or 'torch' with "
                "'bf16', or 'fp32'."
            )
        try:
            self._session: Any = library.InferenceSession(
                graph if isinstance(graph, bytes) else str(graph),
                _options(library, threads),
                providers=list(PROVIDERS[self.device]),
            )
        except _failures() as error:
            given = "the graph" if isinstance(graph, bytes) else graph
            reason = str(error).splitlines()[0]
            raise CheckpointError(f"{given} cannot be opened by ONNX Runtime: {reason}; export it again.") from error
        check_ports(
            "the graph" if isinstance(graph, bytes) else graph,
            config,
            inputs=[(port.name,) for port in self._session.get_inputs()],
            outputs=[(port.name,) for port in self._session.get_outputs()],
        )

    @property
    def name(self) -> str:
        """Engine and device."""
        return f"onnxruntime on {self.device}"

    def run(self, images: NDArray[np.float32], camera_ids: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """Embed images (B, 3, H, W), normalised RGB -> (B, D).

        Raises:
            InputError: images of another shape than the config's, or a camera id out of range.
        """
        inputs = graph_inputs(self.config, images, camera_ids)
        if not len(images):
            return np.empty((0, self.config.embedding_dim), np.float32)
        embeddings: NDArray[np.float32] = self._session.run([GRAPH_OUTPUT], inputs)[0]
        return embeddings


def _options(library: Any, threads: int | None) -> Any:
    """Return a session's options: threads that sleep while they wait, so that two processes do not starve."""
    options = library.SessionOptions()
    if wanted := threads or default_threads():
        options.intra_op_num_threads = wanted
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors; what it warns of is its own placing of nodes
    return options


def _failures() -> tuple[type[Exception], ...]:
    """Return ONNX Runtime's own errors for a graph that it cannot open; they share no base but `Exception`."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = ("Fail", "InvalidGraph", "InvalidProtobuf", "InvalidArgument", "NoSuchFile", "NotImplemented")
    return RuntimeError, ValueError, *(getattr(state, name) for name in names)
