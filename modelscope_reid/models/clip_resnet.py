"""CLIP's RN50 as CLIP-ReID runs it, on open_clip's ModifiedResNet.

In: images (B, 3, H, W) float32, normalised. Out: (stage 3 average-pooled, stage 4 average-pooled, attention-pooled
token), each (B, D). Camera ids are ignored, as in the published code. Knows nothing of necks or files.

Sources: CLIP-ReID (Li et al., AAAI 2023; MIT), open_clip (MIT).
"""

from __future__ import annotations

import torch
from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor, nn

from modelscope_reid.config import ClipResNetConfig


class ClipResNet(ModifiedResNet):  # type: ignore[misc]  # open_clip is untyped
    """Last stage with stride 1, so that a 256x128 crop ends as a 16x8 map; positions for that map."""

    def __init__(self, config: ClipResNetConfig) -> None:
        self._last_planes = config.width * 8
        features = config.width * 32
        super().__init__(
            layers=list(config.layers),
            output_dim=config.projection_dim,
            heads=max(1, config.width // 2),
            width=config.width,
        )
        rows, columns = config.grid
        self.attnpool.positional_embedding = nn.Parameter(torch.randn(rows * columns + 1, features) / features**0.5)
        self.feature_dims = (features // 2, features, config.projection_dim)

    def _make_layer(self, planes: int, blocks: int, stride: int = 1) -> nn.Sequential:
        layer: nn.Sequential = super()._make_layer(planes, blocks, 1 if planes == self._last_planes else stride)
        return layer

    def forward(self, images: Tensor, camera_ids: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return (stage 3 pooled (B, 16 w), stage 4 pooled (B, 32 w), attention-pooled (B, P))."""
        third = self.layer3(self.layer2(self.layer1(self.stem(images))))
        fourth = self.layer4(third)
        return third.mean(dim=(2, 3)), fourth.mean(dim=(2, 3)), self.attnpool(fourth)
