"""What both stores must do, with the answers worked out by hand: the embedded one, and Milvus over TCP."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from gallery_places import INFO, NewPlace, block, milvus, new_place, toward  # noqa: F401  # fixtures

from modelscope_reid.errors import InputError
from modelscope_reid.gallery.entries import Entry, Filters, GalleryInfo
from modelscope_reid.gallery.places import create_store, open_store
from modelscope_reid.gallery.store import Block, Store, highest, search_blocks

EVERYTHING = [Filters()]


def keys(store: Store, angle: float, *, top: int = 10, filters: Filters = EVERYTHING[0], exact: bool = False) -> str:
    """The keys that a query finds, the most similar first."""
    hits = store.search(toward(angle), top=top, filters=[filters], exact=exact)[0]
    return "".join(hit.entry.key for hit in hits)


@pytest.fixture
def place(new_place: NewPlace) -> str:  # noqa: F811
    return new_place()


@pytest.fixture
def store(place: str) -> Iterator[Store]:
    """a 0°, b 10°: Ann at camera 1, times 100 and 200; c 20°: Bob's, camera 2; d 30°: nobody's, nowhere, never."""
    made = create_store(place, INFO)
    assert made.add(block(("a", 0.0), person_id="Ann", camera_id="1", timestamp=100.0, thumbnail=b"jpeg of a")) == 1
    assert made.add(block(("b", 10.0), person_id="Ann", camera_id="1", timestamp=200.0)) == 1
    assert made.add(block(("c", 20.0), person_id="Bob", camera_id="2", timestamp=300.0)) == 1
    assert made.add(block(("d", 30.0))) == 1
    yield made
    made.close()


def test_an_entry_enters_once(store: Store) -> None:
    again = Block(entries=tuple(Entry(key=key, person_id="X") for key in "aeea"), vectors=toward(50, 60, 70, 80))
    assert store.add(again) == 1  # e, once, with its first vector
    assert store.add(again) == 0
    assert store.known(["a", "e", "z"]) == {"a", "e"} and store.known([]) == set()
    assert keys(store, 60.0, top=1) == "e"
    assert keys(store, 0.0, top=1) == "a"
    np.testing.assert_allclose(store.vectors(["e", "a"]), toward(60, 0), atol=1e-6)
    assert [hit.entry.person_id for hit in store.search(toward(0.0), top=1, filters=EVERYTHING, exact=False)[0]] == [
        "Ann"
    ]


@pytest.mark.parametrize("exact", [False, True])
def test_the_most_similar_come_first_with_their_cosine(store: Store, exact: bool) -> None:
    assert keys(store, 12.0, exact=exact) == "bcad"  # 2, 8, 12 and 18 degrees away
    hits = store.search(toward(12.0), top=2, filters=EVERYTHING, exact=exact)[0]
    assert [hit.similarity for hit in hits] == pytest.approx([np.cos(np.deg2rad(2)), np.cos(np.deg2rad(8))], abs=1e-6)
    assert hits[1].entry == Entry(key="c", person_id="Bob", camera_id="2", timestamp=300.0, source="c.jpg")


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (Filters(exclude_cameras=("1",)), "cd"),
        (Filters(exclude_cameras=("1", "2")), "d"),
        (Filters(exclude_cameras=("never seen",)), "abcd"),
        (Filters(cameras=("1",)), "ab"),
        (Filters(cameras=("1", "2")), "abc"),
        (Filters(cameras=("never seen",)), ""),
        (Filters(persons=("Ann",)), "ab"),
        (Filters(persons=("Bob", "Cid")), "c"),
        (Filters(labelled=True), "abc"),
        (Filters(since=200.0), "bc"),
        (Filters(until=200.0), "a"),
        (Filters(since=150.0, until=300.0, cameras=("1",)), "b"),
    ],
)
def test_filters(store: Store, filters: Filters, expected: str, exact: bool) -> None:
    assert keys(store, 0.0, filters=filters, exact=exact) == expected
    assert keys(store, 0.0, top=1, filters=filters, exact=exact) == expected[:1]
    blocks = [entry.key for part in store.blocks(filters) for entry in part.entries]
    assert "".join(sorted(blocks)) == expected


def test_every_query_has_its_own_filters(store: Store) -> None:
    wanted = [Filters(cameras=("2",)), Filters(), Filters(cameras=("2",))]
    found = store.search(toward(0, 30, 30), top=1, filters=wanted, exact=False)
    assert [[hit.entry.key for hit in hits] for hits in found] == [["c"], ["d"], ["c"]]


def test_pages_go_on_behind_a_key_and_carry_thumbnails(store: Store) -> None:
    store.add(block(("e", 40.0), ("f", 50.0), ("g", 60.0), person_id="Ann"))  # keys and enrolment in one order
    first = store.page(Filters(persons=("Ann",)), limit=3)
    assert [entry.key for entry in first] == ["a", "b", "e"]
    assert [entry.thumbnail for entry in first] == [b"jpeg of a", None, None]
    second = store.page(Filters(persons=("Ann",)), after="e", limit=3)
    assert [entry.key for entry in second] == ["f", "g"]
    assert store.page(Filters(persons=("Ann",)), after="g", limit=3) == []
    assert [entry.key for entry in store.page(limit=10)] == list("abcdefg")
    assert store.page(Filters(cameras=("2",)))[0].person_id == "Bob"


def test_thumbnails_of_those_that_have_one(store: Store) -> None:
    assert store.thumbnails(["a", "b", "z"]) == {"a": b"jpeg of a"}
    assert store.thumbnails([]) == {}


def test_people_by_the_beginning_of_their_names(store: Store) -> None:
    store.add(block(("e", 40.0), ("f", 50.0), person_id="Änne%_"))
    assert store.people() == [("Ann", 2), ("Bob", 1), ("Änne%_", 2)]  # not d, who is nobody
    assert store.people(limit=1) == [("Ann", 2)]
    assert store.people(beginning="B") == [("Bob", 1)] and store.people(beginning="Änne%_") == [("Änne%_", 2)]
    assert store.people(beginning="b") == [] and store.people(beginning="Bobby") == []


def test_everything_is_there_after_opening_again(place: str, store: Store) -> None:
    store.close()
    again = open_store(place)
    assert again is not None and again.info == INFO
    entries = {entry.key: entry for part in again.blocks(thumbnails=True) for entry in part.entries}
    assert entries["a"] == Entry(
        key="a", person_id="Ann", camera_id="1", timestamp=100.0, source="a.jpg", thumbnail=b"jpeg of a"
    )
    assert entries["d"] == Entry(key="d", source="d.jpg") and len(entries) == 4
    assert keys(again, 29.0) == "dcba"
    again.close()


def test_a_deleted_person_is_gone_and_the_others_stay(place: str, store: Store) -> None:
    assert store.delete_person("Ann") == 2 and store.delete_person("Ann") == 0
    assert keys(store, 0.0) == "cd" and store.known(["a", "b", "c"]) == {"c"}
    assert store.stats().people == 1 and store.stats().entries == 2
    assert all(finding.passed for finding in store.verify())
    store.close()
    again = open_store(place)
    assert again is not None and keys(again, 0.0) == "cd"
    assert again.add(block(("a", 5.0), person_id="Ann")) == 1  # may come again
    assert keys(again, 0.0) == "acd"
    again.close()


def test_counts_and_findings(store: Store) -> None:
    stats = store.stats()
    assert (stats.entries, stats.people, stats.cameras, stats.unlabelled) == (4, 2, 2, 1)
    assert all(finding.passed for finding in store.verify())


def test_names_of_any_kind(store: Store) -> None:
    name = 'O\'Neil "Ö" \\ 王\n%_'
    store.add(block(("q", 90.0), person_id=name, camera_id=name))
    assert keys(store, 90.0, filters=Filters(persons=(name,), cameras=(name,))) == "q"
    assert "q" not in keys(store, 90.0, filters=Filters(exclude_cameras=(name,)))
    assert store.delete_person(name) == 1


def test_what_does_not_fit_is_refused(store: Store) -> None:
    with pytest.raises(InputError, match="no entry 'z'"):
        store.vectors(["a", "z"])
    with pytest.raises(InputError, match="3 numbers"):
        store.add(Block(entries=(Entry(key="z"),), vectors=np.ones((1, 3), np.float32)))
    with pytest.raises(InputError, match="2 entries and vectors"):
        Block(entries=(Entry(key="a"), Entry(key="b")), vectors=toward(0.0))


def test_an_empty_store(new_place: NewPlace) -> None:  # noqa: F811
    empty = create_store(new_place(), INFO)
    assert empty.search(toward(0, 1), top=3, filters=EVERYTHING * 2, exact=False) == [[], []]
    assert empty.search(toward(0.0), top=3, filters=EVERYTHING, exact=True) == [[]]
    assert list(empty.blocks()) == [] and empty.stats().entries == 0
    assert empty.people() == [] and empty.page() == [] and empty.thumbnails(["a"]) == {}
    assert empty.vectors([]).shape == (0, 2) and empty.delete_person("Ann") == 0
    assert all(finding.passed for finding in empty.verify())
    empty.close()
    empty.close()


def test_random_entries_against_a_product_of_all_pairs(new_place: NewPlace) -> None:  # noqa: F811
    random = np.random.default_rng(0)
    vectors = random.standard_normal((400, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cameras = random.integers(0, 5, 400)
    made = create_store(new_place(), GalleryInfo(fingerprint="x", dimension=16))
    entries = tuple(Entry(key=str(row), camera_id=str(cameras[row])) for row in range(390))
    for start in range(0, 390, 150):
        made.add(Block(entries=entries[start : start + 150], vectors=vectors[:390][start : start + 150]))
    wanted = [Filters(exclude_cameras=(str(camera),)) for camera in cameras[390:]]
    for exact in (True, False):
        found = made.search(vectors[390:], top=20, filters=wanted, exact=exact)
        for query, camera, hits in zip(vectors[390:], cameras[390:], found, strict=True):
            similarities = np.where(cameras[:390] != camera, vectors[:390] @ query, -2.0)
            assert [hit.entry.key for hit in hits] == [str(row) for row in np.argsort(-similarities)[:20]]
    made.close()


def test_search_blocks_goes_over_all_blocks() -> None:
    parts = [block(("a", 0.0), ("b", 50.0)), block(("c", 10.0)), block(("d", 40.0), ("e", 20.0))]
    found = search_blocks(parts, toward(12.0, 90.0), 3)
    assert ["".join(hit.entry.key for hit in hits) for hits in found] == ["cea", "bde"]
    assert search_blocks([], toward(0.0), 3) == [[]]


def test_highest() -> None:
    assert highest(np.array([0.1, 0.9, 0.5, 0.7], np.float32), 2).tolist() == [1, 3]
    assert highest(np.array([0.1, 0.9], np.float32), 5).tolist() == [1, 0]
    assert highest(np.empty(0, np.float32), 5).tolist() == []
