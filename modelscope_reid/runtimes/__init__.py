"""What runs a network: one protocol, one module per engine.

In: batches of normalised images (B, 3, H, W) float32 on the host. Out: embeddings (B, D) float32 on the host.
Knows nothing of image files or of what the embeddings are for.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Runtime(Protocol):
    """One network, ready to run."""

    @property
    def name(self) -> str:
        """Engine and device, for messages and tables: ``torch on cpu``."""

    @property
    def fingerprint(self) -> str:
        """A hash of the weights: equal for equal numbers, so that embeddings can be told apart by model."""

    def run(self, images: NDArray[np.float32], camera_ids: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """Embed images (B, 3, H, W), normalised RGB -> (B, D), as the model gives them."""
