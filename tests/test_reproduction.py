"""The published table beside ours, on a drawn dataset and tiny models; only published numbers are replaced."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tiny import TINY_CONFIGS, tiny_model

from modelscope_reid import Embedder, save_pretrained
from modelscope_reid import reproduction as reproducing
from modelscope_reid.cli import main
from modelscope_reid.config import ClipVitConfig, ModelConfig
from modelscope_reid.datasets.market_layout import Market1501
from modelscope_reid.datasets.msmt17 import MSMT17
from modelscope_reid.datasets.published import PUBLISHED, Published
from modelscope_reid.datasets.records import Dataset, Record
from modelscope_reid.datasets.synthetic_market import write_synthetic_market
from modelscope_reid.evaluation import evaluate
from modelscope_reid.ranking.metrics import rank, rank_distances
from modelscope_reid.ranking.reranking import rerank
from modelscope_reid.reproduction import FIGURES, SOURCES, PublishedFigure, reproduce

CONFIG = TINY_CONFIGS["pass_vit"]
FOLDER = "Market-1501-v15.09.15"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("datasets")
    write_synthetic_market(
        folder / FOLDER, people=6, cameras=3, images_per_camera=2, distractors=3, junk=2, train_people=1
    )
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_pretrained(tiny_model(CONFIG), folder / "tiny_market")
    return folder


@pytest.fixture(scope="module")
def measured(root: Path, models: Path) -> tuple[float, float]:
    """(mAP, Rank-1) in percent of the tiny model, by `evaluate`."""
    result = evaluate(Embedder.from_pretrained(models / "tiny_market", device="cpu"), Market1501(root / FOLDER))
    return 100 * result.mAP, 100 * result.rank(1)


def declare_official(name: str, dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the counts of `dataset` the published ones of `name`."""
    counts = [(dataset.counts[split].images, dataset.counts[split].people) for split in ("train", "query", "gallery")]
    cameras = max(dataset.counts[split].cameras for split in ("train", "query", "gallery"))
    monkeypatch.setitem(PUBLISHED, name, Published(PUBLISHED[name].name, *counts, cameras))


