"""Small trees in the exact layouts of the published datasets, filled with drawn crops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from modelscope_reid.datasets.figures import sample_appearance
from modelscope_reid.datasets.synthetic import draw_crop, sample_camera

SIZE = (32, 16)
MARKET: dict[str, tuple[str, ...]] = {
    "bounding_box_train": ("0002_c1s1_000451_03.jpg", "0002_c2s1_000476_01.jpg", "0007_c3s3_077419_03.jpg"),
    "query": ("0001_c1s1_001051_00.jpg", "0003_c4s6_015641_00.jpg"),
    "bounding_box_test": (
        "-1_c1s1_000401_03.jpg",
        "0000_c1s1_000151_01.jpg",
        "0001_c2s1_000301_01.jpg",
        "0003_c1s6_015971_02.jpg",
    ),
}
DUKE: dict[str, tuple[str, ...]] = {
    "bounding_box_train": ("0001_c2_f0046182.jpg", "0001_c3_f0056713.jpg"),
    "query": ("0005_c2_f0046985.jpg",),
    "bounding_box_test": ("0002_c1_f0044158.jpg", "0005_c8_f0001234.jpg"),
}
CUHK: dict[str, tuple[str, ...]] = {
    "bounding_box_train": ("0001_c1_1.png", "0001_c2_6.png"),
    "query": ("0003_c1_22.png", "0003_c2_27.png"),
    "bounding_box_test": ("0003_c1_21.png", "0003_c1_23.png", "0003_c2_28.png"),
}
MSMT17: dict[str, tuple[str, ...]] = {
    "list_train.txt": (
        "0000/0000_000_01_0303morning_0008_0.jpg 0",
        "0000/0000_001_14_0303morning_0008_0_ex.jpg 0",
    ),
    "list_val.txt": ("0001/0001_002_05_0303noon_0017_2.jpg 1",),
    "list_query.txt": ("0000/0000_002_01_0303morning_0016_2.jpg 0",),
    "list_gallery.txt": (
        "0000/0000_004_15_0303afternoon_0016_2.jpg 0",
        "0001/0001_000_03_0302noon_0016_1.jpg 1",
    ),
}


def draw(path: Path, number: int = 0) -> Path:
    """Draw one small crop into a new file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_crop(sample_appearance(number), sample_camera(number % 6), seed=number, size=SIZE).save(path)
    return path


def write_folders(root: Path, folders: Mapping[str, Sequence[str]]) -> Path:
    """Write folders of crops."""
    for folder, names in folders.items():
        for number, name in enumerate(names):
            draw(root / folder / name, number)
    return root


def write_msmt17(root: Path, train: str, test: str) -> Path:
    """Write MSMT17's lists, and the files they list into the folders `train` and `test`."""
    root.mkdir(parents=True, exist_ok=True)
    for name, lines in MSMT17.items():
        (root / name).write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        for line in lines:
            draw(root / (train if name in ("list_train.txt", "list_val.txt") else test) / line.split()[0])
    return root
