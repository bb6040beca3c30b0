"""Every family, layout and option of a backbone, small: what each engine must give the same embeddings for."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray
from tiny import SMALL, TINY_CONFIGS, tiny_images

from modelscope_reid.config import ModelConfig, PassVitConfig
from modelscope_reid.runtimes import camera_count

_PASS = PassVitConfig(width=64, depth=2, preprocessing=SMALL, num_classes=5)
LAYOUTS: dict[str, ModelConfig] = {
    **TINY_CONFIGS,
    "pass_single_after": dataclasses.replace(_PASS, neck="single", neck_feature="after", fusion="mean"),
    "pass_multi_after": dataclasses.replace(_PASS, neck="multi", neck_feature="after"),
    "pass_no_neck": dataclasses.replace(_PASS, neck="none", num_classes=0),
    "pass_overlapping_cameras": dataclasses.replace(_PASS, stride=12, cameras=4),
    "clip_1536": dataclasses.replace(TINY_CONFIGS["clip_vit"], layout="1536", cameras=0),
    "clip_after": dataclasses.replace(TINY_CONFIGS["clip_vit"], neck_feature="after", activation="gelu"),
    "osnet_neck": dataclasses.replace(TINY_CONFIGS["osnet"], neck="single", neck_feature="after"),
}


def batch_for(config: ModelConfig, count: int) -> tuple[NDArray[np.float32], NDArray[np.int64] | None]:
    """Random images (count, 3, H, W), and for a camera-aware model camera ids (count,), the unknown one among them."""
    cameras = camera_count(config)
    ids = np.arange(count, dtype=np.int64) % (cameras + 1) - 1 if cameras else None
    return tiny_images(config, count).numpy(), ids


def assert_same(actual: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    """Cosine 0.99999 or more for every image, and no difference beyond 1e-4 of the largest number."""
    assert actual.shape == expected.shape and actual.dtype == np.float32
    lengths = np.linalg.norm(actual, axis=1) * np.linalg.norm(expected, axis=1)
    assert ((actual * expected).sum(axis=1) >= 0.99999 * lengths).all()
    assert np.abs(actual - expected).max() <= 1e-4 * np.abs(expected).max()
