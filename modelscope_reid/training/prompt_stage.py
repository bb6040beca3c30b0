"""CLIP-ReID's stage 1, as a Lightning module: one prompt per person, learned on image features that are computed once.

In: image features (N, P) and labels, and a text side. Out: the prompts, trained; towers stay as they are. Knows
nothing of images.

Source: CLIP-ReID (Li et al., AAAI 2023; MIT).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import Dataset

from modelscope_reid.models.clip_text import PromptedText
from modelscope_reid.training.batches import EpochPlanner, PlannedLoader
from modelscope_reid.training.crops import BatchPlan
from modelscope_reid.training.gathering import gather
from modelscope_reid.training.losses import contrastive_loss
from modelscope_reid.training.optimizers import make_optimizer
from modelscope_reid.training.stage_module import StageModule
from modelscope_reid.training.stage_specs import PromptStage


class FeatureBatch(NamedTuple):
    """Image features (B, P) float32, and `labels` and `indices` (B,) int64."""

    features: Tensor
    labels: Tensor
    indices: Tensor


class FeatureDataset(Dataset[FeatureBatch]):
    """Features in memory, fetched by `BatchPlan`."""

    def __init__(self, features: Tensor, labels: Tensor) -> None:
        self.features, self.labels = features, labels

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def __getitems__(self, plan: BatchPlan) -> FeatureBatch:
        """Return the rows of a plan."""
        indices = torch.tensor(plan.indices, dtype=torch.int64)
        return FeatureBatch(self.features[indices], self.labels[indices], indices)


class PromptTraining(StageModule):
    """Minimises the supervised contrastive loss from images to texts and back, over the prompts alone."""

    def __init__(
        self, text: PromptedText, stage: PromptStage, *, features: FeatureDataset, planner: EpochPlanner
    ) -> None:
        super().__init__(stage, planner)
        self.text = text.eval()
        self.text.requires_grad_(False)
        self.text.prompt_learner.cls_ctx.requires_grad_(True)
        self.stage, self.features = stage, features

    def configure_optimizers(self) -> Optimizer:
        """Return the optimiser of the prompts."""
        return make_optimizer(self.text.named_parameters(), self.stage.optimizer)

    def train_dataloader(self) -> PlannedLoader:
        """Plan the epoch that is about to start, or to go on."""
        return PlannedLoader(self.features, self.planner.plans(self.current_epoch), workers=0)

    def training_step(self, batch: FeatureBatch, batch_idx: int) -> dict[str, Any]:
        """Return the sum of both directions under "loss", and each by name."""
        images, texts, labels = gather(self, batch.features, self.text(batch.labels), batch.labels)
        to_text = contrastive_loss(images, texts, labels, labels)
        to_image = contrastive_loss(texts, images, labels, labels)
        found = {"image_to_text": to_text.detach(), "text_to_image": to_image.detach()}
        return {"loss": to_text + to_image, **found}
