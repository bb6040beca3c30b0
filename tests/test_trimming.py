"""Trimming: the same embeddings, the same parameters, less work, the given model untouched."""

from __future__ import annotations

import pytest
import torch
from layouts import LAYOUTS
from tiny import TINY_CONFIGS, embed, tiny_images, tiny_model
from torch import nn

from modelscope_reid.config import VitConfig
from modelscope_reid.runtimes.trimming import ReadTokensBlock, trimmed


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_the_embeddings_are_the_same_and_the_model_stays_as_it_is(layout: str) -> None:
    model = tiny_model(LAYOUTS[layout])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images = tiny_images(model.config, 5)
    expected = embed(model, images)
    twin = trimmed(model)
    assert twin is not model
    assert (embed(twin, images) - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert torch.equal(embed(model, images), expected)
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(("family", "tokens"), [("pass_vit", 4), ("transreid_vit", 1), ("clip_vit", 1)])
def test_the_last_block_of_a_transformer_works_for_the_tokens_that_are_read(family: str, tokens: int) -> None:
    model = tiny_model(TINY_CONFIGS[family])
    last = trimmed(model).backbone.blocks[-1]
    assert isinstance(last, ReadTokensBlock)
    seen: list[torch.Size] = []
    last.mlp.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    tensors = torch.randn(2, 9, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        actual, expected = last(tensors), model.backbone.blocks[-1](tensors)[:, :tokens]
    assert seen == [(2, tokens, 64)]
    assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_weights_of_a_transformer_are_shared_not_copied() -> None:
    model = tiny_model(TINY_CONFIGS["pass_vit"])
    storages = {tensor.untyped_storage().data_ptr() for tensor in model.parameters()}
    assert {tensor.untyped_storage().data_ptr() for tensor in trimmed(model).parameters()} <= storages


def test_a_block_that_is_not_timms_own_is_left_alone() -> None:
    model = tiny_model(TINY_CONFIGS["pass_vit"])
    assert isinstance(model.config, VitConfig)
    model.backbone.blocks[-1] = nn.Sequential(model.backbone.blocks[-1])
    assert trimmed(model) is model
