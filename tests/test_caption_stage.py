"""reid-task's stage 0: both towers learn, each at its rate, from crops and one of their own captions."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from lightning.pytorch.callbacks import Checkpoint
from tiny import SMALL, tiny_model

from modelscope_reid.config import ClipVitConfig
from modelscope_reid.models.clip_text import random_caption_encoder, tokenize
from modelscope_reid.training.batches import EpochPlanner
from modelscope_reid.training.caption_stage import CaptionTraining
from modelscope_reid.training.crops import BatchPlan, CropDataset, TrainingBatch
from modelscope_reid.training.loop import run_stage
from modelscope_reid.training.losses import clip_loss
from modelscope_reid.training.stage_specs import BatchSpec, CaptionStage, OptimizerSpec

CONTEXT = 12
CAPTIONS = [
    ("a red coat", "red", "someone in red"),
    ("a blue bag",),
    ("green", "a green hat"),
    ("white shoes", "shoes"),
]
CAMERAS = torch.tensor([0, 1, 1, 0])
FASTER = {
    "optimizer": OptimizerSpec(kind="adamw", learning_rate=2e-3),
    "encoder_learning_rate": 2e-3,
    "token_learning_rate": 1e-2,
}


class GivenCrops(CropDataset):
    """Four crops of noise, in place of crops read from files."""

    def __init__(self) -> None:
        self.images = torch.randn(4, 3, *SMALL.image_size, generator=torch.Generator().manual_seed(3))
        self.prepared: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return 4

    def prepare(self, image_size: tuple[int, int]) -> None:
        self.prepared.append(image_size)

    def __getitems__(self, plan: BatchPlan) -> TrainingBatch:
        indices = torch.tensor(plan.indices)
        return TrainingBatch(self.images[indices], indices, CAMERAS[indices], indices)


class Losses(Checkpoint):
    """Keeps the loss of every batch; as a `Checkpoint` it keeps Lightning from writing one of its own."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append(float(outputs["loss"]))


def training(*, epoch: int = 0, seed: int = 0, captions: Any = CAPTIONS, **options: Any) -> CaptionTraining:
    """A training at the start of an epoch."""
    config = ClipVitConfig(width=64, depth=2, projection_dim=16, preprocessing=SMALL, num_classes=5, cameras=2)
    stage = CaptionStage(batch_size=4, **options)
    module = CaptionTraining(
        tiny_model(config).train(),
        random_caption_encoder(width=16, depth=1, context_length=CONTEXT, projection_dim=16).train(),
        stage,
        crops=GivenCrops(),
        captions=captions,
        planner=EpochPlanner(
            labels=torch.arange(4).numpy(),
            spec=BatchSpec(sampler="random", people=4, images=1),
            sizes=((0, *SMALL.image_size),),
            seed=seed,
        ),
    )
    module.trainer = cast(Any, SimpleNamespace(world_size=1, current_epoch=epoch))
    return module


def test_encoders_tokens_and_the_rest_learn_at_their_own_rates() -> None:
    module = training()
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    rates = {
        names[id(parameter)]: group["base_rate"]
        for group in module.configure_optimizers().param_groups
        for parameter in group["params"]
    }
    assert {name for name in names.values() if name not in rates} == {
        name for name in names.values() if name.startswith("model.head.")
    }
    assert {name for name, rate in rates.items() if rate == 2e-4} == {"encoder.token_embedding.weight"}
    assert {name for name, rate in rates.items() if rate == 8e-5} == {
        "model.backbone.projection",
        "encoder.text_encoder.positional_embedding",
        "encoder.text_encoder.ln_final.weight",
        "encoder.text_encoder.ln_final.bias",
        "encoder.text_encoder.text_projection",
    }
    encoders = [name for name, rate in rates.items() if rate == 1e-5]
    assert len(encoders) == len(rates) - 6
    assert {"model.backbone.cls_token", "model.backbone.camera_embedding.weight"} < set(encoders)
    assert any(name.startswith("encoder.text_encoder.transformer.resblocks.0.") for name in encoders)


