"""A batch spread over processes: its rows in the order of the processes, with gradients to the own ones."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from modelscope_reid.training.gathering import gather

FEATURES = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[5.0, 6.0], [7.0, 8.0]])
LABELS = torch.tensor([0, 1]), torch.tensor([2, 3])
"""What process 0 and process 1 have."""


class OneOfTwo:
    """Process `rank` of two, as a Lightning module shows it; `others` are the other's tensors, in the order asked."""

    def __init__(self, rank: int, *others: Tensor) -> None:
        self.trainer = SimpleNamespace(world_size=2)
        self.rank, self.others = rank, list(others)
        self.synced: list[bool] = []

    def all_gather(self, tensor: Tensor, sync_grads: bool = False) -> Tensor:
        self.synced.append(sync_grads)
        own, other = tensor if sync_grads else tensor.detach(), self.others.pop(0)
        return torch.stack((own, other) if self.rank == 0 else (other, own))


def gathered(module: Any, *tensors: Tensor) -> list[Tensor]:
    return gather(cast(LightningModule, module), *tensors)


def test_one_process_has_the_batch_itself() -> None:
    module = SimpleNamespace(trainer=SimpleNamespace(world_size=1))  # and no all_gather
    features, labels = gathered(module, FEATURES[0], LABELS[0])
    assert features is FEATURES[0] and labels is LABELS[0]


@pytest.mark.parametrize(("rank", "gradient"), [(0, [[10.0, 10.0], [20.0, 20.0]]), (1, [[30.0, 30.0], [40.0, 40.0]])])
def test_both_processes_have_the_same_batch_and_gradients_to_their_own_rows(
    rank: int, gradient: list[list[float]]
) -> None:
    own = FEATURES[rank].clone().requires_grad_(True)
    module = OneOfTwo(rank, FEATURES[1 - rank], LABELS[1 - rank])
    features, labels = gathered(module, own, LABELS[rank])
    assert features.tolist() == [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]]
    assert labels.tolist() == [0, 1, 2, 3]
    assert module.synced == [True, False]  # labels have no gradient to synchronise
    # The loss weighs the four rows of the batch by 10, 20, 30 and 40.
    (features * torch.tensor([[10.0], [20.0], [30.0], [40.0]])).sum().backward()
    assert own.grad is not None and own.grad.tolist() == gradient


def test_axes_beyond_the_first_stay() -> None:
    own, other = torch.zeros(2, 3, 4), torch.ones(2, 3, 4)
    (found,) = gathered(OneOfTwo(0, other), own)
    assert torch.equal(found, torch.cat((own, other)))
