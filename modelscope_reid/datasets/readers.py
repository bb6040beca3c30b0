"""Every dataset that can be read, by the name that the command line knows it by.

In: a name and a place on disk. Out: a `Dataset`. Knows nothing of how any of them lies on disk.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from modelscope_reid.datasets.market_layout import CUHK03NP, DukeMTMC, Market1501, OccludedDuke
from modelscope_reid.datasets.msmt17 import MSMT17
from modelscope_reid.datasets.person_folders import PersonFolders
from modelscope_reid.datasets.record_tables import Table
from modelscope_reid.datasets.records import Dataset
from modelscope_reid.errors import InputError
from modelscope_reid.fields import nearest

DATASETS: dict[str, Callable[[Path], Dataset]] = {
    "market1501": Market1501,
    "market1501_500k": partial(Market1501, distractors=True),
    "msmt17": MSMT17,
    "dukemtmc": DukeMTMC,
    "occluded_duke": OccludedDuke,
    "cuhk03_labelled": partial(CUHK03NP, boxes="labelled"),
    "cuhk03_detected": partial(CUHK03NP, boxes="detected"),
    "table": Table,
    "folders": PersonFolders,
}


def read_dataset(name: str, root: str | Path) -> Dataset:
    """Read the dataset `name` of `DATASETS` from its folder, or a table from its file.

    Raises:
        InputError: an unknown name (names the nearest known one), or what the reader finds wrong.
    """
    if name not in DATASETS:
        raise InputError(f"dataset is {name!r}; expected one of {', '.join(DATASETS)}{nearest(name, list(DATASETS))}")
    return DATASETS[name](Path(root))
