"""Which training images make up each batch of an epoch.

In: `labels` (N,) int64, the person of each training image, numbered 0..C-1 without gaps; for graph sampling also
which people look alike. Out: an epoch as a list of global batches, each an int64 array of image positions, the people
of a batch in blocks of K images. Knows nothing of images, models, losses, cameras, torch or how processes talk.

Everything is a pure function of its arguments and the `np.random.Generator` handed in: make one from (seed, stage,
epoch), and a resumed run, or any number of processes, gets the same batches (with the same NumPy: its streams may
change between versions).

A person with fewer than K images has images repeated within a block. With P = 1 a batch holds one person, so that a
triplet loss finds no negatives in it.

Sources: RandomIdentitySampler of CLIP-ReID (Syliz517/CLIP-ReID, MIT; the same in PASS-reID, Apache-2.0, and TransReID,
MIT), after Hermans et al., "In Defense of the Triplet Loss", 2017. GraphSampler of ShengcaiLiao/QAConv (MIT): Liao and
Shao, "Graph Sampling Based Deep Metric Learning for Generalizable Person Re-Identification", CVPR 2022. Written anew.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from modelscope_reid.errors import InputError
from modelscope_reid.ranking.blocks import concatenated_ranges, row_blocks
from modelscope_reid.ranking.similarity import normalize

BLOCK_VALUES = 2**22
"""How many similarities of people are held at a time: 32 MiB of float64."""


@dataclass(frozen=True, eq=False)
class _ByPerson:
    """Image positions sorted by person: those of person p are the `counts[p]` from `starts[p]` on in `positions`."""

    positions: NDArray[np.int64]
    starts: NDArray[np.int64]
    counts: NDArray[np.int64]


def random_batches(
    count: int, batch_size: int, generator: np.random.Generator, *, drop_last: bool = False
) -> list[NDArray[np.int64]]:
    """Return the positions 0..count-1 in random order, cut in batches; the last may be shorter, or is dropped.

    Raises:
        InputError: no image, a batch size below 1, or no batch left once the last is dropped.
    """
    if count < 1 or batch_size < 1:
        raise InputError(f"{count} images in batches of {batch_size}; expected 1 or more of both.")
    if drop_last and count < batch_size:
        raise InputError(
            f"{count} images do not fill a batch of {batch_size}, and an incomplete one is dropped; "
            f"set batch_size to {count} or fewer."
        )
    order = generator.permutation(count).astype(np.int64, copy=False)
    end = count - count % batch_size if drop_last else count
    return [order[start : start + batch_size] for start in range(0, end, batch_size)]


def identity_batches(
    labels: NDArray[np.int64], *, people: int, images: int, generator: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Return batches of `people` (P) random people with `images` (K) each, as the published sampler draws them.

    Each person's images are shuffled and cut in groups of K, an incomplete last group dropped; a person with fewer
    than K has one group, drawn with replacement. A batch is one group each of P random people among those with groups
    left; the epoch ends when they are fewer than P. So an epoch has at least one batch, how many varies with the
    generator, and groups may be left over.

    Raises:
        InputError: as `check_identity_batches`.
    """
    check_identity_batches(labels, people=people, images=images)
    groups, following, ends = _groups(_shuffled(labels, generator), images, generator)
    available = np.arange(len(ends))
    batches = []
    while len(available) >= people:
        chosen = generator.choice(available, people, replace=False)
        batches.append(groups[following[chosen]].ravel())
        following[chosen] += 1
        available = np.flatnonzero(following < ends)
    return batches


def graph_batches(
    neighbours: NDArray[np.int64],
    labels: NDArray[np.int64],
    *,
    people: int,
    images: int,
    generator: np.random.Generator,
) -> list[NDArray[np.int64]]:
    """Return one batch for each person, in random order: itself, then its `people` - 1 nearest, `images` (K) each.

    `neighbours` (C, P-1 or more) int64 are the nearest people of each, nearest first, from `nearest_people`. Each
    person's images are shuffled once; every block takes the next K of them, starting again at the end.

    Raises:
        InputError: as `check_identity_batches`, or neighbours of a wrong shape, out of range, repeated or oneself.
    """
    check_identity_batches(labels, people=people, images=images)
    persons = _shuffled(labels, generator)
    total = len(persons.counts)
    _check_neighbours(neighbours, people=total, needed=people - 1)
    anchors = generator.permutation(total)
    members = np.column_stack([anchors, neighbours[anchors, : people - 1]]).ravel()
    pointers = images * _earlier_visits(members)[:, None] + np.arange(images)
    places = persons.starts[members, None] + pointers % persons.counts[members, None]
    return list(persons.positions[places].reshape(total, people * images))


