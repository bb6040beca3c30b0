"""Drawn people in a gallery, so that there is something to look for before anybody is enrolled.

In: a gallery. Out: the same, with drawn people seen by several cameras. Knows nothing of pages.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from modelscope_reid.datasets.synthetic import draw_sample_crops
from modelscope_reid.gallery.gallery import Gallery

PEOPLE, CAMERAS = 16, 4
FIRST_MOMENT = 1_800_000_000
"""2027-01-15, 08:00 UTC."""


def enroll_drawn_people(gallery: Gallery, *, people: int = PEOPLE, cameras: int = CAMERAS) -> None:
    """Draw people as several cameras see them, an hour apart, and enroll them.

    Raises:
        GalleryError: the gallery cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="modelscope-reid-drawn-") as folder:
        crops = draw_sample_crops(Path(folder), people=people, cameras=cameras)
        names = [crop.stem.split("_") for crop in crops]
        gallery.enroll(
            [crop.read_bytes() for crop in crops],
            person_ids=[person for person, _ in names],
            camera_ids=[camera.removeprefix("camera") for _, camera in names],
            timestamps=[FIRST_MOMENT + 3600 * int(camera[-1]) for _, camera in names],
        )
