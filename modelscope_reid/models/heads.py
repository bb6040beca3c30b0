"""Heads: join a backbone's features into one embedding, and carry the necks and classifiers that training uses.

In: the tuple of features (B, D) of one backbone. Out: the embedding (B, E), not normalised. A neck is a batch
normalisation (BNNeck); "before" and "after" say on which side of it the embedding is taken. Knows nothing of
images or files.

Sources: BNNeck (Luo et al., CVPRW 2019); the layouts are those of PASS-reID (Apache-2.0) and CLIP-ReID (MIT).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

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


class Head(nn.Module):
    """Necks of the given widths, and one classifier per entry of `classifier_dims` where there are classes."""

    def __init__(
        self, neck_dims: Sequence[int], classifier_dims: Sequence[int], *, classes: int, bias: bool = False
    ) -> None:
        super().__init__()
        self.necks = nn.ModuleList(nn.BatchNorm1d(width) for width in neck_dims)
        self.classifiers = nn.ModuleList()
        for width in classifier_dims if classes else ():
            classifier = nn.Linear(width, classes, bias=bias)
            nn.init.normal_(classifier.weight, std=0.001)
            self.classifiers.append(classifier)

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        """Return the embedding (B, E)."""
        raise NotImplementedError

    def compared(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the features (B, D) that training compares by distance: before the necks."""
        raise NotImplementedError

    def classified(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return what each classifier is given in training, (B, D): after the necks, where there are any."""
        raise NotImplementedError


class PassHead(Head):
    """[class ‖ mean of parts], or (class + mean of parts) / 2; a neck each, or one over the joined feature."""

    def __init__(self, config: PassVitConfig) -> None:
        necks = {
            "none": [],
            "single": [config.embedding_dim],
            "multi": [config.width] * (1 + config.part_tokens),
        }
        super().__init__(necks[config.neck], [config.embedding_dim], classes=config.num_classes)
        self.multi, self.cat = config.neck == "multi", config.fusion == "cat"
        self.after = config.neck_feature == "after"

    def _join(self, features: tuple[Tensor, ...]) -> Tensor:
        parts = torch.stack(features[1:]).mean(dim=0)
        return torch.cat((features[0], parts), dim=1) if self.cat else (features[0] + parts) / 2

    def _after_necks(self, features: tuple[Tensor, ...]) -> Tensor:
        if self.multi:
            return self._join(tuple(neck(feature) for neck, feature in zip(self.necks, features, strict=True)))
        joined = self._join(features)
        for neck in self.necks:
            joined = neck(joined)
        return joined

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        """Return (B, 2 D) with cat, (B, D) with mean."""
        return self._after_necks(features) if self.after else self._join(features)

    def compared(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the joined feature."""
        return (self._join(features),)

    def classified(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the joined feature, each part or the whole after its neck."""
        return (self._after_necks(features),)


class ClipHead(Head):
    """CLIP-ReID's two-part embedding from (last, pooled, projected), each part with a neck of its own."""

    def __init__(self, config: ClipVitConfig | ClipResNetConfig) -> None:
        pooled = config.width * 32 if isinstance(config, ClipResNetConfig) else config.width
        dims = [pooled, config.projection_dim]
        super().__init__(dims if config.neck == "single" else [], dims, classes=config.num_classes)
        self.clip_reid = isinstance(config, ClipResNetConfig) or config.layout == "clip-reid"
        self.after = config.neck_feature == "after"

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        """Return [pooled ‖ projected], or [last ‖ pooled] in the 1536 layout."""
        last, pooled, projected = features
        if not self.clip_reid:
            return torch.cat((last, pooled), dim=1)
        if self.after:
            pooled, projected = self.classified(features)
        return torch.cat((pooled, projected), dim=1)

    def compared(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return (last, pooled, projected)."""
        return features

    def classified(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return (pooled, projected), each after its neck."""
        if not self.necks:
            return features[1:]
        return tuple(neck(feature) for neck, feature in zip(self.necks, features[1:], strict=True))


class SingleHead(Head):
    """One feature as it is, or after its neck."""

    def __init__(self, config: TransReidConfig | OsnetConfig) -> None:
        dim = config.embedding_dim
        has_neck = config.neck == "single"
        super().__init__(
            [dim] if has_neck else [],
            [dim],
            classes=config.num_classes,
            bias=isinstance(config, OsnetConfig) and not has_neck,
        )
        self.after = config.neck_feature == "after"

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        """Return (B, D)."""
        return self.classified(features)[0] if self.after else features[0]

    def compared(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the feature."""
        return features

    def classified(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the feature after its neck, where it has one."""
        return tuple(neck(features[0]) for neck in self.necks) or features


HEADS: dict[type[ModelConfig], Callable[[Any], Head]] = {
    PassVitConfig: PassHead,
    TransReidConfig: SingleHead,
    ClipVitConfig: ClipHead,
    ClipResNetConfig: ClipHead,
    OsnetConfig: SingleHead,
}
