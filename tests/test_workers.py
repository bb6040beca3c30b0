"""What a worker does with a part, and how Ray is reached; the pool itself runs in test_embedding_run.py."""

from __future__ import annotations

import dataclasses
import socket
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from test_embedder import picture
from tiny import TINY_CONFIGS

from modelscope_reid import Embedder, InputError, ReidError, ReidModel, save_pretrained
from modelscope_reid.distributed.collection import Manifest, listing_fingerprint, start_collection
from modelscope_reid.distributed.storage import Storage
from modelscope_reid.distributed.workers import PartCounts, PartWorker, WorkerSettings, connected
from modelscope_reid.images import ImageLimits

COUNT, LARGE = 11, "09.png"


@pytest.fixture
def settings(tmp_path: Path) -> WorkerSettings:
    """Eleven images, of which one is broken, in parts of 8; a model; and a collection that has been started."""
    model = save_pretrained(ReidModel.with_seed(TINY_CONFIGS["osnet"]), tmp_path / "model")
    (tmp_path / "crops").mkdir()
    for number in range(COUNT):
        picture(number).save(tmp_path / "crops" / f"{number:02}.png")
    picture(9, (200, 100)).save(tmp_path / "crops" / LARGE)
    (tmp_path / "crops" / "03.png").write_bytes(b"no image")
    source, output = Storage(str(tmp_path / "crops")), Storage(str(tmp_path / "out"))
    files = source.images()
    embedder = Embedder.from_pretrained(model, runtime="torch", device="cpu")
    manifest = Manifest(
        source=source.address,
        listing=listing_fingerprint(files),
        images=len(files),
        images_per_part=8,
        model=embedder.fingerprint,
        embedding_dim=embedder.embedding_dim,
        precision="fp32",
    )
    start_collection(output, manifest, files)
    return WorkerSettings(
        source=source,
        output=output,
        manifest=manifest,
        model=str(model),
        runtime="torch",
        precision=None,
        threads=1,
        gpus=0.0,
        batch_size=4,
    )


def test_the_parts_hold_what_one_embedder_gives_bit_for_bit(settings: WorkerSettings) -> None:
    worker = PartWorker(settings)
    assert worker.embed_part(1) == PartCounts(part=1, embedded=3, failed=0)
    assert worker.embed_part(0) == PartCounts(part=0, embedded=7, failed=1)
    folder = Path(settings.output.url)
    rows = pq.read_table(folder / "embeddings").to_pylist()
    paths = sorted(str(path) for path in Path(settings.source.url).iterdir())
    expected = worker.embedder.embed_many(paths)
    assert [row["path"] for row in rows] == [paths[index] for index in expected.indices]
    np.testing.assert_array_equal(np.array([row["embedding"] for row in rows], np.float32), expected.vectors)
    failed = pq.read_table(folder / "failures").to_pylist()
    assert [row["path"] for row in failed] == [paths[3]]
    assert "no image of a known type" in failed[0]["reason"]


def test_a_file_that_is_gone_or_too_large_is_a_failure_of_its_own(settings: WorkerSettings) -> None:
    crops = Path(settings.source.url)
    (crops / "08.png").unlink()
    worker = PartWorker(settings)
    worker.embedder.limits = ImageLimits(max_bytes=(crops / LARGE).stat().st_size - 1)
    assert worker.embed_part(1) == PartCounts(part=1, embedded=1, failed=2)
    reasons = [row["reason"] for row in pq.read_table(Path(settings.output.url) / "failures").to_pylist()]
    assert reasons[0].endswith("08.png cannot be read (it is gone since it was listed)")
    assert f"{LARGE} is larger than an image may be" in reasons[1]


def test_a_storage_that_fails_stops_the_part_and_writes_nothing(
    settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = PartWorker(settings)

    def broken(storage: Storage, path: str) -> bytes:
        raise ReidError(f"{path} cannot be reached")

    monkeypatch.setattr(Storage, "read", broken)
    with pytest.raises(ReidError, match="cannot be reached"):
        worker.embed_part(0)
    assert settings.output.names("embeddings") == settings.output.names("failures") == set()


def test_a_worker_with_other_weights_or_another_version_refuses(settings: WorkerSettings) -> None:
    other = dataclasses.replace(settings, manifest=dataclasses.replace(settings.manifest, model="0" * 64))
    with pytest.raises(InputError, match=r"not as 000000000000… in fp32; put the same files"):
        PartWorker(other).embed_part(0)
    with pytest.raises(InputError, match=r"a worker has modelscope_reid .*, not 0\.0\.0"):
        PartWorker(dataclasses.replace(settings, version="0.0.0")).embed_part(0)


def test_an_address_where_nothing_answers_is_refused_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for address in (f"ray://127.0.0.1:{port}", f"127.0.0.1:{port}"):
        with pytest.raises(InputError, match=f"no Ray at '{address}' .*ray start --head"), connected(address, cpus=1):
            pass


def test_without_ray_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'modelscope-reid\[distributed\]'"), connected(None, cpus=1):
        pass
