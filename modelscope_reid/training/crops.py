"""Training crops, loaded a whole batch at a time.

In: records with their labels, and plans: which crops, at what size, with what seed. Out: `TrainingBatch`, tensors in
the host's memory. A batch is a function of the records and its plan alone, so that any number of workers, and a cache
or none, gives the same. Knows nothing of how batches are composed, of epochs, models or devices.

A `torch.utils.data.DataLoader` takes the plans as its `batch_sampler`, and `as_is` as its `collate_fn`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from modelscope_reid.config import Preprocessing
from modelscope_reid.datasets.records import Record
from modelscope_reid.errors import InputError
from modelscope_reid.images import DEFAULT_LIMITS, ImageLimits, load_image
from modelscope_reid.preprocess import resize
from modelscope_reid.training.augmentation import augment_batch
from modelscope_reid.training.augmentation_spec import Augmentation


class TrainingBatch(NamedTuple):
    """B crops and what is known of them; `labels`, `camera_ids` and `indices` (places in the records) are int64."""

    images: torch.Tensor
    """(B, 3, H, W) float32 RGB, normalised."""
    labels: torch.Tensor
    camera_ids: torch.Tensor
    indices: torch.Tensor


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """One batch to come: places in the records, the seed of its augmentation, and (height, width) of its crops."""

    indices: tuple[int, ...]
    seed: int
    image_size: tuple[int, int]

    def __post_init__(self) -> None:
        """Raise `InputError` for no index, a negative one, a negative seed, or a size that is none."""
        if not self.indices or min(self.indices) < 0:
            raise InputError(f"indices is {self.indices!r}; expected one place in the records or more, from 0.")
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}; expected 0 or more.")
        if len(self.image_size) != 2 or min(self.image_size) < 1:
            raise InputError(f"image_size is {self.image_size!r}; expected (height, width), two positive numbers.")


class CropDataset(Dataset[TrainingBatch]):
    """The crops of a training split, fetched by `BatchPlan`.

    With `cache`, crops are decoded and resized once, by `prepare`, into memory that workers started by fork share
    with this process (started by spawn, each would hold a copy). `cache_bytes` is what it may take; None stands for
    half of the memory available.
    """

    def __init__(
        self,
        records: Sequence[Record],
        labels: Sequence[int],
        cameras: Sequence[int],
        *,
        preprocessing: Preprocessing,
        augmentation: Augmentation,
        limits: ImageLimits = DEFAULT_LIMITS,
        cache: bool = False,
        cache_bytes: int | None = None,
    ) -> None:
        """Raise `InputError` where there is no record, or not one label and one camera for each."""
        if not records or not len(records) == len(labels) == len(cameras):
            raise InputError(
                f"{len(records)} records, {len(labels)} labels and {len(cameras)} cameras; "
                "expected one record or more, and a label and a camera for each."
            )
        self.records = tuple(records)
        self.labels = torch.tensor(labels, dtype=torch.int64)
        self.cameras = torch.tensor(cameras, dtype=torch.int64)
        self.preprocessing = dataclasses.replace(preprocessing, interpolation=augmentation.interpolation)
        self.augmentation = augmentation
        self.limits = limits
        self.cache = cache
        self.cache_bytes = cache_bytes
        self._cached: NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self.records)

    def prepare(self, image_size: tuple[int, int]) -> None:
        """Fill the cache with all crops at one size, in place of any other; without a cache, do nothing.

        To be called before the workers start that are to use it.

        Raises:
            InputError: the crops take more memory than allowed.
            ImageError: an image cannot be read; the cache is then empty.
        """
        if not self.cache or (self._cached is not None and self._cached.shape[1:3] == image_size):
            return
        preprocessing = self._sized(image_size)
        self._cached = None  # frees the memory before it is counted, and taken anew
        shape = (len(self.records), *image_size, 3)
        self._check_memory(shape)
        crops = np.empty(shape, dtype=np.uint8)

        def fill(row: int) -> None:
            crops[row] = self._load(row, preprocessing)

        with ThreadPoolExecutor(min(16, os.cpu_count() or 1), thread_name_prefix="decode") as pool:
            for _ in pool.map(fill, range(len(crops))):  # the first error, in order of records, stops the rest
                pass
        self._cached = crops

    def __getitems__(self, plan: BatchPlan) -> TrainingBatch:
        """Load, augment and normalise the crops of a plan; torch's DataLoader calls this.

        Raises:
            InputError: the plan has a place beyond the records, or a size that the cache was not prepared for.
            ImageError: an image cannot be read.
        """
        if max(plan.indices) >= len(self.records):
            raise InputError(f"the plan asks for record {max(plan.indices)}; expected 0 to {len(self.records) - 1}.")
        preprocessing = self._sized(plan.image_size)
        crops = self._crops(plan, preprocessing)
        indices = torch.tensor(plan.indices, dtype=torch.int64)
        return TrainingBatch(
            images=augment_batch(crops, self.augmentation, preprocessing, seed=plan.seed),
            labels=self.labels[indices],
            camera_ids=self.cameras[indices],
            indices=indices,
        )

    def _sized(self, image_size: tuple[int, int]) -> Preprocessing:
        return dataclasses.replace(self.preprocessing, image_size=image_size)

    def _crops(self, plan: BatchPlan, preprocessing: Preprocessing) -> NDArray[np.uint8]:
        """Return the resized crops (B, H, W, 3) uint8 of a plan, from the cache where there is one."""
        if not self.cache:
            return np.stack([self._load(index, preprocessing) for index in plan.indices])
        if self._cached is None or self._cached.shape[1:3] != plan.image_size:
            held = "nothing" if self._cached is None else f"crops of {_size(self._cached.shape[1:3])}"
            raise InputError(
                f"the plan asks for crops of {_size(plan.image_size)}, and the cache holds {held}; "
                f"call prepare({plan.image_size}) before the workers start."
            )
        return self._cached[list(plan.indices)]

    def _load(self, index: int, preprocessing: Preprocessing) -> NDArray[np.uint8]:
        return resize(load_image(self.records[index].path, limits=self.limits), preprocessing)

    def _check_memory(self, shape: tuple[int, ...]) -> None:
        needed = int(np.prod(shape, dtype=np.int64))
        allowed = available_bytes() // 2 if self.cache_bytes is None else self.cache_bytes
        if needed > allowed:
            raise InputError(
                f"{shape[0]:,} crops of {_size(shape[1:3])} take {needed:,} bytes, and the cache may take {allowed:,}; "
                "train with cache=False, or at a smaller size."
            )


def available_bytes() -> int:
    """Return the memory that can be had without swapping, in bytes.

    What the kernel estimates, which counts the file cache as free: reading the dataset fills that. Where it gives no
    estimate, all of the machine's memory.
    """
    estimate = Path("/proc/meminfo")
    for line in estimate.read_text(encoding="ascii").splitlines() if estimate.exists() else ():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def as_is(batch: Any) -> Any:
    """Return the batch: the `collate_fn` of a loader whose dataset gives whole batches."""
    return batch


def _size(image_size: Sequence[int]) -> str:
    return f"{image_size[0]}x{image_size[1]}"
