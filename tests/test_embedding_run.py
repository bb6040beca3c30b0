"""A collection embedded by two processes under a real Ray, workers and drivers killed among it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from test_embedder import picture
from tiny import TINY_CONFIGS

from modelscope_reid import Embedder, InputError, ReidModel, save_pretrained
from modelscope_reid.datasets.image_files import find_images
from modelscope_reid.distributed.embedding_run import embed_collection
from modelscope_reid.distributed.workers import connected

COUNT, BROKEN, PER_PART, BATCH = 44, 5, 4, 2
PARTS = COUNT // PER_PART
SIZE = (2000, 1000)
"""Pictures that take a while to decode, so that a process can be killed among them."""
SETTINGS = {"workers": 2, "threads": 1, "batch_size": BATCH, "images_per_part": PER_PART, "runtime": "torch"}


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    with connected(None, cpus=2):
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Crops, one of them broken, and two models."""
    root = tmp_path_factory.mktemp("collection")
    (root / "crops" / "deep").mkdir(parents=True)
    content = [picture(seed, SIZE) for seed in range(3)]
    for number in range(COUNT):
        path = root / "crops" / ("deep" if number % 3 else "") / f"{number:02}.png"
        content[number % 3].transform(SIZE[::-1], 0, (1, 0, number, 0, 1, 0)).save(path, compress_level=1)
        if number == BROKEN:
            path.write_bytes(path.read_bytes()[:-1000])
    for seed in (0, 1):
        save_pretrained(ReidModel.with_seed(TINY_CONFIGS["osnet"], seed), root / f"model{seed}")
    return root


@pytest.fixture(scope="module")
def expected(folder: Path) -> tuple[list[str], NDArray[np.float32]]:
    """What one process gives: paths and vectors, in order."""
    paths = find_images([str(folder / "crops")])
    embedder = Embedder.from_pretrained(folder / "model0", runtime="torch", device="cpu", threads=1, batch_size=BATCH)
    embeddings = embedder.embed_many(paths)
    return [paths[index] for index in embeddings.indices], embeddings.vectors


def assert_whole(output: Path, expected: tuple[list[str], NDArray[np.float32]]) -> None:
    """Everything once, in order, bit for bit; the broken one in its own table; nothing left behind."""
    assert sorted(path.name for path in (output / "embeddings").iterdir()) == [
        f"part-{part:06d}.parquet" for part in range(PARTS)
    ]
    rows = pq.read_table(output / "embeddings").to_pydict()
    assert rows["path"] == expected[0]
    np.testing.assert_array_equal(np.array(rows["embedding"], np.float32), expected[1])
    failed = pq.read_table(output / "failures").to_pydict()
    assert [Path(path).name for path in failed["path"]] == [f"{BROKEN:02}.png"]
    assert "damaged PNG" in failed["reason"][0]


def parts_there(output: Path) -> set[str]:
    return {path.name for path in output.glob("embeddings/part-*.parquet")}


def wait_for_a_part(output: Path, seconds: float = 240.0) -> None:
    deadline = time.monotonic() + seconds
    while not parts_there(output):
        assert time.monotonic() < deadline
        time.sleep(0.005)


def workers_of(driver: psutil.Process) -> list[psutil.Process]:
    """Ray names its processes after what they do."""
    below = driver.children(recursive=True)
    return [process for process in below if "".join(process.cmdline()[:1]).startswith("ray::PartWorker")]


@pytest.mark.slow
def test_two_workers_give_the_vectors_of_one_process_and_losing_one_half_way_loses_nothing(
    ray_here: None, folder: Path, expected: tuple[list[str], NDArray[np.float32]], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    killed: list[tuple[int, int]] = []

    def kill_a_worker() -> None:
        wait_for_a_part(output)
        worker = workers_of(psutil.Process())[0]
        worker.send_signal(signal.SIGKILL)
        killed.append((worker.pid, len(parts_there(output))))

    killer = threading.Thread(target=kill_a_worker)
    killer.start()
    report = embed_collection(folder / "crops", f"file://{output}", model=folder / "model0", **SETTINGS)
    killer.join()
    assert 1 <= killed[0][1] < PARTS and not psutil.pid_exists(killed[0][0])
    assert (report.embedded, report.failed, report.skipped, report.parts) == (COUNT - 1, 1, 0, PARTS)
    assert_whole(output, expected)

    again = embed_collection(str(folder / "crops"), str(output), model=folder / "model0", **SETTINGS)
    assert (again.embedded, again.failed, again.skipped) == (0, 0, COUNT)
    with pytest.raises(InputError, match="holds another collection: model "):
        embed_collection(folder / "crops", output, model=folder / "model1", **SETTINGS)
    assert_whole(output, expected)


DRIVER = """
import sys
from modelscope_reid.distributed.embedding_run import embed_collection
embed_collection(*sys.argv[1:3], model=sys.argv[3], **{settings})
"""


@pytest.mark.slow
def test_a_run_that_was_killed_is_finished_by_the_next_one(
    ray_here: None, folder: Path, expected: tuple[list[str], NDArray[np.float32]], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    arguments = [str(folder / "crops"), str(output), str(folder / "model0")]
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER.format(settings={**SETTINGS, "workers": 1}), *arguments],
        env={name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
    )
    wait_for_a_part(output)
    orphans = workers_of(psutil.Process(driver.pid))
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert not psutil.wait_procs(orphans, timeout=60)[1]  # they end when their driver is gone
    there = {name: (output / "embeddings" / name).stat().st_mtime_ns for name in parts_there(output)}
    assert 1 <= len(there) < PARTS

    report = embed_collection(folder / "crops", output, model=folder / "model0", **SETTINGS)
    assert report.skipped == len(there) * PER_PART
    assert report.embedded + report.failed + report.skipped == COUNT
    assert {name: (output / "embeddings" / name).stat().st_mtime_ns for name in there} == there
    assert_whole(output, expected)


@pytest.mark.slow
def test_what_a_worker_cannot_do_is_one_error_here(ray_here: None, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Ray has room for 2 workers of 1 CPUs and 0 GPUs, not for 3"):
        embed_collection(folder / "crops", tmp_path, model=folder / "model0", **{**SETTINGS, "workers": 3})
    (tmp_path / "embeddings").write_bytes(b"a file where a folder should be")
    with pytest.raises(InputError, match="cannot be written"):
        embed_collection(folder / "crops", tmp_path, model=folder / "model0", **SETTINGS)


def test_no_image_and_numbers_below_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no image"):
        embed_collection(tmp_path, tmp_path / "out")
    for name in ("workers", "threads", "batch_size", "images_per_part"):
        with pytest.raises(InputError, match=f"{name} is 0"):
            embed_collection(tmp_path, tmp_path / "out", **{name: 0})
    assert list(tmp_path.iterdir()) == []
