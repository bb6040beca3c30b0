"""A recipe and a dataset small enough to train on in a second or two."""

from __future__ import annotations

from pathlib import Path

from modelscope_reid.datasets.synthetic_market import write_synthetic_market

TINY_RECIPE = """\
description: A tiny OSNet. For tests.
model: {backbone: osnet_x0_25, channels: [16, 32, 48, 64], feature_dim: 20, neck: single, image_size: [64, 32]}
data: {workers: 0}
evaluation: {every: 0}
images:
  epochs: 1
  optimizer: {learning_rate: 1.0e-3}
  batch: {people: 2, images: 2}
"""


def write_tiny_training(folder: Path) -> tuple[Path, Path]:
    """Write the recipe and the dataset, three people to train on and three to find; return where they are."""
    recipe = folder / "tiny.yaml"
    recipe.write_text(TINY_RECIPE, encoding="utf-8")
    root = write_synthetic_market(
        folder / "data",
        people=6,
        cameras=2,
        images_per_camera=2,
        distractors=2,
        junk=1,
        train_people=3,
        size=(64, 32),
    )
    return recipe, root
