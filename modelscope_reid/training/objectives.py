"""The weighted sum that a batch is trained on.

In: a head, the backbone's features of a batch, labels, and CLIP-ReID's text features where there are any. Out: each
loss by name, and their weighted sum. Knows nothing of images, optimisers or processes: in training on several of them
the features are those of the whole batch already.

Sources: PASS-reID (Apache-2.0), CLIP-ReID (MIT) for what is summed; losses.py for each loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from modelscope_reid.errors import InputError
from modelscope_reid.models.heads import Head
from modelscope_reid.training import losses
from modelscope_reid.training.stage_specs import Classifier, LossSpec

MARGIN_CLASSIFIERS: dict[Classifier, Callable[..., Tensor]] = {
    "arcface": losses.arcface_logits,
    "cosface": losses.cosface_logits,
    "circle": losses.circle_logits,
}


def batch_losses(
    head: Head,
    features: tuple[Tensor, ...],
    labels: Tensor,
    spec: LossSpec,
    *,
    text_features: Tensor | None = None,
    centers: tuple[Tensor, ...] = (),
) -> dict[str, Tensor]:
    """Return each loss that `spec` gives a weight, unweighted, summed over the features that it applies to.

    `features` (B, D) each, `labels` (B,) int64, `text_features` (C, P), `centers` (C, D) one per compared feature.

    Raises:
        InputError: a loss that needs text features, and there are none.
    """
    found: dict[str, Tensor] = {}
    if spec.identity:
        classified = zip(head.classified(features), head.classifiers, strict=True)
        logits = [_logits(feature, classifier, labels, spec) for feature, classifier in classified]
        found["identity"] = _sum(losses.identity_loss(each, labels, smoothing=spec.smoothing) for each in logits)
    if spec.triplet:
        found["triplet"] = _sum(
            losses.triplet_loss(feature, labels, margin=spec.margin, normalize=spec.triplet_normalize)
            for feature in head.compared(features)
        )
    if spec.image_to_text:
        if text_features is None:
            raise InputError("the image-to-text loss needs text features; train the prompts first.")
        found["image_to_text"] = losses.image_to_text_loss(
            features[-1], text_features, labels, smoothing=spec.smoothing
        )
    if spec.center:
        pairs = zip(head.compared(features), centers, strict=True)
        found["center"] = _sum(losses.center_loss(feature, center, labels) for feature, center in pairs)
    return found


def weighted_sum(found: Mapping[str, Tensor], spec: LossSpec) -> Tensor:
    """Return the sum of the losses, each times its weight in `spec`: a scalar."""
    return _sum(getattr(spec, name) * loss for name, loss in found.items())


def _logits(feature: Tensor, classifier: nn.Module, labels: Tensor, spec: LossSpec) -> Tensor:
    if spec.classifier == "linear":
        linear: Tensor = classifier(feature)
        return linear
    options = {"scale": spec.classifier_scale, "margin": spec.classifier_margin}
    given = {name: value for name, value in options.items() if value is not None}
    return MARGIN_CLASSIFIERS[spec.classifier](feature, classifier.get_parameter("weight"), labels, **given)


def _sum(terms: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(terms)).sum()
