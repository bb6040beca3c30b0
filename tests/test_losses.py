"""Losses of points on a line and angles on a circle, worked out by hand; slow loops; the published values."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from open_clip.loss import ClipLoss
from torch import Tensor

from modelscope_reid.errors import InputError
from modelscope_reid.training.losses import (
    arcface_logits,
    center_loss,
    circle_logits,
    clip_loss,
    contrastive_loss,
    cosface_logits,
    identity_loss,
    image_to_text_loss,
    triplet_loss,
)

PUBLISHED = json.loads((Path(__file__).parent / "data" / "numbers_salt0.json").read_text())["losses"]

_stream = np.random.RandomState(300)
FEATURES, LOGITS, TEXTS = (
    torch.from_numpy(scale * _stream.standard_normal(shape)).float()
    for scale, shape in ((1.0, (16, 64)), (1.0, (16, 9)), (0.2, (16, 64)))
)
LABELS = torch.arange(4).repeat_interleave(4)
CENTERS = TEXTS[:4]

Loss = Callable[[Tensor], Tensor]
LOSSES: dict[str, Loss] = {
    "identity": lambda features: identity_loss(features, LABELS, smoothing=0.1),
    "triplet": lambda features: triplet_loss(features, LABELS, margin=0.3),
    "triplet_soft": lambda features: triplet_loss(features, LABELS, margin=None),
    "triplet_normalized": lambda features: triplet_loss(features, LABELS, margin=0.3, normalize=True),
    "contrastive": lambda features: contrastive_loss(features, TEXTS, LABELS, LABELS),
    "image_to_text": lambda features: image_to_text_loss(features, CENTERS, LABELS),
    "clip": lambda features: clip_loss(features, TEXTS),
    "center": lambda features: center_loss(features, CENTERS, LABELS),
    "arcface": lambda features: identity_loss(arcface_logits(features, CENTERS, LABELS), LABELS),
    "cosface": lambda features: identity_loss(cosface_logits(features, CENTERS, LABELS), LABELS),
    "circle": lambda features: identity_loss(circle_logits(features, CENTERS, LABELS), LABELS),
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


def column(*places: float) -> Tensor:
    """Points on a line: features (B, 1)."""
    return torch.tensor(places)[:, None]


def directions(*degrees: float, length: float = 1.0) -> Tensor:
    """Points on a circle: features (B, 2)."""
    angles = torch.deg2rad(torch.tensor(degrees))
    return length * torch.stack((angles.cos(), angles.sin()), dim=1)


def gradient(loss: Loss, features: Tensor) -> Tensor:
    leaf = features.clone().requires_grad_()
    loss(leaf).backward()
    assert leaf.grad is not None
    return leaf.grad


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("triplet_margin_0.3", lambda: triplet_loss(FEATURES, LABELS, margin=0.3)),
        ("triplet_soft_margin", lambda: triplet_loss(FEATURES, LABELS, margin=None)),
        ("triplet_normalised_margin_0.3", lambda: triplet_loss(FEATURES, LABELS, margin=0.3, normalize=True)),
        ("label_smoothing_0.1", lambda: identity_loss(LOGITS, LABELS, smoothing=0.1)),
        ("supcon_image_to_text", lambda: contrastive_loss(FEATURES, TEXTS, LABELS, LABELS)),
        ("supcon_text_to_image", lambda: contrastive_loss(TEXTS, FEATURES, LABELS, LABELS)),
    ],
)
def test_parity_with_the_published_code(name: str, loss: Callable[[], Tensor]) -> None:
    assert loss().item() == pytest.approx(PUBLISHED[name], rel=1e-6)


# Identity


def test_identity_loss_by_hand() -> None:
    # Probabilities 3/4 and 1/4, label 0. Plain: log(4/3). Smoothed by 0.2 the target is (0.9, 0.1).
    logits, labels = torch.tensor([[math.log(3.0), 0.0]]), torch.tensor([0])
    assert identity_loss(logits, labels).item() == pytest.approx(math.log(4 / 3))
    expected = 0.9 * math.log(4 / 3) + 0.1 * math.log(4)
    assert identity_loss(logits, labels, smoothing=0.2).item() == pytest.approx(expected)


def test_image_to_text_logits_are_plain_inner_products() -> None:
    # Image (2, 0) against texts (1, 5) and (0, 7): logits 2 and 0, label 1: log(1 + e^2). Unit length would differ.
    found = image_to_text_loss(
        torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 5.0], [0.0, 7.0]]), torch.tensor([1]), smoothing=0.0
    )
    assert found.item() == pytest.approx(math.log(1 + math.e**2))
    # With the default 0.1 the target is (0.05, 0.95): log(1 + e^2) - 0.05 * 2.
    found = image_to_text_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 5.0], [0.0, 7.0]]), torch.tensor([1]))
    assert found.item() == pytest.approx(math.log(1 + math.e**2) - 0.1)


# Triplet


LINE, LINE_LABELS = column(0.0, 1.0, 3.0, 7.0), torch.tensor([0, 0, 1, 1])
"""Furthest own: 1, 1, 4, 4. Nearest other: 3, 2, 2, 6. Gaps: -2, -1, 2, -2."""


def test_triplets_on_a_line() -> None:
    # With margin 0.5: 0, 0, 2.5, 0. With margin 1.5: 0, 0.5, 3.5, 0.
    assert triplet_loss(LINE, LINE_LABELS, margin=0.5).item() == pytest.approx(2.5 / 4)
    assert triplet_loss(LINE, LINE_LABELS, margin=1.5).item() == pytest.approx(4.0 / 4)
    soft = sum(math.log(1 + math.exp(gap)) for gap in (-2, -1, 2, -2)) / 4
    assert triplet_loss(LINE, LINE_LABELS, margin=None).item() == pytest.approx(soft)


def test_gradient_of_a_triplet() -> None:
    # Only anchor 3 loses: |7 - 3| - |1 - 3| = (d - c) - (c - b), so b, c, d get +1, -2, +1, a quarter each.
    found = gradient(lambda features: triplet_loss(features, LINE_LABELS, margin=0.5), LINE)
    torch.testing.assert_close(found, column(0.0, 0.25, -0.5, 0.25))


def test_normalized_triplets_are_chords() -> None:
    # Own at 0 and 60 degrees: chord 1. Other at 180: chords 2 and sqrt(3). It is alone: 0 against sqrt(3).
    features = directions(0.0, 60.0, 180.0) * torch.tensor([[1.0], [10.0], [0.1]])
    expected = (max(0, 1 - 2 + 0.9) + max(0, 1 - math.sqrt(3) + 0.9) + max(0, 0 - math.sqrt(3) + 0.9)) / 3
    found = triplet_loss(features, torch.tensor([0, 0, 1]), margin=0.9, normalize=True)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_an_anchor_alone_is_its_own_positive() -> None:
    # 0 and 3, one image each: both have p = 0, n = 3; margin 5 leaves 2.
    assert triplet_loss(column(0.0, 3.0), torch.tensor([0, 1]), margin=5.0).item() == pytest.approx(2.0)


@pytest.mark.parametrize("margin", [0.3, None])
def test_one_identity_loses_nothing_and_can_be_trained_on(margin: float | None) -> None:
    def loss(features: Tensor) -> Tensor:
        return triplet_loss(features, torch.zeros(4, dtype=torch.int64), margin=margin)

    for features in (LINE, 1e6 * LINE):
        assert loss(features).item() == 0.0
        assert gradient(loss, features).tolist() == [[0.0]] * 4


@pytest.mark.parametrize("margin", [0.3, None])
def test_a_collapsed_batch_has_a_finite_gradient(margin: float | None) -> None:
    found = gradient(lambda features: triplet_loss(features, LABELS, margin=margin), torch.ones(16, 8))
    assert found.isfinite().all()
    # p = n = 0: what is left is the margin, or log 2.
    value = triplet_loss(torch.ones(16, 8), LABELS, margin=margin).item()
    assert value == pytest.approx(math.log(2) if margin is None else margin)


def test_near_points_far_from_the_origin_keep_their_distance() -> None:
    # |x|^2 + |y|^2 - 2xy in float32 gives 0 or 1 here; the gaps are those of the line.
    far = LINE / 1024 + 1000.0
    found = triplet_loss(far, LINE_LABELS, margin=0.5 / 1024).item()
    assert found == pytest.approx(2.5 / 4 / 1024, rel=1e-6)


def slow_triplet(features: Tensor, labels: list[int], margin: float | None) -> float:
    points = features.double().tolist()
    losses = []
    for anchor, label in zip(points, labels, strict=True):
        own = [math.dist(anchor, point) for point, other in zip(points, labels, strict=True) if other == label]
        strangers = [math.dist(anchor, point) for point, other in zip(points, labels, strict=True) if other != label]
        if strangers:
            gap = max(own) - min(strangers)
            losses.append(math.log(1 + math.exp(gap)) if margin is None else max(0.0, gap + margin))
    return sum(losses) / len(losses) if losses else 0.0


@given(
    labels=st.lists(st.integers(0, 3), min_size=1, max_size=40),
    margin=st.sampled_from([None, 0.0, 0.3, 2.0]),
    seed=st.integers(0, 99),
)
def test_triplet_loss_is_the_slow_one(labels: list[int], margin: float | None, seed: int) -> None:
    features = torch.randn(len(labels), 5, generator=torch.Generator().manual_seed(seed))
    found = triplet_loss(features, torch.tensor(labels), margin=margin).item()
    assert found == pytest.approx(slow_triplet(features, labels, margin), rel=1e-5, abs=1e-6)


# Contrastive


def test_contrastive_loss_by_hand() -> None:
    # Feature 2 against others log(2)/2, 0, 0 gives softmax weights 2, 1, 1 of 4. Own are the first two: the mean of
    # log 2 and log 4. At temperature 1/2 the weights are 4, 1, 1 of 6: the mean of log(6/4) and log 6.
    others, other_labels = column(math.log(2) / 2, 0.0, 0.0), torch.tensor([5, 5, 6])
    loss = functools.partial(contrastive_loss, column(2.0), others, torch.tensor([5]), other_labels)
    assert loss().item() == pytest.approx((math.log(2) + math.log(4)) / 2)
    assert loss(temperature=0.5).item() == pytest.approx((math.log(1.5) + math.log(6)) / 2)


def slow_contrastive(
    features: Tensor, others: Tensor, labels: list[int], other_labels: list[int], temperature: float
) -> float:
    losses = []
    for feature, label in zip(features.double(), labels, strict=True):
        weights = [math.exp(float(feature @ other) / temperature) for other in others.double()]
        own = [weight for weight, other in zip(weights, other_labels, strict=True) if other == label]
        if own:
            losses.append(-sum(math.log(weight / sum(weights)) for weight in own) / len(own))
    return sum(losses) / len(losses) if losses else 0.0


@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=12),
    other_labels=st.lists(st.integers(0, 4), min_size=1, max_size=12),
    temperature=st.sampled_from([0.5, 1.0, 3.0]),
)
def test_contrastive_loss_is_the_slow_one(labels: list[int], other_labels: list[int], temperature: float) -> None:
    generator = torch.Generator().manual_seed(len(labels))
    features, others = (torch.randn(len(rows), 4, generator=generator) for rows in (labels, other_labels))
    found = contrastive_loss(
        features, others, torch.tensor(labels), torch.tensor(other_labels), temperature=temperature
    )
    expected = slow_contrastive(features, others, labels, other_labels, temperature)
    assert found.item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_contrastive_loss_without_any_match_is_a_zero_that_can_be_trained_on() -> None:
    def loss(features: Tensor) -> Tensor:
        return contrastive_loss(features, TEXTS, LABELS + 100, LABELS)

    assert loss(FEATURES).item() == 0.0
    assert not gradient(loss, FEATURES).any()


def test_large_products_do_not_overflow() -> None:
    # Inner products of 1e4: e^10000 is no float. The matching text wins by far, so nothing is lost.
    features = 100.0 * torch.eye(2)
    assert contrastive_loss(features, features, torch.tensor([0, 1]), torch.tensor([0, 1])).item() == 0.0


# CLIP


def test_clip_loss_by_hand() -> None:
    # Images at 0 and 90 degrees, both texts at 0; temperature 1/2 makes logits (2, 2), (0, 0). Image to text: log 2
    # each. Text to image: log(1 + e^-2) for the first, log(1 + e^2) for the second. Lengths do not matter.
    images, texts = directions(0.0, 90.0, length=7.0), directions(0.0, 0.0, length=0.1)
    expected = (math.log(2) + (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(2))) / 2) / 2
    assert clip_loss(images, texts, temperature=0.5).item() == pytest.approx(expected)


def test_clip_loss_is_open_clips() -> None:
    images, texts = (torch.nn.functional.normalize(side, dim=1) for side in (FEATURES, TEXTS))
    expected = ClipLoss()(images, texts, logit_scale=torch.tensor(1 / 0.07))
    torch.testing.assert_close(clip_loss(FEATURES, TEXTS), expected)


# Center


def test_center_loss_by_hand() -> None:
    # (3, 4) from (0, 0): 25. (1, 1) from (1, 2): 1. The mean is 13; no half, no root.
    features, centers = torch.tensor([[3.0, 4.0], [1.0, 1.0]]), torch.tensor([[1.0, 2.0], [9.0, 9.0], [0.0, 0.0]])
    labels = torch.tensor([2, 0])
    assert center_loss(features, centers, labels).item() == pytest.approx(13.0)
    # d/dc of |f - c|^2 / 2 images = c - f; the center of no image stays.
    found = gradient(lambda leaf: center_loss(features, leaf, labels), centers)
    assert found.tolist() == [[0.0, 1.0], [0.0, 0.0], [-3.0, -4.0]]


# Margins


def margin_case(angle: float) -> tuple[Tensor, Tensor, Tensor]:
    """One image at `angle` degrees from its class 0; class 1 stands at 90 degrees. Lengths are anything."""
    return directions(angle, length=3.0), directions(0.0, 90.0, length=0.2), torch.tensor([0])


def test_arcface_adds_the_margin_to_the_angle() -> None:
    # 60 degrees from its class and 30 from the other one; a margin of 30 degrees makes 90: cosines 0 and sqrt(3) / 2.
    found = arcface_logits(*margin_case(60.0), scale=10.0, margin=math.pi / 6)
    torch.testing.assert_close(found, torch.tensor([[0.0, 5 * math.sqrt(3)]]), atol=1e-5, rtol=1e-5)


def test_arcface_keeps_falling_beyond_pi() -> None:
    own = torch.cat([arcface_logits(*margin_case(angle), scale=1.0)[:, 0] for angle in range(1, 180)])
    assert (own.diff() < 0).all()
    # At 180 degrees: -1 - 0.5 sin(0.5), where the bare cosine would be back at cos(pi + 0.5) = -0.88.
    found = arcface_logits(*margin_case(180.0), scale=1.0)[0, 0].item()
    assert found == pytest.approx(-1 - 0.5 * math.sin(0.5), rel=1e-6)


@pytest.mark.parametrize("cosine", [1.0, -1.0])
def test_arcface_has_a_finite_gradient_where_the_angle_has_none(cosine: float) -> None:
    # Along the axes the cosine is 1 or -1 to the last bit, where the root under the sine has no slope.
    labels = torch.tensor([0])
    found = gradient(
        lambda leaf: identity_loss(arcface_logits(leaf, torch.eye(2), labels), labels), torch.tensor([[cosine, 0.0]])
    )
    assert found.isfinite().all()


def test_cosface_takes_the_margin_from_the_cosine() -> None:
    # Cosines 1/2 and sqrt(3) / 2; the first loses 0.35.
    found = cosface_logits(*margin_case(60.0), scale=10.0)
    torch.testing.assert_close(found, torch.tensor([[1.5, 5 * math.sqrt(3)]]))


def test_circle_by_hand() -> None:
    # At 60 degrees s = 1/2: weight 1 + 1/4 - 1/2 = 3/4, times 1/2 - 3/4 = -1/4. The other, s = sqrt(3) / 2:
    # (s + 1/4) (s - 1/4) = 3/4 - 1/16 = 11/16. All times 16.
    found = circle_logits(*margin_case(60.0), scale=16.0)
    torch.testing.assert_close(found, torch.tensor([[-3.0, 11.0]]))
    # At 180 + 60 degrees the other class has s = -sqrt(3) / 2, below -1/4: its weight is 0.
    assert circle_logits(*margin_case(240.0))[0, 1].item() == 0.0


def test_no_gradient_flows_through_the_weights_of_circle() -> None:
    # Turning the image by a small angle moves s by -sin(60) and the other by +cos(30): with the weights held, the
    # logits move by -3/4 sqrt(3)/2 and (sqrt(3)/2 + 1/4) sqrt(3)/2.
    _, weight, labels = margin_case(0.0)
    side = torch.tensor([-math.sin(math.pi / 3), math.cos(math.pi / 3)])  # the way an image at 60 degrees turns
    for place, expected in ((0, -0.75 * math.sqrt(3) / 2), (1, (math.sqrt(3) / 2 + 0.25) * 0.5)):
        slope = gradient(lambda leaf, k=place: circle_logits(leaf, weight, labels, scale=1.0)[0, k], directions(60.0))
        assert (slope[0] @ side).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("logits", [arcface_logits, cosface_logits])
def test_a_margin_of_zero_leaves_scaled_cosines(logits: Callable[..., Tensor]) -> None:
    cosines = torch.nn.functional.cosine_similarity(FEATURES[:, None], CENTERS[None], dim=2)
    torch.testing.assert_close(logits(FEATURES, CENTERS, LABELS, scale=8.0, margin=0.0), 8.0 * cosines)


# What all share


@every_loss
def test_a_loss_is_a_finite_float32_scalar_with_gradient(loss: Loss) -> None:
    value = loss(FEATURES)
    assert value.shape == () and value.dtype == torch.float32 and value.item() > 0.0
    found = gradient(loss, FEATURES)
    assert found.isfinite().all() and found.any()


@pytest.mark.parametrize("name", sorted(LOSSES.keys() - {"circle"}))  # circle holds its weights: tested above
def test_the_gradient_is_that_of_finite_differences(name: str) -> None:
    loss = LOSSES[name]
    way = torch.randn(FEATURES.shape, generator=torch.Generator().manual_seed(1))
    step = 1e-3
    slope = (loss(FEATURES + step * way) - loss(FEATURES - step * way)).item() / (2 * step)
    assert (gradient(loss, FEATURES) * way).sum().item() == pytest.approx(slope, rel=2e-2, abs=2e-3)


@every_loss
def test_bfloat16_features_are_computed_on_in_float32(loss: Loss) -> None:
    rounded = FEATURES.bfloat16()
    assert loss(rounded).item() == loss(rounded.float()).item()
    assert gradient(loss, rounded).dtype == torch.bfloat16


@every_loss
def test_autocast_changes_nothing(loss: Loss) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(FEATURES)
    assert value.dtype == torch.float32 and value.item() == loss(FEATURES).item()


@pytest.mark.parametrize(
    "loss",
    [
        lambda features, labels: identity_loss(features, labels),
        lambda features, labels: triplet_loss(features, labels, margin=None),
        lambda features, labels: center_loss(features, features, labels),
    ],
)
def test_off_the_cpu_no_step_waits_for_a_value(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    # A meta tensor has no values: asking for one, as a check of the labels' range would, raises. (Autocast knows no
    # meta device, so that the losses made of products cannot be asked; they share the checks of these.)
    assert loss(FEATURES.to("meta"), LABELS.to("meta")).shape == ()


@given(order=st.permutations(range(16)))
def test_the_order_of_a_batch_does_not_matter(order: list[int]) -> None:
    features, texts, labels = FEATURES[order], TEXTS[order], LABELS[order]
    for name, shuffled in {
        "triplet": triplet_loss(features, labels, margin=0.3),
        "triplet_soft": triplet_loss(features, labels, margin=None),
        "contrastive": contrastive_loss(features, texts, labels, labels),
        "image_to_text": image_to_text_loss(features, CENTERS, labels),
        "clip": clip_loss(features, texts),
        "center": center_loss(features, CENTERS, labels),
        "arcface": identity_loss(arcface_logits(features, CENTERS, labels), labels),
        "circle": identity_loss(circle_logits(features, CENTERS, labels), labels),
    }.items():
        assert shuffled.item() == pytest.approx(LOSSES[name](FEATURES).item(), rel=1e-5)


@pytest.mark.parametrize("labels", [LABELS[:15], LABELS[:, None], LABELS.int(), LABELS.float()])
@pytest.mark.parametrize(
    "loss",
    [
        lambda labels: identity_loss(LOGITS, labels),
        lambda labels: triplet_loss(FEATURES, labels, margin=0.3),
        lambda labels: contrastive_loss(FEATURES, TEXTS, labels, LABELS),
        lambda labels: contrastive_loss(FEATURES, TEXTS, LABELS, labels),
        lambda labels: image_to_text_loss(FEATURES, CENTERS, labels),
        lambda labels: center_loss(FEATURES, CENTERS, labels),
        lambda labels: arcface_logits(FEATURES, CENTERS, labels),
    ],
)
def test_labels_that_do_not_fit(loss: Loss, labels: Tensor) -> None:
    with pytest.raises(InputError, match="give one int64 label per row"):
        loss(labels)


@pytest.mark.parametrize("wrong", [-1, -100, 4])
@pytest.mark.parametrize(
    "loss",
    [
        lambda labels: identity_loss(LOGITS[:, :4], labels),
        lambda labels: image_to_text_loss(FEATURES, CENTERS, labels),
        lambda labels: center_loss(FEATURES, CENTERS, labels),
        lambda labels: arcface_logits(FEATURES, CENTERS, labels),
        lambda labels: cosface_logits(FEATURES, CENTERS, labels),
        lambda labels: circle_logits(FEATURES, CENTERS, labels),
    ],
)
def test_labels_out_of_range(loss: Loss, wrong: int) -> None:
    labels = LABELS.clone()
    labels[5] = wrong
    with pytest.raises(InputError, match="with 4 classes; expected 0 to 3"):
        loss(labels)


@pytest.mark.parametrize(
    "call",
    [
        lambda: contrastive_loss(FEATURES, TEXTS[:, :8], LABELS, LABELS),
        lambda: image_to_text_loss(FEATURES, CENTERS[:, :8], LABELS),
        lambda: center_loss(FEATURES, CENTERS[:, :1], LABELS),  # would broadcast
        lambda: cosface_logits(FEATURES, CENTERS[:, :8], LABELS),
    ],
)
def test_features_of_different_size(call: Callable[[], Tensor]) -> None:
    with pytest.raises(InputError, match="same number of columns"):
        call()


def test_other_wrong_calls() -> None:
    with pytest.raises(InputError, match="give one text per image"):
        clip_loss(FEATURES, TEXTS[:4])
    with pytest.raises(InputError, match="temperature is 0"):
        clip_loss(FEATURES, TEXTS, temperature=0.0)
    with pytest.raises(InputError, match="temperature is -1"):
        contrastive_loss(FEATURES, TEXTS, LABELS, LABELS, temperature=-1.0)
    with pytest.raises(InputError, match="at least one row"):
        triplet_loss(FEATURES[:0], LABELS[:0], margin=0.3)