def nearest_people(features: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Return the `count` nearest other people (C, count) of each by cosine distance, nearest first, ties by label.

    `features` (C, D) are one row per person, of any length. Similarities are multiplied in float64 and compared in
    float32, so that neither the machine nor the number of threads decides a tie.

    Raises:
        InputError: fewer than `count` other people, or a row that is zero or not finite.
    """
    unit = normalize(features).astype(np.float64)
    if not 0 <= count < len(unit):
        raise InputError(
            f"{count} nearest people asked for among {len(unit)} people; expected 0 to {len(unit) - 1}: "
            "each person has only the others as neighbours."
        )
    nearest = np.empty((len(unit), count), np.int64)
    for block in row_blocks(len(unit), len(unit), values=BLOCK_VALUES):
        distances = -(unit[block] @ unit.T).astype(np.float32)
        rows = np.arange(len(distances))
        distances[rows, rows + block.start] = np.inf
        nearest[block] = np.argsort(distances, axis=1, kind="stable")[:, :count]
    return nearest


def mean_per_person(embeddings: ArrayLike, labels: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the mean (C, D) of each person's embeddings (N, D), which are scaled to unit length; the mean is not.

    Raises:
        InputError: not one embedding per label, labels with gaps, or an embedding that is zero or not finite.
    """
    unit = normalize(embeddings)
    persons = _by_person(labels)
    if len(unit) != len(labels):
        raise InputError(f"{len(unit)} embeddings and {len(labels)} labels; expected one label per embedding.")
    means = np.empty((len(persons.counts), unit.shape[1]), np.float32)
    for person, rows in enumerate(np.split(persons.positions, persons.starts[1:])):
        means[person] = unit[rows].mean(axis=0, dtype=np.float64)
    return means


def draw_one_per_person(labels: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
    """Return the position (C,) of one random image of each person, by label: what graph sampling embeds each epoch.

    Raises:
        InputError: labels with gaps.
    """
    persons = _by_person(labels)
    drawn: NDArray[np.int64] = persons.positions[persons.starts + generator.integers(0, persons.counts)]
    return drawn


def process_share(batch: NDArray[np.int64], *, rank: int, processes: int) -> NDArray[np.int64]:
    """Return the part of a global batch that process `rank` (0..processes-1) works on.

    Shares are consecutive and of equal length, so the shares of all ranks one after another are the batch. They hold
    whole blocks of people wherever P divides by `processes`.

    Raises:
        InputError: a rank out of range, or a batch that cannot be shared evenly.
    """
    if not 0 <= rank < processes:
        raise InputError(f"rank is {rank} of {processes} processes; expected 0 to {processes - 1}.")
    if len(batch) % processes:
        raise InputError(
            f"a batch of {len(batch)} images cannot be shared by {processes} processes; "
            f"make the batch a multiple of {processes}, or use a number of processes that divides {len(batch)}."
        )
    length = len(batch) // processes
    return batch[rank * length : (rank + 1) * length]


def check_identity_batches(labels: NDArray[np.int64], *, people: int, images: int) -> None:
    """Check, before training, that batches of `people` people with `images` images each can be drawn.

    Raises:
        InputError: `people` or `images` below 1, fewer people than `people`, or labels with gaps.
    """
    if people < 1 or images < 1:
        raise InputError(
            f"a batch of {people} people with {images} images each; set both people and images to 1 or more."
        )
    there = len(_by_person(labels).counts)
    if there < people:
        raise InputError(
            f"a batch takes {people} people and the training images show only {there}; set people to {there} or fewer."
        )


def _by_person(labels: NDArray[np.int64]) -> _ByPerson:
    """Return the image positions of each person in ascending order; raise `InputError` for labels that have gaps."""
    if labels.ndim != 1 or not len(labels) or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"labels are {labels.dtype} of shape {labels.shape}; expected one whole number per image.")
    if (lowest := int(labels.min())) < 0:
        raise InputError(f"a label is {lowest}; expected people numbered from 0: leave out images of no person.")
    numbers, counts = np.unique(labels, return_counts=True)
    if numbers[-1] != len(numbers) - 1:
        raise InputError(
            f"labels go up to {numbers[-1]} but name {len(numbers)} people; number the people 0 to "
            f"{len(numbers) - 1} without gaps."
        )
    positions = np.argsort(labels, kind="stable").astype(np.int64, copy=False)
    return _ByPerson(positions, np.cumsum(counts) - counts, counts.astype(np.int64, copy=False))


def _shuffled(labels: NDArray[np.int64], generator: np.random.Generator) -> _ByPerson:
    """Return the image positions of each person in random order."""
    order = generator.permutation(len(labels)).astype(np.int64, copy=False)
    persons = _by_person(labels[order])
    return _ByPerson(order[persons.positions], persons.starts, persons.counts)


def _groups(
    persons: _ByPerson, images: int, generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return groups of images (G, K), person by person, and where each person's groups start (C,) and end (C,)."""
    numbers = np.maximum(persons.counts // images, 1)
    ends = np.cumsum(numbers)
    starts = ends - numbers
    first = np.repeat(persons.starts, numbers) + images * concatenated_ranges(np.zeros_like(numbers), numbers)
    places = first[:, None] + np.arange(images)
    short = np.flatnonzero(persons.counts < images)
    drawn = generator.integers(0, persons.counts[short, None], (len(short), images))
    places[starts[short]] = persons.starts[short, None] + drawn
    return persons.positions[places], starts, ends


def _earlier_visits(members: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return for each member how many members before it are the same person; everyone is there at least once."""
    visits = _by_person(members)
    earlier = np.empty(len(members), np.int64)
    earlier[visits.positions] = concatenated_ranges(np.zeros_like(visits.counts), visits.counts)
    return earlier


def _check_neighbours(neighbours: NDArray[np.int64], *, people: int, needed: int) -> None:
    """Raise `InputError` unless the first `needed` neighbours of each person are distinct other people."""
    if neighbours.ndim != 2 or len(neighbours) != people or neighbours.shape[1] < needed:
        raise InputError(
            f"neighbours have shape {neighbours.shape}; expected {people} people with {needed} or more neighbours "
            "each, as nearest_people gives them for these labels."
        )
    members = np.sort(np.column_stack([np.arange(people), neighbours[:, :needed]]), axis=1)
    bad = (members[:, 0] < 0) | (members[:, -1] >= people) | (np.diff(members, axis=1) == 0).any(axis=1)
    if bad.any():
        person = int(np.flatnonzero(bad)[0])
        raise InputError(
            f"the neighbours of person {person} are {neighbours[person, :needed].tolist()}; expected {needed} "
            f"different people among 0 to {people - 1} other than {person}, as nearest_people gives them."
        )
