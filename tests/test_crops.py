"""Training crops: the same batch from any number of workers, with a cache or none."""

from __future__ import annotations

import dataclasses
import os
import pickle
import random
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dataset_trees import draw
from torch.utils.data import DataLoader

from modelscope_reid.config import IMAGENET_PREPROCESSING
from modelscope_reid.datasets.records import Record
from modelscope_reid.errors import ImageError, InputError
from modelscope_reid.images import ImageLimits, load_image
from modelscope_reid.preprocess import resize, to_batch
from modelscope_reid.training import crops as crops_module
from modelscope_reid.training.augmentation import augment_batch
from modelscope_reid.training.augmentation_spec import NO_AUGMENTATION, Augmentation
from modelscope_reid.training.crops import BatchPlan, CropDataset, TrainingBatch, as_is, available_bytes

SIZE = (32, 16)
LARGE = (40, 24)
LABELS, CAMERAS = [0, 0, 1, 1, 2], [3, 1, 0, 2, -1]
PLANS = [
    BatchPlan(indices=(4, 0, 2), seed=11, image_size=SIZE),
    BatchPlan(indices=(1, 1, 3, 0), seed=12, image_size=SIZE),
    BatchPlan(indices=(2,), seed=13, image_size=SIZE),
    BatchPlan(indices=(3, 4), seed=11, image_size=SIZE),
]


@pytest.fixture
def records(tmp_path: Path) -> tuple[Record, ...]:
    return tuple(Record(draw(tmp_path / f"{number}.png", number), number, 0) for number in range(5))


def dataset_of(records: tuple[Record, ...], **options: Any) -> CropDataset:
    options = {"preprocessing": IMAGENET_PREPROCESSING, "augmentation": Augmentation()} | options
    return CropDataset(records, LABELS, CAMERAS, **options)


def loaded(dataset: CropDataset, plans: list[BatchPlan], workers: int) -> list[TrainingBatch]:
    options: dict[str, Any] = {"multiprocessing_context": "fork"} if workers else {}
    loader = DataLoader(dataset, batch_sampler=plans, collate_fn=as_is, num_workers=workers, **options)  # type: ignore[arg-type]
    return list(loader)


