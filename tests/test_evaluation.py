"""Evaluation end to end on a drawn dataset and a tiny model: figures, report folder, command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import TINY_CONFIGS

from modelscope_reid import ConfigError, Embedder, InputError, ReidModel, save_pretrained
from modelscope_reid.cli import main
from modelscope_reid.datasets.market_layout import Market1501
from modelscope_reid.datasets.records import Dataset
from modelscope_reid.datasets.synthetic_market import write_synthetic_market
from modelscope_reid.evaluation import Protocol, evaluate, evaluate_features, ranked_lists, write_report
from modelscope_reid.feature_store import LabelledFeatures
from modelscope_reid.ranking.metrics import rank

CONFIG = TINY_CONFIGS["pass_vit"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = tmp_path_factory.mktemp("market")
    write_synthetic_market(root, people=5, cameras=3, images_per_camera=2, distractors=3, junk=2, train_people=1)
    return Market1501(root)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_pretrained(ReidModel.with_seed(CONFIG), tmp_path_factory.mktemp("model")))


def angles(degrees: list[float], people: list[int], cameras: list[int], queries: int) -> LabelledFeatures:
    """Unit vectors in the plane at the given angles; the first `queries` are queries."""
    radians = np.deg2rad(degrees)
    return LabelledFeatures(
        embeddings=np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32),
        person_ids=np.array(people),
        camera_ids=np.array(cameras),
        is_query=np.arange(len(people)) < queries,
        paths=np.array([f"{index}.jpg" for index in range(len(people))]),
    )


def test_figures_worked_out_by_hand() -> None:
    """Query at 0°, person 1, camera 1. Gallery by distance: 5° same person and camera (removed), 10° person 2,
    20° person 1 (rank 2), 30° junk (dropped), 40° person 1 (rank 3). AP = (1/2 + 2/3) / 2, INP = 2/3."""
    features = angles([0, 5, 10, 20, 30, 40], [1, 1, 2, 1, -1, 1], [1, 1, 2, 2, 2, 3], queries=1)
    result = evaluate_features(features)
    assert result.mAP == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert (result.rank(1), result.rank(2), result.mINP) == (0.0, 1.0, pytest.approx(2 / 3))
    kept = evaluate_features(features, protocol=Protocol(same_camera="keep"))
    assert kept.mAP == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)  # the one at 5° counts, at rank 1


def test_the_dataset_way_and_the_saved_way_agree(dataset: Dataset, model: str, tmp_path: Path) -> None:
    embedder = Embedder.from_pretrained(model, device="cpu")
    result = evaluate(embedder, dataset, output=tmp_path)
    again = evaluate_features(LabelledFeatures.load(tmp_path / "features.npz"))
    assert again.ranking.figures() == result.ranking.figures()
    direct = rank(result.features.query, result.features.gallery)
    assert direct.figures() == result.ranking.figures()
    assert 0 < result.mAP < 1


def test_expansion_reranking_and_flip_change_what_they_say(dataset: Dataset, model: str) -> None:
    embedder = Embedder.from_pretrained(model, device="cpu")
    plain = evaluate(embedder, dataset)
    for protocol in (Protocol(rerank=True), Protocol(query_expansion=2), Protocol(flip=True)):
        other = evaluate(embedder, dataset, protocol=protocol)
        assert other.ranking.figures() != plain.ranking.figures(), protocol
        assert other.to_dict()["protocol"] != plain.to_dict()["protocol"]
    with pytest.raises(InputError, match="query_expansion is -1"):
        Protocol(query_expansion=-1)


def test_the_report_folder_holds_figures_provenance_and_pictures(dataset: Dataset, model: str, tmp_path: Path) -> None:
    result = evaluate(Embedder.from_pretrained(model, device="cpu"), dataset, output=tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["mAP"] == result.mAP and report["queries"] == result.ranking.queries
    assert report["provenance"]["dataset"]["fingerprint"] == dataset.fingerprint
    assert set(report["provenance"]["versions"]) >= {"python", "torch", "modelscope_reid"}
    assert report["intervals"]["mAP"]["low"] <= result.mAP <= report["intervals"]["mAP"]["high"]
    text = (tmp_path / "report.md").read_text()
    assert f"{result.mAP:.4f}" in text and "not the official" in text
    for name in ("cmc", "similarities", "ranked_lists", "map"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.width >= 1000
            assert len(picture.convert("RGB").getcolors(1 << 24)) > 50, f"{name}.png is blank"


def test_ranked_lists_show_best_median_and_worst_without_the_own_camera(dataset: Dataset, model: str) -> None:
    result = evaluate(Embedder.from_pretrained(model, device="cpu"), dataset)
    lists = ranked_lists(result)
    precisions = [row.average_precision for row in lists]
    assert precisions[0] == result.ranking.average_precisions.max()
    assert precisions[-1] == result.ranking.average_precisions.min()
    for row in lists:
        similarities = [match.similarity for match in row.matches]
        assert similarities == sorted(similarities, reverse=True)
        assert not [match for match in row.matches if match.correct and match.camera == row.query_camera]


def test_saved_embeddings_without_their_pictures_still_make_a_report(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    people, cameras = np.repeat(np.arange(1, 7), 4), np.tile([1, 2, 3, 4], 6)
    features = LabelledFeatures(
        embeddings=generator.standard_normal((24, 8)).astype(np.float32),
        person_ids=people,
        camera_ids=cameras,
        is_query=cameras == 1,
        paths=np.array([f"gone/{index}.jpg" for index in range(24)]),
    )
    write_report(evaluate_features(features), tmp_path)
    assert (tmp_path / "report.md").exists() and not (tmp_path / "ranked_lists.png").exists()
    assert "ranked_lists" not in (tmp_path / "report.md").read_text()


def test_the_command_prints_one_object_and_the_same_from_saved_features(
    dataset: Dataset, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["evaluate", "--model", model, "--dataset", "market1501", "--root", str(dataset.root)]
    assert main([*run, "--output", str(tmp_path), "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert set(first) >= {"mAP", "rank1", "rank5", "rank10", "mINP", "queries", "queries_skipped", "gallery"}
    assert main(["evaluate", "--features", str(tmp_path / "features.npz"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == first
    assert main(run) == 0
    text = capsys.readouterr().out
    assert f"mAP {100 * first['mAP']:.1f}" in text and "not the official set" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to evaluate: give --root, the folder of the dataset, or --features"),
        (["--features", "none.npz"], r"none.npz does not exist"),
        (["--model", "MODEL", "--root", "/no/such/place"], "/no/such/place"),
        (["--model", "MODEL", "--root", ".", "--dataset", "markt1501"], "market1501"),
    ],
)
def test_wrong_arguments_are_one_line(
    arguments: list[str], message: str, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", *(model if word == "MODEL" else word for word in arguments)]) == 1
    text = capsys.readouterr()
    assert message in text.err and text.err.count("\n") == 1 and text.out == ""


def test_explain_writes_its_picture(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    crops = [str(path) for path in sorted((Path(__file__).parents[1] / "assets").glob("person01*.png"))]
    picture = tmp_path / "agree.png"
    assert main(["explain", crops[0], crops[1], "--model", model, "--output", str(picture)]) == 0
    assert capsys.readouterr().out.startswith(f"{picture}: cosine similarity 0.")
    with Image.open(picture) as drawn:
        assert drawn.height == 840


def test_calibration_is_saved_into_the_model_folder_and_compare_uses_it(
    dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = save_pretrained(ReidModel.with_seed(CONFIG), tmp_path / "model")
    crop = str(dataset.query[0].path)
    assert main(["compare", crop, crop, "--model", str(model)]) == 0
    assert capsys.readouterr().out == "1.0000\n", "a model that nobody calibrated has no opinion"
    before = json.loads((model / "configuration.json").read_text())

    run = ["evaluate", "--model", str(model), "--root", str(dataset.root), "--calibrate"]
    assert main(run) == 0
    capsys.readouterr()
    after = json.loads((model / "configuration.json").read_text())
    assert {key: value for key, value in after.items() if key != "verification"} == before

    embedder = Embedder.from_pretrained(model, device="cpu")
    assert embedder.verifier is not None
    assert embedder.verifier == evaluate(embedder, dataset).verifier
    assert main(["compare", crop, crop, "--model", str(model), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    judgement = embedder.verifier.judge(found["cosine_similarity"])
    assert (found["decision"], found["probability"]) == (judgement.decision, judgement.probability)
    assert found["decision"] == "same"
    assert main(["compare", crop, crop, "--model", str(model)]) == 0
    assert capsys.readouterr().out.startswith("1.0000 same (probability of the same person ")


def test_calibrating_what_is_no_folder_is_refused(
    dataset: Dataset, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = str(Path(model) / "model.safetensors")
    assert main(["evaluate", "--model", weights, "--root", str(dataset.root), "--calibrate"]) == 1
    assert "--calibrate writes into a model folder" in capsys.readouterr().err


def test_a_damaged_calibration_is_a_clear_error(tmp_path: Path) -> None:
    model = save_pretrained(ReidModel.with_seed(CONFIG), tmp_path / "model")
    path = model / "configuration.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "verification": {"calibration": {"kind": "magic"}}}))
    with pytest.raises(ConfigError, match=r"section 'verification'.*'magic'"):
        Embedder.from_pretrained(model)


def test_embed_table_writes_features_that_evaluate_reads(
    dataset: Dataset, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ["path,person_id,camera_id,split"]
    for split in ("query", "gallery"):
        rows += [f"{item.path},{item.person_id},{item.camera_id},{split}" for item in dataset.split(split)]
    (tmp_path / "people.csv").write_text("\n".join(rows) + "\n")
    output = tmp_path / "features.npz"
    run = ["embed", "--table", str(tmp_path / "people.csv"), "--model", model]
    assert main([*run, "--output", str(output)]) == 0
    assert "with their labels" in capsys.readouterr().out
    assert main(["evaluate", "--features", str(output), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    expected = evaluate(Embedder.from_pretrained(model, device="cpu"), dataset).ranking.figures()
    assert figures == pytest.approx(expected, abs=1e-6)
    assert main([*run, "--output", str(tmp_path / "features.parquet")]) == 1
    assert "--table writes an .npz file" in capsys.readouterr().err
    for extra in (["a.jpg"], ["--normalize"]):
        assert main([*run, *extra, "--output", str(output)]) == 1
        assert f"beside {'the image' if extra == ['a.jpg'] else '--normalize'}" in capsys.readouterr().err