@pytest.fixture
def official(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    declare_official("market1501", Market1501(root / FOLDER), monkeypatch)


def row(figures: tuple[float, float], config: ModelConfig = CONFIG, **values: object) -> PublishedFigure:
    values = {"model": "tiny_market", "dataset": "market1501", "source": "a paper", "how_to_get": "ask Ann", **values}
    return PublishedFigure(config=config, mAP=figures[0], rank1=figures[1], **values)  # type: ignore[arg-type]


@pytest.mark.usefixtures("official")
def test_within_the_tolerance_passes_and_beyond_it_fails(
    root: Path, models: Path, measured: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """0.2 points either way, of either figure; a whole dataset, so that all rows compare."""
    mAP, rank1 = measured
    for shift, verdict in (((0.19, -0.19), "pass"), ((0.21, 0), "fail"), ((-0.21, 0), "fail"), ((0, 0.21), "fail")):
        found = reproduce(models, root, figures=[row((mAP + shift[0], rank1 + shift[1]))], device="cpu")
        (outcome,) = found.outcomes
        assert (outcome.verdict, found.passed) == (verdict, verdict == "pass"), shift
        assert outcome.ours == pytest.approx(measured, abs=1e-9)
        assert outcome.differences == pytest.approx((-shift[0], -shift[1]), abs=1e-9)


@pytest.mark.usefixtures("official")
def test_the_command_prints_the_table_and_its_status_says_whether_all_is_well(
    root: Path,
    models: Path,
    measured: tuple[float, float],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = ["reproduce", "--root", str(root), "--models", str(models), "--device", "cpu"]
    monkeypatch.setattr(reproducing, "FIGURES", (row(measured),))
    assert main(run) == 0
    table = capsys.readouterr().out
    assert f"{measured[0]:.2f}" in table and "+0.00" in table and "1 pass (at most 0.2 points off passes)" in table
    monkeypatch.setattr(reproducing, "FIGURES", (row((measured[0] - 3, measured[1])),))
    assert main(run) == 1
    table = capsys.readouterr().out
    assert "+3.00" in table and "tiny_market: 3.00 points from what a paper publishes." in table
    assert main([*run, "--json"]) == 1
    values = json.loads(capsys.readouterr().out)
    assert not values["passed"] and values["rows"][0]["verdict"] == "fail"
    assert values["rows"][0]["difference"]["mAP"] == pytest.approx(3.0)


def test_figures_of_another_dataset_are_printed_but_not_judged(root: Path, models: Path, tmp_path: Path) -> None:
    """100 points off; but the drawn dataset has not Market-1501's counts. It is found by the beginning of its name."""
    shutil.copytree(root / FOLDER, tmp_path / "market1501-dev")
    found = reproduce(models, tmp_path, figures=[row((200.0, 200.0))], device="cpu")
    (outcome,) = found.outcomes
    assert outcome.verdict == "not comparable" and found.passed and outcome.ours is not None
    assert "Market-1501 (not the official set)" in outcome.reason and str(tmp_path / "market1501-dev") in outcome.reason


def test_another_version_of_msmt17_is_not_compared(
    root: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of MSMT17 V2 (by the counts put in place), where the figures are V1's."""
    folder = tmp_path / "MSMT17"
    (folder / "mask_test_v2" / "0000").mkdir(parents=True)
    source = Market1501(root / FOLDER)
    for split, records in (("query", source.query), ("gallery", source.gallery)):
        lines = []
        for index, record in enumerate(records):
            name = f"0000/{record.person_id:04d}_{index:03d}_{record.camera_id:02d}_0303morning_{split}.jpg"
            shutil.copy(record.path, folder / "mask_test_v2" / name)
            lines.append(f"{name} {record.person_id}")
        (folder / f"list_{split}.txt").write_text("\n".join(lines))
    declare_official("msmt17_v2", MSMT17(folder), monkeypatch)
    assert MSMT17(folder).official
    (outcome,) = reproduce(models, tmp_path, figures=[row((200.0, 200.0), dataset="msmt17_v1")], device="cpu").outcomes
    assert (outcome.verdict, outcome.dataset) == ("not comparable", "MSMT17 V2")
    assert "published for MSMT17 V1" in outcome.reason


def test_what_is_missing_is_named_with_the_way_to_get_it(
    root: Path, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = row((1.0, 1.0), model="absent_market")
    outcomes = reproduce(models, root, figures=[absent, row((1.0, 1.0), dataset="msmt17_v1")]).outcomes
    assert [outcome.verdict for outcome in outcomes] == ["not run", "not run"]
    assert f"no such model in {models}: ask Ann" in outcomes[0].reason and "absent_market" in outcomes[0].reason
    assert "no dataset" not in outcomes[0].reason and "no such model" not in outcomes[1].reason
    assert f"no dataset MSMT17 V1 in {root}: ask its authors" in outcomes[1].reason
    assert main(["reproduce", "--root", str(tmp_path / "nowhere")]) == 0
    text = capsys.readouterr().out
    assert all(figure.model in text and figure.how_to_get in text for figure in FIGURES)
    assert all(source.how_to_get in text for source in SOURCES.values()) and f"{len(FIGURES)} not run" in text
    (tmp_path / FOLDER).mkdir()
    (broken,) = reproduce(models, tmp_path, figures=[row((1.0, 1.0))]).outcomes
    assert "is not the folder of Market-1501" in broken.reason


def test_a_model_must_be_what_its_name_says(root: Path, tmp_path: Path) -> None:
    save_pretrained(tiny_model(CONFIG), tmp_path / "tiny-Market")
    save_pretrained(tiny_model(TINY_CONFIGS["osnet"]), tmp_path / "tiny_market.osnet")
    (tmp_path / "tiny_market.pth").write_bytes(b"no weights")
    (tmp_path / "tiny_marketplace").mkdir()
    other = dataclasses.replace(CONFIG, depth=12, num_classes=751, neck="single")  # type: ignore[call-arg]
    found = reproduce(tmp_path, root, figures=[row((1.0, 1.0), other)], device="cpu")
    assert [outcome.verdict for outcome in found.outcomes] == ["not run"] * 3
    reasons = {outcome.name: outcome.reason for outcome in found.outcomes}
    assert "its num_classes is 5 (published: 751); its depth is 2 (published: 12). Rename" in reasons["tiny-Market"]
    assert "its family is osnet (published: pass_vit)" in reasons["tiny_market.osnet"]
    assert "tiny_market.pth" in reasons["tiny_market.pth"]
    assert [path.name for path in found.unclaimed] == ["tiny_marketplace"] and "tiny_marketplace" in str(found)
    assert "tiny_marketplace" in found.to_dict()["unclaimed"][0]


def test_a_clip_vit_is_run_in_its_layout_with_its_cameras_and_re_ranked(root: Path, tmp_path: Path) -> None:
    """The camera embedding is made small, or random weights would rank by nothing else."""
    config = dataclasses.replace(TINY_CONFIGS["clip_vit"], camera_coefficient=0.01)  # type: ignore[call-arg]
    assert isinstance(config, ClipVitConfig) and config.cameras == 3
    model = tiny_model(config)
    model.config = dataclasses.replace(config, layout="1536")
    folder = save_pretrained(model, tmp_path / "tiny_market")
    dataset = Market1501(root / FOLDER)
    embedder = Embedder.from_pretrained(folder, device="cpu", layout="clip-reid")

    def vectors(records: tuple[Record, ...]) -> NDArray[np.float32]:
        cameras = [record.camera_id - 1 for record in records]
        return embedder.embed([record.path for record in records], camera_ids=cameras)

    features = evaluate(embedder, dataset).features
    query, gallery = features.query, features.gallery
    distances = rerank(vectors(dataset.query), vectors(dataset.gallery), k1=4, k2=1, lambda_value=0.0)
    expected = rank_distances(distances.blocks(), query, gallery)
    figure = row((1.0, 1.0), config, reranking=(4, 1, 0.0))
    (outcome,) = reproduce(tmp_path, root, figures=[figure], device="cpu").outcomes
    assert outcome.ours == pytest.approx((100 * expected.mAP, 100 * expected.rank(1)), abs=1e-6)
    (plain,) = reproduce(tmp_path, root, figures=[row((1.0, 1.0), config)], device="cpu").outcomes
    assert plain.ours is not None and plain.ours[0] != pytest.approx(outcome.ours[0] if outcome.ours else 0)
    untold = [
        dataclasses.replace(part, vectors=embedder.embed([record.path for record in records]))
        for part, records in ((query, dataset.query), (gallery, dataset.gallery))
    ]
    assert plain.ours[0] == pytest.approx(100 * rank(query, gallery).mAP)
    assert plain.ours[0] != pytest.approx(100 * rank(*untold).mAP), "the cameras make no difference"


def test_osnet_is_ranked_by_the_distance_of_features_as_they_are(root: Path, tmp_path: Path) -> None:
    config = TINY_CONFIGS["osnet"]
    folder = save_pretrained(tiny_model(config), tmp_path / "tiny_market")
    features = evaluate(Embedder.from_pretrained(folder, device="cpu"), Market1501(root / FOLDER)).features
    query, gallery = features.query, features.gallery
    slow = np.linalg.norm(query.vectors[:, None].astype(float) - gallery.vectors[None].astype(float), axis=2)
    expected = rank_distances(slow, query, gallery)
    (outcome,) = reproduce(
        tmp_path, root, figures=[row((1.0, 1.0), config, distance="as they are")], device="cpu"
    ).outcomes
    assert outcome.ours == pytest.approx((100 * expected.mAP, 100 * expected.rank(1)), abs=1e-6)
    assert expected.mAP != pytest.approx(rank(query, gallery).mAP)


def test_the_table_is_the_published_one() -> None:
    table = {
        (figure.model, figure.dataset_name): (
            figure.image_size[0],
            figure.config.embedding_dim,
            figure.mAP,
            figure.rank1,
        )
        for figure in FIGURES
    }
    assert table == {
        ("pass_vit_small_256_market", "Market-1501"): (256, 768, 92.2, 96.3),
        ("pass_vit_small_384_market", "Market-1501"): (384, 768, 92.6, 96.8),
        ("pass_vit_base_256_market", "Market-1501"): (256, 1536, 93.0, 96.8),
        ("pass_vit_base_384_market", "Market-1501"): (384, 1536, 93.3, 96.9),
        ("cv_passvitb_image-reid-person_market", "Market-1501"): (384, 1536, 93.3, 96.9),
        ("clip_reid_rn50_market", "Market-1501"): (256, 3072, 89.8, 95.7),
        ("osnet_x1_0_market", "Market-1501"): (256, 512, 82.6, 94.2),
        ("pass_vit_small_256_msmt17", "MSMT17 V1"): (256, 768, 69.1, 86.5),
        ("pass_vit_small_384_msmt17", "MSMT17 V1"): (384, 768, 71.7, 87.9),
        ("pass_vit_base_256_msmt17", "MSMT17 V1"): (256, 1536, 71.8, 88.2),
        ("pass_vit_base_384_msmt17", "MSMT17 V1"): (384, 1536, 74.3, 89.7),
        ("clip_reid_vit_sie_olp_msmt17", "MSMT17 V1"): (256, 1280, 86.7, 91.1),
    }
    assert {figure.config.num_classes for figure in FIGURES} == {751, 1041}
