"""What every stage's Lightning module does: the rate of each epoch, the seed of each batch.

In: the stage's words on epochs and rates, and the planner of its batches. Out: a base class. Knows nothing of losses
or data.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from lightning.pytorch import LightningModule
from torch.optim import Optimizer

from modelscope_reid.training.batches import EpochPlanner
from modelscope_reid.training.optimizers import set_epoch_rates
from modelscope_reid.training.schedules import Schedule
from modelscope_reid.training.seeds import seed_at
from modelscope_reid.training.stage_specs import OptimizerSpec


class StageSpec(Protocol):
    """What the specs of all stages have."""

    @property
    def epochs(self) -> int:
        """Passes over the data."""

    @property
    def optimizer(self) -> OptimizerSpec:
        """How weights move."""

    @property
    def schedule(self) -> Schedule:
        """How the rate changes by epoch."""


class StageModule(LightningModule):
    """A stage in training; its rates and random numbers follow from the epoch and the batch alone."""

    def __init__(self, stage: StageSpec, planner: EpochPlanner) -> None:
        super().__init__()
        self.stage_spec, self.planner = stage, planner

    def on_train_epoch_start(self) -> None:
        """Set the rates of this epoch."""
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, Optimizer)
        spec = self.stage_spec
        set_epoch_rates(optimizer, spec.schedule, self.current_epoch, epochs=spec.epochs)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed what is drawn inside the network."""
        torch.manual_seed(seed_at(self.planner.seed, "network", self.current_epoch, batch_idx, self.global_rank))
