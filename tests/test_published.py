"""The published datasets' sizes, and how what was read is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelscope_reid.datasets.published import PUBLISHED, Published, published_dataset
from modelscope_reid.datasets.records import Dataset, Record, Split

TINY = Published("Tiny", train=(3, 2), query=(2, 2), gallery=(4, 2), cameras=2)


def records(images: int, people: int, *, cameras: int = 2, name: str = "") -> tuple[Record, ...]:
    return tuple(Record(Path(f"{name}{n}"), n % people, n % cameras + 1) for n in range(images))


def tiny(**changed: tuple[Record, ...]) -> Dataset:
    parts: dict[Split, tuple[Record, ...]] = {
        "train": tuple(Record(r.path, r.person_id + 50, r.camera_id) for r in records(3, 2, name="t")),
        "query": records(2, 2, name="q"),
        "gallery": records(4, 2, name="g"),
    }
    return published_dataset(TINY, Path("root"), {**parts, **changed}, junk=1)  # type: ignore[dict-item]


def test_the_whole_dataset_is_official() -> None:
    dataset = tiny()
    assert (dataset.name, dataset.official, dataset.notes, dataset.junk) == ("Tiny", True, (), 1)


def test_without_train_it_is_official_still() -> None:
    assert tiny(train=()).official


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"query": records(3, 2, name="q")}, "query has 3 images of 2 people (published: 2 of 2)"),
        ({"gallery": records(4, 4, name="g")}, "gallery has 4 images of 4 people (published: 4 of 2)"),
        ({"train": records(3, 3, name="t")}, "train has 3 images of 3 people (published: 3 of 2)"),
        ({"gallery": records(4, 2, name="g", cameras=3)}, "there are 3 cameras (published: 2)"),
    ],
)
def test_a_part_is_named_as_not_the_official_one(changed: dict[str, tuple[Record, ...]], sentence: str) -> None:
    dataset = tiny(**changed)
    assert dataset.name == "Tiny (not the official set)"
    assert not dataset.official
    assert dataset.notes[0].startswith("This is not the official Tiny: ") and sentence in dataset.notes[0]
    assert dataset.notes[0].endswith("compare none with a published one.")


def test_another_dataset_is_recognised_by_its_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PUBLISHED, "other", Published("Other", (3, 2), (3, 2), (4, 2), 2))
    dataset = tiny(query=records(3, 2, name="q"))
    assert "These are the counts of Other: read it as that (other)." in dataset.notes


def test_the_published_sizes() -> None:
    """Sums that the papers print; Market-1501's 32,668 boxes are train, gallery and 3,819 junk."""
    market = PUBLISHED["market1501"]
    assert market.train[0] + market.gallery[0] + 3_819 == 32_668
    assert PUBLISHED["market1501_500k"].gallery[0] - market.gallery[0] == 500_000
    for version in ("msmt17_v1", "msmt17_v2"):
        msmt17 = PUBLISHED[version]
        assert msmt17.train[0] + msmt17.query[0] + msmt17.gallery[0] == 126_441
        assert msmt17.train[1] + msmt17.query[1] == 4_101
    duke = PUBLISHED["dukemtmc"]
    assert duke.train[0] + duke.query[0] + duke.gallery[0] == 36_411
    for boxes, images in (("labelled", 14_096), ("detected", 14_097)):
        cuhk = PUBLISHED[f"cuhk03_{boxes}"]
        assert cuhk.train[0] + cuhk.query[0] + cuhk.gallery[0] == images
        assert cuhk.train[1] + cuhk.query[1] == 1_467
