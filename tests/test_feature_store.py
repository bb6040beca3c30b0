"""A dataset's embeddings on disk: the same vectors however often the run was stopped."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tiny import TINY_CONFIGS

from modelscope_reid import Embedder, ImageError, InputError, ReidModel, save_pretrained
from modelscope_reid.datasets.market_layout import Market1501
from modelscope_reid.datasets.records import Dataset
from modelscope_reid.datasets.synthetic_market import write_synthetic_market
from modelscope_reid.feature_store import ROWS_FILE, LabelledFeatures, embed_dataset
from modelscope_reid.runtimes.torch_runtime import TorchRuntime

CONFIG = TINY_CONFIGS["pass_vit"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = tmp_path_factory.mktemp("market")
    write_synthetic_market(root, people=4, cameras=3, images_per_camera=2, distractors=3, junk=2, train_people=1)
    return Market1501(root)


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder(TorchRuntime(ReidModel.with_seed(CONFIG), "cpu"), CONFIG, batch_size=2)


def test_the_table_holds_queries_then_gallery_with_their_labels(dataset: Dataset, embedder: Embedder) -> None:
    features = embed_dataset(embedder, dataset)
    records = (*dataset.query, *dataset.gallery)
    assert features.paths.tolist() == [str(record.path) for record in records]
    assert features.person_ids.tolist() == [record.person_id for record in records]
    assert features.camera_ids.tolist() == [record.camera_id for record in records]
    assert features.is_query.sum() == len(dataset.query) == len(features.query)
    assert len(features.gallery) == len(dataset.gallery)
    expected = embedder.embed([record.path for record in records])
    np.testing.assert_allclose(features.embeddings, expected, rtol=1e-4, atol=1e-5)


def test_flip_is_the_mean_with_the_mirror_image(dataset: Dataset, embedder: Embedder) -> None:
    from PIL import Image, ImageOps

    flipped = embed_dataset(embedder, dataset, flip=True)
    image = Image.open(dataset.query[0].path).convert("RGB")
    both = embedder.embed([image, ImageOps.mirror(image)])
    np.testing.assert_allclose(flipped.embeddings[0], both.mean(axis=0), rtol=1e-4, atol=1e-5)
    assert np.abs(both[0] - both[1]).max() > 1e-3


def test_a_camera_aware_model_is_told_the_cameras_as_training_numbers_them(dataset: Dataset) -> None:
    config = TINY_CONFIGS["transreid_vit"]  # three cameras, as the dataset has: 1, 2, 3 become 0, 1, 2
    embedder = Embedder(TorchRuntime(ReidModel.with_seed(config), "cpu"), config)
    features = embed_dataset(embedder, dataset)
    paths, cameras = [record.path for record in dataset.query], [record.camera_id - 1 for record in dataset.query]
    told, untold = embedder.embed(paths, camera_ids=cameras), embedder.embed(paths)
    np.testing.assert_allclose(features.embeddings[: len(paths)], told, rtol=1e-4, atol=1e-5)
    assert np.abs(told - untold).max() > 1e-3


def test_a_model_of_other_cameras_is_told_none(dataset: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    config = dataclasses.replace(TINY_CONFIGS["transreid_vit"], cameras=5)
    embedder = Embedder(TorchRuntime(ReidModel.with_seed(config), "cpu"), config)
    features = embed_dataset(embedder, dataset)
    expected = embedder.embed([record.path for record in dataset.query])
    np.testing.assert_allclose(features.embeddings[: len(expected)], expected, rtol=1e-4, atol=1e-5)
    assert "the model knows 5 cameras" in caplog.text


def test_save_and_load(dataset: Dataset, embedder: Embedder, tmp_path: Path) -> None:
    features = embed_dataset(embedder, dataset)
    features.save(tmp_path / "features.npz")
    loaded = LabelledFeatures.load(tmp_path / "features.npz")
    for name in ("embeddings", "person_ids", "camera_ids", "is_query", "paths"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(features, name))


def test_files_that_are_no_features_are_refused_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "half.npz", embeddings=np.zeros((2, 3)), paths=np.array(["a", "b"]))
    with pytest.raises(InputError, match=r"half\.npz lacks person_ids, camera_ids, is_query"):
        LabelledFeatures.load(tmp_path / "half.npz")
    with pytest.raises(InputError, match="does not exist"):
        LabelledFeatures.load(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(InputError, match=r"text\.npz is no intact \.npz file"):
        LabelledFeatures.load(tmp_path / "text.npz")


def test_a_half_written_row_is_cut_off_and_the_rest_is_kept(
    dataset: Dataset, embedder: Embedder, tmp_path: Path
) -> None:
    whole = embed_dataset(embedder, dataset, tmp_path)
    rows = tmp_path / ROWS_FILE
    width = 4 * CONFIG.embedding_dim
    rows.write_bytes(rows.read_bytes()[: 8 * width + 17])  # 8 rows and 17 bytes of the ninth
    embedded: list[int] = []
    run = embedder.runtime.run
    try:
        embedder.runtime.run = lambda images, cameras=None: embedded.append(len(images)) or run(images, cameras)  # type: ignore[method-assign,func-returns-value]
        again = embed_dataset(embedder, dataset, tmp_path)
    finally:
        embedder.runtime.run = run  # type: ignore[method-assign]
    assert sum(embedded) == len(whole.embeddings) - 8
    np.testing.assert_array_equal(again.embeddings, whole.embeddings)


def test_rows_of_another_precision_are_refused(
    dataset: Dataset, embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed_dataset(embedder, dataset, tmp_path)
    monkeypatch.setattr(embedder.runtime, "precision", "int8")  # the same weights, and so the same fingerprint
    with pytest.raises(InputError, match="of another model, dataset or setting"):
        embed_dataset(embedder, dataset, tmp_path)


def test_rows_of_another_model_or_dataset_are_refused(dataset: Dataset, embedder: Embedder, tmp_path: Path) -> None:
    embed_dataset(embedder, dataset, tmp_path)
    other = Embedder(TorchRuntime(ReidModel.with_seed(CONFIG, seed=1), "cpu"), CONFIG)
    with pytest.raises(InputError, match="of another model, dataset or setting"):
        embed_dataset(other, dataset, tmp_path)
    with pytest.raises(InputError, match="of another model, dataset or setting"):
        embed_dataset(embedder, dataset, tmp_path, flip=True)


def test_a_broken_image_is_named(dataset: Dataset, embedder: Embedder, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    record = type(dataset.query[0])(broken, 1, 1)
    damaged = Dataset(name="x", root=tmp_path, query=(record,), gallery=dataset.gallery)
    with pytest.raises(ImageError, match=r"broken\.jpg"):
        embed_dataset(embedder, damaged)


SLOW_RUN = """
import sys, time
from pathlib import Path
from modelscope_reid import Embedder
from modelscope_reid.datasets.market_layout import Market1501
from modelscope_reid.feature_store import embed_dataset
embedder = Embedder.from_pretrained(sys.argv[1], device="cpu", batch_size=1)
run = embedder.runtime.run
embedder.runtime.run = lambda images, cameras=None: (time.sleep(0.05), run(images, cameras))[1]
embed_dataset(embedder, Market1501(sys.argv[2]), Path(sys.argv[3]))
"""


def test_sigkill_half_way_then_again_gives_the_same_vectors(dataset: Dataset, tmp_path: Path) -> None:
    model = save_pretrained(ReidModel.with_seed(CONFIG), tmp_path / "model")
    killed = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", SLOW_RUN, str(model), str(dataset.root), str(killed)])
    rows, width = killed / ROWS_FILE, 4 * CONFIG.embedding_dim
    deadline = time.monotonic() + 60
    while not (rows.exists() and rows.stat().st_size >= 8 * width):
        assert time.monotonic() < deadline and process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    total = len(dataset.query) + len(dataset.gallery)
    assert rows.stat().st_size < total * width, "it must have been killed half way"
    embedder = Embedder.from_pretrained(model, device="cpu", batch_size=1)
    resumed = embed_dataset(embedder, dataset, killed)
    uninterrupted = embed_dataset(embedder, dataset)
    np.testing.assert_array_equal(resumed.embeddings, uninterrupted.embeddings)
