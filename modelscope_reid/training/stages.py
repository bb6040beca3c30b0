"""What each stage of a run needs, put together: the model, its crops, its batches, its watchers.

In: a `RunContext`. Out: the weights that the stage hands on. Knows nothing of reading recipes or of reports.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule
from numpy.typing import NDArray
from torch import Tensor

from modelscope_reid.config import ModelConfig, OsnetConfig
from modelscope_reid.embedder import Embedder
from modelscope_reid.errors import ConfigError
from modelscope_reid.feature_store import embed_dataset
from modelscope_reid.models.heads import HEADS
from modelscope_reid.models.model_folder import save_pretrained
from modelscope_reid.models.reid_model import ReidModel
from modelscope_reid.ranking.metrics import rank
from modelscope_reid.runtimes.torch_runtime import TorchRuntime
from modelscope_reid.training.augmentation_spec import Augmentation
from modelscope_reid.training.batches import EpochPlanner
from modelscope_reid.training.callbacks import Checkpoints, HistoryKeeper, LossGuard, Measurement, ProgressBar
from modelscope_reid.training.crops import CropDataset
from modelscope_reid.training.history import History
from modelscope_reid.training.image_stage import ImageTraining
from modelscope_reid.training.initial_model import initial_model
from modelscope_reid.training.loop import processes, run_stage
from modelscope_reid.training.people import TrainingSplit
from modelscope_reid.training.recipe import Recipe, StageName
from modelscope_reid.training.run_folder import RunFolder
from modelscope_reid.training.samplers import draw_one_per_person, mean_per_person, nearest_people
from modelscope_reid.training.seeds import generator_at, seed_at
from modelscope_reid.training.stage_specs import ImageStage, OptimizerSpec


@dataclass(frozen=True)
class RunContext:
    """What every stage is told."""

    recipe: Recipe
    run: RunFolder
    split: TrainingSplit
    device: torch.device
    history: History
    progress: bool

    def seed(self, stage: StageName | str) -> int:
        """Return the seed of a stage."""
        return seed_at(self.recipe.seed, stage)

    def embedder(self, model: ReidModel, **changes: Any) -> Embedder:
        """Return an embedder of a copy of `model`, in float32 on the training device.

        `changes` are fields of the config that change how features are joined, and no tensor.
        """
        network = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
        if changes:
            network.config = dataclasses.replace(network.config, **changes)
            head = HEADS[type(network.config)](network.config)
            head.load_state_dict(network.head.state_dict())
            network.head = head
        network.eval()
        return Embedder(TorchRuntime(network, str(self.device)), network.config)

    def cameras_of(self, model: ReidModel, rows: NDArray[np.int64]) -> list[int] | None:
        """Return the cameras of training records for a model that is told them."""
        known = getattr(model.config, "cameras", 0)
        cameras: list[int] = self.split.camera_numbers[rows].tolist()
        return cameras if known else None


def run_images(context: RunContext, text_features: Callable[[int], Tensor] | None, model: ReidModel) -> ReidModel:
    """Train the image network `model` by the images stage; return it as it is to be kept."""
    stage, recipe = context.recipe.images, context.recipe
    module = image_module(context, model, text_features)
    measurement = Measurement(
        lambda trained: measure(context, trained),  # type: ignore[arg-type]  # it is an ImageTraining
        context.history,
        "images",
        every=recipe.evaluation.every if context.split.measured else 0,
        keep_best=lambda trained: keep_best(context, trained),
    )
    run(context, "images", module, stage.epochs, stage.optimizer, watchers(context, "images", measurement))
    return module.trained().cpu()


def image_module(
    context: RunContext, model: ReidModel, text_features: Callable[[int], Tensor] | None = None
) -> ImageTraining:
    """Return the Lightning module of the images stage, its batches checked."""
    recipe, stage, split = context.recipe, context.recipe.images, context.split
    if stage.growing_sizes and not isinstance(model.config, OsnetConfig):
        raise ConfigError(f"images.growing_sizes is for OSNet; {model.config.family} has positions for one size.")
    rank_here, count = processes()
    planner = EpochPlanner(
        labels=split.labels,
        spec=stage.batch,
        sizes=stage.growing_sizes or ((0, *model.config.image_size),),
        seed=context.seed("images"),
        rank=rank_here,
        processes=count,
    )
    planner.check()
    return ImageTraining(
        model.train(),
        stage,
        crops=crops_of(context, model.config, stage.augmentation),
        planner=planner,
        workers=recipe.data.workers,
        find_neighbours=lambda module, epoch: find_neighbours(context, module, epoch, stage, text_features),
        text_features=text_features,
    )


def run(
    context: RunContext,
    stage: StageName,
    module: LightningModule,
    epochs: int,
    optimizer: OptimizerSpec,
    callbacks: Sequence[Callback],
) -> None:
    """Train the module of a stage, from its last checkpoint on where there is one."""
    last = context.run.last(stage)
    run_stage(
        module,
        epochs=epochs,
        optimizer=optimizer,
        precision=context.recipe.precision,
        device=context.device,
        callbacks=callbacks,
        logs=context.run.logs,
        checkpoint=last if last.exists() else None,
    )


def crops_of(
    context: RunContext, config: ModelConfig, augmentation: Augmentation, rows: Sequence[int] | None = None
) -> CropDataset:
    """Return the crops of the training records, or of some of them."""
    split = context.split
    chosen = range(len(split.records)) if rows is None else rows
    return CropDataset(
        [split.records[row] for row in chosen],
        split.labels[list(chosen)].tolist(),
        split.camera_numbers[list(chosen)].tolist(),
        preprocessing=config.preprocessing,
        augmentation=augmentation,
        cache=context.recipe.data.cache,
    )


def watchers(context: RunContext, stage: StageName, *more: Callback) -> list[Callback]:
    """Return the callbacks of a stage, in the order in which they are to be called."""
    bar = [ProgressBar(stage)] if context.progress else []
    return [
        LossGuard(context.run.folder),
        HistoryKeeper(context.history, stage),
        *more,
        *bar,
        Checkpoints(context.run.last(stage), every_batches=context.recipe.checkpoint_every),
    ]


def measure(context: RunContext, module: ImageTraining) -> dict[str, float]:
    """Return mAP and Rank-1 of the model as it stands, on the people that the recipe measures on."""
    assert context.split.measured is not None
    features = embed_dataset(context.embedder(module.trained()), context.split.measured)
    figures = rank(features.query, features.gallery).figures()
    return {"mAP": float(figures["mAP"]), "rank1": float(figures["rank1"])}


def keep_best(context: RunContext, module: LightningModule) -> None:
    """Keep the model as the best so far."""
    assert isinstance(module, ImageTraining)
    save_pretrained(module.trained(), context.run.best)


def find_neighbours(
    context: RunContext,
    module: ImageTraining,
    epoch: int,
    stage: ImageStage,
    text_features: Callable[[int], Tensor] | None,
) -> NDArray[Any]:
    """Return the nearest people of each, by one image of each person or by the text features; process 0's word."""
    nearest: Any = None
    if processes()[0] == 0:
        if stage.batch.graph_features == "text" and text_features is not None:
            features = text_features(epoch).float().cpu().numpy()
        else:
            labels = context.split.labels
            drawn = draw_one_per_person(labels, generator_at(context.seed("images"), "graph", epoch))
            model = module.model
            vectors = context.embedder(model).embed(
                [context.split.records[row].path for row in drawn], camera_ids=context.cameras_of(model, drawn)
            )
            features = mean_per_person(vectors, labels[drawn])
        nearest = nearest_people(features, stage.batch.people - 1)
    found: NDArray[Any] = module.trainer.strategy.broadcast(nearest)
    return found


def start_model(context: RunContext) -> ReidModel:
    """Return the network that the run starts from."""
    split = context.split
    return initial_model(
        context.recipe.model,
        classes=len(split.people),
        cameras=len(split.cameras),
        seed=context.seed("model"),
    )
