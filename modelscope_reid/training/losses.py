"""Losses of person re-identification, as pure functions of tensors.

In: features or logits of one batch, of any floating dtype and on any device, and int64 labels. Out: a scalar float32
loss with gradient, or float32 logits for `identity_loss`. All is computed in float32, autocast or not. Knows nothing
of models, of how batches are drawn, or of how losses are weighed against each other.

B: images, C: classes (identities), D: numbers per feature, P: numbers per projected (image or text) feature.

Whether labels are within the classes is checked on the CPU only: elsewhere the check would make every step wait for
the device, which stops by itself, with a message of its own, at a label that is out of range.

Sources: PASS-reID (Apache-2.0) and CLIP-ReID (MIT) for identity, triplet, contrastive and image-to-text loss; the
papers named at each function for the others.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from modelscope_reid.errors import InputError

_SMALLEST_SQUARE = 1e-12
"""Floor under a root: its gradient is zero below, where it would have none or be infinite."""


def identity_loss(logits: Tensor, labels: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """Return the mean cross-entropy of logits (B, C) against labels (B,).

    The target is (1 - smoothing) * one-hot + smoothing / C (Szegedy et al., CVPR 2016), as in PASS and CLIP-ReID.

    Raises:
        InputError: shapes that do not fit, labels that are not int64, or labels outside 0..C - 1 (on the CPU).
    """
    _require_classes("logits", logits, labels, classes=logits.shape[-1])
    return F.cross_entropy(logits.float(), labels, label_smoothing=smoothing)


def triplet_loss(features: Tensor, labels: Tensor, *, margin: float | None, normalize: bool = False) -> Tensor:
    """Return the batch-hard triplet loss (Hermans et al., 2017) of features (B, D), by Euclidean distance.

    Per anchor: p, the distance to the furthest image of its identity, and n, to the nearest of another one. Then the
    mean of max(0, p - n + margin), or without a margin (None) of the soft log(1 + exp(p - n)). The anchor itself is
    among its own images, as in the published code: p is 0 where it is alone. A batch of one identity has no n; its
    loss and its gradient are zero. With `normalize`, features are first brought to unit length.

    Raises:
        InputError: shapes that do not fit, or labels that are not int64.
    """
    _require_labels("features", features, labels)
    features = F.normalize(features.float(), dim=1) if normalize else features.float()
    # Differences, not |x|^2 + |y|^2 - 2xy: exact for near pairs, and the gradient at distance 0 is 0.
    distances = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")
    same = labels[:, None] == labels[None, :]
    positive = distances.masked_fill(~same, -math.inf).max(dim=1).values
    negative = distances.masked_fill(same, math.inf).min(dim=1).values
    gap = positive - negative  # -inf without a negative: nothing is lost there, and nothing flows back
    return (F.softplus(gap) if margin is None else F.relu(gap + margin)).mean()


def contrastive_loss(
    features: Tensor, others: Tensor, labels: Tensor, other_labels: Tensor, *, temperature: float = 1.0
) -> Tensor:
    """Return the supervised contrastive loss (Khosla et al., NeurIPS 2020) of features (B, D) against others (M, D).

    Per feature: minus the mean log-probability of the others of its label (M,), by the softmax over all others of
    inner product / temperature. Features are taken as they are, not normalised. Features without a match among the
    others are left out; the loss is zero where none is left. CLIP-ReID's loss is the sum of both directions.

    Raises:
        InputError: shapes that do not fit, labels that are not int64, or a temperature that is not above 0.
    """
    _require_labels("features", features, labels)
    _require_labels("others", others, other_labels)
    _require_positive("temperature", temperature)
    log_probabilities = F.log_softmax(_products(features, others) / temperature, dim=1)
    matches = (labels[:, None] == other_labels[None, :]).float()
    counts = matches.sum(dim=1)
    losses = -(matches * log_probabilities).sum(dim=1) / counts.clamp(min=1.0)
    return losses.sum() / (counts > 0).sum().clamp(min=1)


def image_to_text_loss(
    image_features: Tensor, text_features: Tensor, labels: Tensor, *, smoothing: float = 0.1
) -> Tensor:
    """Return the identity loss of projected images (B, P), the text features (C, P) being the classifier.

    Logits are plain inner products: neither side is normalised, and there is no temperature (CLIP-ReID, AAAI 2023).

    Raises:
        InputError: as for `identity_loss`, or features of different size.
    """
    _require_classes("image_features", image_features, labels, classes=len(text_features))
    return identity_loss(_products(image_features, text_features), labels, smoothing=smoothing)


def clip_loss(image_features: Tensor, text_features: Tensor, *, temperature: float = 0.07) -> Tensor:
    """Return CLIP's symmetric InfoNCE loss (Radford et al., ICML 2021) of B pairs: (B, P) images and (B, P) texts.

    Both sides are normalised here. Row k of one side matches row k of the other and nothing else: two pairs of one
    identity count as different, so draw each identity once per batch where that matters.

    Raises:
        InputError: shapes that do not fit, or a temperature that is not above 0.
    """
    if image_features.ndim != 2 or image_features.shape != text_features.shape or not len(image_features):
        raise InputError(
            f"image_features are {tuple(image_features.shape)} and text_features {tuple(text_features.shape)}; "
            "expected (B, P) twice, B of 1 or more: give one text per image."
        )
    _require_positive("temperature", temperature)
    logits = _cosines(image_features, text_features) / temperature
    pairs = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, pairs) + F.cross_entropy(logits.T, pairs)) / 2


def center_loss(features: Tensor, centers: Tensor, labels: Tensor) -> Tensor:
    """Return the mean over the batch of the squared Euclidean distance of features (B, D) to their centers (C, D).

    Center loss (Wen et al., ECCV 2016) in the scale of Bag of Tricks (Luo et al., CVPRW 2019): a mean where the paper
    has half the sum. Nothing is normalised; features and centers both receive gradient.

    Raises:
        InputError: shapes that do not fit, labels that are not int64, or labels outside 0..C - 1 (on the CPU).
    """
    _require_classes("features", features, labels, classes=len(centers))
    _require_same_size(features, centers)
    return (features.float() - centers.float()[labels]).square().sum(dim=1).mean()


def arcface_logits(
    features: Tensor, weight: Tensor, labels: Tensor, *, scale: float = 30.0, margin: float = 0.5
) -> Tensor:
    """Return ArcFace's logits (B, C) from features (B, D) and class weights (C, D), both normalised here.

    scale * cos(angle), and for the label's class scale * cos(angle + margin), margin in radians (Deng et al., CVPR
    2019). Where angle + margin passes pi the cosine would rise again; there it is cos(angle) - margin * sin(margin),
    as in the published code, which keeps falling.

    Raises:
        InputError: shapes that do not fit, labels that are not int64, or labels outside 0..C - 1 (on the CPU).
    """
    cosines, target = _target_cosines(features, weight, labels)
    sines = (1.0 - target.square()).clamp(min=_SMALLEST_SQUARE).sqrt()
    moved = target * math.cos(margin) - sines * math.sin(margin)
    beyond = target - margin * math.sin(margin)
    return scale * cosines.scatter(1, labels[:, None], torch.where(target > -math.cos(margin), moved, beyond))


def cosface_logits(
    features: Tensor, weight: Tensor, labels: Tensor, *, scale: float = 30.0, margin: float = 0.35
) -> Tensor:
    """Return CosFace's logits (B, C) from features (B, D) and class weights (C, D), both normalised here.

    scale * cos(angle), and for the label's class scale * (cos(angle) - margin) (Wang et al., CVPR 2018).

    Raises:
        InputError: shapes that do not fit, labels that are not int64, or labels outside 0..C - 1 (on the CPU).
    """
    cosines, target = _target_cosines(features, weight, labels)
    return scale * cosines.scatter(1, labels[:, None], target - margin)


def circle_logits(
    features: Tensor, weight: Tensor, labels: Tensor, *, scale: float = 64.0, margin: float = 0.25
) -> Tensor:
    """Return Circle loss's logits (B, C) from features (B, D) and class weights (C, D), both normalised here.

    The classification form of Sun et al. (CVPR 2020), `scale` being its gamma: with s the cosine, for the label's
    class scale * max(0, 1 + margin - s) * (s - 1 + margin), for the others scale * max(0, s + margin) * (s - margin).
    No gradient flows through the two weights in max(...).

    Raises:
        InputError: shapes that do not fit, labels that are not int64, or labels outside 0..C - 1 (on the CPU).
    """
    cosines, target = _target_cosines(features, weight, labels)
    others = F.relu(cosines.detach() + margin) * (cosines - margin)
    own = F.relu(1.0 + margin - target.detach()) * (target - 1.0 + margin)
    return scale * others.scatter(1, labels[:, None], own)


def _products(left: Tensor, right: Tensor) -> Tensor:
    """Return the inner products (B, M) of rows (B, D) and rows (M, D), in float32 under autocast too."""
    _require_same_size(left, right)
    with torch.autocast(left.device.type, enabled=False):
        return left.float() @ right.float().T


def _cosines(left: Tensor, right: Tensor) -> Tensor:
    """Return the cosines (B, M); rounding may leave one a little outside -1..1."""
    return _products(F.normalize(left.float(), dim=1), F.normalize(right.float(), dim=1))


def _target_cosines(features: Tensor, weight: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cosines (B, C) of features and class weights, and those of each label's class (B, 1)."""
    _require_classes("features", features, labels, classes=len(weight))
    cosines = _cosines(features, weight)
    return cosines, cosines.gather(1, labels[:, None])


def _require_labels(name: str, rows: Tensor, labels: Tensor) -> None:
    if rows.ndim != 2 or labels.shape != rows.shape[:1] or labels.dtype != torch.int64 or not len(labels):
        raise InputError(
            f"{name} are {tuple(rows.shape)} with labels {tuple(labels.shape)} {labels.dtype}; expected two dimensions "
            "and at least one row: give one int64 label per row."
        )


def _require_classes(name: str, rows: Tensor, labels: Tensor, *, classes: int) -> None:
    _require_labels(name, rows, labels)
    if labels.device.type != "cpu":
        return
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise InputError(
            f"labels run from {low} to {high} with {classes} classes; expected 0 to {classes - 1}: number the "
            "identities from 0, without gaps."
        )


def _require_same_size(left: Tensor, right: Tensor) -> None:
    if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[1]:
        raise InputError(
            f"features are {tuple(left.shape)} and what they are compared with {tuple(right.shape)}; expected (B, D) "
            "and (M, D): give both the same number of columns."
        )


def _require_positive(name: str, value: float) -> None:
    if not value > 0.0:
        raise InputError(f"{name} is {value}; expected a number above 0.")
