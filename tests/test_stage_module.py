"""What every stage's module does: rates by epoch, random numbers by place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import Dataset

from modelscope_reid.training.batches import EpochPlanner, PlannedLoader
from modelscope_reid.training.loop import run_stage
from modelscope_reid.training.optimizers import make_optimizer
from modelscope_reid.training.schedules import Schedule
from modelscope_reid.training.stage_module import StageModule
from modelscope_reid.training.stage_specs import BatchSpec, OptimizerSpec, PromptStage


class Indices(Dataset[tuple[Tensor]]):
    def __len__(self) -> int:
        return 4

    def __getitems__(self, plan: Any) -> tuple[Tensor]:
        return (torch.tensor(plan.indices),)


class Drawing(StageModule):
    """Draws one number a batch, and notes it with the rate."""

    def __init__(self, seed: int) -> None:
        schedule = Schedule(kind="steps", milestones=(2,), gamma=0.5)
        planner = EpochPlanner(
            labels=np.arange(4),
            spec=BatchSpec(sampler="random", people=2, images=1),
            sizes=((0, 8, 8),),
            seed=seed,
        )
        super().__init__(PromptStage(epochs=2, schedule=schedule), planner)
        self.weight = nn.Parameter(torch.zeros(()))
        self.drawn: list[float] = []
        self.rates: list[float] = []

    def configure_optimizers(self) -> Optimizer:
        return make_optimizer([("weight", self.weight)], OptimizerSpec(kind="sgd", learning_rate=0.25))

    def train_dataloader(self) -> PlannedLoader:
        return PlannedLoader(Indices(), self.planner.plans(self.current_epoch), workers=0)

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        self.drawn.append(float(torch.rand(())))
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        torch.rand(batch_idx + 3)  # however much a batch draws, the next one starts from its own seed
        return {"loss": self.weight * 1.0}


def run(seed: int, folder: Path) -> Drawing:
    module = Drawing(seed)
    run_stage(
        module,
        epochs=2,
        optimizer=OptimizerSpec(),
        precision="fp32",
        device=torch.device("cpu"),
        callbacks=[],
        logs=folder / "logs",
        checkpoint=None,
    )
    return module


def test_rates_are_those_of_the_epoch(tmp_path: Path) -> None:
    """Two batches an epoch; the second epoch is past the milestone, so at half the rate."""
    assert run(0, tmp_path).rates == pytest.approx([0.25, 0.25, 0.125, 0.125])


def test_every_batch_draws_from_a_seed_of_its_own(tmp_path: Path) -> None:
    first, again, other = (run(seed, tmp_path).drawn for seed in (1, 1, 2))
    assert first == again
    assert len({*first, *other}) == 8
