"""Training as ModelScope has it: `build_trainer`, `train`, `evaluate`, and the model through `pipeline`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tiny_training import write_tiny_training

from modelscope_reid import ConfigError, Embedder, InputError, evaluate, read_dataset
from modelscope_reid.training.training_run import TrainingResult

pytest.importorskip("modelscope")

CROPS = sorted(str(path) for path in (Path(__file__).parents[1] / "assets").glob("*.png"))[:2]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny.yaml and data."""
    folder = tmp_path_factory.mktemp("training")
    write_tiny_training(folder)
    return folder


def build(**arguments: Any) -> Any:
    from modelscope.trainers import build_trainer

    import modelscope_reid.modelscope_plugin  # noqa: F401  # registers

    return build_trainer("image-reid-person", default_args=dict(arguments))


@pytest.fixture(scope="module")
def trained(place: Path) -> tuple[Any, TrainingResult]:
    """A trainer that has trained, with fields of the recipe told in all three ways."""
    trainer = build(
        recipe=str(place / "tiny.yaml"),
        data_root=place / "data",
        work_dir=str(place / "run"),
        device="cpu",
        seed=3,
        overrides={"images.losses.margin": 0.25},
        **{"images.optimizer.weight_decay": 0.0},
    )
    return trainer, trainer.train()


def test_the_trainer_is_modelscopes_and_its_fields_reach_the_recipe(
    trained: tuple[Any, TrainingResult], place: Path
) -> None:
    from modelscope.trainers.base import BaseTrainer

    assert isinstance(trained[0], BaseTrainer)
    effective = yaml.safe_load((place / "run" / "recipe.yaml").read_text())
    assert (effective["seed"], effective["data"]["root"]) == (3, str(place / "data"))
    assert (effective["images"]["losses"]["margin"], effective["images"]["optimizer"]["weight_decay"]) == (0.25, 0.0)


def test_the_model_opens_with_pipeline_and_embedder(trained: tuple[Any, TrainingResult], place: Path) -> None:
    from modelscope.pipelines import pipeline

    result = trained[1]
    assert (result.folder, result.model) == (place / "run", place / "run" / "model")
    outputs = pipeline("image-reid-person", model=str(result.model), device="cpu")(CROPS)
    vectors = np.concatenate([output["img_embedding"] for output in outputs])
    assert vectors.shape == (2, 20)
    np.testing.assert_allclose(vectors, Embedder.from_pretrained(result.model, device="cpu").embed(CROPS), rtol=1e-4)


def test_evaluate_gives_the_figures_of_the_trained_model_or_of_another(
    trained: tuple[Any, TrainingResult], place: Path
) -> None:
    dataset = read_dataset("market1501", place / "data")
    expected = evaluate(Embedder.from_pretrained(place / "run" / "model", device="cpu"), dataset).ranking.figures()
    assert trained[0].evaluate() == expected and 0 < expected["mAP"] <= 1
    again = build(recipe=str(place / "tiny.yaml"), data_root=place / "data", work_dir=place / "run", device="cpu")
    assert again.evaluate() == pytest.approx(expected)  # of the folder, by a trainer that has not trained
    own = evaluate(Embedder.from_pretrained(device="cpu"), dataset).ranking.figures()
    folder = Embedder.from_pretrained(device="cpu").report.source  # type: ignore[union-attr]
    assert again.evaluate(checkpoint_path=folder) == pytest.approx(own)


def test_resume_and_fine_tuning(trained: tuple[Any, TrainingResult], place: Path, tmp_path: Path) -> None:
    before = Embedder.from_pretrained(place / "run" / "model", device="cpu").fingerprint
    result = build(resume_from=str(place / "run"), device="cpu").train()
    assert Embedder.from_pretrained(result.model, device="cpu").fingerprint == before
    trainer = build(
        model=str(place / "run" / "model"),
        recipe=place / "tiny.yaml",
        data_root=str(place / "data"),
        work_dir=tmp_path / "tuned",
        device="cpu",
        overrides={"evaluation.report": False},
    )
    tuned = trainer.train()
    assert yaml.safe_load((tmp_path / "tuned" / "recipe.yaml").read_text())["model"]["weights"].endswith("run/model")
    assert tuned.evaluation is None and set(trainer.evaluate()) >= {"mAP", "mINP"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "recipe and work_dir are needed"),
        ({"recipe": "osnet_light"}, "recipe and work_dir are needed"),
        ({"recipe": "osnet_light", "resume_from": "run"}, "leave recipe and work_dir out"),
        ({"recipe": "osnet_light", "work_dir": "x", "data_rot": "y"}, "argument 'data_rot'; did you mean 'data_root'"),
        ({"recipe": "osnet_light", "work_dir": "x", "max_epochs": 3}, r"no argument 'max_epochs' .*by dotted name"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_said_when_the_trainer_is_made(arguments: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(**arguments)


def test_what_is_wrong_with_a_recipe_is_said_by_train_and_nothing_is_written(place: Path, tmp_path: Path) -> None:
    common = {"recipe": place / "tiny.yaml", "work_dir": tmp_path / "run", "data_root": place / "data", "device": "cpu"}
    with pytest.raises(ConfigError, match="did you mean 'epochs'"):
        build(**common, **{"images.epoch": 3}).train()
    with pytest.raises(InputError, match="has no trained model yet; call train"):
        build(**common).evaluate()
    with pytest.raises(InputError, match=r"data\.root is not given"):
        build(**{**common, "data_root": None}).train()
    assert not (tmp_path / "run").exists()


def test_registering_loads_no_lightning() -> None:
    script = (
        "import sys, modelscope_reid.modelscope_plugin\n"
        "from modelscope.trainers.builder import TRAINERS\n"
        "assert TRAINERS.get('image-reid-person').__name__ == 'ReidTrainer'\n"
        "sys.exit('lightning' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
