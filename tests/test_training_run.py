"""Whole runs on drawn people: what they leave behind, and that a killed one ends as if it had not been."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from modelscope_reid.datasets.readers import read_dataset
from modelscope_reid.datasets.synthetic_market import write_synthetic_market
from modelscope_reid.embedder import Embedder
from modelscope_reid.errors import ConfigError, InputError, TrainingError
from modelscope_reid.evaluation import evaluate
from modelscope_reid.training.history import read_history
from modelscope_reid.training.training_run import TrainingResult, resume, train

DRIVER = Path(__file__).with_name("training_driver.py")
NO_AUGMENTATION = {"flip": 0.0, "pad": 0, "erase": 0.0}
CLIP: dict[str, Any] = {
    "model": {
        "backbone": "clip_vit_base",
        "width": 64,
        "depth": 3,
        "projection_dim": 32,
        "image_size": [64, 32],
        "patch_size": 8,
        "stride": 8,
        "cameras": True,
        "drop_path": 0.2,
        "text_width": 64,
        "text_depth": 1,
    },
    "data": {"workers": 0},
    "evaluation": {"every": 1, "report": False},
    "checkpoint_every": 1,
    "prompts": {"epochs": 2, "batch_size": 16},
    "images": {
        "epochs": 3,
        "batch": {"people": 4, "images": 4, "sampler": "graph", "graph_from": 1, "graph_every": 2},
        "losses": {"identity": 0.25, "smoothing": 0.1, "margin": 0.3, "image_to_text": 1.0},
        "average": 0.9,
    },
}
"""Every kind of state that a run has: prompts, a graph of people, a running average, drop path, cameras, captions."""
OSNET: dict[str, Any] = {
    "model": {"backbone": "osnet_x0_25", "channels": [16, 32, 48, 64], "feature_dim": 20, "neck": "single"},
    "data": {"workers": 0, "cache": True},
    "images": {
        "epochs": 2,
        "batch": {"people": 4, "images": 4},
        "losses": {"margin": 0.3},
        "growing_sizes": [[0, 32, 16], [1, 64, 32]],
    },
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    """Bits are the same on the same number of threads: the driver's."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_market(
        tmp_path_factory.mktemp("market"),
        people=14,
        cameras=3,
        images_per_camera=2,
        distractors=2,
        junk=1,
        train_people=8,
        size=(64, 32),
    )


