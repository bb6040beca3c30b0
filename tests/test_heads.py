"""Heads on features of two numbers, worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from modelscope_reid.config import (
    ClipResNetConfig,
    ClipVitConfig,
    ModelConfig,
    OsnetConfig,
    PassVitConfig,
    TransReidConfig,
)
from modelscope_reid.models.heads import HEADS, Head

PASS_FEATURES = tuple(torch.tensor([pair]) for pair in ([1.0, 2.0], [3.0, 0.0], [6.0, 3.0], [0.0, 6.0]))
"""Class token (1, 2); parts (3, 0), (6, 3), (0, 6), whose mean is (3, 3)."""
CLIP_FEATURES = tuple(torch.tensor([pair]) for pair in ([1.0, 2.0], [3.0, 4.0], [5.0, 6.0]))
"""Before the last block (1, 2); after the last norm (3, 4); projected (5, 6)."""


def head_of(config: ModelConfig) -> Head:
    """A head in eval mode whose k-th neck subtracts k + 1 and divides by 2: running mean k + 1, variance 4."""
    head = HEADS[type(config)](config).eval()
    for number, neck in enumerate(head.necks):
        neck.running_mean.fill_(number + 1.0)
        neck.running_var.fill_(4.0 - neck.eps)
    return head


def check(given: Tensor, expected: list[float]) -> None:
    torch.testing.assert_close(given, torch.tensor([expected], dtype=torch.float32))


@pytest.mark.parametrize(
    ("fusion", "neck", "neck_feature", "expected"),
    [
        ("cat", "none", "before", [1, 2, 3, 3]),
        ("cat", "single", "before", [1, 2, 3, 3]),
        ("cat", "multi", "before", [1, 2, 3, 3]),
        ("mean", "multi", "before", [(1 + 3) / 2, (2 + 3) / 2]),
        ("mean", "single", "before", [2, 2.5]),
        ("cat", "single", "after", [(1 - 1) / 2, (2 - 1) / 2, (3 - 1) / 2, (3 - 1) / 2]),
        ("mean", "single", "after", [(2 - 1) / 2, (2.5 - 1) / 2]),
        # Class through neck 1: (0, 0.5). Parts: ((3, 0) - 2) / 2 = (0.5, -1), ((6, 3) - 3) / 2 = (1.5, 0),
        # ((0, 6) - 4) / 2 = (-2, 1); their mean (0, 0).
        ("cat", "multi", "after", [0, 0.5, 0, 0]),
        ("mean", "multi", "after", [0, 0.25]),
    ],
)
def test_pass(fusion: str, neck: str, neck_feature: str, expected: list[float]) -> None:
    config = PassVitConfig(width=2, fusion=fusion, neck=neck, neck_feature=neck_feature)  # type: ignore[arg-type]
    check(head_of(config)(PASS_FEATURES), expected)


@pytest.mark.parametrize(
    ("layout", "neck_feature", "expected"),
    [
        ("clip-reid", "before", [3, 4, 5, 6]),
        ("clip-reid", "after", [(3 - 1) / 2, (4 - 1) / 2, (5 - 2) / 2, (6 - 2) / 2]),
        ("1536", "before", [1, 2, 3, 4]),
    ],
)
def test_clip_vit(layout: str, neck_feature: str, expected: list[float]) -> None:
    config = ClipVitConfig(width=2, projection_dim=2, layout=layout, neck_feature=neck_feature)  # type: ignore[arg-type]
    check(head_of(config)(CLIP_FEATURES), expected)


@pytest.mark.parametrize(("neck_feature", "half"), [("before", 1.0), ("after", 0.0)])
def test_clip_resnet(neck_feature: str, half: float) -> None:
    # Pooled: 64 ones; projected: 2 threes. After: (1 - 1) / 2 = 0 and (3 - 2) / 2 = 0.5.
    config = ClipResNetConfig(width=2, projection_dim=2, neck_feature=neck_feature)  # type: ignore[arg-type]
    features = (torch.zeros(1, 32), torch.ones(1, 64), torch.full((1, 2), 3.0))
    check(head_of(config)(features), [half] * 64 + [3.0 if neck_feature == "before" else 0.5] * 2)


@pytest.mark.parametrize(("neck_feature", "expected"), [("before", [5.0, -1.0]), ("after", [2.0, -1.0])])
def test_transreid(neck_feature: str, expected: list[float]) -> None:
    config = TransReidConfig(width=2, neck_feature=neck_feature)  # type: ignore[arg-type]
    check(head_of(config)((torch.tensor([[5.0, -1.0]]),)), expected)


def test_osnet_gives_its_feature() -> None:
    feature = torch.tensor([[math.pi, 0.0]])
    assert torch.equal(head_of(OsnetConfig(feature_dim=2))((feature,)), feature)


@pytest.mark.parametrize(
    ("config", "necks", "classifiers"),
    [
        (PassVitConfig(width=2, num_classes=7), [2, 2, 2, 2], [(7, 4)]),
        (PassVitConfig(width=2, num_classes=7, neck="single"), [4], [(7, 4)]),
        (PassVitConfig(width=2, num_classes=7, neck="single", fusion="mean"), [2], [(7, 2)]),
        (PassVitConfig(width=2, neck="none"), [], []),
        (TransReidConfig(width=2, num_classes=7), [2], [(7, 2)]),
        (ClipVitConfig(width=2, projection_dim=3, num_classes=7), [2, 3], [(7, 2), (7, 3)]),
        (ClipVitConfig(width=2, projection_dim=3, num_classes=7, layout="1536"), [2, 3], [(7, 2), (7, 3)]),
        (ClipResNetConfig(width=2, projection_dim=3, num_classes=7), [64, 3], [(7, 64), (7, 3)]),
        (OsnetConfig(feature_dim=2, num_classes=7), [], [(7, 2)]),
    ],
)
def test_necks_and_classifiers(config: ModelConfig, necks: list[int], classifiers: list[tuple[int, int]]) -> None:
    head = HEADS[type(config)](config)
    assert [neck.num_features for neck in head.necks] == necks
    assert [tuple(classifier.weight.shape) for classifier in head.classifiers] == classifiers
    biased = isinstance(config, OsnetConfig)
    assert all((classifier.bias is not None) == biased for classifier in head.classifiers)


JOINED = [1.0, 2.0, 3.0, 3.0]
"""PASS_FEATURES, class token and mean of parts."""


@pytest.mark.parametrize("neck_feature", ["before", "after"])
@pytest.mark.parametrize(
    ("fusion", "neck", "compared", "classified"),
    [
        ("cat", "single", JOINED, [0, 0.5, 1, 1]),  # (x - 1) / 2
        ("cat", "multi", JOINED, [0, 0.5, 0, 0]),  # as in test_pass
        ("mean", "single", [2, 2.5], [0.5, 0.75]),
        ("mean", "multi", [2, 2.5], [0, 0.25]),
    ],
)
def test_what_pass_trains_on(
    neck_feature: str, fusion: str, neck: str, compared: list[float], classified: list[float]
) -> None:
    config = PassVitConfig(width=2, fusion=fusion, neck=neck, neck_feature=neck_feature)  # type: ignore[arg-type]
    head = head_of(config)
    check_each(head.compared(PASS_FEATURES), [compared])
    check_each(head.classified(PASS_FEATURES), [classified])


def test_what_pass_without_a_neck_trains_on() -> None:
    head = head_of(PassVitConfig(width=2, neck="none"))
    check_each(head.compared(PASS_FEATURES), [JOINED])
    check_each(head.classified(PASS_FEATURES), [JOINED])


@pytest.mark.parametrize(
    "config",
    [
        ClipVitConfig(width=2, projection_dim=2),
        ClipVitConfig(width=2, projection_dim=2, neck_feature="after"),
        ClipVitConfig(width=2, projection_dim=2, layout="1536"),
    ],
)
def test_what_clip_trains_on(config: ClipVitConfig) -> None:
    head = head_of(config)
    check_each(head.compared(CLIP_FEATURES), [[1, 2], [3, 4], [5, 6]])
    check_each(head.classified(CLIP_FEATURES), [[1, 1.5], [1.5, 2]])  # (x - 1) / 2, (x - 2) / 2


def test_what_clip_without_a_neck_trains_on() -> None:
    head = head_of(ClipVitConfig(width=2, projection_dim=2, neck="none"))
    check_each(head.classified(CLIP_FEATURES), [[3, 4], [5, 6]])


def test_what_clip_resnet_trains_on() -> None:
    head = head_of(ClipResNetConfig(width=2, projection_dim=2))
    features = (torch.zeros(1, 32), torch.ones(1, 64), torch.full((1, 2), 3.0))
    check_each(head.compared(features), [[0] * 32, [1] * 64, [3, 3]])
    check_each(head.classified(features), [[0] * 64, [0.5, 0.5]])


@pytest.mark.parametrize("neck_feature", ["before", "after"])
@pytest.mark.parametrize("family", [TransReidConfig, OsnetConfig])
def test_what_one_feature_trains_on(family: type[ModelConfig], neck_feature: str) -> None:
    width = {"feature_dim": 2} if family is OsnetConfig else {"width": 2}
    features = (torch.tensor([[5.0, -1.0]]),)
    head = head_of(family(neck="single", neck_feature=neck_feature, **width))  # type: ignore[call-arg]
    check_each(head.compared(features), [[5, -1]])
    check_each(head.classified(features), [[2, -1]])
    without = head_of(family(neck="none", **width))  # type: ignore[call-arg]
    check_each(without.classified(features), [[5, -1]])


@pytest.mark.parametrize("neck", ["none", "single"])
def test_osnets_classifier_is_biased_where_no_neck_centres(neck: str) -> None:
    head = HEADS[OsnetConfig](OsnetConfig(feature_dim=2, num_classes=7, neck=neck))  # type: ignore[arg-type]
    assert (head.classifiers[0].bias is not None) == (neck == "none")


def check_each(given: tuple[Tensor, ...], expected: list[list[float]]) -> None:
    assert len(given) == len(expected)
    for feature, values in zip(given, expected, strict=True):
        check(feature, values)
