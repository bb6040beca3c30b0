"""Models small enough to build in milliseconds, one per family, and images for them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modelscope_reid.config import (
    IMAGENET_PREPROCESSING,
    ClipResNetConfig,
    ClipVitConfig,
    ModelConfig,
    OsnetConfig,
    PassVitConfig,
    Preprocessing,
    TransReidConfig,
)
from modelscope_reid.models.reid_model import ReidModel

SMALL = Preprocessing(image_size=(64, 32))
SMALL_IMAGENET = Preprocessing(image_size=(64, 32), mean=IMAGENET_PREPROCESSING.mean, std=IMAGENET_PREPROCESSING.std)

TINY_CONFIGS: dict[str, ModelConfig] = {
    "pass_vit": PassVitConfig(width=64, depth=2, preprocessing=SMALL, num_classes=5),
    "transreid_vit": TransReidConfig(width=64, depth=3, preprocessing=SMALL, num_classes=5, cameras=3),
    "clip_vit": ClipVitConfig(width=64, depth=3, projection_dim=32, preprocessing=SMALL, num_classes=5, cameras=3),
    "clip_resnet": ClipResNetConfig(
        width=8, layers=(1, 1, 1, 1), projection_dim=16, preprocessing=SMALL_IMAGENET, num_classes=5
    ),
    "osnet": OsnetConfig(channels=(16, 32, 48, 64), feature_dim=20, preprocessing=SMALL_IMAGENET, num_classes=5),
}
"""One config per family, 64x32 pixels, 5 classes, and 3 cameras where the family has a camera embedding."""


def tiny_model(config: ModelConfig, seed: int = 0) -> ReidModel:
    """Build the model with random weights, random statistics and scales in every batch normalisation among them."""
    model = ReidModel.with_seed(config, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            width = module.num_features
            module.running_mean = 0.1 * torch.randn(width, generator=generator)
            module.running_var = 0.5 + torch.rand(width, generator=generator)
            module.weight.data = 1.0 + 0.1 * torch.randn(width, generator=generator)  # CLIP's RN50 starts with zeros
            module.bias.data = 0.1 * torch.randn(width, generator=generator)
    return model


def tiny_images(config: ModelConfig, count: int = 2, seed: int = 0) -> Tensor:
    """Random normalised images (count, 3, H, W) of the config's size."""
    return torch.randn(count, 3, *config.image_size, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def embed(model: ReidModel, images: Tensor | None = None, camera_ids: Tensor | None = None) -> Tensor:
    """Embed images, two random ones where none are given."""
    return model(tiny_images(model.config) if images is None else images, camera_ids)
