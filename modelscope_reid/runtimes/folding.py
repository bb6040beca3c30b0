"""Batch normalisations folded into the convolutions before them, for inference: the same numbers within rounding.

In: a `ReidModel`. Out: a twin without the batch normalisations that follow a convolution directly. Which do is seen
by running it once, so this module knows nothing of how backbones name or order their layers; it takes it that nobody
else reads what a convolution gives its normalisation.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.hooks import RemovableHandle

from modelscope_reid.models.reid_model import ReidModel
from modelscope_reid.runtimes.onednn import twin_of


def folded(model: ReidModel) -> ReidModel:
    """Return a twin of `model` in eval mode, whose convolutions do the work of their batch normalisations.

    A model without such pairs is returned as it is. Parameters that are not folded are shared, not copied.
    """
    twin = twin_of(model).eval()
    pairs = _pairs(twin)
    for convolution, normalisation in pairs:
        _replace(twin, convolution, fuse_conv_bn_eval(convolution, normalisation))
        _replace(twin, normalisation, nn.Identity())
    return twin if pairs else model


def _pairs(model: ReidModel) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Return each convolution whose output goes to a batch normalisation, with it, in the order of running."""
    makers: dict[int, tuple[Tensor, nn.Conv2d]] = {}  # by the tensor's id, which is its own while it is kept
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def made(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        makers[id(output)] = (output, module)

    def taken(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, nn.BatchNorm2d)
        if id(inputs[0]) in makers:
            pairs.append((makers[id(inputs[0])][1], module))

    handles: list[RemovableHandle] = []
    for module in model.modules():
        if type(module) is nn.Conv2d:
            handles.append(module.register_forward_hook(made))
        elif type(module) is nn.BatchNorm2d:
            handles.append(module.register_forward_pre_hook(taken))
    try:
        with torch.no_grad():
            device = next(model.parameters()).device
            model(torch.zeros(1, 3, *model.config.image_size, device=device))
    finally:
        for handle in handles:
            handle.remove()
    # A layer that runs twice has other company each time.
    return [pair for pair in pairs if sum(pair[0] is other[0] or pair[1] is other[1] for other in pairs) == 1]


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for module in model.modules():
        for name, child in module.named_children():
            if child is old:
                setattr(module, name, new)
