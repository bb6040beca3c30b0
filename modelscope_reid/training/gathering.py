"""A batch spread over processes, whole on each.

In: a Lightning module and each process's rows. Out: all rows, in the order of the processes, on every process, with
gradients to the own ones. Losses of the whole batch are then the same number everywhere, and averaging their gradients
over the processes, as DDP does, gives what one process with the whole batch would have.
"""

from __future__ import annotations

from lightning.pytorch import LightningModule
from torch import Tensor


def gather(module: LightningModule, *tensors: Tensor) -> list[Tensor]:
    """Return each tensor (B, …) as (processes x B, …)."""
    if module.trainer.world_size == 1:
        return list(tensors)
    gathered = (module.all_gather(tensor, sync_grads=tensor.requires_grad) for tensor in tensors)
    return [tensor.flatten(0, 1) for tensor in gathered if isinstance(tensor, Tensor)]
