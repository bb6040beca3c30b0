"""reid-task's stage 0, as a Lightning module: both towers of CLIP, trained on crops and what is said of them.

In: a model with CLIP's image tower, a caption encoder, captioned crops. Out: both, trained. Knows nothing of prompts
or people: a crop's match is its own caption.

Sources: reid-task (facts only); CLIP (Radford et al., 2021) for the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from modelscope_reid.models.clip_text import CaptionEncoder, tokenize
from modelscope_reid.models.reid_model import ReidModel
from modelscope_reid.training.batches import EpochPlanner, PlannedLoader
from modelscope_reid.training.crops import CropDataset, TrainingBatch
from modelscope_reid.training.gathering import gather
from modelscope_reid.training.losses import clip_loss
from modelscope_reid.training.optimizers import make_optimizer
from modelscope_reid.training.seeds import generator_at
from modelscope_reid.training.stage_module import StageModule
from modelscope_reid.training.stage_specs import CaptionStage


class CaptionTraining(StageModule):
    """Minimises CLIP's contrastive loss; `captions` are those of each crop, of which every epoch draws one."""

    def __init__(
        self,
        model: ReidModel,
        encoder: CaptionEncoder,
        stage: CaptionStage,
        *,
        crops: CropDataset,
        captions: Sequence[Sequence[str]],
        planner: EpochPlanner,
        workers: int = 0,
    ) -> None:
        super().__init__(stage, planner)
        self.model, self.encoder = model.requires_grad_(True), encoder.requires_grad_(True)
        self.model.head.requires_grad_(False)
        self.stage, self.crops, self.captions = stage, crops, captions
        self.workers = workers
        self.has_cameras = bool(getattr(model.config, "cameras", 0))

    def configure_optimizers(self) -> Optimizer:
        """Return the optimiser: encoders, token embedding and all the rest at their own rates."""
        rates = {
            "model.backbone.projection": self.stage.optimizer.learning_rate,
            "model.backbone.": self.stage.encoder_learning_rate,
            "encoder.token_embedding.": self.stage.token_learning_rate,
            "encoder.text_encoder.transformer.": self.stage.encoder_learning_rate,
        }
        return make_optimizer(self.named_parameters(), self.stage.optimizer, rates=rates)

    def train_dataloader(self) -> PlannedLoader:
        """Plan the epoch that is about to start, or to go on."""
        epoch = self.current_epoch
        self.crops.prepare(self.planner.image_size(epoch))
        return PlannedLoader(self.crops, self.planner.plans(epoch), workers=self.workers)

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> dict[str, Any]:
        """Return the loss of the whole batch."""
        tokens = self._draw_tokens(batch.indices.tolist()).to(self.device)
        images = self.model.backbone(batch.images, batch.camera_ids if self.has_cameras else None)[-1]
        images, texts = gather(self, images, self.encoder(tokens))
        return {"loss": clip_loss(images, texts, temperature=self.stage.temperature)}

    def _draw_tokens(self, indices: list[int]) -> Tensor:
        texts = []
        for index in indices:
            generator = generator_at(self.planner.seed, "caption", self.current_epoch, index)
            texts.append(self.captions[index][int(generator.integers(len(self.captions[index])))])
        return tokenize(texts, self.encoder.text_encoder.context_length)
