"""What waits together is answered by one call, each caller by its own rows, whatever happens to the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
from numpy.typing import NDArray

from modelscope_reid.app.micro_batching import MicroBatcher
from modelscope_reid.errors import BusyError, GalleryError, InputError

SECONDS = 10.0


class Doubler:
    """Doubles numbers, once it is let; notes what it was called with. 13 is bad luck."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.begun = threading.Semaphore(0)
        self.go = threading.Event()
        self.go.set()

    def __call__(self, items: Sequence[int]) -> NDArray[np.float32]:
        self.calls.append(list(items))
        self.begun.release()
        assert self.go.wait(SECONDS)
        if 13 in items:
            raise ValueError("13")
        return np.array([[2.0 * item] for item in items], np.float32)


@contextmanager
def batcher(run: Doubler, *, most: int = 4, waiting: int = 8) -> Iterator[MicroBatcher[int]]:
    made: MicroBatcher[int] = MicroBatcher(run, most=most, waiting=waiting)
    try:
        yield made
    finally:
        run.go.set()
        made.close()


def held(made: MicroBatcher[int], run: Doubler) -> list[NDArray[np.float32]]:
    """Keep the thread busy with the item 0 until `run.go` is set."""
    run.go.clear()
    first = made.submit([0])
    assert run.begun.acquire(timeout=SECONDS)
    return first


def rows(answers: list) -> list[float]:
    return [float(value) for answer in answers for value in answer.result(SECONDS)[:, 0]]


def test_one_caller_is_answered_at_once() -> None:
    run = Doubler()
    with batcher(run) as made:
        assert rows(made.submit([3, 4])) == [6.0, 8.0]
        assert rows(made.submit([])) == []
        assert run.calls == [[3, 4]] and made.sizes() == {2: 1} and made.waiting == 0


def test_what_waits_goes_together_in_the_order_in_which_it_came() -> None:
    run = Doubler()
    with batcher(run, most=4) as made:
        first = held(made, run)
        waiting = [made.submit([1, 2]), made.submit([3]), made.submit([4, 5]), made.submit([6])]
        assert made.waiting == 6
        run.go.set()
        assert [rows(answers) for answers in waiting] == [[2.0, 4.0], [6.0], [8.0, 10.0], [12.0]]
        assert rows(first) == [0.0]
        assert run.calls == [[0], [1, 2, 3], [4, 5, 6]] and made.sizes() == {1: 1, 3: 2}


def test_more_than_one_call_takes_is_cut() -> None:
    run = Doubler()
    with batcher(run, most=4, waiting=2) as made:  # where none waits, any number may come
        assert rows(made.submit(list(range(10)))) == [2.0 * item for item in range(10)]
        assert [len(call) for call in run.calls] == [4, 4, 2]


def test_beyond_the_bound_nothing_is_taken() -> None:
    run = Doubler()
    with batcher(run, waiting=3) as made:
        held(made, run)
        kept = made.submit([1, 2])
        made.check_room(1)
        for refuse in (made.submit, lambda items: made.check_room(len(items))):
            with pytest.raises(BusyError, match="2 images wait already, of 3 at most; try again in a second"):
                refuse([3, 4])
        last = made.submit([5])
        run.go.set()
        assert rows(kept) == [2.0, 4.0] and rows(last) == [10.0]
        assert [item for call in run.calls for item in call] == [0, 1, 2, 5]


def test_an_error_reaches_its_own_caller_only_and_the_thread_lives_on() -> None:
    run = Doubler()
    with batcher(run) as made:
        held(made, run)
        good, bad, other = made.submit([1]), made.submit([13]), made.submit([2, 3])
        run.go.set()
        assert rows(good) == [2.0] and rows(other) == [4.0, 6.0]
        with pytest.raises(ValueError, match="13"):
            bad[0].result(SECONDS)
        assert rows(made.submit([7])) == [14.0]


def test_too_few_rows_are_an_error() -> None:
    made: MicroBatcher[int] = MicroBatcher(lambda items: np.zeros((1, 1), np.float32), most=4, waiting=8)
    with pytest.raises(InputError, match="2 items gave 1 rows"):
        made.submit([1, 2])[0].result(SECONDS)
    made.close()


def test_closing_wakes_everybody_and_ends_the_thread() -> None:
    run = Doubler()
    made: MicroBatcher[int] = MicroBatcher(run, most=4, waiting=8)
    first = held(made, run)
    waiting = made.submit([1])
    closing = threading.Thread(target=made.close)
    closing.start()
    time.sleep(0.05)
    run.go.set()
    closing.join(SECONDS)
    assert not closing.is_alive() and rows(first) == [0.0]  # the call that ran is answered
    with pytest.raises(GalleryError, match="is being closed"):
        waiting[0].result(SECONDS)
    with pytest.raises(GalleryError, match="is being closed"):
        made.submit([1])
    made.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "model"]


def test_many_callers_each_get_their_own() -> None:
    run = Doubler()
    with batcher(run, most=32, waiting=1000) as made, ThreadPoolExecutor(16) as callers:
        asked = [[place, place + 1000] for place in range(100, 300)]
        found = list(callers.map(lambda items: rows(made.submit(items)), asked))
        assert found == [[2.0 * item for item in items] for items in asked]
        assert len(run.calls) < 200


@pytest.mark.parametrize("wrong", [{"most": 0, "waiting": 1}, {"most": 1, "waiting": 0}])
def test_numbers_are_checked(wrong: dict[str, int]) -> None:
    with pytest.raises(InputError, match="expected 1 or more"):
        MicroBatcher(Doubler(), **wrong)