def assert_same(found: list[TrainingBatch], expected: list[TrainingBatch]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert type(one) is TrainingBatch
        for name in TrainingBatch._fields:
            assert torch.equal(getattr(one, name), getattr(other, name)), name


def resized(records: tuple[Record, ...], plan: BatchPlan, interpolation: Any = "bicubic") -> np.ndarray:
    preprocessing = dataclasses.replace(IMAGENET_PREPROCESSING, image_size=plan.image_size, interpolation=interpolation)
    return np.stack([resize(load_image(records[index].path), preprocessing) for index in plan.indices])


def test_without_augmentation_a_batch_is_what_the_embedder_sees(records: tuple[Record, ...]) -> None:
    plan = BatchPlan(indices=(4, 0, 4), seed=0, image_size=LARGE)
    batch = dataset_of(records, augmentation=NO_AUGMENTATION).__getitems__(plan)
    sized = dataclasses.replace(IMAGENET_PREPROCESSING, image_size=LARGE)
    assert torch.equal(batch.images, torch.from_numpy(to_batch(list(resized(records, plan)), sized)))
    assert batch.labels.tolist() == [2, 0, 2]
    assert batch.camera_ids.tolist() == [-1, 3, -1]
    assert batch.indices.tolist() == [4, 0, 4]
    assert {tensor.dtype for tensor in batch[1:]} == {torch.int64}


def test_crops_are_augmented_with_the_seed_of_the_plan(records: tuple[Record, ...]) -> None:
    plan = PLANS[1]
    batch = dataset_of(records).__getitems__(plan)
    expected = augment_batch(resized(records, plan), Augmentation(), IMAGENET_PREPROCESSING, seed=12)
    assert torch.equal(batch.images, expected)
    other = dataset_of(records).__getitems__(dataclasses.replace(plan, seed=13))
    assert not torch.equal(other.images, expected)


def test_the_interpolation_is_the_augmentation_s(records: tuple[Record, ...]) -> None:
    plan = BatchPlan(indices=(0, 1), seed=0, image_size=LARGE)
    found = {}
    for interpolation in ("bicubic", "bilinear"):
        augmentation = dataclasses.replace(NO_AUGMENTATION, interpolation=interpolation)
        found[interpolation] = dataset_of(records, augmentation=augmentation).__getitems__(plan).images
        expected = augment_batch(resized(records, plan, interpolation), NO_AUGMENTATION, IMAGENET_PREPROCESSING, seed=0)
        assert torch.equal(found[interpolation], expected)
    assert not torch.equal(found["bicubic"], found["bilinear"])


@pytest.mark.parametrize("cache", [False, True])
def test_any_number_of_workers_gives_the_same_batches(records: tuple[Record, ...], cache: bool) -> None:
    dataset = dataset_of(records, cache=cache)
    dataset.prepare(SIZE)
    expected = [dataset.__getitems__(plan) for plan in PLANS]
    for workers in (0, 1, 2):
        assert_same(loaded(dataset, PLANS, workers), expected)


def test_a_cache_changes_no_bit(records: tuple[Record, ...]) -> None:
    plans = PLANS + [dataclasses.replace(plan, image_size=LARGE) for plan in PLANS]
    expected = [dataset_of(records).__getitems__(plan) for plan in plans]
    cached = dataset_of(records, cache=True)
    found = []
    for plan in plans:
        cached.prepare(plan.image_size)
        found.append(cached.__getitems__(plan))
    assert_same(found, expected)


def test_a_cache_decodes_once_and_is_not_written_to(records: tuple[Record, ...]) -> None:
    dataset = dataset_of(records, cache=True)
    dataset.prepare(SIZE)
    for record in records:
        record.path.unlink()
    first = loaded(dataset, PLANS, 0)
    dataset.prepare(SIZE)  # there already: nothing is read
    assert_same(loaded(dataset, PLANS, 2), first)
    assert_same(loaded(dataset, PLANS, 0), first)


def test_a_cache_holds_the_latest_size_only(records: tuple[Record, ...]) -> None:
    dataset = dataset_of(records, cache=True)
    with pytest.raises(InputError, match=r"crops of 32x16, and the cache holds nothing; call prepare\(\(32, 16\)\)"):
        dataset.__getitems__(PLANS[0])
    dataset.prepare(SIZE)
    dataset.prepare(LARGE)
    with pytest.raises(InputError, match=r"crops of 32x16, and the cache holds crops of 40x24; call prepare"):
        dataset.__getitems__(PLANS[0])


def test_without_a_cache_there_is_nothing_to_prepare(records: tuple[Record, ...]) -> None:
    for record in records:
        record.path.unlink()
    dataset_of(records, cache=False).prepare(SIZE)  # reads no file
    with pytest.raises(ImageError, match=r"4\.png"):
        dataset_of(records, cache=False).__getitems__(PLANS[0])


def test_a_cache_keeps_within_its_bytes(records: tuple[Record, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    needed = 5 * 32 * 16 * 3  # 7,680
    dataset_of(records, cache=True, cache_bytes=needed).prepare(SIZE)
    message = "5 crops of 32x16 take 7,680 bytes, and the cache may take 7,679; train with cache=False"
    with pytest.raises(InputError, match=message):
        dataset_of(records, cache=True, cache_bytes=needed - 1).prepare(SIZE)
    monkeypatch.setattr(crops_module, "available_bytes", lambda: 2 * needed - 1)  # half of it is 7,679
    with pytest.raises(InputError, match=message):
        dataset_of(records, cache=True).prepare(SIZE)
    monkeypatch.setattr(crops_module, "available_bytes", lambda: 2 * needed)
    dataset_of(records, cache=True).prepare(SIZE)


def test_available_memory_is_the_kernel_s_estimate_or_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    everything = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    estimate = tmp_path / "meminfo"
    monkeypatch.setattr(crops_module, "Path", lambda _: estimate)
    assert available_bytes() == everything
    estimate.write_text("MemTotal:       24684092 kB\nMemFree:          20084 kB\nMemAvailable:   1000 kB\n")
    assert available_bytes() == 1_024_000
    estimate.write_text("MemTotal:       24684092 kB\n")
    assert available_bytes() == everything


def test_available_memory_of_this_machine_is_plausible() -> None:
    assert 2**20 < available_bytes() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_corrupt_file_is_named_by_the_loader(records: tuple[Record, ...], workers: int) -> None:
    records[2].path.write_bytes(records[2].path.read_bytes()[:200])
    with pytest.raises(ImageError, match=r"2\.png") as caught:
        loaded(dataset_of(records), PLANS, workers)
    # The error holds the loader in a cycle of references; collected as one, torch waits 5 seconds for each worker.
    traceback.clear_frames(caught.tb)
    assert len(loaded(dataset_of(records), PLANS[3:], workers)) == 1  # the others can be read


def test_a_corrupt_file_is_named_by_the_cache_which_stays_empty(records: tuple[Record, ...]) -> None:
    dataset = dataset_of(records, cache=True)
    dataset.prepare(SIZE)
    for number in (3, 1):
        records[number].path.write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"1\.png"):  # the first in order, whichever thread failed first
        dataset.prepare(LARGE)
    with pytest.raises(InputError, match="holds nothing"):
        dataset.__getitems__(PLANS[3])


def test_limits_hold_for_training_images(records: tuple[Record, ...]) -> None:
    with pytest.raises(ImageError, match=r"4\.png"):
        dataset_of(records, limits=ImageLimits(max_pixels=100)).__getitems__(PLANS[0])


def test_fetching_leaves_the_global_generators_alone(records: tuple[Record, ...]) -> None:
    before = random.getstate(), np.random.get_state(legacy=True)[1].tobytes(), torch.get_rng_state().tolist()
    dataset_of(records).__getitems__(PLANS[0])
    after = random.getstate(), np.random.get_state(legacy=True)[1].tobytes(), torch.get_rng_state().tolist()
    assert after == before


def test_plans_travel_to_workers() -> None:
    assert pickle.loads(pickle.dumps(PLANS[0])) == PLANS[0]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("indices", (), r"indices is \(\); expected one place"),
        ("indices", (0, -1), r"indices is \(0, -1\); expected one place"),
        ("seed", -1, "seed is -1; expected 0 or more"),
        ("image_size", (0, 16), r"image_size is \(0, 16\); expected \(height, width\)"),
        ("image_size", (16,), r"image_size is \(16,\); expected \(height, width\)"),
    ],
)
def test_plans_are_checked(field: str, value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        dataclasses.replace(PLANS[0], **{field: value})


def test_a_place_beyond_the_records_is_refused(records: tuple[Record, ...]) -> None:
    with pytest.raises(InputError, match="asks for record 5; expected 0 to 4"):
        dataset_of(records).__getitems__(BatchPlan(indices=(0, 5), seed=0, image_size=SIZE))


@pytest.mark.parametrize(("kept", "labels", "cameras"), [(0, 0, 0), (5, 4, 5), (5, 5, 4), (4, 5, 5)])
def test_every_record_has_a_label_and_a_camera(
    records: tuple[Record, ...], kept: int, labels: int, cameras: int
) -> None:
    with pytest.raises(InputError, match=f"{kept} records, {labels} labels and {cameras} cameras; expected one record"):
        CropDataset(
            records[:kept],
            LABELS[:labels],
            CAMERAS[:cameras],
            preprocessing=IMAGENET_PREPROCESSING,
            augmentation=NO_AUGMENTATION,
        )
    assert len(dataset_of(records)) == 5
