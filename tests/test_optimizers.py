"""Which parameter learns at which rate, with which decay, and how an epoch changes it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from modelscope_reid.training.optimizers import make_optimizer, set_epoch_rates
from modelscope_reid.training.schedules import Schedule
from modelscope_reid.training.stage_specs import OptimizerSpec

NAMES = ("backbone.weight", "backbone.bias", "attn.in_proj_bias", "centers.0", "text.token.weight", "bias_free.weight")


def parameters(*names: str) -> list[tuple[str, nn.Parameter]]:
    return [(name, nn.Parameter(torch.ones(2))) for name in names or NAMES]


def by_name(optimizer: Optimizer, named: list[tuple[str, nn.Parameter]]) -> dict[str, dict[str, Any]]:
    """The group of each parameter that is trained."""
    names = {id(value): name for name, value in named}
    groups = {names[id(value)]: group for group in optimizer.param_groups for value in group["params"]}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(groups)
    return groups


def test_rates_and_decay_by_name() -> None:
    named = parameters()
    spec = OptimizerSpec(kind="sgd", learning_rate=0.01, weight_decay=0.1, bias_factor=2.0)
    optimizer = make_optimizer(named, spec, rates={"centers.": 0.5, "text.": 0.003}, undecayed=("centers.",))
    groups = by_name(optimizer, named)
    assert {name: (group["lr"], group["base_rate"], group["weight_decay"]) for name, group in groups.items()} == {
        "backbone.weight": (0.01, 0.01, 0.1),
        "backbone.bias": (0.02, 0.02, 0.1),
        "attn.in_proj_bias": (0.02, 0.02, 0.1),
        "centers.0": (0.5, 0.5, 0.0),
        "text.token.weight": (0.003, 0.003, 0.1),
        "bias_free.weight": (0.01, 0.01, 0.1),
    }
    assert len(optimizer.param_groups) == 4


def test_a_bias_with_a_rate_of_its_own_is_faster_too() -> None:
    named = parameters("text.bias")
    spec = OptimizerSpec(learning_rate=1.0, bias_factor=2.0)
    assert by_name(make_optimizer(named, spec, rates={"text.": 0.25}), named)["text.bias"]["lr"] == 0.5


def test_frozen_parameters_are_left_out() -> None:
    named = parameters("a.weight", "b.weight")
    named[0][1].requires_grad_(False)
    assert set(by_name(make_optimizer(named, OptimizerSpec()), named)) == {"b.weight"}


@pytest.mark.parametrize(("kind", "expected"), [("sgd", SGD), ("adam", Adam), ("adamw", AdamW)])
def test_kinds(kind: Any, expected: type[Optimizer]) -> None:
    optimizer = make_optimizer(parameters(), OptimizerSpec(kind=kind, momentum=0.7))
    assert type(optimizer) is expected
    assert optimizer.param_groups[0].get("momentum") == (0.7 if kind == "sgd" else None)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        # Gradient 0, weight 1, decay 0.5, rate 0.1. sgd moves by 0.1 * 0.5; adam by its rate, whatever the size of the
        # gradient 0.5 that the decay makes; adamw's decay is outside: 1 - 0.1 * 0.5.
        ("sgd", 0.95),
        ("adam", 0.9),
        ("adamw", 0.95),
    ],
)
def test_one_step_of_decay(kind: Any, expected: float) -> None:
    weight = nn.Parameter(torch.ones(1))
    optimizer = make_optimizer([("weight", weight)], OptimizerSpec(kind=kind, learning_rate=0.1, weight_decay=0.5))
    weight.grad = torch.zeros(1)
    optimizer.step()
    assert weight.item() == pytest.approx(expected, abs=1e-6)


def test_the_rate_of_an_epoch_does_not_depend_on_those_before() -> None:
    named = parameters()
    spec = OptimizerSpec(learning_rate=1.0, bias_factor=2.0)
    optimizer = make_optimizer(named, spec, rates={"centers.": 0.5})
    schedule = Schedule(kind="steps", milestones=(2, 4), gamma=0.1)
    for epoch, factor in ((5, 0.01), (0, 1.0), (1, 0.1), (1, 0.1)):  # epoch 1, counted from 0, is the second
        set_epoch_rates(optimizer, schedule, epoch, epochs=9)
        groups = by_name(optimizer, named)
        assert groups["backbone.weight"]["lr"] == pytest.approx(factor)
        assert groups["backbone.bias"]["lr"] == pytest.approx(2 * factor)
        assert groups["centers.0"]["lr"] == pytest.approx(0.5 * factor)


def test_rates_are_those_of_a_resumed_optimiser() -> None:
    spec = OptimizerSpec(learning_rate=1.0)
    schedule = Schedule(kind="cosine")
    first = make_optimizer(parameters(), spec)
    set_epoch_rates(first, schedule, 3, epochs=5)
    second = make_optimizer(parameters(), spec)
    second.load_state_dict(first.state_dict())
    set_epoch_rates(second, schedule, 0, epochs=5)
    set_epoch_rates(first, schedule, 0, epochs=5)
    assert [group["lr"] for group in second.param_groups] == [group["lr"] for group in first.param_groups]
    assert second.param_groups[0]["lr"] > 0.9
