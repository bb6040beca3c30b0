"""The images stage, put together: its sizes, its graph of people, its measurements, its watchers, its seeds."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from dataset_trees import draw
from lightning.pytorch import Callback, Trainer
from numpy.typing import NDArray
from tiny import SMALL, TINY_CONFIGS, embed, tiny_model
from torch import Tensor

from modelscope_reid.config import ClipVitConfig, ModelConfig, OsnetConfig
from modelscope_reid.datasets.readers import read_dataset
from modelscope_reid.datasets.records import Record
from modelscope_reid.datasets.synthetic_market import write_synthetic_market
from modelscope_reid.embedder import Embedder
from modelscope_reid.errors import ConfigError
from modelscope_reid.evaluation import evaluate
from modelscope_reid.models.reid_model import ReidModel
from modelscope_reid.runtimes.torch_runtime import TorchRuntime
from modelscope_reid.training.callbacks import Checkpoints, HistoryKeeper, LossGuard, ProgressBar
from modelscope_reid.training.history import History
from modelscope_reid.training.image_stage import ImageTraining
from modelscope_reid.training.people import TrainingSplit, training_split
from modelscope_reid.training.recipe import STAGES, DataSpec, ModelSpec, Recipe
from modelscope_reid.training.run_folder import RunFolder
from modelscope_reid.training.stage_specs import BatchSpec, ImageStage
from modelscope_reid.training.stages import RunContext, find_neighbours, image_module, keep_best, measure, watchers

OSNET = cast(OsnetConfig, dataclasses.replace(TINY_CONFIGS["osnet"], neck="single"))
SIE = ClipVitConfig(width=64, depth=2, projection_dim=8, preprocessing=SMALL, num_classes=5, cameras=2)
PAIRS = BatchSpec(people=2, images=1, sampler="graph")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def context_of(folder: Path, split: TrainingSplit, *, progress: bool = False, **recipe: Any) -> RunContext:
    told = Recipe(**{"model": ModelSpec(backbone="osnet_x0_25"), "data": DataSpec(workers=0)} | recipe)
    return RunContext(told, RunFolder(folder), split, torch.device("cpu"), History(folder), progress)


def split_of(*images: tuple[Path, int, int]) -> TrainingSplit:
    """A split of (path, person, camera)."""
    records = tuple(Record(*image) for image in images)
    people, cameras = sorted({record.person_id for record in records}), sorted({record.camera_id for record in records})
    return TrainingSplit(
        records,
        {person: label for label, person in enumerate(people)},
        {camera: number for number, camera in enumerate(cameras)},
        None,
    )


@pytest.fixture
def looks(tmp_path: Path) -> list[Path]:
    """Four images, of which 0 and 2 are the same to the bit, and so are 1 and 3."""
    images = [draw(tmp_path / f"{number}.png", number) for number in range(2)]
    return [*images, *(Path(shutil.copy(image, tmp_path / f"{number + 2}.png")) for number, image in enumerate(images))]


@pytest.mark.parametrize("family", ["pass_vit", "transreid_vit", "clip_vit", "clip_resnet"])
def test_networks_with_positions_have_one_size(family: str, looks: list[Path], tmp_path: Path) -> None:
    images = ImageStage(batch=BatchSpec(people=2, images=1), growing_sizes=((0, 32, 16), (1, 64, 32)))
    context = context_of(tmp_path, split_of((looks[0], 0, 0), (looks[1], 1, 0)), images=images)
    with pytest.raises(ConfigError, match=f"growing_sizes is for OSNet; {family} has positions for one size"):
        image_module(context, tiny_model(TINY_CONFIGS[family]))


def test_sizes_grow_for_osnet_and_are_the_models_where_none_is_given(looks: list[Path], tmp_path: Path) -> None:
    split, batch = split_of((looks[0], 0, 0), (looks[1], 1, 0)), BatchSpec(people=2, images=1)
    growing = ImageStage(batch=batch, growing_sizes=((0, 32, 16), (2, 64, 32)))
    planner = image_module(context_of(tmp_path, split, images=growing), tiny_model(OSNET)).planner
    assert [planner.image_size(epoch) for epoch in range(4)] == [(32, 16), (32, 16), (64, 32), (64, 32)]
    module = image_module(context_of(tmp_path, split, images=ImageStage(batch=batch)), tiny_model(OSNET))
    assert module.planner.image_size(0) == (64, 32) and module.model.training


def neighbours(
    context: RunContext, config: ModelConfig, epoch: int = 0, text_features: Any = None, broadcast: Any = None
) -> NDArray[Any]:
    """Find the nearest people as the module in training does; one process tells itself what it found."""
    model = tiny_model(config)
    if config is SIE:
        model.backbone.camera_embedding.weight.data.normal_()  # type: ignore[union-attr]
    module = image_module(context, model, text_features)
    module.trainer = cast(Any, SimpleNamespace(strategy=SimpleNamespace(broadcast=broadcast or (lambda found: found))))
    return find_neighbours(context, module, epoch, context.recipe.images, text_features)


def test_people_who_look_alike_are_neighbours(looks: list[Path], tmp_path: Path) -> None:
    # Ids 30, 10, 20, 40 are labels 2, 0, 1, 3. Images 0 and 2 are the same, of labels 2 and 1; 1 and 3 of 0 and 3.
    split = split_of(*((look, person, 0) for look, person in zip(looks, (30, 10, 20, 40), strict=True)))
    context = context_of(tmp_path, split, images=ImageStage(batch=PAIRS))
    assert neighbours(context, OSNET).tolist() == [[3], [2], [1], [0]]


def test_a_model_that_knows_cameras_is_told_them(tmp_path: Path) -> None:
    # One image in four copies: people differ by camera alone. Labels 0 and 3 are seen by camera 5, 1 and 2 by camera 8.
    images = [Path(shutil.copy(draw(tmp_path / "one.png"), tmp_path / f"{number}.png")) for number in range(4)]
    split = split_of(*((image, label, (5, 8, 8, 5)[label]) for label, image in enumerate(images)))
    context = context_of(tmp_path, split, images=ImageStage(batch=PAIRS))
    assert neighbours(context, SIE).tolist() == [[3], [2], [1], [0]]
    # To a network without cameras all four are the same: ties, which go to the smaller label.
    assert neighbours(context, dataclasses.replace(SIE, cameras=0)).tolist() == [[1], [0], [0], [0]]


def texts(epoch: int) -> Tensor:
    """In epoch 0 people 0 and 1 are near to each other, and 2 and 3; in epoch 1, 0 and 3, and 1 and 2."""
    near = {0: (0.0, 0.2, 2.0, 2.1), 1: (0.0, 2.0, 2.1, 0.2)}[epoch]
    angles = torch.tensor(near)
    return torch.stack((angles.cos(), angles.sin()), dim=1)


def test_people_who_are_told_alike_are_neighbours(looks: list[Path], tmp_path: Path) -> None:
    split = split_of(*((look, label, 0) for label, look in enumerate(looks)))
    by_text = ImageStage(batch=dataclasses.replace(PAIRS, graph_features="text"))
    context = context_of(tmp_path, split, images=ImageStage(batch=PAIRS))
    assert neighbours(context, OSNET, text_features=texts).tolist() == [[2], [3], [0], [1]]  # by image: as they look
    object.__setattr__(context.recipe, "images", by_text)  # a recipe with text features has a prompts stage too
    assert neighbours(context, OSNET, 0, texts).tolist() == [[1], [0], [3], [2]]
    assert neighbours(context, OSNET, 1, texts).tolist() == [[3], [2], [1], [0]]


def test_other_processes_take_the_firsts_word(
    looks: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = split_of(*((look, label, 0) for label, look in enumerate(looks)))
    context = context_of(tmp_path, split, images=ImageStage(batch=PAIRS))
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    heard: list[Any] = []

    def broadcast(found: Any) -> NDArray[Any]:
        heard.append(found)
        return np.array([[1], [0], [0], [0]])

    for look in looks:
        look.unlink()  # nothing is embedded here
    assert neighbours(context, OSNET, broadcast=broadcast).tolist() == [[1], [0], [0], [0]]
    assert heard == [None]


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_what_is_measured_is_what_evaluation_finds(average: float, tmp_path: Path) -> None:
    root = write_synthetic_market(
        tmp_path, people=9, cameras=2, images_per_camera=2, distractors=3, junk=1, train_people=3, size=(64, 32)
    )
    dataset = read_dataset("market1501", root)
    images = ImageStage(batch=BatchSpec(people=2, images=1), average=average)
    context = context_of(tmp_path, training_split(dataset), images=images)
    (tmp_path / "checkpoints").mkdir()
    network, other = tiny_model(OSNET, seed=1), tiny_model(OSNET, seed=2)
    module = image_module(context, network)
    if module.average is not None:  # the average, and not the network, is what is measured
        module.average.module.load_state_dict(other.state_dict())
    measured = other if average else tiny_model(OSNET, seed=1)
    figures = evaluate(Embedder(TorchRuntime(measured, "cpu"), OSNET), dataset).ranking.figures()
    assert measure(context, module) == {
        "mAP": pytest.approx(figures["mAP"], rel=1e-6),
        "rank1": pytest.approx(figures["rank1"], rel=1e-6),
    }
    assert module.model.training
    keep_best(context, module)
    kept = Embedder.from_pretrained(context.run.best, device="cpu")
    pixels = torch.randn(2, 3, 64, 32, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(kept.runtime.run(pixels.numpy()), embed(measured, pixels), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("progress", [False, True])
def test_the_checkpoint_is_written_after_all_others_have_seen_the_batch(progress: bool, tmp_path: Path) -> None:
    context = context_of(tmp_path, split_of((tmp_path / "x.png", 0, 0)), progress=progress, checkpoint_every=7)
    found = watchers(context, "images", extra := Callback())
    bar = [ProgressBar] if progress else []
    assert [type(watcher) for watcher in found] == [LossGuard, HistoryKeeper, Callback, *bar, Checkpoints]
    assert found[2] is extra
    last = found[-1]
    assert isinstance(last, Checkpoints)
    assert (last.path, last.every_batches) == (tmp_path / "checkpoints" / "last_images.ckpt", 7)
    trainer = Trainer(
        accelerator="cpu", callbacks=found, logger=False, enable_progress_bar=False, default_root_dir=tmp_path
    )
    assert trainer.callbacks[-1] is last  # type: ignore[attr-defined]


def training_state(model: ReidModel) -> tuple[Any, ...]:
    """All that an epoch goes on from: weights, their layout in memory, modes, and whether they learn."""
    return (
        {name: tensor.clone() for name, tensor in model.state_dict().items()},
        {name: tensor.stride() for name, tensor in model.state_dict().items()},
        {name: module.training for name, module in model.named_modules()},
        {name: parameter.requires_grad for name, parameter in model.named_parameters()},
        (model.config, model.head),
    )


def test_an_embedder_leaves_the_model_in_training_as_it_is(looks: list[Path], tmp_path: Path) -> None:
    context = context_of(
        tmp_path,
        split_of((looks[0], 0, 0), (looks[1], 1, 0)),
        images=ImageStage(batch=BatchSpec(people=2, images=1)),
    )
    module = image_module(context, tiny_model(OSNET))
    model = module.model
    weight = model.get_parameter("backbone.conv1.conv.weight")
    assert weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    weights, *rest = training_state(model)
    embedder = context.embedder(model, neck_feature="after")
    assert embedder.config.neck_feature == "after" and not embedder.runtime.model.training  # type: ignore[attr-defined]
    vectors = embedder.embed(looks[:2])
    weights_now, *rest_now = training_state(model)
    assert rest_now == rest
    assert all(torch.equal(weights[name], weights_now[name]) for name in weights)
    # The copy's own weights, its neck's among them.
    twin = tiny_model(dataclasses.replace(OSNET, neck_feature="after"))
    expected = Embedder(TorchRuntime(twin, "cpu"), twin.config).embed(looks[:2])
    np.testing.assert_allclose(vectors, expected, rtol=1e-4, atol=1e-5)


def test_every_stage_has_a_seed_of_its_own(tmp_path: Path) -> None:
    split = split_of((tmp_path / "x.png", 0, 0))
    first, again, other = (context_of(tmp_path, split, seed=seed) for seed in (5, 5, 6))
    places = (*STAGES, "model")
    seeds = [context.seed(place) for context in (first, other) for place in places]
    assert len(set(seeds)) == 2 * 4
    assert [again.seed(place) for place in places] == seeds[:4]


def test_the_graph_of_people_is_asked_for_by_the_module(looks: list[Path], tmp_path: Path) -> None:
    # Labels 0 and 2 look the same, and 1 and 3: every batch is one of these two pairs.
    split = split_of(*((look, label, 0) for label, look in enumerate(looks)))
    context = context_of(tmp_path, split, images=ImageStage(batch=PAIRS))
    module: ImageTraining = image_module(context, tiny_model(OSNET))
    module.trainer = cast(
        Any, SimpleNamespace(current_epoch=0, strategy=SimpleNamespace(broadcast=lambda found: found))
    )
    batches = {tuple(sorted(batch.labels.tolist())) for batch in module.train_dataloader()}
    assert batches == {(0, 2), (1, 3)}
