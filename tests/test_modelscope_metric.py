"""ModelScope's evaluation: our metric through `build_metric` and a real `EpochBasedTrainer`, and the plain call."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import TINY_CONFIGS

from modelscope_reid import Embedder, InputError, ReidModel, load_image, save_pretrained
from modelscope_reid.datasets.market_layout import Market1501
from modelscope_reid.datasets.records import Dataset
from modelscope_reid.datasets.synthetic_market import write_synthetic_market
from modelscope_reid.evaluation import Protocol
from modelscope_reid.evaluation import evaluate as evaluate_embedder
from modelscope_reid.preprocess import resize, to_batch

pytest.importorskip("modelscope")

TINY = TINY_CONFIGS["transreid_vit"]  # knows cameras 0 to 2: the dataset's, 1 to 3, must not reach it


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = tmp_path_factory.mktemp("market")
    write_synthetic_market(root, people=5, cameras=3, images_per_camera=2, distractors=3, junk=2, train_people=1)
    return Market1501(root)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_pretrained(ReidModel.with_seed(TINY), tmp_path_factory.mktemp("model")))


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What ModelScope's logger, which does not propagate, is told."""
    from modelscope.utils.logger import get_logger

    logger = get_logger()
    logger.addHandler(caplog.handler)
    with caplog.at_level(logging.INFO, logger=logger.name):
        yield caplog
    logger.removeHandler(caplog.handler)


class LabelledCrops(torch.utils.data.Dataset[dict[str, Any]]):
    """Queries and gallery as the trainer's batches: {"images", "labels"}."""

    def __init__(self, dataset: Dataset) -> None:
        self.queries = len(dataset.query)
        self.records = (*dataset.query, *dataset.gallery)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = self.records[index]
        crop = resize(load_image(record.path), TINY.preprocessing)
        return {
            "images": torch.from_numpy(to_batch([crop], TINY.preprocessing)[0]),
            "camera_ids": record.camera_id - 1,  # the model's, counted from 0
            "labels": {
                "person_ids": record.person_id,
                "camera_ids": record.camera_id,
                "is_query": index < self.queries,
                "paths": str(record.path),
            },
        }


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the trainer's question to the hub whether the model is its newest: 20 s of retries without a network."""
    monkeypatch.setattr("modelscope.trainers.trainer.check_local_model_is_latest", lambda *args, **kwargs: None)


def trainer(model: Any, folder: str, dataset: Any, work_dir: Path, **evaluation: Any) -> Any:
    from modelscope.trainers import EpochBasedTrainer

    import modelscope_reid.modelscope_plugin  # noqa: F401  # registers

    options = {"dataloader": {"batch_size_per_gpu": 4, "workers_per_gpu": 0, "shuffle": True}, **evaluation}
    dotted = {f"evaluation.{name}": value for name, value in options.items()}  # nested, the metrics would be overlooked
    return EpochBasedTrainer(
        model=model,
        cfg_file=f"{folder}/configuration.json",
        eval_dataset=dataset,
        work_dir=str(work_dir),
        max_epochs=1,
        device="cpu",
        cfg_options=dotted,
    )


def labels(people: list[int], cameras: list[int], queries: list[bool]) -> dict[str, Any]:
    """One batch's inputs; the path of a row says where it is."""
    return {
        "labels": {
            "person_ids": torch.tensor(people),
            "camera_ids": torch.tensor(cameras),
            "is_query": torch.tensor(queries),
            "paths": [f"{person}_{camera}.jpg" for person, camera in zip(people, cameras, strict=True)],
        }
    }


def angles(*degrees: float) -> torch.Tensor:
    radians = torch.deg2rad(torch.tensor(degrees))
    return torch.stack([radians.cos(), radians.sin()], dim=1)


FIRST = (angles(0, 10), labels([1, 2], [1, 1], [True, False]))
SECOND = (angles(20, 30, 40), labels([1, -1, 1], [2, 2, 3], [False, False, False]))
"""Query at 0 degrees; gallery: 10 person 2, 20 person 1, 30 junk, 40 person 1. AP = (1/2 + 2/3) / 2, INP = 2/3."""


