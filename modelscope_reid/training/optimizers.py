"""Optimisers with a rate per parameter, and the rate of each epoch.

In: named parameters and an `OptimizerSpec`. Out: a torch optimiser whose groups remember their full rate
("base_rate"), so that an epoch's rate is a function of the epoch alone. Knows nothing of models or losses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import nn
from torch.optim import Optimizer

from modelscope_reid.training.schedules import Schedule, learning_rate
from modelscope_reid.training.stage_specs import OptimizerSpec


def make_optimizer(
    parameters: Iterable[tuple[str, nn.Parameter]],
    spec: OptimizerSpec,
    *,
    rates: Mapping[str, float] | None = None,
    undecayed: Iterable[str] = (),
) -> Optimizer:
    """Return the optimiser of all parameters that want a gradient.

    A parameter whose name starts with a key of `rates` learns at that rate; every bias at `bias_factor` times its
    rate. Those whose names start with one of `undecayed` have no weight decay.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in parameters:
        if parameter.requires_grad:
            rate = next((value for key, value in (rates or {}).items() if name.startswith(key)), spec.learning_rate)
            rate *= spec.bias_factor if name.endswith("bias") else 1.0
            decay = 0.0 if name.startswith(tuple(undecayed)) else spec.weight_decay
            groups.setdefault((rate, decay), []).append(parameter)
    settings = [
        {"params": members, "lr": rate, "base_rate": rate, "weight_decay": decay}
        for (rate, decay), members in groups.items()
    ]
    if spec.kind == "sgd":
        return torch.optim.SGD(settings, lr=spec.learning_rate, momentum=spec.momentum)
    if spec.kind == "adamw":
        return torch.optim.AdamW(settings, lr=spec.learning_rate)
    return torch.optim.Adam(settings, lr=spec.learning_rate)


def set_epoch_rates(optimizer: Optimizer, schedule: Schedule, epoch: int, *, epochs: int) -> None:
    """Give every group the rate of `epoch`, counted from 0."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(schedule, group["base_rate"], epoch, epochs=epochs)
