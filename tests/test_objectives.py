"""The sum that a batch is trained on: which feature goes to which loss, and with what weight."""

from __future__ import annotations

import math

import pytest
import torch
from tiny import TINY_CONFIGS, tiny_model
from torch import Tensor

from modelscope_reid.config import OsnetConfig
from modelscope_reid.errors import InputError
from modelscope_reid.models.heads import HEADS, Head
from modelscope_reid.training import losses
from modelscope_reid.training.objectives import batch_losses, weighted_sum
from modelscope_reid.training.stage_specs import LossSpec

LABELS = torch.tensor([0, 0, 1, 1, 4, 4])


def head_and_features(family: str) -> tuple[Head, tuple[Tensor, ...]]:
    model = tiny_model(TINY_CONFIGS[family])
    generator = torch.Generator().manual_seed(0)
    features = tuple(torch.randn(6, dim, generator=generator) for dim in model.backbone.feature_dims)
    for classifier in model.head.classifiers:  # a start of 0.001 would make all logits alike
        classifier.weight.data.normal_(generator=generator)
    return model.head.eval(), features


def one_feature_head() -> tuple[Head, tuple[Tensor, ...]]:
    """Features (0, 0), (3, 4), (0, 1): people 0, 0 and 1; the classifier's rows are (1, 0) and (0, 1)."""
    head = HEADS[OsnetConfig](OsnetConfig(feature_dim=2, num_classes=2))
    head.classifiers[0].weight.data = torch.eye(2)
    head.classifiers[0].bias.data.zero_()
    return head, (torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]]),)


def test_worked_out_by_hand() -> None:
    head, features = one_feature_head()
    labels = torch.tensor([0, 0, 1])
    spec = LossSpec(identity=0.5, triplet=2.0, margin=0.3, center=0.1)
    found = batch_losses(head, features, labels, spec, centers=(torch.tensor([[0.0, 0.0], [0.0, 3.0]]),))
    # Logits are the features. log 2 for (0, 0); log(1 + e) for (3, 4), whose own is 1 below; log(1 + 1/e) for (0, 1).
    identity = (math.log(2) + math.log(1 + math.e) + math.log(1 + math.exp(-1))) / 3
    # Furthest own: 5, 5, 0. Nearest other: 1, sqrt(9 + 9), 1. Gap + 0.3: 4.3, 5.3 - sqrt(18), below 0.
    triplet = (4.3 + 5.3 - math.sqrt(18)) / 3
    center = (0 + 25 + 4) / 3
    assert {name: loss.item() for name, loss in found.items()} == pytest.approx(
        {"identity": identity, "triplet": triplet, "center": center}
    )
    assert weighted_sum(found, spec).item() == pytest.approx(0.5 * identity + 2.0 * triplet + 0.1 * center)


@pytest.mark.parametrize(("family", "classified", "compared"), [("clip_vit", 2, 3), ("clip_resnet", 2, 3)])
def test_clip_sums_over_its_features(family: str, classified: int, compared: int) -> None:
    head, features = head_and_features(family)
    assert len(head.classified(features)) == classified and len(head.compared(features)) == compared
    found = batch_losses(head, features, LABELS, LossSpec(smoothing=0.1, margin=0.3))
    logits = [
        classifier(neck(part))
        for classifier, neck, part in zip(head.classifiers, head.necks, features[1:], strict=True)
    ]
    identity = sum(losses.identity_loss(each, LABELS, smoothing=0.1) for each in logits)
    triplet = sum(losses.triplet_loss(feature, LABELS, margin=0.3) for feature in features)
    torch.testing.assert_close(found, {"identity": identity, "triplet": triplet})