def built(**options: Any) -> Any:
    from modelscope.metrics import build_metric

    import modelscope_reid.modelscope_plugin  # noqa: F401  # registers

    return build_metric({"type": "image-reid-person", **options})


def test_modelscopes_build_metric_gives_ours_with_figures_worked_out_by_hand() -> None:
    metric = built()
    metric.add(*FIRST)
    metric.add({"img_embedding": SECOND[0].numpy()}, SECOND[1])  # as a pipeline has it
    figures = metric.evaluate()
    assert figures["mAP"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert (figures["rank1"], figures["rank5"], figures["rank10"]) == (0.0, 1.0, 1.0)
    assert figures["mINP"] == pytest.approx(2 / 3)
    assert (figures["queries"], figures["gallery"]) == (1, 3)


def test_processes_merge_what_they_pickled_and_the_samplers_padding_counts_once() -> None:
    from modelscope.trainers.utils.inference import merge_metrics

    parts = [built(), built()]
    for part in parts:
        part.trainer = lambda: None  # ModelScope hangs its trainer on; this one cannot be pickled, nor can that
    parts[0].add(*FIRST)
    parts[1].add(*SECOND)
    parts[1].add(*FIRST)  # a distributed sampler fills the last round with images from the start
    (merged,) = merge_metrics([pickle.loads(pickle.dumps([part])) for part in parts])
    figures = merged.evaluate()
    assert figures["mAP"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert (figures["queries"], figures["gallery"]) == (1, 3)


def test_options_of_the_protocol_go_through_the_configuration() -> None:
    metric = built(same_camera="keep", query_expansion=0)
    metric.add(*FIRST)
    metric.add(angles(5), labels([1], [1], [False]))  # the query's own camera, kept
    assert metric.evaluate()["rank1"] == 1.0
    with pytest.raises(InputError, match="query_expansion is -1"):
        built(query_expansion=-1)
    with pytest.raises(TypeError, match="reranking"):
        built(reranking=True)


def test_what_is_missing_is_named() -> None:
    metric = built()
    with pytest.raises(InputError, match="no batch was added"):
        metric.evaluate()
    with pytest.raises(InputError, match=r'lacks person_ids, camera_ids, is_query, paths under "labels"'):
        metric.add(FIRST[0], {"images": None})
    with pytest.raises(InputError, match="expected one length"):
        metric.add(SECOND[0], FIRST[1])


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("evaluation", [{}, {"metrics": [{"type": "image-reid-person", "same_camera": "keep"}]}])
def test_the_epoch_based_trainer_evaluates(
    folder: str, dataset: Dataset, tmp_path: Path, logged: pytest.LogCaptureFixture, evaluation: dict[str, Any]
) -> None:
    from modelscope_reid.modelscope_plugin import ReidTorchModel

    figures = trainer(ReidTorchModel(folder), folder, LabelledCrops(dataset), tmp_path, **evaluation).evaluate()
    protocol = Protocol(same_camera="keep" if evaluation else "remove")
    direct = evaluate_embedder(Embedder.from_pretrained(folder, device="cpu"), dataset, protocol=protocol)
    expected = direct.ranking.figures()
    assert figures == pytest.approx(expected, abs=1e-9)
    assert 0 < figures["mAP"] < 1 and figures["queries"] == len(dataset.query)
    assert f"mAP {100 * figures['mAP']:.1f}  Rank-1 {100 * figures['rank1']:.1f}" in logged.text


def test_the_plain_call_evaluates_a_pipeline(
    folder: str, dataset: Dataset, tmp_path: Path, logged: pytest.LogCaptureFixture
) -> None:
    from modelscope.pipelines import pipeline

    from modelscope_reid.modelscope_plugin import evaluate

    result = evaluate(pipeline("image-reid-person", model=folder, device="cpu"), dataset, output=tmp_path)
    direct = evaluate_embedder(Embedder.from_pretrained(folder, device="cpu"), dataset)
    assert result.ranking.figures() == direct.ranking.figures()
    np.testing.assert_array_equal(result.features.embeddings, direct.features.embeddings)
    assert f"mAP {100 * result.mAP:.1f}  Rank-1 {100 * result.rank(1):.1f}" in logged.text
    assert (tmp_path / "report.json").exists()
