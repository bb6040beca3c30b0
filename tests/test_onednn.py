"""oneDNN's linear layers: the same numbers, shared parameters, the given model untouched."""

from __future__ import annotations

import pytest
import torch
from tiny import TINY_CONFIGS
from torch import nn

from modelscope_reid.models.reid_model import ReidModel
from modelscope_reid.runtimes import onednn
from modelscope_reid.runtimes.onednn import OneDnnLinear, with_onednn


@pytest.mark.parametrize("family", sorted(TINY_CONFIGS))
def test_the_twin_gives_the_same_embeddings(family: str) -> None:
    model = ReidModel.with_seed(TINY_CONFIGS[family])
    images = torch.randn(3, 3, *model.config.image_size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, actual = model(images), with_onednn(model)(images)
    assert torch.linalg.vector_norm(actual - expected) <= 1e-6 * torch.linalg.vector_norm(expected)


def test_parameters_are_shared_and_the_model_stays_as_it_is() -> None:
    model = ReidModel.with_seed(TINY_CONFIGS["pass_vit"])
    twin = with_onednn(model)
    if twin is model:
        pytest.fail("this torch has no oneDNN; the CPU builds of every platform that CI runs on have it")
    assert {id(tensor) for tensor in twin.parameters()} == {id(tensor) for tensor in model.parameters()}
    assert not any(isinstance(module, OneDnnLinear) for module in model.modules())
    assert not any(type(module) is nn.Linear for module in twin.modules())
    assert twin.state_dict().keys() == model.state_dict().keys()


def test_layers_without_bias_and_empty_batches() -> None:
    model = nn.Sequential(nn.Linear(4, 3, bias=False))
    x = torch.arange(8.0).reshape(2, 4)
    with torch.inference_mode():
        torch.testing.assert_close(with_onednn(model)(x), model(x))


def test_a_torch_without_onednn_gets_its_model_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "is_available", lambda: False)
    model = nn.Sequential(nn.Linear(4, 3))
    assert with_onednn(model) is model
