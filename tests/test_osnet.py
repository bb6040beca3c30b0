"""OSNet: torchreid's names and shapes, and the arithmetic of its gate and its streams."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from tiny import TINY_CONFIGS, embed, tiny_images, tiny_model

from modelscope_reid.config import BACKBONES, Preprocessing
from modelscope_reid.models.osnet import ChannelGate, LightConvolution, OmniScaleBlock
from modelscope_reid.models.reid_model import ReidModel

SHAPES = json.loads((Path(__file__).parent / "data" / "state_dict_shapes.json").read_text())


@pytest.mark.parametrize("name", ["osnet_x0_25", "osnet_x0_5", "osnet_x1_0"])
def test_names_and_shapes_are_torchreids(name: str) -> None:
    with torch.device("meta"):
        model = ReidModel(dataclasses.replace(BACKBONES[name], num_classes=751))
    own = {key: list(tensor.shape) for key, tensor in model.backbone.state_dict().items()}
    own |= {
        f"classifier.{key.removeprefix('classifiers.0.')}": list(tensor.shape)
        for key, tensor in model.head.state_dict().items()
    }
    assert own == SHAPES[name]


def test_gate_weighs_each_channel_by_its_mean() -> None:
    # Two channels of means 1 and 3, one hidden unit: relu(1 * 1 + 1 * 3) = 4; logits 0 * 4 + 0 and 1 * 4 - 4, both 0;
    # sigmoid(0) = 0.5 halves both. Without the second bias: sigmoid(4) = 0.982014.
    gate = ChannelGate(2)
    gate.fc1.weight.data, gate.fc1.bias.data = torch.ones(1, 2, 1, 1), torch.zeros(1)
    gate.fc2.weight.data = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1)
    gate.fc2.bias.data = torch.tensor([0.0, -4.0])
    x = torch.tensor([[[0.0, 2.0]], [[2.0, 4.0]]])[None]
    assert gate(x).tolist() == [[[[0.0, 1.0]], [[1.0, 2.0]]]]
    gate.fc2.bias.data.zero_()
    torch.testing.assert_close(gate(x)[0, 1], 0.982014 * x[0, 1], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("layers", "field"), [("conv2a", 3), ("conv2b", 5), ("conv2c", 7), ("conv2d", 9)])
def test_streams_see_3_5_7_and_9_pixels(layers: str, field: int) -> None:
    stream = getattr(OmniScaleBlock(16, 16).eval(), layers)
    for module in stream.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.weight.data.fill_(0.5)
    dot = torch.zeros(1, 4, 13, 13)
    dot[:, :, 6, 6] = 1.0
    seen = stream(dot)[0, 0] > 0
    assert seen.sum().item() == field**2
    assert seen[6 - field // 2 : 7 + field // 2, 6 - field // 2 : 7 + field // 2].all()


def test_light_convolution_is_pointwise_then_depthwise() -> None:
    light = LightConvolution(4)
    assert (light.conv1.kernel_size, light.conv1.groups) == ((1, 1), 1)
    assert (light.conv2.kernel_size, light.conv2.groups) == ((3, 3), 4)


def test_feature_is_not_negative_and_any_size_will_do() -> None:
    config = TINY_CONFIGS["osnet"]
    for size in ((64, 32), (16, 16), (65, 33)):
        embeddings = embed(tiny_model(dataclasses.replace(config, preprocessing=Preprocessing(image_size=size))))
        assert embeddings.shape == (2, 20)
        assert embeddings.min() == 0.0 < embeddings.max()


def test_camera_ids_are_ignored_and_the_map_is_a_sixteenth() -> None:
    model, maps = tiny_model(TINY_CONFIGS["osnet"]), {}
    model.backbone.conv5.register_forward_hook(lambda module, _, out: maps.update(shape=tuple(out.shape)))
    assert torch.equal(embed(model, camera_ids=torch.tensor([5, 6])), embed(model))
    assert maps["shape"] == (2, 64, 4, 2)
    assert tiny_images(model.config).shape == (2, 3, 64, 32)
