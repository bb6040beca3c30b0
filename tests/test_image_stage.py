"""The images stage as a module: what learns, what is averaged, what a checkpoint holds.

Whole runs are in test_training_run.py, the published training steps in test_training_parity.py.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from tiny import TINY_CONFIGS, tiny_images, tiny_model
from torch import Tensor

from modelscope_reid.models.reid_model import ReidModel
from modelscope_reid.training.batches import EpochPlanner
from modelscope_reid.training.crops import BatchPlan, CropDataset, TrainingBatch
from modelscope_reid.training.image_stage import ImageTraining, running_average
from modelscope_reid.training.loop import run_stage
from modelscope_reid.training.stage_specs import BatchSpec, ImageStage, LossSpec, OptimizerSpec

LABELS = np.array([0, 0, 1, 1, 2, 2, 3, 3], np.int64)


class GivenCrops(CropDataset):
    """Eight random images of four people, in place of crops read from files."""

    def __init__(self, model: ReidModel) -> None:
        self.images = tiny_images(model.config, len(LABELS))

    def __len__(self) -> int:
        return len(LABELS)

    def prepare(self, image_size: tuple[int, int]) -> None:
        assert image_size == tuple(self.images.shape[2:])

    def __getitems__(self, plan: BatchPlan) -> TrainingBatch:
        rows = torch.tensor(plan.indices)
        return TrainingBatch(self.images[rows], torch.from_numpy(LABELS)[rows], torch.zeros(len(rows)).long(), rows)


def module(family: str, stage: ImageStage, **options: Any) -> ImageTraining:
    model = tiny_model(TINY_CONFIGS[family])
    planner = EpochPlanner(labels=LABELS, spec=stage.batch, sizes=((0, *model.config.image_size),), seed=7)
    return ImageTraining(model.train(), stage, crops=GivenCrops(model), planner=planner, **options)


def stage(**fields: Any) -> ImageStage:
    given = {"epochs": 2, "batch": BatchSpec(people=2, images=2), "losses": LossSpec(margin=0.3), **fields}
    return ImageStage(**given)


def trained(training: ImageTraining, tmp_path: Any, optimizer: OptimizerSpec | None = None) -> ImageTraining:
    run_stage(
        training,
        epochs=training.stage.epochs,
        optimizer=optimizer or training.stage.optimizer,
        precision="fp32",
        device=torch.device("cpu"),
        callbacks=[],
        logs=tmp_path / "logs",
        checkpoint=None,
    )
    return training


def changed(before: dict[str, Tensor], training: ImageTraining) -> set[str]:
    return {name for name, tensor in training.model.state_dict().items() if not torch.equal(tensor, before[name])}


def test_everything_learns_but_the_biases_of_necks(tmp_path: Any) -> None:
    training = module("pass_vit", stage())
    before = copy.deepcopy(training.model.state_dict())
    moved = changed(before, trained(training, tmp_path))
    assert {f"head.necks.{k}.bias" for k in range(4)}.isdisjoint(moved)
    assert {name for name, _ in training.model.named_parameters() if "necks" not in name} <= moved


def test_without_identity_loss_the_classifiers_stay(tmp_path: Any) -> None:
    training = module("osnet", stage(losses=LossSpec(identity=0.0, margin=0.3)))
    before = copy.deepcopy(training.model.state_dict())
    moved = changed(before, trained(training, tmp_path))
    assert moved and not any("classifiers" in name for name in moved)


def test_a_frozen_model_is_thawed() -> None:
    """A stage before may have frozen it; necks' biases are frozen by this one."""
    model = tiny_model(TINY_CONFIGS["osnet"]).requires_grad_(False)
    planner = EpochPlanner(labels=LABELS, spec=BatchSpec(people=2, images=2), sizes=((0, 64, 32),), seed=7)
    ImageTraining(model, stage(), crops=GivenCrops(model), planner=planner)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_centers_learn_at_their_own_rate_without_decay() -> None:
    training = module("clip_vit", stage(losses=LossSpec(center=5e-4, center_learning_rate=0.25)))
    groups = training.configure_optimizers().param_groups
    (centers,) = [group for group in groups if group["base_rate"] == 0.25]
    assert [tuple(parameter.shape) for parameter in centers["params"]] == [(5, 64), (5, 64), (5, 32)]
    assert centers["weight_decay"] == 0.0


@pytest.mark.parametrize("family", ["pass_vit", "osnet"])
def test_the_running_average_is_kept_and_trained_weights_are_not(family: str, tmp_path: Any) -> None:
    training = trained(module(family, stage(average=0.99)), tmp_path)
    averaged, raw = training.trained().state_dict(), training.model.state_dict()
    name = "head.classifiers.0.weight"
    assert not torch.equal(averaged[name], raw[name])
    again = trained(module(family, stage()), tmp_path)
    assert torch.equal(again.trained().state_dict()[name], raw[name])  # averaging changes no training
    assert not training.trained().training and training.trained() is not training.trained()


def test_the_average_of_two_steps_by_hand() -> None:
    """Weight of the old average after n updates: min(decay, (1 + n) / (10 + n)): 2/11 and then 3/12."""
    update = running_average(0.999)
    average, count = [torch.tensor([0.0]), torch.tensor(3)], [torch.tensor([11.0]), torch.tensor(4)]
    update(average, count, 1)
    assert average[0].item() == pytest.approx(9.0) and average[1].item() == 4  # 0 * 2/11 + 11 * 9/11
    update(average, [torch.tensor([1.0]), torch.tensor(5)], 2)
    assert average[0].item() == pytest.approx(9 * 3 / 12 + 1 * 9 / 12)
    update = running_average(0.5)
    average = [torch.tensor([0.0])]
    update(average, [torch.tensor([1.0])], 10**6)
    assert average[0].item() == pytest.approx(0.5)


def test_the_graph_is_built_when_due_and_travels_in_checkpoints(tmp_path: Any) -> None:
    asked: list[int] = []

    def find(training: ImageTraining, epoch: int) -> Any:
        asked.append(epoch)
        return np.array([[1], [0], [3], [2]])

    spec = BatchSpec(sampler="graph", people=2, images=2, graph_from=1, graph_every=2)
    training = trained(module("osnet", stage(epochs=5, batch=spec), find_neighbours=find), tmp_path)
    assert asked == [1, 3]  # epochs 1 and 2 share a graph, 3 and 4 the next
    checkpoint: dict[str, Any] = {}
    training.on_save_checkpoint(checkpoint)
    other = module("osnet", stage(batch=spec), find_neighbours=find)
    other.on_load_checkpoint(checkpoint)
    assert other._neighbours(4) is not None and asked == [1, 3]
    assert other._neighbours(0) is None


def test_text_features_are_asked_for_once_an_epoch(tmp_path: Any) -> None:
    asked: list[int] = []

    def texts(epoch: int) -> Tensor:
        asked.append(epoch)
        return torch.randn(5, 32, generator=torch.Generator().manual_seed(epoch))

    losses = LossSpec(identity=0.25, margin=0.3, image_to_text=1.0)
    trained(module("clip_vit", stage(losses=losses), text_features=texts), tmp_path)
    assert asked == [0, 1]
