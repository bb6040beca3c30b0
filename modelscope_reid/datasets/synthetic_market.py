"""A dataset of drawn people in Market-1501's exact layout, to try and test everything with nothing to download.

In: how many people, cameras and images, and a seed. Out: `bounding_box_train`, `query` and `bounding_box_test` with
JPEG files named as Market-1501 names them, junk (-1) and distractors (0000) among them. The pixels before JPEG are
the seed's alone. Knows nothing of models and of how a dataset is read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from modelscope_reid.datasets.canvas import Dice
from modelscope_reid.datasets.figures import sample_appearance
from modelscope_reid.datasets.synthetic import Box, Camera, check_size, draw_crop, sample_camera
from modelscope_reid.errors import InputError

FOLDERS = ("bounding_box_train", "query", "bounding_box_test")
JPEG_QUALITY = 92
SEQUENCES = 6
FRAMES_BETWEEN = 25  # Market-1501 took one frame a second of video at 25 a second
SEEDS_APART = 1_000_003  # of two datasets' people, cameras and moments


@dataclass(frozen=True)
class _Shot:
    """One image to draw: where it goes, what its name says, and who is in it."""

    folder: str
    label: str
    camera: int
    box_number: int
    box: Box
    person: int


def write_synthetic_market(
    folder: str | Path,
    *,
    people: int = 20,
    cameras: int = 6,
    images_per_camera: int = 3,
    distractors: int = 20,
    junk: int = 10,
    train_people: int = 10,
    seed: int = 0,
    size: tuple[int, int] = (128, 64),
) -> Path:
    """Write a dataset of drawn people in Market-1501's layout into `folder`, and return it.

    Every camera takes `images_per_camera` crops, of `size` (height, width), of each of the `people`. Those of
    `train_people` of them, spread over the ids 1 to `people`, are for training; of the others, one per camera is a
    query and the rest are in the gallery, with `distractors` boxes without a person and `junk` badly placed boxes.

    Raises:
        InputError: a number out of range, or images in `folder` already.
    """
    folder = Path(folder)
    _check(people=people, cameras=cameras, train_people=train_people, distractors=distractors, junk=junk, seed=seed)
    check_size(size)
    if images_per_camera < 2:
        raise InputError(f"images_per_camera is {images_per_camera}; expected 2 or more: a query, and one to find.")
    for name in FOLDERS:
        if (folder / name).is_dir() and any((folder / name).iterdir()):
            raise InputError(f"{folder / name} is not empty; write into a new folder, or empty this one first.")
        (folder / name).mkdir(parents=True, exist_ok=True)
    training = {person for person in range(1, people + 1) if _is_for_training(person, people, train_people)}
    tested = [person for person in range(1, people + 1) if person not in training]
    dice = Dice(5, seed)
    shots = [
        *_shots_of_people(tested, training, cameras=cameras, images_per_camera=images_per_camera),
        *_shots_of_mistakes("0000", "distractor", distractors, tested=tested, cameras=cameras, dice=dice),
        *_shots_of_mistakes("-1", "junk", junk, tested=tested, cameras=cameras, dice=dice),
    ]
    views = {number: sample_camera(SEEDS_APART * seed + number) for number in range(1, cameras + 1)}
    _draw(folder, shots, views, seed=seed, size=size)
    return folder


def _check(*, people: int, cameras: int, train_people: int, distractors: int, junk: int, seed: int) -> None:
    if people < 1 or cameras < 1:
        raise InputError(f"people is {people} and cameras is {cameras}; expected 1 or more of each.")
    if not 0 <= train_people < people:
        raise InputError(f"train_people is {train_people}; expected 0 to {people - 1}: somebody must be searched for.")
    if min(distractors, junk, seed) < 0:
        raise InputError(f"distractors is {distractors}, junk is {junk} and seed is {seed}; expected 0 or more.")


def _is_for_training(person: int, people: int, train_people: int) -> bool:
    """Whether this one of 1 to `people` is among the `train_people`, who are spread evenly."""
    return person * train_people // people > (person - 1) * train_people // people


def _shots_of_people(tested: list[int], training: set[int], *, cameras: int, images_per_camera: int) -> Iterator[_Shot]:
    for person in sorted(training.union(tested)):
        for camera in range(1, cameras + 1):
            for image in range(images_per_camera):
                if person in training:
                    folder, box_number = "bounding_box_train", image + 1
                else:  # Market-1501's query boxes are number 00
                    folder, box_number = "bounding_box_test" if image else "query", image
                yield _Shot(folder, f"{person:04d}", camera, box_number, "person", person)


def _shots_of_mistakes(
    label: str, box: Box, count: int, *, tested: list[int], cameras: int, dice: Dice
) -> Iterator[_Shot]:
    """Boxes of the detector's that caught nobody, or a part of one of the test people."""
    for number in range(count):
        yield _Shot("bounding_box_test", label, number % cameras + 1, number % 4 + 1, box, dice.pick(tested))


def _draw(folder: Path, shots: list[_Shot], views: dict[int, Camera], *, seed: int, size: tuple[int, int]) -> None:
    """Draw every shot into its file; a camera's frames count on from shot to shot."""
    frames: Counter[int] = Counter()
    for moment, shot in enumerate(shots):
        frames[shot.camera] += 1
        frame = 1 + FRAMES_BETWEEN * (5 + frames[shot.camera])
        sequence = shot.person % SEQUENCES + 1
        name = f"{shot.label}_c{shot.camera}s{sequence}_{frame:06d}_{shot.box_number:02d}.jpg"
        appearance = sample_appearance(SEEDS_APART * seed + shot.person)
        crop = draw_crop(appearance, views[shot.camera], seed=SEEDS_APART * seed + moment, size=size, box=shot.box)
        crop.save(folder / shot.folder / name, quality=JPEG_QUALITY)
