"""The batches of each epoch, planned ahead, and a loader that can start in the middle of one.

In: labels and a `BatchSpec`. Out: plans of one process's share of each batch, and a `torch.utils.data.DataLoader` of
them that remembers how many were handed out. Knows nothing of models, losses or Lightning.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from modelscope_reid.training.crops import BatchPlan, as_is
from modelscope_reid.training.samplers import (
    check_identity_batches,
    graph_batches,
    identity_batches,
    process_share,
    random_batches,
)
from modelscope_reid.training.seeds import generator_at, seed_at
from modelscope_reid.training.stage_specs import BatchSpec

Sizes = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, kw_only=True)
class EpochPlanner:
    """Plans epochs for process `rank` of `processes`; a pure function of its fields, the epoch and the graph.

    `sizes` are (first epoch, height, width), rising. `whole_batches` drops a last random batch that is not full.
    """

    labels: NDArray[np.int64]
    spec: BatchSpec
    sizes: Sizes
    seed: int
    rank: int = 0
    processes: int = 1
    whole_batches: bool = True

    def check(self) -> None:
        """Raise `InputError`, before the first step, where such batches cannot be drawn or shared."""
        if self.spec.sampler != "random":
            check_identity_batches(self.labels, people=self.spec.people, images=self.spec.images)
        process_share(np.arange(self.spec.size), rank=self.rank, processes=self.processes)

    def image_size(self, epoch: int) -> tuple[int, int]:
        """Return (height, width) of the crops of an epoch."""
        _, height, width = [size for size in self.sizes if size[0] <= epoch][-1]
        return height, width

    def graph_epoch(self, epoch: int) -> int | None:
        """Return the epoch whose start the graph of `epoch` is built at; None where it is trained without one."""
        if self.spec.sampler != "graph" or epoch < self.spec.graph_from:
            return None
        return epoch - (epoch - self.spec.graph_from) % self.spec.graph_every

    def plans(self, epoch: int, neighbours: NDArray[np.int64] | None = None) -> list[BatchPlan]:
        """Return this process's share of every batch of `epoch`, counted from 0."""
        size = self.image_size(epoch)
        return [
            BatchPlan(
                indices=tuple(process_share(batch, rank=self.rank, processes=self.processes).tolist()),
                seed=seed_at(self.seed, "augmentation", epoch, number, self.rank),
                image_size=size,
            )
            for number, batch in enumerate(self._batches(epoch, neighbours))
        ]

    def _batches(self, epoch: int, neighbours: NDArray[np.int64] | None) -> list[NDArray[np.int64]]:
        generator = generator_at(self.seed, "batches", epoch)
        people, images = self.spec.people, self.spec.images
        if self.spec.sampler == "random":
            drop = self.whole_batches and len(self.labels) >= self.spec.size
            return random_batches(len(self.labels), self.spec.size, generator, drop_last=drop)
        if neighbours is not None:
            return graph_batches(neighbours, self.labels, people=people, images=images, generator=generator)
        return identity_batches(self.labels, people=people, images=images, generator=generator)


class PlanSampler(Sampler[Any]):
    """Plans in order, from the one at `start` on; its length is that of the whole epoch."""

    def __init__(self, plans: Sequence[Any]) -> None:
        self.plans = plans
        self.start = 0

    def __len__(self) -> int:
        """Return the number of plans of the epoch."""
        return len(self.plans)

    def __iter__(self) -> Iterator[Any]:
        """Yield the plans that are left."""
        return iter(self.plans[self.start :])


class PlannedLoader(DataLoader[Any]):
    """A loader of one epoch's plans that knows how many batches it gave, and starts after so many.

    Lightning saves and restores its state with a checkpoint.
    """

    def __init__(self, dataset: Dataset[Any], plans: Sequence[Any], *, workers: int, pin_memory: bool = False) -> None:
        self.given = 0
        super().__init__(
            dataset,
            batch_sampler=PlanSampler(plans),
            collate_fn=as_is,
            num_workers=workers,
            pin_memory=pin_memory,
            multiprocessing_context="fork" if workers else None,  # workers share the cache of crops
        )

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # torch's returns its private iterator
        """Yield batches, counting those that were given."""
        self.given = self.batch_sampler.start  # type: ignore[union-attr]
        for batch in super().__iter__():
            self.given += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return how many batches of the epoch were given, and how many it has."""
        return {"given": self.given, "batches": len(self)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Start after as many batches as were given; at the end of an epoch, with the next one's first.

        Epochs differ in length, so whether one was at its end is told by its own length.
        """
        self.given = state["given"] if state["given"] < state["batches"] else 0
        self.batch_sampler.start = self.given  # type: ignore[union-attr]
