"""Run a `ReidModel` with eager PyTorch, on the CPU (its linear layers through oneDNN) or a GPU.

In and out: as `Runtime`. Knows nothing of checkpoints: the model comes filled.
"""

from __future__ import annotations

import hashlib
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from modelscope_reid.errors import InputError
from modelscope_reid.models.reid_model import ReidModel
from modelscope_reid.runtimes.onednn import with_onednn


class TorchRuntime:
    """Eager PyTorch, float32, in inference mode.

    `device` is ``cpu``, ``cuda`` or ``cuda:1``; None takes the first GPU where there is one.

    Raises:
        InputError: a device that this machine or this torch does not have.
    """

    def __init__(self, model: ReidModel, device: str | None = None) -> None:
        wanted = device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            self.device = torch.device(wanted)
            model = model.eval().to(self.device)
        except (RuntimeError, AssertionError) as error:
            raise InputError(
                f"device {wanted!r} cannot be used here ({str(error).splitlines()[0]}); use 'cpu', or 'cuda' on a GPU."
            ) from error
        self.model = with_onednn(model) if self.device.type == "cpu" else model

    @property
    def name(self) -> str:
        """Engine and device."""
        return f"torch on {self.device}"

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of the model's config and of every tensor's name and bytes."""
        digest = hashlib.sha256(repr(self.model.config).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    @torch.inference_mode()
    def run(self, images: NDArray[np.float32], camera_ids: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """Embed images (B, 3, H, W), normalised RGB -> (B, D)."""
        cameras = None if camera_ids is None else torch.from_numpy(camera_ids).to(self.device)
        embeddings = self.model(torch.from_numpy(images).to(self.device), cameras)
        result: NDArray[np.float32] = embeddings.cpu().numpy()
        return result