def drawn(module: CaptionTraining, *indices: int) -> list[str]:
    """The captions drawn for crops, found by their tokens."""
    known = {tuple(tokenize([text], CONTEXT)[0].tolist()): text for texts in module.captions for text in texts}
    return [known[tuple(tokens.tolist())] for tokens in module._draw_tokens(list(indices))]


def test_a_crop_is_told_one_of_its_own_captions_anew_each_epoch() -> None:
    epochs = [drawn(training(epoch=epoch), 0, 1, 2, 3) for epoch in range(12)]
    # The rarest draw, one of three in 12 epochs, is missed by a fair die in 3 x (2/3)^12 = 2% of all seeds.
    assert [set(texts) for texts in zip(*epochs, strict=True)] == [set(texts) for texts in CAPTIONS]


def test_the_caption_is_told_by_seed_epoch_and_crop_alone() -> None:
    many = [tuple(f"{crop} {number}" for number in range(50)) for crop in range(4)]
    first = drawn(training(epoch=3, captions=many), 0, 1, 2, 3)
    torch.manual_seed(9)
    module = training(epoch=3, captions=many)
    assert drawn(module, 3, 1) == [first[3], first[1]]  # another batch, in another order
    assert drawn(module, 0, 2) == [first[0], first[2]]
    # By chance, four of four would be the same once in 50^4 seeds.
    assert drawn(training(epoch=4, captions=many), 0, 1, 2, 3) != first
    assert drawn(training(epoch=3, seed=1, captions=many), 0, 1, 2, 3) != first
    # Crops draw one by one: not the same number for all.
    assert len({text.split()[1] for text in first}) > 1


def test_the_loss_is_clips_of_projected_crops_told_their_cameras() -> None:
    captions = [(texts[0],) for texts in CAPTIONS]
    module = training(captions=captions, temperature=0.5)
    module.model.backbone.camera_embedding.weight.data.normal_()  # type: ignore[union-attr]
    batch = module.crops.__getitems__(BatchPlan(indices=(2, 0, 1), seed=0, image_size=SMALL.image_size))
    found = module.training_step(batch, 0)["loss"]
    with torch.no_grad():
        texts = module.encoder(tokenize([captions[crop][0] for crop in (2, 0, 1)], CONTEXT))
        _, _, images = module.model.backbone(batch.images, torch.tensor([1, 0, 1]))
        _, _, untold = module.model.backbone(batch.images, None)
    assert found.item() == pytest.approx(clip_loss(images, texts, temperature=0.5).item(), rel=1e-5)
    assert found.item() != pytest.approx(clip_loss(untold, texts, temperature=0.5).item(), rel=1e-4)


def test_both_towers_learn_and_the_head_stays(tmp_path: Path) -> None:
    module = training(captions=[(texts[0],) for texts in CAPTIONS], epochs=15, **FASTER)
    before = copy.deepcopy(module.state_dict())
    recorder = Losses()
    run_stage(
        module,
        epochs=module.stage.epochs,
        optimizer=module.stage.optimizer,
        precision="fp32",
        device=torch.device("cpu"),
        callbacks=[recorder],
        logs=tmp_path / "logs",
        checkpoint=None,
    )
    assert module.crops.prepared == [SMALL.image_size] * 15  # type: ignore[attr-defined]
    # Four pairs that are all alike lose log 4 = 1.39; told apart, less and less.
    assert len(recorder.losses) == 15
    assert recorder.losses[0] > 1.0 and recorder.losses[-1] < 0.2
    after = module.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {
        "model.backbone.projection",
        "model.backbone.camera_embedding.weight",
        "encoder.token_embedding.weight",
        "encoder.text_encoder.positional_embedding",
    } < moved
    head = {name for name in before if name.startswith("model.head.")}
    assert len(head) > 2 and not head & moved