@pytest.fixture(scope="module")
def captions(market: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("captions") / "caption_all.json"
    names = sorted(image.name for image in (market / "bounding_box_train").iterdir())
    entries = [
        {"file_path": name, "id": int(name[:4]), "captions": [f"a person in {word}" for word in ("red", "blue", name)]}
        for name in names[::2]
    ]
    path.write_text(json.dumps(entries), encoding="utf-8")
    return path


def write_yaml(folder: Path, values: dict[str, Any]) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def clip_recipe(folder: Path, captions: Path) -> Path:
    text = {"caption_texts": {"path": str(captions), "redraw_every": 2}, "captions": {"epochs": 1, "batch_size": 8}}
    return write_yaml(folder, {**CLIP, **text})


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def train_osnet(folder: Path, market: Path, **overrides: Any) -> TrainingResult:
    recipe = write_yaml(folder, OSNET)
    return train(recipe, output=folder / "run", overrides={"data.root": str(market), **overrides}, device="cpu")


def test_a_run_leaves_its_recipe_history_model_and_report(tmp_path: Path, market: Path) -> None:
    result = train_osnet(tmp_path, market, **{"images.epochs": 3, "evaluation.every": 1})
    run = tmp_path / "run"
    assert yaml.safe_load((run / "recipe.yaml").read_text())["images"]["epochs"] == 3
    about = json.loads((run / "run.json").read_text())
    assert about["seed"] == 0 and about["versions"]["torch"] == version("torch")
    assert len(about["people"]) == 8 and about["dataset"]["counts"]["train"]["images"] == 48
    epochs, losses = read_history(run).column("images", "loss")
    assert epochs == [1, 2, 3] and np.isfinite(losses).all()
    assert read_history(run).column("images", "mAP")[0] == [1, 2, 3]
    assert {"report.json", "report.md", "features.npz"} <= {path.name for path in (run / "report").iterdir()}
    assert (run / "curves.png").stat().st_size > 1000
    assert list((run / "logs").glob("events.out.tfevents.*"))
    assert result.evaluation is not None and "mAP" in result.summary()
    embedder = Embedder.from_pretrained(result.model)
    assert embedder.config.num_classes == 8 and embedder.embedding_dim == 20


def test_the_same_seed_gives_the_same_weights_and_another_does_not(tmp_path: Path, market: Path) -> None:
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder, seed, workers in zip(folders, (3, 3, 4), (0, 2, 0), strict=True):
        folder.mkdir()
        train_osnet(folder, market, seed=seed, **{"data.workers": workers, "evaluation.report": False})
    first, again, other = (weights(folder / "run") for folder in folders)
    assert equal(first, again)
    assert not equal(first, other)


def test_a_run_starts_from_a_finished_one(tmp_path: Path, market: Path) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    first = train_osnet(tmp_path / "first", market, **{"evaluation.report": False})
    overrides = {"model.weights": str(first.model), "model.channels": None, "model.feature_dim": None}
    small = {"images.optimizer.learning_rate": 1e-9, "evaluation.report": False, "model.backbone": None}
    train_osnet(tmp_path / "second", market, **overrides, **small)
    before, after = weights(tmp_path / "first" / "run"), weights(tmp_path / "second" / "run")
    name = "backbone.conv1.conv.weight"
    torch.testing.assert_close(before[name], after[name], rtol=0, atol=1e-6)
    assert not torch.equal(before["head.classifiers.0.weight"], after["head.classifiers.0.weight"])


def test_the_best_is_kept_where_the_recipe_says_so(tmp_path: Path, market: Path) -> None:
    options = {"evaluation.keep": "best", "evaluation.every": 1, "evaluation.report": False, "images.epochs": 4}
    train_osnet(tmp_path, market, **options)
    best = load_file(tmp_path / "run" / "checkpoints" / "best" / "model.safetensors")
    assert equal(best, weights(tmp_path / "run"))
    last = torch.load(tmp_path / "run" / "stages" / "images.pt", weights_only=True)["model"]
    _, figures = read_history(tmp_path / "run").column("images", "mAP")
    assert equal(best, last) == (figures.index(max(figures)) == 3)


def test_people_held_out_can_be_evaluated_afterwards(tmp_path: Path, market: Path) -> None:
    held_out = {"data.held_out_people": 3, "evaluation.split": "held_out", "evaluation.every": 2}
    result = train_osnet(tmp_path, market, **held_out, **{"evaluation.report": False})
    dataset = read_dataset("table", str(tmp_path / "run" / "held_out.csv"))
    assert len({record.person_id for record in dataset.query}) == 3
    assert len(dataset.query) == 9 and len(dataset.gallery) == 9  # 3 cameras, 2 images by each
    trained_on = json.loads((tmp_path / "run" / "run.json").read_text())["people"]
    assert len(trained_on) == 5 and not {str(record.person_id) for record in dataset.query} & set(trained_on)
    measured = evaluate(Embedder.from_pretrained(result.model), dataset)
    _, figures = read_history(tmp_path / "run").column("images", "mAP")
    assert measured.mAP == pytest.approx(figures[-1], abs=1e-6)


def test_a_second_run_in_the_same_folder_is_refused(tmp_path: Path, market: Path) -> None:
    train_osnet(tmp_path, market, **{"evaluation.report": False})
    with pytest.raises(InputError, match="holds a run already; go on with --resume"):
        train_osnet(tmp_path, market)


def test_a_finished_run_resumes_to_the_same_model(tmp_path: Path, market: Path) -> None:
    train_osnet(tmp_path, market, **{"evaluation.report": False})
    before = weights(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "model")
    resume(tmp_path / "run", device="cpu")
    assert equal(before, weights(tmp_path / "run"))


def test_a_changed_dataset_is_refused_with_the_difference(tmp_path: Path, market: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(market, moved)
    train_osnet(tmp_path, market, **{"evaluation.report": False})
    root = {"data.root": str(moved)}
    resume(tmp_path / "run", overrides=root, device="cpu")  # moved, and the same
    gone = sorted((moved / "bounding_box_train").iterdir())[0]
    gone.unlink()
    words = rf"1 removed or as they were \(such as train bounding_box_train/{gone.name}"
    with pytest.raises(TrainingError, match=words):
        resume(tmp_path / "run", overrides=root, device="cpu")


def test_a_resumed_run_keeps_its_recipe(tmp_path: Path, market: Path) -> None:
    train_osnet(tmp_path, market, **{"evaluation.report": False})
    with pytest.raises(ConfigError, match=r"images\.epochs was given, and a resumed run keeps its recipe"):
        resume(tmp_path / "run", overrides={"images.epochs": 9})


def test_impossible_batches_are_said_before_the_first_step(tmp_path: Path, market: Path) -> None:
    with pytest.raises(InputError, match="takes 16 people and the training images show only 8; set people to 8"):
        train_osnet(tmp_path, market, **{"images.batch.people": 16})


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"data.root": None}, "--data.root"),
        ({"data.root": "/nowhere"}, "/nowhere"),
        ({"data.held_out_people": 20, "evaluation.split": "held_out"}, "hold out fewer"),
        ({"model.stride": 4}, "model.stride is given, but models of the family osnet have none"),
        ({"prompts.epochs": 1}, "text needs CLIP's image towers"),
        ({"precision": "fp16"}, "fp16 needs a GPU"),
        ({"model.weights": "/nowhere/model.pth"}, "/nowhere/model.pth"),
    ],
)
def test_what_cannot_be_trained_is_one_clear_error(
    tmp_path: Path, market: Path, overrides: dict[str, Any], words: str
) -> None:
    with pytest.raises((InputError, ConfigError, OSError), match=words) as caught:
        train_osnet(tmp_path, market, **overrides)
    assert "\n" not in str(caught.value)


