"""Many callers, one model: what waits together goes through the model together.

In: a function from a list of items to one row of numbers for each, and callers in several threads. Out: each caller's
own rows. One thread takes all that waits, up to a number, and makes one call; it waits for nobody, so that a caller
alone is answered at once. The number of items that wait is bounded. Knows nothing of images or models.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from modelscope_reid.errors import BusyError, GalleryError, InputError

T = TypeVar("T")
Rows = NDArray[np.float32]


class MicroBatcher(Generic[T]):
    """Answers callers of several threads by as few calls of `run` as they wait for.

    `run` takes 1 to `most` items and returns one row (D,) for each, (N, D) in all. Up to `waiting` items wait.

    Raises:
        InputError: `most` or `waiting` below 1.
    """

    def __init__(self, run: Callable[[Sequence[T]], Rows], *, most: int, waiting: int) -> None:
        if most < 1 or waiting < 1:
            raise InputError(f"most is {most} and waiting {waiting}; expected 1 or more of each.")
        self.most = most
        self.bound = waiting
        self._run = run
        self._jobs: deque[_Job[T]] = deque()
        self._waiting = 0
        self._sizes: Counter[int] = Counter()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Items that wait, those of the call that runs left out."""
        return self._waiting

    def sizes(self) -> dict[int, int]:
        """Return how many calls had how many items, since the start."""
        with self._changed:
            return dict(self._sizes)

    def check_room(self, count: int) -> None:
        """Raise `BusyError` where `count` more items would be too many; where none wait, any number may come."""
        if self._waiting and self._waiting + count > self.bound:
            raise BusyError(f"{self._waiting} images wait already, of {self.bound} at most; try again in a second.")

    def submit(self, items: Sequence[T]) -> list[Future[Rows]]:
        """Put items in the queue, in parts of up to `most`; return what will be the rows of each part.

        Raises:
            BusyError: too many wait; nothing was taken.
            GalleryError: it was closed.
        """
        jobs = [_Job(items[start : start + self.most]) for start in range(0, len(items), self.most)]
        with self._changed:
            if self._closed:
                raise _closed()
            self.check_room(len(items))
            self._jobs.extend(jobs)
            self._waiting += len(items)
            self._changed.notify_all()
        return [job.answer for job in jobs]

    def close(self) -> None:
        """End the thread once its call is done; callers that still wait get a `GalleryError`."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _work(self) -> None:
        while batch := self._next():
            self._answer(batch)
        for job in self._jobs:
            job.answer.set_exception(_closed())
        self._jobs.clear()
        self._waiting = 0

    def _next(self) -> list[_Job[T]]:
        """Wait for jobs and take those that fit into one call, in the order in which they came; none once closed."""
        with self._changed:
            while not self._jobs and not self._closed:
                self._changed.wait()
            batch: list[_Job[T]] = []
            size = 0
            while self._jobs and not self._closed and size + len(self._jobs[0].items) <= self.most:
                batch.append(self._jobs.popleft())
                size += len(batch[-1].items)
            self._waiting -= size
            if batch:
                self._sizes[size] += 1
            return batch

    def _answer(self, batch: list[_Job[T]]) -> None:
        """Answer the jobs by one call; where it fails each job is tried alone, so that none suffers from another."""
        with _Answering(batch) as answering:
            rows = self._run([item for job in batch for item in job.items])
            answering.give(rows)
        for job in batch if len(batch) > 1 else ():
            if not job.answer.done():
                self._answer([job])


class _Job(Generic[T]):
    """Items of one caller, and their rows to be."""

    def __init__(self, items: Sequence[T]) -> None:
        self.items = items
        self.answer: Future[Rows] = Future()


class _Answering(Generic[T]):
    """One call for several jobs: whatever goes wrong in it goes to the caller, and the thread lives on."""

    def __init__(self, batch: list[_Job[T]]) -> None:
        self._batch = batch

    def __enter__(self) -> _Answering[T]:
        return self

    def give(self, rows: Rows) -> None:
        """Hand each job its rows."""
        expected = sum(len(job.items) for job in self._batch)
        if len(rows) != expected:
            raise InputError(f"{expected} items gave {len(rows)} rows; expected one for each.")
        start = 0
        for job in self._batch:
            job.answer.set_result(rows[start : start + len(job.items)])
            start += len(job.items)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is not None and len(self._batch) == 1:
            self._batch[0].answer.set_exception(error)
        return error is not None


def _closed() -> GalleryError:
    return GalleryError("the service is being closed; start it again.")
