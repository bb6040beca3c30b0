"""CLIP-ReID's stage 1: prompts move and nothing else does, by both directions of the contrastive loss."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor, nn

from modelscope_reid.models.clip_text import PROMPT_TOKENS, PromptedText, prompted_by, random_caption_encoder
from modelscope_reid.training.batches import EpochPlanner
from modelscope_reid.training.crops import BatchPlan
from modelscope_reid.training.loop import run_stage
from modelscope_reid.training.prompt_stage import FeatureBatch, FeatureDataset, PromptTraining
from modelscope_reid.training.schedules import Schedule
from modelscope_reid.training.stage_specs import BatchSpec, OptimizerSpec, PromptStage

PEOPLE, IMAGES, WIDTH = 4, 3, 8
LABELS = torch.arange(PEOPLE).repeat(IMAGES)
FEATURES = 3.0 * torch.eye(WIDTH)[LABELS]
"""Every image of person p is three times unit vector p: those of different people are orthogonal."""


def small_text() -> PromptedText:
    encoder = random_caption_encoder(width=16, depth=1, context_length=len(PROMPT_TOKENS), projection_dim=WIDTH, seed=0)
    return prompted_by(encoder, identities=PEOPLE, seed=1)


def training(text: Any, **options: Any) -> PromptTraining:
    stage = PromptStage(batch_size=5, **{"optimizer": OptimizerSpec(learning_rate=0.02)} | options)
    planner = EpochPlanner(
        labels=LABELS.numpy(),
        spec=BatchSpec(sampler="random", people=stage.batch_size, images=1),
        sizes=((0, 1, 1),),
        seed=0,
    )
    return PromptTraining(text, stage, features=FeatureDataset(FEATURES.clone(), LABELS), planner=planner)


def train(module: PromptTraining, folder: Path) -> None:
    run_stage(
        module,
        epochs=module.stage.epochs,
        optimizer=module.stage.optimizer,
        precision="fp32",
        device=torch.device("cpu"),
        callbacks=[Checkpoint()],
        logs=folder / "logs",
        checkpoint=None,
    )


@torch.no_grad()
def nearest_images(text: PromptedText) -> list[int]:
    """The person whose images each person's text is nearest to."""
    products = text(torch.arange(PEOPLE)) @ FEATURES[:PEOPLE].T
    return products.argmax(dim=1).tolist()


def test_rows_of_a_plan() -> None:
    dataset = FeatureDataset(torch.arange(12.0).view(4, 3), torch.tensor([0, 0, 1, 2]))
    assert len(dataset) == 4
    batch = dataset.__getitems__(BatchPlan(indices=(2, 0), seed=0, image_size=(1, 1)))
    assert isinstance(batch, FeatureBatch)
    assert batch.features.tolist() == [[6.0, 7.0, 8.0], [0.0, 1.0, 2.0]]
    assert (batch.labels.tolist(), batch.indices.tolist()) == ([1, 0], [2, 0])
    assert batch.labels.dtype == batch.indices.dtype == torch.int64


class Table(nn.Module):
    """A text side whose features are its prompts."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.prompt_learner = nn.Module()
        self.prompt_learner.cls_ctx = nn.Parameter(features)

    def forward(self, identities: Tensor) -> Tensor:
        return cast(Tensor, self.prompt_learner.cls_ctx)[identities]


def test_the_loss_is_that_of_images_to_texts_and_of_texts_to_images() -> None:
    module = training(Table(torch.tensor([[math.log(2), 0.0], [0.0, math.log(3)]])))
    module.trainer = cast(Any, SimpleNamespace(world_size=1))
    images, labels = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]]), torch.tensor([0, 1, 0])
    found = module.training_step(FeatureBatch(images, labels, torch.arange(3)), 0)
    # The texts of the batch are those of persons 0, 1, 0. exp(image . text), images in rows:
    #   2 1 2      The own texts of image 0 are 0 and 2, of 2 in 5 each: -log is log(5/2).
    #   2 3 2      Image 1 has text 1, of 3 in 7: log(7/3).
    #   2 9 2      Image 2 has texts 0 and 2, of 2 in 13: log(13/2).
    to_text = (math.log(5 / 2) + math.log(7 / 3) + math.log(13 / 2)) / 3
    # By columns: texts 0 and 2 have images 0 and 2, of 2 in 6: log 3; text 1 has image 1, of 3 in 13.
    to_image = (2 * math.log(3) + math.log(13 / 3)) / 3
    assert found["image_to_text"].item() == pytest.approx(to_text)
    assert found["text_to_image"].item() == pytest.approx(to_image)
    assert found["loss"].item() == pytest.approx(to_text + to_image)
    assert not found["image_to_text"].requires_grad


def test_prompts_alone_have_gradients_and_an_optimizer() -> None:
    module = training(small_text())
    module.trainer = cast(Any, SimpleNamespace(world_size=1))
    labels = torch.tensor([0, 2, 2])
    module.training_step(FeatureBatch(FEATURES[labels], labels, labels), 0)["loss"].backward()
    given = {name: parameter.grad for name, parameter in module.named_parameters() if parameter.grad is not None}
    assert list(given) == ["text.prompt_learner.cls_ctx"]
    # Of the prompts, those of the people of the batch.
    assert given["text.prompt_learner.cls_ctx"].flatten(1).any(dim=1).tolist() == [True, False, True, False]
    (group,) = module.configure_optimizers().param_groups
    assert [id(parameter) for parameter in group["params"]] == [id(module.text.prompt_learner.cls_ctx)]


def test_training_moves_prompts_alone_and_brings_each_text_to_its_own_images(tmp_path: Path) -> None:
    text = small_text()
    text.prompt_learner.cls_ctx.data[:] = text.prompt_learner.cls_ctx.data[:1]
    before = copy.deepcopy(text.state_dict())
    # Prompts that are the same are all nearest to one person: right for 1 of 4, by chance.
    assert len(set(nearest_images(text))) == 1
    module = training(text, epochs=25)
    train(module, tmp_path)
    after = module.text.state_dict()
    assert [name for name in before if not torch.equal(before[name], after[name])] == ["prompt_learner.cls_ctx"]
    assert torch.equal(module.features.features, FEATURES)
    assert nearest_images(module.text) == [0, 1, 2, 3]


def test_each_epoch_has_its_rate(tmp_path: Path) -> None:
    # Adam's first step moves every number by the rate, whatever its gradient: 0.01 after the warm-up's first half.
    schedule = Schedule(warmup_epochs=2, warmup_start=0.0)
    module = training(small_text(), epochs=1, schedule=schedule)
    module.planner = EpochPlanner(
        labels=LABELS.numpy(), spec=BatchSpec(sampler="random", people=12, images=1), sizes=((0, 1, 1),), seed=0
    )
    before = module.text.prompt_learner.cls_ctx.detach().clone()
    train(module, tmp_path)
    moved = (module.text.prompt_learner.cls_ctx.detach() - before).abs()
    assert moved.median().item() == pytest.approx(0.01, rel=1e-3)
