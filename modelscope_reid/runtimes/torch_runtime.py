"""Run a `ReidModel` with PyTorch, on the CPU (its linear layers through oneDNN) or a GPU.

In and out: as `Runtime`. Knows nothing of checkpoints: the model comes filled.
"""

from __future__ import annotations

import copy
import hashlib
import logging
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from modelscope_reid.config import VitConfig
from modelscope_reid.errors import InputError
from modelscope_reid.models.reid_model import ReidModel
from modelscope_reid.runtimes import Precision, graph_inputs
from modelscope_reid.runtimes.graphs import GraphModule
from modelscope_reid.runtimes.machine import cpu_has_bf16, default_threads
from modelscope_reid.runtimes.onednn import with_onednn

logger = logging.getLogger(__name__)

NEEDS_EXPORT = (
    "precision 'int8' needs crops to calibrate with: run `modelscope-reid export --precision int8 --calibration FOLDER "
    "…` and open the folder that it writes."
)
CPU_PIXELS = 2**18
"""How many pixels go through PyTorch's layers on a CPU at once: 8 crops of 256x128. What more of them leave behind each
layer does not stay in the caches; by 8 rather than by 32, OSNet x1.0 is 1.3 times as fast, and a ViT 1.1 times."""
ANY_NUMBER = 2**30
_TYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def fingerprint_of(model: ReidModel) -> str:
    """Return the SHA-256, in hex, of the model's config and of every tensor's name and bytes."""
    digest = hashlib.sha256(repr(model.config).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


class TorchRuntime:
    """PyTorch in inference mode; `model` is the network as it was given, in float32 and on the device.

    `device` is ``cpu``, ``cuda`` or ``cuda:1``; None takes the first GPU where there is one. `precision` ``bf16``
    computes in float32 on a CPU without the instructions, and says so. `threads` sets PyTorch's threads for the whole
    process, which is all it offers; None leaves them, or keeps them to what this process may use. `compiled` runs the
    network through `torch.compile`, whose first batches take a minute.

    Raises:
        InputError: a device that this machine or this torch does not have, or a precision that it does not compute in.
    """

    def __init__(
        self,
        model: ReidModel,
        device: str | None = None,
        *,
        precision: Precision = "fp32",
        threads: int | None = None,
        compiled: bool = False,
    ) -> None:
        wanted = device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            self.device = torch.device(wanted)
            self.model = model.eval().to(self.device)
        except (RuntimeError, AssertionError) as error:
            raise InputError(
                f"device {wanted!r} cannot be used here ({str(error).splitlines()[0]}); use 'cpu', or 'cuda' on a GPU."
            ) from error
        self.precision: Precision = self._precision(precision)
        _set_threads(threads)
        self._type = _TYPES[self.precision]
        vision_transformer = isinstance(model.config, VitConfig)
        # Convolutions of oneDNN and cuDNN are faster with the channels last; transformers do not care.
        self._format = torch.contiguous_format if vision_transformer else torch.channels_last
        height, width = model.config.preprocessing.image_size
        eager_cpu = self.device.type == "cpu" and not compiled
        self._at_once = max(1, CPU_PIXELS // (height * width)) if eager_cpu else ANY_NUMBER
        self._compiled = compiled
        network = self._network()
        self._run: Any = torch.compile(network, dynamic=True) if compiled else network

    def _precision(self, asked: Precision) -> Precision:
        """Return what the device computes in, as near to what was asked for as may be."""
        if asked == "int8":
            raise InputError(NEEDS_EXPORT)
        if self.device.type != "cpu" or asked == "fp32":
            return asked
        if asked == "fp16":
            raise InputError("precision 'fp16' is for GPUs; on a CPU use 'bf16', or 'fp32'.")
        if not cpu_has_bf16():
            logger.warning("this processor has no bfloat16 instructions; computing in float32 instead.")
            return "fp32"
        return asked

    def _network(self) -> nn.Module:
        """Return the network to run: of the model's own tensors where their type and format stay as they are."""
        network: nn.Module = GraphModule(self.model).eval()
        if self.precision != "fp32" or self._format != torch.contiguous_format:
            network = copy.deepcopy(network)
            network = network.to(dtype=self._type).to(memory_format=self._format)
        eager_fp32 = self.precision == "fp32" and not self._compiled  # the compiler chooses its own matrix products
        return with_onednn(network) if self.device.type == "cpu" and eager_fp32 else network

    @property
    def name(self) -> str:
        """Engine and device."""
        return f"torch{' (compiled)' if self._compiled else ''} on {self.device}"

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of the model's config and of every tensor's name and bytes."""
        return fingerprint_of(self.model)

    @torch.inference_mode()
    def run(self, images: NDArray[np.float32], camera_ids: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """Embed images (B, 3, H, W), normalised RGB -> (B, D).

        Raises:
            InputError: images of another shape than the config's, or a camera id out of range.
        """
        inputs = graph_inputs(self.model.config, images, camera_ids)
        batch, *cameras = (self._on_device(torch.from_numpy(array)) for array in inputs.values())
        batch = batch.to(dtype=self._type, memory_format=self._format)
        parts = zip(*(torch.split(tensor, self._at_once) for tensor in (batch, *cameras)), strict=True)
        embeddings: Tensor = torch.cat([self._run(*part) for part in parts])
        result: NDArray[np.float32] = embeddings.float().cpu().numpy()
        return result

    def _on_device(self, tensor: Tensor) -> Tensor:
        """Copy to the device; to a GPU from pinned memory, so that the copy runs beside the work before it."""
        if self.device.type != "cuda":
            return tensor.to(self.device)
        return tensor.pin_memory().to(self.device, non_blocking=True)


def _set_threads(asked: int | None) -> None:
    """Tell PyTorch, for the whole process, how many threads to use: those asked for, or no more than there are cores.

    Raises:
        InputError: less than one.
    """
    if asked is not None and asked < 1:
        raise InputError(f"threads is {asked}; expected 1 or more.")
    threads = asked or min(default_threads() or torch.get_num_threads(), torch.get_num_threads())
    if threads != torch.get_num_threads():
        torch.set_num_threads(threads)
