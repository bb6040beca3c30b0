"""The published datasets: how large each is, and whether what was read is it.

In: records as read. Out: a `Dataset` that is named as the official one or as not the official one. Knows nothing
of how a dataset lies on disk.

Sources of the counts: Market-1501, the readme of its archive and its page (Zheng et al., ICCV 2015), and 515,913
with the 500k distractors; MSMT17 (Wei et al., CVPR 2018); DukeMTMC-reID (Zheng et al., ICCV 2017); Occluded-Duke
(Miao et al., ICCV 2019, its name lists); CUHK03-NP (Zhong et al., CVPR 2017, its README). The gallery's people
include Market-1501's distractors (0) as one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelscope_reid.datasets.checks import find_oddities
from modelscope_reid.datasets.records import SPLITS, Dataset, Record, Split, count


@dataclass(frozen=True)
class Published:
    """A published dataset: (images, people) of each split, and the cameras."""

    name: str
    train: tuple[int, int]
    query: tuple[int, int]
    gallery: tuple[int, int]
    cameras: int

    def of(self, split: Split) -> tuple[int, int]:
        """Images and people of a split."""
        return {"train": self.train, "query": self.query, "gallery": self.gallery}[split]


_MARKET = (12_936, 751), (3_368, 750)
_MSMT17 = (32_621, 1_041), (11_659, 3_060), (82_161, 3_060), 15
PUBLISHED: dict[str, Published] = {
    "market1501": Published("Market-1501", *_MARKET, (15_913, 751), 6),
    "market1501_500k": Published("Market-1501 + 500k distractors", *_MARKET, (515_913, 751), 6),
    "msmt17_v1": Published("MSMT17 V1", *_MSMT17),
    "msmt17_v2": Published("MSMT17 V2", *_MSMT17),
    "dukemtmc": Published("DukeMTMC-reID", (16_522, 702), (2_228, 702), (17_661, 1_110), 8),
    "occluded_duke": Published("Occluded-Duke", (15_618, 702), (2_210, 519), (17_661, 1_110), 8),
    "cuhk03_labelled": Published("CUHK03-NP labelled", (7_368, 767), (1_400, 700), (5_328, 700), 2),
    "cuhk03_detected": Published("CUHK03-NP detected", (7_365, 767), (1_400, 700), (5_332, 700), 2),
}
"""By the names of `readers.DATASETS`, but for MSMT17, whose version the reader finds out."""


def published_dataset(
    published: Published,
    root: Path,
    records: Mapping[Split, tuple[Record, ...]],
    *,
    junk: int = 0,
    notes: Sequence[str] = (),
    one_numbering: bool = True,
) -> Dataset:
    """Make the dataset of `records`, named as official or not, with a note for all that is odd.

    `one_numbering` is whether one id means one person in train and test alike.
    """
    differences = _differences(published, records)
    return Dataset(
        name=f"{published.name} (not the official set)" if differences else published.name,
        root=root,
        train=records.get("train", ()),
        query=records["query"],
        gallery=records["gallery"],
        official=not differences,
        junk=junk,
        notes=(*differences, *notes, *find_oddities(records, one_numbering=one_numbering)),
    )


def _differences(published: Published, records: Mapping[Split, tuple[Record, ...]]) -> list[str]:
    """What sets the records apart from the published dataset; a missing train split alone does not."""
    found = {split: count(records[split]) for split in SPLITS if records.get(split)}
    differing = [
        f"{split} has {counts.images:,} images of {counts.people:,} people (published: {{:,}} of {{:,}})".format(
            *published.of(split)
        )
        for split, counts in found.items()
        if (counts.images, counts.people) != published.of(split)
    ]
    cameras = len({record.camera_id for part in records.values() for record in part})
    if cameras != published.cameras:
        differing.append(f"there are {cameras} cameras (published: {published.cameras})")
    if not differing:
        return []
    notes = [
        f"This is not the official {published.name}: {'; '.join(differing)}. Say so beside every figure, and compare "
        "none with a published one."
    ]
    for name, other in PUBLISHED.items():
        if all((counts.images, counts.people) == other.of(split) for split, counts in found.items()):
            notes.append(f"These are the counts of {other.name}: read it as that ({name}).")
    return notes
