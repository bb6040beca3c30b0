"""Modules to be scripted; no `from __future__ import annotations` here, which TorchScript cannot read."""

import torch
from torch import Tensor, nn


class Plain(nn.Module):
    """A module with a parameter and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(3.0))
        self.register_buffer("count", torch.tensor(7))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight


class RunsCode(nn.Module):
    """Its archive runs `__setstate__` when it is opened, which here makes a file."""

    def __init__(self, trace: str) -> None:
        super().__init__()
        self.trace = trace
        self.weight = torch.ones(3)

    def forward(self, x: Tensor) -> Tensor:
        return x

    @torch.jit.export
    def __getstate__(self) -> tuple[str, Tensor, bool]:
        return self.trace, self.weight, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, Tensor, bool]) -> None:
        self.trace = state[0]
        self.training = state[2]
        self.weight = torch.from_file(state[0], shared=True, size=8)
