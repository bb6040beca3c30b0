"""Embedder: order, batches, errors, memory and threads, on tiny models with seeded weights."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import TINY_CONFIGS

from modelscope_reid import CheckpointError, Embedder, HubError, ImageError, InputError, ReidError, save_pretrained
from modelscope_reid.config import OsnetConfig, Preprocessing
from modelscope_reid.hub import bundled_model
from modelscope_reid.models.reid_model import ReidModel
from modelscope_reid.preprocess import resize, to_batch
from modelscope_reid.runtimes import RuntimeName
from modelscope_reid.runtimes.torch_runtime import TorchRuntime

CONFIG = TINY_CONFIGS["pass_vit"]


def picture(seed: int, size: tuple[int, int] = (60, 30)) -> Image.Image:
    """A smooth random RGB picture of (height, width)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 3, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((size[1], size[0]), Image.Resampling.BILINEAR)


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder(TorchRuntime(ReidModel.with_seed(CONFIG), "cpu"), CONFIG, batch_size=4)


def by_hand(embedder: Embedder, image: Image.Image) -> np.ndarray:
    """One image, one forward, no Embedder in between."""
    batch = to_batch([resize(image, CONFIG.preprocessing)], CONFIG.preprocessing)
    return embedder.runtime.run(batch)[0]


