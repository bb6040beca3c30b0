"""A Lightning module that learns one number, for what surrounds training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.utils.data import Dataset

from modelscope_reid.training.batches import PlannedLoader
from modelscope_reid.training.loop import run_stage
from modelscope_reid.training.stage_specs import OptimizerSpec

Batch = tuple[Tensor, Tensor]


class Numbers(Dataset[Batch]):
    """A plan is a number: a batch of it twice, and a label for each."""

    def __len__(self) -> int:
        return 100

    def __getitems__(self, plan: float) -> Batch:
        return torch.full((2,), plan), torch.zeros(2)


class OneNumber(LightningModule):
    """Loss: weight times the batch's number. `plans(epoch)` are the numbers of an epoch."""

    def __init__(self, plans: Callable[[int], list[float]]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.plans = plans
        self.seen: list[tuple[int, float]] = []

    def configure_optimizers(self) -> Optimizer:
        return SGD([self.weight], lr=0.001)

    def train_dataloader(self) -> PlannedLoader:
        return PlannedLoader(Numbers(), self.plans(self.current_epoch), workers=0)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        number = batch[0].mean()
        self.seen.append((self.current_epoch, float(number)))
        loss = self.weight * number
        return {"loss": loss, "identity": loss.detach()}


def run(
    module: OneNumber, folder: Path, callbacks: Sequence[Callback], *, epochs: int = 1, checkpoint: Path | None = None,
    **optimizer: Any,
) -> OneNumber:  # fmt: skip
    """Run the module by `run_stage`, on the CPU."""
    run_stage(
        module,
        epochs=epochs,
        optimizer=OptimizerSpec(**optimizer),
        precision="fp32",
        device=torch.device("cpu"),
        callbacks=callbacks,
        logs=folder / "logs",
        checkpoint=checkpoint,
    )
    return module
