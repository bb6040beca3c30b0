"""The text stages, put together: image features that are computed once, captioned crops, random batches."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dataset_trees import draw
from tiny import SMALL, TINY_CONFIGS, tiny_model
from torch import Tensor

from modelscope_reid.config import ClipVitConfig, ModelConfig
from modelscope_reid.datasets.records import Record
from modelscope_reid.images import load_image
from modelscope_reid.models.reid_model import ReidModel
from modelscope_reid.preprocess import resize, to_batch
from modelscope_reid.training import text_stages
from modelscope_reid.training.history import History
from modelscope_reid.training.people import TrainingSplit
from modelscope_reid.training.recipe import CaptionSpec, DataSpec, ModelSpec, Recipe
from modelscope_reid.training.run_folder import RunFolder
from modelscope_reid.training.stage_specs import CaptionStage, PromptStage
from modelscope_reid.training.stages import RunContext
from modelscope_reid.training.text_side import TextSide
from modelscope_reid.training.text_stages import image_features, random_planner, run_captions, run_prompts

PEOPLE, CAMERAS = (4, 2, 2, 7, 4, 7, 7), (3, 9, 3, 3, 9, 9, 3)
LABELS, CAMERA_NUMBERS = [1, 0, 0, 2, 1, 2, 2], [0, 1, 0, 0, 1, 1, 0]
"""Of seven images: people 2, 4, 7 and cameras 3, 9, numbered from 0."""
CLIP_VIT = ClipVitConfig(width=64, depth=2, projection_dim=8, preprocessing=SMALL, num_classes=3, cameras=2)
CLIP_RESNET = dataclasses.replace(TINY_CONFIGS["clip_resnet"], num_classes=3, neck_feature="after")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def context(tmp_path: Path) -> RunContext:
    records = tuple(
        Record(draw(tmp_path / "images" / f"{person}_{number}.png", number), person, camera)
        for number, (person, camera) in enumerate(zip(PEOPLE, CAMERAS, strict=True))
    )
    captions = tmp_path / "captions.json"
    entries = [
        {"file_path": record.path.name, "id": record.person_id, "captions": [f"caption of {row}"]}
        for row, record in enumerate(records)
        if row in (1, 4, 5)
    ]
    captions.write_text(json.dumps(entries), encoding="utf-8")
    recipe = Recipe(
        model=ModelSpec(backbone="clip_vit_base", text_width=16, text_depth=1),
        data=DataSpec(workers=0),
        captions=CaptionStage(batch_size=2),
        prompts=PromptStage(batch_size=3),
        caption_texts=CaptionSpec(path=str(captions)),
    )
    split = TrainingSplit(records, {2: 0, 4: 1, 7: 2}, {3: 0, 9: 1}, None)
    assert (split.labels.tolist(), split.camera_numbers.tolist()) == (LABELS, CAMERA_NUMBERS)
    (tmp_path / "run" / "stages").mkdir(parents=True)
    run = RunFolder(tmp_path / "run")
    return RunContext(recipe, run, split, torch.device("cpu"), History(run.folder), progress=False)


def model_in_training(config: ModelConfig) -> ReidModel:
    model = tiny_model(config)
    if getattr(config, "cameras", 0):
        model.backbone.camera_embedding.weight.data.normal_()  # type: ignore[union-attr]
    return model.train()


@torch.no_grad()
def projected(model: ReidModel, context: RunContext, cameras: list[int] | None) -> Tensor:
    """The projected features of the training images: the last that the backbone gives."""
    preprocessing = model.config.preprocessing
    crops = [resize(load_image(record.path), preprocessing) for record in context.split.records]
    images = torch.from_numpy(to_batch(crops, preprocessing))
    features: Tensor = model.backbone(images, None if cameras is None else torch.tensor(cameras))[-1]
    return features


def assert_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "config",
    [
        dataclasses.replace(CLIP_VIT, layout="1536"),
        dataclasses.replace(CLIP_VIT, layout="clip-reid", neck_feature="after"),
        CLIP_RESNET,
    ],
    ids=["ViT, layout 1536", "ViT after its neck", "ResNet after its neck"],
)
def test_image_features_are_the_projected_ones(config: ModelConfig, context: RunContext) -> None:
    model = model_in_training(config)
    features = image_features(context, model)
    assert features.shape == (7, config.projection_dim) and features.dtype == torch.float32  # type: ignore[attr-defined]
    assert model.training and model.config is config
    model.eval()
    if config is CLIP_RESNET:
        assert_close(features, projected(model, context, None))
    else:  # as the published code: with no camera's embedding, which is neither the own one nor the mean
        for cameras in (CAMERA_NUMBERS, None):
            assert not torch.allclose(features, projected(model, context, cameras), atol=1e-2)
        model.backbone.camera_embedding.weight.data.zero_()  # type: ignore[union-attr]
        assert_close(features, projected(model, context, CAMERA_NUMBERS))


def test_image_features_are_computed_once(context: RunContext) -> None:
    features = image_features(context, model_in_training(CLIP_VIT))
    kept = torch.load(context.run.folder / "stages" / "features.pt", weights_only=True)
    assert torch.equal(kept["features"], features)
    for record in context.split.records:
        record.path.unlink()
    assert torch.equal(image_features(context, model_in_training(CLIP_VIT)), features)


def test_another_process_does_not_write_them(context: RunContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    image_features(context, model_in_training(CLIP_VIT))
    assert list((context.run.folder / "stages").iterdir()) == []


def places(context: RunContext, stage: str, count: int, batch_size: int) -> list[tuple[int, ...]]:
    planner = random_planner(context, stage, count, batch_size, (64, 32))
    return [plan.indices for plan in planner.plans(0)]


def test_one_process_trains_on_every_image(context: RunContext) -> None:
    batches = places(context, "prompts", 7, 3)
    assert [len(batch) for batch in batches] == [3, 3, 1]
    assert sorted(place for batch in batches for place in batch) == list(range(7))


def test_captions_are_of_captioned_images_alone(context: RunContext) -> None:
    batches = places(context, "captions", 3, 2)
    assert [len(batch) for batch in batches] == [2, 1]
    assert sorted(place for batch in batches for place in batch) == [0, 1, 2]


def test_two_processes_share_whole_batches(context: RunContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    shares = []
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        shares.append(places(context, "prompts", 7, 4))
    # Seven images are one batch of four, two for each process; three are left out.
    first, second = shares
    assert [len(batch) for batch in first] == [len(batch) for batch in second] == [2]
    assert len({*first[0], *second[0]}) == 4


def test_stages_plan_by_seeds_of_their_own(context: RunContext) -> None:
    planners = {stage: random_planner(context, stage, 7, 7, (64, 32)) for stage in ("captions", "prompts")}
    for stage, planner in planners.items():
        assert planner.seed == context.seed(stage)
        assert planner.image_size(5) == (64, 32)
    orders = [planner.plans(0)[0].indices for planner in planners.values()]
    assert orders[0] != orders[1]


class Captured(list[Any]):
    """What a stage would have trained, in place of training it."""

    def __call__(self, context: Any, stage: str, module: Any, *more: Any) -> None:
        self.append((stage, module))


def test_the_captions_stage_is_of_captioned_crops(context: RunContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_stages, "run", captured := Captured())
    model = model_in_training(CLIP_VIT).eval()
    text = TextSide(context.recipe, context.split, CLIP_VIT)
    run_captions(context, model, text)
    ((stage, module),) = captured
    assert stage == "captions" and model.training and text.encoder.training
    assert [record.path.name for record in module.crops.records] == ["2_1.png", "4_4.png", "7_5.png"]
    assert module.captions == [("caption of 1",), ("caption of 4",), ("caption of 5",)]
    assert (module.crops.labels.tolist(), module.crops.cameras.tolist()) == ([0, 1, 2], [1, 1, 1])
    assert module.model is model and module.encoder is text.encoder


def test_the_prompts_stage_is_of_image_features_and_labels(
    context: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_stages, "run", captured := Captured())
    given = torch.from_numpy(np.arange(56, dtype=np.float32).reshape(7, 8))
    context.run.keep("features", {"features": given})
    text = TextSide(context.recipe, context.split, CLIP_VIT)
    run_prompts(context, model_in_training(CLIP_VIT), text)
    ((stage, module),) = captured
    assert stage == "prompts" and module.text is text.prompts
    assert torch.equal(module.features.features, given)
    assert module.features.labels.tolist() == LABELS
    assert [len(plan.indices) for plan in module.planner.plans(0)] == [3, 3, 1]
