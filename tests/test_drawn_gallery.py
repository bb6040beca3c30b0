"""Drawn people to try the page with."""

from __future__ import annotations

from pathlib import Path

from gallery_models import tiny_embedder

from modelscope_reid.app.drawn_gallery import FIRST_MOMENT, enroll_drawn_people
from modelscope_reid.gallery.gallery import Gallery


def test_drawn_people_are_enrolled_once_with_camera_and_time(tmp_path: Path) -> None:
    with Gallery.open(tmp_path / "g.db", tiny_embedder()) as gallery:
        enroll_drawn_people(gallery, people=2, cameras=3)
        enroll_drawn_people(gallery, people=2, cameras=3)
        entries = [entry for block in gallery.store.blocks() for entry in block.entries]
    seen = {(entry.person_id, entry.camera_id, entry.timestamp) for entry in entries}
    hours = {camera: FIRST_MOMENT + 3600.0 * int(camera) for camera in ("1", "2", "3")}
    assert seen == {(person, camera, hours[camera]) for person in ("person01", "person02") for camera in hours}
    assert len(entries) == 6
