"""Plans of batches: shared over processes, by epoch; and a loader that goes on where it stopped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from modelscope_reid.errors import InputError
from modelscope_reid.training.batches import EpochPlanner, PlannedLoader
from modelscope_reid.training.crops import BatchPlan
from modelscope_reid.training.samplers import graph_batches
from modelscope_reid.training.seeds import generator_at
from modelscope_reid.training.stage_specs import BatchSpec

LABELS = np.repeat(np.arange(6), [4, 9, 2, 5, 3, 4]).astype(np.int64)
ONE_SIZE = ((0, 64, 32),)
NEIGHBOURS = np.array([[(person + step) % 6 for step in (1, 2, 3)] for person in range(6)])
"""Of each person, the three next ones."""


def planner(spec: BatchSpec | None = None, **changes: Any) -> EpochPlanner:
    return EpochPlanner(
        **{"labels": LABELS, "spec": spec or BatchSpec(people=4, images=2), "sizes": ONE_SIZE, "seed": 7, **changes}
    )


def indices(plans: list[BatchPlan]) -> list[tuple[int, ...]]:
    return [plan.indices for plan in plans]


@pytest.mark.parametrize("sampler", ["identity", "random", "graph"])
@pytest.mark.parametrize("processes", [2, 4])
def test_shares_of_all_processes_are_the_batches_of_one(sampler: Any, processes: int) -> None:
    spec = BatchSpec(sampler=sampler, people=4, images=2)
    neighbours = NEIGHBOURS if sampler == "graph" else None
    whole = planner(spec).plans(3, neighbours)
    shares = [planner(spec, rank=rank, processes=processes).plans(3, neighbours) for rank in range(processes)]
    assert len(whole) >= 2
    assert [sum(parts, ()) for parts in zip(*map(indices, shares), strict=True)] == indices(whole)
    seeds = [plan.seed for plans in shares for plan in plans]
    assert len(set(seeds)) == len(seeds), "two processes would augment alike"


@pytest.mark.parametrize("sampler", ["identity", "random"])
def test_epochs_follow_from_the_seed(sampler: Any) -> None:
    spec = BatchSpec(sampler=sampler, people=4, images=2)
    assert planner(spec).plans(2) == planner(spec).plans(2)
    assert indices(planner(spec).plans(2)) != indices(planner(spec).plans(3))
    assert indices(planner(spec).plans(2)) != indices(planner(spec, seed=8).plans(2))
    first, second = (planner(spec).plans(epoch)[0].seed for epoch in (2, 3))
    assert first != second


def test_identity_batches_are_blocks_of_people() -> None:
    for plan in planner().plans(0):
        blocks = LABELS[list(plan.indices)].reshape(4, 2)
        assert (blocks[:, 0] == blocks[:, 1]).all()
        assert len(set(blocks[:, 0].tolist())) == 4


def test_random_batches_hold_each_image_once() -> None:
    spec = BatchSpec(sampler="random", people=4, images=2)
    whole = [place for batch in indices(planner(spec).plans(0)) for place in batch]
    assert len(whole) == len(set(whole)) == 24  # three batches of 8; 3 of the 27 images are left out
    every = indices(planner(spec, whole_batches=False).plans(0))
    assert [len(batch) for batch in every] == [8, 8, 8, 3]
    assert sorted(place for batch in every for place in batch) == list(range(27))


def test_fewer_images_than_a_batch_are_one_batch() -> None:
    spec = BatchSpec(sampler="random", people=10, images=4)
    assert [sorted(batch) for batch in indices(planner(spec).plans(0))] == [list(range(27))]


def test_graph_batches_are_a_person_and_its_neighbours() -> None:
    spec = BatchSpec(sampler="graph", people=4, images=2)
    plans = planner(spec).plans(1, NEIGHBOURS)
    expected = graph_batches(NEIGHBOURS, LABELS, people=4, images=2, generator=generator_at(7, "batches", 1))
    assert indices(plans) == [tuple(batch.tolist()) for batch in expected]
    people = [tuple(LABELS[list(plan.indices)[::2]].tolist()) for plan in plans]
    assert sorted(people) == [(person, *((person + step) % 6 for step in (1, 2, 3))) for person in range(6)]


def test_epochs_before_the_first_graph_are_identity_epochs() -> None:
    graph = BatchSpec(sampler="graph", people=4, images=2, graph_from=2)
    assert planner(graph).plans(0) == planner().plans(0)


@pytest.mark.parametrize(
    ("every", "start", "expected"),
    [
        (1, 0, [0, 1, 2, 3, 4, 5]),
        (3, 0, [0, 0, 0, 3, 3, 3]),
        (2, 1, [None, 1, 1, 3, 3, 5]),
        (9, 4, [None, None, None, None, 4, 4]),
    ],
)
def test_epoch_of_the_graph(every: int, start: int, expected: list[int | None]) -> None:
    spec = BatchSpec(sampler="graph", people=4, images=2, graph_every=every, graph_from=start)
    assert [planner(spec).graph_epoch(epoch) for epoch in range(6)] == expected


def test_other_samplers_have_no_graph() -> None:
    assert planner(BatchSpec(sampler="identity")).graph_epoch(3) is None


def test_sizes_by_epoch() -> None:
    grown = planner(sizes=((0, 32, 16), (2, 48, 24), (5, 64, 32)))
    assert [grown.image_size(epoch) for epoch in range(7)] == [(32, 16)] * 2 + [(48, 24)] * 3 + [(64, 32)] * 2
    assert {plan.image_size for plan in grown.plans(4)} == {(48, 24)}


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"spec": BatchSpec(people=7, images=2)}, "7"),
        ({"spec": BatchSpec(people=4, images=2), "processes": 3}, "8"),
        ({"labels": np.array([0, 0, 2, 2])}, "without gaps"),
    ],
)
def test_what_cannot_be_planned_is_told_before(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        planner(**changes).check()


def test_what_can_be_planned_passes_the_check() -> None:
    planner(processes=4).check()
    planner(BatchSpec(sampler="random", people=100, images=1)).check()  # people are not counted


class Places(Dataset[NDArray[np.int64]]):
    """Gives each plan's own places."""

    def __len__(self) -> int:
        return 1000

    def __getitems__(self, plan: BatchPlan) -> torch.Tensor:
        return torch.tensor(plan.indices)


