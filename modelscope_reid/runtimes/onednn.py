"""Linear layers through oneDNN in float32, the same numbers within rounding, for models that run on the CPU.

In: a model. Out: one with the same parameters (shared, not copied) whose `nn.Linear` layers call oneDNN's matrix
product instead of MKL's, which PyTorch uses for them and which is about half as fast on AMD's processors with
AVX-512 (benchmarks/RESULTS.md). Where this build of torch has no oneDNN, the model itself. Knows nothing of images.
"""

from __future__ import annotations

import copy
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class OneDnnLinear(nn.Module):
    """`nn.Linear` by oneDNN; weight (O, I) and bias (O,) are those of the layer it is made from."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """(…, I) -> (…, O)."""
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return product


def is_available() -> bool:
    """Tell whether this build of torch has oneDNN and its linear operator."""
    return torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def twin_of(model: ModuleT) -> ModuleT:
    """Return a copy of the modules of `model` that shares its parameters and buffers."""
    tensors = chain(model.parameters(), model.buffers())
    shared: dict[int, Any] = {id(tensor): tensor for tensor in tensors}  # deepcopy takes these as copied already
    return copy.deepcopy(model, shared)


def with_onednn(model: ModuleT) -> ModuleT:
    """Return `model` with oneDNN's linear layers, for inference in float32 on the CPU; `model` stays as it is."""
    if not is_available():
        return model
    twin = twin_of(model)
    for module in list(twin.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Linear:
                setattr(module, name, OneDnnLinear(child))
    return twin
