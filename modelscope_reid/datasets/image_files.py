"""Paths, folders and URLs to a list of image sources.

In: what a person types on a command line. Out: one string per image: folders are searched, everything else is
passed on as it is. Opens no image.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from modelscope_reid.errors import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")


def find_images(paths: Iterable[str]) -> list[str]:
    """Return the image files of each folder (searched to the bottom, sorted), and every other path as it is.

    Raises:
        InputError: a folder without any image, or nothing at all.
    """
    found: list[str] = []
    for path in paths:
        if not os.path.isdir(path):  # noqa: PTH112  # pathlib raises where a data URI is longer than a file name
            found.append(path)
            continue
        inside = sorted(
            str(file) for file in Path(path).rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()
        )
        if not inside:
            raise InputError(f"folder {path!r} holds no image ({', '.join(IMAGE_SUFFIXES)}); pass another one.")
        found += inside
    if not found:
        raise InputError("no images were given; pass image files, URLs or folders.")
    return found
