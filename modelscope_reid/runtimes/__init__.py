"""What runs a network: one protocol, one module per engine.

In: batches of normalised images (B, 3, H, W) float32 on the host. Out: embeddings (B, D) float32 on the host.
Knows nothing of image files or of what the embeddings are for. B images, D numbers per image.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from modelscope_reid.config import UNKNOWN_CAMERA, ModelConfig, VitConfig
from modelscope_reid.errors import CheckpointError, InputError

Precision = Literal["fp32", "bf16", "fp16", "int8"]
"""What a network computes in."""
RuntimeName = Literal["torch", "openvino", "onnxruntime"]
RuntimeChoice = Literal["auto", "torch", "openvino", "onnxruntime"]
"""An engine by name, or the fastest exact one on this machine."""
GRAPH_INPUTS = ("images", "camera_ids")
"""What a network's inputs are called, in every engine's graph; the second only where the config has cameras."""
GRAPH_OUTPUT = "embeddings"


class Runtime(Protocol):
    """One network, ready to run. Safe to use from several threads."""

    @property
    def name(self) -> str:
        """Engine and device, for messages and tables: ``torch on cpu``."""

    @property
    def precision(self) -> Precision:
        """What the network really computes in, which is float32 where a lower precision was not to be had."""

    @property
    def fingerprint(self) -> str:
        """A hash of the float32 weights: the same through every engine and precision of one network."""

    def run(self, images: NDArray[np.float32], camera_ids: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """Embed images (B, 3, H, W), normalised RGB -> (B, D), as the model gives them.

        `camera_ids` (B,) counts from 0, and -1 is an unknown camera; None says that all are unknown. A model without
        camera embeddings ignores it.

        Raises:
            InputError: images of another shape than the config's, or a camera id out of range.
        """


def camera_count(config: ModelConfig) -> int:
    """Return how many cameras a model of this config has an embedding for; 0 where it has none."""
    return config.cameras if isinstance(config, VitConfig) else 0


def input_names(config: ModelConfig) -> tuple[str, ...]:
    """Return the names of a graph's inputs: "images" (B, 3, H, W), and "camera_ids" (B,) where it knows cameras."""
    return GRAPH_INPUTS[: 1 + bool(camera_count(config))]


def graph_inputs(
    config: ModelConfig, images: NDArray[np.float32], camera_ids: NDArray[np.int64] | None
) -> dict[str, NDArray[np.float32] | NDArray[np.int64]]:
    """Return the checked inputs of a graph of this config by name: "images", and "camera_ids" where it has cameras.

    Raises:
        InputError: images of another shape than the config's, or a camera id out of range.
    """
    height, width = config.image_size
    if images.ndim != 4 or images.shape[1:] != (3, height, width):
        raise InputError(f"images have shape {images.shape}; expected (B, 3, {height}, {width}).")
    inputs: dict[str, NDArray[np.float32] | NDArray[np.int64]] = {"images": np.ascontiguousarray(images, np.float32)}
    cameras = camera_count(config)
    if not cameras:
        return inputs
    if camera_ids is None:
        camera_ids = np.full(len(images), UNKNOWN_CAMERA, np.int64)
    if camera_ids.shape != (len(images),):
        raise InputError(f"camera_ids has shape {camera_ids.shape}; expected ({len(images)},).")
    if len(images) and (camera_ids.min() < UNKNOWN_CAMERA or camera_ids.max() >= cameras):
        raise InputError(
            f"camera_ids holds {camera_ids.tolist()}; this model knows cameras 0 to {cameras - 1}, "
            f"and {UNKNOWN_CAMERA} for an unknown one."
        )
    inputs["camera_ids"] = np.ascontiguousarray(camera_ids, np.int64)
    return inputs


def check_ports(
    given: object, config: ModelConfig, *, inputs: Sequence[Collection[str]], outputs: Sequence[Collection[str]]
) -> None:
    """Raise where a graph is none of this config; `inputs` and `outputs` hold the names of each of its ports.

    Raises:
        CheckpointError: other inputs, or another output; it names `given`, the file or what stands for it.
    """
    expected = input_names(config)
    found, made = ({name for port in ports for name in port} for ports in (inputs, outputs))
    if len(inputs) != len(expected) or not set(expected) <= found or len(outputs) != 1 or GRAPH_OUTPUT not in made:
        raise CheckpointError(
            f"{given} has the inputs {', '.join(sorted(found))} and the outputs {', '.join(sorted(made))}; "
            f"expected {', '.join(sorted(expected))} and {GRAPH_OUTPUT}: it is no export of this package."
        )
