"""The stage that trains the image network, as a Lightning module.

In: a `ReidModel`, an `ImageStage`, the crops and the plan of every epoch. Out: the trained model, or the running
average of its weights. With several processes, features are gathered before necks, classifiers and losses, so that the
loss is that of the global batch, as one process would have it; batch normalisation inside a convolutional backbone
sees its own process's share. Knows nothing of run folders, evaluation or where labels come from.

Sources: PASS-reID (Apache-2.0), CLIP-ReID (MIT) for what is trained; Lightning (Apache-2.0) runs it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from modelscope_reid.models.reid_model import ReidModel
from modelscope_reid.training.batches import EpochPlanner, PlannedLoader
from modelscope_reid.training.crops import CropDataset, TrainingBatch
from modelscope_reid.training.gathering import gather
from modelscope_reid.training.initial_model import is_convolutional
from modelscope_reid.training.objectives import batch_losses, weighted_sum
from modelscope_reid.training.optimizers import make_optimizer
from modelscope_reid.training.stage_module import StageModule
from modelscope_reid.training.stage_specs import ImageStage

NeighbourFinder = Callable[["ImageTraining", int], NDArray[Any]]
"""From the module in training and an epoch to the nearest people of each person, (C, P-1) int64."""


class ImageTraining(StageModule):
    """Minimises the stage's losses; `text_features(epoch)` (C, P) is for the image-to-text loss."""

    def __init__(
        self,
        model: ReidModel,
        stage: ImageStage,
        *,
        crops: CropDataset,
        planner: EpochPlanner,
        workers: int = 0,
        find_neighbours: NeighbourFinder | None = None,
        text_features: Callable[[int], Tensor] | None = None,
    ) -> None:
        super().__init__(stage, planner)
        self.model = model.requires_grad_(True)  # whatever an earlier stage left
        self.stage = stage
        self.crops, self.workers = crops, workers
        self.find_neighbours = find_neighbours
        self.text_features = text_features
        self._text: tuple[int, Tensor] | None = None
        self._graph: tuple[int, NDArray[Any]] | None = None
        convolutional = is_convolutional(model.config)
        self.memory_format = torch.channels_last if convolutional else torch.contiguous_format
        if convolutional:
            self.model.to(memory_format=torch.channels_last)
        self.has_cameras = bool(getattr(model.config, "cameras", 0))
        for neck in model.head.necks:
            neck.get_parameter("bias").requires_grad_(False)  # BNNeck: centred, so that cosine separates
        if not stage.losses.identity:
            model.head.classifiers.requires_grad_(False)
        classes, dims = model.config.num_classes, _compared_dims(model)
        self.centers = nn.ParameterList(
            nn.Parameter(torch.zeros(classes, dim)) for dim in (dims if stage.losses.center else ())
        )
        self.average = (
            AveragedModel(model, multi_avg_fn=running_average(stage.average), use_buffers=True)
            if stage.average
            else None
        )
        if self.average is not None:
            self.average.requires_grad_(False)

    def trained(self) -> ReidModel:
        """Return a copy of the model as it is to be measured and kept: averaged, where an average is taken."""
        source = self.average.module if self.average is not None else self.model
        return copy.deepcopy(source).eval()  # type: ignore[return-value]  # AveragedModel holds a ReidModel

    def configure_optimizers(self) -> Optimizer:
        """Return the optimiser; the rate of each epoch is set when it starts."""
        parameters = [(name.removeprefix("model."), value) for name, value in self.named_parameters()]
        trained = [pair for pair in parameters if not pair[0].startswith("average.")]
        rates = {"centers.": self.stage.losses.center_learning_rate}
        return make_optimizer(trained, self.stage.optimizer, rates=rates, undecayed=("centers.",))

    def train_dataloader(self) -> PlannedLoader:
        """Plan the epoch that is about to start, or to go on; build the graph of people where one is due."""
        epoch = self.current_epoch
        plans = self.planner.plans(epoch, self._neighbours(epoch))
        self.crops.prepare(self.planner.image_size(epoch))
        return PlannedLoader(self.crops, plans, workers=self.workers, pin_memory=self.device.type == "cuda")

    def _neighbours(self, epoch: int) -> NDArray[Any] | None:
        due = self.planner.graph_epoch(epoch)
        if due is None or self.find_neighbours is None:
            return None
        if self._graph is None or self._graph[0] != due:
            self._graph = (due, self.find_neighbours(self, epoch))
        return self._graph[1]

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> dict[str, Tensor]:
        """Return the weighted sum under "loss" and each loss by name."""
        images = batch.images.contiguous(memory_format=self.memory_format)
        features = self.model.backbone(images, batch.camera_ids if self.has_cameras else None)
        *gathered, labels = gather(self, *features, batch.labels)
        found = batch_losses(
            self.model.head,
            tuple(gathered),
            labels,
            self.stage.losses,
            text_features=self._texts(),
            centers=tuple(self.centers),
        )
        total = weighted_sum(found, self.stage.losses)
        return {"loss": total, **{name: loss.detach() for name, loss in found.items()}}

    def _texts(self) -> Tensor | None:
        if self.text_features is None:
            return None
        if self._text is None or self._text[0] != self.current_epoch:
            self._text = (self.current_epoch, self.text_features(self.current_epoch).to(self.device))
        return self._text[1]

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then move the running average."""
        super().optimizer_step(*args, **kwargs)
        if self.average is not None:
            self.average.update_parameters(self.model)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the graph of people, which is of the weights it was built with."""
        if self._graph is not None:
            epoch, neighbours = self._graph
            checkpoint["graph"] = {"epoch": epoch, "neighbours": torch.from_numpy(neighbours)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the graph of people back."""
        if graph := checkpoint.get("graph"):
            self._graph = (graph["epoch"], graph["neighbours"].numpy())


def running_average(decay: float) -> Callable[[Any, Any, Any], None]:
    """Return the update of a running average that follows the weights closely at first: (1 + n) / (10 + n) at most."""

    @torch.no_grad()
    def update(averages: list[Tensor], current: list[Tensor], count: Any) -> None:
        weight = 1.0 - min(decay, (1 + int(count)) / (10 + int(count)))
        for average, value in zip(averages, current, strict=True):
            if average.is_floating_point():
                average.lerp_(value, weight)
            else:
                average.copy_(value)

    return update


def _compared_dims(model: ReidModel) -> list[int]:
    with torch.no_grad():
        features = tuple(torch.zeros(1, dim) for dim in model.backbone.feature_dims)  # type: ignore[union-attr]
        return [feature.shape[1] for feature in model.head.compared(features)]