def made(count: int) -> list[BatchPlan]:
    return [BatchPlan(indices=(number, number + 100), seed=0, image_size=(2, 1)) for number in range(count)]


def numbers(batches: Iterator[Any]) -> list[int]:
    return [int(batch[0]) for batch in batches]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop", [0, 1, 3, 6])
def test_a_loader_goes_on_where_another_stopped(workers: int, stop: int) -> None:
    first = PlannedLoader(Places(), made(7), workers=workers)
    running = iter(first)
    taken = [int(next(running)[0]) for _ in range(stop)]
    state = first.state_dict()  # workers are ahead by then; what counts is what was given
    del running
    second = PlannedLoader(Places(), made(7), workers=workers)
    second.load_state_dict(state)
    assert len(second) == 7, "the epoch's length, by which progress is counted"
    assert taken + numbers(iter(second)) == list(range(7))
    assert second.state_dict() == {"given": 7, "batches": 7}


def test_a_loader_that_went_on_can_stop_again() -> None:
    loader = PlannedLoader(Places(), made(7), workers=0)
    loader.load_state_dict({"given": 2, "batches": 7})
    assert loader.state_dict()["given"] == 2, "before the first batch, too"
    running = iter(loader)
    assert int(next(running)[0]) == 2
    assert loader.state_dict()["given"] == 3


@pytest.mark.parametrize("length", [3, 5, 9])
def test_after_the_end_of_an_epoch_the_next_starts_with_its_first_batch(length: int) -> None:
    """Epochs of identity batches differ in length: the next one may be longer than what was given of the last."""
    ended = PlannedLoader(Places(), made(5), workers=0)
    assert len(list(ended)) == 5
    following = PlannedLoader(Places(), made(length), workers=0)
    following.load_state_dict(ended.state_dict())
    assert numbers(iter(following)) == list(range(length))
