"""One re-identification network: a backbone and a head.

In: images (B, 3, H, W) float32, RGB, normalised with the config's mean and std. Out: embeddings (B, D) float32,
as the model gives them, not of unit length. Knows nothing of image files, checkpoints' origins or devices.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modelscope_reid.config import (
    ClipResNetConfig,
    ClipVitConfig,
    ModelConfig,
    OsnetConfig,
    PassVitConfig,
    TransReidConfig,
)
from modelscope_reid.errors import InputError
from modelscope_reid.models.clip_resnet import ClipResNet
from modelscope_reid.models.heads import HEADS
from modelscope_reid.models.osnet import Osnet
from modelscope_reid.models.vit import ClipVit, PassVit

BACKBONE_MODULES: dict[type[ModelConfig], type[nn.Module]] = {
    PassVitConfig: PassVit,
    TransReidConfig: PassVit,
    ClipVitConfig: ClipVit,
    ClipResNetConfig: ClipResNet,
    OsnetConfig: Osnet,
}


class ReidModel(nn.Module):
    """Backbone + head of `config`; weights are random until a checkpoint fills them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = BACKBONE_MODULES[type(config)](config)
        self.head = HEADS[type(config)](config)

    @classmethod
    def with_seed(cls, config: ModelConfig, seed: int = 0) -> ReidModel:
        """Build a model in eval mode whose random weights are the same for the same seed and torch version."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which seeds every accelerator too
            return cls(config).eval()

    @property
    def embedding_dim(self) -> int:
        """Numbers per image."""
        return self.config.embedding_dim

    def forward(self, images: Tensor, camera_ids: Tensor | None = None) -> Tensor:
        """Embed images (B, 3, H, W) -> (B, D).

        `camera_ids` (B,) int64 counts cameras from 0 in the order of training; -1 is an unknown camera. A model
        with camera embeddings takes None for "all unknown" and then adds the mean of its cameras' embeddings;
        a model without them ignores the argument.

        Raises:
            InputError: images of another shape than the config's, or a camera id out of range.
        """
        height, width = self.config.image_size
        if images.ndim != 4 or images.shape[1:] != (3, height, width):
            raise InputError(f"images have shape {tuple(images.shape)}; expected (B, 3, {height}, {width}).")
        embeddings: Tensor = self.head(self.backbone(images, camera_ids))
        return embeddings
