"""Batches of training images: worked by hand, and what every epoch holds whatever the dice."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from modelscope_reid.errors import InputError
from modelscope_reid.training import samplers
from modelscope_reid.training.samplers import (
    check_identity_batches,
    draw_one_per_person,
    graph_batches,
    identity_batches,
    mean_per_person,
    nearest_people,
    process_share,
    random_batches,
)

Labels = NDArray[np.int64]

MIXED = np.array([2, 0, 1, 0, 2, 0, 1, 0, 2, 0])
"""Person 0 at 1, 3, 5, 7, 9; person 1 at 2, 6; person 2 at 0, 4, 8."""


def dice(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def ring(people: int, count: int) -> Labels:
    """People in a circle, whose neighbours are the next ones."""
    return (np.arange(people)[:, None] + np.arange(1, count + 1)) % people


@st.composite
def epochs(draw: st.DrawFn) -> tuple[Labels, int, int, int]:
    """Labels in any order, P, K and a seed: up to 9 people of 1 to 11 images."""
    counts = draw(st.lists(st.integers(1, 11), min_size=1, max_size=9))
    seed = draw(st.integers(0, 2**32 - 1))
    labels = dice(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    return labels, draw(st.integers(1, len(counts))), draw(st.integers(1, 6)), seed


def blocks(batch: Labels, images: int) -> Labels:
    return batch.reshape(-1, images)


# Random batches


def test_random_batches_cut_one_permutation() -> None:
    batches = random_batches(10, 4, dice())
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert np.concatenate(batches).tolist() == dice().permutation(10).tolist()
    assert all(batch.dtype == np.int64 for batch in batches)
    kept = random_batches(10, 4, dice(), drop_last=True)
    assert [batch.tolist() for batch in kept] == [batch.tolist() for batch in batches[:2]]


def test_random_batches_that_fill_exactly_lose_nothing() -> None:
    assert [len(batch) for batch in random_batches(8, 4, dice(), drop_last=True)] == [4, 4]
    assert [len(batch) for batch in random_batches(4, 4, dice(), drop_last=True)] == [4]
    assert [batch.tolist() for batch in random_batches(1, 64, dice())] == [[0]]


@given(st.integers(1, 60), st.integers(1, 70), st.integers(0, 2**32 - 1))
def test_random_batches_show_every_image_once(count: int, batch_size: int, seed: int) -> None:
    batches = random_batches(count, batch_size, dice(seed))
    assert sorted(np.concatenate(batches)) == list(range(count))
    assert all(len(batch) == batch_size for batch in batches[:-1])


def test_random_batches_of_nothing() -> None:
    with pytest.raises(InputError, match=r"0 images in batches of 4; expected 1 or more"):
        random_batches(0, 4, dice())
    with pytest.raises(InputError, match=r"3 images in batches of 0"):
        random_batches(3, 0, dice())
    with pytest.raises(InputError, match=r"set batch_size to 3 or fewer"):
        random_batches(3, 4, dice(), drop_last=True)


# Identity batches


def identity_batches_of(labels: Labels, seed: int) -> list[Labels]:
    return identity_batches(labels, people=2, images=4, generator=dice(seed))


def test_two_people_with_two_images_each_are_one_batch() -> None:
    (batch,) = identity_batches(np.array([0, 1, 1, 0]), people=2, images=2, generator=dice())
    assert sorted(sorted(block) for block in blocks(batch, 2).tolist()) == [[0, 3], [1, 2]]
    assert batch.dtype == np.int64


def test_the_epoch_ends_where_too_few_people_have_groups_left() -> None:
    # Groups of 2: person 0 has two (its fifth image is dropped), 1 has one, 2 has one (its third image is dropped).
    # P = 3: the first batch takes one of each; then only person 0 is left.
    for seed in range(5):
        (batch,) = identity_batches(MIXED, people=3, images=2, generator=dice(seed))
        assert sorted(MIXED[batch]) == [0, 0, 1, 1, 2, 2]
    # P = 2: two batches where person 0 is in the first ({0,1} {0,2}), one where it is not ({1,2}, then 0 alone).
    lengths = {len(identity_batches(MIXED, people=2, images=2, generator=dice(seed))) for seed in range(20)}
    assert lengths == {1, 2}
    # P = 1: every group is a batch.
    assert len(identity_batches(MIXED, people=1, images=2, generator=dice())) == 4


def test_a_person_with_too_few_images_has_one_group_of_repeats() -> None:
    # K = 4: person 1 has the images 2 and 6 only, person 2 three of them; each is one group of four.
    seen: Counter[tuple[int, ...]] = Counter()
    for seed in range(200):
        for batch in identity_batches(MIXED, people=3, images=4, generator=dice(seed)):
            by_person = {int(MIXED[block[0]]): block.tolist() for block in blocks(batch, 4)}
            assert len(set(by_person[0])) == 4
            assert set(by_person[2]) <= {0, 4, 8}
            seen[tuple(sorted(by_person[1]))] += 1
    # Drawn with replacement: both images the same often (2 of 2^4), and every mixture there is.
    assert set(seen) == {(2,) * twos + (6,) * (4 - twos) for twos in range(5)}


def test_one_person_alone() -> None:
    batches = identity_batches(np.zeros(5, np.int64), people=1, images=2, generator=dice())
    assert [len(batch) for batch in batches] == [2, 2]
    assert len(set(np.concatenate(batches).tolist())) == 4


def test_people_with_many_groups_are_not_preferred() -> None:
    # Person 0 has 40 groups, the other four one each; uniform over people: 0 is in the first batch 2 times of 5.
    labels = np.repeat(np.arange(5), [40, 1, 1, 1, 1])
    first = [identity_batches(labels, people=2, images=1, generator=dice(seed))[0] for seed in range(1000)]
    share = np.mean([0 in labels[batch] for batch in first])
    assert 0.34 < share < 0.46  # four standard deviations are 0.062


@given(epochs())
def test_every_identity_batch_is_p_people_with_k_images(epoch: tuple[Labels, int, int, int]) -> None:
    labels, people, images, seed = epoch
    batches = identity_batches(labels, people=people, images=images, generator=dice(seed))
    assert batches
    for batch in batches:
        assert len(batch) == people * images
        owners = labels[blocks(batch, images)]
        assert (owners == owners[:, :1]).all()
        assert len(set(owners[:, 0].tolist())) == people


@given(epochs())
def test_an_image_of_a_person_with_enough_is_used_at_most_once(epoch: tuple[Labels, int, int, int]) -> None:
    labels, people, images, seed = epoch
    used = np.concatenate(identity_batches(labels, people=people, images=images, generator=dice(seed)))
    times, counts = np.bincount(used, minlength=len(labels)), np.bincount(labels)
    assert times[counts[labels] >= images].max(initial=0) <= 1
    left = np.maximum(counts // images, 1) - np.bincount(labels[used], minlength=len(counts)) // images
    assert (left >= 0).all()
    assert np.count_nonzero(left) < people  # no batch more could have been made


@given(epochs())
def test_batches_of_one_person_show_every_image_that_fills_a_group(epoch: tuple[Labels, int, int, int]) -> None:
    labels, _, images, seed = epoch
    used = np.concatenate(identity_batches(labels, people=1, images=images, generator=dice(seed)))
    for person, count in enumerate(np.bincount(labels)):
        own = used[labels[used] == person]
        assert len(own) == max(count - count % images, images)
        if count >= images:
            assert len(set(own.tolist())) == len(own)


def test_over_epochs_every_image_is_used() -> None:
    labels = np.repeat(np.arange(4), [1, 3, 5, 9])
    used = {int(i) for seed in range(60) for i in np.concatenate(identity_batches_of(labels, seed))}
    assert used == set(range(18))


def test_one_seed_gives_one_epoch_and_another_seed_another() -> None:
    labels = np.repeat(np.arange(10), 7)
    first, again, other = (identity_batches_of(labels, seed) for seed in (5, 5, 6))
    assert np.array_equal(np.stack(first), np.stack(again))
    assert not np.array_equal(first[0], other[0])
    before = labels.copy()
    identity_batches_of(labels, 5)
    assert np.array_equal(labels, before)


# What cannot be drawn


def test_check_says_both_numbers_and_the_way_out() -> None:
    check_identity_batches(MIXED, people=3, images=400)
    with pytest.raises(InputError, match=r"takes 16 people .* only 3; set people to 3 or fewer"):
        check_identity_batches(MIXED, people=16, images=4)
    for people, images in ((0, 4), (16, 0), (-1, -1)):
        with pytest.raises(InputError, match=r"set both people and images to 1 or more"):
            check_identity_batches(MIXED, people=people, images=images)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0, 2, 2]), r"go up to 2 but name 2 people; number the people 0 to 1"),
        (np.array([0, -1]), r"a label is -1"),
        (np.array([[0, 1]]), r"shape \(1, 2\)"),
        (np.array([], np.int64), r"shape \(0,\)"),
        (np.array([0.0, 1.0]), r"float64"),
    ],
)
def test_labels_that_number_no_people(labels: Labels, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_identity_batches(labels, people=1, images=1)
    with pytest.raises(InputError, match=message):
        draw_one_per_person(labels, dice())


def test_the_samplers_check_before_they_draw() -> None:
    with pytest.raises(InputError, match="set people to 3 or fewer"):
        identity_batches(MIXED, people=4, images=2, generator=dice())
    with pytest.raises(InputError, match="set people to 3 or fewer"):
        graph_batches(ring(3, 2), MIXED, people=4, images=2, generator=dice())


# Graph batches


def test_graph_batches_by_hand() -> None:
    # Three people with two images each, P = 2, K = 2; 0 is nearest to 1, 1 to 0, 2 to 1.
    labels = np.array([0, 0, 1, 1, 2, 2])
    neighbours = np.array([[1], [0], [1]])
    batches = graph_batches(neighbours, labels, people=2, images=2, generator=dice())
    owners = [labels[batch].tolist() for batch in batches]
    assert sorted(owners) == [[0, 0, 1, 1], [1, 1, 0, 0], [2, 2, 1, 1]]
    for batch in batches:  # two images, two taken: always both
        assert all(len(set(block)) == 2 for block in blocks(batch, 2).tolist())


def test_the_pointer_rolls_over_a_persons_images() -> None:
    # P = 3 of 3 people: each is in all three batches, so person 0 with five images gives
    # 3 x 2 = 6 places: its five images in one order, then the first of them again; person 1 gives its two, three times.
    batches = graph_batches(ring(3, 2), MIXED, people=3, images=2, generator=dice(3))
    taken = {person: [int(i) for i in np.concatenate(batches) if MIXED[i] == person] for person in range(3)}
    assert sorted(taken[0][:5]) == [1, 3, 5, 7, 9]
    assert taken[0][5] == taken[0][0]
    assert sorted(taken[2][:3]) == [0, 4, 8]
    assert taken[2][3:] == taken[2][:3]
    assert taken[1] == taken[1][:2] * 3
    assert taken[0][:5] != sorted(taken[0][:5])  # shuffled before
    assert [len(b) for b in graph_batches(ring(3, 2), MIXED, people=1, images=2, generator=dice())] == [2, 2, 2]


@given(epochs())
def test_every_graph_batch_is_a_person_and_its_nearest(epoch: tuple[Labels, int, int, int]) -> None:
    labels, people, images, seed = epoch
    total = len(np.bincount(labels))
    features = dice(seed).standard_normal((total, 5)).astype(np.float32)
    neighbours = nearest_people(features, total - 1)  # wider than needed
    batches = graph_batches(neighbours, labels, people=people, images=images, generator=dice(seed))
    anchors = []
    for batch in batches:
        owners = labels[blocks(batch, images)]
        assert (owners == owners[:, :1]).all()
        anchor, *others = owners[:, 0].tolist()
        assert others == neighbours[anchor, : people - 1].tolist()
        anchors.append(anchor)
    assert sorted(anchors) == list(range(total))


@given(epochs())
def test_the_pointer_uses_a_persons_images_evenly(epoch: tuple[Labels, int, int, int]) -> None:
    labels, people, images, seed = epoch
    total = len(np.bincount(labels))
    used = np.concatenate(
        graph_batches(ring(total, people - 1), labels, people=people, images=images, generator=dice(seed))
    )
    times = np.bincount(used, minlength=len(labels))
    for person, count in enumerate(np.bincount(labels)):
        own = times[labels == person]  # in a ring each person is in P batches
        assert own.sum() == people * images
        assert own.min() == people * images // count
        assert own.max() - own.min() <= 1


def test_graph_batches_come_in_an_order_of_the_seed() -> None:
    labels = np.repeat(np.arange(8), 5)

    def epoch(seed: int) -> Labels:
        return np.stack(graph_batches(ring(8, 3), labels, people=4, images=3, generator=dice(seed)))

    assert epoch(1).shape == (8, 12)
    assert np.array_equal(epoch(1), epoch(1))
    assert labels[epoch(1)[:, 0]].tolist() != labels[epoch(2)[:, 0]].tolist()


@pytest.mark.parametrize(
    ("neighbours", "message"),
    [
        (np.array([[1, 2], [2, 0]]), r"shape \(2, 2\); expected 3 people with 2 or more"),
        (np.array([[1], [2], [0]]), r"shape \(3, 1\)"),
        (np.array([1, 2, 0]), r"shape \(3,\)"),
        (np.array([[1, 2], [1, 0], [0, 1]]), r"neighbours of person 1 are \[1, 0\]"),
        (np.array([[1, 2], [2, 0], [1, 1]]), r"neighbours of person 2 are \[1, 1\]"),
        (np.array([[1, 3], [2, 0], [0, 1]]), r"neighbours of person 0 are \[1, 3\].* among 0 to 2 other than 0"),
        (np.array([[1, -1], [2, 0], [0, 1]]), r"neighbours of person 0 are \[1, -1\]"),
    ],
)
def test_neighbours_that_are_none(neighbours: Labels, message: str) -> None:
    with pytest.raises(InputError, match=message):
        graph_batches(neighbours, MIXED, people=3, images=2, generator=dice())


# Who is near, and what a person looks like


def test_nearest_people_by_hand() -> None:
    # At 0, 50, 10 and 180 degrees, of different lengths: only the angle counts.
    angles, lengths = np.deg2rad([0, 50, 10, 180]), np.array([1.0, 8.0, 0.25, 3.0])
    features = (np.stack([np.cos(angles), np.sin(angles)], axis=1) * lengths[:, None]).astype(np.float32)
    # 0: 10 away from 2, 50 from 1; 1: 40 from 2, 50 from 0; 2: 10 from 0, 40 from 1; 3: 130 from 1, 170 from 2.
    assert nearest_people(features, 2).tolist() == [[2, 1], [2, 0], [0, 1], [1, 2]]
    assert nearest_people(features, 2).dtype == np.int64
    assert nearest_people(features, 0).shape == (4, 0)


def test_equally_near_people_come_by_label() -> None:
    axes = np.eye(40, dtype=np.float32)  # everyone at 90 degrees to everyone
    assert nearest_people(axes, 3)[:5].tolist() == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2], [0, 1, 2]]
    same = np.repeat(dice().standard_normal((1, 700)).astype(np.float32), 37, axis=0)  # 37: no whole tiles of a product
    expected = [[other for other in range(37) if other != person] for person in range(37)]
    assert nearest_people(same, 36).tolist() == expected


@given(st.integers(2, 25), st.integers(1, 6), st.integers(1, 60), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_nearest_people_like_a_slow_loop(people: int, dim: int, block_values: int, seed: int) -> None:
    # Few distinct whole numbers, so that equal distances happen.
    features = dice(seed).integers(-1, 2, (people, dim)).astype(np.float32)
    features[~features.any(axis=1)] = 1.0
    count = int(dice(seed).integers(1, people))
    expected = []
    for one in range(people):
        distances = []
        for other in range(people):
            cosine = np.dot(features[one].astype(float), features[other]) / np.sqrt(
                float((features[one] ** 2).sum()) * float((features[other] ** 2).sum())
            )
            distances.append((round(1 - cosine, 5), other))
        expected.append([other for _, other in sorted(distances) if other != one][:count])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(samplers, "BLOCK_VALUES", block_values)
        assert nearest_people(features, count).tolist() == expected


def test_nearest_people_that_cannot_be() -> None:
    features = np.ones((3, 2), np.float32)
    for count in (3, -1):
        with pytest.raises(InputError, match=rf"{count} nearest people .* among 3 people; expected 0 to 2"):
            nearest_people(features, count)
    features[1] = 0
    with pytest.raises(InputError, match="embedding 1 is of length zero"):
        nearest_people(features, 1)


def test_the_mean_of_a_person_weighs_directions_not_lengths() -> None:
    # Person 1: (0, 5) and (3, 0) are (0, 1) and (1, 0) at unit length, half of each; person 0: (6, 8) alone.
    means = mean_per_person(np.array([[0, 5], [6, 8], [3, 0]], np.float32), np.array([1, 0, 1]))
    np.testing.assert_allclose(means, [[0.6, 0.8], [0.5, 0.5]], atol=1e-7)
    assert means.dtype == np.float32


def test_embeddings_and_labels_of_different_length() -> None:
    with pytest.raises(InputError, match="2 embeddings and 3 labels"):
        mean_per_person(np.ones((2, 4), np.float32), np.array([0, 1, 0]))


def test_one_image_of_each_person_any_of_its_images() -> None:
    drawn = np.stack([draw_one_per_person(MIXED, dice(seed)) for seed in range(100)])
    assert drawn.dtype == np.int64
    assert (MIXED[drawn] == [0, 1, 2]).all()
    assert [set(column) for column in drawn.T.tolist()] == [{1, 3, 5, 7, 9}, {2, 6}, {0, 4, 8}]


# Several processes


def test_shares_by_hand() -> None:
    batch = np.array([7, 3, 1, 8, 2, 9])
    assert [process_share(batch, rank=rank, processes=3).tolist() for rank in range(3)] == [[7, 3], [1, 8], [2, 9]]
    assert process_share(batch, rank=0, processes=1).tolist() == batch.tolist()


@given(epochs(), st.integers(1, 6))
def test_shares_are_the_batch_in_whole_people(epoch: tuple[Labels, int, int, int], processes: int) -> None:
    labels, people, images, seed = epoch
    labels = np.concatenate([labels + part * (labels.max() + 1) for part in range(processes)])
    batch = identity_batches(labels, people=people * processes, images=images, generator=dice(seed))[0]
    shares = [process_share(batch, rank=rank, processes=processes) for rank in range(processes)]
    assert np.concatenate(shares).tolist() == batch.tolist()
    for share in shares:
        assert len(share) == people * images
        assert len(np.unique(labels[share])) == people


def test_shares_that_cannot_be() -> None:
    with pytest.raises(InputError, match=r"a batch of 64 images cannot be shared by 3 processes; make the batch a"):
        process_share(np.arange(64), rank=0, processes=3)
    for rank, processes in ((2, 2), (-1, 2), (0, 0)):
        with pytest.raises(InputError, match=f"rank is {rank} of {processes} processes"):
            process_share(np.arange(64), rank=rank, processes=processes)