def test_one_image_of_every_kind_in_one_list_keeps_the_order(embedder: Embedder, tmp_path: Path) -> None:
    pictures = [picture(seed, (40 + 7 * seed, 30 + 3 * seed)) for seed in range(7)]
    pictures[1].save(tmp_path / "1.png")
    pictures[2].save(tmp_path / "2.png")
    images = [
        pictures[0],
        str(tmp_path / "1.png"),
        tmp_path / "2.png",
        png(pictures[3]),
        io.BytesIO(png(pictures[4])),
        np.asarray(pictures[5]),
        "file://" + str(tmp_path / "2.png"),
    ]
    expected = [by_hand(embedder, pictures[index]) for index in (0, 1, 2, 3, 4, 5, 2)]
    embeddings = embedder.embed(images)
    assert embeddings.shape == (7, CONFIG.embedding_dim) and embeddings.dtype == np.float32
    np.testing.assert_allclose(embeddings, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", sorted(TINY_CONFIGS))
def test_a_batch_of_n_equals_n_batches_of_one(family: str) -> None:
    config = TINY_CONFIGS[family]
    embedder = Embedder(TorchRuntime(ReidModel.with_seed(config), "cpu"), config, batch_size=5)
    pictures = [picture(seed) for seed in range(13)]
    together = embedder.embed(pictures)
    alone = np.concatenate([embedder.embed(image) for image in pictures])
    assert np.linalg.norm(together - alone) <= 1e-5 * np.linalg.norm(alone)
    assert not np.allclose(alone[0], alone[1], rtol=1e-3), "different pictures must differ, or this proves nothing"


def test_one_image_is_not_a_list_of_its_rows(embedder: Embedder) -> None:
    array = np.asarray(picture(1))
    assert embedder.embed(array).shape == (1, CONFIG.embedding_dim)
    assert embedder.embed(np.stack([array, array, array])).shape == (3, CONFIG.embedding_dim)
    assert embedder.embed([]).shape == (0, CONFIG.embedding_dim)


def test_normalize_gives_unit_length_and_the_same_direction(embedder: Embedder) -> None:
    raw, unit = embedder.embed(picture(3)), embedder.embed(picture(3), normalize=True)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(raw / np.linalg.norm(raw), unit, rtol=1e-5, atol=1e-7)


def test_channel_order_turns_arrays_only(embedder: Embedder) -> None:
    rgb = np.asarray(picture(4))
    np.testing.assert_array_equal(embedder.embed(rgb[:, :, ::-1].copy(), channel_order="bgr"), embedder.embed(rgb))
    np.testing.assert_array_equal(embedder.embed(picture(4), channel_order="bgr"), embedder.embed(rgb))


def test_a_bad_image_raises_with_its_place_and_name(embedder: Embedder, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.jpg")
    with pytest.raises(ImageError, match=r"image 2: .*missing\.jpg"):
        embedder.embed([picture(0), picture(1), missing, picture(3)])


def test_skip_keeps_the_good_ones_with_their_indices_and_lists_the_bad(embedder: Embedder, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(png(picture(0))[:50])
    images = [picture(0), b"", picture(1), str(tmp_path / "broken.png"), None, picture(2)]
    result = embedder.embed_many(images, on_error="skip")
    assert result.indices.tolist() == [0, 2, 5]
    np.testing.assert_allclose(result.vectors, embedder.embed([picture(0), picture(1), picture(2)]), rtol=1e-5)
    assert [failure.index for failure in result.failures] == [1, 3, 4]
    assert "broken.png" in result.failures[1].source and "broken.png" in result.failures[1].reason
    assert len(embedder.embed_many([b"", b"x"])) == 0


def test_all_of_a_batch_bad_is_no_crash(embedder: Embedder) -> None:
    images = [b""] * 9 + [picture(1)]
    result = embedder.embed_many(images)
    assert result.indices.tolist() == [9] and len(result.failures) == 9


def test_on_error_has_two_values(embedder: Embedder) -> None:
    with pytest.raises(InputError, match="'ignore'; expected 'raise' or 'skip'"):
        embedder.embed_many([picture(0)], on_error="ignore")  # type: ignore[arg-type]


def test_boxes_of_a_frame_are_its_crops(embedder: Embedder) -> None:
    frame = picture(5, (120, 200))
    boxes = [[10, 20, 60, 110], [100.2, 0, 400, 60.7]]  # the second reaches beyond the frame: cut at x = 200
    expected = embedder.embed([frame.crop((10, 20, 60, 110)), frame.crop((100, 0, 200, 61))])
    np.testing.assert_array_equal(embedder.embed_crops(frame, boxes), expected)
    assert embedder.embed_crops(frame, np.empty((0, 4))).shape == (0, CONFIG.embedding_dim)
    with pytest.raises(InputError, match="box 1"):
        embedder.embed_crops(frame, [[0, 0, 9, 9], [5, 5, 5, 9]])


def test_reading_ahead_is_bounded(embedder: Embedder) -> None:
    """A list of 400: never more than two batches of four beyond what has come out, plus the batch in hand."""
    taken = 0

    def images() -> Iterator[Image.Image]:
        nonlocal taken
        for seed in range(400):
            taken += 1
            yield picture(seed)

    done = 0
    for batch in embedder.stream(images()):
        done += len(batch)
        assert taken - done <= 2 * embedder.batch_size
        if done >= 100:
            break
    assert taken < 120, "leaving the loop early must stop the reading"


def test_leaving_a_stream_early_leaves_no_threads(embedder: Embedder) -> None:
    stream = embedder.stream(picture(seed) for seed in range(100))
    next(stream)
    stream.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_several_threads_share_one_embedder(embedder: Embedder) -> None:
    pictures = [picture(seed) for seed in range(8)]
    expected = embedder.embed(pictures)
    results: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: results.append(embedder.embed(pictures))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    for result in results:
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


def test_cameras_reach_a_camera_aware_model() -> None:
    config = TINY_CONFIGS["transreid_vit"]
    assert config.cameras > 1
    embedder = Embedder(TorchRuntime(ReidModel.with_seed(config), "cpu"), config, batch_size=2)
    same = [picture(1)] * 3
    first, second, unknown = embedder.embed(same, camera_ids=[0, 1, -1])
    assert not np.allclose(first, second, rtol=1e-3)
    np.testing.assert_allclose(unknown, embedder.embed(same[0])[0], rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match="one camera id per image"):
        embedder.embed(same, camera_ids=[0, 1])
    with pytest.raises(InputError, match="-1 for an unknown one"):
        embedder.embed(same, camera_ids=[0, 1, config.cameras])


def test_damaged_weights_are_named_not_returned() -> None:
    model = ReidModel.with_seed(CONFIG)
    model.backbone.norm.weight.data[0] = float("nan")
    with pytest.raises(ReidError, match="NaN"):
        Embedder(TorchRuntime(model, "cpu"), CONFIG).embed(picture(0))


def test_from_pretrained_opens_a_folder_and_a_file(tmp_path: Path) -> None:
    folder = save_pretrained(ReidModel.with_seed(CONFIG), tmp_path / "model")
    direct = Embedder(TorchRuntime(ReidModel.with_seed(CONFIG), "cpu"), CONFIG).embed(picture(2))
    for source in (folder, str(folder), folder / "model.safetensors"):
        opened = Embedder.from_pretrained(source, device="cpu")
        np.testing.assert_array_equal(opened.embed(picture(2)), direct)
        assert opened.report is not None and opened.report.config == CONFIG
        assert opened.embedding_dim == CONFIG.embedding_dim


def test_from_pretrained_says_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("no weights")
    with pytest.raises(CheckpointError, match=r"text\.pt"):
        Embedder.from_pretrained(tmp_path / "text.pt")
    with pytest.raises(HubError, match="neither"):
        Embedder.from_pretrained(tmp_path / "missing.pt")
    with pytest.raises(InputError, match="device 'nonsense' cannot be used here"):
        TorchRuntime(ReidModel.with_seed(CONFIG), "nonsense")
    with pytest.raises(InputError, match="batch_size is 0"):
        Embedder(TorchRuntime(ReidModel.with_seed(CONFIG), "cpu"), CONFIG, batch_size=0)


def test_sizes_that_are_not_a_vits_work_for_osnet() -> None:
    config = OsnetConfig(channels=(16, 32, 48, 64), preprocessing=Preprocessing(image_size=(48, 40)))
    embedder = Embedder(TorchRuntime(ReidModel.with_seed(config), "cpu"), config)
    assert embedder.embed([picture(0), picture(1)]).shape == (2, 512)


def test_without_a_model_the_packages_own_is_opened() -> None:
    own, named = Embedder.from_pretrained(device="cpu"), Embedder.from_pretrained(bundled_model(), device="cpu")
    assert own.fingerprint == named.fingerprint and own.config == named.config
    assert own.report is not None and own.report.source.startswith(str(bundled_model()))
    vectors = own.embed([picture(1), picture(2)])
    assert vectors.shape == (2, own.embedding_dim) and vectors.dtype == np.float32
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_from_pretrained_opens_a_model_in_the_engine_named(runtime: RuntimeName, tmp_path: Path) -> None:
    save_pretrained(ReidModel.with_seed(CONFIG), tmp_path)
    plain = Embedder.from_pretrained(tmp_path, device="cpu", runtime="torch")
    opened = Embedder.from_pretrained(tmp_path, device="cpu", runtime=runtime, threads=1).with_batch_size(2)
    assert (opened.runtime.name, opened.runtime.precision) == (f"{runtime} on cpu", "fp32")
    assert opened.fingerprint == plain.fingerprint and opened.report == plain.report
    images = [picture(number) for number in range(5)]
    np.testing.assert_allclose(opened.embed(images), plain.embed(images), rtol=1e-4, atol=1e-4)


def test_int8_without_an_export_says_what_to_run(tmp_path: Path) -> None:
    save_pretrained(ReidModel.with_seed(CONFIG), tmp_path)
    with pytest.raises(InputError, match="run `modelscope-reid export --precision int8"):
        Embedder.from_pretrained(tmp_path, precision="int8")
