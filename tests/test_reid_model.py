"""One network of any family: its shapes, its batches, its seed."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from tiny import TINY_CONFIGS, embed, tiny_images, tiny_model

from modelscope_reid.config import FAMILIES
from modelscope_reid.errors import InputError
from modelscope_reid.models.heads import HEADS
from modelscope_reid.models.reid_model import BACKBONE_MODULES, ReidModel


@pytest.mark.parametrize("family", TINY_CONFIGS)
def test_a_batch_is_its_images_one_by_one(family: str) -> None:
    model = tiny_model(TINY_CONFIGS[family])
    images = tiny_images(model.config, 5)
    together = embed(model, images)
    apart = torch.cat([embed(model, image[None]) for image in images])
    assert together.shape == (5, model.config.embedding_dim) == (5, model.embedding_dim)
    assert together.dtype == torch.float32
    assert (together - apart).norm() / apart.norm() < 1e-5
    differences = torch.cdist(together, together) + torch.eye(5)
    assert differences.min() > 1e-4, "all images have the same embedding, so this test shows nothing"


@pytest.mark.parametrize("family", TINY_CONFIGS)
@pytest.mark.parametrize("shape", [(2, 3, 32, 64), (3, 64, 32), (2, 1, 64, 32), (2, 3, 65, 32), (2, 64, 32, 3)])
def test_wrong_image_shapes(family: str, shape: tuple[int, ...]) -> None:
    model = tiny_model(TINY_CONFIGS[family])
    with pytest.raises(InputError, match=r"images have shape \(.*\); expected \(B, 3, 64, 32\)"):
        embed(model, torch.zeros(shape))


@pytest.mark.parametrize("family", TINY_CONFIGS)
def test_seed_makes_the_weights_and_leaves_the_global_dice_alone(family: str) -> None:
    config = TINY_CONFIGS[family]
    torch.manual_seed(7)
    np.random.seed(7)
    random.seed(7)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    first = ReidModel.with_seed(config, 3).state_dict()
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]
    assert random.getstate() == states[2]
    torch.manual_seed(8)
    again, other = ReidModel.with_seed(config, 3).state_dict(), ReidModel.with_seed(config, 4).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("family", TINY_CONFIGS)
def test_a_seeded_model_is_ready_to_use(family: str) -> None:
    model = ReidModel.with_seed(TINY_CONFIGS[family])
    assert not any(module.training for module in model.modules())
    assert torch.equal(embed(model), embed(model))
    assert embed(model).isfinite().all()


def test_every_family_has_a_backbone_and_a_head() -> None:
    assert set(BACKBONE_MODULES) == set(HEADS) == set(FAMILIES.values())


@pytest.mark.parametrize("family", TINY_CONFIGS)
def test_gradients_reach_every_weight_that_the_embedding_uses(family: str) -> None:
    model = tiny_model(TINY_CONFIGS[family])
    model(tiny_images(model.config), None).square().sum().backward()
    untouched = [
        name for name, parameter in model.backbone.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum() > 0
    ]  # fmt: skip
    # A bias of the keys shifts all scores alike, so its gradient is rounding or zero; OSNet's gates of one hidden unit
    # may be shut by their ReLU.
    assert [name for name in untouched if "k_proj.bias" not in name and ".gate." not in name] == []
