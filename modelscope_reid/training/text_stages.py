"""The two stages that have to do with text, put together: captions (stage 0) and prompts (stage 1).

In: a `RunContext`, the image network and the text side. Out: both, trained in place. Knows nothing of reading recipes
or of reports.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch

from modelscope_reid.config import ClipResNetConfig, ClipVitConfig
from modelscope_reid.models.reid_model import ReidModel
from modelscope_reid.training.batches import EpochPlanner
from modelscope_reid.training.caption_stage import CaptionTraining
from modelscope_reid.training.loop import processes
from modelscope_reid.training.prompt_stage import FeatureDataset, PromptTraining
from modelscope_reid.training.stage_specs import BatchSpec
from modelscope_reid.training.stages import RunContext, crops_of, run, watchers
from modelscope_reid.training.text_side import TextSide

FEATURES = "features"
"""The name under which the image features of the prompts stage are kept in stages/."""


def run_captions(context: RunContext, model: ReidModel, text: TextSide) -> None:
    """Train both towers on captioned crops."""
    stage = context.recipe.captions
    assert stage is not None
    captioned = [row for row, captions in enumerate(text.captions_by_record) if captions]
    captions: Sequence[Sequence[str]] = [text.captions_by_record[row] for row in captioned]
    planner = random_planner(context, "captions", len(captioned), stage.batch_size, model.config.image_size)
    planner.check()
    module = CaptionTraining(
        model.train(),
        text.encoder.train(),
        stage,
        crops=crops_of(context, model.config, stage.augmentation, captioned),
        captions=captions,
        planner=planner,
        workers=context.recipe.data.workers,
    )
    run(context, "captions", module, stage.epochs, stage.optimizer, watchers(context, "captions"))
    module.cpu()


def run_prompts(context: RunContext, model: ReidModel, text: TextSide) -> None:
    """Train one prompt per person on the image features of `model` as it is."""
    stage = context.recipe.prompts
    assert stage is not None
    features = image_features(context, model)
    planner = random_planner(context, "prompts", len(features), stage.batch_size, model.config.image_size)
    planner.check()
    dataset = FeatureDataset(features, torch.from_numpy(context.split.labels))
    module = PromptTraining(text.start_prompts(), stage, features=dataset, planner=planner)
    run(context, "prompts", module, stage.epochs, stage.optimizer, watchers(context, "prompts"))
    module.cpu()


def image_features(context: RunContext, model: ReidModel) -> torch.Tensor:
    """Return the projected features (N, P) float32 of the training images, without augmentation; computed once.

    Camera embeddings are left out, as the published code leaves them out of its first stage.
    """
    kept = context.run.kept(FEATURES)
    if kept is not None:
        features: torch.Tensor = kept["features"]
        return features
    config = model.config
    assert isinstance(config, ClipVitConfig | ClipResNetConfig)
    clip_reid = {"layout": "clip-reid"} if isinstance(config, ClipVitConfig) else {}
    embedder = context.embedder(_without_cameras(model), neck_feature="before", **clip_reid)
    vectors = embedder.embed([record.path for record in context.split.records], progress=context.progress)
    features = torch.from_numpy(vectors[:, -config.projection_dim :].copy())
    if processes()[0] == 0:
        context.run.keep(FEATURES, {"features": features})
    return features


def _without_cameras(model: ReidModel) -> ReidModel:
    """Return a copy of `model` whose camera embeddings, where it has any, are zero."""
    model = copy.deepcopy(model)
    for name, parameter in model.named_parameters():
        if name.startswith("backbone.camera_embedding."):
            parameter.detach().zero_()
    return model


def random_planner(
    context: RunContext, stage: str, count: int, batch_size: int, image_size: tuple[int, int]
) -> EpochPlanner:
    """Return a planner of single images at random; one process also trains on a last batch that is not full."""
    rank, number = processes()
    return EpochPlanner(
        labels=torch.arange(count).numpy() if stage == "captions" else context.split.labels,
        spec=BatchSpec(sampler="random", people=batch_size, images=1),
        sizes=((0, *image_size),),
        seed=context.seed(stage),
        rank=rank,
        processes=number,
        whole_batches=number > 1,
    )
