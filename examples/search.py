"""Drawn people by four cameras -> a gallery: five queries and their matches, and how often identify is right.

python examples/search.py                            the model that comes with the package, a drawn dataset
python examples/search.py --root DIR --gallery FILE  a dataset of yours in Market-1501's layout, a gallery to keep
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from modelscope_reid import Embedder, Filters, Gallery, Market1501, ReidError
from modelscope_reid.datasets.records import Dataset
from modelscope_reid.datasets.synthetic_market import write_synthetic_market


def show(gallery: Gallery, dataset: Dataset) -> None:
    """Enroll the dataset's gallery, search it by five queries, and identify all of them."""
    done = gallery.enroll(
        [record.path for record in dataset.gallery],
        person_ids=[record.person_id for record in dataset.gallery],
        camera_ids=[record.camera_id for record in dataset.gallery],
    )
    print(f"{done.added} images enrolled")
    queries = [record.path for record in dataset.query]
    persons = [str(record.person_id) for record in dataset.query]
    cameras = [record.camera_id for record in dataset.query]
    for row, matches in enumerate(gallery.search(queries[:5], top=3, exclude_camera=cameras[:5])):
        found = ", ".join(f"{match.entry.person_id} ({match.similarity:.3f})" for match in matches)
        print(f"query of person {persons[row]}, camera {cameras[row]}: {found}")
    answers = gallery.identify(queries, exclude_camera=cameras, closed=True, method="centroid")
    right = sum(one.person_id == person for one, person in zip(answers, persons, strict=True))
    print(f"closed set: {right} of {len(persons)} queries are named right")
    known = Filters(persons=(*sorted(set(persons))[::2], "0"))  # as if every second person had not been enrolled
    answers = gallery.identify(queries, exclude_camera=cameras, filters=known, method="centroid")
    expected = [person if person in known.persons else None for person in persons]
    right = sum(one.person_id == person for one, person in zip(answers, expected, strict=True))
    print(f"open set: {right} of {len(persons)} are named right, or unknown and called so")


def main() -> None:
    """Open a gallery and show what it does."""
    parser = argparse.ArgumentParser(description="Enroll a gallery, search it, and identify people.")
    parser.add_argument("--root", type=Path, help="folder of the dataset; by default one is drawn")
    parser.add_argument("--gallery", type=Path, help="file of the gallery; by default it is not kept")
    options = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as scratch:
            root = options.root or write_synthetic_market(Path(scratch) / "drawn", people=20, cameras=4, train_people=1)
            with Gallery.open(options.gallery or Path(scratch) / "gallery.db", Embedder.from_pretrained()) as gallery:
                show(gallery, Market1501(root))
    except ReidError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