def test_pass_compares_before_the_neck_and_classifies_after_it() -> None:
    head, features = head_and_features("pass_vit")
    found = batch_losses(head, features, LABELS, LossSpec())
    joined = torch.cat((features[0], (features[1] + features[2] + features[3]) / 3), dim=1)
    torch.testing.assert_close(found["triplet"], losses.triplet_loss(joined, LABELS, margin=None))
    class_token, *parts = (neck(feature) for neck, feature in zip(head.necks, features, strict=True))
    logits = head.classifiers[0](torch.cat((class_token, sum(parts) / 3), dim=1))
    torch.testing.assert_close(found["identity"], losses.identity_loss(logits, LABELS))


def test_triplet_options_are_passed_on() -> None:
    head, features = head_and_features("transreid_vit")

    def triplet(**options: object) -> Tensor:
        return batch_losses(head, features, LABELS, LossSpec(identity=0.0, **options))["triplet"]  # type: ignore[arg-type]

    torch.testing.assert_close(triplet(margin=0.3), losses.triplet_loss(features[0], LABELS, margin=0.3))
    normalized = losses.triplet_loss(features[0], LABELS, margin=None, normalize=True)
    torch.testing.assert_close(triplet(triplet_normalize=True), normalized)


def test_images_are_classified_by_text() -> None:
    head, features = head_and_features("clip_vit")
    texts = torch.randn(5, 32, generator=torch.Generator().manual_seed(3))
    spec = LossSpec(identity=0.0, triplet=0.0, image_to_text=0.7, smoothing=0.2)
    found = batch_losses(head, features, LABELS, spec, text_features=texts)
    expected = losses.identity_loss(features[2] @ texts.T, LABELS, smoothing=0.2)
    torch.testing.assert_close(found, {"image_to_text": expected})
    torch.testing.assert_close(weighted_sum(found, spec), 0.7 * expected)
    with pytest.raises(InputError, match="the image-to-text loss needs text features; train the prompts first"):
        batch_losses(head, features, LABELS, spec)


def test_a_weight_of_zero_leaves_a_loss_out() -> None:
    head, features = head_and_features("transreid_vit")
    assert set(batch_losses(head, features, LABELS, LossSpec(triplet=0.0))) == {"identity"}
    assert set(batch_losses(head, features, LABELS, LossSpec(identity=0.0))) == {"triplet"}


@pytest.mark.parametrize("kind", ["arcface", "cosface", "circle"])
def test_margin_classifiers(kind: str) -> None:
    head, features = head_and_features("transreid_vit")
    logits_of = getattr(losses, f"{kind}_logits")
    neck, weight = head.necks[0], head.classifiers[0].weight

    def identity(**options: float) -> Tensor:
        spec = LossSpec(triplet=0.0, classifier=kind, **options)  # type: ignore[arg-type]
        return batch_losses(head, features, LABELS, spec)["identity"]

    published = losses.identity_loss(logits_of(neck(features[0]), weight, LABELS), LABELS)
    torch.testing.assert_close(identity(), published)
    logits = logits_of(neck(features[0]), weight, LABELS, scale=10.0, margin=0.1)
    own = identity(classifier_scale=10.0, classifier_margin=0.1)
    torch.testing.assert_close(own, losses.identity_loss(logits, LABELS))
    assert not torch.isclose(own, published)


def test_centers_are_pulled_and_pull() -> None:
    head, features = one_feature_head()
    center = torch.tensor([[1.0, 0.0], [0.0, 0.0]], requires_grad=True)
    features[0].requires_grad_(True)
    spec = LossSpec(identity=0.0, triplet=0.0, center=1.0)
    weighted_sum(batch_losses(head, features, torch.tensor([0, 0, 1]), spec, centers=(center,)), spec).backward()
    # d/dc of the mean of |f - c|^2: 2/3 of the sum of c - f. Person 0: (1, 0) + (-2, -4); person 1: (0, -1).
    torch.testing.assert_close(center.grad, 2 / 3 * torch.tensor([[-1.0, -4.0], [0.0, -1.0]]))
    torch.testing.assert_close(features[0].grad, 2 / 3 * torch.tensor([[-1.0, 0.0], [2.0, 4.0], [0.0, 1.0]]))