def test_one_person_and_one_camera_train_to_finite_weights(tmp_path: Path, market: Path) -> None:
    lonely = tmp_path / "lonely"
    shutil.copytree(market, lonely)
    images = sorted((lonely / "bounding_box_train").iterdir())
    person = images[0].name[:4]
    for image in images:
        if not image.name.startswith(f"{person}_c1"):
            image.unlink()
    options = {"images.batch.people": 1, "images.batch.images": 8, "evaluation.report": False}
    train_osnet(tmp_path, lonely, **options)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in weights(tmp_path / "run").values())


def drive(**told: Any) -> subprocess.CompletedProcess[str]:
    """Run the driver in a process of its own."""
    return subprocess.run([sys.executable, str(DRIVER), json.dumps(told)], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def whole_run(market: Path, captions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    overrides = {"data.root": str(market)}
    train(clip_recipe(folder, captions), output=folder / "run", overrides=overrides, device="cpu")
    return folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "step"), [("captions", 2), ("prompts", 4), ("images", 0), ("images", 5), ("images", 11)]
)
def test_a_killed_run_resumes_to_the_same_bits(
    tmp_path: Path, market: Path, captions: Path, whole_run: Path, stage: str, step: int
) -> None:
    run = tmp_path / "run"
    recipe = str(clip_recipe(tmp_path, captions))
    killed = drive(recipe=recipe, output=str(run), overrides={"data.root": str(market)}, kill=[stage, step])
    assert killed.returncode == -9, killed.stderr
    assert not (run / "model").exists()
    resume(run, device="cpu")
    assert equal(weights(run), weights(whole_run))
    timeless = ("loss", "identity", "triplet", "image_to_text", "mAP", "rank1")
    for name in timeless:
        for there in read_history(whole_run).stages:
            assert read_history(run).column(there, name) == read_history(whole_run).column(there, name)


@pytest.mark.slow
def test_a_full_disk_is_one_error_and_the_run_goes_on_later(tmp_path: Path, market: Path) -> None:
    """The first checkpoint (about 500 KB) does not fit; nothing of it is left, and with room the run goes on."""
    run = tmp_path / "run"
    overrides = {"data.root": str(market), "evaluation.report": False, "evaluation.every": 0}
    recipe = str(write_yaml(tmp_path, OSNET))
    full = drive(recipe=recipe, output=str(run), overrides=overrides, file_bytes=100_000)
    assert full.returncode == 1
    assert "last_images.ckpt cannot be written" in full.stderr and "make room, then resume" in full.stderr
    assert [line for line in full.stderr.splitlines() if line.startswith("error: ")] == full.stderr.splitlines()[-1:]
    assert list((run / "checkpoints").iterdir()) == [] and not (run / "model").exists()
    resume(run, device="cpu")
    assert (run / "model" / "model.safetensors").stat().st_size > 100_000


@pytest.mark.slow
def test_two_processes_give_the_loss_curve_of_one(tmp_path: Path, market: Path) -> None:
    stages = {"prompts": {"epochs": 2, "batch_size": 16}, "images": {**CLIP["images"], "augmentation": NO_AUGMENTATION}}
    recipe = write_yaml(tmp_path, {**CLIP, **stages, "model": {**CLIP["model"], "drop_path": 0.0}})
    options = ["--data.root", str(market), "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    commands = {
        "one": [sys.executable, "-m"],
        "two": [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29533", "-m"],
    }
    curves = {}
    for name, command in commands.items():
        run = tmp_path / name
        arguments = ["modelscope_reid", "train", str(recipe), "--output", str(run), *options]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("trained") == 1
        curves[name] = read_history(run).column("images", "loss")[1], read_history(run).column("prompts", "loss")[1]
    for one, two in zip(curves["one"], curves["two"], strict=True):
        assert len(one) == len(two) > 1
        np.testing.assert_allclose(one, two, rtol=2e-4)
