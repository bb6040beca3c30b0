"""Folding: no batch normalisation is left after a convolution, and the numbers stay."""

from __future__ import annotations

import pytest
from tiny import TINY_CONFIGS, embed, tiny_images, tiny_model
from torch import nn

from modelscope_reid.runtimes.folding import folded


@pytest.mark.parametrize("family", ["clip_resnet", "osnet"])
def test_every_normalisation_of_a_convolution_is_folded(family: str) -> None:
    model = tiny_model(TINY_CONFIGS[family])
    images = tiny_images(model.config, 3)
    expected = embed(model, images)
    twin = folded(model)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in twin.modules())
    assert sum(isinstance(module, nn.BatchNorm2d) for module in model.modules()) > 10
    assert (embed(twin, images) - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in twin.modules())


def test_a_model_without_convolutions_to_fold_is_returned_as_it_is() -> None:
    model = tiny_model(TINY_CONFIGS["pass_vit"])
    assert folded(model) is model
