"""A small calibrated model and drawn crops, for the tests of the gallery."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from tiny import TINY_CONFIGS, tiny_model

from modelscope_reid.embedder import Embedder
from modelscope_reid.ranking.calibration import PlattCalibration, Verifier
from modelscope_reid.ranking.verification import DecisionThresholds
from modelscope_reid.runtimes.torch_runtime import TorchRuntime

VERIFIER = Verifier(
    calibration=PlattCalibration(slope=10.0, intercept=-5.0),
    thresholds=DecisionThresholds(same_from=0.8, different_below=0.2),
)


def tiny_embedder(seed: int = 0, *, verifier: Verifier | None = VERIFIER) -> Embedder:
    """An OSNet with random weights: 20 numbers for a crop of 64x32."""
    config = TINY_CONFIGS["osnet"]
    return Embedder(TorchRuntime(tiny_model(config, seed), "cpu"), config, verifier=verifier, batch_size=4)


def write_crops(folder: Path, count: int, *, seed: int = 0) -> list[Path]:
    """JPEG files of random blocks of colour, each another."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    paths = []
    for number in range(count):
        blocks = random.integers(0, 256, (8, 4, 3), np.uint8)
        paths.append(folder / f"person{number % 3}_{number:03d}.jpg")
        Image.fromarray(blocks).resize((32, 64)).save(paths[-1], quality=95)
    return paths
